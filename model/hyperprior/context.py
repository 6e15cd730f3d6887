"""The networks of the hyperprior codec's entropy model: hyper-synthesis and context model.

Their layers are those of model/fixed_point.py: in floating point for training, in fixed point for
coding, as ``bits`` says.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.constants import constant
from model.entropy import CERTAIN_BELOW, SCALES, dead_zone
from model.fixed_point import (
    FRACTION_BITS,
    Bits,
    Depthwise,
    LatentPointwise,
    Pointwise,
    QualityBias,
)
from model.quantizers import round_straight_through

# The latent is divided into four groups of channels, each with every fourth channel, and its
# positions into four phases: row i and column j are of phase 2 * (i % 2) + j % 2. Pass k codes, at
# phase p, the group p XOR PASS_ORDER[k]. So a group is coded first at one phase, then at the
# diagonally opposite one, then at the others.
PASS_ORDER = (0, 3, 1, 2)
PASSES = GROUPS = PHASES = len(PASS_ORDER)


class ContextBlock(nn.Module):
    """``x + W2 relu(W1 dw(x))``: [B, C, H, W] to the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.depthwise = Depthwise(channels)
        self.expand = Pointwise(channels, channels)
        self.project = Pointwise(channels, channels)

    def forward(self, x: Tensor, bits: Bits) -> Tensor:
        y = self.expand(self.depthwise(x, bits), bits)
        return x + self.project(F.relu(y, inplace=True), bits)


class HyperSynthesis(nn.Module):
    """z_hat [B, Z, H/64, W/64] to features [B, D, H/16, W/16]."""

    def __init__(self, hyper_channels: int, channels: int, rate_points: int):
        super().__init__()
        self.head = LatentPointwise(hyper_channels, channels)
        self.quality = QualityBias(rate_points, channels)
        self.block1 = ContextBlock(channels)
        self.up1 = Pointwise(channels, 4 * channels)
        self.block2 = ContextBlock(channels)
        self.up2 = Pointwise(channels, 4 * channels)
        self.block3 = ContextBlock(channels)

    def forward(self, z_hat: Tensor, quality: Tensor, bits: Bits) -> Tensor:
        if isinstance(bits, int):
            z_hat = z_hat * 2**FRACTION_BITS
        x = self.head(z_hat, bits)
        x = self.block1(self.quality(x, quality, bits), bits)
        x = self.block2(F.relu(upsampled(self.up1(x, bits)), inplace=True), bits)
        return self.block3(F.relu(upsampled(self.up2(x, bits)), inplace=True), bits)


