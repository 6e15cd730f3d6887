"""The .xfr file, version 1: the one place where its bytes are written and read.

    bytes  field
    3      magic, "XFR"
    1      version, 1
    1      architecture: its number in model.ARCHITECTURES
    8      fingerprint of the checkpoint, big-endian
    1      flags: 1 grey, 2 alpha, 4 ICC profile, 8 request
    1      quality, 1 to 100
    n      width, then height, then the length of the payload: numbers, see below
    5      request, if flagged: kind (1 target_bpp, 2 max_bytes, 3 target_psnr), float32 big-endian
    n      ICC profile, if flagged: its length, that of its lzma stream, the stream
    n      alpha, if flagged: the length of its lzma stream, the stream of width x height bytes
    n      payload: the codec's own
    4      CRC-32 (ISO-HDLC, as in zlib) of all before it, big-endian

A number is LEB128: seven bits a byte, lowest first, the top bit set on all but the last. A lzma
stream is raw LZMA2 with FILTERS. For an ordinary picture that is 25 or 26 bytes around the payload.
"""

import lzma
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.images import MAX_PIXELS, check_size

MAGIC, VERSION = b"XFR", 1
GREY, ALPHA, ICC, REQUEST = 1, 2, 4, 8
REQUESTS = ("target_bpp", "max_bytes", "target_psnr")
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20}]
MAX_ICC = 1 << 24  # bytes


@dataclass
class Xfr:
    """What an .xfr file says. ``alpha``: uint8 [height, width]; ``request``: (name, value)."""

    arch: int
    fingerprint: int
    width: int
    height: int
    grey: bool
    quality: int
    payload: bytes
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    request: tuple[str, float] | None = None


def pack(xfr: Xfr) -> bytes:
    """The whole file.

    >>> data = pack(Xfr(1, 2**64 - 1, 768, 512, False, 50, b"payload"))
    >>> len(data) - len(b"payload"), unpack(data).width
    (24, 768)
    """
    if xfr.icc is not None and len(xfr.icc) > MAX_ICC:
        raise ValueError(f"an ICC profile of {len(xfr.icc)} bytes is longer than {MAX_ICC}")
    flags = GREY * xfr.grey | ALPHA * (xfr.alpha is not None)
    flags |= ICC * (xfr.icc is not None) | REQUEST * (xfr.request is not None)
    out = bytearray(MAGIC)
    out += struct.pack(">BBQBB", VERSION, xfr.arch, xfr.fingerprint, flags, xfr.quality)
    out += number(xfr.width) + number(xfr.height) + number(len(xfr.payload))
    if xfr.request is not None:
        name, value = xfr.request
        out += struct.pack(">Bf", REQUESTS.index(name) + 1, value)
    if xfr.icc is not None:
        out += number(len(xfr.icc)) + section(xfr.icc)
    if xfr.alpha is not None:
        out += section(xfr.alpha.tobytes())
    out += xfr.payload
    return bytes(out) + struct.pack(">I", zlib.crc32(out))


def unpack(data: bytes, max_pixels: int = MAX_PIXELS) -> Xfr:
    """Parse a whole file. Sizes are checked before anything of that size is made.

    Raises ValueError naming what is wrong: not an .xfr file, a newer version, truncated,
    trailing bytes, CRC, a picture of more than ``max_pixels`` or a field out of its range.
    """
    reader = Reader(data)
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("not an .xfr file")
    reader.take(len(MAGIC))
    (version,) = reader.unpack(">B")
    if version != VERSION:
        raise ValueError(f"version {version} of .xfr, this program reads version {VERSION}")
    arch, fingerprint, flags, quality = reader.unpack(">BQBB")
    width, height, length = reader.number(), reader.number(), reader.number()
    request = reader.unpack(">Bf") if flags & REQUEST else None
    icc_size = reader.number() if flags & ICC else 0
    icc = reader.take(reader.number()) if flags & ICC else None
    alpha = reader.take(reader.number()) if flags & ALPHA else None
    payload = reader.take(length)
    (crc,) = reader.unpack(">I")
    if reader.position != len(data):
        raise ValueError(f"{len(data) - reader.position} trailing bytes")
    if crc != zlib.crc32(data[:-4]):
        raise ValueError("damaged: the CRC does not fit")
    if flags & ~(GREY | ALPHA | ICC | REQUEST):
        raise ValueError(f"damaged: unknown flags {flags:#x}")
    if not 1 <= quality <= 100:
        raise ValueError(f"damaged: quality {quality} is not in 1 to 100")
    if not width or not height:
        raise ValueError(f"damaged: {width}x{height} is no size")
    check_size(width, height, max_pixels)
    if request is not None:
        if not 1 <= request[0] <= len(REQUESTS):
            raise ValueError(f"damaged: unknown request {request[0]}")
        request = (REQUESTS[request[0] - 1], request[1])
    if icc is not None:
        if icc_size > MAX_ICC:
            raise ValueError(f"damaged: an ICC profile of {icc_size} bytes")
        icc = content(icc, icc_size, "ICC profile")
    if alpha is not None:
        alpha = np.frombuffer(content(alpha, width * height, "alpha"), np.uint8)
        alpha = alpha.reshape(height, width)
    return Xfr(
        arch, fingerprint, width, height, bool(flags & GREY), quality, payload, alpha, icc, request
    )


def intact(path: Path, source: Path, settings: tuple, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether ``path`` is a whole .xfr file, no older than ``source``, of these settings:
    architecture, fingerprint, and the request or, without one, the quality."""
    try:
        if path.stat().st_mtime_ns < source.stat().st_mtime_ns:
            return False
        xfr = unpack(path.read_bytes(), max_pixels)
    except (OSError, ValueError):
        return False
    *made_by, wanted = settings
    if isinstance(wanted, tuple):  # as precise as it is stored
        wanted = (wanted[0], struct.unpack(">f", struct.pack(">f", wanted[1]))[0])
    return (xfr.arch, xfr.fingerprint, xfr.request or xfr.quality) == (*made_by, wanted)


def number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def section(data: bytes) -> bytes:
    stream = lzma.compress(data, lzma.FORMAT_RAW, filters=FILTERS)
    return number(len(stream)) + stream


def content(stream: bytes, size: int, name: str) -> bytes:
    """The ``size`` bytes that a lzma stream holds; never makes more than that and one."""
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)
    try:
        data = decompressor.decompress(stream, max_length=size + 1)
    except lzma.LZMAError as error:
        raise ValueError(f"damaged {name}: {error}") from None
    if len(data) != size or not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"damaged {name}: not of the size that was declared")
    return data


class Reader:
    """Takes fields from the front of ``data``; ValueError where it ends too soon."""

    def __init__(self, data: bytes):
        self.data, self.position = data, 0

    def take(self, count: int) -> bytes:
        missing = self.position + count - len(self.data)
        if missing > 0:
            raise ValueError(f"truncated: at least {missing} bytes are missing")
        self.position += count
        return self.data[self.position - count : self.position]

    def unpack(self, form: str) -> tuple:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def number(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("damaged: a number without end")
