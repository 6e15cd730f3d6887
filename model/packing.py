"""Bits and their importance map as bytes, compressed with lzma."""

import lzma

import numpy as np

from model.bytestream import Reader, lzma_compress, lzma_decompress, pack_number

# LZMA codes a byte in the context of the previous byte's highest bits: lc says how many of them.
CONTEXT_BITS = range(5)


def pack_section(data: bytes, choices: tuple[int, ...]) -> bytes:
    """``data`` compressed with whichever number of context bits is best.

    A section is the length of the lzma stream, the number of context bits as one byte, and the
    stream.
    """
    streams = [
        (lzma_compress(data, preset=9, lc=lc, lp=0, pb=0, mode=lzma.MODE_NORMAL, nice_len=273), lc)
        for lc in choices
    ]
    stream, lc = min(streams, key=lambda pair: len(pair[0]))
    return pack_number(len(stream)) + bytes([lc]) + stream


def unpack_section(reader: Reader, size: int) -> np.ndarray:
    """The ``size`` bytes, uint8, of the section that comes next."""
    length, lc = reader.number(), reader.take(1)[0]
    if lc not in CONTEXT_BITS:
        raise ValueError(f"damaged {reader.name}: unknown lzma filter {lc}")
    return np.frombuffer(lzma_decompress(reader.take(length), size, reader.name), np.uint8)


def predict(importance: np.ndarray) -> np.ndarray:
    """The left neighbour of each position [h, w]; in the first column, the one above."""
    prediction = np.zeros_like(importance)
    prediction[:, 1:] = importance[:, :-1]
    prediction[1:, 0] = importance[:-1, 0]
    return prediction


def pack_map(importance: np.ndarray) -> bytes:
    """An importance map [h, w] of integers in 0 to 127."""
    difference = (importance - predict(importance)).astype(np.int64)
    folded = 2 * np.abs(difference) - (difference > 0)  # 0, 1, -1, 2, -2 become 0, 1, 2, 3, 4
    return pack_section(folded.astype(np.uint8).tobytes(), (0, 4))


def unpack_map(reader: Reader, height: int, width: int, groups: int) -> np.ndarray:
    """The map, int64 [height, width]; ValueError unless it is within 0 to ``groups``."""
    folded = unpack_section(reader, height * width).reshape(height, width).astype(np.int64)
    importance = np.where(folded % 2, folded + 1, -folded) // 2
    importance[:, 0] = np.cumsum(importance[:, 0])
    importance = np.cumsum(importance, axis=1)
    if importance.min() < 0 or importance.max() > groups:
        raise ValueError(f"damaged {reader.name}: importance out of range")
    return importance


def pack_bits(bits: np.ndarray) -> bytes:
    """Bits [C, h, w], -1 or 1 where they are coded and 0 elsewhere, eight to a byte.

    They are ordered by position (0) or by channel (1), whichever lzma compresses better; the first
    byte says which.
    """
    rows = bits.reshape(len(bits), -1)
    streams = [pack_section(np.packbits(x[x != 0] > 0).tobytes(), (0,)) for x in (rows.T, rows)]
    order = min((0, 1), key=lambda order: len(streams[order]))
    return bytes([order]) + streams[order]


def unpack_bits(reader: Reader, counts: np.ndarray, channels: int) -> np.ndarray:
    """Bits, int8 [channels, h, w]: -1 or 1 in the first ``counts`` [h, w] channels of each
    position, 0 in the others."""
    order, total = reader.take(1)[0], int(counts.sum())
    if order > 1:
        raise ValueError(f"damaged {reader.name}: unknown order of the bits")
    signs = np.unpackbits(unpack_section(reader, -(-total // 8)), count=total)
    mask = np.arange(channels)[:, None] < counts.reshape(1, -1)
    bits = np.zeros(mask.shape, np.int8)
    if order == 0:
        bits.T[mask.T] = 2 * signs.astype(np.int8) - 1
    else:
        bits[mask] = 2 * signs.astype(np.int8) - 1
    return bits.reshape(channels, *counts.shape)
