"""The deep codec's transforms, from pixels to its latents and back."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from model.layers import Conv1x1, Down, QualityTable, ResidualBlock, Up, conv1x1
from model.quantizers import CURVATURE

if TYPE_CHECKING:
    from model.hyperprior.network import HyperpriorConfig

BLOCK = 16  # side of the blocks of the linear transforms, and the stride of y
# Bounds of the residual blocks, see ``ResidualBlock``. In the synthesis, photographs come close to
# theirs; three times higher, fine regular textures, such as cloth, could become blocks of noise.
ANALYSIS_BOUND, SYNTHESIS_BOUND, HYPER_BOUND = 0.25, 0.35, 128.0
STEP = 16  # channels by which the number of coded ones is chosen
PREDICTED = 0.2  # bits that a symbol takes with its context, relative to those without
PART = 128  # channels of y that the encoder computes at once
FINE = 128  # channels whose values are too large for bfloat16, even in training
DAMPING = 0.3  # of the inverse of the linear synthesis, whose singular values are about 1 to 2.5


class HyperpriorLatents(NamedTuple):
    """Not yet rounded: that of y depends on the means, and the search moves both."""

    y: Tensor  # [1, K, H/16, W/16]
    z: Tensor  # [1, Z, H/64, W/64]

    dead_zone = True  # whether y is rounded with one


class SearchedLatents(HyperpriorLatents):
    """Those that a search has found: they are rounded to what is nearest."""

    dead_zone = False


def blocks(count: int, channels: int, bound: float) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, bound) for _ in range(count)))


class AnalysisTransform(nn.Module):
    """x [B, 3, H, W] in 0 to 1 to y [B, M, H/16, W/16], in units of the quantization step.

    The sum of a linear block transform and a deep residual network. The linear transform is the DCT
    when training starts; the network learns to improve on it.
    """

    def __init__(self, config: "HyperpriorConfig"):
        super().__init__()
        at8, at16 = config.analysis_blocks
        self.down8 = Down(3, config.channels8, 8)
        self.blocks8 = blocks(at8, config.channels8, ANALYSIS_BOUND)
        self.down16 = Down(config.channels8, config.channels16)
        self.gain16 = QualityTable(config.rate_points, config.channels16)
        self.blocks16 = blocks(at16, config.channels16, ANALYSIS_BOUND)
        self.latent = Conv1x1(config.channels16, config.latent)
        self.linear = Down(3, config.latent, BLOCK)
        self.gain = QualityTable(config.rate_points, config.latent)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        inputs = self.inputs(x, quality)
        with torch.autocast(x.device.type, enabled=False):
            y = self.channels(*inputs, quality, slice(0, FINE))
        if self.latent.out_channels > FINE:
            y = torch.cat([y, self.channels(*inputs, quality, slice(FINE, None)).float()], dim=1)
        return y

    def inputs(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """x to what the last layers take: the deep network's output, and blocks of pixels."""
        x = x.float() - 0.5
        deep = self.blocks8(self.down8(x))
        deep = self.blocks16(self.down16(deep) * self.gain16(quality).exp())
        return deep.float(), self.linear[0](x / BLOCK)

    def channels(self, deep: Tensor, pixels: Tensor, quality: Tensor, part: slice) -> Tensor:
        """Those channels of y that are in ``part``."""
        y = conv1x1(deep, self.latent.weight[part], self.latent.bias[part])
        y = y + conv1x1(pixels, self.linear[1].weight[part], self.linear[1].bias[part])
        return y * self.gain(quality)[:, part].exp()

    def used(self, x: Tensor, quality: Tensor) -> Tensor:
        """y [1, K, H/16, W/16], as far as its channels are worth coding. Parts of them that follow
        on one that is not worth it are not computed."""
        inputs = self.inputs(x, quality)
        parts = []
        for start in range(0, self.latent.out_channels, PART):
            parts.append(self.channels(*inputs, quality, slice(start, start + PART)))
            if not (parts[-1].abs() > 1).any():
                break
        y = torch.cat(parts, dim=1)
        return y[:, : used_channels(y).item()]


