"""The .xfr file, version 1: the one place where its bytes are written and read.

    bytes  field
    3      magic, "XFR"
    1      version, 1
    1      architecture, the FILE_NUMBER of its codec class
    8      fingerprint of the checkpoint, big-endian
    n      flags, a number: 1 grey, 2 alpha, 4 ICC profile, 8 target, 16 EXIF, 32 XMP,
           64 resolution, 128 graphic, 256 effort, 512 IPTC, 1024 texts, 2048 source
    1      quality, 1 to 100
    n      width, then height, then the length of the payload: numbers, see below
    5      target, if flagged: kind (1 target_bpp, 2 max_bytes, 3 target_psnr,
           4 target_ssimulacra2), float32 big-endian
    1      effort of the encoder's search, if flagged: 1 to 9
    4      source, if flagged: CRC-32 of the bytes of the picture's own file, big-endian
    n      resolution, if flagged: pixels per inch across and down, a number if they are equal and
           whole; else 0, and both as float32 big-endian
    n      ICC profile, EXIF, XMP, IPTC, texts (see xfr/text.py), each if flagged: its length, that
           of its lzma stream, the stream
    n      alpha, if flagged: the length of its lzma stream, the stream of width x height bytes
    n      payload, which the codec defines; of a graphic, see xfr/graphics.py
    4      CRC-32 (ISO-HDLC, as in zlib) of everything before it, big-endian

Numbers are LEB128, and lzma streams are raw LZMA2: see model/bytestream.py. For an ordinary picture
this adds 25 or 26 bytes to the payload, and encode.py adds 5 more for the source.
"""

import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from model.bytestream import Reader, lzma_compress, lzma_decompress, pack_chunk, pack_number
from model.limits import MAX_EFFORT, MAX_PIXELS, MAX_QUALITY, MIN_QUALITY
from xfr.images import MIN_SIDE, check_shape
from xfr.metadata import LABELS, NO_METADATA, Metadata, is_resolution

MAGIC, VERSION = b"XFR", 1
GREY, ALPHA, ICC, TARGET, EXIF, XMP, DPI, GRAPHIC, EFFORT = (1 << bit for bit in range(9))
IPTC, TEXTS, SOURCE = 1 << 9, 1 << 10, 1 << 11
# Streams of metadata, in the order of the file.
STREAMS = {"icc": ICC, "exif": EXIF, "xmp": XMP, "iptc": IPTC, "texts": TEXTS}
# Kinds 1 to 4; see xfr/targets.py.
TARGETS = ("target_bpp", "max_bytes", "target_psnr", "target_ssimulacra2")
LZMA_PRESET = 6
MAX_STREAM = 1 << 24  # bytes of a profile, EXIF, XMP, IPTC or texts
CHECKSUM_BLOCK = 1 << 20  # bytes of a file that are read at a time
HEADER_BYTES = 34  # at most, up to the length of the payload
FRONT_BYTES = HEADER_BYTES + 5 + 1 + 4  # at most, with target, effort and source
# Bounds on a file, so that a huge one is refused before it is read: five times the bytes of the
# pixels themselves, which no encoder comes near, and room for profile and metadata.
BYTES_PER_PIXEL, BYTES_BESIDE_PIXELS = 16, (len(STREAMS) + 1) * MAX_STREAM


@dataclass
class Xfr:
    """The content of an .xfr file.

    ``arch``, ``fingerprint``: of the checkpoint that made it. ``alpha``: uint8 [height, width].
    ``target``: the name of the target that the quality was chosen for, one of TARGETS, and its
    value. ``graphic``: whether the payload is lossless WebP, for which no checkpoint is needed.
    ``effort``: of the encoder's search, 0 if there was none. ``source``: the ``checksum`` of the
    file that the picture was read from, where that is known.
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
    source: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the decoded pixels and transparency."""
        return (3 if self.alpha is None else 4) * self.height * self.width


# Writing


def pack(xfr: Xfr) -> bytes:
    """The bytes of the file. ValueError if a stream of the metadata is too long.

    >>> data = pack(Xfr(1, 2**64 - 1, 768, 512, False, 50, b"payload"))
    >>> len(data) - len(b"payload"), unpack(data).width
    (24, 768)
    """
    out = bytearray(MAGIC)
    out += struct.pack(">BBQ", VERSION, xfr.arch, xfr.fingerprint)
    out += pack_number(flags_of(xfr)) + bytes([xfr.quality])
    out += pack_number(xfr.width) + pack_number(xfr.height) + pack_number(len(xfr.payload))
    if xfr.target is not None:
        name, value = xfr.target
        out += struct.pack(">Bf", TARGETS.index(name) + 1, value)
    if xfr.effort:
        out.append(xfr.effort)
    if xfr.source is not None:
        out += struct.pack(">I", xfr.source)
    out += pack_metadata(xfr.metadata)
    if xfr.alpha is not None:
        out += pack_chunk(lzma_compress(xfr.alpha.tobytes(), preset=LZMA_PRESET))
    out += xfr.payload
    return bytes(out) + struct.pack(">I", zlib.crc32(out))


