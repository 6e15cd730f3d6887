"""The interface that every codec implements, and the coding of a picture tile by tile.

model/blocks.py is the smallest example of a codec.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, fields
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.bytestream import Reader, pack_chunk
from model.checkpoint import check_weights
from model.constants import constant
from model.layers import interpolated
from model.tiles import (
    WHOLE,
    Extract,
    Grid,
    RowBuffer,
    Tile,
    View,
    join,
    padded,
    reduced,
    shared,
    tiles,
    window,
)

if TYPE_CHECKING:
    from model.distortion import Distortion

Latents = Any  # each architecture has a NamedTuple of its own, of tensors [1, C, H / s, W / s]
Sample = tuple[np.ndarray, int]  # a uint8 image [H, W, 3] and a quality
LARGEST_LATENT = 2.0**20  # magnitude; those of trained codecs stay below 1000
Report = Callable[[float], None]  # takes the share of the work that is done, now and then


class AbsurdWeights(ValueError):
    """The weights of a checkpoint are finite numbers, but no picture can be coded with them."""


class TileCoder(Protocol):
    """Codes the tiles of one picture in order; the decoded latents of a tile may help the next."""

    def encode(self, latents: Latents) -> bytes:
        """The latents of the next tile to bytes."""

    def decode(self, chunk: bytes, height: int, width: int) -> Tensor:
        """The bytes of the next tile, of height x width pixels, to the latent [1, C, h, w] for
        ``synthesise``, on the CPU. ValueError if they are damaged."""


class Codec(nn.Module):
    """A learned image codec, as the scripts know it.

    Encoding and decoding use ``compress(image, quality, effort) -> payload`` and
    ``decompress(payload, height, width, quality) -> image``; training uses ``forward``, ``lmbda``
    and ``calibrate``. Images are uint8 arrays [H, W, 3], as pictures are in memory.

    A subclass is an architecture. It defines the class attributes below, a frozen dataclass of its
    hyper-parameters, and the methods that raise NotImplementedError here; ``search`` only if it
    SEARCHES, ``condensed`` and ``preview`` only if it has PREVIEWED scales.

    Pictures are coded in tiles of TILE x TILE pixels on a fixed grid. The transforms see MARGIN
    pixels more on each side of a tile, at least as many as their receptive field reaches beyond it:
    so they compute the same as from the entire picture.
    """

    arch: str  # name in model.ARCHITECTURES and in checkpoints
    FILE_NUMBER: int  # number in files, 0 to 255; once released, it never changes
    Config: type
    # Weights of the distortion at equally spaced qualities from 1 to 100, geometric in between.
    LMBDA: tuple[float, ...]
    STRIDE: int  # heights and widths of the networks' input are multiples of it
    LATENT_STRIDE: int  # pixels per position of the latent for ``synthesise``
    TILE: int  # side of a tile in pixels, a multiple of STRIDE
    MARGIN: int  # pixels that the transforms see around a tile, a multiple of STRIDE
    PREVIEWED: tuple[int, ...] = ()  # scales at which ``preview`` takes the place of ``pixels``
    SEARCHES = False  # whether it has ``search``, and so an effort to choose
    distortion = "mse"  # name of the distortion it is trained for; see ``trained_for``

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    @classmethod
    def from_checkpoint(cls, checkpoint: dict) -> "Codec":
        """The codec of a checkpoint; ValueError if its configuration and weights do not fit.

        The network is first built without allocating memory for weights, which shows what the
        checkpoint has to hold: a hostile configuration cannot ask for more than the file contains.
        """
        config, weights = cls.checked_config(checkpoint["config"]), checkpoint["weights"]
        with torch.device("meta"):
            expected = cls.for_weights(config, weights).state_dict()
        check_weights(weights, expected)
        codec = cls.for_weights(config, weights)
        codec.load_state_dict(weights)
        codec.distortion = checkpoint.get("distortion", cls.distortion)
        return codec

    @classmethod
    def checked_config(cls, values: dict) -> Any:
        """The configuration of a checkpoint; ValueError if it does not fit."""
        names = {field.name for field in fields(cls.Config)}
        if set(values) != names:
            raise ValueError(f"the checkpoint's configuration has other keys than {sorted(names)}")
        return cls.Config(**values)

    @classmethod
    def for_weights(cls, config: Any, weights: dict[str, Tensor]) -> "Codec":
        """A codec that is to load ``weights``, of which only the names may be relied on."""
        return cls(config)

    def config_dict(self) -> dict:
        """The configuration for a checkpoint."""
        return asdict(self.config)

    def become_trainable(self) -> None:
        """Take on the form that can be trained, where the one in a shipped checkpoint cannot."""

    def shipped_weights(self) -> dict[str, Tensor]:
        """The weights for a checkpoint to be shipped: in half precision."""
        return {
            name: weight.half() if weight.is_floating_point() else weight
            for name, weight in self.state_dict().items()
        }

    @property
    def device(self) -> torch.device:
        """The device that the networks are on."""
        return next(self.parameters()).device

    def quality_tensor(self, quality: int) -> Tensor:
        """``quality`` for the networks, float [1]."""
        return torch.tensor([quality], dtype=torch.float32, device=self.device)

    # The networks of an architecture

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, 3, H, W] in 0 to 1, H and W multiples of STRIDE, and quality [B] in 1 to 100 to
        x_hat, of the shape of x, and the rate in bits per pixel, [B]; both differentiable."""
        raise NotImplementedError

    def calibrate(self, samples: Callable[[], Iterable[Sample]]) -> None:
        """Measure the parameters that gradients do not train, if there are any. ``samples`` is
        called for each pass over the same pictures. Training does so before it saves a checkpoint
        to be shipped."""

    def analyse(self, x: Tensor, quality: Tensor) -> Latents:
        """x [1, 3, H, W] to its latents."""
        raise NotImplementedError

    def search(
        self, view: View, latents: Latents, quality: Tensor, effort: int, report: Report
    ) -> Latents:
        """The latents of the view's tile, found by a search for a lower rate-distortion cost that
        starts from ``latents``, which cover the view. ``effort``: 1 to MAX_EFFORT."""
        raise NotImplementedError

    def tile_coder(self, width: int, quality: Tensor) -> TileCoder:
        """A coder for the tiles of a picture of ``width`` pixels, a multiple of STRIDE."""
        raise NotImplementedError

    def synthesise(self, latent: Tensor, quality: Tensor) -> Tensor:
        """A decoded latent [1, C, h, w] to x_hat [1, 3, H, W]."""
        raise NotImplementedError

    def pixels(self, latent: Tensor, quality: Tensor, around: Tile, tile: Tile) -> Tensor:
        """The pixels of a ``tile`` [h, w, 3], whole numbers in 0 to 255, from the decoded latent of
        what is ``around`` it."""
        x_hat = self.synthesise(latent, quality)
        return tile.crop(x_hat, around)[0].mul_(255).round_().clamp_(0, 255).permute(1, 2, 0)

    def condensed(self, latent: Tensor, quality: Tensor, scale: int) -> Tensor:
        """The numbers that ``preview`` needs of the decoded latent [1, C, h, w] of a tile, at the
        same positions: [1, D, h, w]."""
        raise NotImplementedError

    def preview(
        self, condensed: Tensor, quality: Tensor, around: Tile, tile: Tile, scale: int
    ) -> Tensor:
        """Values close to the ``reduced`` pixels of a ``tile``, [h / scale, w / scale, 3] in 0 to
        255, from the ``condensed`` latent of what is ``around`` it."""
        raise NotImplementedError

    # The rate-distortion cost

    @property
    def trained_for(self) -> "Distortion":
        """The record of the codec's distortion. It is loaded here, as a decoder does without it."""
        from model.distortion import RECORDS

        return RECORDS[self.distortion]

    def check_distortion(self) -> None:
        """ValueError if the checkpoint's distortion, which only a decoder does without, has no
        record."""
        from model.distortion import RECORDS

        if self.distortion not in RECORDS:
            raise ValueError(f"the checkpoint's distortion is not one of {list(RECORDS)}")

    def lmbda(self, quality: Tensor) -> Tensor:
        """The weight of the distortion (MSE of 8-bit values) against the rate (bpp)."""
        logs = constant(self.LMBDA, quality.device).log()[:, None]
        return interpolated(logs, quality)[:, 0, 0, 0].exp()

    def weighted_distortion(self, x_hat: Tensor, x: Tensor, quality: Tensor) -> Tensor:
        """The distortion of x_hat [B, 3, H, W] at quality [B], weighted against the rate: in bits
        per pixel, [B]."""
        return self.trained_for.loss(x_hat, x, self.lmbda(quality))

    @torch.inference_mode()
    def picture_distortion(self, decoded: np.ndarray, image: np.ndarray, quality: int) -> float:
        """The ``weighted_distortion`` of a decoded uint8 picture [H, W, 3], summed over its pixels:
        in bits."""
        q, total = self.quality_tensor(quality), 0.0
        height, width = (padded(length, self.STRIDE) for length in image.shape[:2])
        for tile in tiles(height, width, padded(self.TILE // 2, self.STRIDE)):
            x_hat, x = (window(shared(p), tile).to(self.device) / 255 for p in (decoded, image))
            distortion = self.weighted_distortion(x_hat, x, q).item()
            total += image[tile.place][:, :, 0].size * distortion
        return total

    # Pictures to payloads and back

    def grid(self, height: int, width: int) -> Grid:
        """The tiles that a picture of height x width pixels is coded in."""
        height, width = padded(height, self.STRIDE), padded(width, self.STRIDE)
        return Grid(height, width, self.TILE, self.MARGIN)

    @torch.inference_mode()
    def compress(
        self, image: np.ndarray, quality: int, effort: int = 0, report: Report = lambda _: None
    ) -> bytes:
        """A uint8 image [H, W, 3] of any size from 1x1 to a payload: the bytes of its tiles, each
        behind their number. ``quality``: 1 to 100. ``effort`` of the search: 0 (none) to
        MAX_EFFORT; 0 unless the codec SEARCHES. An exception of ``report`` ends the search."""
        q = self.quality_tensor(quality)
        coder = self.tile_coder(padded(image.shape[1], self.STRIDE), q)
        latents = self.tile_latents(image, q, effort, report)
        return b"".join(pack_chunk(coder.encode(tile)) for tile in latents)

    def tile_latents(
        self, image: np.ndarray, quality: Tensor, effort: int = 0, report: Report = lambda _: None
    ) -> Iterator[Latents]:
        """The latents of each tile of a uint8 image [H, W, 3]; see ``sane_latents``."""
        grid = self.grid(*image.shape[:2])
        count = len(list(grid))
        for done, view in enumerate(grid.views(image, self.device)):
            latents = self.sane_latents(view.x, quality)
            progress = part_of(report, done, count)
            if effort:
                yield self.search(view, latents, quality, effort, progress)
            else:
                progress(1)
                yield latents._make(view.tile.crop(latent, view.around) for latent in latents)

    def sane_latents(self, x: Tensor, quality: Tensor) -> Latents:
        """x [1, 3, H, W] to its latents. AbsurdWeights if they are not finite, or beyond
        LARGEST_LATENT."""
        with suppress(torch.linalg.LinAlgError):
            latents = self.analyse(x, quality)
            # The largest of values with NaN is NaN, and a comparison with it is false.
            if all(latent.float().abs().max() <= LARGEST_LATENT for latent in latents):
                return latents
        raise AbsurdWeights("the checkpoint's weights are absurd: no picture can be coded")

    @torch.inference_mode()
    def decompress(
        self,
        payload: bytes,
        height: int,
        width: int,
        quality: int,
        report: Report = lambda _: None,
        extract: Extract = WHOLE,
    ) -> np.ndarray:
        """A payload to the uint8 image [height, width, 3], or the ``extract`` of it. ValueError if
        the payload is damaged, or the extract not within the image. ``report`` is called after each
        tile; an exception of it ends the decoding."""
        region = extract.region(height, width)
        count = sum(tile.within(region) is not None for tile in self.grid(height, width))
        parts = self.decoded_tiles(payload, height, width, quality, extract)
        first = next(parts)  # before memory is allocated for the others
        image = torch.empty(*extract.shape(height, width), 3, dtype=torch.uint8)
        for done, (tile, pixels) in enumerate(chain([first], parts), start=1):
            image[tile.place].copy_(pixels)
            report(done / count)
        return image.numpy()

    @torch.inference_mode()
    def decoded_tiles(
        self, payload: bytes, height: int, width: int, quality: int, extract: Extract = WHOLE
    ) -> Iterator[tuple[Tile, Tensor]]:
        """The tiles of the image of height x width pixels in a payload, as far as the ``extract``
        needs them: the place of each in the extract, and its pixels [h, w, 3], whole numbers in 0
        to 255. ValueError if the payload is damaged."""
        grid, q, scale = self.grid(height, width), self.quality_tensor(quality), extract.scale
        region = extract.region(height, width)
        rows = self.latent_rows(payload, grid.height, grid.width, quality, scale)
        latent = RowBuffer(rows, self.LATENT_STRIDE)
        for tile in grid:
            inside = tile.within(region)
            if inside is None:
                continue
            around, place = grid.around(tile), inside.seen_from(region).reduced(scale)
            part = latent.part(around).to(self.device)
            if scale in self.PREVIEWED:
                pixels = self.preview(part, q, around, tile, scale).round_()
                yield place, pixels[: place.shape[0], : place.shape[1]]
            else:
                pixels = self.pixels(part, q, around, tile)[inside.seen_from(tile).place]
                yield place, pixels if scale == 1 else reduced(pixels, scale).round_()

    @torch.inference_mode()
    def latent_rows(
        self, payload: bytes, height: int, width: int, quality: int, scale: int = 1
    ) -> Iterator[Tensor]:
        """The latent of a picture of height x width pixels, multiples of STRIDE: [1, C, h, w] for
        one row of tiles after the other, on the CPU. At PREVIEWED scales it is ``condensed``, on
        the codec's device. ValueError if the payload is damaged."""
        reader = Reader(payload, "payload")
        # All chunks must be there before memory is allocated for their latents.
        chunks = [(tile, reader.chunk()) for tile in tiles(height, width, self.TILE)]
        reader.finish()
        q = self.quality_tensor(quality)
        coder = self.tile_coder(width, q)
        for _, row in groupby(chunks, key=lambda pair: pair[0].top):
            latents = (coder.decode(chunk, *tile.shape) for tile, chunk in row)
            if scale in self.PREVIEWED:
                latents = (self.condensed(latent, q, scale) for latent in latents)
            yield join(list(latents), dim=3)


def part_of(report: Report, part: int, parts: int) -> Report:
    """A report for one of several equal parts of some work: it tells ``report`` the share of the
    whole."""
    return lambda share: report((part + share) / parts)


def check_range(name: str, value: object, low: int, high: int, length: int | None = None) -> None:
    """ValueError unless ``value`` is an int in low to high, or a tuple of ``length`` such ints."""
    values: Any = (value,) if length is None else value
    fits = isinstance(values, tuple) and len(values) == (length or 1)
    if not fits or not all(type(v) is int and low <= v <= high for v in values):
        kind = "an integer" if length is None else f"a tuple of {length} integers"
        raise ValueError(f"the configuration's {name} is not {kind} in {low} to {high}")
