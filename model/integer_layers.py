"""Layers of 8-bit integers: the same numbers on every machine, to the bit.

Only integers are added up, see model/integer_products.py. Between two sums there are operations on
single numbers, each a torch call of its own that rounds once as IEEE 754 says: a product with a
scale, a sum of two, a clamp, a rounding. No call multiplies and adds at once where that could
round, since some processors would then round once and others twice.

Each layer computes its numbers in two ways. ``layer(x, work)`` is for decoding: tensors are
[H, W, C] or [P, C], positions and then channels, and pieces that fit in the cache go through
several operations into the buffers of ``work``. ``layer.differentiable(x)`` takes and returns
[B, C, H, W]; gradients pass straight through roundings.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.integer_products import (
    CHANNEL_MULTIPLE,
    DEPTHWISE_LIMIT,
    EXACT_UP_TO,
    INPUT_LIMIT,
    WEIGHT_LIMIT,
    depthwise_sums,
    fine_product,
    matrix_product,
)
from model.layers import conv1x1
from model.quantizers import round_straight_through
from model.tiles import padded

LARGEST_STORED_SCALE = 4096.0  # magnitude; a checkpoint holds no larger ones
WIDE_LIMIT = 127 * 128 + 63  # magnitude of inputs of 15 bits
PIECE_VALUES = 2**17  # values of a stream that are worked on at once: what fits in a core's cache
STRIP_VALUES = 2**19  # values for a depthwise convolution, which takes a while to start


class Workspace:
    """Buffers that stay from call to call: one of each name, and a view of it for each shape."""

    def __init__(self, device: torch.device):
        self.device = device
        self.product = matrix_product(device)
        self.buffers: dict[str, Tensor] = {}
        self.views: dict[tuple, Tensor] = {}

    def __call__(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """The buffer of a name, which always comes with the same type; its values are lost."""
        key = name, *shape
        if key not in self.views:
            size = math.prod(shape)
            if name not in self.buffers or self.buffers[name].numel() < size:
                self.buffers[name] = torch.empty(size, dtype=dtype, device=self.device)
                self.views = {k: v for k, v in self.views.items() if k[0] != name}
            self.views[key] = self.buffers[name][:size].view(shape)
        return self.views[key]


def pieces(rows: int, row_size: int, size: int) -> Iterator[tuple[int, int]]:
    """Nearly equal parts of ``rows``, start and end, of about ``size`` values at most."""
    count = min(rows, -(-rows * row_size // size))
    return pairwise(rows * i // count for i in range(count + 1))


# Roundings


def to_int8(x: Tensor, work: Workspace) -> Tensor:
    """x [P, C], which is changed, clipped and rounded: int8."""
    x.clamp_(-INPUT_LIMIT, INPUT_LIMIT).round_()
    return work("int8", torch.int8, *x.shape).copy_(x)


def to_stream(x: Tensor) -> Tensor:
    """x, which is changed, rounded and clipped to the limits of a residual stream."""
    return x.round_().clamp_(-DEPTHWISE_LIMIT, DEPTHWISE_LIMIT)


def to_limit(x: Tensor, limit: int) -> Tensor:
    """x clipped to +-limit and rounded, with the gradient of clipping."""
    return round_straight_through(x.clamp(-limit, limit))


# Checks of numbers from a file


def check_numbers(fits: bool) -> None:
    """ValueError unless ``fits``, the result of a check of numbers from a file."""
    if not fits:
        raise ValueError("the checkpoint's weights do not fit: sums would not be exact")


def within(x: Tensor, limit: float) -> bool:
    """Whether all numbers of x, of any shape, are finite and at most ``limit`` in magnitude."""
    return bool(x.isfinite().all()) and x.double().abs().max().item() <= limit


def is_scale(x: Tensor) -> bool:
    """Whether all numbers of x, of any shape, may be scales: 0 to LARGEST_STORED_SCALE."""
    return within(x, LARGEST_STORED_SCALE) and x.min().item() >= 0


# Layers


class IntegerPointwise(nn.Module):
    """A 1x1 convolution of integers: ``scale * (weight x + bias)``. weight: int8 [D, K] up to
    +-WEIGHT_LIMIT; bias: int32 [D], in units of the sums; scale: float32 [D]. ``limit``: of the
    magnitude of inputs. No sum reaches 2^24."""

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, channels: int, out_channels: int, limit: int = INPUT_LIMIT):
        super().__init__()
        self.limit = limit
        weight = torch.zeros(out_channels, channels, dtype=torch.int8)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.zeros(out_channels, dtype=torch.int32))
        self.register_buffer("scale", torch.zeros(out_channels))

    def forward(self, x: Tensor, work: Workspace) -> Tensor:
        """x [P, K], int8 or, up to FINE_LIMIT, float32, to float32 [P, D], which holds until the
        next call."""
        shape = len(x), len(self.bias)
        total = work("total", torch.int32, *shape)
        product = work.product if x.dtype == torch.int8 else fine_product(x.device)
        product(x, self.weight.T, total)
        total.add_(self.bias)
        return work("scaled", torch.float32, *shape).copy_(total).mul_(self.scale)

    def differentiable(self, x: Tensor) -> Tensor:
        """Integers x [B, K, H, W] to [B, D, H, W]."""
        total = conv1x1(x, self.weight.to(x.dtype)[:, :, None, None])
        return (total + self.bias.to(x.dtype)[:, None, None]) * self.scale[:, None, None]

    def check(self) -> None:
        """ValueError if a number is out of range."""
        most = (self.limit + 1) * self.weight.long().abs().sum(1) + self.bias.long().abs()
        fits = within(self.weight, WEIGHT_LIMIT) and most.max().item() < EXACT_UP_TO
        check_numbers(fits and is_scale(self.scale))


class IntegerResidualBlock(nn.Module):
    """``x + W2 clip(6 hardswish(a) * b)`` with ``a, b = W1 clip(dw(x))``, where clip also rounds.

    x is a residual stream: integers up to DEPTHWISE_LIMIT, as float32. weight: float32 [C, 1, 3, 3]
    and bias: float32 [C], of the depthwise convolution dw, for each channel multiples of a power of
    two, so that sums are exact. Beyond its borders, x is zero.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(channels, 1, 3, 3))
        self.register_buffer("bias", torch.zeros(channels))
        self.expand = IntegerPointwise(channels, 2 * channels)
        self.project = IntegerPointwise(channels, channels)

    def forward(self, x: Tensor, out: Tensor, work: Workspace) -> None:
        """x [H + 2, W, C], whose first and last rows are zero, to ``out``, likewise."""
        width, channels = x.shape[1:]
        for top, bottom in pieces(len(x) - 2, width * channels, STRIP_VALUES):
            y = self.depthwise(x[top : bottom + 2])
            old, new = x[top + 1 : bottom + 1], out[top + 1 : bottom + 1]
            y, old, new = (rows.view(-1, channels) for rows in (y, old, new))
            for start, end in pieces(len(y), channels, PIECE_VALUES):
                a, b = self.expand(to_int8(y[start:end], work), work).chunk(2, dim=1)
                gated = work("gated", torch.float32, *a.shape)
                torch.add(a, 3, out=gated).clamp_(0, 6).mul_(a).mul_(b)
                change = self.project(to_int8(gated, work), work).round_()
                torch.add(old[start:end], change, out=new[start:end])
                new[start:end].clamp_(-DEPTHWISE_LIMIT, DEPTHWISE_LIMIT)

    def depthwise(self, x: Tensor) -> Tensor:
        """x [h + 2, W, C] to [h, W, C]."""
        x = x[None].permute(0, 3, 1, 2)  # in this order torch sees that channels are last
        y = depthwise_sums(x, self.weight, self.bias, sides=1)
        return y[0].permute(1, 2, 0).contiguous()

    def differentiable(self, x: Tensor) -> Tensor:
        """The stream x [B, C, H, W] to the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            inner = F.conv2d(x, self.weight, self.bias, padding=1, groups=len(self.bias))
        a, b = self.expand.differentiable(to_limit(inner, INPUT_LIMIT)).chunk(2, dim=1)
        gated = to_limit((a + 3).clamp(0, 6) * a * b, INPUT_LIMIT)
        change = round_straight_through(self.project.differentiable(gated))
        return (x + change).clamp(-DEPTHWISE_LIMIT, DEPTHWISE_LIMIT)

    def check(self) -> None:
        """ValueError if a sum of the depthwise convolution may not be exact."""
        terms = torch.cat([self.weight.double().flatten(1), self.bias.double()[:, None]], dim=1)
        most = terms.abs() @ torch.tensor([DEPTHWISE_LIMIT] * 9 + [1.0], dtype=torch.float64)
        unit = 2.0 ** (most.clamp(min=2.0**-60).log2().floor() - 23)
        whole = terms / unit[:, None]
        check_numbers(within(terms, LARGEST_STORED_SCALE) and torch.equal(whole, whole.round()))


def new_stream(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Room for a stream between rows of zeros: float32 [height + 2, width, channels]."""
    stream = torch.empty(height + 2, width, channels, device=device)
    stream[0] = stream[-1] = 0
    return stream


