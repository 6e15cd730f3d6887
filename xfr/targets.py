"""The quality that meets a target: a size, a rate or a PSNR."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from model.limits import MAX_QUALITY, MIN_QUALITY


def psnr(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays of the same shape, from the mean squared
    error over all channels; infinite if they are equal."""
    difference = original.astype(np.int32) - reconstruction
    mse = np.mean(np.square(difference), dtype=np.float64)
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def search_quality(
    choose: Callable[[Callable[[int], float]], int],
    easiest: int,
    measure: Callable[[int, int], float],
    effort: int,
) -> int:
    """``choose`` for what ``measure`` gives at a quality and an effort, with few measurements at
    this effort. The one that it returns is among them, so that it keeps what choose asks for.

    The others are estimated from those at effort 0, times the ratio that the two had last.
    ``easiest``: the quality without which choose raises ValueError.

    >>> from functools import partial
    >>> lowest = partial(lowest_quality_reaching, 50.0, "dB")
    >>> search_quality(lowest, MAX_QUALITY, lambda quality, effort: quality - 0.1 * effort, 9)
    51
    """
    quick = cache(lambda quality: measure(quality, 0))
    if not effort:
        return choose(quick)
    measured: dict[int, float] = {}
    ratio = 1.0

    def estimated(quality: int) -> float:
        return measured[quality] if quality in measured else ratio * quick(quality)

    while True:
        try:
            quality = choose(estimated)
        except ValueError:
            if easiest in measured:
                raise
            quality = easiest
        if quality in measured:
            return quality
        measured[quality] = measure(quality, effort)
        if math.isfinite(quick(quality)):  # which the PSNR of a graphic may not be
            ratio = measured[quality] / quick(quality)


def highest_quality_within(limit: float, unit: str, size: Callable[[int], float]) -> int:
    """The highest quality whose ``size``, in ``unit``, is at most ``limit``; ValueError if none is.

    ``size`` should increase with quality. Where it does not, the result still keeps the limit.

    >>> highest_quality_within(50.5, "bytes", lambda quality: quality)
    50
    """
    size = cache(size)
    if size(MIN_QUALITY) > limit:
        smallest = size(MIN_QUALITY)
        raise ValueError(f"the lowest quality takes {smallest:.4g} {unit}, more than {limit:.4g}")
    return bisect(lambda quality: size(quality) <= limit)


def lowest_quality_reaching(limit: float, unit: str, score: Callable[[int], float]) -> int:
    """The lowest quality whose ``score``, in ``unit``, is at least ``limit``; ValueError if none.

    >>> lowest_quality_reaching(50.5, "dB", lambda quality: quality)
    51
    """
    score = cache(score)
    if score(MAX_QUALITY) < limit:
        best = score(MAX_QUALITY)
        raise ValueError(f"the highest quality reaches {best:.4g} {unit}, less than {limit:.4g}")
    if score(MIN_QUALITY) >= limit:
        return MIN_QUALITY
    return bisect(lambda quality: score(quality) < limit) + 1


def bisect(holds: Callable[[int], bool]) -> int:
    """The highest quality for which ``holds`` is true, if it is true up to some quality, the lowest
    at least, and false from there on."""
    low, high = MIN_QUALITY, MAX_QUALITY + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
