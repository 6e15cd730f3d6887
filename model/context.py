"""The entropy model's networks: hyper-synthesis and context model.

Everything here is written once and runs in two arithmetics, which the input's type selects:

* floating point: training.
* int32: coding, in fixed point. A tensor then holds values times 2^FRACTION_BITS; weights are
  rounded to steps of 2^-WEIGHT_BITS. Matrix products run in float64, where all sums of whole
  numbers stay below 2^53 and are exact, in any order, on any processor, with any number of
  threads. Encoder and decoder thus agree on every probability (Ballé, Johnston, Minnen 2019,
  "Integer networks for data compression with latent-variable models"; here the rounding is
  done after training).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.entropy import SCALES
from model.layers import QualityTable
from model.quantizers import round_straight_through

FRACTION_BITS = 6
WEIGHT_BITS = 10
LIMIT = 2**15  # activations are clipped to +-LIMIT steps, the weights of products too
DEPTHWISE_LIMIT = 2**12  # nine products of it with LIMIT, and a bias, fit into int32
BIAS_LIMIT = 2**29

# Pass k codes, at phase p of each 2x2 square of positions, the channel group p ^ ORDER[k]:
# every group goes on from a position to its diagonal neighbour, then to the other two.
ORDER = (0, 3, 1, 2)
PHASES = (0, 1, 2, 3)


def is_exact(x: Tensor) -> bool:
    return not x.is_floating_point()


def fixed(weight: Tensor, bits: int, limit: int) -> Tensor:
    """Weights as whole numbers of steps of 2^-bits, clipped to +-limit, in float64 on the CPU."""
    return (weight.detach().cpu().double() * 2.0**bits).round().clamp(-limit, limit)


class FixedPointConv(nn.Conv2d):
    """A convolution with a second forward in fixed point; its whole weights are made once."""

    weight_limit: int

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.whole = None

    def train(self, mode: bool = True):
        self.whole = None  # the weights are about to change, or have just done so
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if not is_exact(x):
            return super().forward(x)
        if self.whole is None:
            weight = fixed(self.weight, WEIGHT_BITS, self.weight_limit)
            bias = fixed(self.bias, WEIGHT_BITS + FRACTION_BITS, BIAS_LIMIT)
            bias += 2 ** (WEIGHT_BITS - 1)  # rounding down then rounds to the nearest
            self.whole = self.prepare(weight, bias)
        return self.exact(x, *self.whole)

    def prepare(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The whole weights and biases, float64, in the form that ``exact`` takes."""
        raise NotImplementedError

    def exact(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x, int32 in steps of 2^-FRACTION_BITS, to the output in the same steps."""
        raise NotImplementedError


class Pointwise(FixedPointConv):
    """1x1 convolution [B, C, H, W] to [B, D, H, W]; in fixed point B is 1, a matrix product."""

    weight_limit = LIMIT

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels, 1)

    def prepare(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        # Scaled by a power of two, which stays exact, so that the product needs no shift.
        scale = 2.0**-WEIGHT_BITS
        return weight[:, :, 0, 0].mul(scale), bias[:, None].mul(scale)

    def exact(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        total = (weight @ x[0].flatten(1).double()).add_(bias)
        total.floor_().clamp_(-LIMIT, LIMIT)
        return total.int().unflatten(1, x.shape[2:])[None]


class Depthwise(FixedPointConv):
    """Depthwise 3x3 convolution, [B, C, H, W] to the same; nine shifted products in fixed point."""

    weight_limit = DEPTHWISE_LIMIT

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        nn.init.dirac_(self.weight, groups=channels)

    def prepare(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return weight.int(), bias[:, None, None].int()

    def exact(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x.clamp(-LIMIT, LIMIT), (1, 1, 1, 1))  # residual sums may exceed it
        total = bias.expand_as(x).clone()
        for i in range(3):
            for j in range(3):
                window = padded[:, :, i : i + height, j : j + width]
                total.addcmul_(window, weight[:, :, i, j, None])
        return (total >> WEIGHT_BITS).clamp_(-LIMIT, LIMIT)


class QualityBias(QualityTable):
    """``x + b(quality)``."""

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        if not is_exact(x):
            return x + super().forward(quality)
        return x + self.exact(quality)

    def exact(self, quality: Tensor) -> Tensor:
        """``b`` in fixed point, [B, C, 1, 1], for whole ``quality``: linear in integers."""
        points = fixed(self.points, FRACTION_BITS, LIMIT).long()
        position = (quality.long() - 1) * (len(points) - 1)
        low = (position // 99).clamp(max=len(points) - 2)
        weight = (position - 99 * low)[:, None]
        total = points[low] * (99 - weight) + points[low + 1] * weight
        return torch.div(total, 99, rounding_mode="floor").int()[:, :, None, None]


class ContextBlock(nn.Module):
    """``x + W2 relu(W1 dw(x))``: [B, C, H, W] to the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.depthwise = Depthwise(channels)
        self.expand = Pointwise(channels, channels)
        self.project = Pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.relu(self.expand(self.depthwise(x))))


