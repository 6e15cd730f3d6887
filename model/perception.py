"""Steps that the perceptual distortions share: their checked input, and a Gaussian window."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model.entropy import LowerBound

SMALLEST_SIDE = 8  # pixels
Beyond = Literal["constant", "reflect", "symmetric"]


def checked_pair(x_hat: Tensor, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """x_hat and x, both [B, 3, H, W] in 0 to 1, in float32 (float64 if x_hat is). A value of x_hat
    beyond its range counts as the end of the range, and its gradient can only lead back. ValueError
    below SMALLEST_SIDE pixels of a side. ``name``: of the distortion, for the message."""
    side = min(x.shape[2:])
    if side < SMALLEST_SIDE:
        raise ValueError(f"{name} needs {SMALLEST_SIDE} pixels a side, not {side}")
    dtype = torch.promote_types(x_hat.dtype, torch.float32)
    x, x_hat = (image.to(dtype, memory_format=torch.contiguous_format) for image in (x, x_hat))
    return -LowerBound.apply(-LowerBound.apply(x_hat, 0.0), -1.0), x


def gaussian_matrix(length: int, sigma: float, radius: int, beyond: Beyond) -> np.ndarray:
    """A Gaussian window at each position of a line, [length, length]. ``beyond``: numpy's mode of
    ``pad``, in which the line goes on at its ends."""
    window = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    line = np.pad(np.eye(length), ((radius, radius), (0, 0)), beyond)
    return sum(weight * line[k : k + length] for k, weight in enumerate(window / window.sum()))
