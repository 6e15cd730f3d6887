"""Graphics that may stand in a file instead of the learned payload, and what they cost.

A picture has several versions as a graphic (xfr/graphics.py): itself, and itself with each of the
palettes of xfr/palette.py. Screenshots, plots and logos often cost less so.
"""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from xfr.graphics import compress, compress_tile
from xfr.images import Picture
from xfr.palette import Colours

# A sample of the picture, compressed in a millisecond or two, tells how large the picture becomes:
# SAMPLE_GRID x SAMPLE_GRID blocks of SAMPLE_BLOCK x SAMPLE_BLOCK pixels.
SAMPLE_BLOCK, SAMPLE_GRID = 64, 2
SAMPLE_EFFORT = {"method": 1, "quality": 0}
SAMPLE_OVERHEAD = 300  # bytes of a bitstream that do not grow with the picture: code lengths mostly
SAMPLE_MARGIN = 3  # the most that a sample may exaggerate the rate of the picture
DRAWING_BPP = 4  # bits per pixel that a sample of a drawing has at most; of a photograph, 5 to 17
FIRST_PALETTE = 3  # the place among the palettes of the one that is tried first, 16 colours


def estimate(pixels: np.ndarray) -> float:
    """Roughly the bytes of ``compress``, from a sample of uint8 pixels, [H, W] or [H, W, 3]."""
    rows, columns = (
        [round((length - SAMPLE_BLOCK) * (i + 0.5) / SAMPLE_GRID) for i in range(SAMPLE_GRID)]
        if length > SAMPLE_BLOCK
        else [0]
        for length in pixels.shape[:2]
    )
    blocks = [[pixels[y : y + SAMPLE_BLOCK, x : x + SAMPLE_BLOCK] for x in columns] for y in rows]
    sample = np.concatenate([np.concatenate(row, axis=1) for row in blocks])
    length = max(len(compress_tile(sample, SAMPLE_EFFORT)) - SAMPLE_OVERHEAD, 0)
    return length * pixels.size / sample.size


class Graphic:
    """The versions of a picture as a graphic, each computed when it is first asked for. A version
    is named by the place of its palette in ``colours.palettes``; None names the picture itself."""

    def __init__(self, picture: Picture):
        self.picture = picture
        self.payloads: dict[int | None, bytes] = {}

    @cached_property
    def estimate(self) -> float:
        """Roughly the bytes of the picture itself."""
        return estimate(self.picture.pixels)

    @cached_property
    def colours(self) -> Colours:
        """The picture's colours, and the palettes for them."""
        return Colours(self.picture.pixels)

    @property
    def is_drawing(self) -> bool:
        """Whether fewer colours may be worth their distortion."""
        height, width = self.picture.shape
        return 8 * self.estimate <= DRAWING_BPP * height * width and bool(self.colours.palettes)

    def may_pay(self, length: int) -> bool:
        """Whether a graphic may cost less than a learned payload of ``length`` bytes, and the
        distortion that it leaves. A sample shows that photographs take many times its bytes."""
        return self.estimate <= SAMPLE_MARGIN * length or self.is_drawing

    def pixels(self, version: int | None) -> np.ndarray:
        """The pixels of a version, uint8 [H, W, 3], or [H, W] of one that is grey."""
        if version is None:
            return self.picture.pixels
        return self.colours.reduced(self.colours.palettes[version])

    def payload(self, version: int | None) -> bytes:
        """The payload of a version, compressed when it is first asked for."""
        if version not in self.payloads:
            self.payloads[version] = compress(self.pixels(version))
        return self.payloads[version]

    def exact(self, limit: float) -> bytes | None:
        """The payload without loss; None if it takes more than ``limit`` bytes."""
        if self.estimate > SAMPLE_MARGIN * limit:
            return None
        payload = self.payload(None)
        return payload if len(payload) <= limit else None

    def cheapest(
        self, distortion: Callable[[np.ndarray], float], most: float, limit: float = math.inf
    ) -> bytes | None:
        """The payload of the version that costs least, of those of at most ``limit`` bytes; None if
        the least cost is more than ``most``. The cost of a version is its bits and the
        ``distortion`` of its pixels, in bits.

        The cost falls and then rises with the number of colours: versions are tried in both
        directions until it rises.
        """
        versions = [*range(len(self.colours.palettes)), None] if self.is_drawing else [None]
        best = min(FIRST_PALETTE, len(versions) - 1)
        if 8 * len(self.payload(versions[best])) > SAMPLE_MARGIN * most:
            return None
        least = self.cost(versions[best], distortion, limit)
        for direction in (1, -1) if least < math.inf else (-1,):
            while 0 <= best + direction < len(versions):
                found = self.cost(versions[best + direction], distortion, limit, least)
                if found >= least < math.inf:
                    break
                best, least = best + direction, found
        return self.payload(versions[best]) if least <= most else None

    def cost(
        self,
        version: int | None,
        distortion: Callable[[np.ndarray], float],
        limit: float,
        below: float = math.inf,
    ) -> float:
        """The cost of a version in bits; infinite if it takes more than ``limit`` bytes. Where its
        bits alone reach ``below``, they are returned, and the distortion is not computed."""
        payload = self.payload(version)
        if len(payload) > limit:
            return math.inf
        bits = 8 * len(payload)
        if version is None or bits >= below:
            return bits
        return bits + distortion(self.pixels(version))
