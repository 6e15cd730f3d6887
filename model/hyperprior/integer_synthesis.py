"""The synthesis transform in integers: the same pixels on every machine, to the bit."""

from typing import cast

import torch
from torch import Tensor, nn

from model.fixed_point import FRACTION_BITS
from model.gains import LOG_BITS, MAX_LOG, gains
from model.hyperprior.transforms import BLOCK_SIDE, HyperpriorConfig, damped_inverse
from model.integer_layers import (
    LARGEST_STORED_SCALE,
    PIECE_VALUES,
    WIDE_LIMIT,
    Halves,
    IntegerPointwise,
    IntegerResidualBlock,
    WidePointwise,
    Workspace,
    check_numbers,
    is_scale,
    new_stream,
    pieces,
    split_halves,
    through,
    to_int8,
    to_limit,
    to_stream,
    within,
)
from model.integer_products import CHANNEL_MULTIPLE, DEPTHWISE_LIMIT, FINE_LIMIT, INPUT_LIMIT
from model.limits import MAX_QUALITY, MIN_QUALITY
from model.quantizers import round_straight_through
from model.tiles import Tile, padded

STAGES = 16, 8  # pixels of a position of the two residual streams
BLOCK_VALUES = 3 * BLOCK_SIDE**2  # values of the pixels of a position of the latent
WHITE_LEVEL = 255
# Steps of the stream at 1/8 in one of the inputs of up1. These have more than the 8 bits of other
# layers, which would make a quarter of all noise.
INTO_FINE = 8


def latent_bits(quality: Tensor) -> Tensor:
    """The fraction bits of latents as inputs of the synthesis, in units of pixels, at quality [B]:
    int64 [B], 8 to 10."""
    above = quality.round().long() - MIN_QUALITY
    return 8 + torch.div(3 * above, MAX_QUALITY - MIN_QUALITY + 1, rounding_mode="floor")


