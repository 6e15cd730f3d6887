"""The quality that meets a target: a size, a rate, or a score: PSNR or SSIMULACRA 2."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from model.limits import MAX_QUALITY, MIN_QUALITY, SSIMULACRA2_SIDE


def psnr(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """PSNR in dB, over all channels of two uint8 arrays of one shape; infinite if equal."""
    difference = original.astype(np.int32) - reconstruction
    mse = np.mean(np.square(difference), dtype=np.float64)
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def ssimulacra2(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """SSIMULACRA 2 (J. Sneyers 2022, JPEG XL project) of two uint8 arrays, [H, W, 3] or grey [H, W]
    of at least SSIMULACRA2_SIDE pixels on each side: 100 means no difference, 90 no visible one, 70
    high quality, 50 medium, 30 low; below 0 for large differences."""
    from ssimulacra2 import compute_ssimulacra2

    pair = (original, reconstruction)
    return float(compute_ssimulacra2(*(io.BytesIO(as_ppm(image)) for image in pair)))


def as_ppm(image: np.ndarray) -> bytes:
    """A uint8 picture, [H, W, 3] or grey [H, W], as a file for programs that read no other."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "ppm")
    return file.getvalue()


@dataclass(frozen=True)
class Size:
    """A target for the bytes of the file: the highest quality within a limit is chosen.
    ``per_pixel``: the limit is in bits per pixel, not in bytes."""

    unit: str
    per_pixel: bool = False


@dataclass(frozen=True)
class Score:
    """A target for the decoded picture: the lowest quality that reaches a limit is chosen.
    ``measure``: the score of uint8 pixels and their reconstruction, both [H, W, 3] or grey [H, W];
    higher where they are closer. ``smallest_side``: pixels of the shortest side that it takes."""

    unit: str
    measure: Callable[[np.ndarray, np.ndarray], float]
    smallest_side: int = 1

    def check(self, height: int, width: int) -> None:
        """ValueError for a picture that is too small for the measure."""
        if min(height, width) < self.smallest_side:
            raise ValueError(
                f"{width}x{height} pixels are too few for this target, which needs "
                f"{self.smallest_side} on each side: choose a quality"
            )


# Targets by the names that flags and messages use; TARGETS in xfr/file.py numbers them.
TARGETS: dict[str, Size | Score] = {
    "target_bpp": Size("bpp", per_pixel=True),
    "max_bytes": Size("bytes"),
    "target_psnr": Score("dB", psnr),
    "target_ssimulacra2": Score("points", ssimulacra2, SSIMULACRA2_SIDE),
}


class OutOfReach(ValueError):
    """No quality meets a target."""


class Estimates:
    """The measure of each quality at an effort, estimated until ``add`` measures it: the measure at
    effort 0, times the ratio that the two efforts had last."""

    def __init__(self, measure: Callable[[int, int], float], effort: int):
        self.measure, self.effort, self.ratio = measure, effort, 1.0
        self.quick = cache(lambda quality: measure(quality, 0))
        self.measured: dict[int, float] = {}

    def __call__(self, quality: int) -> float:
        if quality in self.measured:
            return self.measured[quality]
        return self.ratio * self.quick(quality)

    def add(self, quality: int) -> None:
        """Measure this quality at the effort, which takes long."""
        self.measured[quality] = self.measure(quality, self.effort)
        quick, measured = self.quick(quality), self.measured[quality]
        # The PSNR of a graphic may be infinite, and SSIMULACRA 2 negative: no ratio says anything.
        if 0 < quick < math.inf and measured > 0:
            self.ratio = measured / quick


def search_quality(
    choose: Callable[[Callable[[int], float]], int],
    easiest: int,
    measure: Callable[[int, int], float],
    effort: int,
) -> int:
    """The quality that ``choose`` takes, given a function from a quality to its measure at
    ``effort``; found with few calls of ``measure(quality, effort)`` at efforts above 0.

    The returned quality is measured, not estimated, so that it keeps what ``choose`` asks for.
    ``easiest``: the quality that meets a target if any does. OutOfReach if ``choose`` raises it.

    >>> from functools import partial
    >>> lowest = partial(lowest_quality_reaching, 50.0, "dB")
    >>> search_quality(lowest, MAX_QUALITY, lambda quality, effort: quality - 0.1 * effort, 9)
    51
    """
    estimates = Estimates(measure, effort)
    if not effort:
        return choose(estimates.quick)
    while True:
        try:
            quality = choose(estimates)
        except OutOfReach:
            if easiest in estimates.measured:
                raise
            quality = easiest
        if quality in estimates.measured:
            return quality
        estimates.add(quality)


def highest_quality_within(limit: float, unit: str, size: Callable[[int], float]) -> int:
    """The highest quality whose ``size``, in ``unit``, is at most ``limit``; OutOfReach if none is.

    ``size`` should increase with quality. Where it does not, the result still keeps the limit.

    >>> highest_quality_within(50.5, "bytes", lambda quality: quality)
    50
    """
    smallest = size(MIN_QUALITY)
    if smallest > limit:
        raise OutOfReach(f"the lowest quality takes {smallest:,.6g} {unit}, more than {limit:,.6g}")
    return bisect(lambda quality: size(quality) <= limit)


def lowest_quality_reaching(limit: float, unit: str, score: Callable[[int], float]) -> int:
    """The lowest quality whose ``score``, in ``unit``, is at least ``limit``; OutOfReach if none.

    >>> lowest_quality_reaching(50.5, "dB", lambda quality: quality)
    51
    """
    best = score(MAX_QUALITY)
    if best < limit:
        raise OutOfReach(f"the highest quality reaches {best:.4g} {unit}, less than {limit:.4g}")
    if score(MIN_QUALITY) >= limit:
        return MIN_QUALITY
    return bisect(lambda quality: score(quality) < limit) + 1


def bisect(holds: Callable[[int], bool]) -> int:
    """The highest quality for which ``holds``, true up to some quality, is true."""
    low, high = MIN_QUALITY, MAX_QUALITY + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
