"""Layers that run in two arithmetics, which the type of their input selects.

* Floating point, for training.
* int32, for coding, in fixed point: a tensor holds values times 2^FRACTION_BITS, and weights are
  rounded to multiples of 2^-WEIGHT_BITS. Matrix products are computed in float64, where every sum
  of integers stays below 2^53 and is therefore exact: in any order, on any processor, with any
  number of threads. So the encoder and the decoder agree on every probability.

Ballé, Johnston, Minnen 2019, "Integer networks for data compression with latent-variable models",
https://openreview.net/forum?id=S1zz2i0cY7; unlike there, the rounding is done after training.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.layers import QualityTable
from model.limits import MAX_QUALITY, MIN_QUALITY

FRACTION_BITS = 6
WEIGHT_BITS = 10
LIMIT = 2**15  # fixed-point activations, and weights of Pointwise, are clipped to +-LIMIT
DEPTHWISE_LIMIT, BIAS_LIMIT = 2**12, 2**29  # 9 * DEPTHWISE_LIMIT * LIMIT + BIAS_LIMIT < 2^31


def is_fixed_point(x: Tensor) -> bool:
    return not x.is_floating_point()


def fixed_point(x: Tensor, bits: int, limit: int) -> Tensor:
    """x times 2^bits, rounded and clipped to +-limit: integers, as float64 on the CPU."""
    return (x.detach().cpu().double() * 2.0**bits).round().clamp(-limit, limit)


class FixedPointConv(nn.Conv2d):
    """A convolution that also runs in fixed point. Its integer weights are made at first use."""

    weight_limit: int

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.integers: tuple[Tensor, Tensor] | None = None

    def train(self, mode: bool = True) -> "FixedPointConv":
        self.integers = None  # the weights are about to change, or have just changed
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if not is_fixed_point(x):
            return super().forward(x)
        if self.integers is None:
            weight = fixed_point(self.weight, WEIGHT_BITS, self.weight_limit)
            bias = fixed_point(self.bias, WEIGHT_BITS + FRACTION_BITS, BIAS_LIMIT)
            bias += 2 ** (WEIGHT_BITS - 1)  # round(x) is floor(x + 1/2)
            self.integers = self.prepare(weight, bias)
        return self.convolve(x, *self.integers)

    def prepare(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Integer weights and biases, float64, in the form that ``convolve`` takes."""
        raise NotImplementedError

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x, int32 in steps of 2^-FRACTION_BITS, to the output in the same steps."""
        raise NotImplementedError


class Pointwise(FixedPointConv):
    """1x1 convolution, [B, C, H, W] to [B, D, H, W]. In fixed point B is 1: a matrix product."""

    weight_limit = LIMIT

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels, 1)

    def prepare(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        # Scaling by a power of two is exact, and saves shifting the product.
        scale = 2.0**-WEIGHT_BITS
        return weight[:, :, 0, 0].mul(scale), bias[:, None].mul(scale)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        total = (weight @ x[0].flatten(1).double()).add_(bias)
        total.floor_().clamp_(-LIMIT, LIMIT)
        return total.int().unflatten(1, x.shape[2:])[None]


class Depthwise(FixedPointConv):
    """Depthwise 3x3 convolution, [B, C, H, W] to the same shape. In fixed point it is the sum of
    nine shifted products."""

    weight_limit = DEPTHWISE_LIMIT

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        nn.init.dirac_(self.weight, groups=channels)

    def prepare(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return weight.int(), bias[:, None, None].int()

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x.clamp(-LIMIT, LIMIT), (1, 1, 1, 1))  # skip connections may exceed it
        total = bias.expand_as(x).clone()
        for i in range(3):
            for j in range(3):
                shifted = padded[:, :, i : i + height, j : j + width]
                total.addcmul_(shifted, weight[:, :, i, j, None])
        return (total >> WEIGHT_BITS).clamp_(-LIMIT, LIMIT)


class QualityBias(QualityTable):
    """``x + b(quality)`` for x [B, C, H, W] and quality [B], one b per channel."""

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        if not is_fixed_point(x):
            return x + super().forward(quality)
        return x + self.bias(quality)

    def bias(self, quality: Tensor) -> Tensor:
        """``b`` in fixed point, [B, C, 1, 1], interpolated linearly in integers."""
        points = fixed_point(self.points, FRACTION_BITS, LIMIT).long()
        span = MAX_QUALITY - MIN_QUALITY
        position = (quality.long() - MIN_QUALITY) * (len(points) - 1)
        low = (position // span).clamp(max=len(points) - 2)
        weight = (position - span * low)[:, None]
        total = points[low] * (span - weight) + points[low + 1] * weight
        return torch.div(total, span, rounding_mode="floor").int()[:, :, None, None]
