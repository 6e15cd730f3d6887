"""Quantizers: from real numbers to symbols, with a gradient for training."""

from torch import Tensor


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard`` with the gradient of ``soft``.

    Bengio, Léonard, Courville 2013, "Estimating or propagating gradients through stochastic neurons
    for conditional computation", https://arxiv.org/abs/1308.3432.
    """
    return soft + (hard - soft).detach()


def round_straight_through(x: Tensor) -> Tensor:
    """The nearest integers (ties to even), with the gradient of the identity."""
    return straight_through(x.round(), x)


def round_with_dead_zone(x: Tensor, zone: Tensor) -> Tensor:
    """The nearest integers, but 0 for magnitudes below ``zone``, with the gradient of the identity.

    ``zone`` [C, 1, 1], 0.5 to 1, for x [B, C, H, W]. Zeros take so few bits that some values are
    better rounded to them (Sullivan 1996, "Efficient scalar quantization of exponential and
    Laplacian random variables").
    """
    return straight_through(x.round() * (x.abs() >= zone), x)
