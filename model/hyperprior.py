"""The deep codec: residual transforms, a hyperprior, a context model, one model for all rates."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model.codec import Codec, check_range
from model.context import (
    PASSES,
    ContextModel,
    HyperSynthesis,
    coded_in,
    merge_latent,
    scale_index,
    split_latent,
)
from model.entropy import MAX_SYMBOL, SymbolCoder, gaussian_bits
from model.fixed_point import FRACTION_BITS, LIMIT, QualityBias
from model.layers import Down, QualityTable, ResidualBlock, Up, dct_basis
from model.quantizers import round_straight_through
from model.refinement import refine
from model.tiling import padded

BLOCK = 16  # side of the blocks of the linear transforms, and the stride of y
# Bounds of the residual blocks, see ``ResidualBlock``. In the synthesis, photographs come close to
# theirs; three times higher, fine regular textures, such as cloth, could become blocks of noise.
ANALYSIS_BOUND, SYNTHESIS_BOUND, HYPER_BOUND = 0.25, 0.35, 128.0
MIDDLE_GAIN = 2  # the logarithm of the gain that training starts with, at the middle of the rates


@dataclass(frozen=True)
class HyperpriorConfig:
    channels8: int = 160  # channels of the transforms at 1/8 of the resolution
    channels16: int = 320  # and at 1/16
    latent: int = 320  # channels of y, at 1/16
    hyper: int = 64  # channels of z, at 1/64
    context: int = 160  # channels of the entropy model's networks
    analysis_blocks: tuple[int, int] = (2, 3)  # residual blocks at 1/8 and at 1/16
    synthesis_blocks: tuple[int, int] = (3, 3)  # at 1/16 and at 1/8
    rate_points: int = 8

    def __post_init__(self):
        for name in ("channels8", "channels16", "latent", "hyper", "context"):
            check_range(name, getattr(self, name), 1, 1024)
        for name in ("analysis_blocks", "synthesis_blocks"):
            check_range(name, getattr(self, name), 0, 16, length=2)
        check_range("rate_points", self.rate_points, 2, 64)
        if self.latent % 4 or self.latent > 3 * BLOCK**2:
            raise ValueError(
                f"the configuration's latent is not a multiple of 4 up to {3 * BLOCK**2}"
            )


class HyperpriorLatents(NamedTuple):
    y: Tensor  # [1, M, H/16, W/16], not yet rounded: that depends on the means
    z: Tensor  # [1, Z, H/64, W/64], rounded


def table_index(scale: Tensor) -> np.ndarray:
    """Scale logits in fixed point to the indices of tables that the coder takes, uint8."""
    return scale_index(scale).to(torch.uint8).numpy()


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
        self.latent = nn.Conv2d(config.channels16, config.latent, 1)
        self.linear = nn.Conv2d(3, config.latent, BLOCK, stride=BLOCK)
        self.gain = QualityTable(config.rate_points, config.latent)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        x = x.float() - 0.5
        deep = self.blocks8(self.down8(x))
        deep = self.blocks16(self.down16(deep) * self.gain16(quality).exp())
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 is coarser than a step
            y = self.latent(deep.float()) + self.linear(x / BLOCK)
            return y * self.gain(quality).exp()


class SynthesisTransform(nn.Module):
    """y_hat [B, M, H/16, W/16] to x_hat [B, 3, H, W]: the mirror image of the analysis."""

    def __init__(self, config: HyperpriorConfig):
        super().__init__()
        at16, at8 = config.synthesis_blocks
        self.gain = QualityTable(config.rate_points, config.latent)
        self.linear = Up(config.latent, 3, BLOCK)
        self.latent = nn.Conv2d(config.latent, config.channels16, 1)
        self.blocks16 = blocks(at16, config.channels16, SYNTHESIS_BOUND)
        self.gain16 = QualityTable(config.rate_points, config.channels16)
        self.up8 = Up(config.channels16, config.channels8)
        self.blocks8 = blocks(at8, config.channels8, SYNTHESIS_BOUND)
        self.up1 = Up(config.channels8, 3, 8)

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        y = y_hat * self.gain(quality).exp()
        deep = self.blocks16(self.latent(y))
        deep = self.up1(self.blocks8(self.up8(deep * self.gain16(quality).exp())))
        with torch.autocast(y.device.type, enabled=False):
            return self.linear(y.float() / BLOCK) + deep.float() + 0.5


class HyperAnalysis(nn.Module):
    """y [B, M, H/16, W/16] to z [B, Z, H/64, W/64]."""

    def __init__(self, config: HyperpriorConfig):
        super().__init__()
        width = config.context
        self.gain = QualityTable(config.rate_points, config.latent)
        self.layers = nn.Sequential(
            nn.Conv2d(config.latent, width, 1),
            ResidualBlock(width, HYPER_BOUND),
            Down(width, width),
            ResidualBlock(width, HYPER_BOUND),
            Down(width, config.hyper),
        )

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        return self.layers(y * self.gain(quality).exp()).float()


class HyperpriorCodec(Codec):
    """Mean-scale hyperprior with a four-pass context model; one model for all rates.

        x --> analysis --> y --> round(y - mean) ==> + mean --> y_hat --> synthesis --> x_hat
                           |
                           `--> hyper_analysis --> z --> round ==> hyper_synthesis --> features

        features, y_hat of earlier passes --> context --> mean, scale of the next quarter of y

    What follows ==> is entropy coded: y with the tables of its scales, z with those of ``z_scale``.

    Ballé et al. 2018, "Variational image compression with a scale hyperprior",
    https://arxiv.org/abs/1802.01436; Minnen, Ballé, Toderici 2018, "Joint autoregressive and
    hierarchical priors for learned image compression", https://arxiv.org/abs/1809.02736.
    """

    arch = "hyperprior"
    FILE_NUMBER = 2
    Config = HyperpriorConfig
    LMBDA = (0.00025, 0.15)
    STRIDE = 64
    LATENT_STRIDE = 16
    TILE = 1024
    REFINES = True

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

        The linear transforms are stored BLOCK times as large as they are used: so their entries are
        about 1, and steps of the learning rate are small beside them.
        """
        basis = BLOCK * dct_basis(BLOCK, self.config.latent)
        self.analysis.linear.weight.copy_(basis.view_as(self.analysis.linear.weight))
        self.synthesis.linear[0].weight.copy_(basis.T[:, :, None, None])
        for layer in (self.analysis.latent, self.synthesis.up1[0]):
            layer.weight.mul_(0.1)
        for layer in (self.analysis.linear, self.synthesis.linear[0]):
            layer.bias.zero_()

    def start_gains(self) -> None:
        """Start with quantization steps proportional to 1 / sqrt(lmbda).

        At high rates, a step s costs -log2(s) + lmbda * s^2 / 12 per symbol, which is least where
        s^2 = 6 / (ln 2 * lmbda).
        """
        half_span = math.log(self.LMBDA[1] / self.LMBDA[0]) / 4
        ramp = torch.linspace(-half_span, half_span, self.config.rate_points)[:, None]
        with torch.no_grad():
            self.analysis.gain.points.add_(ramp + MIDDLE_GAIN)
            self.synthesis.gain.points.sub_(ramp + MIDDLE_GAIN)
            self.hyper_analysis.gain.points.sub_(ramp)

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        y = self.analysis(x, quality)
        z = self.hyper_analysis(y, quality)
        features = self.hyper_synthesis(round_straight_through(z), quality)
        y_hat, means, scales = self.context(features, y)

        z_logits = self.z_scale(torch.zeros_like(z), quality)
        z_bits = gaussian_bits(self.noisy(z), scale_index(z_logits))
        y_bits = gaussian_bits(self.noisy(split_latent(y) - means), scale_index(scales))
        bits = z_bits.flatten(1).sum(1) + y_bits.flatten(1).sum(1)
        return self.synthesis(y_hat, quality), bits / (x.shape[2] * x.shape[3])

    def noisy(self, x: Tensor) -> Tensor:
        """x with additive uniform noise, which stands in for rounding in training (Ballé, Laparra,
        Simoncelli 2017, https://arxiv.org/abs/1611.01704); otherwise x rounded."""
        return x + torch.rand_like(x) - 0.5 if self.training else x.round()

    @torch.no_grad()
    def calibrate(self, samples: Iterable[tuple[np.ndarray, int]]) -> None:
        """Measure the probability tables of the symbols."""
        histogram = self.coder.histogram([])
        for image, quality in samples:
            q = self.quality_tensor(quality)
            for latents in self.tile_latents(image, q):
                histogram += self.coder.histogram(self.symbols(latents, q))
        self.coder.fit(histogram)

    # Coding

    def analyse(self, x: Tensor, quality: Tensor) -> HyperpriorLatents:
        y = self.analysis(x, quality)
        return HyperpriorLatents(y, self.hyper_analysis(y, quality).round())

    @torch.inference_mode(False)
    def refine(
        self, x: Tensor, latents: HyperpriorLatents, quality: Tensor, effort: int
    ) -> HyperpriorLatents:
        # Copies, since tensors that were made in inference mode cannot have gradients.
        x, y, z, quality = (tensor.clone() for tensor in (x, *latents, quality))
        with torch.enable_grad():
            return HyperpriorLatents(refine(self, x, y, z, quality, effort), z)

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        return self.synthesis(latent.float() / 2**FRACTION_BITS, quality)

    def encode_latents(self, latents: HyperpriorLatents, quality: Tensor) -> bytes:
        return self.coder.encode(self.symbols(latents, quality))

    # From here on everything is in fixed point: encoder and decoder compute the same integers.

    def symbols(
        self, latents: HyperpriorLatents, quality: Tensor
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """One tile's symbols and their scale indices, in the order of coding."""
        z = latents.z.clamp(-MAX_SYMBOL, MAX_SYMBOL).int().cpu()
        segments = [(z.numpy(), self.z_index(z.shape, quality))]
        y = split_latent(latents.y.cpu())
        features, state = self.features(z, quality), None
        for step in range(PASSES):
            mean, scale = self.context.predict(features, state, step)
            symbols = (y[coded_in(step)] - mean / 2**FRACTION_BITS).round()
            symbols = symbols.clamp(-MAX_SYMBOL, MAX_SYMBOL).int()
            segments.append((symbols.numpy(), table_index(scale)))
            y_hat = symbols * 2**FRACTION_BITS + mean
            state = self.context.update(state, y_hat, step)
        return segments

    def decode_latents(self, chunk: bytes, height: int, width: int, quality: Tensor) -> Tensor:
        """The latent in steps of 2^-FRACTION_BITS, int32."""
        decoder = self.coder.decoder(chunk)
        z_shape = (1, self.config.hyper, height // 64, width // 64)
        z = torch.from_numpy(decoder.decode(self.z_index(z_shape, quality)))
        y_shape = (1, self.config.latent, height // 16, width // 16)
        latent = split_latent(torch.empty(y_shape, dtype=torch.int32))
        features, state = self.features(z, quality), None
        for step in range(PASSES):
            mean, scale = self.context.predict(features, state, step)
            symbols = torch.from_numpy(decoder.decode(table_index(scale)))
            y_hat = symbols * 2**FRACTION_BITS + mean
            state = self.context.update(state, y_hat, step)
            latent[coded_in(step)] = y_hat
        decoder.finish()
        return merge_latent(latent)

    def z_index(self, shape: tuple[int, ...], quality: Tensor) -> np.ndarray:
        """The scale index of each element of z, uint8 of ``shape``."""
        logits = self.z_scale(torch.zeros(shape, dtype=torch.int32), quality.cpu())
        return table_index(logits)

    def features(self, z: Tensor, quality: Tensor) -> Tensor:
        """z, int32 [1, Z, h, w], to the context model's features [1, D, 4 h, 4 w]."""
        z = (z * 2**FRACTION_BITS).clamp(-LIMIT, LIMIT)
        return self.hyper_synthesis(z, quality.cpu())
