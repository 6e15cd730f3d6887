"""The three-layer codec: a convolutional autoencoder, a binary quantizer, lzma."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.codec import Codec, check_range
from model.layers import GDN, QualityTable
from model.packing import pack_bits, pack_map, unpack_bits, unpack_map
from model.payload import Reader
from model.quantizers import binarize, straight_through

NOISE = 0.25  # of the stochastic binarization while training: see binarize
CELL = 2  # positions of the latent, in each direction, that share one importance


@dataclass(frozen=True)
class BinaryConfig:
    filters: tuple[int, int] = (48, 96)  # channels after the first and the second layer
    bits: int = 96  # at most so many bits for a position of the latent
    group: int = 4  # bits that the importance map switches together
    rate_points: int = 6

    def __post_init__(self):
        check_range("filters", self.filters, 1, 1024, length=2)
        check_range("bits", self.bits, 1, 1024)
        check_range("group", self.group, 1, 128)
        check_range("rate_points", self.rate_points, 2, 64)
        if self.bits % self.group or self.bits // self.group > 127:
            raise ValueError("the configuration's bits are not up to 127 times its group")


class AnalysisTransform(nn.Module):
    """x [B, 3, H, W] to bit logits [B, bits, H/8, W/8] and importance [B, 1, H/8, W/8].

    Three stride-2 5x5 convolutions with GDN between them: Ballé, Laparra, Simoncelli 2017,
    "End-to-end optimized image compression", https://arxiv.org/abs/1611.01704, in the small
    shape of the custom-model tutorial of CompressAI's documentation.
    """

    def __init__(self, config: BinaryConfig):
        super().__init__()
        n1, n2 = config.filters
        self.conv1 = nn.Conv2d(3, n1, 5, 2, 2)
        self.gdn1 = GDN(n1)
        self.conv2 = nn.Conv2d(n1, n2, 5, 2, 2)
        self.gdn2 = GDN(n2)
        self.gain = QualityTable(config.rate_points, n2)
        self.conv3 = nn.Conv2d(n2, config.bits + 1, 5, 2, 2)

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        x = self.gdn1(self.conv1(x - 0.5))
        x = self.gdn2(self.conv2(x)) * self.gain(quality).exp()
        x = self.conv3(x).float()
        return x[:, :-1], x[:, -1:]


class SynthesisTransform(nn.Module):
    """Masked bits [B, bits, H/8, W/8] to x_hat [B, 3, H, W]: the analysis' mirror image."""

    def __init__(self, config: BinaryConfig):
        super().__init__()
        n1, n2 = config.filters
        self.conv1 = nn.ConvTranspose2d(config.bits, n2, 5, 2, 2, 1)
        self.gain = QualityTable(config.rate_points, n2)
        self.gdn1 = GDN(n2, inverse=True)
        self.conv2 = nn.ConvTranspose2d(n2, n1, 5, 2, 2, 1)
        self.gdn2 = GDN(n1, inverse=True)
        self.conv3 = nn.ConvTranspose2d(n1, 3, 5, 2, 2, 1)

    def forward(self, bits: Tensor, quality: Tensor) -> Tensor:
        x = self.gdn1(self.conv1(bits) * self.gain(quality).exp())
        x = self.gdn2(self.conv2(x))
        return self.conv3(x).float() + 0.5


class BinaryCodec(Codec):
    """Signs behind an importance map, packed densely and compressed with lzma.

    The importance map (Li et al. 2018, "Learning convolutional networks for content-weighted
    image compression", https://arxiv.org/abs/1703.10553) says for each position of the
    latent how many groups of its bits are used; the others are zero to the decoder and are
    not stored. Smooth sky pays for less than foliage, and the map's mean is a rate that
    can be trained.
    """

    arch = "binary"
    Config = BinaryConfig
    LMBDA = (0.0008, 0.05)
    STRIDE = 16
    LATENT_STRIDE = 8
    TILE = 1024
    MARGIN = 32

    def __init__(self, config: BinaryConfig = BinaryConfig()):
        super().__init__(config)
        self.levels = config.bits // config.group
        self.analysis = AnalysisTransform(config)
        self.synthesis = SynthesisTransform(config)
        self.importance_bias = QualityTable(config.rate_points, 1)

    def importance(self, logit: Tensor, quality: Tensor) -> Tensor:
        """Groups used in each cell, real numbers in 0 to ``levels``: [B, 1, h/2, w/2]."""
        logit = F.avg_pool2d(logit, CELL) + self.importance_bias(quality)
        return self.levels * torch.sigmoid(logit)

    def mask(self, used: Tensor) -> Tensor:
        """Groups used, [B, 1, h/2, w/2], to [B, bits, h, w] of 0 and 1, straight-through."""
        start = torch.arange(self.levels, device=used.device)[None, :, None, None]
        soft = (used - start).clamp(0, 1)
        hard = (used.round() > start).to(used.dtype)
        mask = straight_through(hard, soft).repeat_interleave(self.config.group, dim=1)
        return F.interpolate(mask, scale_factor=CELL, mode="nearest")

    def rate(self, used: Tensor) -> Tensor:
        """Bits [B] that the used groups and the map itself take.

        The map: about what lzma pays for the difference of neighbours, measured as
        1 + 1.5 log2(1 + 2 |difference|).
        """
        across = (used[..., 1:] - used[..., :-1]).abs()
        down = (used[..., 1:, :] - used[..., :-1, :]).abs()
        difference = torch.cat([across.flatten(1), down.flatten(1)], dim=1)
        map_bits = used[0].numel() + 1.5 * (1 + 2 * difference).log2().sum(1) / 2
        return CELL**2 * self.config.group * used.sum((1, 2, 3)) + map_bits

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        logits, importance = self.analysis(x, quality)
        used = self.importance(importance, quality)
        bits = binarize(logits, NOISE if self.training else 0.0) * self.mask(used)
        bpp = self.rate(used) / (x.shape[2] * x.shape[3])
        return self.synthesis(bits, quality), bpp

    # Coding

    def analyse(self, x: Tensor, quality: Tensor) -> dict[int, Tensor]:
        logits, importance = self.analysis(x, quality)
        used = self.importance(importance, quality)
        return {8: binarize(logits) * self.mask(used)}

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        return self.synthesis(latent.float(), quality)

    def encode_latents(self, latents: dict[int, Tensor], quality: Tensor) -> bytes:
        bits = latents[8][0].to(torch.int8).cpu().numpy()
        used = np.count_nonzero(bits[:, ::CELL, ::CELL], axis=0) // self.config.group
        return pack_map(used) + pack_bits(bits)

    def decode_latents(self, chunk: bytes, height: int, width: int, quality: Tensor) -> Tensor:
        reader = Reader(chunk)
        used = unpack_map(reader, height // 16, width // 16, self.levels)
        used = used.repeat(CELL, axis=0).repeat(CELL, axis=1)
        bits = unpack_bits(reader, used * self.config.group, self.config.bits)
        reader.finish()
        return torch.from_numpy(bits)[None]
