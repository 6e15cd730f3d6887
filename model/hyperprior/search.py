"""The encoder's search for latents that cost less: ``--effort``. The decoder does not notice.

Two methods, on the gradient of the cost through the synthesis and the context model:

* Rate-distortion optimised quantization (RDOQ), as video encoders have it: symbols that are not the
  nearest ones, where those cost less in sum. Karczewicz, Ye, Chong 2008, "Rate distortion optimized
  quantization", VCEG-AH21.
* Stochastic Gumbel annealing: gradient descent on the latent, whose rounding is random and becomes
  certain. Yang, Bamler, Mandt 2020, "Improving inference for neural image compression",
  https://arxiv.org/abs/2006.04240, section 3; with the sigmoid-scaled logit of Perugachi-Diaz,
  Gansekoele, Bhulai 2024, "Robustly overfitting latents for flexible neural image compression",
  https://arxiv.org/abs/2401.17789.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model.codec import Report, TileCoder, part_of
from model.distortion import Distortion, SearchSettings
from model.entropy import CERTAIN_BELOW, gaussian_bits
from model.fixed_point import FRACTION_BITS, QualityBias, soft_bits
from model.hyperprior.coder import HyperpriorLatents, SearchedLatents, trimmed
from model.hyperprior.context import (
    PASSES,
    ContextModel,
    HyperSynthesis,
    coded_in,
    merge_latent,
    scale_index,
    split_latent,
)
from model.quantizers import CURVATURE, round_straight_through
from model.tiles import View

EFFORT_STEPS = 2, 5, 10, 20, 48, 115, 255, 540, 1101  # steps of each effort from 1 on
BAND_PIXELS = 3 * 2**17  # pixels that are searched at once
SPARE_CHANNELS = 32  # channels beyond those worth coding without a search: some become worth it
NEAR_PIXELS = 32  # pixels seen around a band; the synthesis reaches further, but hardly
RDOQ_SHARE = 0.12  # largest share of the steps that RDOQ takes before annealing
RDOQ_CHANGED = 0.5  # share of the paying changes made in a round: they depend on each other
RDOQ_REACH = 0.52  # distance, in symbols, that RDOQ moves a value: just enough, so easily undone
SETTLED_DISTANCE = 0.48  # largest distance, in symbols, of a value from its symbol at the start
Z_PHASE = 1 / 3  # first part of the annealing: z moves too, and the temperature stays
Z_LEARNING_RATE = 0.007
TEMPERATURES = (0.7, 0.3)  # the first, and the last
NOISE_SHARES = (0.6, 1.0)  # least and most Gumbel noise: with less, fewer steps suffice
NOISE_GROWTH = 0.075  # share of the noise, per square root of the number of steps
LOGIT_SLOPE = 4 / 3  # logit of the probability to round up, per logit of the fraction
LOGIT_EDGE = 0.01  # fractions closer to 0 or 1, where logits are infinite, stay where they are

Parts = list[Tensor]  # y in the parts of each pass: [1, 4, K/4, h/2, w/2] each
# A part, or z, and its means to its symbols: as they are decoded, and as their bits are counted.
# Both are the same numbers, whose gradients may differ.
Quantize = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class SearchedCodec(Protocol):
    """The parts of the codec that the search works with."""

    STRIDE: int
    hyper_synthesis: HyperSynthesis
    context: ContextModel
    z_scale: QualityBias

    @property
    def trained_for(self) -> Distortion: ...
    @property
    def synthesis(self) -> Callable[[Tensor, Tensor], Tensor]: ...
    def weighted_distortion(self, x_hat: Tensor, x: Tensor, quality: Tensor) -> Tensor: ...
    def tile_coder(self, width: int, quality: Tensor) -> TileCoder: ...


class Point(NamedTuple):
    """A band's latents, as they are coded, but not rounded."""

    parts: Parts
    z: Tensor  # [1, Z, h/64, w/64]


class Coding(NamedTuple):
    """A pass over a band as it is coded: [1, 4, K/4, h/2, w/2] each."""

    bits: Tensor
    symbols: Tensor
    mean: Tensor
    scale_index: Tensor
    coded: Tensor  # whether a symbol is coded; the others are zero


