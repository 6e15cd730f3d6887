"""Gains in fixed point: powers of two of logarithms that are interpolated between rate points."""

import math
from functools import cache

import torch
from torch import Tensor

from model.fixed_point import interpolated_integers
from model.layers import interpolated
from model.quantizers import straight_through

LOG_BITS = 16  # fraction bits of the logarithms, to base 2
MAX_LOG = 20  # largest magnitude of the logarithms


def gains(logs: Tensor, quality: Tensor) -> Tensor:
    """The gains, float32 [B, C], at quality [B], from the table ``logs`` [P, C] of their logarithms
    to base 2 in multiples of 2^-LOG_BITS, one vector per rate point. Differentiable if ``logs``
    are floating-point."""
    points = logs.detach().long()
    exact = exp2(interpolated_integers(points, quality.detach().round().long()))
    if not logs.requires_grad:
        return exact
    soft = torch.exp2(interpolated(logs, quality)[:, :, 0, 0] / 2**LOG_BITS)
    return straight_through(exact, soft)


@cache
def roots_of_two() -> list[int]:
    """2^(1/2), 2^(1/4), ... in multiples of 2^-30, rounded down: from integer square roots."""
    roots, value = [], 2 << 120
    for _ in range(LOG_BITS):
        value = math.isqrt(value << 120)
        roots.append(value >> 90)
    return roots


def exp2(x: Tensor) -> Tensor:
    """2^(x / 2^LOG_BITS), float32, for int64 x up to MAX_LOG * 2^LOG_BITS in magnitude: computed in
    integers, since the exponential functions of libraries differ."""
    value = torch.full_like(x, 2**30)
    for bit, root in enumerate(roots_of_two(), start=1):
        more = (value * root) >> 30
        value = torch.where((x >> (LOG_BITS - bit)) & 1 == 1, more, value)
    power = ((x >> LOG_BITS) + (127 - 30)) << 23  # the bits of a power of two in float32
    return value.float() * power.int().view(torch.float32)