def through(blocks: nn.ModuleList, x: Tensor, work: Workspace) -> Tensor:
    """The stream x [H + 2, W, C], which is changed, through residual ``blocks``."""
    if len(blocks):
        other = new_stream(len(x) - 2, x.shape[1], x.shape[2], x.device)
    for block in blocks:
        block(x, other, work)
        x, other = other, x
    return x


# Inputs of 15 bits


class Halves(NamedTuple):
    """Integers of 15 bits in two halves of 8 bits, ``128 high + low``; low is -64 to 63. both: int8
    [P, K + H], the low halves of all K channels, then the high ones of the first H channels. The
    other channels have high halves of zero."""

    both: Tensor
    channels: int  # K

    @property
    def high(self) -> Tensor:
        return self.both[:, self.channels :]


def split_halves(x: Tensor) -> Halves:
    """x [P, K], integers up to WIDE_LIMIT in magnitude as float32, which are changed."""
    high = (x + 64).mul_(1 / 128).floor_()
    used = high.any(0).nonzero()
    count = padded(int(used[-1]) + 1, CHANNEL_MULTIPLE) if len(used) else 0
    low = x.sub_(high, alpha=128)  # whole numbers: nothing is rounded
    return Halves(torch.cat([low, high[:, :count]], dim=1).to(torch.int8), x.shape[1])


