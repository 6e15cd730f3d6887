"""The .xfr file, version 1: the one place where its bytes are written and read.

    bytes  field
    3      magic, "XFR"
    1      version, 1
    1      architecture, the FILE_NUMBER of its codec class
    8      fingerprint of the checkpoint, big-endian
    n      flags, a number: 1 grey, 2 alpha, 4 ICC profile, 8 target, 16 EXIF, 32 XMP,
           64 resolution, 128 graphic, 256 effort, 512 IPTC, 1024 texts
    1      quality, 1 to 100
    n      width, then height, then the length of the payload: numbers, see below
    5      target, if flagged: kind (1 target_bpp, 2 max_bytes, 3 target_psnr), float32 big-endian
    1      effort of the encoder's search, if flagged: 1 to 9
    n      resolution, if flagged: pixels per inch across and down, a number if they are equal and
           whole; else 0, and both as float32 big-endian
    n      ICC profile, EXIF, XMP, IPTC, texts (see xfr/text.py), each if flagged: its length, that
           of its lzma stream, the stream
    n      alpha, if flagged: the length of its lzma stream, the stream of width x height bytes
    n      payload, which the codec defines; of a graphic, see xfr/graphics.py
    4      CRC-32 (ISO-HDLC, as in zlib) of everything before it, big-endian

Numbers are LEB128, and lzma streams are raw LZMA2: see model/bytestream.py. For an ordinary picture
this adds 25 or 26 bytes to the payload.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.bytestream import Reader, lzma_compress, lzma_decompress, pack_chunk, pack_number
from model.limits import MAX_EFFORT, MAX_PIXELS, MAX_QUALITY, MIN_QUALITY
from xfr.images import check_shape
from xfr.metadata import LABELS, NO_METADATA, Metadata, is_resolution

MAGIC, VERSION = b"XFR", 1
GREY, ALPHA, ICC, TARGET, EXIF, XMP, DPI, GRAPHIC, EFFORT = (1 << bit for bit in range(9))
IPTC, TEXTS = 1 << 9, 1 << 10
# In this order in the file.
STREAMS = {"icc": ICC, "exif": EXIF, "xmp": XMP, "iptc": IPTC, "texts": TEXTS}
TARGETS = ("target_bpp", "max_bytes", "target_psnr")
LZMA_PRESET = 6
MAX_STREAM = 1 << 24  # bytes of a profile, EXIF, XMP, IPTC or texts


@dataclass
class Xfr:
    """The content of an .xfr file.

    ``arch``, ``fingerprint``: of the checkpoint that made it. ``alpha``: uint8 [height, width].
    ``target``: what the quality was chosen for, one of TARGETS and its value. ``graphic``: whether
    the payload is lossless WebP, for which no checkpoint is needed. ``effort``: of the encoder's
    search, 0 if there was none.
    """

    arch: int
    fingerprint: int
    width: int
    height: int
    grey: bool
    quality: int
    payload: bytes
    alpha: np.ndarray | None = None
    metadata: Metadata = NO_METADATA
    target: tuple[str, float] | None = None
    graphic: bool = False
    effort: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def pack(xfr: Xfr) -> bytes:
    """The bytes of the file. ValueError if a stream of the metadata is too long.

    >>> data = pack(Xfr(1, 2**64 - 1, 768, 512, False, 50, b"payload"))
    >>> len(data) - len(b"payload"), unpack(data).width
    (24, 768)
    """
    streams = {name: getattr(xfr.metadata, name) for name in STREAMS}
    streams = {name: stream for name, stream in streams.items() if stream is not None}
    for name, stream in streams.items():
        if len(stream) > MAX_STREAM:
            raise ValueError(f"its {LABELS[name]} has {len(stream)} bytes, more than {MAX_STREAM}")
    flags = GREY * xfr.grey | ALPHA * (xfr.alpha is not None) | TARGET * (xfr.target is not None)
    flags |= sum(STREAMS[name] for name in streams) | DPI * (xfr.metadata.dpi is not None)
    flags |= GRAPHIC * xfr.graphic | EFFORT * (xfr.effort > 0)
    out = bytearray(MAGIC)
    out += struct.pack(">BBQ", VERSION, xfr.arch, xfr.fingerprint)
    out += pack_number(flags) + bytes([xfr.quality])
    out += pack_number(xfr.width) + pack_number(xfr.height) + pack_number(len(xfr.payload))
    if xfr.target is not None:
        name, value = xfr.target
        out += struct.pack(">Bf", TARGETS.index(name) + 1, value)
    if xfr.effort:
        out.append(xfr.effort)
    if xfr.metadata.dpi is not None:
        across, down = xfr.metadata.dpi
        simple = across == down == int(across) < 2**24
        out += pack_number(int(across)) if simple else b"\0" + struct.pack(">ff", across, down)
    for stream in streams.values():
        out += pack_number(len(stream)) + pack_chunk(lzma_compress(stream, preset=LZMA_PRESET))
    if xfr.alpha is not None:
        out += pack_chunk(lzma_compress(xfr.alpha.tobytes(), preset=LZMA_PRESET))
    out += xfr.payload
    return bytes(out) + struct.pack(">I", zlib.crc32(out))


def needs_checkpoint(path: Path) -> bool:
    """Whether the file at ``path`` begins as an .xfr file that only a checkpoint can decode. False
    for one that holds a graphic, or cannot be read."""
    try:
        with path.open("rb") as stream:
            reader = Reader(stream.read(32), "file")
        magic, version, _ = reader.unpack(">3sB9s")
        return (magic, version) == (MAGIC, VERSION) and not reader.number() & GRAPHIC
    except (OSError, ValueError):
        return False


def unpack(data: bytes, max_pixels: int = MAX_PIXELS) -> Xfr:
    """Read the bytes of a file. Sizes are checked before memory is allocated for them.

    Raises ValueError saying what is wrong: not an .xfr file, a newer version, truncated, trailing
    bytes, a wrong CRC, a picture of more than ``max_pixels``, or a field out of its range.
    """
    reader = Reader(data, "file")
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("not an .xfr file")
    reader.take(len(MAGIC))
    (version,) = reader.unpack(">B")
    if version != VERSION:
        raise ValueError(f"an .xfr file of version {version}; this program reads {VERSION}")
    arch, fingerprint = reader.unpack(">BQ")
    flags, (quality,) = reader.number(), reader.unpack(">B")
    width, height, payload_length = reader.number(), reader.number(), reader.number()
    target = reader.unpack(">Bf") if flags & TARGET else None
    (effort,) = reader.unpack(">B") if flags & EFFORT else (0,)
    dpi = (reader.number(),) * 2 if flags & DPI else None
    if dpi == (0, 0):
        dpi = reader.unpack(">ff")
    flagged = [name for name, flag in STREAMS.items() if flags & flag]
    streams = {name: (reader.number(), reader.chunk()) for name in flagged}
    alpha = reader.chunk() if flags & ALPHA else None
    payload = reader.take(payload_length)
    (crc,) = reader.unpack(">I")
    reader.finish()
    if crc != zlib.crc32(data[:-4]):
        raise ValueError("damaged file: its CRC does not match")
    if flags >= 2 * TEXTS:
        raise ValueError(f"damaged file: unknown flags {flags:#x}")
    if not MIN_QUALITY <= quality <= MAX_QUALITY:
        raise ValueError(f"damaged file: quality {quality} is out of range")
    if effort > MAX_EFFORT or (flags & EFFORT and not effort):
        raise ValueError(f"damaged file: effort {effort} is out of range")
    if not width or not height:
        raise ValueError(f"damaged file: a picture of {width}x{height} pixels")
    check_shape(height, width, max_pixels)
    if target is not None:
        if not 1 <= target[0] <= len(TARGETS):
            raise ValueError(f"damaged file: unknown target {target[0]}")
        target = (TARGETS[target[0] - 1], target[1])
    if dpi is not None and not is_resolution(dpi):
        raise ValueError(f"damaged file: a resolution of {dpi[0]:g} by {dpi[1]:g} pixels per inch")
    for name, (size, stream) in streams.items():
        if size > MAX_STREAM:
            raise ValueError(f"damaged file: {size} bytes of {LABELS[name]}")
        streams[name] = lzma_decompress(stream, size, LABELS[name])
    if alpha is not None:
        alpha = np.frombuffer(lzma_decompress(alpha, width * height, "alpha channel"), np.uint8)
        alpha = alpha.reshape(height, width)
    header = arch, fingerprint, width, height, bool(flags & GREY), quality
    metadata = Metadata(**streams, dpi=dpi)
    return Xfr(*header, payload, alpha, metadata, target, bool(flags & GRAPHIC), effort)
