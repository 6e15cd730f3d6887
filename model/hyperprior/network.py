"""The hyperprior codec: residual transforms, a hyperprior and a context model.

The configuration and the transforms are in transforms.py, the networks of the entropy model in
context.py, the coding of latents in coder.py, the search for cheaper ones in search.py.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.codec import Codec, Report, Sample
from model.entropy import CERTAIN_BELOW, SymbolCoder, gaussian_bits
from model.fixed_point import FRACTION_BITS, Pointwise, QualityBias, at_each_level, soft_bits
from model.hyperprior.coder import (
    CHANNEL_STEP,
    Y_STRIDE,
    Z_STRIDE,
    HyperpriorLatents,
    HyperpriorTileCoder,
    last_used,
)
from model.hyperprior.context import ContextModel, HyperSynthesis, scale_index, split_latent
from model.hyperprior.integer_synthesis import IntegerSynthesis
from model.hyperprior.trained_synthesis import Ranges, TrainedSynthesis, restored
from model.hyperprior.transforms import (
    BLOCK_SIDE,
    AnalysisTransform,
    HyperAnalysis,
    HyperpriorConfig,
    used_channels,
)
from model.layers import conv1x1, dct_basis
from model.limits import MAX_QUALITY, MIN_QUALITY
from model.quantizers import round_straight_through
from model.tiles import Tile, View, padded, reduced

MIDDLE_GAIN = 2  # logarithm of the gain that training starts with, at the middle of the rates
CORRECTED_FROM = 90  # quality from which on the latent is corrected by its synthesis
# A block is corrected by half where the root mean square of its error, in 8-bit levels, is
# HALF_CORRECTED / lmbda.
HALF_CORRECTED = 0.5
DEAD_ZONE_RISES_FROM = 40  # quality
COARSE_SIDE = Z_STRIDE // Y_STRIDE  # positions on a side, of which a preview takes the mean latent
DEFAULT_CONFIG = HyperpriorConfig()


class Quantized(NamedTuple):
    """The latents of a batch in training. y, y_hat: [B, K, h, w]; z: [B, Z, h/4, w/4]; coded: 1 for
    coded channels, and 0 for the others, [B, K, 1, 1]; means and scale_logits: of the split latent,
    [B, 4, 4, K/4, h/2, w/2]."""

    y: Tensor
    z: Tensor
    coded: Tensor
    y_hat: Tensor
    means: Tensor
    scale_logits: Tensor


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
    PREVIEWED = (8, 16)  # at smaller scales, the linear transform alone is too far from the pixels
    SEARCHES = True

    def __init__(self, config: HyperpriorConfig = DEFAULT_CONFIG, *, coded: bool = False):
        """``coded``: with the synthesis as it is shipped, see ``become_trainable``."""
        super().__init__(config)
        (a8, a16), (s16, s8) = config.analysis_blocks, config.synthesis_blocks
        # The reach of the receptive fields beyond a tile: a block adds its stride to either side.
        radius = max(8 * a8 + 16 * a16 + 16 + 32, 16 * s16 + 8 * s8)  # 16 + 32: hyper-analysis
        self.MARGIN = padded(radius, self.STRIDE)
        self.analysis = AnalysisTransform(config)
        self.synthesis: TrainedSynthesis | IntegerSynthesis
        self.synthesis = IntegerSynthesis(config) if coded else TrainedSynthesis(config)
        self.hyper_analysis = HyperAnalysis(config)
        self.hyper_synthesis = HyperSynthesis(config.hyper, config.context, config.rate_points)
        self.context = ContextModel(config.latent, config.context)
        self.coder = SymbolCoder()
        self.z_scale = QualityBias(config.rate_points, config.hyper)
        # On the meta device only shapes matter, and torch would be slow.
        if self.device.type != "meta" and isinstance(self.synthesis, TrainedSynthesis):
            self.start(self.synthesis)

    @classmethod
    def from_checkpoint(cls, checkpoint: dict) -> Codec:
        codec = super().from_checkpoint(checkpoint)
        if isinstance(codec.synthesis, IntegerSynthesis):
            codec.synthesis.check()
        return codec

    @classmethod
    def for_weights(cls, config: HyperpriorConfig, weights: dict[str, Tensor]) -> Codec:
        return cls(config, coded="synthesis.first.scale" in weights)

    def become_trainable(self) -> None:
        if isinstance(self.synthesis, IntegerSynthesis):
            self.synthesis = restored(self.synthesis, self.config)

    def shipped_weights(self) -> dict[str, Tensor]:
        """See ``Codec``. The synthesis has its integers, and scales in full precision."""
        weights = super().shipped_weights()
        weights = {n: w for n, w in weights.items() if not n.startswith("synthesis.")}
        integers = self.integer_synthesis().state_dict()
        return weights | {f"synthesis.{name}": weight for name, weight in integers.items()}

    def integer_synthesis(self) -> IntegerSynthesis:
        """The synthesis in the form that decodes."""
        if isinstance(self.synthesis, TrainedSynthesis):
            return self.synthesis.integers()
        return self.synthesis

    @torch.no_grad()
    def start(self, synthesis: TrainedSynthesis) -> None:
        """Start with the DCT and its inverse, with deep networks that add little to them, and with
        quantization steps proportional to 1 / sqrt(lmbda).

        The linear transforms are stored BLOCK_SIDE times as large as they are used: so their
        entries are about 1, and steps of the learning rate are small beside them. At high rates, a
        quantization step s costs -log2(s) + lmbda * s^2 / 12 per symbol, which is least where
        s^2 = 6 / (ln 2 * lmbda).
        """
        basis = BLOCK_SIDE * dct_basis(BLOCK_SIDE, self.config.latent)
        linear, inverse = self.analysis.linear.conv, synthesis.linear.conv
        linear.weight.copy_(basis[:, :, None, None])
        inverse.weight.copy_(basis.T[:, :, None, None])
        for layer in (self.analysis.latent, synthesis.up1.conv):
            layer.weight.mul_(0.05)
        for layer in (linear, inverse):
            layer.bias.zero_()
        quality = torch.linspace(MIN_QUALITY, MAX_QUALITY, self.config.rate_points)
        ramp = self.lmbda(quality)[:, None].log() / 2
        ramp -= ramp.mean()
        self.analysis.gain.points.add_(ramp + MIDDLE_GAIN)
        synthesis.gain.points.sub_(ramp + MIDDLE_GAIN)
        self.hyper_analysis.gain.points.sub_(ramp)

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        y, z, coded, y_hat, means, scale_logits = self.quantized(x, quality)
        z_logits = self.z_scale(torch.zeros_like(z), quality)
        z_bits = gaussian_bits(self.noisy(z), scale_index(z_logits))
        index = scale_index(scale_logits)
        residual = split_latent(y if self.training else y_hat) - means
        y_bits = gaussian_bits(self.noisy(residual), index)
        y_bits = y_bits * split_latent(coded.expand(-1, -1, 2, 2))
        if not self.training:
            y_bits = y_bits * (index.round() >= CERTAIN_BELOW)
        bits = z_bits.flatten(1).sum(1) + y_bits.flatten(1).sum(1)
        return self.synthesis(y_hat, quality), bits / (x.shape[2] * x.shape[3])

    def quantized(self, x: Tensor, quality: Tensor) -> Quantized:
        """The latents of x [B, 3, H, W] as training sees them, differentiable."""
        y = self.analysis(x, quality)
        used = self.coded_channels(y)[:, None, None, None]
        if y.is_cpu:  # elsewhere, shapes depend on no values, so that a CUDA graph can hold a step
            y = y[:, : used.max()]
        coded = (torch.arange(y.shape[1], device=y.device)[:, None, None] < used).float()
        y = y * coded
        z = self.hyper_analysis(y, quality)
        bits = soft_bits(quality)
        features = self.hyper_synthesis(round_straight_through(z), quality, bits)
        share = self.zone_share(quality)
        return Quantized(y, z, coded, *self.context(features, y, share, coded, bits))

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
    def calibrate(self, samples: Callable[[], Iterable[Sample]]) -> None:
        """Measure the ranges of activations, then the probability tables of the symbols."""
        self.measure_ranges(samples)
        histogram = self.coder.histogram([])
        for image, quality in samples():
            q = self.quality_tensor(quality)
            for latents in self.tile_latents(image, q):
                coder = self.tile_coder(Y_STRIDE * latents.y.shape[3], q)
                histogram += self.coder.histogram(coder.symbols(latents)[0])
        self.coder.fit(histogram)

    def measure_ranges(self, samples: Callable[[], Iterable[Sample]]) -> None:
        """Choose the steps in which activations are rounded, of the entropy networks by their
        largest values, of the synthesis by its errors."""
        trained = self.synthesis if isinstance(self.synthesis, TrainedSynthesis) else None
        largest, errors = Ranges(), Ranges()
        for number, (x, quality) in enumerate(self.at_all_levels(samples())):
            if number == 0:  # without any picture, steps stay
                for layer in self.modules():
                    if isinstance(layer, Pointwise):
                        layer.measure()
            y_hat = self.quantized(x, quality).y_hat
            if trained:
                trained.observe(y_hat, quality, largest)
        self.eval()  # ends the measuring
        if trained and largest:
            for x, quality in self.at_all_levels(samples()):
                trained.compare(self.quantized(x, quality).y_hat, quality, largest, errors)
            trained.choose_steps(largest, errors)

    def at_all_levels(self, samples: Iterable[Sample]) -> Iterator[tuple[Tensor, Tensor]]:
        """The tiles of each picture, x [BIT_LEVELS, 3, H, W], repeated for each number of fraction
        bits, and a quality for each of these numbers, [BIT_LEVELS]."""
        for image, quality in samples:
            q = torch.tensor(at_each_level(quality), dtype=torch.float32, device=self.device)
            for view in self.grid(*image.shape[:2]).views(image, self.device):
                yield view.x.expand(len(q), -1, -1, -1), q

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
        """``y`` [1, K, h, w], not rounded to symbols, after a step towards the latent whose pixels
        are x; may have more channels.

        The transforms are not inverse to each other: hard edges and noise lose much even without
        quantization. The step is that of Gauss and Newton with the derivative of the linear
        synthesis alone. It is smaller in blocks that lose little, where it costs more bits than it
        is worth. Next to other tiles it is a little off, since the margin was made for the
        analysis.
        """
        whole = Tile(0, x.shape[2], 0, x.shape[3])
        with torch.autocast(x.device.type, enabled=False):
            decoded = self.pixels((y * 2**FRACTION_BITS).round_(), quality, whole, whole)
        error = F.pixel_unshuffle(x - decoded.permute(2, 0, 1) / 255, BLOCK_SIDE)
        loss = 255**2 / error.shape[1] * torch.linalg.vector_norm(error, dim=1).square()
        share = loss / (loss + (HALF_CORRECTED / self.lmbda(quality)) ** 2)
        step = self.synthesis.inverse(error, quality).mul_(share)
        step[:, : y.shape[1]] += y
        return step[:, : used_channels(step).item()]

    def search(
        self, view: View, latents: HyperpriorLatents, quality: Tensor, effort: int, report: Report
    ) -> HyperpriorLatents:
        # The search is imported here, so that encoding without it does not load it.
        from model.hyperprior.search import search_tile

        return search_tile(self, view, latents, quality, effort, report)

    def tile_coder(self, width: int, quality: Tensor) -> HyperpriorTileCoder:
        return HyperpriorTileCoder(self, width, quality)

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        count = last_used(latent) + 1  # others may be of the tiles around this one
        return self.synthesis(latent[:, :count] / 2**FRACTION_BITS, quality)

    def pixels(self, latent: Tensor, quality: Tensor, around: Tile, tile: Tile) -> Tensor:
        latent = latent[0, : last_used(latent) + 1]
        return self.integer_synthesis().pixels(latent, quality, tile.seen_from(around))

    # Previews: the linear transform to pixels of the reduced picture, and what the deep network
    # adds to the mean of COARSE_SIDE x COARSE_SIDE positions, in 1 / COARSE_SIDE^2 of the time.

    def linear_preview(self, latent: Tensor, quality: Tensor, scale: int) -> Tensor:
        """The linear part of the synthesis of a decoded latent [1, K, h, w], in 0 to 1 and reduced
        by ``scale``, each position with the pixels of its block: [1, 3 * (16 / scale)^2, h, w]."""
        side = BLOCK_SIDE // scale
        weight, bias = (
            part.unflatten(0, (3, side, scale, side, scale)).mean((2, 4)).flatten(0, 2)
            for part in self.integer_synthesis().linear_part(quality)
        )
        weight = weight[:, : latent.shape[1], None, None] / 2**FRACTION_BITS
        with torch.autocast(latent.device.type, enabled=False):  # bfloat16 has too few levels
            return conv1x1(latent, weight, bias)

    def condensed(self, latent: Tensor, quality: Tensor, scale: int) -> Tensor:
        """The linear preview; and the mean latent of COARSE_SIDE x COARSE_SIDE positions, whose
        channels are shared out among these positions."""
        latent = latent.to(self.device)
        coarse = F.pixel_shuffle(F.avg_pool2d(latent, COARSE_SIDE), COARSE_SIDE)
        return torch.cat([self.linear_preview(latent, quality, scale), coarse], dim=1)

    def preview(
        self, condensed: Tensor, quality: Tensor, around: Tile, tile: Tile, scale: int
    ) -> Tensor:
        side = BLOCK_SIDE // scale
        linear, coarse = condensed.split([3 * side**2, condensed.shape[1] - 3 * side**2], dim=1)
        coarse = F.pixel_unshuffle(coarse, COARSE_SIDE)
        whole = Tile(0, BLOCK_SIDE * coarse.shape[2], 0, BLOCK_SIDE * coarse.shape[3])
        means = reduced(self.pixels(coarse, quality, whole, whole), BLOCK_SIDE).permute(2, 0, 1)
        deep = means / 255 - self.linear_preview(coarse, quality, BLOCK_SIDE)
        deep = F.interpolate(deep, scale_factor=COARSE_SIDE * side, mode="bilinear")
        x_hat = tile.crop(F.pixel_shuffle(linear, side) + deep, around)
        return x_hat[0].mul_(255).clamp_(0, 255).permute(1, 2, 0)
