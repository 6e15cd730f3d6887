"""The hyperprior codec: residual transforms, a hyperprior and a context model.

The configuration and the transforms come first, then the codec. The networks of its entropy model
are in context.py, the coding of its latents in coder.py, the search for cheaper ones in search.py.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.codec import Codec, Report, check_range
from model.entropy import CERTAIN_BELOW, SymbolCoder, gaussian_bits
from model.fixed_point import FRACTION_BITS, QualityBias
from model.hyperprior.coder import (
    CHANNEL_STEP,
    Y_STRIDE,
    Z_STRIDE,
    HyperpriorLatents,
    HyperpriorTileCoder,
    last_used,
)
from model.hyperprior.context import ContextModel, HyperSynthesis, scale_index, split_latent
from model.layers import Conv1x1, Down, QualityTable, ResidualBlock, Up, conv1x1, dct_basis
from model.limits import MAX_QUALITY, MIN_QUALITY
from model.quantizers import CURVATURE, round_straight_through
from model.tiles import View, padded

BLOCK_SIDE = Y_STRIDE  # side of the blocks of the linear transforms
# Bounds of the residual blocks, see ``ResidualBlock``. In the synthesis, photographs come close to
# theirs; three times higher, fine regular textures, such as cloth, could become blocks of noise.
ANALYSIS_BOUND, SYNTHESIS_BOUND, HYPER_BOUND = 0.25, 0.35, 128.0
FINE_CHANNELS = 128  # first channels of y, whose values are too large for bfloat16 in training too
CHANNELS_AT_ONCE = 128  # channels of y that the encoder computes before it asks whether to go on
CONTEXT_SHARE = 0.2  # bits of a symbol with its context, relative to its bits without
INVERSE_DAMPING = 0.3  # beside the linear synthesis's singular values, about 1 to 2.5
MIDDLE_GAIN = 2  # logarithm of the gain that training starts with, at the middle of the rates
CORRECTED_FROM = 90  # quality from which on the latent is corrected by its synthesis
# A block is corrected by half where the root mean square of its error, in 8-bit levels, is
# HALF_CORRECTED / lmbda.
HALF_CORRECTED = 0.5
DEAD_ZONE_RISES_FROM = 40  # quality


@dataclass(frozen=True)
class HyperpriorConfig:
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
        if self.latent % CHANNEL_STEP or self.latent > 3 * BLOCK_SIDE**2:
            multiple = f"a multiple of {CHANNEL_STEP} up to {3 * BLOCK_SIDE**2}"
            raise ValueError(f"the configuration's latent is not {multiple}")


def blocks(count: int, channels: int, bound: float) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, bound) for _ in range(count)))


class AnalysisTransform(nn.Module):
    """x [B, 3, H, W] in 0 to 1 to y [B, M, H/16, W/16], in units of the quantization step.

    The sum of a linear block transform and a deep residual network. The linear transform is the DCT
    when training starts; the network learns to improve on it.
    """

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

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        inputs = self.inputs(x, quality)
        with torch.autocast(x.device.type, enabled=False):
            y = self.channels(*inputs, quality, slice(0, FINE_CHANNELS))
        if self.latent.out_channels > FINE_CHANNELS:
            others = self.channels(*inputs, quality, slice(FINE_CHANNELS, None))
            y = torch.cat([y, others.float()], dim=1)
        return y

    def inputs(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """x to the inputs of the last layers: the deep network's output, and blocks of pixels."""
        x = x.float() - 0.5
        deep = self.blocks8(self.down8(x))
        deep = self.blocks16(self.down16(deep) * self.gain16(quality).exp())
        return deep.float(), self.linear[0](x / BLOCK_SIDE)

    def channels(self, deep: Tensor, pixels: Tensor, quality: Tensor, part: slice) -> Tensor:
        """The channels ``part`` of y, [B, C, H/16, W/16]."""
        y = conv1x1(deep, self.latent.weight[part], self.latent.bias[part])
        y = y + conv1x1(pixels, self.linear.conv.weight[part], self.linear.conv.bias[part])
        return y * self.gain(quality)[:, part].exp()

    def used(self, x: Tensor, quality: Tensor) -> Tensor:
        """y [1, K, H/16, W/16], as far as its channels are worth coding. Channels are computed part
        by part, up to the first part that is not worth it."""
        inputs = self.inputs(x, quality)
        parts = []
        for start in range(0, self.latent.out_channels, CHANNELS_AT_ONCE):
            parts.append(self.channels(*inputs, quality, slice(start, start + CHANNELS_AT_ONCE)))
            if not (parts[-1].abs() > 1).any():
                break
        y = torch.cat(parts, dim=1)
        return y[:, : used_channels(y).item()]


