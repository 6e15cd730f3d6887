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
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from model.entropy import CERTAIN, gaussian_bits
from model.fixed_point import FRACTION_BITS
from model.hyperprior.context import PASSES, coded_in, merge_latent, scale_index, split_latent
from model.hyperprior.transforms import HyperpriorLatents, SearchedLatents, trimmed
from model.quantizers import CURVATURE, round_straight_through
from model.tiles import Tile

if TYPE_CHECKING:
    from model.codec import Report
    from model.hyperprior.network import HyperpriorCodec

Parts = list[Tensor]  # what each pass of the context model codes: [1, 4, K/4, h/2, w/2] each
# A part, or z, and its means to its symbols: as they are decoded, and as their bits are counted.
# These are the same numbers, whose gradients may differ.
Quantize = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Point(NamedTuple):
    """A tile's latents, as they are coded, but not rounded."""

    parts: Parts  # of y
    z: Tensor  # [1, Z, h/64, w/64]


SHARE = 0.5  # of the changes that pay, made in one round: they are not independent of each other

SPARE = 32  # channels beyond those that are worth coding without a search: some become worth it
NEAR = 32  # pixels around a tile; the synthesis reaches further, but hardly
STEPS = 1, 3, 8, 20, 48, 115, 255, 540, 1101  # of each effort
FIRST = 0.12  # the share of them that RDOQ takes before annealing, at most
SETTLED = 0.48  # of a step, that a value is at most away from what it is rounded to at the start
REACH = 0.52  # of a step, by which RDOQ moves a value: just enough, so it is easily undone
HOLD = 1 / 3  # the part of the annealing at the first temperature, in which z moves too
Z_RATE = 0.007  # its learning rate
TEMPERATURES = (0.7, 0.3)  # the first, and the last
NOISE = (0.6, 1.0)  # share of the Gumbel noise, least and most: with less, fewer steps are enough
NOISE_GROWTH = 0.075  # of the noise, times the square root of the number of steps
SLOPE = 4 / 3  # of the logit of the probability to round up, by that of the fraction
EDGE = 0.01  # fractions closer than this to 0 or 1, where logits are infinite, stay where they are


class Search(NamedTuple):
    """What suits a distortion."""

    rounds: int  # of RDOQ before annealing, at most
    few: int  # steps up to which RDOQ alone gives more
    curvature: float  # of the cost of a symbol, for RDOQ
    rate: float  # the learning rate


# SSIMULACRA 2 weighs an error by what is around it: its curvature differs from place to place, so
# that RDOQ has to take care, and soon has nothing left to gain.
SEARCHES = {
    "mse": Search(rounds=12, few=30, curvature=CURVATURE, rate=0.013),
    "ssimulacra2": Search(rounds=1, few=8, curvature=6 * CURVATURE, rate=0.025),
}


class Plan(NamedTuple):
    """How many steps of each kind an effort takes; both take about as long."""

    rounds: int  # of RDOQ
    annealing: int


def plan(effort: int, search: Search) -> Plan:
    """The steps of an effort of at least 1."""
    steps = STEPS[effort - 1]
    if steps <= search.few:
        return Plan(steps, 0)
    rounds = min(search.rounds, round(FIRST * steps))
    return Plan(rounds, steps - rounds)


class Trial(NamedTuple):
    """What a latent is coded as, and its cost."""

    cost: Tensor  # bits + pixels * weighted distortion
    bits: Parts  # of each symbol
    symbols: Parts
    means: Parts
    index: Parts  # of scales
    coded: Parts  # whether a symbol is coded; the others are zero


