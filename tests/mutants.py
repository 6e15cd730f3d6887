"""Damaged .xfr files, made from good ones: what accident or malice may do to a file.

A mutant depends on the checkpoint, the seed and its index alone. The first few are not damaged:
they are the largest pictures within the limit, in the shapes that need most time and memory.
"""

import lzma
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image

from model.binary.network import BinaryCodec
from model.bytestream import Reader, lzma_compress, lzma_filters, pack_chunk, pack_number
from model.hyperprior.network import HyperpriorCodec
from xfr.encoder import Encoder
from xfr.file import ALPHA, DPI, EFFORT, GRAPHIC, STREAMS, TARGET, Xfr, pack
from xfr.graphics import compress
from xfr.images import Picture
from xfr.metadata import NO_METADATA, Metadata

Rng = np.random.Generator

NUMBERS = (0, 1, 2, 3, 16, 127, 128, 1000, 2**14, 2**20, 2**31 - 1, 2**31, 2**32, 2**35 - 1)
ODD_NUMBERS = (b"\xff" * 9, b"\x80\x80\x80\x00", b"\x80", b"\xff\xff\xff\xff\xff\x01")
UNCODED = ("words", "plain digits", "tile")  # streams that are no lzma streams
FLOATS = (0, -1.0, 1e38, math.inf, -math.inf, math.nan)


@dataclass
class Field:
    """A part of a file. ``counts``: the fields whose bytes this number counts."""

    name: str
    data: bytes
    counts: range | None = None


def sealed(content: bytes) -> bytes:
    """The content with its CRC."""
    return content + struct.pack(">I", zlib.crc32(content))


def dissect(data: bytes) -> list[Field]:
    """The fields of a good file, its payload's included, without the CRC."""
    reader, fields = Reader(data[:-4], "file"), []

    def take(name: str, count: int) -> bytes:
        fields.append(Field(name, reader.take(count)))
        return fields[-1].data

    def number(name: str) -> int:
        start = reader.position
        value = reader.number()
        fields.append(Field(name, data[start : reader.position]))
        return value

    def stream(name: str) -> None:
        length = number(f"{name}'s length")
        fields[-1].counts = range(len(fields), len(fields) + 1)
        take(name, length)

    take("magic", 3)
    take("version", 1)
    arch = take("architecture", 1)[0]
    take("fingerprint", 8)
    flags = number("flags")
    take("quality", 1)
    number("width")
    number("height")
    length = len(fields)
    number("payload's length")
    if flags & TARGET:
        take("target", 5)
    if flags & EFFORT:
        take("effort", 1)
    if flags & DPI and number("resolution") == 0:
        fields[-1].data += reader.take(8)
    for name, flag in STREAMS.items():
        if flags & flag:
            number(f"{name}'s size")
            stream(name)
    if flags & ALPHA:
        stream("alpha")
    payload = len(fields)
    while reader.remaining:
        at, size = len(fields), number("tile's length")
        end = reader.position + size
        if flags & GRAPHIC:
            take("tile", size)
        elif arch == BinaryCodec.FILE_NUMBER:
            stream("planes")
            take("plain digits", end - reader.position)
        elif arch == HyperpriorCodec.FILE_NUMBER:
            stream("escapes")
            take("words", end - reader.position)
        else:
            take("tile", size)
        fields[at].counts = range(at + 1, len(fields))
    fields[length].counts = range(payload, len(fields))
    return fields


def assemble(fields: list[Field], untouched: int | None = None) -> bytes:
    """The file of these fields: lengths, but for the ``untouched`` one, and CRC are made to fit."""
    out = [field.data for field in fields]
    for i in reversed(range(len(fields))):  # the outer lengths count the inner ones' bytes
        if fields[i].counts is not None and i != untouched:
            out[i] = pack_number(sum(len(out[j]) for j in fields[i].counts))
    return sealed(b"".join(out))


@cache
def bomb() -> bytes:
    """A short lzma stream of 64 MB."""
    return lzma_compress(bytes(1 << 26))


# Mutations of bytes


