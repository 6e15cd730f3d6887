"""Measures of how close a reconstruction is to its original: one entry of MEASURES each.

The columns of the CSV, the page, the line that test.py prints and benchmarks.rd follow from the
entries: a new measure is a function and an entry here. All of them are computed on the CPU and, but
for SSIMULACRA 2, in double precision: a score is the same on every machine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product
from shutil import which
from typing import TYPE_CHECKING, NamedTuple

from model.limits import SSIMULACRA2_SIDE

if TYPE_CHECKING:  # heavy, and --help needs only the names
    import numpy as np

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW_SIDE, WINDOW_SIGMA = 11, 1.5
UNIFORM_SIDE = 7  # side of a uniform window, for pictures smaller than the Gaussian one
TILE_SIDE = 128  # pixels of the tiles of which the worst is found


@dataclass(frozen=True)
class Measure:
    """A measure of an original and its reconstruction, uint8 [H, W, 3] each.

    ``name``: of its column and its flag. ``unit``, ``form``: of a score, and how it is printed.
    ``level``: a score to its level, which rises with quality and over which curves are drawn;
    ``low`` to ``high``: the levels that BD-rates are over by default. ``help``: of the flag without
    which a slow measure is not scored. ``trained``: the shipped checkpoints that were trained for
    it. ``needs``: a module or a program beyond requirements.txt; ``remedy``: how to install that.
    """

    name: str
    label: str
    function: "Callable[[np.ndarray, np.ndarray], float]"
    low: float
    high: float
    level: Callable[[float], float] = float
    unit: str = ""
    form: str = ".4f"
    smallest_side: int = 1
    help: str = ""
    trained: tuple[str, ...] = ()
    needs: str | None = None
    remedy: str = ""

    def score(self, original: "np.ndarray", reconstruction: "np.ndarray") -> float | None:
        """The score; None if a side is shorter than ``smallest_side`` pixels."""
        if min(original.shape[:2]) < self.smallest_side:
            return None
        return self.function(original, reconstruction)

    @property
    def level_unit(self) -> str:
        """The unit of a level, or ""."""
        return self.unit if self.level is float else "dB"

    @property
    def title(self) -> str:
        """The label with the unit of levels."""
        return f"{self.label} ({self.level_unit})" if self.level_unit else self.label

    def heading(self, low: float, high: float) -> str:
        """The label with a range of levels."""
        return f"{self.label}, {low:g} to {high:g} {self.level_unit}".rstrip()

    @property
    def available(self) -> bool:
        """Whether what it needs is installed."""
        return self.needs is None or bool(find_spec(self.needs) or which(self.needs))


def decibels(distance: float) -> float:
    """-10 log10 of a distance: the scale on which values near 0 can be told apart.

    >>> decibels(0.01), decibels(0)
    (20.0, inf)
    """
    return -10 * math.log10(distance) if distance > 0 else math.inf


def likeness(score: float) -> float:
    """The level, in dB, of a score that is 1 at best."""
    return decibels(1 - score)


def psnr(original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """Peak signal-to-noise ratio in dB, over all channels; infinite for equal pictures."""
    from xfr import targets

    return targets.psnr(original, reconstruction)


def ssim(original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """Structural similarity, 1 at best, the mean over channels. Wang, Bovik, Sheikh, Simoncelli
    2004, "Image quality assessment: from error visibility to structural similarity": a Gaussian
    window of 11x11 pixels and sigma 1.5. Pictures below 11 pixels: a uniform one of 7x7."""
    from skimage.metrics import structural_similarity

    options = {"gaussian_weights": True, "sigma": WINDOW_SIGMA, "use_sample_covariance": False}
    if min(original.shape[:2]) < WINDOW_SIDE:
        options = {"win_size": UNIFORM_SIDE}
    return float(
        structural_similarity(original, reconstruction, channel_axis=2, data_range=255, **options)
    )


def ms_ssim(original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """Multi-scale structural similarity, 1 at best, the mean over channels. Wang, Simoncelli, Bovik
    2003, "Multi-scale structural similarity for image quality assessment": the products of contrast
    and structure at five scales, and the luminance at the last."""
    result = 0.0
    for channel in range(3):
        x, y = (image[:, :, channel].astype(float) for image in (original, reconstruction))
        product = 1.0
        for scale, weight in enumerate(MS_SSIM_WEIGHTS, start=1):
            luminance, structure = ssim_terms(x, y)
            term = luminance * structure if scale == len(MS_SSIM_WEIGHTS) else structure
            product *= float(term.mean().clip(0, 1)) ** weight
            x, y = halved(x), halved(y)
        result += product / 3
    return result


def ssim_terms(x: "np.ndarray", y: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
    """The luminance term, and the product of the contrast and structure terms, wherever the window
    fits into x and y, float64 [H, W]: [H - 10, W - 10] each."""
    from scipy.ndimage import gaussian_filter

    radius = WINDOW_SIDE // 2
    inside = slice(radius, -radius)

    def blur(image: "np.ndarray") -> "np.ndarray":
        return gaussian_filter(image, WINDOW_SIGMA, radius=radius)[inside, inside]

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (variances + c2)


def halved(image: "np.ndarray") -> "np.ndarray":
    """Means of 2x2 pixels of an image [H, W], [H / 2, W / 2] rounded up: an odd last row or column
    counts twice, as in the authors' program."""
    import numpy as np

    image = np.pad(image, [(0, side % 2) for side in image.shape], "edge")
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4


