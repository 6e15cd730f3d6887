"""Graphics, such as screenshots, plots and logos, as lossless WebP: what is smaller for them.

A payload is the lossless bitstream of WebP (VP8L, RFC 9649) of one tile after the other, each
behind its length, and without its header, which says only what the .xfr file says already. So what
is decoded can be nothing but lossless WebP, and of no other size than the file's. It is the picture
itself, or the picture with fewer colours.
"""

import io
import math
import struct
from collections.abc import Callable
from functools import cached_property

import numpy as np
from PIL import Image

from model.bytestream import Reader, pack_chunk
from model.tiles import tiles
from xfr.images import Picture
from xfr.palette import Colours

TILE = 2048  # pixels on each side: bounds the memory, and WebP takes at most 16383
HEADER = struct.Struct("<4sI4s4sIBI")  # RIFF, bytes from here, WEBP, VP8L, bytes, signature, size
SIGNATURE = 0x2F
EFFORT = {"method": 4, "quality": 75}  # a higher one takes 30 times as long, for 3 % of the bytes
# A sample of the picture, compressed in a millisecond or two, tells how large the picture becomes.
BLOCK, GRID = 64, 2  # it has GRID x GRID blocks of BLOCK x BLOCK pixels
SAMPLE_EFFORT = {"method": 1, "quality": 0}
OVERHEAD = 300  # bytes of a bitstream that do not grow with the picture: mostly code lengths
MARGIN = 3  # the sample may need this many times the rate that the whole picture needs
DRAWING = 4  # bits per pixel that a sample of a drawing needs at most; of a photograph, 5 to 17
FIRST = 3  # of the numbers of colours: what is tried first, 16 colours


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


def compress(pixels: np.ndarray) -> bytes:
    """The payload of a uint8 picture, [H, W] or [H, W, 3], of any size."""
    return b"".join(
        pack_chunk(compress_tile(pixels[tile.place])) for tile in tiles(*pixels.shape[:2], TILE)
    )


def estimate(pixels: np.ndarray) -> float:
    """The bytes that ``compress`` needs, roughly, at the scale of a sample of the picture."""
    rows, columns = (
        [round((length - BLOCK) * (i + 0.5) / GRID) for i in range(GRID)] if length > BLOCK else [0]
        for length in pixels.shape[:2]
    )
    blocks = [[pixels[y : y + BLOCK, x : x + BLOCK] for x in columns] for y in rows]
    sample = np.concatenate([np.concatenate(row, axis=1) for row in blocks])
    length = max(len(compress_tile(sample, SAMPLE_EFFORT)) - OVERHEAD, 0)
    return length * pixels.size / sample.size


class Graphic:
    """A picture as a graphic. What that takes is found out when it is asked for, and once.

    A version of it is one of the palettes of ``colours``, by its place among them, or None: the
    picture itself.
    """

    def __init__(self, picture: Picture):
        self.picture = picture
        self.payloads: dict[int | None, bytes] = {}

    @cached_property
    def estimate(self) -> float:
        """The bytes of the picture itself, roughly."""
        return estimate(self.picture.pixels)

    @cached_property
    def colours(self) -> Colours:
        return Colours(self.picture.pixels)

    @property
    def is_drawing(self) -> bool:
        """Whether it may be worth having fewer colours."""
        height, width = self.picture.shape
        return 8 * self.estimate <= DRAWING * height * width and bool(self.colours.palettes)

    def may_pay(self, length: int) -> bool:
        """Whether anything may cost less than the ``length`` bytes of a learned codec, and the
        distortion that they leave. Photographs take many times that without loss: a sample of them
        shows it."""
        return self.estimate <= MARGIN * length or self.is_drawing

    def pixels(self, version: int | None) -> np.ndarray:
        """The pixels of a version, uint8 [H, W, 3], or [H, W] of one that is grey."""
        if version is None:
            return self.picture.pixels
        return self.colours.reduced(self.colours.palettes[version])

    def payload(self, version: int | None) -> bytes:
        if version not in self.payloads:
            self.payloads[version] = compress(self.pixels(version))
        return self.payloads[version]

    def exact(self, limit: float) -> bytes | None:
        """The payload without loss; None if it takes more than ``limit`` bytes."""
        if self.estimate > MARGIN * limit:
            return None
        payload = self.payload(None)
        return payload if len(payload) <= limit else None

    def cheapest(
        self, distortion: Callable[[np.ndarray], float], most: float, limit: float = math.inf
    ) -> bytes | None:
        """The payload, of at most ``limit`` bytes, that has the least sum of its bits and of the
        ``distortion`` of its pixels, in bits; None if that is more than ``most``.

        The sum falls and then rises with the number of colours, so not all of them are tried.
        """
        versions = [*range(len(self.colours.palettes)), None] if self.is_drawing else [None]

        def cost(place: int, below: float) -> float:
            """That of a version; if it is not ``below`` that, another number that is not."""
            payload = self.payload(versions[place])
            if len(payload) > limit:
                return math.inf
            bits = 8 * len(payload)
            if versions[place] is None or bits >= below:
                return bits
            return bits + distortion(self.pixels(versions[place]))

        best = min(FIRST, len(versions) - 1)
        if 8 * len(self.payload(versions[best])) > MARGIN * most:
            return None
        least = cost(best, math.inf)
        for direction in (1, -1) if least < math.inf else (-1,):
            while 0 <= best + direction < len(versions):
                found = cost(best + direction, least)
                if found >= least < math.inf:
                    break
                best, least = best + direction, found
        return self.payload(versions[best]) if least <= most else None


def decompress(payload: bytes, height: int, width: int) -> np.ndarray:
    """The uint8 picture [height, width, 3] of a payload; ValueError if it is damaged."""
    reader = Reader(payload, "payload")
    # All chunks must be there before memory is allocated for what they hold.
    chunks = [(tile, reader.chunk()) for tile in tiles(height, width, TILE)]
    reader.finish()
    rgb = np.empty((height, width, 3), np.uint8)
    for tile, chunk in chunks:
        rgb[tile.place] = decompress_tile(chunk, *tile.shape)
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