def flip_bits(rng: Rng, data: bytearray, others: list[bytes]) -> bytes:
    for bit in rng.integers(0, 8 * len(data), rng.integers(1, 9)).tolist():
        data[bit // 8] ^= 1 << bit % 8
    return data


def overwrite(rng: Rng, data: bytearray, others: list[bytes]) -> bytes:
    start = int(rng.integers(len(data)))
    count = int(rng.integers(1, 33))
    return data[:start] + rng.bytes(count) + data[start + count :]


def truncate(rng: Rng, data: bytearray, others: list[bytes]) -> bytes:
    return data[: rng.integers(len(data))]


def extend(rng: Rng, data: bytearray, others: list[bytes]) -> bytes:
    more = rng.bytes(int(rng.integers(1, 1000)))
    more = more if rng.random() < 0.5 else bytes(len(more))
    return data + more if rng.random() < 0.8 else more + data


def cut_out(rng: Rng, data: bytearray, others: list[bytes]) -> bytes:
    start = int(rng.integers(len(data)))
    return data[:start] + data[start + int(rng.integers(1, 33)) :]


def repeat(rng: Rng, data: bytearray, others: list[bytes]) -> bytes:
    start = int(rng.integers(len(data)))
    end = start + int(rng.integers(1, 100))
    return data[:end] + data[start:]


def splice(rng: Rng, data: bytearray, others: list[bytes]) -> bytes:
    other = others[rng.integers(len(others))]
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def invent(rng: Rng, data: bytearray, others: list[bytes]) -> bytes:
    return data[: rng.choice([0, 3, 4, 5, 13, 15])] + rng.bytes(int(rng.integers(0, 500)))


BYTES = {
    "bits flipped": flip_bits,
    "bytes overwritten": overwrite,
    "truncated": truncate,
    "extended": extend,
    "bytes cut out": cut_out,
    "bytes repeated": repeat,
    "two files spliced": splice,
    "random bytes": invent,
}


# Mutations of fields. Lengths that are not the mutation itself fit, and so does the CRC.


def pick(rng: Rng, fields: list[Field], wanted: Callable[[Field], bool]) -> int:
    return int(rng.choice([i for i, field in enumerate(fields) if wanted(field)]))


def any_number(rng: Rng, field: Field) -> bytes:
    """Instead of a number: one near it, one at the edge of a type, or one that is malformed."""
    if rng.random() < 0.1:
        return ODD_NUMBERS[rng.integers(len(ODD_NUMBERS))]
    if rng.random() < 0.5:
        value = Reader(field.data, field.name).number()
        return pack_number(max(0, value + int(rng.choice([-8, -4, -2, -1, 1, 2, 4, 8]))))
    return pack_number(int(rng.choice(NUMBERS)))


def edit_header(rng: Rng, fields: list[Field], max_pixels: int) -> bytes:
    names = ("magic", "version", "architecture", "fingerprint", "flags", "quality", "effort")
    at = pick(rng, fields, lambda field: field.name in (*names, "target", "resolution"))
    size = len(fields[at].data)
    if fields[at].name == "target":
        kind, value = int(rng.integers(6)), float(rng.choice(FLOATS))
        fields[at].data = struct.pack(">Bf", kind, value)
    elif fields[at].name == "resolution":
        fields[at].data = b"\0" + struct.pack(">ff", *rng.choice([*FLOATS, 72, 300.5], 2))
    elif fields[at].name == "flags" and rng.random() < 0.5:
        fields[at].data = pack_number(int(rng.integers(1 << 9)))
    elif size == 1 and rng.random() < 0.5:
        fields[at].data = bytes([rng.choice([0, 1, 2, 3, 4, 16, 100, 101, 128, 255])])
    else:
        fields[at].data = rng.bytes(size)
    return assemble(fields)


def edit_size(rng: Rng, fields: list[Field], max_pixels: int) -> bytes:
    side = math.isqrt(max_pixels)
    sides = (*NUMBERS, 15, 17, 63, 64, 65, 100, side, side + 1, max_pixels, max_pixels + 1)
    both = rng.random() < 0.5
    for field in fields:
        if field.name in ("width", "height") and (both or rng.random() < 0.5):
            listed = rng.random() < 0.7
            field.data = pack_number(int(rng.choice(sides))) if listed else any_number(rng, field)
    return assemble(fields)


def swap_sides(rng: Rng, fields: list[Field], max_pixels: int) -> bytes:
    width, height = (field for field in fields if field.name in ("width", "height"))
    width.data, height.data = height.data, width.data
    return assemble(fields)


def edit_length(rng: Rng, fields: list[Field], max_pixels: int) -> bytes:
    at = pick(rng, fields, lambda field: field.counts is not None or field.name.endswith("size"))
    fields[at].data = any_number(rng, fields[at])
    return assemble(fields, untouched=at)


def is_stream(field: Field) -> bool:
    return field.name in (*STREAMS, "alpha", "planes", "escapes", *UNCODED)


def flip_stream(rng: Rng, fields: list[Field], max_pixels: int) -> bytes:
    at = pick(rng, fields, is_stream)
    if fields[at].data:
        fields[at].data = bytes(flip_bits(rng, bytearray(fields[at].data), []))
    return assemble(fields)


def replace_stream(rng: Rng, fields: list[Field], max_pixels: int) -> bytes:
    at = pick(rng, fields, is_stream)
    size = len(fields[at].data)
    other = int(rng.integers(0, 200))
    fields[at].data = [
        lambda: rng.bytes(size),
        lambda: rng.bytes(4 * other),
        lambda: rng.bytes(other),
        lambda: bytes(size),
        lambda: b"\xff" * size,
        lambda: b"",
        lambda: fields[at].data[: rng.integers(size + 1)],
        lambda: fields[at].data + rng.bytes(int(rng.choice([1, 4]))),
        lambda: fields[at].data[::-1],
    ][rng.integers(9)]()
    return assemble(fields)


def replace_content(rng: Rng, fields: list[Field], max_pixels: int) -> bytes:
    """Intact streams, of content that does not belong there."""
    at = pick(rng, fields, is_stream)
    if fields[at].name == "escapes":
        numbers = rng.choice([*NUMBERS, 2**24, 2**25, 2**26], rng.integers(1, 30))
        fields[at].data = b"".join(pack_number(int(value)) for value in numbers)
    elif fields[at].name in UNCODED:
        words = rng.integers(0, 2**32, rng.integers(1, 50), np.uint32)
        words[-1] = rng.choice([0, 1, 2**16, 2**32 - 1])
        fields[at].data = words.astype("<u4").tobytes()
    elif rng.random() < 0.2:
        fields[at].data = bomb()
    else:
        stream = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=lzma_filters())
        content = bytearray(stream.decompress(fields[at].data))
        size = max(0, len(content) + int(rng.choice([0, 0, 0, 0, -1, 1])))
        if rng.random() < 0.5 and content:
            content = overwrite(rng, content, [])[:size]
        else:
            content = rng.integers(0, rng.choice([2, 9, 256]), size).astype(np.uint8).tobytes()
        fields[at].data = lzma_compress(bytes(content))
    return assemble(fields)


