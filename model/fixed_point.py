"""Layers of the entropy model, whose numbers encoder and decoder must agree on.

Each layer runs in two arithmetics, told apart by ``bits``, the fraction bits of activations:

* Floating point, for training and for the encoder's search; ``bits`` is a tensor [B, 1, 1, 1].
* Fixed point, for coding, ``bits`` is an int: a tensor holds integers, as float32, that stand for
  multiples of 2^-bits. All sums are exact, see model/integer_products.py: in any order, on any
  processor, with any number of threads. In memory, the channels of a position lie side by side.

Inputs of 1x1 convolutions are rounded to 8 bits, in training as in coding: Jacob et al. 2018,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference",
https://arxiv.org/abs/1712.05877. Weights have 13 bits, in two halves: with 7, low qualities would
take 4 % more bytes. Ballé, Johnston, Minnen 2019, "Integer networks for data compression with
latent-variable models", https://openreview.net/forum?id=S1zz2i0cY7.
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

FRACTION_BITS = 6  # latents, means and scale logits are multiples of 2^-FRACTION_BITS
WEIGHT_BITS = 12  # fraction bits of the weights of latents, and the most of depthwise convolutions
ACTIVATION_LIMIT = 2**11 - 1  # activations are clipped to +-ACTIVATION_LIMIT
LATENT_LIMIT = 2**15 - 1  # latents, as inputs of the context model, are clipped to +-LATENT_LIMIT
MAX_BIAS = EXACT_UP_TO // 2  # beside 8-bit products, in units of their sums
FINE_STEPS = 64  # fine steps of a weight in a coarse one
BIT_LEVELS, MOST_BITS = 4, 7  # numbers of fraction bits that activations may have: 4 to 7
LARGEST_DECAY = 0.999  # factor of a channel's largest value, where a training step has smaller ones
MIN_LARGEST = 2.0**-3
STEP_ROOM = 1.25  # factor of the largest values: clipping costs far more than rounding

Bits = int | Tensor  # fraction bits: an int in fixed point, [B, 1, 1, 1] in floating point


def activation_bits(quality: int) -> int:
    """The fraction bits of activations, 4 to 7. Latents are in units of the quantization step, so
    activations grow with the quality."""
    return MOST_BITS - BIT_LEVELS * (quality - MIN_QUALITY) // (MAX_QUALITY - MIN_QUALITY + 1)


def at_each_level(quality: int) -> list[int]:
    """Qualities, one for each number of fraction bits. Each is as far above the lowest quality with
    its number as ``quality`` is."""
    span = (MAX_QUALITY - MIN_QUALITY + 1) // BIT_LEVELS
    first = MIN_QUALITY + (quality - MIN_QUALITY) % span
    return [first + level * span for level in range(BIT_LEVELS)]


def soft_bits(quality: Tensor) -> Tensor:
    """``activation_bits`` of each quality [B], for layers in floating point: [B, 1, 1, 1]."""
    above, span = quality.round().long() - MIN_QUALITY, MAX_QUALITY - MIN_QUALITY + 1
    bits = MOST_BITS - torch.div(BIT_LEVELS * above, span, rounding_mode="floor")
    return bits.float()[:, None, None, None]


def fixed_point(x: Tensor, bits: int, limit: int) -> Tensor:
    """``x`` times 2^bits, rounded and clipped to +-limit: integers, as float64 on the CPU."""
    return (x.detach().cpu().double() * 2.0**bits).round().clamp(-limit, limit)


class Rounding(nn.Module):
    """The rounding of activations to 8 bits, in steps for each channel and number of bits.

    largest: float32 [BIT_LEVELS, C], the largest values in multiples of 2^-bits, for each number of
    bits. In training, ``follow`` adapts them; rare crops, such as those of pure colours, make them
    too large, so that a codec is calibrated afterwards.
    """

    largest: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("largest", torch.full((BIT_LEVELS, channels), MIN_LARGEST))

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        """x [B, C, H, W], rounded and clipped; gradients pass through the rounding."""
        largest = self.largest[level_of(bits).flatten()][:, :, None, None]
        step = (largest * 2.0**-bits * (STEP_ROOM / INPUT_LIMIT)).to(x.dtype)
        return round_straight_through((x / step).clamp(-INPUT_LIMIT, INPUT_LIMIT)) * step

    @torch.no_grad()
    def follow(self, x: Tensor, bits: Tensor, decay: float) -> None:
        """Adapt to the values of x [B, C, H, W]: to larger ones at once, to smaller ones by
        ``decay``."""
        most = (x * 2.0**bits).abs().amax((2, 3)).float().clamp(MIN_LARGEST, ACTIVATION_LIMIT)
        here = level_of(bits).flatten() == torch.arange(BIT_LEVELS, device=x.device)[:, None]
        seen = torch.where(here[:, :, None], most, 0.0).amax(1)
        finer = torch.where(here.any(1, keepdim=True), decay * self.largest, self.largest)
        self.largest.copy_(torch.maximum(finer.clamp(min=MIN_LARGEST), seen))

    def steps(self, bits: int) -> Tensor:
        """Steps in multiples of 2^-bits, float64 [C]. Double precision, an operation at a time,
        rounds alike on every machine."""
        return self.largest[MOST_BITS - bits].cpu().double() * STEP_ROOM / INPUT_LIMIT


def level_of(bits: Tensor) -> Tensor:
    """The number, from 0 on, of these fraction bits of activations."""
    return (MOST_BITS - bits).long()


class Integers(NamedTuple):
    """A 1x1 convolution in fixed point: ``scale * (weight x + bias)``, where x is the input times
    ``factor``, rounded to 8 bits, and the weight is ``coarse + fine / FINE_STEPS``.

    factor: float32 [C]; coarse, fine: int8 [D, K], where K is a multiple of CHANNEL_MULTIPLE; bias:
    int32 [D], in multiples of 1 / FINE_STEPS; scale: float32 [D]. No sum reaches 2^31.
    """

    factor: Tensor
    coarse: Tensor
    fine: Tensor
    bias: Tensor
    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """x [P, C] to [P, D], integers in multiples of 2^-bits."""
        x = (x * self.factor).clamp_(-INPUT_LIMIT, INPUT_LIMIT).round_().to(torch.int8)
        if padding := self.coarse.shape[1] - x.shape[1]:
            x = F.pad(x, (0, padding))
        product, shape = matrix_product(x.device), (len(x), len(self.bias))
        total, more = (x.new_empty(shape, dtype=torch.int32) for _ in range(2))
        product(x, self.coarse.T, total)
        product(x, self.fine.T, more)
        total = more.add_(total, alpha=FINE_STEPS).add_(self.bias)
        return total.float().mul_(self.scale).round_()

    def part(self, outputs: int | None, finer: int) -> "Integers":
        """The first ``outputs``, in multiples of 2^-(bits + finer)."""
        coarse, fine, bias, scale = (numbers[:outputs] for numbers in self[1:])
        return Integers(self.factor, coarse, fine, bias, scale * 2.0**finer)


class Pointwise(Conv1x1):
    """1x1 convolution, [B, C, H, W] to [B, D, H, W]."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels)
        self.made: dict[int, Integers] = {}
        self.rounding = Rounding(channels)
        self.measured = False

    def train(self, mode: bool = True) -> "Pointwise":
        self.made = {}  # the weights are about to change, or have just changed
        self.measured = False
        return super().train(mode)

    def measure(self) -> None:
        """Choose the steps of the rounding anew, by the largest values from here to ``eval``."""
        self.rounding.largest.fill_(MIN_LARGEST)
        self.measured = True

    def forward(  # type: ignore[override]
        self, x: Tensor, bits: Bits, outputs: int | None = None, out_bits: int | None = None
    ) -> Tensor:
        """``outputs``: how many of the outputs are computed, from the first on. ``out_bits``: the
        fraction bits of the result in fixed point, if not ``bits``."""
        if isinstance(bits, int):
            layer = self.integers(bits)
            if outputs is not None or out_bits is not None:
                layer = layer.part(outputs, 0 if out_bits is None else out_bits - bits)
            total = layer(x[0].permute(1, 2, 0).flatten(0, 1))
            return total.view(1, *x.shape[2:], -1).permute(0, 3, 1, 2)
        if self.measured or (self.training and self.weight.requires_grad):
            self.rounding.follow(x, bits, decay=1 if self.measured else LARGEST_DECAY)
        return conv1x1(self.rounding(x, bits), self.weight[:outputs], self.bias[:outputs])

    def integers(self, bits: int) -> Integers:
        """The layer's numbers for inputs of so many fraction bits."""
        if bits not in self.made:
            steps = self.rounding.steps(bits)
            weight = self.weight.detach().cpu().double().flatten(1) * steps
            bias = self.bias.detach().cpu().double() * 2.0**bits
            # Where weights are next to nothing, the bias decides on the unit.
            unit = torch.maximum(weight.abs().amax(1) / WEIGHT_LIMIT, bias.abs() / MAX_BIAS)
            unit = unit.clamp(min=2.0**-40)
            weight = F.pad(weight / unit[:, None], (0, -len(steps) % CHANNEL_MULTIPLE))
            coarse = weight.round()
            fine = ((weight - coarse) * FINE_STEPS).round()
            self.made[bits] = Integers(
                factor=(1 / steps).float(),
                coarse=coarse.to(torch.int8),
                fine=fine.to(torch.int8),
                bias=(FINE_STEPS * bias / unit).round().int(),
                scale=(unit / FINE_STEPS).float(),
            )
        return self.made[bits]


