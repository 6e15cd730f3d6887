"""Layers that run in two arithmetics.

* Floating point, for training: ``layer(x)``.
* Fixed point, for coding: ``layer(x, bits)``. A tensor holds integers, as float32, that stand
  for multiples of 2^-bits; weights are rounded to multiples of a power of two, one for each output,
  so that no sum reaches 2^24. Up to there, float32 adds integers exactly: in any order, on any
  processor, with any number of threads. So encoder and decoder agree on every probability.
  In memory, the channels of a position lie side by side: a 1x1 convolution is a product of
  matrices [positions, channels].

Ballé, Johnston, Minnen 2019, "Integer networks for data compression with latent-variable models",
https://openreview.net/forum?id=S1zz2i0cY7; unlike there, the rounding is done after training.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.integer_products import EXACT_UP_TO, depthwise_sums
from model.layers import conv1x1, interpolated
from model.limits import MAX_QUALITY, MIN_QUALITY

FRACTION_BITS = 6  # latents, means and scale logits are multiples of 2^-FRACTION_BITS
WEIGHT_BITS = 12  # the most fraction bits of a weight
ACTIVATION_LIMIT = 2**11 - 1  # activations are clipped to +-ACTIVATION_LIMIT
LATENT_LIMIT = 2**15 - 1  # latents, as inputs of the context model, are clipped to +-LATENT_LIMIT


def activation_bits(quality: int) -> int:
    """The fraction bits of activations, 4 to 7. Latents are in units of the quantization step, so
    activations grow with the quality."""
    return 7 - 4 * (quality - MIN_QUALITY) // (MAX_QUALITY - MIN_QUALITY + 1)


def fixed_point(x: Tensor, bits: int, limit: int) -> Tensor:
    """``x`` times 2^bits, rounded and clipped to +-limit: integers, as float64 on the CPU."""
    return (x.detach().cpu().double() * 2.0**bits).round().clamp(-limit, limit)


@cache
def product_type(limit: int) -> torch.dtype:
    """The type in which products with inputs up to ``limit`` are exact: float32 for activations,
    unless this machine computes its products with less precision than it promises."""
    value = EXACT_UP_TO // 2**12 - 1
    weight = (value + 2) * torch.eye(32)
    inputs = (torch.full((rows, 32), float(value)) for rows in (16, 1024))
    # Small products take another way than large ones.
    one = torch.ones(32)
    exact = all((exact_product(x, weight, one) == EXACT_UP_TO).all() for x in inputs)
    return torch.float32 if limit <= ACTIVATION_LIMIT and exact else torch.float64


def exact_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [P, K] times the transpose of weight [D, K], plus bias [D]: [P, D]. Not in bfloat16 even
    under autocast."""
    with torch.autocast("cpu", enabled=False):
        return torch.addmm(bias, x, weight.T)


class FixedPointConv(nn.Conv2d):
    """A convolution that also runs in fixed point. Its integer weights are made at first use.

    ``limit``: the magnitude that its inputs are clipped to in fixed point.
    """

    bias: Tensor

    def __init__(self, *args, limit: int = ACTIVATION_LIMIT, **kwargs):
        super().__init__(*args, **kwargs)
        self.limit = limit
        self.integers: dict[int, tuple[Tensor, Tensor]] = {}

    def train(self, mode: bool = True) -> "FixedPointConv":
        self.integers = {}  # the weights are about to change, or have just changed
        return super().train(mode)

    def rounded(self, bits: int) -> tuple[Tensor, Tensor]:
        """Weights and biases for inputs of so many fraction bits, rounded to multiples of 2^-w,
        in the layer's product type. Each output has the largest w that keeps its sums exact."""
        if bits not in self.integers:
            fine = fixed_point(self.weight, WEIGHT_BITS, EXACT_UP_TO).flatten(1)
            bias = fixed_point(self.bias, bits + WEIGHT_BITS, EXACT_UP_TO) / 2**WEIGHT_BITS
            # A bound of the sums, computed without rounding errors, which differ among machines;
            # rounding a weight may add half of 2^-w to it.
            bound = self.limit * fine.abs().sum(1) / 2**WEIGHT_BITS + bias.abs() + 1
            # The sums have room: both types of product give equal numbers.
            room: float = EXACT_UP_TO if self.limit <= ACTIVATION_LIMIT else EXACT_UP_TO**2
            room -= self.limit * fine.shape[1] / 2
            w = torch.zeros_like(bound)
            for _ in range(WEIGHT_BITS):
                w += bound * 2 ** (w + 1) < room
            scale = 2 ** w[:, None]
            weight = (fine * (scale / 2**WEIGHT_BITS)).round() / scale
            bias = (bias[:, None] * scale).round() / scale
            dtype = product_type(self.limit)
            self.integers[bits] = weight.to(dtype).view_as(self.weight), bias.to(dtype)
        return self.integers[bits]