def ssimulacra2(original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """SSIMULACRA 2, 100 at best."""
    from xfr import targets

    return targets.ssimulacra2(original, reconstruction)


class WorstTile(NamedTuple):
    """The lowest score of any tile of a picture, and the tile's first row and column of pixels."""

    score: float
    top: int
    left: int


def find_worst_tile(
    score: "Callable[[np.ndarray, np.ndarray], float]",
    original: "np.ndarray",
    reconstruction: "np.ndarray",
) -> WorstTile:
    """The worst of the tiles of TILE_SIDE x TILE_SIDE pixels, or less in a smaller picture. The
    last tiles of rows and columns overlap others where a side is no multiple."""
    tops, lefts = (
        [min(start, max(side - TILE_SIDE, 0)) for start in range(0, side, TILE_SIDE)]
        for side in original.shape[:2]
    )
    tiles = []
    for top, left in product(tops, lefts):
        place = slice(top, top + TILE_SIDE), slice(left, left + TILE_SIDE)
        tiles.append(WorstTile(score(original[place], reconstruction[place]), top, left))
    return min(tiles)


def worst_tile(measure: Measure, low: float, high: float) -> Measure:
    """The measure of a picture's worst tile, which an average over the picture does not show."""
    return replace(
        measure,
        name=f"{measure.name}_worst",
        label=f"{measure.label} of the worst tile",
        function=lambda *pair: find_worst_tile(measure.function, *pair).score,
        low=low,
        high=high,
        help=f"also score the worst tile of {TILE_SIDE}x{TILE_SIDE} pixels by {measure.label}",
    )


def by_name(*measures: Measure) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures}


# All ranges but that of PSNR are about where SSIMULACRA 2 gives photographs 30 to 80.
MEASURES = by_name(
    Measure("psnr", "PSNR", psnr, 26, 36, unit="dB", form=".2f", trained=("main", "hyperprior")),
    Measure("ssim", "SSIM", ssim, 8, 13, likeness, smallest_side=UNIFORM_SIDE),
    # From 161 pixels on, the window fits into the picture at the last of the scales.
    Measure("ms_ssim", "MS-SSIM", ms_ssim, 12, 20, likeness, smallest_side=161),
    Measure("ssimulacra2", "SSIMULACRA 2", ssimulacra2, 30, 80, form=".1f",
            smallest_side=SSIMULACRA2_SIDE, trained=("visual",),
            help="also score SSIMULACRA 2, a perceptual measure, 100 at best; takes about 1 s "
            "per megapixel"),
)  # fmt: skip
MEASURES |= by_name(
    worst_tile(MEASURES["psnr"], 20, 32), worst_tile(MEASURES["ssimulacra2"], 10, 75)
)
