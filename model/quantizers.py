"""Quantizers: from real numbers to symbols, with a gradient for training."""

import math

from torch import Tensor

# The second derivative c of the distortion (in bits) by a symbol, in a codec whose steps are well
# chosen. With a step s, a symbol costs -log2(s) bits of rate and c/2 * s^2/12 of distortion (s^2/12
# is the variance of uniform noise). This is least at s = 1, the unit of symbols, if c = 12 / ln 2.
CURVATURE = 12 / math.log(2)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard`` with the gradient of ``soft``. Bengio, Léonard, Courville 2013,
    "Estimating or propagating gradients through stochastic neurons for conditional computation",
    https://arxiv.org/abs/1308.3432."""
    return soft + (hard - soft).detach()


def round_straight_through(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The nearest integers (ties to even), zero where ``mask`` is false, with the gradient of the
    identity."""
    rounded = x.round()
    return straight_through(rounded if mask is None else rounded * mask, x)
