"""Quantizers: what makes symbols of real numbers, and passes gradients through."""

import torch
from torch import Tensor


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard`` with the gradient of ``soft`` (Bengio et al. 2013)."""
    return soft + (hard - soft).detach()


def binarize(x: Tensor, stochastic: bool) -> Tensor:
    """Signs, -1 or +1, of ``tanh(x)``, any shape.

    Stochastic: +1 with probability ``(1 + tanh(x)) / 2``, so that the expectation is
    ``tanh(x)``, whose gradient is passed straight through (Toderici et al. 2016,
    "Variable rate image compression with recurrent neural networks",
    https://arxiv.org/abs/1511.06085, section 3.2). Deterministic: +1 where ``x >= 0``.
    """
    soft = torch.tanh(x)
    threshold = 2 * torch.rand_like(soft) - 1 if stochastic else torch.zeros_like(soft)
    hard = torch.where(soft >= threshold, 1.0, -1.0).to(soft.dtype)
    return straight_through(hard, soft)


def round_straight_through(x: Tensor) -> Tensor:
    """The nearest integers (ties to even), with the identity's gradient."""
    return straight_through(x.round(), x)
