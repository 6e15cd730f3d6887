"""The three-layer codec: a convolutional autoencoder, a binary quantizer, lzma."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.bytestream import Reader
from model.codec import Codec, check_range
from model.layers import GDN, QualityTable
from model.packing import pack_bits, pack_map, unpack_bits, unpack_map
from model.quantizers import binarize, straight_through

NOISE = 0.25  # of the stochastic binarization in training; see ``binarize``
CELL = 2  # side of the squares of positions that share one value of the importance map


@dataclass(frozen=True)
class BinaryConfig:
    filters: tuple[int, int] = (48, 96)  # channels after the first and the second layer
    bits: int = 96  # the most bits that a position of the latent can have
    group: int = 4  # bits that the importance map switches on or off together
    rate_points: int = 6

    def __post_init__(self):
        check_range("filters", self.filters, 1, 1024, length=2)
        check_range("bits", self.bits, 1, 1024)
        check_range("group", self.group, 1, 128)
        check_range("rate_points", self.rate_points, 2, 64)
        if self.bits % self.group or self.bits // self.group > 127:
            raise ValueError("the configuration's bits are not 1 to 127 times its group")


class BinaryLatents(NamedTuple):
    bits: Tensor  # [1, bits, H/8, W/8], -1 or 1 where they are coded and 0 elsewhere


class AnalysisTransform(nn.Module):
    """x [B, 3, H, W] to logits of the bits [B, bits, H/8, W/8] and of importance [B, 1, H/8, W/8].

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
    """Masked bits [B, bits, H/8, W/8] to x_hat [B, 3, H, W]: the mirror image of the analysis."""

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
    """Binary symbols and an importance map, packed into bytes and compressed with lzma.

        x --> analysis --> logits --> sign --> * mask ==> synthesis --> x_hat
                     |                           ^
                     `--> importance map --------'        ==> is compressed with lzma

    For each position of the latent, the importance map says how many groups of its bits are coded
    (Li et al. 2018, "Learning convolutional networks for content-weighted image compression",
    https://arxiv.org/abs/1703.10553); to the decoder the others are zero. So a smooth sky takes
    fewer bits than foliage, and the mean of the map is a rate that can be trained.
    """

    arch = "binary"
    FILE_NUMBER = 1
    Config = BinaryConfig
    LMBDA = (0.0008, 0.05)
    STRIDE = 16
    LATENT_STRIDE = 8
    TILE = 1024
    MARGIN = 32

    def __init__(self, config: BinaryConfig = BinaryConfig()):
        super().__init__(config)
        self.groups = config.bits // config.group
        self.analysis = AnalysisTransform(config)
        self.synthesis = SynthesisTransform(config)
        self.importance_bias = QualityTable(config.rate_points, 1)

    def importance(self, logit: Tensor, quality: Tensor) -> Tensor:
        """Logits [B, 1, h, w] to the importance map: the number of groups that are coded in each
        cell, a real number in 0 to ``groups``, [B, 1, h/2, w/2]."""
        logit = F.avg_pool2d(logit, CELL) + self.importance_bias(quality)
        return self.groups * torch.sigmoid(logit)

    def mask(self, importance: Tensor) -> Tensor:
        """The importance map [B, 1, h/2, w/2] to a mask [B, bits, h, w] of 0 and 1, whose gradient
        is that of a linear ramp over each group."""
        start = torch.arange(self.groups, device=importance.device)[None, :, None, None]
        soft = (importance - start).clamp(0, 1)
        hard = (importance.round() > start).to(importance.dtype)
        mask = straight_through(hard, soft).repeat_interleave(self.config.group, dim=1)
        return F.interpolate(mask, scale_factor=CELL, mode="nearest")

    def rate(self, importance: Tensor) -> Tensor:
        """The bits [B] that the coded groups and the map itself take.

        lzma codes the map as differences d of neighbours: about 1 + 1.5 log2(1 + 2 |d|) bits each,
        as was measured.
        """
        across = (importance[..., 1:] - importance[..., :-1]).abs()
        down = (importance[..., 1:, :] - importance[..., :-1, :]).abs()
        difference = torch.cat([across.flatten(1), down.flatten(1)], dim=1)
        # Each position has two differences here, and one in the file.
        map_bits = importance[0].numel() + 1.5 * (1 + 2 * difference).log2().sum(1) / 2
        return CELL**2 * self.config.group * importance.sum((1, 2, 3)) + map_bits

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        logits, importance_logit = self.analysis(x, quality)
        importance = self.importance(importance_logit, quality)
        bits = binarize(logits, NOISE if self.training else 0.0) * self.mask(importance)
        bpp = self.rate(importance) / (x.shape[2] * x.shape[3])
        return self.synthesis(bits, quality), bpp

    # Coding

    def analyse(self, x: Tensor, quality: Tensor) -> BinaryLatents:
        logits, importance_logit = self.analysis(x, quality)
        importance = self.importance(importance_logit, quality)
        return BinaryLatents(binarize(logits) * self.mask(importance))

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        return self.synthesis(latent.float(), quality)

    def encode_latents(self, latents: BinaryLatents, quality: Tensor) -> bytes:
        bits = latents.bits[0].to(torch.int8).cpu().numpy()
        importance = np.count_nonzero(bits[:, ::CELL, ::CELL], axis=0) // self.config.group
        return pack_map(importance) + pack_bits(bits)

    def decode_latents(self, chunk: bytes, height: int, width: int, quality: Tensor) -> Tensor:
        reader = Reader(chunk, "payload")
        cell = CELL * self.LATENT_STRIDE
        importance = unpack_map(reader, height // cell, width // cell, self.groups)
        groups = importance.repeat(CELL, axis=0).repeat(CELL, axis=1)
        bits = unpack_bits(reader, groups * self.config.group, self.config.bits)
        reader.finish()
        return torch.from_numpy(bits)[None]
