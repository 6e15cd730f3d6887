"""Bits and the importance map as bytes, compressed with lzma."""

import lzma

import numpy as np

from model.payload import Reader, pack_number

# LZMA's literal coder is adaptive, with the top `lc` bits of the previous byte as context.
# Raw filters: an .xz container would cost more than 60 bytes a file.
FILTERS = {
    context: [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 20, "lc": context, "lp": 0,
               "pb": 0, "mode": lzma.MODE_NORMAL, "nice_len": 273}]
    for context in range(5)
}  # fmt: skip


def lzma_pack(data: bytes, context: int) -> bytes:
    return lzma.compress(data, lzma.FORMAT_RAW, filters=FILTERS[context])


def lzma_unpack(data: bytes, size: int, context: int) -> bytes:
    """Just ``size`` bytes from the stream ``data``; ValueError if it holds fewer or more."""
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS[context])
    try:
        out = decompressor.decompress(data, max_length=size + 1)
    except lzma.LZMAError as error:
        raise ValueError(f"damaged payload: {error}") from None
    if len(out) != size or not decompressor.eof or decompressor.unused_data:
        raise ValueError("damaged payload: not the bytes that the picture's size needs")
    return out


def pack_section(data: bytes, contexts: tuple[int, ...]) -> bytes:
    """The shortest lzma stream of ``data`` over literal contexts, with them and its length."""
    streams = [(lzma_pack(data, context), context) for context in contexts]
    stream, context = min(streams, key=lambda pair: len(pair[0]))
    return pack_number(len(stream)) + bytes([context]) + stream


def unpack_section(reader: Reader, size: int) -> np.ndarray:
    """``size`` bytes, uint8, of the section that is next."""
    length, context = reader.number(), reader.bytes(1)[0]
    if context not in FILTERS:
        raise ValueError("damaged payload: unknown lzma filter")
    return np.frombuffer(lzma_unpack(bytes(reader.bytes(length)), size, context), np.uint8)


def predict(used: np.ndarray) -> np.ndarray:
    """Left neighbour of each position [h, w]; of the first column, the upper one."""
    guess = np.zeros_like(used)
    guess[:, 1:] = used[:, :-1]
    guess[1:, 0] = used[:-1, 0]
    return guess


def pack_map(used: np.ndarray) -> bytes:
    """Importance map [h, w], whole numbers below 128."""
    difference = (used - predict(used)).astype(np.int64)
    folded = 2 * np.abs(difference) - (difference > 0)  # 0, 1, -1, 2, -2 to 0, 1, 2, 3, 4
    return pack_section(folded.astype(np.uint8).tobytes(), (0, 4))


def unpack_map(reader: Reader, height: int, width: int, levels: int) -> np.ndarray:
    """The map, int64 [height, width], of values 0 to ``levels``; ValueError beyond them."""
    folded = unpack_section(reader, height * width).reshape(height, width).astype(np.int64)
    used = np.where(folded % 2, folded + 1, -folded) // 2
    used[:, 0] = np.cumsum(used[:, 0])
    used = np.cumsum(used, axis=1)
    if used.min() < 0 or used.max() > levels:
        raise ValueError("damaged payload: importance out of range")
    return used


def pack_bits(bits: np.ndarray) -> bytes:
    """Bits [C, h, w], -1 or 1 where used and 0 elsewhere, densely: position after position or
    channel after channel, whichever lzma makes shorter; a first byte says which (0 or 1)."""
    rows = bits.reshape(len(bits), -1)
    streams = [pack_section(np.packbits(x[x != 0] > 0).tobytes(), (0,)) for x in (rows.T, rows)]
    shorter = min((0, 1), key=lambda layout: len(streams[layout]))
    return bytes([shorter]) + streams[shorter]


def unpack_bits(reader: Reader, used: np.ndarray, channels: int) -> np.ndarray:
    """Bits, int8 [channels, h, w], of which the first ``used`` [h, w] are there."""
    layout, total = reader.bytes(1)[0], int(used.sum())
    if layout > 1:
        raise ValueError("damaged payload: unknown layout of the bits")
    signs = np.unpackbits(unpack_section(reader, -(-total // 8)), count=total)
    mask = np.arange(channels)[:, None] < used.reshape(1, -1)
    bits = np.zeros(mask.shape, np.int8)
    if layout == 0:
        bits.T[mask.T] = 2 * signs.astype(np.int8) - 1
    else:
        bits[mask] = 2 * signs.astype(np.int8) - 1
    return bits.reshape(channels, *used.shape)
