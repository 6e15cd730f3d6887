"""The payload of a graphic, such as a screenshot, a plot or a logo: lossless WebP.

A payload is the lossless bitstream of WebP (VP8L, RFC 9649) of one tile after the other, each
behind its length, and without its header, which says only what the .xfr file says already. So what
is decoded can be nothing but lossless WebP, and of no other size than the file's. Which version of
a picture it holds, xfr/candidates.py decides.
"""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

from model.bytestream import Reader, pack_chunk
from model.tiles import WHOLE, Extract, tiles

TILE_SIDE = 2048  # pixels on each side: bounds the memory, and WebP takes at most 16383
# RIFF, bytes from here on, WEBP, VP8L, bytes, signature, size.
WEBP_HEADER = struct.Struct("<4sI4s4sIBI")
VP8L_SIGNATURE = 0x2F
# Options of Pillow's WebP encoder. A higher effort takes 30 times as long, for 3 % of the bytes.
WEBP_EFFORT = {"method": 4, "quality": 75}


def webp_header(height: int, width: int, length: int) -> bytes:
    """The header that WebP has before ``length`` bytes of the bitstream of a tile."""
    chunk = length + 5  # with signature and size
    size = (width - 1) | (height - 1) << 14  # no alpha, version 0
    return WEBP_HEADER.pack(
        b"RIFF", chunk + chunk % 2 + 12, b"WEBP", b"VP8L", chunk, VP8L_SIGNATURE, size
    )


def compress_tile(pixels: np.ndarray, effort: dict[str, Any] = WEBP_EFFORT) -> bytes:
    """The bitstream of uint8 pixels, [H, W] or [H, W, 3], of at most TILE_SIDE x TILE_SIDE."""
    height, width = pixels.shape[:2]
    stream = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    image.save(stream, "WEBP", lossless=True, **effort)
    data = stream.getvalue()
    end = WEBP_HEADER.size - 5 + WEBP_HEADER.unpack_from(data)[4]
    assert data.startswith(webp_header(height, width, end - WEBP_HEADER.size))
    return data[WEBP_HEADER.size : end]


def compress(pixels: np.ndarray) -> bytes:
    """The payload of a uint8 picture, [H, W] or [H, W, 3], of any size."""
    height, width = pixels.shape[:2]
    return b"".join(
        pack_chunk(compress_tile(pixels[tile.place])) for tile in tiles(height, width, TILE_SIDE)
    )


def decompress(payload: bytes, height: int, width: int, extract: Extract = WHOLE) -> np.ndarray:
    """The uint8 picture [height, width, 3] of a payload, or the ``extract`` of it. ValueError if
    the payload is damaged, or the extract not within the picture."""
    region, scale = extract.region(height, width), extract.scale
    reader = Reader(payload, "payload")
    # All chunks must be there before memory is allocated for what they hold.
    chunks = [(tile, reader.chunk()) for tile in tiles(height, width, TILE_SIDE)]
    reader.finish()
    rgb = np.empty((*extract.shape(height, width), 3), np.uint8)
    for tile, chunk in chunks:
        inside = tile.within(region)
        if inside is not None:
            pixels = decompress_tile(chunk, *tile.shape)[inside.seen_from(tile).place]
            place = inside.seen_from(region).reduced(scale).place
            rgb[place] = reduced(pixels, scale)
    return rgb


def reduced(pixels: np.ndarray, scale: int) -> np.ndarray:
    """The rounded means of scale x scale uint8 pixels, of fewer at the right and bottom edges."""
    return pixels if scale == 1 else np.asarray(Image.fromarray(pixels).reduce(scale))


def decompress_tile(chunk: bytes, height: int, width: int) -> np.ndarray:
    """The uint8 pixels [height, width, 3] of a bitstream; ValueError if it is damaged."""
    padding = bytes((len(chunk) + 1) % 2)  # chunks are of even length, signature and size included
    data = io.BytesIO(webp_header(height, width, len(chunk)) + chunk + padding)
    try:
        with Image.open(data, formats=["WEBP"]) as image:
            pixels = np.asarray(image)
    except Exception:  # Pillow may raise nearly anything on a damaged one
        pixels = None
    if pixels is None or pixels.shape != (height, width, 3):
        raise ValueError("damaged payload: its lossless WebP cannot be decoded")
    return pixels