class IntegerSynthesis(nn.Module):
    """A latent to pixels in integers: the mirror image of the analysis, with the gate hardswish.

    first: to the stream at 1/16 and to the linear part of the pixels, [c16 + BLOCK_VALUES].
    first_bias: float32, in steps of the stream and in levels of a pixel.
    gain, gain16: tables for ``gains``. ranges: float32 [latent], powers of two: a step of channel
    k is ``ranges[k] * 2^-latent_bits``. into8: float32 [c16], steps of the stream in those of the
    inputs of up8, at gain 1.
    Pixels come in the order [2, 2, 8, 8, 3], the outputs of up1 in [8, 8, 3], of up8 in [2, 2, c8].
    steps: of the activations that are rounded, float32 [C] each. Only further training needs them.
    """

    gain: Tensor
    ranges: Tensor
    first_bias: Tensor
    gain16: Tensor
    into8: Tensor

    def __init__(self, config: HyperpriorConfig):
        super().__init__()
        c16, c8, latent = config.channels16, config.channels8, config.latent
        at16, at8 = config.synthesis_blocks
        for name, channels in (("gain", latent), ("gain16", c16)):
            table = torch.zeros(config.rate_points, channels, dtype=torch.int32)
            self.register_buffer(name, table)
        self.register_buffer("ranges", torch.ones(latent))
        self.first = WidePointwise(latent, c16 + BLOCK_VALUES)
        self.register_buffer("first_bias", torch.zeros(c16 + BLOCK_VALUES))
        self.blocks16 = nn.ModuleList(IntegerResidualBlock(c16) for _ in range(at16))
        self.register_buffer("into8", torch.zeros(c16))
        self.up8 = IntegerPointwise(c16, 4 * c8)
        self.blocks8 = nn.ModuleList(IntegerResidualBlock(c8) for _ in range(at8))
        self.up1 = IntegerPointwise(c8, BLOCK_VALUES // 4, FINE_LIMIT)
        self.steps = new_steps(config)

    def check(self) -> None:
        """ValueError if the numbers, from a file, are not those of an exact transform."""
        for module in self.modules():
            if isinstance(module, IntegerPointwise | IntegerResidualBlock | WidePointwise):
                module.check()
        logs = within(self.gain, MAX_LOG << LOG_BITS) and within(self.gain16, MAX_LOG << LOG_BITS)
        scales = is_scale(self.into8) and is_scale(self.ranges)
        exact = bool((torch.frexp(self.ranges)[0] == 0.5).all()) and self.ranges.min().item() >= 1
        check_numbers(logs and scales and exact and within(self.first_bias, LARGEST_STORED_SCALE))

    # Decoding

    def pixels(self, y: Tensor, quality: Tensor, region: Tile) -> Tensor:
        """y [K, h, w], the first K channels in multiples of 2^-FRACTION_BITS, and quality [1] to
        the pixels of a ``region`` of [16 h, 16 w], uint8 [height, width, 3]."""
        height, width = y.shape[1:]
        whole = Tile(0, BLOCK_SIDE * height, 0, BLOCK_SIDE * width)
        work, unit = Workspace(y.device), 2.0 ** -latent_bits(quality).item()
        x = self.latent(y, quality, unit)
        stream = self.start(x, height, width, unit, work)
        stream = through(self.blocks16, stream, work)[1:-1]
        margin = padded(len(self.blocks8) * BLOCK_SIDE // 2, BLOCK_SIDE)
        around = region.grown(margin, whole.bottom, whole.right)
        stream = self.upsampled(part(around, stream, whole), quality, work)
        stream = through(self.blocks8, stream, work)[1:-1]
        if region != whole:
            both = part(region, x.both.view(height, width, -1), whole)
            x = Halves(both.reshape(-1, both.shape[2]), x.channels)
        return self.image(x, part(region, stream, around), unit, work)

    def latent(self, y: Tensor, quality: Tensor, unit: float) -> Halves:
        """y [K, h, w] times the gains, in multiples of ``unit`` and of the ranges."""
        steps = gains(self.gain, quality)[0] / self.ranges / (unit * 2**FRACTION_BITS)
        x = y.new_zeros(y[0].numel(), padded(len(y), CHANNEL_MULTIPLE))
        torch.mul(y.flatten(1).T, steps[: len(y)], out=x[:, : len(y)])
        return split_halves(x.round_().clamp_(-WIDE_LIMIT, WIDE_LIMIT))

    def start(self, x: Halves, height: int, width: int, unit: float, work: Workspace) -> Tensor:
        """The stream at 1/16, [height + 2, width, C]."""
        channels = len(self.into8)
        stream = new_stream(height, width, channels, x.both.device)
        flat = stream[1:-1].view(-1, channels)
        first = self.first.prepared(x, slice(channels), unit)
        for start, end in pieces(len(flat), channels, PIECE_VALUES):
            values = first(x, start, end, work)
            to_stream(torch.add(values, self.first_bias[:channels], out=flat[start:end]))
        return stream

    def upsampled(self, x: Tensor, quality: Tensor, work: Workspace) -> Tensor:
        """The stream at 1/16, [h, w, C] without rows of zeros, to that at 1/8, between them."""
        height, width, channels = x.shape
        outputs = len(self.up8.bias) // 4
        stream = new_stream(2 * height, 2 * width, outputs, x.device)
        into8 = self.into8 * gains(self.gain16, quality)[0]
        for top, bottom in pieces(height, width * channels, PIECE_VALUES):
            inputs = work("gated", torch.float32, bottom - top, width, channels)
            torch.mul(x[top:bottom], into8, out=inputs)
            y = to_stream(self.up8(to_int8(inputs.view(-1, channels), work), work))
            y = y.view(-1, width, 2, 2 * outputs).transpose(1, 2)
            stream[1 + 2 * top : 1 + 2 * bottom].view(-1, 2, width, 2 * outputs).copy_(y)
        return stream

    def image(self, x: Halves, deep: Tensor, unit: float, work: Workspace) -> Tensor:
        """The sum of the linear part, from x of h w positions, and of the deep one, from the stream
        at 1/8, [2 h, 2 w, C]: uint8 [16 h, 16 w, 3]."""
        height, width, channels = len(deep) // 2, deep.shape[1] // 2, deep.shape[2]
        outputs = slice(len(self.into8), None)
        first, bias = self.first.prepared(x, outputs, unit), self.first_bias[outputs]
        image = torch.empty(16 * height, 16 * width, 3, dtype=torch.uint8, device=deep.device)
        for top, bottom in pieces(height, width * BLOCK_VALUES, PIECE_VALUES):
            linear = first(x, top * width, bottom * width, work)
            linear = torch.add(linear, bias, out=work("linear", torch.float32, *linear.shape))
            linear = linear.view(-1, width, 2, BLOCK_VALUES // 2).transpose(1, 2)
            inputs = work("gated", torch.float32, 2 * (bottom - top), 2 * width, channels)
            torch.mul(deep[2 * top : 2 * bottom], 1 / INTO_FINE, out=inputs)
            inputs.round_().clamp_(-FINE_LIMIT, FINE_LIMIT)
            y = self.up1(inputs.view(-1, channels), work)
            y.view(-1, 2, width, BLOCK_VALUES // 2).add_(linear)
            y = work("pixels", torch.uint8, *y.shape).copy_(y.clamp_(0, WHITE_LEVEL).round_())
            rows = image[16 * top : 16 * bottom].view(-1, 8, 2 * width, 24)
            rows.copy_(y.view(-1, 2 * width, 8, 24).transpose(1, 2))
        return image

    # The encoder's gradients

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """y_hat [B, K, H/16, W/16] in quantization steps and quality [B] to x_hat [B, 3, H, W],
        differentiable: about 0 to 1, neither clipped nor rounded to levels. In float32 and outside
        of training, these are the numbers that ``pixels`` rounds, divided by 255."""
        count, unit = y_hat.shape[1], 2.0 ** -latent_bits(quality)[:, None, None, None].float()
        steps = (gains(self.gain, quality) / self.ranges)[:, :, None, None]
        steps = steps / (unit * 2**FRACTION_BITS)
        y = round_straight_through(y_hat * 2**FRACTION_BITS) * steps[:, :count]
        first = self.first.differentiable(to_limit(y, WIDE_LIMIT), unit)
        first = first + self.first_bias[:, None, None]
        c16 = len(self.into8)
        x = to_limit(first[:, :c16], DEPTHWISE_LIMIT)
        x = differentiable(self.blocks16, x)
        into8 = (self.into8 * gains(self.gain16, quality))[:, :, None, None]
        x = to_limit(x * into8, INPUT_LIMIT)
        x = from_positions(to_limit(self.up8.differentiable(x), DEPTHWISE_LIMIT), 2)
        x = differentiable(self.blocks8, x)
        x = to_limit(x / INTO_FINE, FINE_LIMIT)
        deep = from_positions(self.up1.differentiable(x).float(), 8)
        linear = from_positions(from_positions(first[:, c16:].float(), 2), 8)
        return (deep + linear) / WHITE_LEVEL

    def linear_part(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [3 * 16^2, M] and bias [3 * 16^2] of the linear transform of y_hat at quality [1]
        to the pixels of a block, in the order [3, 16, 16]."""
        bias = from_blocks(self.first_bias[len(self.into8) :], BLOCK_SIDE) / WHITE_LEVEL
        return self.linear_weight() * gains(self.gain, quality), bias

    def linear_weight(self) -> Tensor:
        """The weight of ``linear_part`` for a latent that is multiplied with its gains."""
        c16 = len(self.into8)
        weight = self.first.weight[c16:] * self.first.scale[c16:, None]
        return from_blocks(weight, BLOCK_SIDE) / self.ranges / WHITE_LEVEL

    def inverse(self, error: Tensor, quality: Tensor) -> Tensor:
        """The change of y_hat [B, M, H/16, W/16] that changes x_hat by ``error``, by damped least
        squares, as if the linear transform were all there is. Each position of ``error`` holds the
        pixels of a block, [B, 3 * 16^2, H/16, W/16]."""
        inverse = damped_inverse(self.linear_weight(), error)
        return inverse.div_(gains(self.gain, quality)[:, :, None, None])


def from_blocks(x: Tensor, side: int) -> Tensor:
    """x [3 * side^2, ...] in the order of ``IntegerSynthesis``, [side / 8, side / 8, 8, 8, 3], to
    the order [3, side, side]."""
    x = x.unflatten(0, (side // 8, side // 8, 8, 8, 3))
    return x.movedim((0, 1, 2, 3, 4), (1, 3, 2, 4, 0)).flatten(0, 4)


def new_steps(config: HyperpriorConfig) -> nn.Module:
    """Room for the steps of the activations that are rounded, [C] each, by their names."""
    c16, c8 = config.channels16, config.channels8
    sizes = {"stream16": c16, "stream8": c8, "up8": c16, "range": config.latent}
    for stage, size, count in zip(STAGES, (c16, c8), config.synthesis_blocks):
        for i in range(count):
            sizes[f"depthwise{stage}_{i}"] = sizes[f"gate{stage}_{i}"] = size
    steps = nn.Module()
    for name, size in sizes.items():
        steps.register_buffer(name, torch.ones(size))
    return steps


def differentiable(blocks: nn.ModuleList, x: Tensor) -> Tensor:
    """The stream x [B, C, H, W] through residual ``blocks``."""
    for block in blocks:
        x = cast(IntegerResidualBlock, block).differentiable(x)
    return x


def part(tile: Tile, x: Tensor, origin: Tile) -> Tensor:
    """The tile's part of x [H, W, C], which covers ``origin``."""
    return tile.crop(x.permute(2, 0, 1), origin).permute(1, 2, 0)


def from_positions(x: Tensor, side: int) -> Tensor:
    """[B, side * side * C, H, W], ordered by place and then by channel, to [B, C, side * H,
    side * W]."""
    x = x.unflatten(1, (side, side, -1)).permute(0, 3, 4, 1, 5, 2)
    return x.flatten(4, 5).flatten(2, 3)
