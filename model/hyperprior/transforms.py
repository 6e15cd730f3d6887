"""The hyperprior codec's configuration and its transforms."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.codec import check_range
from model.hyperprior.coder import CHANNEL_STEP, Y_STRIDE
from model.layers import Conv1x1, Down, QualityTable, ResidualBlock, conv1x1
from model.quantizers import CURVATURE
from model.rounded_blocks import RoundedBlocks

BLOCK_SIDE = Y_STRIDE  # side of the blocks of the linear transforms
# Bounds of the residual blocks, see ``ResidualBlock``. In the synthesis, photographs come close to
# theirs; three times higher, fine regular textures, such as cloth, could become blocks of noise.
ANALYSIS_BOUND, SYNTHESIS_BOUND, HYPER_BOUND = 0.25, 0.35, 128.0
FINE_CHANNELS = 128  # first channels of y, whose values are too large for bfloat16 in training too
CHANNELS_AT_ONCE = 128  # channels of y that the encoder computes before it asks whether to go on
CONTEXT_SHARE = 0.2  # bits of a symbol with its context, relative to its bits without
INTEGER_STEP = 8  # channels are multiples: with others, libraries of 8-bit products fail
INVERSE_DAMPING = 0.3  # beside the linear synthesis's singular values, about 1 to 2.5

Blocks = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HyperpriorConfig:
    """The sizes of the hyperprior codec's networks. ValueError if a field is out of range."""

    channels8: int = 160  # channels of the transforms at 1/8 of the resolution
    channels16: int = 320  # channels of the transforms at 1/16
    latent: int = 768  # channels of y, at 1/16, in the order of their use
    hyper: int = 64  # channels of z, at 1/64
    context: int = 160  # channels of the entropy model's networks
    analysis_blocks: tuple[int, int] = (2, 4)  # residual blocks at 1/8 and at 1/16
    synthesis_blocks: tuple[int, int] = (6, 4)  # residual blocks at 1/16 and at 1/8
    rate_points: int = 8

    def __post_init__(self):
        for name in ("channels8", "channels16", "latent", "hyper", "context"):
            check_range(name, getattr(self, name), 1, 1024)
        for name in ("analysis_blocks", "synthesis_blocks"):
            check_range(name, getattr(self, name), 0, 16, length=2)
        check_range("rate_points", self.rate_points, 2, 64)
        if self.channels8 % INTEGER_STEP or self.channels16 % INTEGER_STEP:
            raise ValueError(f"the configuration's channels are not multiples of {INTEGER_STEP}")
        if self.latent % CHANNEL_STEP or self.latent > 3 * BLOCK_SIDE**2:
            multiple = f"a multiple of {CHANNEL_STEP} up to {3 * BLOCK_SIDE**2}"
            raise ValueError(f"the configuration's latent is not {multiple}")


def blocks(count: int, channels: int, bound: float) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, bound) for _ in range(count)))


