"""Bjontegaard's delta rate: how many more bits one codec needs than another at equal quality.

G. Bjontegaard 2001, "Calculation of average PSNR differences between RD-curves", VCEG-M33: the
mean distance of two curves of log rate over PSNR, here over the level of any measure. Between their
points the curves are piecewise cubic (PCHIP), as in the common test conditions of the JCT-VC
(F. Bossen 2013, JCTVC-L1100), not one cubic as in 2001: so there may be any number of points, and
nothing overshoots between them.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator


@dataclass(frozen=True)
class Curve:
    """Two or more points, whose rate (above 0) and level both rise. ValueError if they do not."""

    rate: tuple[float, ...]
    level: tuple[float, ...]

    def __post_init__(self):
        if len(self.rate) < 2 or len(self.rate) != len(self.level) or min(self.rate) <= 0:
            raise ValueError("a curve has two or more points, and rates above 0")
        if min(np.diff(self.rate)) <= 0 or min(np.diff(self.level)) <= 0:
            raise ValueError("a curve's rate and level both rise from point to point")

    @property
    def log_rate(self) -> PchipInterpolator:
        """Natural logarithm of the rate over level; NaN outside of the points."""
        return PchipInterpolator(self.level, np.log(self.rate), extrapolate=False)

    def rate_at(self, level: float) -> float | None:
        """The rate that reaches ``level``, None outside of the points."""
        rate = math.exp(self.log_rate(level))
        return None if math.isnan(rate) else rate

    def level_at(self, rate: float) -> float | None:
        """The level that ``rate`` reaches, None outside of the points.

        >>> round(Curve((1, 4), (30, 36)).level_at(2), 6)
        33.0
        """
        curve = PchipInterpolator(np.log(self.rate), self.level, extrapolate=False)
        level = float(curve(math.log(rate)))
        return None if math.isnan(level) else level


def rising(points: Iterable[tuple[float, float]]) -> Curve:
    """The curve of (rate, level) points, without those that cost more for no higher level,
    and without infinite ones.

    >>> rising([(2, 31), (1, 30), (3, 31), (4, 33), (9, float("inf"))]).rate
    (1, 2, 4)
    """
    kept: list[tuple[float, float]] = []
    for rate, level in sorted(points, key=lambda point: (point[0], -point[1])):
        if math.isfinite(level) and (not kept or level > kept[-1][1]):
            kept.append((rate, level))
    return Curve(*zip(*kept)) if kept else Curve((), ())


def common_range(curves: Iterable[Curve], low: float, high: float) -> tuple[float, float]:
    """The levels from ``low`` to ``high`` that all curves reach; ValueError if there are none.

    >>> common_range([Curve((1, 2), (30, 33)), Curve((2, 4), (31, 36))], 26, 40)
    (31, 33)
    """
    for curve in curves:
        low, high = max(low, curve.level[0]), min(high, curve.level[-1])
    if low >= high:
        raise ValueError("the curves have no levels in common")
    return low, high


def bd_rate(anchor: Curve, test: Curve, low: float, high: float) -> float:
    """The mean difference of ``test``'s rate to ``anchor``'s over the levels ``low`` to ``high``,
    in per cent (negative: it saves). ValueError if one of them does not reach these levels.

    >>> round(bd_rate(Curve((1, 2), (30, 33)), Curve((2, 4), (30, 33)), 31, 33), 6)
    100.0
    """
    for curve in (anchor, test):
        if not curve.level[0] <= low < high <= curve.level[-1]:
            raise ValueError(f"reaches {curve.level[0]:.1f} to {curve.level[-1]:.1f}")
    areas = [float(curve.log_rate.integrate(low, high)) for curve in (anchor, test)]
    return 100 * math.expm1((areas[1] - areas[0]) / (high - low))