class HyperSynthesis(nn.Module):
    """Hyper-latent [B, Z, H/64, W/64] to features [B, D, H/16, W/16]."""

    def __init__(self, hyper_channels: int, channels: int, rate_points: int):
        super().__init__()
        self.head = Pointwise(hyper_channels, channels)
        self.quality = QualityBias(rate_points, channels)
        self.block1 = ContextBlock(channels)
        self.up1 = Pointwise(channels, 4 * channels)
        self.block2 = ContextBlock(channels)
        self.up2 = Pointwise(channels, 4 * channels)
        self.block3 = ContextBlock(channels)

    def forward(self, z_hat: Tensor, quality: Tensor) -> Tensor:
        x = self.block1(self.quality(self.head(z_hat), quality))
        x = self.block2(F.relu(F.pixel_shuffle(self.up1(x), 2)))
        return self.block3(F.relu(F.pixel_shuffle(self.up2(x), 2)))


def split_phases(x: Tensor) -> Tensor:
    """[B, C, H, W] to [B, 4, C, H/2, W/2], the four positions of each 2x2 square."""
    x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # B C H/2 2 W/2 2
    return x.permute(0, 3, 5, 1, 2, 4).flatten(1, 2)


def merge_phases(x: Tensor) -> Tensor:
    """The inverse of ``split_phases``."""
    x = x.unflatten(1, (2, 2)).permute(0, 3, 4, 1, 5, 2)
    return x.flatten(4, 5).flatten(2, 3)