class AnalysisTransform(nn.Module):
    """x [B, 3, H, W] in 0 to 1 to y [B, M, H/16, W/16], in units of the quantization step. The sum
    of a linear block transform and a deep residual network. The linear transform is the DCT when
    training starts; the network learns to improve on it."""

    def __init__(self, config: HyperpriorConfig):
        super().__init__()
        at8, at16 = config.analysis_blocks
        self.down8 = Down(3, config.channels8, 8)
        self.blocks8 = blocks(at8, config.channels8, ANALYSIS_BOUND)
        self.down16 = Down(config.channels8, config.channels16)
        self.gain16 = QualityTable(config.rate_points, config.channels16)
        self.blocks16 = blocks(at16, config.channels16, ANALYSIS_BOUND)
        self.latent = Conv1x1(config.channels16, config.latent)
        self.linear = Down(3, config.latent, BLOCK_SIDE)
        self.gain = QualityTable(config.rate_points, config.latent)
        self.made: list[RoundedBlocks] = []

    def train(self, mode: bool = True) -> "AnalysisTransform":
        self.made = []  # the weights are about to change, or have just changed
        return super().train(mode)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        inputs = self.inputs(x, quality, self.blocks8, self.blocks16)
        with torch.autocast(x.device.type, enabled=False):
            y = self.channels(*inputs, quality, slice(0, FINE_CHANNELS))
        if self.latent.out_channels > FINE_CHANNELS:
            others = self.channels(*inputs, quality, slice(FINE_CHANNELS, None))
            y = torch.cat([y, others.float()], dim=1)
        return y

    def inputs(
        self, x: Tensor, quality: Tensor, blocks8: Blocks, blocks16: Blocks
    ) -> tuple[Tensor, Tensor]:
        """x to the inputs of the last layers: the deep network's output, and blocks of pixels."""
        x = x.float() - 0.5
        deep = blocks8(self.down8(x))
        deep = blocks16(self.down16(deep) * self.gain16(quality).exp())
        return deep.float(), self.linear[0](x / BLOCK_SIDE)

    def channels(self, deep: Tensor, pixels: Tensor, quality: Tensor, part: slice) -> Tensor:
        """The channels ``part`` of y, [B, C, H/16, W/16]."""
        y = conv1x1(deep, self.latent.weight[part], self.latent.bias[part])
        y = y + conv1x1(pixels, self.linear.conv.weight[part], self.linear.conv.bias[part])
        return y * self.gain(quality)[:, part].exp()

    def used(self, x: Tensor, quality: Tensor) -> Tensor:
        """y [1, K, H/16, W/16] of x [1, 3, H, W], as far as its channels are worth coding. Channels
        are computed part by part, up to the first part that is not worth it."""
        if not self.made:
            self.made = [RoundedBlocks(blocks) for blocks in (self.blocks8, self.blocks16)]
        inputs = self.inputs(x, quality, *self.made)
        parts = []
        for start in range(0, self.latent.out_channels, CHANNELS_AT_ONCE):
            parts.append(self.channels(*inputs, quality, slice(start, start + CHANNELS_AT_ONCE)))
            if not (parts[-1].abs() > 1).any():
                break
        y = torch.cat(parts, dim=1)
        return y[:, : used_channels(y).item()]


def damped_inverse(weight: Tensor, error: Tensor) -> Tensor:
    """The inputs [B, M, h, w] of a 1x1 convolution with ``weight`` [N, M] whose outputs are
    ``error`` [B, N, h, w], by damped least squares."""
    with torch.autocast(error.device.type, enabled=False):
        damping = INVERSE_DAMPING**2 * torch.eye(len(weight.T), device=error.device)
        square = weight.T @ weight + damping
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(square).L) @ weight.T
        return conv1x1(error, inverse[:, :, None, None])


class HyperAnalysis(nn.Module):
    """y [B, K, H/16, W/16], the first K channels, to z [B, Z, H/64, W/64]."""

    def __init__(self, config: HyperpriorConfig):
        super().__init__()
        width = config.context
        self.gain = QualityTable(config.rate_points, config.latent)
        self.layers = nn.Sequential(
            Conv1x1(config.latent, width),
            ResidualBlock(width, HYPER_BOUND),
            Down(width, width),
            ResidualBlock(width, HYPER_BOUND),
            Down(width, config.hyper),
        )

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        return self.layers(y * self.gain(quality)[:, : y.shape[1]].exp()).float()


def used_channels(y: Tensor) -> Tensor:
    """The number of channels of y [B, M, h, w] that are worth coding, in steps of CHANNEL_STEP:
    int64 [B]. A channel is worth the distortion that it takes away, in bits (see CURVATURE), less
    the bits of its symbols: their places where they are not zero, their signs and magnitudes."""
    symbols = y.round()
    # y^2 - (y - symbols)^2, with few copies of y
    saved = CURVATURE / 2 * ((2 * y - symbols) * symbols).sum((2, 3))
    magnitude = symbols.abs_()
    share = magnitude.count_nonzero((2, 3)) / y[0, 0].numel()
    entropy = torch.special.entr(share) + torch.special.entr(1 - share)
    bits = magnitude.mul_(2).clamp_(min=1).log2_().sum((2, 3))  # clamped first: log2(0) is slow
    bits = bits + entropy / math.log(2) * y[0, 0].numel()
    total, last = (saved - CONTEXT_SHARE * bits).cumsum(1).max(1)
    count = torch.where(total > 0, last + 1, 1)
    return -(-count // CHANNEL_STEP) * CHANNEL_STEP
