"""The interface that every codec obeys, and the tiling that all of them share."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from itertools import groupby

import torch
from torch import Tensor, nn

from model.payload import Reader, pack_number
from model.tiling import Tile, padded, tiles, window

MIN_QUALITY, MAX_QUALITY = 1, 100


def check_range(name: str, value, low: int, high: int, length: int | None = None) -> None:
    """ValueError unless ``value`` is a whole number in low to high, or a tuple of ``length``."""
    values = (value,) if length is None else value
    whole = isinstance(values, tuple) and len(values) == (length or 1)
    if not whole or not all(type(v) is int and low <= v <= high for v in values):
        kind = "a whole number" if length is None else f"a tuple of {length} whole numbers"
        raise ValueError(f"the configuration's {name} is not {kind} in {low} to {high}")


class Codec(nn.Module):
    """A learned image codec: what the four scripts need to know, and no more.

    ``compress(image, quality, effort) -> payload`` and ``decompress(payload, height, width,
    quality) -> image`` are all that encoding and decoding use; ``forward``, ``lmbda`` and
    ``calibrate`` are all that training uses. A subclass is one architecture. It names itself, has
    a frozen dataclass of its hyper-parameters, and the constants and the methods below that raise
    here: ``refine`` only if it REFINES.

    Pictures are coded in tiles of TILE pixels on a fixed grid. A transform sees MARGIN pixels
    more on each side, at least as many as its receptive field, so it computes just what it
    would on the whole picture; each tile's symbols are coded on their own.
    """

    arch: str
    Config: type
    LMBDA: tuple[float, float]  # what quality 1 to 100 spans, geometrically
    STRIDE: int  # the networks take sizes that are multiples of this
    LATENT_STRIDE: int  # pixels for one position of the latent
    TILE: int  # side of a tile in pixels, a multiple of STRIDE
    MARGIN: int  # what a transform sees around a tile, a multiple of STRIDE
    REFINES = False  # whether there is ``refine``, and thus an effort to choose

    def __init__(self, config):
        super().__init__()
        self.config = config

    @classmethod
    def from_checkpoint(cls, checkpoint: dict) -> "Codec":
        """The codec that a checkpoint holds; ValueError if configuration or weights misfit.

        The network is first built without memory, and no larger than its weights really are.
        """
        config, weights = checkpoint["config"], checkpoint["weights"]
        names = {field.name for field in fields(cls.Config)}
        if set(config) != names:
            raise ValueError(f"the checkpoint's configuration has not just {sorted(names)}")
        config = cls.Config(**config)
        with torch.device("meta"):
            expected = cls(config).state_dict()
        if set(weights) != set(expected):
            odd = min(set(weights) ^ set(expected), key=repr)
            raise ValueError(f"the checkpoint's weights do not fit: {odd!r:.80}")
        for name, weight in expected.items():
            found = weights[name]
            fits = found.is_floating_point() == weight.is_floating_point() and found.is_cpu
            if found.shape != weight.shape or not fits:
                raise ValueError(
                    f"the checkpoint's weights do not fit: {name} is {found.dtype} "
                    f"{list(found.shape)}, not {weight.dtype} {list(weight.shape)}"
                )
        codec = cls(config)
        codec.load_state_dict(weights)
        return codec

    def config_dict(self) -> dict:
        return asdict(self.config)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # Training

    def lmbda(self, quality: Tensor) -> Tensor:
        """The weight of the distortion (MSE in 8-bit levels squared) against the rate (bpp)."""
        low, high = self.LMBDA
        position = (quality - MIN_QUALITY) / (MAX_QUALITY - MIN_QUALITY)
        return low * (high / low) ** position

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, 3, H, W] in 0 to 1, sides multiples of STRIDE, and quality [B], to x_hat, like
        x, and the differentiable rate in bits per pixel, [B]."""
        raise NotImplementedError

    def calibrate(self, samples: Iterable[tuple[Tensor, int]]) -> None:
        """Measure what is not learned, on uint8 images [3, H, W] and qualities, for a codec that
        is to be kept. Nothing, unless an architecture has such a thing."""

    # Coding

    def analyse(self, x: Tensor, quality: Tensor) -> dict[int, Tensor]:
        """x [1, 3, H, W] to latents, each [1, C, H / s, W / s] under its stride s."""
        raise NotImplementedError

    def refine(
        self, x: Tensor, latents: dict[int, Tensor], quality: Tensor, effort: int
    ) -> dict[int, Tensor]:
        """Latents, like ``latents`` of x, that give more for their bits; ``effort``: how many
        rounds to look for them."""
        raise NotImplementedError

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        """What ``decode_latents`` gave, [1, C, h, w], to x_hat [1, 3, H, W]."""
        raise NotImplementedError

    def encode_latents(self, latents: dict[int, Tensor], quality: Tensor) -> bytes:
        """One tile's latents to bytes."""
        raise NotImplementedError

    def decode_latents(self, chunk: bytes, height: int, width: int, quality: Tensor) -> Tensor:
        """One tile's bytes to its latent [1, C, h, w]; ValueError if they cannot be that."""
        raise NotImplementedError

    def quality_tensor(self, quality: int) -> Tensor:
        return torch.tensor([quality], dtype=torch.float32, device=self.device)

    def tile_latents(
        self, image: Tensor, quality: Tensor, effort: int = 0
    ) -> Iterator[dict[int, Tensor]]:
        """The latents of each tile of a uint8 image [3, H, W]."""
        height, width = (padded(length, self.STRIDE) for length in image.shape[1:])
        for tile in tiles(height, width, self.TILE):
            around = tile.grown(self.MARGIN, height, width)
            x = window(image, around).to(self.device)[None] / 255
            latents = self.analyse(x.contiguous(memory_format=torch.channels_last), quality)
            if effort:
                latents = self.refine(x, latents, quality, effort)
            yield {stride: tile.crop(y, stride, around) for stride, y in latents.items()}

    @torch.inference_mode()
    def compress(self, image: Tensor, quality: int, effort: int = 0) -> bytes:
        """uint8 image [3, H, W], any size from 1x1 up, to a payload; ``effort`` above 0: rounds
        of refinement, for a codec that REFINES."""
        level = self.quality_tensor(quality)
        payload = bytearray()
        for latents in self.tile_latents(image, level, effort):
            chunk = self.encode_latents(latents, level)
            payload += pack_number(len(chunk)) + chunk
        return bytes(payload)

    @torch.inference_mode()
    def decompress(self, payload: bytes, height: int, width: int, quality: int) -> Tensor:
        """A payload to the uint8 image [3, height, width]; ValueError if it is damaged."""
        full = (padded(height, self.STRIDE), padded(width, self.STRIDE))
        level = self.quality_tensor(quality)
        rows = self.latent_rows(payload, *full, quality)
        latent, top = next(rows), 0  # what is held of the latent, and the pixel row it begins at
        # Laid out as pictures are, so that nobody has to copy it to write it.
        image = torch.empty(height, width, 3, dtype=torch.uint8).permute(2, 0, 1)
        for tile in tiles(*full, self.TILE):
            around = tile.grown(self.MARGIN, *full)
            if around.bottom > top + latent.shape[2] * self.LATENT_STRIDE:
                held = latent[:, :, (around.top - top) // self.LATENT_STRIDE :]
                latent, top = torch.cat([held, next(rows)], dim=2), around.top
            part = around.crop(latent, self.LATENT_STRIDE, Tile(top, full[0], 0, full[1]))
            x_hat = self.synthesise(part.to(self.device), level)
            x_hat = tile.crop(x_hat, origin=around)[0].mul(255).round().clamp(0, 255)
            target = image[:, tile.top : tile.bottom, tile.left : tile.right]
            target.copy_(x_hat[:, : target.shape[1], : target.shape[2]])
        return image

    def latent_rows(
        self, payload: bytes, height: int, width: int, quality: int
    ) -> Iterator[Tensor]:
        """The latent of a picture of height x width, multiples of STRIDE: one row of tiles after
        the other, [1, C, h, w] each, on the CPU. ValueError if the payload is damaged."""
        level = self.quality_tensor(quality)
        reader = Reader(payload)
        # All chunks must be there before memory is taken for what they hold.
        chunks = [(tile, reader.bytes(reader.number())) for tile in tiles(height, width, self.TILE)]
        reader.finish()
        for _, row in groupby(chunks, key=lambda pair: pair[0].top):
            yield torch.cat(
                [self.decode_latents(bytes(chunk), *tile.size, level) for tile, chunk in row], dim=3
            )
