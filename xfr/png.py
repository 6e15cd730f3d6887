"""PNG files: every chunk that is not pixels, read here and within bounds.

Pillow fails the picture for a text of more than a megabyte, reads transparent colours of less and
more than 8 bits wrongly, and knows no cICP. It gets a stream of the chunks that hold pixels only.
The standard: https://www.w3.org/TR/png-3/
"""

import io
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from xfr.colour import Primaries
from xfr.text import MAX_CHUNK, inflate, png_text

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
READ_CHUNKS = {b"cICP", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"pHYs", b"eXIf", b"tRNS", b"acTL"}
# Chunks that say nothing about how the picture is to be seen: background, significant bits,
# palettes for poor screens, time of the last change, order of the pixels (of Apple).
IMMATERIAL_CHUNKS = {b"bKGD", b"sBIT", b"sPLT", b"hIST", b"tIME", b"iDOT", b"fcTL", b"fdAT"}
# Bytes of a chunk that is whole; of tRNS by colour type.
LEAST_BYTES = {b"gAMA": 4, b"cHRM": 32, b"cICP": 4, b"pHYs": 9, b"acTL": 8}
TRANSPARENT_BYTES = {b"\0": 2, b"\2": 6}
EXPANSION = 1032  # the most bytes that one of zlib becomes
BUFFER_BYTES = 1 << 18  # bytes that Pillow is given at a time
PALETTE_TYPE = 3  # colour type


class Spans(io.RawIOBase):
    """Some spans, (start, stop), of a seekable stream, one after the other."""

    def __init__(self, stream: BinaryIO, spans: list[tuple[int, int]]):
        self.stream = stream
        self.spans = spans
        self.begins = [0]
        for start, stop in spans:
            self.begins.append(self.begins[-1] + stop - start)
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.begins[-1]}
        self.position = max(origin[whence] + offset, 0)
        return self.position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.position >= self.begins[-1]:
            return 0
        index = bisect_right(self.begins, self.position) - 1
        start, stop = self.spans[index]
        at = start + self.position - self.begins[index]
        self.stream.seek(at)
        data = self.stream.read(min(len(buffer), stop - at))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


@dataclass
class PngFile:
    """A PNG file. ``spans``: where in ``stream`` those chunks are that hold pixels. ``bits`` per
    channel. ``colour_type`` and ``chunks``, the last of each kind, are as in the standard.
    ``texts``: keyword and text of each text chunk, in the file's order."""

    stream: BinaryIO
    spans: list[tuple[int, int]]
    bits: int
    colour_type: int
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    texts: list[tuple[str, str]] = field(default_factory=list)

    def pixels(self) -> BinaryIO:
        """A PNG file of its pixels alone."""
        return io.BufferedReader(Spans(self.stream, self.spans), BUFFER_BYTES)

    @property
    def frames(self) -> int:
        return self.number(b"acTL", ">I", 1) or 1

    def number(self, kind: bytes, code: str, default: int) -> int:
        """The first number in a chunk of this kind, ``default`` if there is none."""
        data = self.chunks.get(kind, b"")
        return struct.unpack_from(code, data)[0] if len(data) >= struct.calcsize(code) else default

    @property
    def transparent(self) -> tuple[int, ...] | None:
        """The grey level or the three levels that are transparent, 0 to 2**bits - 1."""
        channels = {0: 1, 2: 3}.get(self.colour_type, 0)
        data = self.chunks.get(b"tRNS", b"")
        if not channels or len(data) < 2 * channels:
            return None
        levels = struct.unpack_from(f">{channels}H", data)
        return tuple(level & ((1 << self.bits) - 1) for level in levels)

    @property
    def profile(self) -> bytes | None:
        """The ICC profile; None if there is none. ValueError if it is damaged or too long."""
        if b"iCCP" not in self.chunks:
            return None
        _, _, rest = self.chunks[b"iCCP"].partition(b"\0")
        if rest[:1] != b"\0":
            raise ValueError("its colour profile is damaged: dropped")
        return inflate(rest[1:], "colour profile")

    @property
    def chromaticities(self) -> Primaries | None:
        """Chromaticities of white, red, green and blue; None if there are none."""
        data = self.chunks.get(b"cHRM", b"")
        if len(data) < 32:
            return None
        x = [value / 100_000 for value in struct.unpack_from(">8I", data)]
        return (x[0], x[1]), (x[2], x[3]), (x[4], x[5]), (x[6], x[7])

    @property
    def pixels_per_unit(self) -> tuple[int, int, int]:
        """Across and down, and the unit: 1 metre, 0 unknown. Zeros if there are none."""
        data = self.chunks.get(b"pHYs", b"")
        return struct.unpack_from(">IIB", data) if len(data) >= 9 else (0, 0, 0)