def upsampled(x: Tensor) -> Tensor:
    """``pixel_shuffle`` of x [B, 4 C, H, W] by 2, to [B, C, 2 H, 2 W], in x's order in memory."""
    if x.is_contiguous():
        return F.pixel_shuffle(x, 2)
    x = x.permute(0, 2, 3, 1).unflatten(3, (-1, 2, 2))  # B H W C 2 2
    return x.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def split_phases(x: Tensor) -> list[Tensor]:
    """The positions of each phase of x [B, C, H, W]: views, [B, C, H/2, W/2] each."""
    return [x[:, :, phase // 2 :: 2, phase % 2 :: 2] for phase in range(PHASES)]


def merge_phases(phases: list[Tensor]) -> Tensor:
    """The inverse of ``split_phases``. In memory, channels lie side by side."""
    first, second, third, fourth = (x.permute(0, 2, 3, 1) for x in phases)
    even, odd = torch.stack([first, second], dim=3), torch.stack([third, fourth], dim=3)
    x = torch.stack([even, odd], dim=2)  # B H/2 2 W/2 2 C
    return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def split_latent(y: Tensor) -> Tensor:
    """[B, K, H, W] to [B, 4, 4, K/4, H/2, W/2]: phases, then groups of channels."""
    return torch.stack(split_phases(y), dim=1).unflatten(2, (-1, GROUPS)).transpose(2, 3)


def merge_latent(y: Tensor) -> Tensor:
    """The inverse of ``split_latent``."""
    y = y.unflatten(1, (2, 2)).permute(0, 4, 3, 5, 1, 6, 2)  # B K/4 4 H/2 2 W/2 2
    return y.flatten(5, 6).flatten(3, 4).flatten(1, 2)


def coded_in(step: int) -> tuple[slice, list[int], list[int]]:
    """The index, in a split latent, of the symbols of pass ``step``, [B, 4, K/4, H/2, W/2]."""
    return slice(None), list(range(PHASES)), [phase ^ PASS_ORDER[step] for phase in range(PHASES)]


class ContextPass(nn.Module):
    """Means and scales of the symbols of one pass, given the latent of the passes before."""

    def __init__(self, latent_channels: int, channels: int, first: bool):
        super().__init__()
        self.around = None if first else Depthwise(channels)
        self.block = ContextBlock(channels)
        self.hidden = Pointwise(channels, channels)
        outputs = 2 * (latent_channels // GROUPS)  # of each channel its mean, then its scale
        self.heads = nn.ModuleList(Pointwise(channels, outputs) for _ in range(PHASES))

    def forward(
        self, features: Tensor, state: Tensor | None, count: int, bits: Bits
    ) -> tuple[Tensor, Tensor]:
        """features [B, D, h, w] and state [B, D, h, w], None in the first pass, to means and scale
        logits of the first ``count`` channels of each group, [B, 4, count, h/2, w/2]; in fixed
        point they are in multiples of 2^-FRACTION_BITS."""
        x = features
        if self.around is not None and state is not None:
            x = x + self.around(state, bits)
        x = self.block(x, bits)
        x = F.relu(self.hidden(F.relu(x, inplace=True), bits), inplace=True)
        if not isinstance(bits, int):
            x = x.float()  # means are compared with rounded numbers: bfloat16 is too coarse
        with torch.autocast(x.device.type, enabled=False):
            predicted = [
                layer(x, bits, 2 * count, FRACTION_BITS)
                for layer, x in zip(self.heads, split_phases(x))
            ]
        means, logits = torch.stack(predicted, dim=1).unflatten(2, (count, 2)).unbind(3)
        return means, logits


def scale_index(logits: Tensor) -> Tensor:
    """The index into the table of scales, a real number in 0 to SCALES - 1, of scale logits."""
    return (8 * logits.float() + SCALES / 3).clamp(0, SCALES - 1)


def fixed_scale_index(logits: Tensor) -> Tensor:
    """The nearest index, an integer, of scale logits in multiples of 2^-FRACTION_BITS."""
    steps = 2**FRACTION_BITS // 8  # from one index to the next
    offset = round((SCALES / 3 + 0.5) * steps)
    return ((logits + offset) / steps).floor_().clamp_(0, SCALES - 1)


class ContextModel(nn.Module):
    """Predicts the latent in four passes, each from the hyper-latent's features and from the latent
    of the passes before it.

    Context in space and among channels at once, in four steps that are parallel in themselves: the
    quadtree partition of Li, Li, Lu 2023, "Neural video compression with diverse contexts",
    https://arxiv.org/abs/2302.14402. Between the passes there is a state, [B, D, h, w]: at each
    position, the sum of the projections of the channel groups that have been coded there.
    """

    def __init__(self, latent_channels: int, channels: int):
        super().__init__()
        self.latent_channels = latent_channels
        self.projections = nn.ModuleList(
            LatentPointwise(latent_channels // GROUPS, channels) for _ in range(GROUPS)
        )
        self.passes = nn.ModuleList(
            ContextPass(latent_channels, channels, first=step == 0) for step in range(PASSES)
        )

    def update(self, state: Tensor | None, y_hat: Tensor, step: int, bits: Bits) -> Tensor | None:
        """The state after pass ``step`` has coded y_hat, [B, 4, count, h/2, w/2]; in fixed point
        y_hat is in multiples of 2^-FRACTION_BITS."""
        if step == PASSES - 1:
            return None  # there is no pass that could use it
        _, phases, groups = coded_in(step)
        new = merge_phases([self.projections[g](y_hat[:, p], bits) for p, g in zip(phases, groups)])
        return new if state is None else state + new

    def forward(
        self, features: Tensor, y: Tensor, share: Tensor, coded: Tensor, bits: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Training: features [B, D, h, w] and y [B, K, h, w] to y_hat, quantized (straight-through)
        and of the shape of y, and to the means and scale logits of the split latent,
        [B, 4, 4, K/4, h/2, w/2] each. ``share`` [B]: see ``dead_zone``. ``coded`` [B, K, 1, 1]: 1
        for the coded channels of each sample, and 0 for the others, where y_hat is zero. ``bits``:
        [B, 1, 1, 1]."""
        count = y.shape[1] // GROUPS
        y, coded = split_latent(y), split_latent(coded.expand(-1, -1, 2, 2))
        y_hat, means, logits = torch.zeros_like(y), torch.zeros_like(y), torch.zeros_like(y)
        state = None
        for step in range(PASSES):
            phases, groups = (constant(tuple(i), y.device, torch.long) for i in coded_in(step)[1:])
            here = slice(None), phases, groups
            mean, logit = self.passes[step](features, state, count, bits)
            residual = y[here] - mean
            index = scale_index(logit.detach()).round()
            kept = (index >= CERTAIN_BELOW) & (residual.abs() >= dead_zone(index, share))
            quantized = (round_straight_through(residual, kept) + mean) * coded[here]
            state = self.update(state, quantized, step, bits)
            y_hat[here], means[here], logits[here] = quantized, mean, logit.float()
        return merge_latent(y_hat), means, logits
