"""Quantizers: what makes symbols of real numbers, and passes gradients through."""

import torch
from torch import Tensor


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard`` with the gradient of ``soft`` (Bengio et al. 2013)."""
    return soft + (hard - soft).detach()


def binarize(x: Tensor, noise: float = 0.0) -> Tensor:
    """Signs, -1 or +1, of ``tanh(x) - noise * u`` with u uniform in -1 to 1; any shape.

    The gradient of ``tanh`` is passed straight through. ``noise`` 1 is the stochastic
    binarization of Toderici et al. 2016, "Variable rate image compression with recurrent
    neural networks", https://arxiv.org/abs/1511.06085, section 3.2: its expectation is
    ``tanh(x)``. ``noise`` 0 is deterministic. Between them, only what is nearly undecided
    is drawn by lot, and the decoder meets in training what it will meet in files.
    """
    soft = torch.tanh(x)
    threshold = noise * (2 * torch.rand_like(soft) - 1) if noise else torch.zeros_like(soft)
    return straight_through(torch.where(soft >= threshold, 1.0, -1.0).to(soft.dtype), soft)


def round_straight_through(x: Tensor) -> Tensor:
    """The nearest integers (ties to even), with the identity's gradient."""
    return straight_through(x.round(), x)
