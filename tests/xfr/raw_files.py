"""PNG, TIFF and JPEG files of any kind, made by hand."""

import struct
import zlib

import numpy as np
import PIL

PILLOW = int(PIL.__version__.partition(".")[0])

# First column, first row, and steps, of the passes of an interlaced PNG file.
PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def rounded(values, top: int):
    """8-bit values of whole numbers from 0 to ``top``."""
    return (np.asarray(values, np.int64) * 255 + top // 2) // top


def packed(samples: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Samples [H, W] or [H, W, C], each row from a byte on."""
    rows = samples.reshape(len(samples), -1)
    if bits in (8, 16, 32):
        return rows.astype(f"{order}u{bits // 8}").tobytes()
    digits = (rows[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Samples [H, W] or [H, W, C] that a file with this orientation stores, as they are shown."""
    return {
        1: samples,
        2: samples[:, ::-1],
        3: samples[::-1, ::-1],
        4: samples[::-1],
        5: samples.swapaxes(0, 1),
        6: np.rot90(samples, -1),
        7: samples[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(samples),
    }[orientation]


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(samples, bits=8, colour_type=2, before=(), after=(), interlaced=False) -> bytes:
    """``before`` and ``after`` the pixels: kind and data of further chunks."""
    height, width = samples.shape[:2]
    steps = PASSES if interlaced else ((0, 0, 1, 1),)
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in steps]
    rows = b"".join(
        b"\0" + packed(part[k : k + 1], bits)
        for part in parts
        if part.size
        for k in range(len(part))
    )
    data = zlib.compress(rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    out += (
        b"".join(chunk(*one) for one in before)
        + chunk(b"IDAT", data[:9])
        + chunk(b"IDAT", data[9:])
    )
    return out + b"".join(chunk(*one) for one in after) + chunk(b"IEND", b"")


def tiff(
    samples, bits, photometric, order="<", compressed=False, data=None, pages=(), **tags
) -> bytes:
    """One page in one strip. ``tags``: t<number>=numbers, pairs of numbers, or bytes. ``pages``:
    tags of further pages, of one grey pixel each."""
    samples = samples if samples.ndim == 3 else samples[:, :, None]
    height, width, channels = samples.shape
    data = packed(samples, bits, order) if data is None else data
    data = zlib.compress(data) if compressed else data
    first = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [8 if compressed else 1],
        262: [photometric], 277: [channels], 278: [height], 279: [len(data)],
    }  # fmt: skip
    first |= {int(name[1:]): value for name, value in tags.items()}
    pixel = {256: [1], 257: [1], 258: [8], 259: [1], 262: [1], 277: [1], 278: [1], 279: [1]}
    contents = [(first, data), *((pixel | page, b"\0") for page in pages)]
    out = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    for number, (entries, content) in enumerate(contents):
        out += directory(entries, len(out), order, content, number == len(contents) - 1)
    return out


def directory(entries: dict, position: int, order: str, content: bytes, is_last: bool) -> bytes:
    """A TIFF directory at ``position``, its values, and the one strip of its pixels, ``content``;
    the next directory, unless it is the last, follows."""
    sized = {tag: sized_values(tag, value, order) for tag, value in entries.items()}
    start = position + 2 + 12 * (len(entries) + 1) + 4
    end = start + sum(len(data) for _, _, data in sized.values() if len(data) > 4)
    sized[273] = 4, 1, struct.pack(order + "I", end)
    table, values = struct.pack(order + "H", len(sized)), b""
    for tag, (kind, count, data) in sorted(sized.items()):
        table += struct.pack(order + "HHI", tag, kind, count)
        if len(data) > 4:
            table += struct.pack(order + "I", start + len(values))
            values += data
        else:
            table += data.ljust(4, b"\0")
    link = 0 if is_last else end + len(content)
    return table + struct.pack(order + "I", link) + values + content


def sized_values(tag: int, value, order: str) -> tuple[int, int, bytes]:
    """Type, number and bytes of a tag's values."""
    if isinstance(value, bytes):
        return 7, len(value), value
    if isinstance(value[0], tuple):
        return 5, len(value), b"".join(struct.pack(order + "II", *pair) for pair in value)
    kind, code = (4, "I") if tag in (254, 279) else (3, "H")
    return kind, len(value), struct.pack(f"{order}{len(value)}{code}", *value)


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG file."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