class SynthesisTransform(nn.Module):
    """y_hat [B, K, H/16, W/16], the first K channels, to x_hat [B, 3, H, W]: the mirror image of
    the analysis."""

    def __init__(self, config: HyperpriorConfig):
        super().__init__()
        at16, at8 = config.synthesis_blocks
        self.gain = QualityTable(config.rate_points, config.latent)
        self.linear = Up(config.latent, 3, BLOCK_SIDE)
        self.latent = Conv1x1(config.latent, config.channels16)
        self.blocks16 = blocks(at16, config.channels16, SYNTHESIS_BOUND)
        self.gain16 = QualityTable(config.rate_points, config.channels16)
        self.up8 = Up(config.channels16, config.channels8)
        self.blocks8 = blocks(at8, config.channels8, SYNTHESIS_BOUND)
        self.up1 = Up(config.channels8, 3, 8)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        count = y_hat.shape[1]
        y = y_hat * self.gain(quality)[:, :count].exp()
        deep = self.blocks16(self.latent(y))
        deep = self.up1(self.blocks8(self.up8(deep * self.gain16(quality).exp())))
        weight, bias = self.linear.conv.weight / BLOCK_SIDE, self.linear.conv.bias
        with torch.autocast(y.device.type, enabled=False):
            fine = y[:, :FINE_CHANNELS].float()
            pixels = conv1x1(fine, weight[:, : fine.shape[1]], bias)
        if count > FINE_CHANNELS:
            pixels = pixels + conv1x1(y[:, FINE_CHANNELS:], weight[:, FINE_CHANNELS:count])
        return self.linear[1](pixels.float()) + deep.float() + 0.5

    def inverse(self, error: Tensor, quality: Tensor) -> Tensor:
        """The change of y_hat [B, M, H/16, W/16] that changes x_hat by ``error``, by damped least
        squares, as if the linear transform were all there is. Each position of ``error`` holds the
        pixels of a block, [B, 3 * 16^2, H/16, W/16]."""
        with torch.autocast(error.device.type, enabled=False):
            weight = self.linear.conv.weight[:, :, 0, 0] / BLOCK_SIDE
            damping = INVERSE_DAMPING**2 * torch.eye(len(weight.T), device=error.device)
            square = weight.T @ weight + damping
            inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(square).L) @ weight.T
            return conv1x1(error, inverse[:, :, None, None]).div_(self.gain(quality).exp())


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