class Objective:
    """The cost of a tile's latents.

    x [1, 3, H, W] and its ``latents`` cover ``around``, the tile and some pixels on each side. The
    bits are those that the tile is coded with. The distortion is that of the tile and NEAR pixels
    on each side, where y outside of the tile stays as it is.
    """

    def __init__(
        self,
        codec: "HyperpriorCodec",
        x: Tensor,
        latents: HyperpriorLatents,
        quality: Tensor,
        tile: Tile,
        around: Tile,
    ):
        self.codec, self.quality, self.tile = codec, quality, tile
        self.near = tile.grown(NEAR, around.bottom, around.right)
        self.x, self.y = self.near.crop(x, around), self.near.crop(latents.y, around)
        self.start = self.settled(HyperpriorLatents(*(tile.crop(x, around) for x in latents)))

    @torch.no_grad()
    def settled(self, latents: HyperpriorLatents) -> Point:
        """The tile's ``latents``, where they are rounded with a dead zone moved to where the
        nearest symbol is the same."""
        _, y_hat = self.coded(latents)
        y = latents.y.clone()
        near = y[:, : y_hat.shape[1]]
        near.copy_(y_hat + (near - y_hat).clamp(-SETTLED, SETTLED))
        split = split_latent(y)
        return Point([split[coded_in(step)] for step in range(PASSES)], latents.z)

    def merge(self, parts: Parts) -> Tensor:
        """The tile's y, of the parts that are coded one after the other."""
        _, phases, channels, height, width = parts[0].shape
        split = parts[0].new_empty(1, phases, PASSES, channels, height, width)
        for step, part in enumerate(parts):
            split[coded_in(step)] = part
        return merge_latent(split)

    def __call__(self, point: Point, quantize: Quantize) -> Trial:
        """The cost of ``point`` as ``quantize`` rounds it, by the networks in floating point."""
        codec, state = self.codec, None
        z_hat, counted = quantize(point.z, torch.zeros_like(point.z))
        z_logits = codec.z_scale(torch.zeros_like(z_hat), self.quality)
        cost = gaussian_bits(counted, scale_index(z_logits)).sum()
        features = codec.hyper_synthesis(z_hat, self.quality)
        coding, y_hat = [], []
        for step, part in enumerate(point.parts):
            mean, scale = codec.context.predict(features, state, step, part.shape[2])
            index = scale_index(scale)
            coded = index.round() >= CERTAIN
            symbols, counted = (coded * values for values in quantize(part, mean))
            y_hat.append(symbols + mean)
            state = codec.context.update(state, y_hat[-1], step)
            bits = coded * gaussian_bits(counted, index)
            cost = cost + bits.sum()
            coding.append((bits.detach(), symbols.detach(), mean.detach(), index.detach(), coded))
        x_hat = codec.synthesis(self.inserted(self.merge(y_hat)), self.quality)
        cost = cost + self.distortion(x_hat)
        return Trial(cost, *map(list, zip(*coding)))

    def latents(self, point: Point) -> HyperpriorLatents:
        """Those of the tile."""
        return HyperpriorLatents(self.merge(point.parts), point.z)

    def inserted(self, y: Tensor) -> Tensor:
        """The tile's y, as far as it goes, and around it that of NEAR pixels."""
        around = self.y.clone()
        inside = self.tile.crop(around, self.near)
        inside[:, : y.shape[1]] = y
        inside[:, y.shape[1] :] = 0
        return around

    def distortion(self, x_hat: Tensor) -> Tensor:
        """In bits."""
        distortion = self.codec.weighted_distortion(x_hat, self.x, self.quality)
        return self.x[0, 0].numel() * distortion.sum()

    def coded(self, latents: HyperpriorLatents) -> tuple[int, Tensor]:
        """The bits of the tile's latents, and y as a decoder has it."""
        chunk = self.codec.encode_latents(latents._replace(y=trimmed(latents.y)), self.quality)
        y_hat = self.codec.decode_latents(chunk, *self.tile.shape, self.quality)
        return 8 * len(chunk), y_hat.to(self.y.device) / 2**FRACTION_BITS

    @torch.no_grad()
    def cost(self, point: Point) -> float:
        """The cost of ``point`` in a file: of its bytes, and of what a decoder makes of them."""
        bits, y_hat = self.coded(SearchedLatents(*self.latents(point)))
        y_hat = self.inserted(y_hat)
        with torch.autocast(self.x.device.type, enabled=False):
            x_hat = self.codec.synthesis(y_hat, self.quality)
            pixels = x_hat.mul(255).round().clamp(0, 255)
            return bits + self.distortion(pixels / 255).item()