class Trial(NamedTuple):
    """A band's latents as they are coded, and their cost."""

    cost: Tensor  # bits + pixels * weighted distortion
    passes: list[Coding]


class Plan(NamedTuple):
    """The number of steps of each kind; both kinds take about as long."""

    rdoq: int
    annealing: int


def plan(effort: int, settings: SearchSettings) -> Plan:
    """The steps of an effort of at least 1."""
    steps = EFFORT_STEPS[effort - 1]
    if steps <= settings.rdoq_alone:
        return Plan(steps, 0)
    rdoq = min(settings.rdoq_rounds, round(RDOQ_SHARE * steps))
    return Plan(rdoq, steps - rdoq)


@torch.inference_mode(False)
def search_tile(
    codec: SearchedCodec,
    view: View,
    latents: HyperpriorLatents,
    quality: Tensor,
    effort: int,
    report: Report,
) -> SearchedLatents:
    """The latents of the view's tile, found by a search that starts from ``latents``, which cover
    the view. The tile is searched in bands, each beside the result of the band above.
    """
    # Copies, since tensors that were made in inference mode cannot have gradients.
    x, y, z, quality = (tensor.clone() for tensor in (view.x, *latents, quality))
    spare = min(SPARE_CHANNELS, codec.context.latent_channels - y.shape[1])
    latents = HyperpriorLatents(F.pad(y, (0, 0, 0, 0, 0, spare)), z)
    bands = view.tile.bands(BAND_PIXELS, codec.STRIDE)
    for done, band in enumerate(bands):
        with torch.enable_grad():
            objective = Objective(codec, View(band, view.around, x), latents, quality)
            found = BandSearch(objective, effort, part_of(report, done, len(bands))).run()
        for latent, part in zip(latents, found):
            band.crop(latent, view.around).copy_(part)
    y, z = (view.tile.crop(latent, view.around) for latent in latents)
    return SearchedLatents(trimmed(y), z)


