"""Layers of the entropy model, whose numbers encoder and decoder must agree on.

Each layer runs in two arithmetics, told apart by ``bits``, the fraction bits of activations:

* Floating point, for training and for the encoder's search; ``bits`` is a tensor [B, 1, 1, 1].
* Fixed point, for coding, ``bits`` is an int: a tensor holds integers, as float32, that stand for
  multiples of 2^-bits. All sums are exact, see model/integer_products.py: in any order, on any
  processor, with any number of threads. In memory, the channels of a position lie side by side.

Inputs and weights of 1x1 convolutions are rounded to 8 bits, in training as in coding: Jacob et al.
2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", https://arxiv.org/abs/1712.05877. Ballé, Johnston, Minnen 2019, "Integer networks for
data compression with latent-variable models", https://openreview.net/forum?id=S1zz2i0cY7.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.integer_products import (
    CHANNEL_MULTIPLE,
    EXACT_UP_TO,
    INPUT_LIMIT,
    WEIGHT_LIMIT,
    depthwise_sums,
    matrix_product,
)
from model.layers import Conv1x1, conv1x1, interpolated
from model.limits import MAX_QUALITY, MIN_QUALITY
from model.quantizers import round_straight_through
from model.tiles import padded

FRACTION_BITS = 6  # latents, means and scale logits are multiples of 2^-FRACTION_BITS
WEIGHT_BITS = 12  # the most fraction bits of a weight of a depthwise convolution
ACTIVATION_LIMIT = 2**11 - 1  # activations are clipped to +-ACTIVATION_LIMIT
LATENT_LIMIT = 2**15 - 2**7 - 1  # latents, as inputs of the context model, are clipped to it
HALF = 2**8  # a latent is HALF times its high half, and its low half
MAX_BIAS = EXACT_UP_TO // 2  # of 8-bit products, in units of their sums
STEP_DECAY = 0.999  # of the step of a channel, in a training step without values as large
MIN_STEP = 2.0**-6

Bits = int | Tensor  # see above


def activation_bits(quality: int) -> int:
    """The fraction bits of activations, 4 to 7. Latents are in units of the quantization step, so
    activations grow with the quality."""
    return 7 - 4 * (quality - MIN_QUALITY) // (MAX_QUALITY - MIN_QUALITY + 1)


def soft_bits(quality: Tensor) -> Tensor:
    """``activation_bits`` of each quality [B], for layers in floating point: [B, 1, 1, 1]."""
    above, span = quality.round().long() - MIN_QUALITY, MAX_QUALITY - MIN_QUALITY + 1
    bits = 7 - torch.div(4 * above, span, rounding_mode="floor")
    return bits.float()[:, None, None, None]


def fixed_point(x: Tensor, bits: int, limit: int) -> Tensor:
    """``x`` times 2^bits, rounded and clipped to +-limit: integers, as float64 on the CPU."""
    return (x.detach().cpu().double() * 2.0**bits).round().clamp(-limit, limit)


class Rounding(nn.Module):
    """The rounding of activations to 8 bits.

    step: float32 [C], in multiples of 2^-bits. In training, ``follow`` adapts it to the inputs.
    """

    step: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("step", torch.full((channels,), MIN_STEP))

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        """x [B, C, H, W], rounded and clipped; gradients pass through the rounding."""
        unit = 2.0**-bits
        step = (self.step[:, None, None] * unit).to(x.dtype)
        return round_straight_through((x / step).clamp(-INPUT_LIMIT, INPUT_LIMIT)) * step

    @torch.no_grad()
    def follow(self, x: Tensor, bits: Tensor) -> None:
        """Widen the steps to the values of x [B, C, H, W], or make them a little finer."""
        largest = (x * 2.0**bits).abs().amax((0, 2, 3)).float().clamp(max=ACTIVATION_LIMIT)
        finer = (STEP_DECAY * self.step).clamp(min=MIN_STEP)
        self.step.copy_(torch.maximum(finer, largest / INPUT_LIMIT))

    def integers(self, x: Tensor) -> Tensor:
        """x [1, C, H, W] in fixed point to integers [H W, C], up to INPUT_LIMIT in magnitude."""
        x = x[0].permute(1, 2, 0).flatten(0, 1) * (1 / self.step)
        return x.clamp_(-INPUT_LIMIT, INPUT_LIMIT).round_()


class Integers(NamedTuple):
    """A 1x1 convolution in fixed point: ``scale * (weight x + bias)``.

    weight: int8 [D, C], where C is a multiple of CHANNEL_MULTIPLE; bias: int32 [D]; scale: float32
    [D].
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def sums(self, x: Tensor) -> Tensor:
        """The sums without biases, int32 [P, D], of integers x [P, K], up to 128 in magnitude."""
        padding = padded(x.shape[1], CHANNEL_MULTIPLE) - x.shape[1]
        x = F.pad(x.to(torch.int8), (0, padding)) if padding else x.to(torch.int8)
        total = x.new_empty(len(x), len(self.bias), dtype=torch.int32)
        matrix_product(x.device)(x, self.weight[:, : x.shape[1]].T, total)
        return total

    def scaled(self, total: Tensor) -> Tensor:
        """Sums [P, D] to multiples of 2^-bits, float32 [P, D]."""
        return total.add_(self.bias).float().mul_(self.scale).round_()

    def part(self, outputs: int | None, finer: int) -> "Integers":
        """The first ``outputs``, in multiples of 2^-(bits + finer)."""
        weight, bias, scale = (numbers[:outputs] for numbers in self)
        return Integers(weight, bias, scale * 2.0**finer)