def nearest(part: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest symbols, without a gradient of their own bits: RDOQ computes these exactly."""
    return round_straight_through(part - mean), round_straight_through(part.detach() - mean)


def refine(objective: Objective, effort: int, report: "Report") -> HyperpriorLatents:
    """The tile's latents, moved to where they cost less."""
    search = SEARCHES[objective.codec.distortion]
    rounds, annealing = plan(effort, search)
    done = 0

    def step_done() -> None:
        nonlocal done
        done += 1
        report(done / (rounds + annealing))

    generator = torch.Generator().manual_seed(0)
    points = [objective.start]
    points.append(requantize(objective, points[-1], rounds, search, generator, step_done))
    if annealing:
        points.append(anneal(objective, points[-1], annealing, search, generator, step_done))
    return objective.latents(min(points, key=objective.cost))


def requantize(
    objective: Objective,
    point: Point,
    rounds: int,
    search: Search,
    generator: torch.Generator,
    step_done: Callable[[], None],
) -> Point:
    """RDOQ of y. Each round considers the next smaller and the next larger number for all symbols
    at once. What such a change costs in bits of the symbol itself is computed; what it does to the
    picture, and to the probabilities of the symbols coded later, is estimated from the gradient and
    its curvature. A random choice of the changes that pay is made.
    """
    parts, z = point
    for _ in range(rounds):
        parts = [part.detach().requires_grad_() for part in parts]
        trial = objective(Point(parts, z), nearest)
        gradients = torch.autograd.grad(trial.cost, parts)
        parts = [
            changed(*part, search.curvature, generator)
            for part in zip(parts, gradients, *trial[1:], strict=True)
        ]
        step_done()
    return Point(parts, z)


@torch.no_grad()
def changed(
    part: Tensor,
    gradient: Tensor,
    bits: Tensor,
    symbols: Tensor,
    mean: Tensor,
    index: Tensor,
    coded: Tensor,
    curvature: float,
    generator: torch.Generator,
) -> Tensor:
    """``part`` with half of the changes of one step that pay."""
    lowest, change = torch.zeros_like(part), torch.zeros_like(part)
    for step in (-1, 1):
        more_bits = gaussian_bits(symbols + step, index) - bits
        cost = torch.where(coded, more_bits + step * gradient + curvature / 2, 0)
        change = torch.where(cost < lowest, step, change)
        lowest = torch.minimum(cost, lowest)
    chosen = torch.rand(part.shape, generator=generator).to(part.device) < SHARE
    return torch.where(chosen & (change != 0), mean + symbols + REACH * change, part)


def anneal(
    objective: Objective,
    point: Point,
    steps: int,
    search: Search,
    generator: torch.Generator,
    step_done: Callable[[], None],
) -> Point:
    """Stochastic Gumbel annealing. All of y depends on z: so that is rounded for good when y has
    yet to cool."""
    *parts, z = (latent.detach().clone().requires_grad_() for latent in (*point.parts, point.z))
    optimizers = [Adam(latent) for latent in (*parts, z)]
    (high, low), (least, most) = TEMPERATURES, NOISE
    noise = min(most, max(least, NOISE_GROWTH * math.sqrt(steps)))
    for step in range(steps):
        position = step / steps
        if position >= HOLD:
            z = z.detach().round()
        temperature = high + (low - high) * max(0, (position - HOLD) / (1 - HOLD))
        rate = search.rate * min(1, 2 * (1 - position))
        quantize = partial(sampled, temperature=temperature, noise=noise, generator=generator)
        latents = [latent for latent in (*parts, z) if latent.requires_grad]
        gradients = torch.autograd.grad(objective(Point(parts, z), quantize).cost, latents)
        for optimizer, latent, gradient in zip(optimizers, latents, gradients):
            optimizer.step(latent, gradient, Z_RATE if latent is z else rate)
        step_done()
    return Point([part.detach() for part in parts], z.detach())


class Adam:
    """Kingma, Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1, for one tensor. The first step
    of torch.optim's would import 160 MB of code that nothing else here needs."""

    DECAYS = 0.9, 0.999  # of the averages of the gradient and of its square

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
    up = SLOPE / temperature * (residual - low).logit(EDGE)
    gumbel = torch.rand(part.shape, generator=generator).logit(1e-6)
    symbols = low + torch.sigmoid((up + noise * gumbel.to(part.device)) / temperature)
    return symbols, symbols
