"""Pictures without loss, as WebP stores them: what is smaller for screenshots, plots and logos.

A payload is the lossless bitstream of WebP (VP8L, RFC 9649) of one tile after the other, each
behind its length, and without its header, which says only what the .xfr file says already. So what
is decoded can be nothing but lossless WebP, and of no other size than the file's.
"""

import io
import math
import struct

import numpy as np
from PIL import Image

from model.bytestream import Reader, pack_chunk
from model.tiling import tiles

TILE = 2048  # pixels on each side: bounds the memory, and WebP takes at most 16383
HEADER = struct.Struct("<4sI4s4sIBI")  # RIFF, bytes from here, WEBP, VP8L, bytes, signature, size
SIGNATURE = 0x2F
EFFORT = {"method": 4, "quality": 75}  # a higher one takes 30 times as long, for 3 % of the bytes
# A sample of the picture, compressed in a millisecond or two, tells how large the picture becomes.
BLOCK, GRID = 64, 2  # it has GRID x GRID blocks of BLOCK x BLOCK pixels
SAMPLE_EFFORT = {"method": 1, "quality": 0}
OVERHEAD = 300  # bytes of a bitstream that do not grow with the picture: mostly code lengths
MARGIN = 3  # the sample may need this many times the rate that the whole picture needs


def header(height: int, width: int, length: int) -> bytes:
    """What stands before ``length`` bytes of the bitstream of a tile."""
    chunk = length + 5  # with signature and size
    size = (width - 1) | (height - 1) << 14  # no alpha, version 0
    return HEADER.pack(b"RIFF", chunk + chunk % 2 + 12, b"WEBP", b"VP8L", chunk, SIGNATURE, size)


def compress_tile(pixels: np.ndarray, effort: dict = EFFORT) -> bytes:
    """The bitstream of uint8 pixels, [H, W] or [H, W, 3], of at most TILE x TILE."""
    stream = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    image.save(stream, "WEBP", lossless=True, **effort)
    data = stream.getvalue()
    end = HEADER.size - 5 + HEADER.unpack_from(data)[4]
    assert data.startswith(header(*pixels.shape[:2], end - HEADER.size))
    return data[HEADER.size : end]


def compress(pixels: np.ndarray, limit: float = math.inf) -> bytes | None:
    """The payload of a uint8 picture, [H, W] or [H, W, 3], of any size; None if it would take more
    than ``limit`` bytes."""
    payload = bytearray()
    for tile in tiles(*pixels.shape[:2], TILE):
        part = pixels[tile.top : tile.bottom, tile.left : tile.right]
        payload += pack_chunk(compress_tile(part))
        if len(payload) > limit:
            return None
    return bytes(payload)


def may_fit(pixels: np.ndarray, limit: float) -> bool:
    """Whether ``compress`` is worth trying. Photographs take many times what a learned codec needs,
    and as long to compress: a sample of them shows it."""
    rows, columns = (
        [round((length - BLOCK) * (i + 0.5) / GRID) for i in range(GRID)] if length > BLOCK else [0]
        for length in pixels.shape[:2]
    )
    blocks = [[pixels[y : y + BLOCK, x : x + BLOCK] for x in columns] for y in rows]
    sample = np.concatenate([np.concatenate(row, axis=1) for row in blocks])
    length = max(len(compress_tile(sample, SAMPLE_EFFORT)) - OVERHEAD, 0)
    return length * pixels.size / sample.size <= MARGIN * limit


def decompress(payload: bytes, height: int, width: int) -> np.ndarray:
    """The uint8 picture [height, width, 3] of a payload; ValueError if it is damaged."""
    reader = Reader(payload, "payload")
    # All chunks must be there before memory is allocated for what they hold.
    chunks = [(tile, reader.chunk()) for tile in tiles(height, width, TILE)]
    reader.finish()
    rgb = np.empty((height, width, 3), np.uint8)
    for tile, chunk in chunks:
        rgb[tile.top : tile.bottom, tile.left : tile.right] = decompress_tile(chunk, *tile.shape)
    return rgb


def decompress_tile(chunk: bytes, height: int, width: int) -> np.ndarray:
    """The uint8 pixels [height, width, 3] of a bitstream; ValueError if it is damaged."""
    padding = bytes((len(chunk) + 1) % 2)  # chunks are of even length, signature and size included
    data = io.BytesIO(header(height, width, len(chunk)) + chunk + padding)
    try:
        with Image.open(data, formats=["WEBP"]) as image:
            pixels = np.asarray(image)
    except Exception:  # Pillow may raise nearly anything on a damaged one
        pixels = None
    if pixels is None or pixels.shape != (height, width, 3):
        raise ValueError("damaged payload: its lossless WebP cannot be decoded")
    return pixels
