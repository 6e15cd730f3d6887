"""The interface that every codec implements, and the tiling that all of them share."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields
from itertools import chain, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.bytestream import Reader, pack_chunk
from model.constants import constant
from model.distortion import FUNCTIONS
from model.limits import DISTORTIONS, MAX_QUALITY, MIN_QUALITY
from model.tiles import Tile, padded, tiles, window

Latents = tuple[Tensor, ...]  # a NamedTuple of each architecture, its latents [1, C, H / s, W / s]
Report = Callable[[float], None]  # called now and then with the share of the work that is done


def check_range(name: str, value: object, low: int, high: int, length: int | None = None) -> None:
    """ValueError unless ``value`` is an int in low to high, or a tuple of ``length`` such ints."""
    values = (value,) if length is None else value
    fits = isinstance(values, tuple) and len(values) == (length or 1)
    if not fits or not all(type(v) is int and low <= v <= high for v in values):
        kind = "an integer" if length is None else f"a tuple of {length} integers"
        raise ValueError(f"the configuration's {name} is not {kind} in {low} to {high}")


class Codec(nn.Module):
    """A learned image codec: all that the scripts need to know of an architecture.

    Encoding and decoding use ``compress(image, quality, effort) -> payload`` and
    ``decompress(payload, height, width, quality) -> image``; training uses ``forward``, ``lmbda``
    and ``calibrate``. Images are uint8 arrays [H, W, 3], as pictures are in memory.

    A subclass is an architecture. It defines the class attributes below, a frozen dataclass of its
    hyper-parameters, and the methods that raise NotImplementedError here; ``refine`` only if it
    REFINES.

    Pictures are coded in tiles of TILE x TILE pixels on a fixed grid. The transforms see MARGIN
    pixels more on each side of a tile, at least as many as their receptive field reaches beyond it,
    so that they compute what they would compute from the entire picture. Tiles are
    coded one after the other, each into bytes that tell where they end; see ``borders``.
    """

    arch: str  # its name in model.ARCHITECTURES and in checkpoints
    FILE_NUMBER: int  # what stands for it in files, 0 to 255; once released, it never changes
    Config: type
    LMBDA: tuple[float, ...]  # at equally spaced qualities from 1 to 100, geometric in between
    STRIDE: int  # the networks take heights and widths that are multiples of it
    LATENT_STRIDE: int  # pixels per position of the latent that ``synthesise`` takes
    TILE: int  # side of a tile in pixels, a multiple of STRIDE
    MARGIN: int  # pixels that the transforms see around a tile, a multiple of STRIDE
    REFINES = False  # whether it has ``refine``, and so an effort to choose
    distortion = DISTORTIONS[0]  # what its weights were trained for; a checkpoint may say another

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    @classmethod
    def from_checkpoint(cls, checkpoint: dict) -> "Codec":
        """The codec of a checkpoint; ValueError if its configuration and weights do not fit.

        The network is first built without allocating memory for weights, which shows what the
        checkpoint has to hold: a hostile configuration cannot ask for more than the file contains.
        """
        config, weights = checkpoint["config"], checkpoint["weights"]
        names = {field.name for field in fields(cls.Config)}
        if set(config) != names:
            raise ValueError(f"the checkpoint's configuration has other keys than {sorted(names)}")
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
        codec.distortion = checkpoint.get("distortion", cls.distortion)
        if codec.distortion not in DISTORTIONS:
            raise ValueError(f"the checkpoint's distortion is not one of {DISTORTIONS}")
        return codec

    def config_dict(self) -> dict:
        """The configuration as a checkpoint holds it."""
        return asdict(self.config)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.parameters()).device

    # Training

    def weighted_distortion(self, x_hat: Tensor, x: Tensor, quality: Tensor) -> Tensor:
        """The distortion of x_hat [B, 3, H, W] at quality [B], weighted against the rate: in bits
        per pixel, [B]."""
        return FUNCTIONS[self.distortion](x_hat, x, self.lmbda(quality))

    def lmbda(self, quality: Tensor) -> Tensor:
        """The weight of the distortion (MSE of 8-bit values) against the rate (bpp)."""
        logs = constant(self.LMBDA, quality.device).log()
        last = len(logs) - 1
        position = (quality - MIN_QUALITY) / (MAX_QUALITY - MIN_QUALITY) * last
        low = position.floor().clamp(0, last - 1).long()
        return torch.lerp(logs[low], logs[low + 1], position - low).exp()

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, 3, H, W] in 0 to 1, H and W multiples of STRIDE, and quality [B] in 1 to 100 to
        x_hat, of the shape of x, and the rate in bits per pixel, [B]; both differentiable."""
        raise NotImplementedError

    def calibrate(self, samples: Iterable[tuple[np.ndarray, int]]) -> None:
        """Measure what gradients do not train, on uint8 images [H, W, 3] and qualities.

        Done before a checkpoint is saved that is to be shipped. An architecture without such
        parameters has nothing to do here.
        """

    # Coding

    def analyse(self, x: Tensor, quality: Tensor) -> Latents:
        """x [1, 3, H, W] to its latents."""
        raise NotImplementedError

    def refine(
        self,
        x: Tensor,
        latents: Latents,
        quality: Tensor,
        tile: Tile,
        around: Tile,
        effort: int,
        report: Report,
    ) -> Latents:
        """The latents of ``tile``, found by a search for a lower rate-distortion cost. x and the
        ``latents`` to start from cover ``around``, the tile and some pixels on each side."""
        raise NotImplementedError

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        """What ``decode_latents`` returns, [1, C, h, w], to x_hat [1, 3, H, W]."""
        raise NotImplementedError

    def borders(self, width: int) -> tuple:
        """What the coding of each tile leaves to the next, for a picture of ``width`` pixels, a
        multiple of STRIDE: further arguments of the next two methods. Here there are none."""
        return ()

    def encode_latents(self, latents: Latents, quality: Tensor) -> bytes:
        """One tile's latents to bytes."""
        raise NotImplementedError

    def decode_latents(self, chunk: bytes, height: int, width: int, quality: Tensor) -> Tensor:
        """The bytes of one tile of height x width pixels to its latent [1, C, h, w], on the CPU.
        ValueError if they are damaged."""
        raise NotImplementedError

    def quality_tensor(self, quality: int) -> Tensor:
        """``quality`` as the networks take it, float [1]."""
        return torch.tensor([quality], dtype=torch.float32, device=self.device)

    def tile_latents(
        self, image: np.ndarray, quality: Tensor, effort: int = 0, report: Report = lambda _: None
    ) -> Iterator[Latents]:
        """The latents of each tile of a uint8 image [H, W, 3]."""
        image = torch.from_numpy(np.require(image, requirements="CW"))  # what torch can share
        height, width = (padded(length, self.STRIDE) for length in image.shape[:2])
        grid = list(tiles(height, width, self.TILE))
        for done, tile in enumerate(grid):
            around = tile.grown(self.MARGIN, height, width)
            x = window(image, around).to(self.device) / 255
            x = x.contiguous(memory_format=torch.channels_last)
            latents = self.analyse(x, quality)
            progress = part_of(report, done, len(grid))
            if effort:
                yield self.refine(x, latents, quality, tile, around, effort, progress)
            else:
                yield latents._make(tile.crop(latent, around) for latent in latents)
                progress(1)

    @torch.inference_mode()
    def compress(
        self, image: np.ndarray, quality: int, effort: int = 0, report: Report = lambda _: None
    ) -> bytes:
        """A uint8 image [H, W, 3] of any size from 1x1 to a payload.

        ``quality``: 1 to 100. ``effort``: of the search, 0 (none) to MAX_EFFORT; 0 unless the codec
        REFINES. ``report``: what it raises ends the search.
        """
        q = self.quality_tensor(quality)
        latents = self.tile_latents(image, q, effort, report)
        borders = self.borders(padded(image.shape[1], self.STRIDE))
        return b"".join(pack_chunk(self.encode_latents(tile, q, *borders)) for tile in latents)

    @torch.inference_mode()
    def decompress(self, payload: bytes, height: int, width: int, quality: int) -> np.ndarray:
        """A payload to the uint8 image [height, width, 3]; ValueError if it is damaged."""
        parts = self.decoded_tiles(payload, height, width, quality)
        first = next(parts)  # before memory is allocated for the others
        image = torch.empty(height, width, 3, dtype=torch.uint8)
        for tile, pixels in chain([first], parts):
            image[tile.place].copy_(pixels)
        return image.numpy()

    @torch.inference_mode()
    def decoded_tiles(
        self, payload: bytes, height: int, width: int, quality: int
    ) -> Iterator[tuple[Tile, Tensor]]:
        """The tiles of the image of height x width pixels in a payload, each with its pixels [h, w,
        3], whole numbers in 0 to 255. ValueError if it is damaged."""
        full_height, full_width = padded(height, self.STRIDE), padded(width, self.STRIDE)
        q = self.quality_tensor(quality)
        rows = self.latent_rows(payload, full_height, full_width, quality)
        # Only as many rows of the latent are held as the next tile needs: those from ``top`` on.
        held: list[Tensor] = []
        top = bottom = 0
        for tile in tiles(full_height, full_width, self.TILE):
            around = tile.grown(self.MARGIN, full_height, full_width)
            above, top = (around.top - top) // self.LATENT_STRIDE, around.top
            while held and above >= held[0].shape[2]:
                above -= held.pop(0).shape[2]
            if above:
                held[0] = held[0][:, :, above:].clone()
            while bottom < around.bottom:
                held.append(next(rows))
                bottom += held[-1].shape[2] * self.LATENT_STRIDE
            part = self.cut(held, around)
            x_hat = self.synthesise(part.to(self.device), q)
            pixels = tile.crop(x_hat, origin=around)[0].mul_(255).round_().clamp_(0, 255)
            inside = Tile(tile.top, min(tile.bottom, height), tile.left, min(tile.right, width))
            yield inside, pixels.permute(1, 2, 0)[: inside.shape[0], : inside.shape[1]]

    def cut(self, rows: list[Tensor], around: Tile) -> Tensor:
        """What ``rows`` of the latent, of which the first begins with ``around``, have in it."""
        height, width = (length // self.LATENT_STRIDE for length in around.shape)
        left = around.left // self.LATENT_STRIDE
        parts = []
        for row in rows:
            parts.append(row[:, :, :height, left : left + width])
            height -= row.shape[2]
            if height <= 0:
                break
        return join(parts, dim=2)

    @torch.inference_mode()
    def picture_distortion(self, decoded: np.ndarray, image: np.ndarray, quality: int) -> float:
        """What a decoded uint8 picture [H, W, 3] costs beside its bits: ``weighted_distortion``, in
        bits, of its parts."""
        q, total = self.quality_tensor(quality), 0.0
        pictures = [torch.from_numpy(np.require(p, requirements="CW")) for p in (decoded, image)]
        height, width = (padded(length, self.STRIDE) for length in image.shape[:2])
        for tile in tiles(height, width, padded(self.TILE // 2, self.STRIDE)):
            x_hat, x = (window(picture, tile).to(self.device) / 255 for picture in pictures)
            distortion = self.weighted_distortion(x_hat, x, q).item()
            total += image[tile.place][:, :, 0].size * distortion
        return total

    def latent_rows(
        self, payload: bytes, height: int, width: int, quality: int
    ) -> Iterator[Tensor]:
        """The latent of a picture of height x width pixels, multiples of STRIDE: [1, C, h, w] for
        one row of tiles after the other, on the CPU. ValueError if the payload is damaged."""
        q = self.quality_tensor(quality)
        reader = Reader(payload, "payload")
        # All chunks must be there before memory is allocated for what they hold.
        chunks = [(tile, reader.chunk()) for tile in tiles(height, width, self.TILE)]
        reader.finish()
        borders = self.borders(width)
        for _, row in groupby(chunks, key=lambda pair: pair[0].top):
            yield join(
                [self.decode_latents(chunk, *tile.shape, q, *borders) for tile, chunk in row], dim=3
            )


def part_of(report: Report, part: int, parts: int) -> Report:
    """The report of one of several equal parts of some work, from that of all the work."""
    return lambda share: report((part + share) / parts)


def join(latents: list[Tensor], dim: int) -> Tensor:
    """Latents [1, C, h, w] side by side, as by ``torch.cat``; where one has fewer channels than
    another, the missing ones are zero."""
    shape = list(latents[0].shape)
    shape[1] = max(latent.shape[1] for latent in latents)
    shape[dim] = sum(latent.shape[dim] for latent in latents)
    whole, start = latents[0].new_zeros(shape), 0
    for latent in latents:
        length = latent.shape[dim]
        whole.narrow(dim, start, length)[:, : latent.shape[1]] = latent
        start += length
    return whole