class SynthesisTransform(nn.Module):
    """y_hat [B, K, H/16, W/16], the first K channels, to x_hat [B, 3, H, W]: the mirror image of
    the analysis."""

    def __init__(self, config: "HyperpriorConfig"):
        super().__init__()
        at16, at8 = config.synthesis_blocks
        self.gain = QualityTable(config.rate_points, config.latent)
        self.linear = Up(config.latent, 3, BLOCK)
        self.latent = Conv1x1(config.latent, config.channels16)
        self.blocks16 = blocks(at16, config.channels16, SYNTHESIS_BOUND)
        self.gain16 = QualityTable(config.rate_points, config.channels16)
        self.up8 = Up(config.channels16, config.channels8)
        self.blocks8 = blocks(at8, config.channels8, SYNTHESIS_BOUND)
        self.up1 = Up(config.channels8, 3, 8)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        count = y_hat.shape[1]
        y = y_hat * self.gain(quality)[:, :count].exp()
        deep = self.blocks16(conv1x1(y, self.latent.weight[:, :count], self.latent.bias))
        deep = self.up1(self.blocks8(self.up8(deep * self.gain16(quality).exp())))
        weight, bias = self.linear[0].weight / BLOCK, self.linear[0].bias
        with torch.autocast(y.device.type, enabled=False):
            pixels = conv1x1(y[:, :FINE].float(), weight[:, : min(FINE, count)], bias)
        if count > FINE:
            pixels = pixels + conv1x1(y[:, FINE:], weight[:, FINE:count])
        return self.linear[1](pixels.float()) + deep.float() + 0.5

    def inverse(self, error: Tensor, quality: Tensor) -> Tensor:
        """The change of y_hat [B, M, H/16, W/16] that changes x_hat by ``error``, of which each
        position holds the pixels of a block, [B, 3 * 16^2, H/16, W/16]: by damped least squares, as
        if the linear transform were all there is."""
        with torch.autocast(error.device.type, enabled=False):
            weight = self.linear[0].weight[:, :, 0, 0] / BLOCK
            square = weight.T @ weight + DAMPING**2 * torch.eye(len(weight.T), device=error.device)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(square).L) @ weight.T
            return conv1x1(error, inverse[:, :, None, None]).div_(self.gain(quality).exp())


class HyperAnalysis(nn.Module):
    """y [B, K, H/16, W/16], the first K channels, to z [B, Z, H/64, W/64]."""

    def __init__(self, config: "HyperpriorConfig"):
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
        count = y.shape[1]
        first, *others = self.layers
        y = y * self.gain(quality)[:, :count].exp()
        x = conv1x1(y, first.weight[:, :count], first.bias)
        return nn.Sequential(*others)(x).float()


def used_channels(y: Tensor) -> Tensor:
    """How many channels of y [B, M, h, w] are worth coding, in steps of STEP: int64 [B].

    A channel is worth the distortion that it takes away, in bits (see CURVATURE), less the bits of
    its symbols: those that say where they are not zero, their signs and magnitudes.
    """
    symbols = y.round()
    # y^2 - (y - symbols)^2, with few copies of y
    saved = CURVATURE / 2 * ((2 * y - symbols) * symbols).sum((2, 3))
    magnitude = symbols.abs_()
    share = magnitude.count_nonzero((2, 3)) / y[0, 0].numel()
    entropy = torch.special.entr(share) + torch.special.entr(1 - share)
    bits = magnitude.mul_(2).log2_().clamp_(min=0).sum((2, 3))
    bits = bits + entropy / math.log(2) * y[0, 0].numel()
    total, last = (saved - PREDICTED * bits).cumsum(1).max(1)
    count = torch.where(total > 0, last + 1, 1)
    return -(-count // STEP) * STEP


def trimmed(y: Tensor) -> Tensor:
    """y [1, M, h, w] without its last channels, in steps of STEP, if they are zero everywhere."""
    return y[:, : (last_used(y) // STEP + 1) * STEP]


def last_used(y: Tensor) -> int:
    """The last channel of y [1, M, h, w] that is not zero everywhere; 0 if there is none."""
    used = y.flatten(2).any(2)[0].nonzero()
    return used[-1].item() if len(used) else 0