class Objective:
    """The cost of a band's latents.

    The pixels of ``view`` and the ``latents`` cover the band and some pixels on each side. The bits
    are those that the band alone is coded with. The distortion is summed over the band and
    NEAR_PIXELS on each side, where y outside of the band stays as it is.
    """

    def __init__(
        self, codec: SearchedCodec, view: View, latents: HyperpriorLatents, quality: Tensor
    ):
        self.codec, self.quality, self.band = codec, quality, view.tile
        around = view.around
        self.near = self.band.grown(NEAR_PIXELS, around.bottom, around.right)
        self.x, self.y = self.near.crop(view.x, around), self.near.crop(latents.y, around)
        self.start = self.settled(HyperpriorLatents(*(self.band.crop(x, around) for x in latents)))

    @torch.no_grad()
    def settled(self, latents: HyperpriorLatents) -> Point:
        """The band's ``latents``, with the values that the dead zone does not round to the nearest
        symbol moved to where their symbol is the nearest."""
        _, y_hat = self.coded(latents)
        y = latents.y.clone()
        near = y[:, : y_hat.shape[1]]
        near.copy_(y_hat + (near - y_hat).clamp(-SETTLED_DISTANCE, SETTLED_DISTANCE))
        split = split_latent(y)
        return Point([split[coded_in(step)] for step in range(PASSES)], latents.z)

    def merge(self, parts: Parts) -> Tensor:
        """The band's y, of the parts that are coded one after the other."""
        _, phases, channels, height, width = parts[0].shape
        split = parts[0].new_empty(1, phases, PASSES, channels, height, width)
        for step, part in enumerate(parts):
            split[coded_in(step)] = part
        return merge_latent(split)

    def __call__(self, point: Point, quantize: Quantize) -> Trial:
        """The cost of ``point`` as ``quantize`` rounds it, by the networks in floating point."""
        codec, state, soft = self.codec, None, soft_bits(self.quality)
        z_hat, counted = quantize(point.z, torch.zeros_like(point.z))
        z_logits = codec.z_scale(torch.zeros_like(z_hat), self.quality)
        cost = gaussian_bits(counted, scale_index(z_logits)).sum()
        features = codec.hyper_synthesis(z_hat, self.quality, soft)
        passes, y_hat = [], []
        for step, part in enumerate(point.parts):
            mean, logits = codec.context.passes[step](features, state, part.shape[2], soft)
            index = scale_index(logits)
            coded = index.round() >= CERTAIN_BELOW
            symbols, counted = (coded * values for values in quantize(part, mean))
            y_hat.append(symbols + mean)
            state = codec.context.update(state, y_hat[-1], step, soft)
            bits = coded * gaussian_bits(counted, index)
            cost = cost + bits.sum()
            known = (tensor.detach() for tensor in (bits, symbols, mean, index, coded))
            passes.append(Coding(*known))
        x_hat = codec.synthesis(self.inserted(self.merge(y_hat)), self.quality)
        return Trial(cost + self.distortion(x_hat), passes)

    def latents(self, point: Point) -> HyperpriorLatents:
        """The band's latents, in the order of positions."""
        return HyperpriorLatents(self.merge(point.parts), point.z)

    def inserted(self, y: Tensor) -> Tensor:
        """The band's y inside of what is around it, zero where it has fewer channels."""
        around = self.y.clone()
        inside = self.band.crop(around, self.near)
        inside[:, : y.shape[1]] = y
        inside[:, y.shape[1] :] = 0
        return around

    def distortion(self, x_hat: Tensor) -> Tensor:
        """The distortion of x_hat, summed over the pixels: in bits."""
        distortion = self.codec.weighted_distortion(x_hat, self.x, self.quality)
        return self.x[0, 0].numel() * distortion.sum()

    def coded(self, latents: HyperpriorLatents) -> tuple[int, Tensor]:
        """The bits of the band's latents, and y as a decoder has it."""
        height, width = self.band.shape
        encoder, decoder = (self.codec.tile_coder(width, self.quality) for _ in range(2))
        chunk = encoder.encode(latents._replace(y=trimmed(latents.y)))
        y_hat = decoder.decode(chunk, height, width)
        return 8 * len(chunk), y_hat.to(self.y.device) / 2**FRACTION_BITS

    @torch.no_grad()
    def cost(self, point: Point) -> float:
        """The cost of ``point`` in a file: its bits, and the distortion of the decoded picture."""
        bits, y_hat = self.coded(SearchedLatents(*self.latents(point)))
        y_hat = self.inserted(y_hat)
        with torch.autocast(self.x.device.type, enabled=False):
            x_hat = self.codec.synthesis(y_hat, self.quality)
            pixels = x_hat.mul(255).round().clamp(0, 255)
            return bits + self.distortion(pixels / 255).item()


