"""The order and the probabilities of a latent's integers, which are coded as digits.

The scale of each integer is estimated from the integers coded before it. In training it gives a
probability, and so the rate. In a file it gives the order of the digits: integers of about the same
scale follow one another, so that lzma, which adapts to the digits that it has just seen, needs no
probabilities.

The integers of the latent are coded in this order:

* The first three channels, local means of luma and of two colour differences, as differences to
  their predictions from coarser positions. Their scales depend on channel and level alone.
* The other channels in groups of falling energy, and of each group the even positions of a
  checkerboard, then the odd ones. A scale is a constant of the channel and of the quality, plus a
  weighted sum of magnitudes near the position: those of earlier groups, the slopes of the means,
  and, at odd positions, the four neighbours within the group.

Encoder and decoder compute scales in integers, so they agree on the order on every machine.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.binary.packing import MAX_DIGITS, DigitReader, DigitWriter
from model.bytestream import Reader
from model.fixed_point import FRACTION_BITS, QualityBias, fixed_point
from model.layers import dct_variance

MEANS = 3  # channels
LEVELS = 5  # the coarsest positions of the pyramid of means are 2^LEVELS apart
SMALLEST_SCALE = 0.08
KERNEL_SUM = 16  # sum of the weights of ``smooth``: features are magnitudes times KERNEL_SUM
SCALE_WEIGHT_BITS = 10
INTEGER_LIMIT = 2 ** (MAX_DIGITS - 2)  # largest magnitude; differences of means reach twice as far
FEATURE_LIMIT = 2**20
DIGIT_WEIGHT_LIMIT = 2**15  # 192 times it times FEATURE_LIMIT is far below 2^53: sums are exact


class Step(NamedTuple):
    """Positions of the pyramid of means that are predicted at once: every ``side``-th row from
    ``top`` on and every ``side``-th column from ``left`` on, halfway between known positions."""

    level: int  # 1 to LEVELS, from coarse to fine
    side: int
    top: int
    left: int

    @property
    def place(self) -> tuple:
        """The index of the positions in y [..., h, w]."""
        return ..., slice(self.top, None, self.side), slice(self.left, None, self.side)


def pyramid(height: int, width: int) -> Iterator[Step]:
    """The steps that lead from every 2^LEVELS-th row and column to all positions: level after
    level, the centres of four known positions in a square, then of four in a diamond."""
    for level in range(1, LEVELS + 1):
        side = 2 ** (LEVELS + 1 - level)
        half = side // 2
        for top, left in ((half, half), (0, half), (half, 0)):
            if top < height and left < width:
                yield Step(level, side, top, left)


def prediction(y: Tensor, step: Step) -> Tensor:
    """The mean of the four known values around each position of ``step`` in y [B, C, h, w], rounded
    if they are integers: [B, C, rows, columns]. Beyond the edge, known positions are repeated."""
    corners = repeated(y[..., :: step.side, :: step.side], (0, 1, 0, 1))
    down, right = (int(offset > 0) for offset in (step.top, step.left))
    if down and right:
        near = [corners[..., i:, j:] for i in (0, 1) for j in (0, 1)]
    else:
        near = [corners, corners[..., down:, right:]]  # the corners above and below, or beside
        half = step.side // 2
        centres = y[..., half :: step.side, half :: step.side]
        if centres.numel():
            centres = repeated(centres, (1, 1, 0, 0) if down else (0, 0, 1, 1))
            near += [centres, centres[..., right:, down:]]
        else:
            near += near
    rows, columns = y[step.place].shape[2:]
    values = torch.stack([x[..., :rows, :columns] for x in near])
    return values.mean(0) if y.is_floating_point() else (values.sum(0) + 2) >> 2


def repeated(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """``x`` [B, C, h, w] with its edge repeated; x may be of integers."""
    return F.pad(x.float(), padding, mode="replicate").to(x.dtype)


def differences(means: Tensor) -> Tensor:
    """Integers [B, C, h, w] less their predictions from coarser positions."""
    result = means.clone()
    for step in pyramid(*means.shape[2:]):
        result[step.place] -= prediction(means, step)
    return result


def from_differences(differences: Tensor) -> Tensor:
    """The inverse of ``differences``."""
    means = differences.clone()
    for step in pyramid(*means.shape[2:]):
        means[step.place] += prediction(means, step)
    return means


def smooth(x: Tensor) -> Tensor:
    """x [B, C, h, w] with weights 1, 2, 1 along both axes; its edge is repeated."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    x = x[..., 1:, :] + x[..., :-1, :]
    x = x[..., 1:, :] + x[..., :-1, :]
    x = x[..., 1:] + x[..., :-1]
    return x[..., 1:] + x[..., :-1]


def cross(x: Tensor) -> Tensor:
    """Four times the sum of the four neighbours of each position of x [B, C, h, w], 0 beyond its
    edge."""
    x = 4 * F.pad(x, (1, 1, 1, 1))
    return x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]