class Pointwise(FixedPointConv):
    """1x1 convolution, [B, C, H, W] to [B, D, H, W].

    x may have fewer channels than the layer: the others are taken as zero. ``outputs``: how many of
    the outputs are computed, from the first on.
    """

    def __init__(self, channels: int, out_channels: int, limit: int = ACTIVATION_LIMIT):
        super().__init__(channels, out_channels, 1, limit=limit)

    def forward(
        self,
        x: Tensor,
        bits: int | None = None,
        out_bits: int | None = None,
        outputs: int | None = None,
    ) -> Tensor:
        """x [B, C, H, W] to [B, D, H, W]. In fixed point, x is in multiples of 2^-bits and the
        result in multiples of 2^-out_bits."""
        if bits is None:
            return conv1x1(x, self.weight[:outputs, : x.shape[1]], self.bias[:outputs])
        weight, bias = self.rounded(bits)
        x = x.clamp(-self.limit, self.limit).to(weight.dtype).permute(0, 2, 3, 1)
        weight = weight.flatten(1)[:outputs, : x.shape[3]]
        total = exact_product(x.flatten(0, 2), weight, bias.flatten()[:outputs])
        if out_bits not in (None, bits):
            total.mul_(2.0 ** (out_bits - bits))
        total.add_(0.5).floor_()  # rounded
        return total.float().view(*x.shape[:3], -1).permute(0, 3, 1, 2)


class Depthwise(FixedPointConv):
    """Depthwise 3x3 convolution, [B, C, H, W] to the same shape. Beyond its borders, x goes on with
    its last row and column."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, groups=channels)
        nn.init.dirac_(self.weight, groups=channels)

    def forward(self, x: Tensor, bits: int | None = None) -> Tensor:
        if bits is None:
            return super().forward(F.pad(x, (1, 1, 1, 1), mode="replicate"))
        weight, bias = self.rounded(bits)
        padded = self.padded(x).to(weight.dtype)
        total = depthwise_sums(padded, weight, bias.flatten() + 0.5)
        return total.floor_().float()  # rounded, since a half was added

    def padded(self, x: Tensor) -> Tensor:
        """x [B, C, H, W], clipped, between copies of its last rows and columns."""
        batch, channels, height, width = x.shape
        room = x.new_empty(batch, height + 2, width + 2, channels).permute(0, 3, 1, 2)
        torch.clamp(x, -self.limit, self.limit, out=room[:, :, 1:-1, 1:-1])
        for side, row in ((0, 1), (-1, -2)):
            room[:, :, 1:-1, side] = room[:, :, 1:-1, row]
        for side, row in ((0, 1), (-1, -2)):
            room[:, :, side] = room[:, :, row]
        return room


class QualityBias(nn.Module):
    """``x + b(quality)`` for x [B, C, H, W] and quality [B], one b per channel."""

    def __init__(self, points: int, channels: int):
        super().__init__()
        self.channels = channels
        self.points = nn.Parameter(torch.zeros(points, channels))

    def forward(self, x: Tensor, quality: Tensor, bits: int | None = None) -> Tensor:
        if bits is None:
            return x + interpolated(self.points, quality)
        return x + self.bias(quality, bits)

    def bias(self, quality: Tensor, bits: int) -> Tensor:
        """``b`` in fixed point, [B, C, 1, 1], interpolated linearly in integers."""
        points = fixed_point(self.points, bits, EXACT_UP_TO // 4).long()
        return interpolated_integers(points, quality.long()).float()[:, :, None, None]


def interpolated_integers(points: Tensor, quality: Tensor) -> Tensor:
    """One vector per rate point, points int64 [P, C], interpolated linearly at quality int64 [B] in
    1 to 100, and rounded down: int64 [B, C]."""
    span = MAX_QUALITY - MIN_QUALITY
    position = (quality - MIN_QUALITY) * (len(points) - 1)
    low = (position // span).clamp(max=len(points) - 2)
    weight = (position - span * low)[:, None]
    total = points[low] * (span - weight) + points[low + 1] * weight
    return torch.div(total, span, rounding_mode="floor")