def flags_of(xfr: Xfr) -> int:
    """The number in which each bit says whether a field is there, or what the picture is."""
    flags = GREY * xfr.grey | ALPHA * (xfr.alpha is not None) | TARGET * (xfr.target is not None)
    flags |= DPI * (xfr.metadata.dpi is not None) | GRAPHIC * xfr.graphic
    flags |= EFFORT * (xfr.effort > 0) | SOURCE * (xfr.source is not None)
    for name, flag in STREAMS.items():
        flags |= flag * (getattr(xfr.metadata, name) is not None)
    return flags


def pack_metadata(metadata: Metadata) -> bytes:
    """The fields of the metadata. ValueError if one of the STREAMS is too long."""
    out = bytearray()
    if metadata.dpi is not None:
        across, down = metadata.dpi
        simple = across == down == int(across) < 2**24
        out += pack_number(int(across)) if simple else b"\0" + struct.pack(">ff", across, down)
    for name in STREAMS:
        stream = getattr(metadata, name)
        if stream is None:
            continue
        if len(stream) > MAX_STREAM:
            raise ValueError(f"its {LABELS[name]} has {len(stream)} bytes, more than {MAX_STREAM}")
        out += pack_number(len(stream)) + pack_chunk(lzma_compress(stream, preset=LZMA_PRESET))
    return bytes(out)


# Reading


class Header(NamedTuple):
    """The fields that every file has, in their order behind magic and version."""

    arch: int
    fingerprint: int
    flags: int
    quality: int
    width: int
    height: int
    payload_length: int

    @property
    def graphic(self) -> bool:
        """Whether the payload is a graphic, for which no checkpoint is needed."""
        return bool(self.flags & GRAPHIC)

    @property
    def mode(self) -> str:
        """Pillow's mode of the decoded picture: L, LA, RGB or RGBA."""
        return ("L" if self.flags & GREY else "RGB") + "A" * bool(self.flags & ALPHA)


class Front(NamedTuple):
    """The header, and how and of what the file was made, as far as it says so."""

    header: Header
    target: tuple[int, float] | None
    effort: int | None
    source: int | None


class Start(NamedTuple):
    """The fields before alpha channel and payload, as they are in the file."""

    header: Header
    target: tuple[int, float] | None
    effort: int | None
    source: int | None
    dpi: tuple[float, float] | None
    streams: dict[str, tuple[int, bytes]]


def read_header(reader: Reader) -> Header:
    """The header of a file that ``reader`` is at the start of. ValueError if it is no .xfr file, of
    another version, or truncated; the fields are not checked."""
    if reader.data[: len(MAGIC)] != MAGIC:
        raise ValueError("not an .xfr file")
    reader.take(len(MAGIC))
    (version,) = reader.unpack(">B")
    if version != VERSION:
        raise ValueError(f"an .xfr file of version {version}; this program reads {VERSION}")
    arch, fingerprint = reader.unpack(">BQ")
    flags, (quality,) = reader.number(), reader.unpack(">B")
    width, height, payload_length = (reader.number() for _ in range(3))
    return Header(arch, fingerprint, flags, quality, width, height, payload_length)


def read_front(reader: Reader) -> Front:
    """The fields up to the source. ValueError as for ``read_header``."""
    header = read_header(reader)
    target = reader.unpack(">Bf") if header.flags & TARGET else None
    (effort,) = reader.unpack(">B") if header.flags & EFFORT else (None,)
    (source,) = reader.unpack(">I") if header.flags & SOURCE else (None,)
    return Front(header, target, effort, source)


def read_start(reader: Reader) -> Start:
    """All fields up to alpha channel and payload. ValueError as for ``read_header``."""
    front = read_front(reader)
    header, dpi = front.header, None
    if header.flags & DPI:
        number = reader.number()
        dpi = (number, number) if number else reader.unpack(">ff")
    flagged = [name for name, flag in STREAMS.items() if header.flags & flag]
    streams = {name: (reader.number(), reader.chunk()) for name in flagged}
    return Start(*front, dpi, streams)


def unpack_start(data: bytes) -> tuple[Header, Metadata]:
    """Header and metadata of a file, read without the rest. ValueError if they are damaged."""
    start = read_start(Reader(data, "file"))
    check_fields(start)
    return start.header, unpack_metadata(start)


def peek(path: Path) -> Header | None:
    """The header of the file at ``path``; None if it is no .xfr file, or cannot be read."""
    try:
        with path.open("rb") as stream:
            return read_header(Reader(stream.read(HEADER_BYTES), "file"))
    except (OSError, ValueError):
        return None


