"""The deep codec: residual transforms, a hyperprior, a context model, one model for all rates."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model.codec import Codec, check_range
from model.context import (
    FRACTION_BITS,
    LIMIT,
    ContextModel,
    HyperSynthesis,
    QualityBias,
    scale_index,
    split_phases,
)
from model.entropy import MAX_SYMBOL, SymbolCoder, gaussian_bits
from model.layers import Down, QualityTable, ResidualBlock, Up, dct_basis
from model.quantizers import round_straight_through
from model.refinement import refine
from model.tiling import padded

BLOCK = 16  # side of the blocks of the linear transforms, and the stride of y
# Of residual blocks. In the synthesis, just above what photographs reach: three times as much let
# single blocks of fine regular textures, as of cloth, explode into coloured noise.
ANALYSIS_BOUND, SYNTHESIS_BOUND, HYPER_BOUND = 0.25, 0.35, 128.0
MIDDLE_GAIN = 2  # logarithm of what training starts with at the middle rate


@dataclass(frozen=True)
class HyperpriorConfig:
    channels8: int = 160  # width at 1/8 of the resolution
    channels16: int = 320  # width at 1/16
    latent: int = 320  # channels of y, at 1/16
    hyper: int = 64  # channels of z, at 1/64
    context: int = 160  # width of the entropy model's networks
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


def blocks(count: int, channels: int, bound: float) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, bound) for _ in range(count)))


class AnalysisTransform(nn.Module):
    """x [B, 3, H, W] in 0 to 1 to y [B, M, H/16, W/16], in units of the quantization step.

    The sum of a linear block transform and of a deep residual network. Training starts from the
    DCT, thus from a classic transform codec, and the network learns what that leaves to gain.
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
    """y_hat [B, M, H/16, W/16] to x_hat [B, 3, H, W]: the analysis, mirrored."""

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
    """Mean-scale hyperprior with a four-pass context model and variable rate.

    Ballé et al. 2018, "Variational image compression with a scale hyperprior",
    https://arxiv.org/abs/1802.01436; Minnen, Ballé, Toderici 2018, "Joint autoregressive and
    hierarchical priors for learned image compression", https://arxiv.org/abs/1809.02736.
    """

    arch = "hyperprior"
    Config = HyperpriorConfig
    LMBDA = (0.00025, 0.15)
    STRIDE = 64
    LATENT_STRIDE = 16
    TILE = 1024
    REFINES = True

    def __init__(self, config: HyperpriorConfig = HyperpriorConfig()):
        super().__init__(config)
        (a8, a16), (s16, s8) = config.analysis_blocks, config.synthesis_blocks
        reach = max(8 * a8 + 16 * a16 + 16 + 32, 16 * s16 + 8 * s8)  # with the hyper-analysis
        self.MARGIN = padded(reach, self.STRIDE)
        self.analysis = AnalysisTransform(config)
        self.synthesis = SynthesisTransform(config)
        self.hyper_analysis = HyperAnalysis(config)
        self.hyper_synthesis = HyperSynthesis(config.hyper, config.context, config.rate_points)
        self.context = ContextModel(config.latent, config.context)
        self.coder = SymbolCoder()
        self.z_scale = QualityBias(config.rate_points, config.hyper)
        if self.device.type != "meta":  # else only the shapes are wanted, and torch would be slow
            self.start_transforms()
            self.start_gains()

    @torch.no_grad()
    def start_transforms(self) -> None:
        """The DCT and its inverse, with deep networks that add little to them.

        Stored BLOCK times as large, the entries of the linear transforms are of the size of 1:
        steps of the learning rate are small beside them.
        """
        basis = BLOCK * dct_basis(BLOCK, self.config.latent)
        self.analysis.linear.weight.copy_(basis.view_as(self.analysis.linear.weight))
        self.synthesis.linear[0].weight.copy_(basis.T[:, :, None, None])
        for layer in (self.analysis.latent, self.synthesis.up1[0]):
            layer.weight.mul_(0.1)
        for layer in (self.analysis.linear, self.synthesis.linear[0]):
            layer.bias.zero_()

    def start_gains(self) -> None:
        """Quantization steps proportional to 1 / sqrt(lmbda), as high-rate theory has it."""
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
        y_phases = split_phases(y).unflatten(2, means.shape[2:4])
        y_bits = gaussian_bits(self.noisy(y_phases - means), scale_index(scales))
        bits = z_bits.flatten(1).sum(1) + y_bits.flatten(1).sum(1)
        return self.synthesis(y_hat, quality), bits / (x.shape[2] * x.shape[3])

    def noisy(self, x: Tensor) -> Tensor:
        """Additive uniform noise stands for rounding while training (Ballé et al. 2017)."""
        return x + torch.rand_like(x) - 0.5 if self.training else x.round()

    # Coding: from here to the coder everything but ``analyse`` and ``synthesise`` is exact.

    def analyse(self, x: Tensor, quality: Tensor) -> dict[int, Tensor]:
        y = self.analysis(x, quality)
        return {16: y, 64: self.hyper_analysis(y, quality).round()}

    @torch.inference_mode(False)
    def refine(
        self, x: Tensor, latents: dict[int, Tensor], quality: Tensor, effort: int
    ) -> dict[int, Tensor]:
        # Copies, since what comes out of inference mode has no gradients.
        x, y, z, quality = (part.clone() for part in (x, latents[16], latents[64], quality))
        with torch.enable_grad():
            return {16: refine(self, x, y, z, quality, effort), 64: z}

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        return self.synthesis(latent.float() / 2**FRACTION_BITS, quality)

    def z_index(self, height: int, width: int, quality: Tensor) -> np.ndarray:
        """Scale index of each element of a tile's z, uint8 [1, Z, height / 64, width / 64]."""
        shape = (1, self.config.hyper, height // 64, width // 64)
        logits = self.z_scale(torch.zeros(shape, dtype=torch.int32), quality)
        return scale_index(logits).to(torch.uint8).numpy()

    @torch.no_grad()
    def calibrate(self, samples: Iterable[tuple[Tensor, int]]) -> None:
        """Measure the probability tables."""
        total = self.coder.histogram([])
        for image, quality in samples:
            level = self.quality_tensor(quality)
            for latents in self.tile_latents(image, level):
                total += self.coder.histogram(self.symbols(latents, level))
        self.coder.fit(total)

    def encode_latents(self, latents: dict[int, Tensor], quality: Tensor) -> bytes:
        return self.coder.encode(self.symbols(latents, quality))

    def symbols(
        self, latents: dict[int, Tensor], quality: Tensor
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """One tile's symbols and their scale indices, in the order of coding."""
        y = latents[16].cpu()
        z = latents[64].clamp(-MAX_SYMBOL, MAX_SYMBOL).int().cpu()
        coded = [(z.numpy(), self.z_index(64 * z.shape[2], 64 * z.shape[3], quality.cpu()))]

        def quantize(parts: list, mean: Tensor, index: Tensor) -> Tensor:
            here = torch.stack([y[part] for part in parts], dim=1)
            symbols = (here - mean / 2**FRACTION_BITS).round().clamp(-MAX_SYMBOL, MAX_SYMBOL).int()
            coded.append((symbols.numpy(), index.numpy()))
            return symbols

        self.code_latent(z, quality, quantize)
        return coded

    def decode_latents(self, chunk: bytes, height: int, width: int, quality: Tensor) -> Tensor:
        decoder = self.coder.decoder(chunk)

        def decode(parts: list, mean: Tensor, index: Tensor) -> Tensor:
            return torch.from_numpy(decoder.decode(index.numpy()))

        z = torch.from_numpy(decoder.decode(self.z_index(height, width, quality.cpu())))
        latent = self.code_latent(z, quality, decode)
        decoder.finish()
        return latent

    def code_latent(self, z: Tensor, quality: Tensor, symbols_of) -> Tensor:
        """What encoder and decoder do alike: z to the latent, in steps of 2^-FRACTION_BITS."""
        z = (z * 2**FRACTION_BITS).clamp(-LIMIT, LIMIT)
        features = self.hyper_synthesis(z, quality.cpu())
        return self.context.code(features, symbols_of)
