"""The measures that curves, tables and BD-rates are of: those of test.py, and four of the package
piq.

Codecs are tuned and trained for squared error, for SSIM and for its descendants, which FSIM, VSI,
HaarPSI and MDSI are not: so they tell whether a codec that is ahead by the measure that it was made
for is ahead because it is better.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from utils import measures
from utils.measures import Measure, decibels, likeness

if TYPE_CHECKING:  # heavy, and --help needs only the names
    import numpy as np

DEFAULT_MEASURES = ["psnr", "ms_ssim", "ssimulacra2"]


def piq_score(name: str, original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """The score by piq's function of that name, of two uint8 arrays [H, W, 3]."""
    import piq
    import torch

    x, x_hat = (
        torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double() / 255
        for image in (original, reconstruction)
    )
    return float(getattr(piq, name)(x_hat, x))


def piq_measure(
    label: str, low: float, high: float, level: Callable[[float], float] = likeness
) -> Measure:
    """A measure of piq's. They halve pictures, and their filters have 16 pixels and more."""
    function = partial(piq_score, label.lower())
    return Measure(
        label.lower(), label, function, low, high, level, smallest_side=32, package="piq"
    )


MEASURES = measures.MEASURES | {
    measure.name: measure
    for measure in (
        # L. Zhang, L. Zhang, X. Mou, D. Zhang 2011: phase congruency and gradients
        piq_measure("FSIM", 15, 25),
        # L. Zhang, Y. Shen, H. Li 2014: the same with visual saliency
        piq_measure("VSI", 20, 29),
        # R. Reisenhofer, S. Bosse, G. Kutyniok, T. Wiegand 2018: Haar wavelets
        piq_measure("HaarPSI", 8, 16),
        # H. Z. Nafchi, A. Shahkolaei, R. Hedjam, M. Cheriet 2016: how much the likeness of
        # gradients and colours varies, 0 at best
        piq_measure("MDSI", 5.5, 8, decibels),
    )
}