def slope(x: Tensor) -> Tensor:
    """Four times the sum of the differences of x [B, C, h, w] to the four neighbours."""
    down = 4 * (x[..., 1:, :] - x[..., :-1, :]).abs()
    right = 4 * (x[..., 1:] - x[..., :-1]).abs()
    down = F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))
    return down + F.pad(right, (1, 0)) + F.pad(right, (0, 1))


def checkerboard(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Indices of even and of odd positions, among height x width in a row."""
    odd = (torch.arange(height)[:, None] + torch.arange(width)).flatten() % 2
    return (odd == 0).nonzero().flatten(), (odd == 1).nonzero().flatten()


def laplace_bits(x: Tensor, scale: Tensor) -> Tensor:
    """-log2 of the probability that a Laplace distribution of this scale, in units of e-folds,
    gives to the interval from x - 1/2 to x + 1/2."""
    x, inverse = x.abs(), 1 / scale
    half = torch.exp(-inverse / 2)
    tail = (x - 0.5) * inverse - torch.log1p(-half.square()) + math.log(2)
    centre = -torch.log1p(-half * torch.cosh(x.clamp(max=0.5) * inverse))
    return torch.where(x > 0.5, tail, centre) / math.log(2)


def falling(scales: Tensor) -> np.ndarray:
    """The order of ``scales`` in fixed point, flattened: from large to small, in classes of a 16th
    of an octave, within which the order stays.

    The exponent of a float32 and the first four bits of its fraction give the number of its class.
    Class 0 holds scales below 2^10, class 255 scales from 2^26 on.
    """
    classes = (scales.float().view(torch.int32) >> 19) - ((127 + 10) << 4)
    rank = 255 - classes.clamp(0, 255)
    return np.argsort(rank.flatten().to(torch.uint8).numpy(), kind="stable")


class LatentWriter:
    """Writes the integers of a latent, int32 [1, C, h, w]."""

    def __init__(self, y: Tensor):
        self.y, self.digits = y.flatten(2), DigitWriter()

    def code(self, channels: slice, positions: Tensor, order: np.ndarray) -> Tensor:
        """The integers of these channels at these positions (indices), int32 [1, C, N], which are
        written. ``order``: of the integers, flattened, in the file."""
        values = self.y[:, channels, positions]
        self.digits.write(values.flatten().numpy()[order])
        return values


class LatentReader:
    """Reads integers that a LatentWriter has written. ValueError if they are damaged."""

    def __init__(self, reader: Reader):
        self.digits = DigitReader(reader)

    def code(self, channels: slice, positions: Tensor, order: np.ndarray) -> Tensor:
        """``LatentWriter.code``, where the integers are read."""
        values = np.empty(len(order), np.int32)
        values[order] = self.digits.read(len(order))
        return torch.from_numpy(values).view(1, channels.stop - channels.start, len(positions))


class DigitModel(nn.Module):
    """Rate, and coding, of latents of integers [B, C, h, w]."""

    def __init__(self, channels: int, groups: tuple[int, int], rate_points: int):
        super().__init__()
        self.bounds = [MEANS, *groups, channels]
        self.base = QualityBias(rate_points, MEANS * (LEVELS + 1))  # square roots of scales
        self.offset = QualityBias(rate_points, channels - MEANS)
        self.weights = nn.ParameterList()  # square roots of weights, of even and odd positions
        for low, high in zip(self.bounds, self.bounds[1:]):
            self.weights += [nn.Parameter(torch.empty(high - low, n)) for n in (low, high)]

    def start(self, gains: Tensor) -> None:
        """Start with the scales of the DCT of photographs. ``gains`` [rate points]: inverses of the
        quantizer's step, for pixels in 0 to 1."""
        scales = 0.09 * dct_variance(8, self.bounds[-1]).sqrt() * gains[:, None]
        levels = 2 ** (-0.4 * torch.arange(LEVELS + 1))
        self.base.points.copy_((scales[:, :MEANS, None] * levels).sqrt().flatten(1))
        self.offset.points.copy_(scales[:, MEANS:].sqrt())
        for low, even, odd in zip(self.bounds, self.weights[::2], self.weights[1::2]):
            even.fill_((0.15 / low) ** 0.5)
            odd[:, :low] = 0.7 * even
            odd[:, low:] = 0.05
            odd[:, low:].fill_diagonal_(0.5)

    def rate(self, y: Tensor, rounded: Tensor, quality: Tensor) -> Tensor:
        """The bits [B] that y [B, C, h, w] takes, differentiable. ``rounded`` is y in integers,
        with the gradient of y. In training, y with uniform noise stands in for it (Ballé, Laparra,
        Simoncelli 2017, https://arxiv.org/abs/1611.01704)."""
        noisy = y + torch.rand_like(y) - 0.5 if self.training else rounded
        zero = y.new_zeros(())
        scales = (
            self.base(zero, quality).square().unflatten(1, (MEANS, LEVELS + 1)) + SMALLEST_SCALE
        )
        means, noisy_means = rounded[:, :MEANS], noisy[:, :MEANS]
        coarsest = noisy_means[..., :: 2**LEVELS, :: 2**LEVELS]
        bits = laplace_bits(coarsest, scales[:, :, 0]).sum((1, 2, 3))
        for step in pyramid(*y.shape[2:]):
            difference = noisy_means[step.place] - prediction(means, step)
            bits = bits + laplace_bits(difference, scales[:, :, step.level]).sum((1, 2, 3))

        magnitudes = rounded[:, MEANS:].abs()
        features = torch.cat([slope(means), smooth(magnitudes)], 1).flatten(2) / KERNEL_SUM
        near, noisy = cross(magnitudes).flatten(2) / KERNEL_SUM, noisy.flatten(2)
        offset = self.offset(zero, quality).square().flatten(2) + SMALLEST_SCALE
        weights = iter(self.weights)
        for low, high in zip(self.bounds, self.bounds[1:]):
            group = slice(low - MEANS, high - MEANS)
            for odd, positions in enumerate(checkerboard(*y.shape[2:])):
                known = features[:, :low, positions]
                if odd:
                    known = torch.cat([known, near[:, group, positions]], 1)
                scales = next(weights).square() @ known + offset[:, group]
                bits = bits + laplace_bits(noisy[:, low:high, positions], scales).sum((1, 2))
        return bits

    def encode(self, y: Tensor, quality: Tensor) -> bytes:
        """y, int32 [1, C, h, w] within +-INTEGER_LIMIT, on the CPU, to bytes."""
        writer = LatentWriter(torch.cat([differences(y[:, :MEANS]), y[:, MEANS:]], 1))
        self.code(writer, y.shape[2], y.shape[3], quality)
        return writer.digits.finish()

    def decode(self, reader: Reader, height: int, width: int, quality: Tensor) -> Tensor:
        """The latent that ``encode`` wrote, up to the end of ``reader``, int32 [1, C, height,
        width]; ValueError if it is damaged."""
        coder = LatentReader(reader)
        y = self.code(coder, height, width, quality)
        coder.digits.finish()
        return y

    def code(
        self, coder: LatentWriter | LatentReader, height: int, width: int, quality: Tensor
    ) -> Tensor:
        """Write or read a latent, int32 [1, C, height, width], which is returned. The order of each
        set of integers depends on the sets before it."""
        order = falling(self.mean_scales(height, width, quality))
        means = coder.code(slice(0, MEANS), torch.arange(height * width), order)
        means = from_differences(means.view(1, MEANS, height, width))
        known, features = [means], slope(means.float())
        offset = fixed_scales(self.offset, quality)
        offset += round(SMALLEST_SCALE * KERNEL_SUM * 2**SCALE_WEIGHT_BITS)
        weights = iter(self.weights)
        for low, high in zip(self.bounds, self.bounds[1:]):
            group = means.new_zeros(1, high - low, height, width)
            for odd, positions in enumerate(checkerboard(height, width)):
                near = torch.cat([features, cross(group.abs().float())], 1) if odd else features
                scales = weighted(next(weights), near.flatten(2)[0, :, positions])
                order = falling(scales + offset[low - MEANS : high - MEANS])
                values = coder.code(slice(low, high), positions, order)
                group.flatten(2)[..., positions] = values
            known.append(group)
            features = torch.cat([features, smooth(group.abs().float())], 1)
        return torch.cat(known, 1)

    def mean_scales(self, height: int, width: int, quality: Tensor) -> Tensor:
        """The scales of differences of the means, in fixed point, [MEANS, height * width]."""
        level = torch.zeros(height, width, dtype=torch.int64)
        for step in pyramid(height, width):
            level[step.place] = step.level
        return fixed_scales(self.base, quality).view(MEANS, LEVELS + 1)[:, level.flatten()]


def weighted(roots: Tensor, features: Tensor) -> Tensor:
    """The sums of features [F, N] with weights, whose square ``roots`` are [C, F], in the fixed
    point of scales: float64 [C, N]."""
    weight = fixed_point(roots.square(), SCALE_WEIGHT_BITS, DIGIT_WEIGHT_LIMIT)
    return weight @ features.clamp(max=FEATURE_LIMIT).double()


def fixed_scales(roots: QualityBias, quality: Tensor) -> Tensor:
    """The squares of a table's values in the fixed point of scales, float64 [C, 1]."""
    root = roots.bias(quality, FRACTION_BITS)[0, :, 0].double()
    return root.square() * (KERNEL_SUM * 2.0 ** (SCALE_WEIGHT_BITS - 2 * FRACTION_BITS))
