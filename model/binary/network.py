"""The binary codec: three convolutional layers each way, successive binarization, lzma."""

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.binary.digits import INTEGER_LIMIT, MEANS, DigitModel
from model.bytestream import Reader
from model.codec import Codec, check_range
from model.layers import GDN, QualityTable, dct_basis
from model.limits import MAX_QUALITY, MIN_QUALITY
from model.quantizers import round_straight_through

BLOCK_SIDE = 8  # pixels per position of the latent, in both directions
DEAD_ZONE = 0.6  # in steps of the quantizer


@dataclass(frozen=True)
class BinaryConfig:
    """The sizes of the binary codec's networks. ValueError if a field is out of range."""

    filters: tuple[int, int] = (32, 96)  # channels after the first and the second layer
    latent: int = 96  # channels
    groups: tuple[int, int] = (16, 48)  # channels at which groups end; see model/binary/digits.py
    rate_points: int = 8

    def __post_init__(self):
        check_range("filters", self.filters, 1, 1024, length=2)
        check_range("latent", self.latent, 1, 3 * BLOCK_SIDE**2)
        check_range("groups", self.groups, 1, 3 * BLOCK_SIDE**2, length=2)
        check_range("rate_points", self.rate_points, 2, 64)
        bounds = [MEANS, *self.groups, self.latent]
        if bounds != sorted(set(bounds)):
            raise ValueError(
                f"the configuration's groups and latent, {bounds[1:]}, do not rise above {MEANS}"
            )


class BinaryLatents(NamedTuple):
    y: Tensor  # int32 [1, latent, H/8, W/8]


def dct_steps(config: BinaryConfig) -> list[Tensor]:
    """The DCT of 8x8 blocks in three steps, each from 2x2 values of the last to one: the weights
    [outputs, inputs, 2, 2]. The first channels of the latent have the largest variance.

    Basis vectors of a step are orthonormal, so the weights are the products of these vectors with
    the next step's vectors, cut in four.
    """
    pixels = torch.eye(3).view(3, 3, 1, 1)
    sizes = min(config.filters[0], 12), min(config.filters[1], 48), config.latent
    bases = [pixels, *(dct_basis(2**i, n).view(n, 3, 2**i, 2**i) for i, n in enumerate(sizes, 1))]
    weights = []
    for old, new in zip(bases, bases[1:]):
        quarters = new.unflatten(3, (2, -1)).unflatten(2, (2, -1))
        weights.append(torch.einsum("ocyaxb,icab->oiyx", quarters, old))
    return weights