def is_png(stream: BinaryIO) -> bool:
    """Whether a stream begins as a PNG file; it is left at its beginning."""
    head = stream.read(len(PNG_SIGNATURE))
    stream.seek(0)
    return head == PNG_SIGNATURE


class Texts:
    """The texts of a file, of at most MAX_CHUNK bytes together."""

    def __init__(self):
        self.kept: list[tuple[str, str]] = []
        self.lost: list[str] = []  # a notice for each
        self.room = MAX_CHUNK

    def add(self, kind: bytes, data: bytes) -> None:
        """Read a chunk. One that is dropped takes the room that it may need, so that it is not
        inflated in vain again and again."""
        try:
            self.kept.append(png_text(kind, data, self.room))
            taken = sum(map(len, self.kept[-1]))
        except ValueError as error:
            self.lost.append(str(error))
            taken = EXPANSION * len(data)
        self.room = max(self.room - taken, 0)

    def notices(self) -> list[str]:
        """The first loss, and the number of the others."""
        more = len(self.lost) - 1
        return self.lost[:1] + [f"{more} more of its texts are dropped"] * (more > 0)


def read_png(stream: BinaryIO, notices: list[str]) -> PngFile:
    """Read all chunks but pixels, with ``notices`` of losses. OSError if no header comes first."""
    header, spans = b"", [(0, len(PNG_SIGNATURE))]
    chunks: dict[bytes, bytes] = {}
    texts, unknown = Texts(), set()
    for position, stop, size, kind in chunk_places(stream):
        colour_type = header[9:10] if kind == b"tRNS" else b""
        if kind in PIXEL_CHUNKS or colour_type == bytes([PALETTE_TYPE]):
            header = header or stream.read(13)
            if spans[-1][1] == position:  # behind the last one
                position, _ = spans.pop()
            spans.append((position, stop))
        elif kind in READ_CHUNKS or kind in TEXT_CHUNKS:
            least = TRANSPARENT_BYTES.get(colour_type, LEAST_BYTES.get(kind, 0))
            data = read_chunk(stream, kind, size, least, notices)
            if data is not None and kind in TEXT_CHUNKS:
                texts.add(kind, data)
            elif data is not None:
                chunks[kind] = data
        elif kind not in IMMATERIAL_CHUNKS:
            unknown.add(kind.decode("latin-1"))
    notices += texts.notices()
    if unknown:
        notices.append(f"its chunks {', '.join(sorted(unknown)[:5])} are not kept")
    if len(header) < 13 or spans[0][1] < len(PNG_SIGNATURE) + 25:
        raise OSError("a damaged PNG file: it does not begin with its header")
    return PngFile(stream, spans, header[8], header[9], chunks, texts.kept)


def chunk_places(stream: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    """Beginning, end, number of bytes and kind of each chunk, up to the last one; at each, the
    stream is behind the kind."""
    length = stream.seek(0, io.SEEK_END)
    stop, kind = len(PNG_SIGNATURE), b""
    while stop + 8 <= length and kind != b"IEND":
        position = stop
        stream.seek(position)
        size, kind = struct.unpack(">I4s", stream.read(8))
        stop = position + size + 12
        yield position, min(stop, length), size, kind


def read_chunk(
    stream: BinaryIO, kind: bytes, size: int, least: int, notices: list[str]
) -> bytes | None:
    """The content of a chunk; None, and a notice, if it is too long, if it has fewer than ``least``
    bytes, or if its CRC does not match."""
    name = kind.decode()
    if size > MAX_CHUNK:
        notices.append(f"its {name} chunk has more than {MAX_CHUNK} bytes: dropped")
        return None
    data, crc = stream.read(size), stream.read(4)
    if len(data) < max(size, least) or crc != struct.pack(">I", zlib.crc32(kind + data)):
        notices.append(f"its {name} chunk is damaged: dropped")
        return None
    return data
