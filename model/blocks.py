"""A learned JPEG: blocks of 8x8 pixels are transformed, rounded, entropy coded and smoothed.

The smallest codec that works, to read first; docs/new_codec.md explains it line by line.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.codec import Codec, check_range
from model.entropy import MAX_SYMBOL, SCALES, SymbolCoder, gaussian_bits
from model.layers import QualityTable, dct_basis
from model.quantizers import round_straight_through


@dataclass(frozen=True)
class BlocksConfig:
    channels: int = 96  # numbers that are coded of the 192 of a block in three colours

    def __post_init__(self):
        check_range("channels", self.channels, 1, 192)


class BlocksLatents(NamedTuple):
    y: Tensor  # [1, channels, H/8, W/8], rounded


class BlocksCodec(Codec):
    arch, FILE_NUMBER, Config = "blocks", 3, BlocksConfig
    LMBDA = (0.001, 0.05)
    STRIDE = LATENT_STRIDE = 8
    TILE, MARGIN = 1024, 8

    def __init__(self, config: BlocksConfig = BlocksConfig()):
        super().__init__(config)
        self.analysis = nn.Parameter(dct_basis(8, config.channels).unflatten(1, (3, 8, 8)))
        self.synthesis = nn.Parameter(self.analysis.detach().clone())
        self.smooth = nn.Conv2d(3, 3, 5, padding=2, bias=False)
        nn.init.zeros_(self.smooth.weight)
        self.gain = QualityTable(10, config.channels)
        self.gain.points.data += torch.linspace(1, 3, 10)[:, None]
        self.scale = nn.Parameter(torch.full((10, config.channels), -1.0))
        self.coder = SymbolCoder()

    def scaled(self, x: Tensor, quality: Tensor) -> Tensor:
        return F.conv2d(x - 0.5, self.analysis, stride=8) * self.gain(quality).exp()

    def index(self, quality: Tensor) -> Tensor:
        scale = self.scale[(quality.long() - 1) // 10][:, :, None, None]
        return (8 * scale + SCALES / 3).clamp(0, SCALES - 1)

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        y = self.scaled(x, quality)
        noisy = y + torch.rand_like(y) - 0.5 if self.training else y.round()
        bits = gaussian_bits(noisy, self.index(quality)).sum((1, 2, 3))
        x_hat = self.synthesise(round_straight_through(y), quality)
        return x_hat, bits / (x.shape[2] * x.shape[3])

    def analyse(self, x: Tensor, quality: Tensor) -> BlocksLatents:
        return BlocksLatents(self.scaled(x, quality).round().clamp(-MAX_SYMBOL, MAX_SYMBOL))

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        y = latent.float() / self.gain(quality).exp()
        x_hat = F.conv_transpose2d(y, self.synthesis, stride=8)
        return x_hat + self.smooth(x_hat) + 0.5

    def tile_coder(self, width: int, quality: Tensor) -> "BlocksTileCoder":
        index = self.index(quality).round().to(torch.uint8).cpu().numpy()
        return BlocksTileCoder(self.coder, index)


class BlocksTileCoder:
    def __init__(self, coder: SymbolCoder, index: np.ndarray):
        self.coder, self.index = coder, index  # [1, channels, 1, 1]

    def encode(self, latents: BlocksLatents) -> bytes:
        y = latents.y.int().cpu().numpy()
        return self.coder.encode([(y, np.broadcast_to(self.index, y.shape))])

    def decode(self, chunk: bytes, height: int, width: int) -> Tensor:
        shape = (1, self.index.shape[1], height // 8, width // 8)
        decoder = self.coder.decoder(chunk)
        y = decoder.decode(np.broadcast_to(self.index, shape))
        decoder.finish()
        return torch.from_numpy(y)