class ContextPass(nn.Module):
    """Mean and scale of the symbols that one pass codes, from all that is known before it."""

    def __init__(self, latent_channels: int, channels: int, first: bool):
        super().__init__()
        self.around = None if first else Depthwise(channels)
        self.hidden = Pointwise(channels, channels)
        self.heads = nn.ModuleList(Pointwise(channels, latent_channels // 2) for _ in PHASES)

    def forward(self, features: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """features [B, D, h, w]; known [B, 4, D, h/2, w/2], what is known of the latent so far,
        projected and in phases.

        Returns mean and scale logits, [B, 4, M/4, h/2, w/2] each: for every phase, those of
        the channel group that this pass codes there.
        """
        x = features
        if self.around is not None:
            x = x + self.around(merge_phases(known))
        x = split_phases(F.relu(self.hidden(F.relu(x))))
        if not is_exact(x):
            x = x.float()  # means are compared with rounded numbers: bfloat16 is too coarse
        with torch.autocast(x.device.type, enabled=False):
            out = [head(x[:, phase]) for phase, head in enumerate(self.heads)]
        return torch.stack(out, dim=1).chunk(2, dim=2)


def scale_index(logits: Tensor) -> Tensor:
    """Index into the table of scales from a scale logit: real-valued, or whole if exact."""
    if not is_exact(logits):
        return (8 * logits + SCALES / 3).clamp(0, SCALES - 1)
    steps = 2**FRACTION_BITS // 8  # of a logit, for one index
    middle = round((SCALES / 3 + 0.5) * steps)
    return torch.div(logits + middle, steps, rounding_mode="floor").clamp(0, SCALES - 1)


class ContextModel(nn.Module):
    """Four passes over the latent, each sees what the earlier ones coded, near and far.

    Spatial and channel-wise context at once, in four parallel steps: the quadtree partition
    of Li, Li, Lu 2023, "Neural video compression with diverse contexts",
    https://arxiv.org/abs/2302.14402. Each channel group has a projection to the width of the
    passes, in which what is known of a position adds up.
    """

    def __init__(self, latent_channels: int, channels: int):
        super().__init__()
        self.groups = len(PHASES)
        group = latent_channels // self.groups
        self.projections = nn.ModuleList(Pointwise(group, channels) for _ in range(self.groups))
        self.passes = nn.ModuleList(
            ContextPass(latent_channels, channels, first=k == 0) for k in range(len(ORDER))
        )

    def coded_groups(self, step: int) -> list[int]:
        """The channel group that pass ``step`` codes at each phase."""
        return [phase ^ ORDER[step] for phase in PHASES]

    def project(self, known: Tensor | None, y_hat: Tensor, step: int) -> Tensor:
        """``known`` with what pass ``step`` has coded added to it, y_hat [B, 4, M/4, h/2, w/2]:
        [B, 4, D, h/2, w/2], for the next pass."""
        pairs = zip(PHASES, self.coded_groups(step))
        new = torch.stack([self.projections[group](y_hat[:, p]) for p, group in pairs], dim=1)
        return new if known is None else known + new

    def forward(self, features: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training: y [B, M, h, w] to its rounded version (straight-through), and the means
        and scale logits of all its elements, in phases: [B, 4, 4, M/4, h/2, w/2]."""
        y = split_phases(y).unflatten(2, (self.groups, -1))
        known = None
        latent, means, scales = torch.zeros_like(y), torch.zeros_like(y), torch.zeros_like(y)
        for step, context_pass in enumerate(self.passes):
            here = (slice(None), list(PHASES), self.coded_groups(step))
            mean, scale = context_pass(features, known)
            y_hat = round_straight_through(y[here] - mean) + mean
            if step < len(ORDER) - 1:
                known = self.project(known, y_hat, step)
            latent[here], means[here], scales[here] = y_hat, mean, scale
        return merge_phases(latent.flatten(2, 3)), means, scales

    def code(self, features: Tensor, symbols_of) -> Tensor:
        """Coding, in fixed point: features [1, D, h, w] to the latent [1, M, h, w], in steps of
        2^-FRACTION_BITS.

        ``symbols_of(parts, mean, index)`` is called for each pass and returns its symbols: all
        of them, like mean and index, [1, 4, M/4, h/2, w/2]. ``parts`` are four indices into the
        latent, one a phase: where its channel group is at this pass.
        """
        group = self.passes[0].heads[0].out_channels // 2
        shape = (1, self.groups * group, *features.shape[2:])
        latent = torch.zeros(shape, dtype=torch.int32)
        known = None
        for step, context_pass in enumerate(self.passes):
            parts = [
                (..., slice(g * group, (g + 1) * group), slice(i, None, 2), slice(j, None, 2))
                for g, (i, j) in zip(self.coded_groups(step), ((0, 0), (0, 1), (1, 0), (1, 1)))
            ]
            mean, scale = context_pass(features, known)
            symbols = symbols_of(parts, mean, scale_index(scale).to(torch.uint8))
            values = symbols * 2**FRACTION_BITS + mean
            for phase, part in enumerate(parts):
                latent[part] = values[:, phase]
            if step < len(ORDER) - 1:
                known = self.project(known, values.clamp(-LIMIT, LIMIT), step)
        return latent
