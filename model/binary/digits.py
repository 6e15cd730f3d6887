"""What is known of an integer before its digits are coded: a scale, from integers coded earlier.

It is used twice. In training it gives a probability, and so the rate. In a file it gives the order
of the digits: integers of about the same scale follow one another, so that lzma, which adapts to
the digits that it has just seen, needs no probabilities.

The integers of the latent are coded in this order:

* The first three channels, local means of luma and of two colour differences, as differences to
  what coarser positions predict. Their scales depend on channel and level alone.
* The other channels in groups of falling energy, and of each group the even positions of a
  checkerboard, then the odd ones. A scale is a constant of the channel and of the quality, plus a
  weighted sum of magnitudes near the position: those of earlier groups, the slopes of the means,
  and, at odd positions, the four neighbours within the group.

Encoder and decoder compute scales in integers, so they agree on the order on every machine.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.binary.packing import MAX_DIGITS, DigitReader, DigitWriter
from model.bytestream import Reader
from model.fixed_point import FRACTION_BITS, QualityBias, fixed_point
from model.layers import dct_variance

MEANS = 3  # channels
LEVELS = 5  # of the pyramid of means; its coarsest positions are 2^LEVELS apart
FLOOR = 0.08  # the smallest scale
KERNEL = 16  # sum of the weights of ``smooth``: features are magnitudes times KERNEL
WEIGHT_BITS = 10
LIMIT = 2 ** (MAX_DIGITS - 2)  # of the magnitudes of integers; of their differences, 2 * LIMIT
FEATURE_LIMIT = 2**20
WEIGHT_LIMIT = 2**15  # 192 * FEATURE_LIMIT * WEIGHT_LIMIT is far below 2^53: sums are exact


def neighbours(y: Tensor) -> Iterator[tuple[tuple, Tensor, int]]:
    """Walk through the positions of y [B, C, h, w] from coarse to fine.

    Those in every 2^LEVELS-th row and column are there from the beginning. Then come, level after
    level, the centres of four known positions in a square, and of four in a diamond. Yields the
    index of these positions in y, the four known values [4, B, C, rows, columns] and the level, 1
    to LEVELS. Beyond the edge, known positions are repeated. Values at an index are read only
    after it was yielded, so they may be written then.
    """

    def pad(x: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
        return F.pad(x.float(), padding, mode="replicate").to(x.dtype)

    for level in range(1, LEVELS + 1):
        step = 2 ** (LEVELS + 1 - level)
        known, half = slice(0, None, step), slice(step // 2, None, step)
        corners = pad(y[..., known, known], (0, 1, 0, 1))
        centres = y[..., half, half]
        rows, columns = centres.shape[2:]
        if centres.numel():
            square = [corners[..., i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)]
            yield (..., half, half), torch.stack(square), level
        for down, index in enumerate([(..., known, half), (..., half, known)]):
            right = 1 - down  # whether the two known corners are beside each other
            rows, columns = y[index].shape[2:]
            if not rows or not columns:
                continue
            pair = [corners[..., i * down :, i * right :] for i in (0, 1)]
            if centres.numel():
                other = pad(centres, (1, 1, 0, 0) if down else (0, 0, 1, 1))
                pair += [other[..., i * right :, i * down :] for i in (0, 1)]
            else:
                pair += pair
            yield index, torch.stack([x[..., :rows, :columns] for x in pair]), level


def predict(values: Tensor) -> Tensor:
    """The mean of four values [4, ...], rounded if they are integers."""
    return values.mean(0) if values.is_floating_point() else (values.sum(0) + 2) >> 2


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
    return tuple((odd == phase).nonzero().flatten() for phase in (0, 1))


def laplace_bits(x: Tensor, scale: Tensor) -> Tensor:
    """-log2 of the probability that a Laplace distribution of this scale, in units of e-folds,
    gives to the interval from x - 1/2 to x + 1/2."""
    x, inverse = x.abs(), 1 / scale
    half = torch.exp(-inverse / 2)
    tail = (x - 0.5) * inverse - torch.log1p(-half.square()) + math.log(2)
    centre = -torch.log1p(-half * torch.cosh(x.clamp(max=0.5) * inverse))
    return torch.where(x > 0.5, tail, centre) / math.log(2)


def falling(scales: Tensor) -> np.ndarray:
    """The order of ``scales``, flattened, in fixed point: from large to small, in classes of a 16th
    of an octave, within which the order stays.

    The exponent of a float32 and the first four bits of its fraction are the number of its class.
    Class 0 are those below 2^10, class 255 those from 2^26 on.
    """
    classes = (scales.float().view(torch.int32) >> 19) - ((127 + 10) << 4)
    rank = 255 - classes.clamp(0, 255)
    return np.argsort(rank.flatten().to(torch.uint8).numpy(), kind="stable")


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
        """Start with the scales of the DCT of photographs. ``gains`` [rate points]: the inverse of
        the quantizer's step, for pixels in 0 to 1."""
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
        with the gradient of y; in training, the rate is that of y with uniform noise instead
        (Ballé, Laparra, Simoncelli 2017)."""
        noisy = y + torch.rand_like(y) - 0.5 if self.training else rounded
        zero = y.new_zeros(())
        scales = self.base(zero, quality).square().unflatten(1, (MEANS, LEVELS + 1)) + FLOOR
        means, noisy_means = rounded[:, :MEANS], noisy[:, :MEANS]
        coarsest = noisy_means[..., :: 2**LEVELS, :: 2**LEVELS]
        bits = laplace_bits(coarsest, scales[:, :, 0]).sum((1, 2, 3))
        for index, values, level in neighbours(means):
            difference = noisy_means[index] - predict(values)
            bits = bits + laplace_bits(difference, scales[:, :, level]).sum((1, 2, 3))

        magnitudes = rounded[:, MEANS:].abs()
        features = torch.cat([slope(means), smooth(magnitudes)], 1).flatten(2) / KERNEL
        near, noisy = cross(magnitudes).flatten(2) / KERNEL, noisy.flatten(2)
        offset = self.offset(zero, quality).square().flatten(2) + FLOOR
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
        """y, int32 [1, C, h, w] within +-LIMIT, on the CPU, to bytes."""
        y, means = y.clone(), y[:, :MEANS]
        for index, values, _ in neighbours(means):
            y[:, :MEANS][index] -= predict(values)
        writer = DigitWriter()
        for channels, positions, order in self.passes(y, quality):
            values = y[0, channels].flatten(1)[:, positions]
            writer.write(values.flatten().numpy()[order])
        return writer.finish()

    def decode(self, reader: Reader, height: int, width: int, quality: Tensor) -> Tensor:
        """What ``encode`` wrote, up to the end of ``reader``, int32 [1, C, height, width];
        ValueError if it is damaged."""
        y = torch.zeros(1, self.bounds[-1], height, width, dtype=torch.int32)
        digits = DigitReader(reader)
        for channels, positions, order in self.passes(y, quality):
            values = np.empty(len(order), np.int32)
            values[order] = digits.read(len(order))
            part = y[0, channels].flatten(1)
            part[:, positions] = torch.from_numpy(values).view(len(part), -1)
        digits.finish()
        return y

    def passes(self, y: Tensor, quality: Tensor) -> Iterator[tuple[slice, Tensor, np.ndarray]]:
        """The order in which integers are coded: for one set of them after the other, a slice of
        channels, positions (indices) and the order within the set.

        A set is read from y, int32 [1, C, h, w], after it was yielded, so it may be written then.
        The means are differences to begin with, and what they should be in the end.
        """

        def square(table: QualityBias) -> Tensor:
            root = table.bias(quality, FRACTION_BITS)[0, :, 0].double()
            return root.square() * (KERNEL * 2.0 ** (WEIGHT_BITS - 2 * FRACTION_BITS))

        height, width = y.shape[2:]
        level = torch.zeros(1, 1, height, width, dtype=torch.int32)
        for index, _, number in neighbours(level):
            level[index] = number
        scales = square(self.base).view(MEANS, LEVELS + 1)[:, level.flatten()]
        yield slice(0, MEANS), torch.arange(height * width), falling(scales)
        means = y[:, :MEANS]
        for index, values, _ in neighbours(means):
            means[index] += predict(values)

        features = slope(means.float())
        offset = square(self.offset) + round(FLOOR * KERNEL * 2**WEIGHT_BITS)
        weights = iter(self.weights)
        for low, high in zip(self.bounds, self.bounds[1:]):
            group = y[:, low:high]
            for odd, positions in enumerate(checkerboard(height, width)):
                known = torch.cat([features, cross(group.abs().float())], 1) if odd else features
                known = known[0].flatten(1)[:, positions].clamp(max=FEATURE_LIMIT).double()
                weight = fixed_point(next(weights).square(), WEIGHT_BITS, WEIGHT_LIMIT)
                scales = weight @ known + offset[low - MEANS : high - MEANS]
                yield slice(low, high), positions, falling(scales)
            features = torch.cat([features, smooth(group.abs().float())], 1)