class AnalysisTransform(nn.Module):
    """x [B, 3, H, W] to y [B, latent, H/8, W/8]. Three stride-2 5x5 convolutions with GDN between
    them: Ballé, Laparra, Simoncelli 2017, "End-to-end optimized image compression",
    https://arxiv.org/abs/1611.01704. They start as the DCT that JPEG uses."""

    def __init__(self, config: BinaryConfig):
        super().__init__()
        n1, n2 = config.filters
        self.conv1 = nn.Conv2d(3, n1, 5, 2, 2)
        self.gdn1 = GDN(n1)
        self.conv2 = nn.Conv2d(n1, n2, 5, 2, 2)
        self.gdn2 = GDN(n2)
        self.gain = QualityTable(config.rate_points, n2)
        self.conv3 = nn.Conv2d(n2, config.latent, 5, 2, 2)

    def start(self, steps: list[Tensor]) -> None:
        """Start as the DCT, made of these steps; filters beyond them stay random."""
        for conv, dct in zip((self.conv1, self.conv2, self.conv3), steps):
            outputs, inputs = dct.shape[:2]
            conv.weight[:outputs] = 0
            conv.weight[:outputs, :inputs, 2:4, 2:4] = dct
            cast(Tensor, conv.bias)[:outputs] = 0

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, 3, H, W] in 0 to 1 and quality [B] in 1 to 100 to y, float32 [B, latent, H/8, W/8],
        before the gain of the latent."""
        x = self.gdn1(self.conv1(x - 0.5))
        x = self.gdn2(self.conv2(x))
        x = x * self.gain(quality).exp().to(x.dtype)
        return self.conv3(x).float()


class SynthesisTransform(nn.Module):
    """y [B, latent, H/8, W/8] to x_hat [B, 3, H, W]: the mirror image of the analysis. The last
    layer computes the four pixels of each position in one 3x3 convolution, which is three times as
    fast as a transposed 5x5 convolution and sees the same positions."""

    def __init__(self, config: BinaryConfig):
        super().__init__()
        n1, n2 = config.filters
        self.conv1 = nn.ConvTranspose2d(config.latent, n2, 5, 2, 2, 1)
        self.gain = QualityTable(config.rate_points, n2)
        self.gdn1 = GDN(n2, inverse=True)
        self.conv2 = nn.ConvTranspose2d(n2, n1, 5, 2, 2, 1)
        self.gdn2 = GDN(n1, inverse=True)
        self.conv3 = nn.Conv2d(n1, 3 * 4, 3, padding=1)

    def start(self, steps: list[Tensor]) -> None:
        """Start as the inverse of the DCT, made of these steps."""
        pixels, *others = steps
        for conv, dct in zip((self.conv2, self.conv1), others):
            inputs, outputs = dct.shape[:2]
            conv.weight[:, :outputs] = 0
            conv.weight[:inputs, :outputs, 2:4, 2:4] = dct
        for layer in (self.conv1, self.conv2, self.conv3):
            nn.init.zeros_(cast(Tensor, layer.bias))
        self.conv3.weight.zero_()
        self.conv3.weight[:, : len(pixels), 1, 1] = pixels.flatten(1).T

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        """y [B, latent, H/8, W/8], after the inverse gain, and quality [B] in 1 to 100 to x_hat,
        float32 [B, 3, H, W], close to 0 to 1 but not clipped."""
        x = self.conv1(y)
        x = self.gdn1(x * self.gain(quality).exp().to(x.dtype))
        x = self.gdn2(self.conv2(x))
        return F.pixel_shuffle(self.conv3(x), 2).float() + 0.5


class BinaryCodec(Codec):
    """A latent of integers, written as binary digits and compressed with lzma.

        x --> analysis --> * gain --> round ==> * inverse gain --> synthesis --> x_hat
                                                                (==> is compressed with lzma)

    The gains depend on the quality: one network serves every rate.
    """

    arch = "binary"
    FILE_NUMBER = 1
    Config = BinaryConfig
    LMBDA = (0.00025, 0.15)
    STRIDE = 8
    LATENT_STRIDE = BLOCK_SIDE
    TILE = 1024
    MARGIN = 16

    def __init__(self, config: BinaryConfig = BinaryConfig()):
        super().__init__(config)
        self.analysis = AnalysisTransform(config)
        self.synthesis = SynthesisTransform(config)
        self.gain = QualityTable(config.rate_points, config.latent)
        self.inverse_gain = QualityTable(config.rate_points, config.latent)
        self.digits = DigitModel(config.latent, config.groups, config.rate_points)
        if self.device.type != "meta":  # there only shapes matter, and torch would be slow
            self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Start as JPEG does: the DCT, and one step for all coefficients. At a high rate, the
        least ``bpp + lmbda * mse`` has a step of sqrt(26 / lmbda) levels."""
        steps = dct_steps(self.config)
        self.analysis.start(steps)
        self.synthesis.start(steps)
        quality = torch.linspace(MIN_QUALITY, MAX_QUALITY, self.config.rate_points)
        gains = 255 / (26 / self.lmbda(quality)).sqrt()
        self.gain.points.copy_(gains.log()[:, None])
        self.inverse_gain.points.copy_(-gains.log()[:, None])
        self.digits.start(gains)

    def scaled(self, x: Tensor, quality: Tensor) -> Tensor:
        """The latent of x in units of the quantizer's step, not yet rounded."""
        return self.analysis(x, quality) * self.gain(quality).exp()

    def rounded(self, y: Tensor) -> Tensor:
        """``scaled`` in integers, with the gradient of the identity. Magnitudes below DEAD_ZONE
        become zero, which takes few bits (Sullivan 1996, "Efficient scalar quantization of
        exponential and Laplacian random variables"). Means have no dead zone, since their
        differences are coded, not their magnitudes."""
        zone = torch.full((y.shape[1], 1, 1), DEAD_ZONE, device=y.device)
        zone[:MEANS] = 0.5
        return round_straight_through(y, y.abs() >= zone)

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        y = self.scaled(x, quality)
        rounded = self.rounded(y)
        with torch.autocast(x.device.type, enabled=False):
            bits = self.digits.rate(y, rounded, quality)
        return self.synthesise(rounded, quality), bits / (x.shape[2] * x.shape[3])

    # Coding

    def analyse(self, x: Tensor, quality: Tensor) -> BinaryLatents:
        y = self.rounded(self.scaled(x, quality))
        return BinaryLatents(y.clamp(-INTEGER_LIMIT, INTEGER_LIMIT).int())

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        return self.synthesis(latent.float() * self.inverse_gain(quality).exp(), quality)

    def tile_coder(self, width: int, quality: Tensor) -> "BinaryTileCoder":
        return BinaryTileCoder(self.digits, quality.cpu())


class BinaryTileCoder:
    """Codes each tile by itself; see model/binary/digits.py."""

    def __init__(self, digits: DigitModel, quality: Tensor):
        self.digits, self.quality = digits, quality

    def encode(self, latents: BinaryLatents) -> bytes:
        return self.digits.encode(latents.y.cpu(), self.quality)

    def decode(self, chunk: bytes, height: int, width: int) -> Tensor:
        reader = Reader(chunk, "payload")
        return self.digits.decode(reader, height // BLOCK_SIDE, width // BLOCK_SIDE, self.quality)
