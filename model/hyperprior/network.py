"""The deep codec: residual transforms, a hyperprior, a context model, one model for all rates."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.bytestream import Reader
from model.codec import Codec, Report, check_range, part_of
from model.entropy import CERTAIN, MAX_SYMBOL, SCALES, SymbolCoder, dead_zone, gaussian_bits
from model.fixed_point import FRACTION_BITS, LIMIT, QualityBias, activation_bits
from model.hyperprior.border import Border
from model.hyperprior.context import (
    PASSES,
    ContextModel,
    HyperSynthesis,
    coded_in,
    fixed_scale_index,
    merge_latent,
    scale_index,
    split_latent,
)
from model.hyperprior.search import SPARE, Objective, refine
from model.hyperprior.transforms import (
    BLOCK,
    STEP,
    AnalysisTransform,
    HyperAnalysis,
    HyperpriorLatents,
    SearchedLatents,
    SynthesisTransform,
    last_used,
    trimmed,
    used_channels,
)
from model.layers import dct_basis
from model.limits import MAX_QUALITY, MIN_QUALITY
from model.quantizers import CURVATURE, round_straight_through
from model.tiles import Tile, padded

CORRECTED = 90  # from this quality on, the latent is corrected by what the decoder makes of it
HALF_CORRECTED = 0.5  # where the root mean square of the error is this / lmbda, in 8-bit levels
BAND = 3 * 2**17  # pixels that the search works on at once
# The share of a symbol's bits that the dead zone counts, up to the quality ZONE_FROM and at the
# highest. SSIMULACRA 2 weighs errors by what is around them: there no zone suits all symbols.
ZONES = {"mse": (0.2, 0.6), "ssimulacra2": (0.0, 0.0)}
ZONE_FROM = 40
Z_DEPTH = 1  # positions of z that a tile sees of those before it; four times as many of y
MIDDLE_GAIN = 2  # the logarithm of the gain that training starts with, at the middle of the rates


@dataclass(frozen=True)
class HyperpriorConfig:
    channels8: int = 160  # channels of the transforms at 1/8 of the resolution
    channels16: int = 320  # and at 1/16
    latent: int = 768  # channels of y, at 1/16, in the order of their use
    hyper: int = 64  # channels of z, at 1/64
    context: int = 160  # channels of the entropy model's networks
    analysis_blocks: tuple[int, int] = (2, 4)  # residual blocks at 1/8 and at 1/16
    synthesis_blocks: tuple[int, int] = (6, 4)  # at 1/16 and at 1/8
    rate_points: int = 8

    def __post_init__(self):
        for name in ("channels8", "channels16", "latent", "hyper", "context"):
            check_range(name, getattr(self, name), 1, 1024)
        for name in ("analysis_blocks", "synthesis_blocks"):
            check_range(name, getattr(self, name), 0, 16, length=2)
        check_range("rate_points", self.rate_points, 2, 64)
        if self.latent % STEP or self.latent > 3 * BLOCK**2:
            raise ValueError(
                f"the configuration's latent is not a multiple of {STEP} up to {3 * BLOCK**2}"
            )


def net_worth(residual: Tensor, index: Tensor) -> float:
    """The distortion, in bits, that is saved by coding ``residual``, less the bits it takes."""
    symbols = residual.round()
    saved = CURVATURE / 2 * (residual.square() - (residual - symbols).square())
    return (saved - gaussian_bits(symbols, index)).sum().item()


class TilePasses:
    """The context model's passes over a tile, in fixed point, the same for encoder and decoder.

    z [1, Z, h/64, w/64] is the tile's, ``shape`` that of its y. What the borders know of earlier
    tiles is part of the input, as if the picture were coded without tiles.
    """

    def __init__(
        self,
        codec: "HyperpriorCodec",
        z: Tensor,
        shape: tuple[int, ...],
        quality: Tensor,
        y_border: Border | None,
        z_border: Border | None,
    ):
        self.context, self.bits = codec.context, activation_bits(round(quality.item()))
        self.z, self.z_border, self.y_border = z, z_border, y_border
        y, top, left = torch.zeros(shape), 0, 0
        if z_border is not None:
            y, top, left = y_border.window(*shape[1:])
            window, z_top, z_left = z_border.window(*z.shape[1:])
            window[:, :, z_top:, z_left:] = z
            z = window
        self.y = split_latent(y)
        self.top, self.left = top // 2, left // 2  # in a phase
        self.features = codec.hyper_synthesis(z, quality.cpu(), self.bits)
        self.state: Tensor | None = None

    def inner(self, x: Tensor) -> Tensor:
        """The tile's part of x [..., h, w], which also covers what is known of earlier tiles."""
        return x[..., self.top :, self.left :]

    def predict(self, step: int) -> tuple[Tensor, Tensor]:
        """Means, in multiples of 2^-FRACTION_BITS, and scale indices of what pass ``step`` codes,
        [1, 4, K/4, h/2, w/2] each."""
        count = self.y.shape[3]
        mean, scale = self.context.predict(self.features, self.state, step, count, self.bits)
        return self.inner(mean), fixed_scale_index(self.inner(scale))

    def update(self, step: int, y_hat: Tensor) -> None:
        """Go on after pass ``step``, which has coded y_hat."""
        self.inner(self.y)[coded_in(step)] = y_hat
        self.state = self.context.update(self.state, self.y[coded_in(step)], step, self.bits)

    def finish(self) -> Tensor:
        """The tile's y, [1, K, h, w], which the next tiles then see."""
        y = merge_latent(self.inner(self.y))
        if self.y_border is not None:
            self.y_border.add(y)
            self.z_border.add(self.z)
        return y


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
    # The last step is larger than the others: nearly all pictures reach 40 dB.
    LMBDA = (0.00025, 0.000623, 0.00156, 0.00388, 0.00967, 0.0241, 0.0601, 0.45)
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
        self.analysis.linear[1].weight.copy_(basis[:, :, None, None])
        self.synthesis.linear[0].weight.copy_(basis.T[:, :, None, None])
        for layer in (self.analysis.latent, self.synthesis.up1[0]):
            layer.weight.mul_(0.05)
        for layer in (self.analysis.linear[1], self.synthesis.linear[0]):
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
            y_bits = y_bits * (index.round() >= CERTAIN)
        bits = z_bits.flatten(1).sum(1) + y_bits.flatten(1).sum(1)
        return self.synthesis(y_hat, quality), bits / (x.shape[2] * x.shape[3])

    @torch.no_grad()
    def coded_channels(self, y: Tensor) -> Tensor:
        """How many channels of y [B, M, h, w] are coded, int64 [B]. In training some samples get
        more than they need, as a small part of a tile does."""
        used = used_channels(y)
        if not self.training:
            return used
        share = 2 * torch.rand(len(y), device=y.device) - 1
        more = (share.clamp(min=0) * (y.shape[1] - used) / STEP).round().long()
        return used + STEP * more

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
                histogram += self.coder.histogram(self.symbols(latents, q)[0])
        self.coder.fit(histogram)

    def zone_share(self, quality: Tensor) -> Tensor:
        """The share of the bits that the dead zone counts at quality [B]: [B]."""
        low, high = ZONES[self.distortion]
        above = (quality - ZONE_FROM).clamp(min=0) / (MAX_QUALITY - ZONE_FROM)
        return low + (high - low) * above

    # Coding

    def analyse(self, x: Tensor, quality: Tensor) -> HyperpriorLatents:
        y = self.analysis.used(x, quality)
        if quality.item() >= CORRECTED:
            y = self.corrected(y, x, quality)
        return HyperpriorLatents(y, self.hyper_analysis(y, quality))

    def corrected(self, y: Tensor, x: Tensor, quality: Tensor) -> Tensor:
        """y [1, K, h, w], not rounded, after a step towards the latent whose synthesis is x; it may
        have more channels.

        The transforms are not inverse to each other: of hard edges and noise much is lost even
        without quantization. It is a Gauss-Newton step with the derivative of the linear synthesis
        alone, and smaller in blocks that lose little, where it costs more bits than it is worth.
        Next to other tiles it is a little off, since the margin was made for the analysis.
        """
        error = F.pixel_unshuffle(self.synthesis(y, quality).sub_(x).neg_(), BLOCK)
        loss = 255**2 / error.shape[1] * torch.linalg.vector_norm(error, dim=1).square()
        share = loss / (loss + (HALF_CORRECTED / self.lmbda(quality)) ** 2)
        step = self.synthesis.inverse(error, quality).mul_(share)
        step[:, : y.shape[1]] += y
        return step[:, : used_channels(step).item()]

    @torch.inference_mode(False)
    def refine(
        self,
        x: Tensor,
        latents: HyperpriorLatents,
        quality: Tensor,
        tile: Tile,
        around: Tile,
        effort: int,
        report: Report,
    ) -> HyperpriorLatents:
        # Copies, since tensors that were made in inference mode cannot have gradients.
        x, y, z, quality = (tensor.clone() for tensor in (x, *latents, quality))
        spare = min(SPARE, self.config.latent - y.shape[1])
        y = F.pad(y, (0, 0, 0, 0, 0, spare))
        latents, bands = HyperpriorLatents(y, z), tile.bands(BAND, self.STRIDE)
        for done, band in enumerate(bands):
            with torch.enable_grad():
                objective = Objective(self, x, latents, quality, band, around)
                found = refine(objective, effort, part_of(report, done, len(bands)))
            for latent, part in zip(latents, found):
                band.crop(latent, around).copy_(part)
        y, z = (tile.crop(latent, around) for latent in latents)
        return SearchedLatents(trimmed(y), z)

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        count = last_used(latent) + 1  # others may be of the tiles around this one
        return self.synthesis(latent[:, :count] / 2**FRACTION_BITS, quality)

    def borders(self, width: int) -> tuple[Border, Border]:
        y = Border(self.config.latent, width // 16, 4 * Z_DEPTH)
        return y, Border(self.config.hyper, width // 64, Z_DEPTH)

    def encode_latents(
        self,
        latents: HyperpriorLatents,
        quality: Tensor,
        y_border: Border | None = None,
        z_border: Border | None = None,
    ) -> bytes:
        segments, certain = self.symbols(latents, quality, y_border, z_border)
        count = latents.y.shape[1] // STEP
        return bytes([count, certain]) + self.coder.encode(segments)

    # From here on everything is in fixed point: encoder and decoder compute the same integers.

    def symbols(
        self,
        latents: HyperpriorLatents,
        quality: Tensor,
        y_border: Border | None = None,
        z_border: Border | None = None,
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
        """One tile's symbols and their scale indices, in the order of coding, without those whose
        index is below a number, which are taken as zero; and that number: CERTAIN, or 0 if too much
        would be lost."""
        z = latents.z.round().clamp(-LIMIT, LIMIT).float().cpu()
        y = split_latent(latents.y.float().cpu())
        z_segment = z.int().numpy(), self.z_index(z.shape, quality)
        share = self.zone_share(quality).cpu()
        for certain in (CERTAIN, 0):
            passes = TilePasses(self, z, latents.y.shape, quality, y_border, z_border)
            segments = [z_segment]
            lost = 0.0
            for step in range(PASSES):
                mean, index = passes.predict(step)
                residual = y[coded_in(step)] - mean / 2**FRACTION_BITS
                symbols = residual.round().clamp_(-MAX_SYMBOL, MAX_SYMBOL)
                if latents.dead_zone:
                    symbols *= residual.abs() >= dead_zone(index, share)
                coded = index >= certain
                outliers = ~coded & (symbols != 0)
                if outliers.any():
                    lost += net_worth(residual[outliers], index[outliers])
                symbols *= coded
                passes.update(step, symbols * 2**FRACTION_BITS + mean)
                chosen = coded.numpy()  # numpy selects in less than half of torch's time
                values = symbols.numpy()[chosen].astype(np.int32)
                segments.append((values, index.numpy()[chosen].astype(np.uint8)))
            if lost <= 0:
                break
        passes.finish()
        return segments, certain

    def decode_latents(
        self,
        chunk: bytes,
        height: int,
        width: int,
        quality: Tensor,
        y_border: Border | None = None,
        z_border: Border | None = None,
    ) -> Tensor:
        """The latent in steps of 2^-FRACTION_BITS, float32."""
        reader = Reader(chunk, "payload")
        count, certain = reader.unpack(">BB")
        if not 0 < count <= self.config.latent // STEP or certain > SCALES:
            raise ValueError("damaged payload: a number of channels or scales is out of range")
        decoder = self.coder.decoder(reader.take(reader.remaining))
        z_shape = (1, self.config.hyper, height // 64, width // 64)
        z = torch.from_numpy(decoder.decode(self.z_index(z_shape, quality))).float()
        y_shape = (1, count * STEP, height // 16, width // 16)
        passes = TilePasses(self, z, y_shape, quality, y_border, z_border)
        for step in range(PASSES):
            mean, index = passes.predict(step)
            index = index.numpy().astype(np.uint8)
            coded = index >= certain
            symbols = np.zeros(index.shape, np.float32)
            symbols[coded] = decoder.decode(index[coded])
            passes.update(step, torch.from_numpy(symbols) * 2**FRACTION_BITS + mean)
        decoder.finish()
        return passes.finish()

    def z_index(self, shape: tuple[int, ...], quality: Tensor) -> np.ndarray:
        """The scale index of each element of z, uint8 of ``shape``."""
        logits = self.z_scale(torch.zeros(shape), quality.cpu(), FRACTION_BITS)
        return fixed_scale_index(logits).numpy().astype(np.uint8)