def nearest(part: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest symbols, without a gradient of their own bits: RDOQ computes these exactly."""
    return round_straight_through(part - mean), round_straight_through(part.detach() - mean)


class BandSearch:
    """The search for latents of a band that cost less: RDOQ, then annealing."""

    def __init__(self, objective: Objective, effort: int, report: Report):
        self.objective, self.report = objective, report
        self.settings = objective.codec.trained_for.search
        self.plan = plan(effort, self.settings)
        self.done = 0  # steps
        self.generator = torch.Generator().manual_seed(0)

    def run(self) -> HyperpriorLatents:
        """The latents of the cheapest point: the start, or the end of one of the methods."""
        points = [self.objective.start]
        if self.plan.rdoq:
            points.append(self.rdoq(points[-1], self.plan.rdoq))
        if self.plan.annealing:
            points.append(self.anneal(points[-1], self.plan.annealing))
        return self.objective.latents(min(points, key=self.objective.cost))

    def step_done(self) -> None:
        self.done += 1
        self.report(self.done / sum(self.plan))

    def rdoq(self, point: Point, rounds: int) -> Point:
        """RDOQ of y. Each round considers the next smaller and the next larger number for all
        symbols at once. The new bits of the symbol itself are computed. The effects on the picture
        and on the probabilities of later symbols are estimated from gradient and curvature. A
        random choice of the changes that pay is made.
        """
        parts, z = point
        for _ in range(rounds):
            parts = [part.detach().requires_grad_() for part in parts]
            trial = self.objective(Point(parts, z), nearest)
            gradients = torch.autograd.grad(trial.cost, parts)
            parts = list(map(self.cheaper, parts, gradients, trial.passes))
            self.step_done()
        return Point(parts, z)

    @torch.no_grad()
    def cheaper(self, part: Tensor, gradient: Tensor, coding: Coding) -> Tensor:
        """``part`` with half of the changes of one step that pay."""
        lowest, change = torch.zeros_like(part), torch.zeros_like(part)
        for step in (-1, 1):
            more_bits = gaussian_bits(coding.symbols + step, coding.scale_index) - coding.bits
            cost = more_bits + step * gradient + self.settings.curvature * CURVATURE / 2
            cost = torch.where(coding.coded, cost, 0)
            change = torch.where(cost < lowest, step, change)
            lowest = torch.minimum(cost, lowest)
        draw = torch.rand(part.shape, generator=self.generator).to(part.device)
        chosen = (draw < RDOQ_CHANGED) & (change != 0)
        return torch.where(chosen, coding.mean + coding.symbols + RDOQ_REACH * change, part)

    def anneal(self, point: Point, steps: int) -> Point:
        """Stochastic Gumbel annealing. All of y depends on z, which therefore is rounded for good
        before y cools."""
        *parts, z = (latent.detach().clone().requires_grad_() for latent in (*point.parts, point.z))
        optimizers = [Adam(latent) for latent in (*parts, z)]
        (high, low), (least, most) = TEMPERATURES, NOISE_SHARES
        noise = min(most, max(least, NOISE_GROWTH * math.sqrt(steps)))
        for step in range(steps):
            position = step / steps
            if position >= Z_PHASE:
                z = z.detach().round()
            temperature = high + (low - high) * max(0, (position - Z_PHASE) / (1 - Z_PHASE))
            rate = self.settings.learning_rate * min(1, 2 * (1 - position))
            quantize = partial(
                sampled, temperature=temperature, noise=noise, generator=self.generator
            )
            latents = [latent for latent in (*parts, z) if latent.requires_grad]
            cost = self.objective(Point(parts, z), quantize).cost
            gradients = torch.autograd.grad(cost, latents)
            for optimizer, latent, gradient in zip(optimizers, latents, gradients):
                optimizer.step(latent, gradient, Z_LEARNING_RATE if latent is z else rate)
            self.step_done()
        return Point([part.detach() for part in parts], z.detach())


class Adam:
    """Algorithm 1 of Kingma, Ba 2015 (https://arxiv.org/abs/1412.6980) for a tensor. The first step
    of torch.optim.Adam would import 160 MB of code that nothing else here needs."""

    DECAYS = 0.9, 0.999  # averages of the gradient, and of its square

    def __init__(self, like: Tensor):
        self.averages = torch.zeros_like(like), torch.zeros_like(like)
        self.steps = 0

    @torch.no_grad()
    def step(self, x: Tensor, gradient: Tensor, rate: float) -> None:
        """Move x by about ``rate``."""
        self.steps += 1
        unbiased = []
        for average, value, decay in zip(self.averages, (gradient, gradient.square()), self.DECAYS):
            average.lerp_(value, 1 - decay)
            unbiased.append(average / (1 - decay**self.steps))
        mean, square = unbiased
        x.sub_(rate * mean / (square.sqrt() + 1e-8))


def sampled(
    part: Tensor, mean: Tensor, temperature: float, noise: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Symbols between the integers around the residual, the closer to one of them the lower the
    temperature: a relaxed sample of rounding down or up (Jang, Gu, Poole 2017, "Categorical
    reparameterization with Gumbel-softmax", https://arxiv.org/abs/1611.01144)."""
    residual = part - mean
    low = residual.detach().floor()
    up = LOGIT_SLOPE / temperature * (residual - low).logit(LOGIT_EDGE)
    gumbel = torch.rand(part.shape, generator=generator).logit(1e-6)
    symbols = low + torch.sigmoid((up + noise * gumbel.to(part.device)) / temperature)
    return symbols, symbols