class WidePointwise(nn.Module):
    """A 1x1 convolution, without bias, of inputs of 15 bits with weights of 13.

    A weight is ``scale * (coarse + fine / 128)``. Of the four products of halves, that of the two
    low ones is left out: a sum is ``coarse x + fine high``.
    coarse, fine: int8 [D, K] up to +-WEIGHT_LIMIT; scale: float32 [D].
    """

    coarse: Tensor
    fine: Tensor
    scale: Tensor

    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        for name in ("coarse", "fine"):
            weight = torch.zeros(out_channels, channels, dtype=torch.int8)
            self.register_buffer(name, weight)
        self.register_buffer("scale", torch.zeros(out_channels))

    def prepared(self, x: Halves, outputs: slice, unit: float) -> "PreparedWide":
        """The part of the layer that computes ``outputs`` of inputs in multiples of ``unit``, a
        power of two, with as many halves as x has."""
        coarse, high = self.coarse[outputs, : x.channels], x.high.shape[1]
        both = torch.cat([coarse, self.fine[outputs, :high]], dim=1)
        return PreparedWide(both.T, coarse[:, :high].contiguous().T, self.scale[outputs] * unit)

    def differentiable(self, x: Tensor, unit: Tensor) -> Tensor:
        """Integers x [B, K, H, W] in multiples of ``unit`` [B, 1, 1, 1] to [B, D, H, W]."""
        count = x.shape[1]
        with torch.autocast(x.device.type, enabled=False):
            if self.training:  # in float32 such sums are not exact, but close
                total = conv1x1(x, self.weight[:, :count, None, None].float())
            else:
                coarse, fine = (w.double()[:, :count, None, None] for w in (self.coarse, self.fine))
                high = ((x.detach() + 64) / 128).floor().double()
                total = (conv1x1(x.double(), coarse) + conv1x1(high, fine)).float()
            return total * (self.scale[:, None, None] * unit)

    @property
    def weight(self) -> Tensor:
        """Weights in multiples of the scale, [D, K]."""
        return self.coarse + self.fine / 128

    def check(self) -> None:
        """ValueError if a number is out of range."""
        limited = within(self.coarse, WEIGHT_LIMIT) and within(self.fine, WEIGHT_LIMIT)
        check_numbers(limited and is_scale(self.scale))


class PreparedWide(NamedTuple):
    """weight: int8 [K + H, D], for both halves; high: int8 [H, D]; scale: float32 [D]."""

    weight: Tensor
    high: Tensor
    scale: Tensor

    def __call__(self, x: Halves, start: int, end: int, work: Workspace) -> Tensor:
        """The outputs at positions ``start`` to ``end``, float32 [P, D], until the next call."""
        shape = end - start, len(self.scale)
        total = work("total", torch.int32, *shape)
        work.product(x.both[start:end], self.weight, total)
        if len(self.high):
            more = work("high", torch.int32, *shape)
            work.product(x.high[start:end], self.high, more)
            total.add_(more, alpha=128)
        return work("scaled", torch.float32, *shape).copy_(total).mul_(self.scale)