def peek_source(path: Path) -> int | None:
    """The checksum of the file that the .xfr file at ``path`` was made from; None where that is not
    known."""
    with suppress(OSError, ValueError), path.open("rb") as stream:
        return read_front(Reader(stream.read(FRONT_BYTES), "file")).source
    return None


def needs_checkpoint(path: Path) -> bool:
    """Whether a file begins as an .xfr file without a graphic, which needs a checkpoint."""
    header = peek(path)
    return header is not None and not header.graphic


def checksum(path: Path) -> int:
    """The CRC-32 of the bytes of a file. OSError if it cannot be read."""
    with path.open("rb") as stream:
        return checksum_of(stream)


def checksum_of(stream: BinaryIO) -> int:
    """The CRC-32 of all bytes of an open file."""
    stream.seek(0)
    crc = 0
    while block := stream.read(CHECKSUM_BLOCK):
        crc = zlib.crc32(block, crc)
    return crc


def read_file(path: Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of the file at ``path``, as ``read_stream`` reads them."""
    with path.open("rb") as stream:
        return read_stream(stream, max_pixels)


def read_stream(stream: BinaryIO, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of an open file, for ``unpack``. OSError if it cannot be read. ValueError if it
    does not begin as an .xfr file, or has more bytes than a picture of the size that its header
    names, or one of ``max_pixels``, can take: then the rest is not read."""
    header = read_header(Reader(stream.read(HEADER_BYTES), "file"))
    pixels = max(header.width, MIN_SIDE) * max(header.height, MIN_SIDE)
    most = BYTES_BESIDE_PIXELS + BYTES_PER_PIXEL * min(pixels, max(max_pixels, MIN_SIDE**2))
    size = stream.seek(0, os.SEEK_END)
    if size > most:
        shape = f"{header.width}x{header.height}"
        raise ValueError(f"damaged file: {size} bytes, too many for {shape} pixels")
    stream.seek(0)
    return stream.read(size)


def unpack(data: bytes, max_pixels: int = MAX_PIXELS) -> Xfr:
    """Read the bytes of a file. Sizes are checked before memory is allocated for them. Raises
    ValueError saying what is wrong: not an .xfr file, a newer version, truncated, trailing bytes, a
    wrong CRC, a picture of more than ``max_pixels``, or a field out of its range."""
    reader = Reader(data, "file")
    start = read_start(reader)
    header, target = start.header, start.target
    alpha = reader.chunk() if header.flags & ALPHA else None
    payload = reader.take(header.payload_length)
    (crc,) = reader.unpack(">I")
    reader.finish()
    if crc != zlib.crc32(data[:-4]):
        raise ValueError("damaged file: its CRC does not match")
    check_fields(start)
    check_shape(header.height, header.width, max_pixels)
    return Xfr(
        arch=header.arch,
        fingerprint=header.fingerprint,
        width=header.width,
        height=header.height,
        grey=bool(header.flags & GREY),
        quality=header.quality,
        payload=payload,
        alpha=unpack_alpha(alpha, header.height, header.width),
        metadata=unpack_metadata(start),
        target=None if target is None else (TARGETS[target[0] - 1], target[1]),
        graphic=header.graphic,
        effort=start.effort or 0,
        source=start.source,
    )


def check_fields(start: Start) -> None:
    """ValueError for a field out of its range."""
    header, target, effort, _, dpi, _ = start
    if header.flags >= 2 * SOURCE:
        raise ValueError(f"damaged file: unknown flags {header.flags:#x}")
    if not MIN_QUALITY <= header.quality <= MAX_QUALITY:
        raise ValueError(f"damaged file: quality {header.quality} is out of range")
    if effort is not None and not 1 <= effort <= MAX_EFFORT:
        raise ValueError(f"damaged file: effort {effort} is out of range")
    if not header.width or not header.height:
        raise ValueError(f"damaged file: a picture of {header.width}x{header.height} pixels")
    if target is not None and not 1 <= target[0] <= len(TARGETS):
        raise ValueError(f"damaged file: unknown target {target[0]}")
    if dpi is not None and not is_resolution(dpi):
        raise ValueError(f"damaged file: a resolution of {dpi[0]:g} by {dpi[1]:g} pixels per inch")


def unpack_metadata(start: Start) -> Metadata:
    """The resolution, and the content of the lzma streams, which must have its declared size."""
    unpacked = {}
    for name, (size, stream) in start.streams.items():
        if size > MAX_STREAM:
            raise ValueError(f"damaged file: {size} bytes of {LABELS[name]}")
        unpacked[name] = lzma_decompress(stream, size, LABELS[name])
    return Metadata(**unpacked, dpi=start.dpi)


def unpack_alpha(stream: bytes | None, height: int, width: int) -> np.ndarray | None:
    """The alpha channel, uint8 [height, width], of its lzma stream; None if there is none."""
    if stream is None:
        return None
    alpha = lzma_decompress(stream, height * width, "alpha channel")
    return np.frombuffer(alpha, np.uint8).reshape(height, width)
