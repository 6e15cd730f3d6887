"""The measures that curves, tables and BD-rates are of.

FSIM, VSI, HaarPSI and MDSI need the package piq. Codecs are tuned and trained for squared error,
for SSIM and for its descendants, which these four are not: so they tell whether a codec that is
ahead by the measure that it was made for is ahead because it is better.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # heavy, and --help needs only the names
    import numpy as np

MIN_PIQ_SIDE = 32  # its measures halve pictures, and their filters have 16 pixels and more


@dataclass(frozen=True)
class Measure:
    """``score``: of an original and its reconstruction, uint8 [H, W, 3], None if they are too small
    for it. ``level``: of a score, what curves are drawn over; it rises with quality. ``low`` to
    ``high``: the levels that BD-rates are over, unless one asks for others."""

    name: str
    label: str
    score: Callable[["np.ndarray", "np.ndarray"], float | None]
    low: float
    high: float
    level: Callable[[float], float] = float
    in_decibels: bool = True
    package: str | None = None

    @property
    def unit(self) -> str:
        """What follows a level."""
        return " dB" if self.in_decibels else ""

    @property
    def title(self) -> str:
        """The label with the unit of levels."""
        return f"{self.label} (dB)" if self.in_decibels else self.label

    @property
    def available(self) -> bool:
        """Whether its package is installed."""
        return self.package is None or find_spec(self.package) is not None


def ours(name: str) -> Callable:
    """The measure of that name in utils/metrics.py."""

    def score(original: "np.ndarray", reconstruction: "np.ndarray") -> float | None:
        from utils import metrics

        return getattr(metrics, name)(original, reconstruction)

    return score


def of_piq(name: str) -> Callable:
    """The measure of that name in piq."""

    def score(original: "np.ndarray", reconstruction: "np.ndarray") -> float | None:
        import piq
        import torch

        if min(original.shape[:2]) < MIN_PIQ_SIDE:
            return None
        x, x_hat = (
            torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
            for image in (original, reconstruction)
        )
        return float(getattr(piq, name)(x_hat, x))

    return score


def decibels(distance: float) -> float:
    """-10 log10 of a distance: the scale on which values near 0 can be told apart.

    >>> decibels(0.01), decibels(0)
    (20.0, inf)
    """
    return -10 * math.log10(distance) if distance > 0 else math.inf


def likeness(score: float) -> float:
    """Level, in dB, of a score that is 1 at best."""
    return decibels(1 - score)


# All ranges but that of PSNR are about where SSIMULACRA 2 gives photographs 30 to 80.
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("psnr", "PSNR", ours("psnr"), 26, 36),
        Measure("ms_ssim", "MS-SSIM", ours("ms_ssim"), 12, 20, likeness),
        Measure("ssimulacra2", "SSIMULACRA 2", ours("ssimulacra2"), 30, 80, in_decibels=False),
        # L. Zhang, L. Zhang, X. Mou, D. Zhang 2011: phase congruency and gradients
        Measure("fsim", "FSIM", of_piq("fsim"), 15, 25, likeness, package="piq"),
        # L. Zhang, Y. Shen, H. Li 2014: the same with visual saliency
        Measure("vsi", "VSI", of_piq("vsi"), 20, 29, likeness, package="piq"),
        # R. Reisenhofer, S. Bosse, G. Kutyniok, T. Wiegand 2018: Haar wavelets
        Measure("haarpsi", "HaarPSI", of_piq("haarpsi"), 8, 16, likeness, package="piq"),
        # H. Z. Nafchi, A. Shahkolaei, R. Hedjam, M. Cheriet 2016: how much the likeness of
        # gradients and colours varies, 0 at best
        Measure("mdsi", "MDSI", of_piq("mdsi"), 5.5, 8, decibels, package="piq"),
    )
}
DEFAULT_MEASURES = ["psnr", "ms_ssim", "ssimulacra2"]
