"""Building blocks of the codecs' networks."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.limits import MAX_QUALITY, MIN_QUALITY

PIXEL_CORRELATION = 0.95  # between neighbours
COLOUR_VARIANCE = (1, 0.06, 0.02)  # luma and the two colour differences, relative to luma


class GDN(nn.Module):
    """Generalized divisive normalization, or its inverse.

    ``y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)``; the inverse multiplies instead.
    Ballé, Laparra, Simoncelli 2016, "Density modeling of images using a generalized
    normalization transformation", https://arxiv.org/abs/1511.06281.

    The parameters are the square roots of beta and gamma, which so stay positive.
    Input and output: [B, C, H, W].
    """

    BETA_MIN = 1e-6

    def __init__(self, channels: int, inverse: bool = False):
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.full((channels, channels), math.sqrt(1e-4)))
        with torch.no_grad():
            self.gamma.diagonal().fill_(math.sqrt(0.1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] to the same shape."""
        gamma = self.gamma.square()[:, :, None, None]
        norm = F.conv2d(x * x, gamma, self.beta.square() + self.BETA_MIN)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [B, C, H, W] and weight [D, C, 1, 1] to [B, D, H, W]. The dilation does not change the
    result. Without it, torch takes another way in a single thread, two to three times slower on
    processors of AMD."""
    return F.conv2d(x, weight, bias, dilation=2 if x.is_cpu else 1)


class Conv1x1(nn.Conv2d):
    """A 1x1 convolution, [B, C, H, W] to [B, D, H, W]. x may have fewer channels than the layer:
    the others are taken as zero."""

    bias: Tensor

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return conv1x1(x, self.weight[:, : x.shape[1]], self.bias)


class ResidualBlock(nn.Module):
    """A depthwise 3x3 convolution, then a gated 1x1 feed-forward network, with a skip connection.

    ``x + W2 (silu(a) * b)`` with ``a, b = W1 dw(x)``: the feed-forward half of the
    depth-conv block of DCVC (Li et al. 2023, https://arxiv.org/abs/2302.14402), gated as in
    Shazeer 2020, https://arxiv.org/abs/2002.05202. Input and output: [B, C, H, W].

    The product ``silu(a) * b`` is clipped to +-``bound``, which is more than photographs need. The
    product grows as the square of its input, block after block, and would otherwise explode on
    pictures that are unlike the training data.
    """

    def __init__(self, channels: int, bound: float):
        super().__init__()
        self.bound = bound
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.expand = Conv1x1(channels, 2 * channels)
        self.project = Conv1x1(channels, channels)
        # Starts close to the identity, so that a deep stack trains from the first step.
        nn.init.dirac_(self.depthwise.weight, groups=channels)
        spread = 0.1 * math.sqrt(3 / channels)
        nn.init.uniform_(self.project.weight, -spread, spread)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.expand(self.depthwise(x)).chunk(2, dim=1)
        return x + self.project(F.hardtanh(F.silu(a) * b, -self.bound, self.bound))


class Down(nn.Sequential):
    """[B, C, H, W] to [B, D, H / factor, W / factor]: pixel-unshuffle, then a 1x1 convolution."""

    def __init__(self, channels: int, out_channels: int, factor: int = 2):
        super().__init__(nn.PixelUnshuffle(factor), Conv1x1(channels * factor**2, out_channels))

    @property
    def conv(self) -> Conv1x1:
        return cast(Conv1x1, self[1])


class Up(nn.Sequential):
    """[B, C, H, W] to [B, D, factor * H, factor * W]: a 1x1 convolution, then pixel-shuffle."""

    def __init__(self, channels: int, out_channels: int, factor: int = 2):
        super().__init__(Conv1x1(channels, out_channels * factor**2), nn.PixelShuffle(factor))

    @property
    def conv(self) -> Conv1x1:
        return cast(Conv1x1, self[0])


def interpolated(points: Tensor, quality: Tensor) -> Tensor:
    """Vectors [B, C, 1, 1] at quality [B] in 1 to 100: linear interpolation between the rate points
    [P, C]."""
    last = len(points) - 1
    position = (quality.float() - MIN_QUALITY) / (MAX_QUALITY - MIN_QUALITY) * last
    low = position.floor().clamp(0, last - 1)
    weight = (position - low)[:, None]
    low = low.long()
    return torch.lerp(points[low], points[low + 1], weight)[:, :, None, None]


class QualityTable(nn.Module):
    """A vector for each quality, in between those of the rate points.

    It holds gain vectors in the logarithmic domain (Cui et al. 2021, "Asymmetric gained deep image
    compression with continuous rate adaptation", https://arxiv.org/abs/2003.02012), so that one set
    of weights serves every rate.
    """

    def __init__(self, points: int, channels: int):
        super().__init__()
        self.points = nn.Parameter(torch.zeros(points, channels))

    def forward(self, quality: Tensor) -> Tensor:
        """quality [B] in 1 to 100 to [B, C, 1, 1]."""
        return interpolated(self.points, quality)


def dct_spectrum(size: int) -> Tensor:
    """The variance of each coefficient of the DCT of size x size blocks in RGB, [3, size, size],
    relative to the variance of luma pixels.

    Rows and columns are modelled as first-order Markov processes, whose power spectrum at the
    angular frequency w is (1 - r^2) / (1 - 2 r cos(w) + r^2) for a correlation r of neighbouring
    pixels.
    """
    w = math.pi / size * torch.arange(size, dtype=torch.float64)
    r = PIXEL_CORRELATION
    spectrum = (1 - r**2) / (1 - 2 * r * torch.cos(w) + r**2)
    shares = torch.tensor(COLOUR_VARIANCE, dtype=torch.float64)
    return shares[:, None, None] * spectrum[:, None] * spectrum


def dct_variance(size: int, count: int) -> Tensor:
    """The variances of the vectors of ``dct_basis``, [count], falling."""
    return dct_spectrum(size).flatten().sort(descending=True, stable=True)[0][:count].float()


def dct_basis(size: int, count: int) -> Tensor:
    """An orthonormal basis of size x size blocks in RGB: its first ``count`` vectors, as [count, 3
    * size * size]. The two-dimensional DCT-II (Ahmed, Natarajan, Rao 1974, "Discrete cosine
    transform") of luma and of two colour differences, ordered by their variance in photographs."""
    k = torch.arange(size, dtype=torch.float64)
    dct = torch.cos(math.pi / size * k[:, None] * (k + 0.5))
    dct = dct / dct.norm(dim=1, keepdim=True)
    colour = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    colour = colour / colour.norm(dim=1, keepdim=True)
    basis = torch.einsum("cd,ik,jl->cijdkl", colour, dct, dct).flatten(3).flatten(0, 2)
    order = dct_spectrum(size).flatten().argsort(descending=True, stable=True)
    return basis[order[:count]].float()
