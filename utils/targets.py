"""Choosing the quality that meets a target, by bisection over the quality scale."""

from collections.abc import Callable
from functools import cache

MIN_QUALITY, MAX_QUALITY, DEFAULT_QUALITY = 1, 100, 35


def best_quality_within(limit: float, unit: str, size: Callable[[int], float]) -> int:
    """The highest quality whose ``size`` is at most ``limit``.

    ``size`` grows with quality, nearly: where it does not, the answer still meets the limit.
    ValueError if none does.

    >>> best_quality_within(50.5, "bytes", lambda quality: quality)
    50
    """
    if size(MIN_QUALITY) > limit:
        raise ValueError(
            f"{size(MIN_QUALITY):.4g} {unit} at the lowest quality are more than {limit:.4g}"
        )
    return bisect(lambda quality: size(quality) <= limit)


def lowest_quality_reaching(limit: float, unit: str, score: Callable[[int], float]) -> int:
    """The lowest quality whose ``score`` is at least ``limit``; ValueError if none is.

    >>> lowest_quality_reaching(50.5, "dB", lambda quality: quality)
    51
    """
    if score(MAX_QUALITY) < limit:
        raise ValueError(
            f"{score(MAX_QUALITY):.4g} {unit} at the highest quality are less than {limit:.4g}"
        )
    if score(MIN_QUALITY) >= limit:
        return MIN_QUALITY
    return bisect(lambda quality: score(quality) < limit) + 1


def bisect(holds: Callable[[int], bool]) -> int:
    """The last quality for which ``holds``, given that it does for the first."""
    low, high = MIN_QUALITY, MAX_QUALITY + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def choose_quality(
    request: tuple[str, float],
    pixels: int,
    size: Callable[[int], int],
    psnr: Callable[[int], float],
) -> int:
    """The quality that meets ``request``, a name and a value, for a picture of ``pixels``.

    ``size(quality)``: bytes of the file; ``psnr(quality)``: dB of the decoded picture.
    """
    name, value = request
    if name == "target_psnr":
        return lowest_quality_reaching(value, "dB", cache(psnr))
    if name == "target_bpp":
        return best_quality_within(value, "bpp", cache(lambda quality: 8 * size(quality) / pixels))
    return best_quality_within(value, "bytes", cache(size))