class Pointwise(Conv1x1):
    """1x1 convolution, [B, C, H, W] to [B, D, H, W]."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels)
        self.made: dict[int, Integers] = {}
        self.rounding = Rounding(channels)

    def train(self, mode: bool = True) -> "Pointwise":
        self.made = {}  # the weights are about to change, or have just changed
        return super().train(mode)

    def forward(  # type: ignore[override]
        self, x: Tensor, bits: Bits, outputs: int | None = None, out_bits: int | None = None
    ) -> Tensor:
        """``outputs``: how many of the outputs are computed, from the first on. ``out_bits``: the
        fraction bits of the result in fixed point, if not ``bits``."""
        if isinstance(bits, int):
            layer = self.integers(bits)
            if outputs is not None or out_bits is not None:
                layer = layer.part(outputs, 0 if out_bits is None else out_bits - bits)
            total = layer.scaled(layer.sums(self.rounding.integers(x)))
            return total.view(1, *x.shape[2:], -1).permute(0, 3, 1, 2)
        if self.training and self.weight.requires_grad:
            self.rounding.follow(x, bits)
        weight = rounded_weight(self.weight, self.rounding.step)
        return conv1x1(self.rounding(x, bits), weight[:outputs], self.bias[:outputs])

    def integers(self, bits: int) -> Integers:
        """The layer's numbers. Double precision, an operation at a time, rounds alike on every
        machine."""
        if bits not in self.made:
            self.made[bits] = integers(self.weight, self.bias, self.rounding.step, bits)
        return self.made[bits]


def rounded_weight(weight: Tensor, step: Tensor) -> Tensor:
    """The weights [D, C, 1, 1] of inputs in steps [C], rounded as in fixed point, with the gradient
    of the identity."""
    steps = step[:, None, None].to(weight)
    with torch.no_grad():
        largest = (weight * steps).abs().amax(1, keepdim=True).clamp(min=1e-12)
        unit = largest / WEIGHT_LIMIT / steps
    return round_straight_through(weight / unit) * unit


def integers(weight: Tensor, bias: Tensor, step: Tensor, bits: int) -> Integers:
    """Weights [D, C, 1, 1] of inputs in steps [C] of 2^-bits, and biases [D], in fixed point."""
    weights = weight.detach().cpu().double().flatten(1) * step.cpu().double()
    biases = bias.detach().cpu().double() * 2.0**bits
    # Where weights are next to nothing, the bias decides on the unit.
    unit = torch.maximum(weights.abs().amax(1) / WEIGHT_LIMIT, biases.abs() / MAX_BIAS)
    unit = unit.clamp(min=2.0**-40)
    rounded = (weights / unit[:, None]).round().to(torch.int8)
    padding = padded(rounded.shape[1], CHANNEL_MULTIPLE) - rounded.shape[1]
    return Integers(F.pad(rounded, (0, padding)), (biases / unit).round().int(), unit.float())


class LatentPointwise(Conv1x1):
    """1x1 convolution of latents, [B, C, H, W] to [B, D, H, W]. Weights are rounded to 8 bits.

    x may have fewer channels than the layer: the others are taken as zero. In fixed point, x is in
    multiples of 2^-FRACTION_BITS, and is divided into two halves of 8 bits.
    """

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels)
        self.made: dict[int, Integers] = {}

    def train(self, mode: bool = True) -> "LatentPointwise":
        self.made = {}  # the weights are about to change, or have just changed
        return super().train(mode)

    def forward(self, x: Tensor, bits: Bits) -> Tensor:  # type: ignore[override]
        if isinstance(bits, int):
            total = self.product(x[0].permute(1, 2, 0).flatten(0, 1), bits)
            return total.view(1, *x.shape[2:], -1).permute(0, 3, 1, 2)
        weight = rounded_weight(self.weight, self.weight.new_ones(1))
        return conv1x1(x, weight[:, : x.shape[1]], self.bias)

    def product(self, x: Tensor, bits: int) -> Tensor:
        """Latents x [P, K] to multiples of 2^-bits, float32 [P, D]."""
        layer = self.integers(bits)
        x = x.clamp(-LATENT_LIMIT, LATENT_LIMIT)
        high = ((x + HALF / 2) / HALF).floor_()
        total = layer.sums(x.sub_(high, alpha=HALF))  # whole numbers: nothing is rounded
        return layer.scaled(total.add_(layer.sums(high), alpha=HALF))

    def integers(self, bits: int) -> Integers:
        """See ``Pointwise.integers``."""
        if bits not in self.made:
            step = torch.full((self.in_channels,), 2.0 ** (bits - FRACTION_BITS))
            self.made[bits] = integers(self.weight, self.bias, step, bits)
        return self.made[bits]


class Depthwise(nn.Conv2d):
    """Depthwise 3x3 convolution, [B, C, H, W] to the same shape. Beyond its borders, x goes on with
    its last row and column."""

    bias: Tensor

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, groups=channels)
        nn.init.dirac_(self.weight, groups=channels)
        self.made: dict[int, tuple[Tensor, Tensor]] = {}

    def train(self, mode: bool = True) -> "Depthwise":
        self.made = {}  # the weights are about to change, or have just changed
        return super().train(mode)

    def forward(self, x: Tensor, bits: Bits) -> Tensor:  # type: ignore[override]
        if not isinstance(bits, int):
            return super().forward(F.pad(x, (1, 1, 1, 1), mode="replicate"))
        weight, bias = self.rounded(bits)
        return depthwise_sums(self.padded(x), weight, bias).floor_()  # rounded: a half is added

    def rounded(self, bits: int) -> tuple[Tensor, Tensor]:
        """Weights, and biases with a half added, rounded to multiples of 2^-w. Each channel has the
        largest w that keeps its sums exact."""
        if bits not in self.made:
            fine = fixed_point(self.weight, WEIGHT_BITS, EXACT_UP_TO).flatten(1)
            bias = fixed_point(self.bias, bits + WEIGHT_BITS, EXACT_UP_TO) / 2**WEIGHT_BITS
            # A bound of the sums, computed without rounding errors, which differ among machines;
            # rounding a weight may add half of 2^-w to it.
            bound = ACTIVATION_LIMIT * fine.abs().sum(1) / 2**WEIGHT_BITS + bias.abs() + 1
            room = EXACT_UP_TO - ACTIVATION_LIMIT * fine.shape[1] / 2
            w = torch.zeros_like(bound)
            for _ in range(WEIGHT_BITS):
                w += bound * 2 ** (w + 1) < room
            scale = 2 ** w[:, None]
            weight = (fine * (scale / 2**WEIGHT_BITS)).round() / scale
            bias = (bias[:, None] * scale).round() / scale + 0.5
            self.made[bits] = weight.float().view_as(self.weight), bias.float().flatten()
        return self.made[bits]

    def padded(self, x: Tensor) -> Tensor:
        """x [B, C, H, W], clipped, between copies of its last rows and columns."""
        batch, channels, height, width = x.shape
        room = x.new_empty(batch, height + 2, width + 2, channels).permute(0, 3, 1, 2)
        limit = ACTIVATION_LIMIT
        torch.clamp(x, -limit, limit, out=room[:, :, 1:-1, 1:-1])
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

    def forward(self, x: Tensor, quality: Tensor, bits: Bits | None = None) -> Tensor:
        if not isinstance(bits, int):
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