class HyperpriorCodec(Codec):
    """Mean-scale hyperprior with a four-pass context model; one model for all rates.

        x --> analysis --> y --> round(y - mean) ==> + mean --> y_hat --> synthesis --> x_hat
                           |
                           `--> hyper_analysis --> z --> round ==> hyper_synthesis --> features

        features, y_hat of earlier passes --> context --> mean, scale of the next quarter of y

    The arrow ==> is entropy coding: of y with the tables of its scales, of z with the tables of
    ``z_scale``.

    Ballé et al. 2018, "Variational image compression with a scale hyperprior",
    https://arxiv.org/abs/1802.01436; Minnen, Ballé, Toderici 2018, "Joint autoregressive and
    hierarchical priors for learned image compression", https://arxiv.org/abs/1809.02736.
    """

    arch = "hyperprior"
    FILE_NUMBER = 2
    Config = HyperpriorConfig
    # The last step is larger than the others: nearly all pictures reach 40 dB.
    LMBDA = (0.00025, 0.000623, 0.00156, 0.00388, 0.00967, 0.0241, 0.0601, 0.45)
    STRIDE = Z_STRIDE
    LATENT_STRIDE = Y_STRIDE
    TILE = 1024
    SEARCHES = True

    def __init__(self, config: HyperpriorConfig = HyperpriorConfig()):
        super().__init__(config)
        (a8, a16), (s16, s8) = config.analysis_blocks, config.synthesis_blocks
        # How far the receptive fields reach beyond a tile: a block adds its stride to either side.
        radius = max(8 * a8 + 16 * a16 + 16 + 32, 16 * s16 + 8 * s8)  # 16 + 32: hyper-analysis
        self.MARGIN = padded(radius, self.STRIDE)
        self.analysis = AnalysisTransform(config)
        self.synthesis = SynthesisTransform(config)
        self.hyper_analysis = HyperAnalysis(config)
        self.hyper_synthesis = HyperSynthesis(config.hyper, config.context, config.rate_points)
        self.context = ContextModel(config.latent, config.context)
        self.coder = SymbolCoder()
        self.z_scale = QualityBias(config.rate_points, config.hyper)
        if self.device.type != "meta":  # there only shapes matter, and torch would be slow
            self.start_transforms()
            self.start_gains()

    @torch.no_grad()
    def start_transforms(self) -> None:
        """Start with the DCT and its inverse, and with deep networks that add little to them.

        The linear transforms are stored BLOCK_SIDE times as large as they are used: so their
        entries are about 1, and steps of the learning rate are small beside them.
        """
        basis = BLOCK_SIDE * dct_basis(BLOCK_SIDE, self.config.latent)
        linear, inverse = self.analysis.linear.conv, self.synthesis.linear.conv
        linear.weight.copy_(basis[:, :, None, None])
        inverse.weight.copy_(basis.T[:, :, None, None])
        for layer in (self.analysis.latent, self.synthesis.up1.conv):
            layer.weight.mul_(0.05)
        for layer in (linear, inverse):
            layer.bias.zero_()

    def start_gains(self) -> None:
        """Start with quantization steps proportional to 1 / sqrt(lmbda).

        At high rates, a step s costs -log2(s) + lmbda * s^2 / 12 per symbol, which is least where
        s^2 = 6 / (ln 2 * lmbda).
        """
        quality = torch.linspace(MIN_QUALITY, MAX_QUALITY, self.config.rate_points)
        ramp = self.lmbda(quality)[:, None].log() / 2
        ramp -= ramp.mean()
        with torch.no_grad():
            self.analysis.gain.points.add_(ramp + MIDDLE_GAIN)
            self.synthesis.gain.points.sub_(ramp + MIDDLE_GAIN)
            self.hyper_analysis.gain.points.sub_(ramp)

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        y = self.analysis(x, quality)
        used = self.coded_channels(y)[:, None, None, None]
        if y.is_cpu:  # elsewhere, shapes depend on no values, so that a CUDA graph can hold a step
            y = y[:, : used.max()]
        coded = (torch.arange(y.shape[1], device=y.device)[:, None, None] < used).float()
        y = y * coded
        z = self.hyper_analysis(y, quality)
        features = self.hyper_synthesis(round_straight_through(z), quality)
        y_hat, means, scales = self.context(features, y, self.zone_share(quality), coded)

        z_logits = self.z_scale(torch.zeros_like(z), quality)
        z_bits = gaussian_bits(self.noisy(z), scale_index(z_logits))
        index = scale_index(scales)
        residual = split_latent(y if self.training else y_hat) - means
        y_bits = gaussian_bits(self.noisy(residual), index)
        y_bits = y_bits * split_latent(coded.expand(-1, -1, 2, 2))
        if not self.training:
            y_bits = y_bits * (index.round() >= CERTAIN_BELOW)
        bits = z_bits.flatten(1).sum(1) + y_bits.flatten(1).sum(1)
        return self.synthesis(y_hat, quality), bits / (x.shape[2] * x.shape[3])

    @torch.no_grad()
    def coded_channels(self, y: Tensor) -> Tensor:
        """The number of coded channels of y [B, M, h, w], int64 [B]. In training some samples get
        more than they need, as a small part of a tile does."""
        used = used_channels(y)
        if not self.training:
            return used
        share = 2 * torch.rand(len(y), device=y.device) - 1
        more = (share.clamp(min=0) * (y.shape[1] - used) / CHANNEL_STEP).round().long()
        return used + CHANNEL_STEP * more

    def noisy(self, x: Tensor) -> Tensor:
        """``x`` with additive uniform noise, which stands in for rounding in training (Ballé,
        Laparra, Simoncelli 2017, https://arxiv.org/abs/1611.01704); otherwise ``x`` rounded."""
        return x + torch.rand_like(x) - 0.5 if self.training else x.round()

    @torch.no_grad()
    def calibrate(self, samples: Iterable[tuple[np.ndarray, int]]) -> None:
        """Measure the probability tables of the symbols."""
        histogram = self.coder.histogram([])
        for image, quality in samples:
            q = self.quality_tensor(quality)
            for latents in self.tile_latents(image, q):
                coder = self.tile_coder(Y_STRIDE * latents.y.shape[3], q)
                histogram += self.coder.histogram(coder.symbols(latents)[0])
        self.coder.fit(histogram)

    def zone_share(self, quality: Tensor) -> Tensor:
        """The share of the bits that the dead zone counts at quality [B]: [B]."""
        low, high = self.trained_for.dead_zone
        above = (quality - DEAD_ZONE_RISES_FROM).clamp(min=0) / (MAX_QUALITY - DEAD_ZONE_RISES_FROM)
        return low + (high - low) * above

    # Coding

    def analyse(self, x: Tensor, quality: Tensor) -> HyperpriorLatents:
        y = self.analysis.used(x, quality)
        if quality.item() >= CORRECTED_FROM:
            y = self.corrected(y, x, quality)
        return HyperpriorLatents(y, self.hyper_analysis(y, quality))

    def corrected(self, y: Tensor, x: Tensor, quality: Tensor) -> Tensor:
        """``y`` [1, K, h, w], not rounded, after a step towards the latent whose synthesis is x;
        may have more channels.

        The transforms are not inverse to each other: hard edges and noise lose much even without
        quantization. The step is that of Gauss and Newton with the derivative of the linear
        synthesis alone. It is smaller in blocks that lose little, where it costs more bits than it
        is worth. Next to other tiles it is a little off, since the margin was made for the
        analysis.
        """
        error = F.pixel_unshuffle(self.synthesis(y, quality).sub_(x).neg_(), BLOCK_SIDE)
        loss = 255**2 / error.shape[1] * torch.linalg.vector_norm(error, dim=1).square()
        share = loss / (loss + (HALF_CORRECTED / self.lmbda(quality)) ** 2)
        step = self.synthesis.inverse(error, quality).mul_(share)
        step[:, : y.shape[1]] += y
        return step[:, : used_channels(step).item()]

    def search(
        self, view: View, latents: HyperpriorLatents, quality: Tensor, effort: int, report: Report
    ) -> HyperpriorLatents:
        # Only here, so that encoding without a search does not load it.
        from model.hyperprior.search import search_tile

        return search_tile(self, view, latents, quality, effort, report)

    def tile_coder(self, width: int, quality: Tensor) -> HyperpriorTileCoder:
        return HyperpriorTileCoder(self, width, quality)

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        count = last_used(latent) + 1  # others may be of the tiles around this one
        return self.synthesis(latent[:, :count] / 2**FRACTION_BITS, quality)


def used_channels(y: Tensor) -> Tensor:
    """The number of channels of y [B, M, h, w] that are worth coding, in steps of CHANNEL_STEP:
    int64 [B].

    A channel is worth the distortion that it takes away, in bits (see CURVATURE), less the bits of
    its symbols: their places where they are not zero, their signs and magnitudes.
    """
    symbols = y.round()
    # y^2 - (y - symbols)^2, with few copies of y
    saved = CURVATURE / 2 * ((2 * y - symbols) * symbols).sum((2, 3))
    magnitude = symbols.abs_()
    share = magnitude.count_nonzero((2, 3)) / y[0, 0].numel()
    entropy = torch.special.entr(share) + torch.special.entr(1 - share)
    bits = magnitude.mul_(2).log2_().clamp_(min=0).sum((2, 3))
    bits = bits + entropy / math.log(2) * y[0, 0].numel()
    total, last = (saved - CONTEXT_SHARE * bits).cumsum(1).max(1)
    count = torch.where(total > 0, last + 1, 1)
    return -(-count // CHANNEL_STEP) * CHANNEL_STEP