def exchange_tiles(rng: Rng, fields: list[Field], max_pixels: int) -> bytes:
    """Tiles left out, repeated, or in another order."""
    tiles = [i for i, field in enumerate(fields) if field.name == "tile's length"]
    chunks = [b"".join(fields[j].data for j in fields[i].counts) for i in tiles]
    order = rng.integers(0, len(chunks), rng.integers(0, 5)).tolist()
    head = fields[: tiles[0]]
    for field in head:
        if field.name == "payload's length":
            field.counts = range(len(head), len(head) + 1)
    payload = b"".join(pack_chunk(chunks[i]) for i in order)
    return assemble([*head, Field("payload", payload)])


def grow(rng: Rng, fields: list[Field], max_pixels: int) -> bytes:
    """The longer side as long as the limit allows, and a number of copies of a tile."""
    width, height = (field for field in fields if field.name in ("width", "height"))
    short, long = sorted((width, height), key=lambda field: Reader(field.data, "side").number())
    long.data = pack_number(max(1, max_pixels // Reader(short.data, "side").number()))
    at = pick(rng, fields, lambda field: field.name == "tile's length")
    copies = int(rng.choice([0, 1, 10, 100]))
    tile = b"".join(field.data for field in fields[at : fields[at].counts.stop])
    for field in fields:
        if field.name == "payload's length":
            field.counts = range(field.counts.start, len(fields) + 1)
    return assemble([*fields, Field("more tiles", tile * copies)])


FIELDS = {
    "header field edited": edit_header,
    "size edited": edit_size,
    "width and height exchanged": swap_sides,
    "size grown, tiles repeated": grow,
    "length edited": edit_length,
    "stream: bits flipped": flip_stream,
    "stream: other bytes": replace_stream,
    "stream: other content": replace_content,
    "tiles exchanged": exchange_tiles,
}


# Good files


def paint(rng: Rng, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3]: a slope, a bright rectangle, some noise."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    pixels = 40 + 100 * (x + y)[:, :, None] * rng.uniform(0.2, 1, 3)
    pixels[(abs(x - 0.4) < 0.15) & (abs(y - 0.3) < 0.2)] = 230
    pixels += rng.normal(0, rng.choice([0, 5, 60]), pixels.shape)
    return pixels.clip(0, 255).round().astype(np.uint8)


def coded(encoder: Encoder, pixels: np.ndarray, quality: int) -> Xfr:
    """The content of the file of a picture, uint8 [H, W] or [H, W, 3], with loss."""
    codec, (height, width) = encoder.codec, pixels.shape[:2]
    payload = codec.compress(Picture(pixels).rgb, quality)
    size = width, height, pixels.ndim == 2
    return Xfr(codec.FILE_NUMBER, encoder.fingerprint, *size, quality, payload)


def description(rng: Rng) -> Metadata:
    """A profile, EXIF with sub-directories, XMP and a resolution."""
    exif = Image.Exif()
    exif[0x10F], exif[0x9C9B] = "maker", rng.bytes(8)
    exif.get_ifd(0x8769).update({0x829A: (1, 125), 0x927C: rng.bytes(40)})
    exif.get_ifd(0x8825)[2] = (50.0, 4.5, 0.25)
    return Metadata(rng.bytes(300), exif.tobytes()[6:], b"<x:xmpmeta/>" * 20, (72, 300.5))


def good_files(encoder: Encoder, rng: Rng) -> list[Xfr]:
    """Pictures of several shapes and kinds, among them some of two tiles."""
    long = encoder.codec.TILE + 40
    kinds = [
        # height, width, quality, grey, alpha, metadata, target
        (1, 1, 50, False, False, False, None),
        (5, 7, 90, True, False, False, None),
        (16, 16, 1, False, True, False, ("max_bytes", 1000)),
        (64, 64, 10, False, False, False, ("target_bpp", 0.5)),
        (33, 130, 100, False, True, True, None),
        (100, 70, 30, False, False, True, ("target_psnr", 30)),
        (70, 90, 60, True, True, True, ("target_bpp", 1)),
        (3, long, 50, False, False, False, None),
        (long, 2, 80, True, False, False, None),
    ]
    files = []
    for height, width, quality, grey, alpha, described, target in kinds:
        pixels = paint(rng, height, width)
        pixels = pixels[:, :, 0] if grey else pixels
        xfr = coded(encoder, pixels, quality)
        mask = rng.integers(0, 256, (height, width)).astype(np.uint8) if alpha else None
        metadata = description(rng) if described else NO_METADATA
        files.append(replace(xfr, alpha=mask, metadata=metadata, target=target))
        if height * width < 10_000:
            files.append(replace(xfr, payload=compress(pixels), graphic=True))
    return files


class Mutants:
    """The mutants of files of one checkpoint, for one seed."""

    def __init__(self, encoder: Encoder, seed: int, max_pixels: int):
        self.encoder, self.seed, self.max_pixels = encoder, seed, max_pixels
        self.good = good_files(encoder, np.random.default_rng(seed))
        self.packed = [pack(xfr) for xfr in self.good]
        side = math.isqrt(max_pixels)
        self.largest = [(side, side), (1, max_pixels), (max_pixels, 1)]

    def mutant(self, index: int) -> tuple[str, bytes]:
        """The kind of mutation, and the file."""
        if index < len(self.largest):
            return "none, the largest size", self.flat(*self.largest[index])
        rng = np.random.default_rng([self.seed, index])
        data = self.packed[rng.integers(len(self.packed))]
        kinds = [*BYTES, *FIELDS, "payload of another file"]
        kind = kinds[rng.integers(len(kinds))]
        if kind in FIELDS:
            return kind, FIELDS[kind](rng, dissect(data), self.max_pixels)
        if kind in BYTES and rng.random() < 0.3:
            return kind, bytes(BYTES[kind](rng, bytearray(data), self.packed))
        if kind in BYTES:
            content = BYTES[kind](rng, bytearray(data[:-4]), [data[:-4] for data in self.packed])
            return f"{kind}, CRC fits", sealed(bytes(content))
        return kind, self.exchanged(rng)

    def exchanged(self, rng: Rng) -> bytes:
        """A file with the payload, and maybe more, of another one."""
        first, second = (self.good[i] for i in rng.integers(0, len(self.good), 2))
        mixed = replace(first, payload=second.payload)
        mixed.graphic = second.graphic if rng.random() < 0.9 else not second.graphic
        if rng.random() < 0.3:
            mixed.alpha, mixed.metadata = second.alpha, second.metadata
        if rng.random() < 0.3:
            mixed.quality = int(rng.integers(1, 101))
        if rng.random() < 0.3:
            mixed.width, mixed.height = second.width, second.height
        return pack(mixed)

    def flat(self, height: int, width: int) -> bytes:
        """A grey picture; of many tiles in a row or column, all full ones are the same."""

        def payload(*shape: int) -> bytes:
            return coded(self.encoder, np.full((*shape, 3), 128, np.uint8), 50).payload

        tile = self.encoder.codec.TILE
        if width > tile >= height:
            content = payload(height, tile) * (width // tile)
            content += payload(height, width % tile) if width % tile else b""
        elif height > tile >= width:
            content = payload(tile, width) * (height // tile)
            content += payload(height % tile, width) if height % tile else b""
        else:
            content = payload(height, width)
        header = {"width": width, "height": height, "grey": False, "quality": 50}
        return pack(replace(self.good[0], **header, payload=content))