class LatentPointwise(Conv1x1):
    """1x1 convolution of latents, [B, C, H, W] to [B, D, H, W]. x may have fewer channels than the
    layer: the others are taken as zero. In fixed point, x is in multiples of 2^-FRACTION_BITS, and
    sums are float64 ones of integers below 2^53."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels)
        self.made: dict[int, tuple[Tensor, Tensor]] = {}

    def train(self, mode: bool = True) -> "LatentPointwise":
        self.made = {}  # the weights are about to change, or have just changed
        return super().train(mode)

    def forward(self, x: Tensor, bits: Bits) -> Tensor:  # type: ignore[override]
        """x [B, C, H, W] to [B, D, H, W]. In fixed point, B is 1, and results are integers as
        float32, in multiples of 2^-bits."""
        if not isinstance(bits, int):
            return conv1x1(x, self.weight[:, : x.shape[1]], self.bias)
        weight, bias = self.rounded(bits)
        y = x[0].permute(1, 2, 0).flatten(0, 1).double().clamp_(-LATENT_LIMIT, LATENT_LIMIT)
        with torch.autocast(x.device.type, enabled=False):
            total = torch.addmm(bias, y, weight[:, : x.shape[1]].T)
        total = total.mul_(2.0 ** (bits - FRACTION_BITS - WEIGHT_BITS)).round_().float()
        return total.view(1, *x.shape[2:], -1).permute(0, 3, 1, 2)

    def rounded(self, bits: int) -> tuple[Tensor, Tensor]:
        """Weights [D, C] in multiples of 2^-WEIGHT_BITS, and biases [D], in units of the sums."""
        if bits not in self.made:
            weight = fixed_point(self.weight, WEIGHT_BITS, EXACT_UP_TO).flatten(1)
            bias = fixed_point(self.bias, FRACTION_BITS + WEIGHT_BITS, EXACT_UP_TO**2)
            self.made[bits] = weight, bias
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
        """x [B, C, H, W] to the same shape. In fixed point, x and results are integers as float32,
        in multiples of 2^-bits, and x is clipped to +-ACTIVATION_LIMIT. ArithmeticError if
        sums are not exact on x's device."""
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
        """x [B, C, H, W] and quality [B] in 1 to 100 to [B, C, H, W]. If ``bits`` is an int, x and
        results are integers as float32, in multiples of 2^-bits."""
        if not isinstance(bits, int):
            return x + interpolated(self.points, quality)
        return x + self.bias(quality, bits)

    def bias(self, quality: Tensor, bits: int) -> Tensor:
        """``b`` in fixed point, [B, C, 1, 1], interpolated linearly in integers."""
        points = fixed_point(self.points, bits, EXACT_UP_TO // 4).long()
        return interpolated_integers(points, quality.long()).float()[:, :, None, None]


def interpolated_integers(points: Tensor, quality: Tensor) -> Tensor:
    """Vectors int64 [B, C] at quality int64 [B] in 1 to 100: linear interpolation between the rate
    points, int64 [P, C], rounded down."""
    span = MAX_QUALITY - MIN_QUALITY
    position = (quality - MIN_QUALITY) * (len(points) - 1)
    low = (position // span).clamp(max=len(points) - 2)
    weight = (position - span * low)[:, None]
    total = points[low] * (span - weight) + points[low + 1] * weight
    return torch.div(total, span, rounding_mode="floor")
