"""Quantizers: from real numbers to symbols, with a gradient for training."""

import torch
from torch import Tensor


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard`` with the gradient of ``soft``.

    Bengio, Léonard, Courville 2013, "Estimating or propagating gradients through stochastic neurons
    for conditional computation", https://arxiv.org/abs/1308.3432.
    """
    return soft + (hard - soft).detach()


def binarize(x: Tensor, noise: float = 0.0) -> Tensor:
    """The sign, -1 or +1, of ``tanh(x) - noise * u`` with u uniform in [-1, 1]; any shape.

    The gradient is that of ``tanh(x)``. ``noise`` 1 is the stochastic binarization of Toderici et
    al. 2016, "Variable rate image compression with recurrent neural networks",
    https://arxiv.org/abs/1511.06085, section 3.2, whose expectation is ``tanh(x)``; ``noise`` 0,
    the sign of x, is what the encoder uses. Values in between are random only where
    ``|tanh(x)| < noise``, which brings training closer to the encoder.
    """
    soft = torch.tanh(x)
    threshold = noise * (2 * torch.rand_like(soft) - 1) if noise else torch.zeros_like(soft)
    return straight_through(torch.where(soft >= threshold, 1.0, -1.0).to(soft.dtype), soft)


def round_straight_through(x: Tensor) -> Tensor:
    """The nearest integers (ties to even), with the gradient of the identity."""
    return straight_through(x.round(), x)
