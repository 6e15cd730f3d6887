"""Pictures in integers, and the program that prints a digest of each.

    python tests/integer_pixels.py

On any processor, and on those that environment variables pretend, it prints the same. Each picture
is computed with 1 and 2 threads and with either product; some are made of the largest numbers that
the synthesis may hold, and in parts, and some decoded from files.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from model import fixed_point, integer_layers, load_codec
from model.checkpoint import load_checkpoint
from model.hyperprior.integer_synthesis import IntegerSynthesis
from model.hyperprior.transforms import HyperpriorConfig
from model.integer_layers import IntegerPointwise, IntegerResidualBlock
from model.integer_products import DEPTHWISE_LIMIT, EXACT_UP_TO, WEIGHT_LIMIT, float_mm, int_mm
from model.tiles import Tile

GOLDEN = Path(__file__).parent / "golden"
CONFIG = HyperpriorConfig(
    channels8=32, channels16=64, latent=96, synthesis_blocks=(2, 2), rate_points=4
)
HEIGHT, WIDTH = 7, 9  # positions


class Extreme:
    """Integers whose sums are as large as they may be. They come from numpy, since torch.randn
    depends on the processor."""

    def __init__(self, seed: int):
        self.random, self.seed = np.random.default_rng(seed), seed

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.random.integers(-3072, 3073, shape) / 1024).float()

    def positive(self, count: int) -> torch.Tensor:
        return torch.from_numpy(self.random.integers(0, 4096, count) / 4096).float()

    def sign(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.random.integers(0, 2, shape) * 2 - 1)

    def fill_pointwise(self, layer: IntegerPointwise, scale: float) -> None:
        outputs, inputs = layer.weight.shape
        layer.weight.copy_(WEIGHT_LIMIT * self.sign(outputs, inputs))
        room = EXACT_UP_TO - 1 - (layer.limit + 1) * WEIGHT_LIMIT * inputs
        layer.bias.copy_(torch.from_numpy(self.random.integers(-room // 64, room // 64, outputs)))
        layer.bias[::7] = room * (2 * (self.seed % 2) - 1)
        layer.scale.copy_((self.positive(outputs) + 0.5) * scale)

    def fill_block(self, block: IntegerResidualBlock) -> None:
        count = len(block.bias)
        weight = (1024 * self.normal(count, 1, 3, 3)).round()
        largest = DEPTHWISE_LIMIT * weight.abs().sum((1, 2, 3)) + 1
        unit = 2.0 ** -((EXACT_UP_TO - 40_000) / largest).log2().floor()
        step = (unit * 2.0 ** (torch.arange(count) % 5 - 14))[:, None, None, None]
        block.weight.copy_((weight / unit[:, None, None, None]).round() * step)
        block.bias.copy_((1000 * self.normal(count)).round() * step.flatten())
        self.fill_pointwise(block.expand, 1e-4)
        self.fill_pointwise(block.project, 2e-3)
        block.project.scale[::3] *= 1000

    def synthesis(self) -> IntegerSynthesis:
        made, latent = IntegerSynthesis(CONFIG).eval(), CONFIG.latent
        outputs = len(made.first.scale)
        made.gain.copy_(60_000 * self.normal(4, latent) - 140_000)
        made.gain16.copy_(30_000 * self.normal(4, CONFIG.channels16))
        made.ranges.copy_(2.0 ** (torch.arange(latent) < 3).float())
        for weight in (made.first.coarse, made.first.fine):
            weight.copy_(WEIGHT_LIMIT * self.sign(outputs, latent))
        made.first.scale.copy_(0.3 * self.positive(outputs))
        made.first_bias.copy_(100 * self.normal(outputs))
        made.into8.copy_(0.05 * self.positive(CONFIG.channels16))
        self.fill_pointwise(made.up8, 1e-2)
        self.fill_pointwise(made.up1, 1e-4)
        for block in (*made.blocks16, *made.blocks8):
            self.fill_block(block)
        made.check()
        return made

    def latent(self, channels: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
        return (2000 * self.normal(channels, height, width)).round()


def cases() -> Iterator[tuple[IntegerSynthesis, torch.Tensor, torch.Tensor]]:
    """Transforms, latents [K, h, w] and qualities [1]."""
    for seed, quality in enumerate((1.0, 33.0, 100.0)):
        extreme = Extreme(seed)
        channels = (96, 37, 1)[seed]
        yield extreme.synthesis(), extreme.latent(channels), torch.tensor([quality])
    largest = 2.0**15 * extreme.sign(96, 3, 4).float()
    yield extreme.synthesis(), largest, torch.tensor([100.0])


def everything(y: torch.Tensor) -> Tile:
    return Tile(0, 16 * y.shape[1], 0, 16 * y.shape[2])


FILES = {  # payloads in golden/encoded/: height, width and quality
    "hyperprior-quality1": (70, 90, 1),
    "hyperprior-quality55": (70, 90, 55),
    "hyperprior-quality100": (70, 90, 100),
    "hyperprior-wide": (8, 1030, 40),  # two tiles
}


def settings() -> Iterator[None]:
    """Choose each number of threads and each product, one after the other."""
    for product in (int_mm, float_mm):
        for module in (integer_layers, fixed_point):
            module.matrix_product = lambda device, product=product: product
        for threads in (1, 2):
            torch.set_num_threads(threads)
            yield


def digest(picture: np.ndarray) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()


def extreme_pictures() -> Iterator[set[str]]:
    """The digests of each of ``cases``: of one picture, if all is well."""
    for synthesis, y, quality in cases():
        pictures = set()
        for _ in settings():
            whole = synthesis.pixels(y, quality, everything(y))
            part = Tile(16, 48, 32, 64)
            assert synthesis.pixels(y, quality, part).equal(whole[part.place])
            pictures.add(digest(whole.numpy()))
        yield pictures


def decoded_pictures() -> Iterator[set[str]]:
    """The digests of each of FILES."""
    codec = load_codec(load_checkpoint(GOLDEN / "hyperprior.tar"))
    for name, shape_and_quality in FILES.items():
        payload = (GOLDEN / f"encoded/{name}.bin").read_bytes()
        yield {digest(codec.decompress(payload, *shape_and_quality)) for _ in settings()}


def main() -> None:
    for pictures in (*extreme_pictures(), *decoded_pictures()):
        print(*pictures)


if __name__ == "__main__":
    with torch.backends.mkldnn.flags(enabled="WITHOUT_MKLDNN" not in os.environ):
        with torch.inference_mode():
            main()
