"""Pictures of any size in bounded memory: a fixed grid of tiles, and the margin around each.

The file is geometry alone: it knows pixels, latents and strides, but no codec.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.limits import PREVIEW_SCALES


@dataclass(frozen=True)
class Tile:
    """Rows top:bottom and columns left:right of a padded picture, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns in an image [H, W, ...]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def crop(self, x: Tensor, origin: "Tile") -> Tensor:
        """The tile's part of x [..., H / s, W / s], which covers ``origin`` with any stride s."""
        stride = origin.shape[1] // x.shape[-1]
        return x[
            ...,
            (self.top - origin.top) // stride : (self.bottom - origin.top) // stride,
            (self.left - origin.left) // stride : (self.right - origin.left) // stride,
        ]

    def grown(self, margin: int, height: int, width: int) -> "Tile":
        """The tile with ``margin`` pixels more on each side, within a picture of height x width."""
        return Tile(
            max(self.top - margin, 0),
            min(self.bottom + margin, height),
            max(self.left - margin, 0),
            min(self.right + margin, width),
        )

    def seen_from(self, other: "Tile") -> "Tile":
        """The tile, counted from the first row and column of ``other``."""
        top, left = other.top, other.left
        return Tile(self.top - top, self.bottom - top, self.left - left, self.right - left)

    def within(self, other: "Tile") -> "Tile | None":
        """The part of the tile that ``other`` covers; None if it covers nothing."""
        top, bottom = max(self.top, other.top), min(self.bottom, other.bottom)
        left, right = max(self.left, other.left), min(self.right, other.right)
        return Tile(top, bottom, left, right) if top < bottom and left < right else None

    def reduced(self, scale: int) -> "Tile":
        """The tile in a picture of 1/scale of the size; top and left are multiples of ``scale``."""
        return Tile(*(-(-edge // scale) for edge in (self.top, self.bottom, self.left, self.right)))

    def bands(self, pixels: int, stride: int) -> list["Tile"]:
        """The tile in bands of about ``pixels`` or less, whose heights are multiples of ``stride``,
        as its own is."""
        height, width = self.shape
        rows = padded(-(-height // -(-height * width // pixels)), stride)
        return [
            Tile(top, min(top + rows, self.bottom), self.left, self.right)
            for top in range(self.top, self.bottom, rows)
        ]


@dataclass(frozen=True)
class Extract:
    """The pixels that are wanted of a picture. ValueError for a scale that no preview has, or if a
    crop is to be reduced.

    ``scale``: 1, or one of PREVIEW_SCALES for a preview of 1/scale of the height and of the width,
    rounded up. ``crop``: x, y, width and height in pixels; None for the entire picture.
    """

    scale: int = 1
    crop: tuple[int, int, int, int] | None = None

    def __post_init__(self):
        if not isinstance(self.scale, int) or self.scale not in (1, *PREVIEW_SCALES):
            raise ValueError(f"a scale of {self.scale} is not one of {(1, *PREVIEW_SCALES)}")
        edges = 4 * [0] if self.crop is None else self.crop
        if len(edges) != 4 or not all(isinstance(edge, Integral) for edge in edges):
            raise ValueError(f"a crop of {self.crop!r:.60} is not x, y, width and height in pixels")
        if self.scale > 1 and self.crop:
            raise ValueError("a crop is not reduced: choose a crop or a scale")

    def region(self, height: int, width: int) -> Tile:
        """The wanted part of a picture of height x width pixels; ValueError if the crop does not
        lie within it."""
        x, y, columns, rows = self.crop or (0, 0, width, height)
        if not (0 <= x < x + columns <= width and 0 <= y < y + rows <= height):
            raise ValueError(f"a crop of {columns}x{rows} pixels at {x}, {y} is not within the "
                             f"picture of {width}x{height}")  # fmt: skip
        return Tile(y, y + rows, x, x + columns)

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what is made of a picture of height x width pixels; ValueError as for
        ``region``."""
        rows, columns = self.region(height, width).shape
        return -(-rows // self.scale), -(-columns // self.scale)


WHOLE = Extract()


class View(NamedTuple):
    """A tile, and the part of the picture that the transforms see to compute it."""

    tile: Tile
    around: Tile  # the tile and a margin
    x: Tensor  # the pixels of ``around``, [1, 3, h, w] in 0 to 1


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture of height x width pixels, padding included."""

    height: int
    width: int
    side: int  # pixels of a tile each way
    margin: int  # pixels that are seen on each side of a tile

    def __iter__(self) -> Iterator[Tile]:
        return tiles(self.height, self.width, self.side)

    def around(self, tile: Tile) -> Tile:
        """``tile`` and its margin, as far as the picture goes."""
        return tile.grown(self.margin, self.height, self.width)

    def views(self, image: np.ndarray, device: torch.device) -> Iterator[View]:
        """The tiles of a uint8 image [H, W, 3] and the pixels around them, on ``device``."""
        pixels = shared(image)
        for tile in self:
            around = self.around(tile)
            x = window(pixels, around).to(device) / 255
            yield View(tile, around, x.contiguous(memory_format=torch.channels_last))


class RowBuffer:
    """The latent [1, C, H / stride, W / stride] of a picture, whose rows come one block after the
    other: only the rows that the next tile needs are held."""

    def __init__(self, rows: Iterator[Tensor], stride: int):
        self.rows, self.stride = rows, stride
        self.held: list[Tensor] = []
        self.top = self.bottom = 0  # pixels: rows that are held

    def part(self, around: Tile) -> Tensor:
        """The latent of ``around``, [1, C, h, w]. From one call to the next, ``around`` may only
        move down."""
        while self.bottom < around.bottom:
            self.drop_above(min(around.top, self.bottom))
            self.held.append(next(self.rows))
            self.bottom += self.held[-1].shape[2] * self.stride
        self.drop_above(around.top)
        height, width = (length // self.stride for length in around.shape)
        left = around.left // self.stride
        parts = []
        for rows in self.held:
            parts.append(rows[:, :, :height, left : left + width])
            height -= rows.shape[2]
            if height <= 0:
                break
        return join(parts, dim=2)

    def drop_above(self, top: int) -> None:
        """Forget the held rows above pixel row ``top``, a multiple of the stride."""
        above, self.top = (top - self.top) // self.stride, top
        while self.held and above >= self.held[0].shape[2]:
            above -= self.held.pop(0).shape[2]
        if above:
            self.held[0] = self.held[0][:, :, above:].clone()


def padded(length: int, stride: int) -> int:
    """``length`` rounded up to a multiple of ``stride``."""
    return -(-length // stride) * stride


def tiles(height: int, width: int, side: int) -> Iterator[Tile]:
    """The tiles of a picture, row by row: ``side`` x ``side`` pixels, less at its right and bottom
    edges."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Tile(top, min(top + side, height), left, min(left + side, width))


def window(image: Tensor, tile: Tile) -> Tensor:
    """``tile`` of a uint8 image [H, W, 3] as floats [1, 3, h, w], 0 to 255. Where the tile goes
    beyond the image, the image's last row and column are repeated."""
    x = image[tile.place].permute(2, 0, 1)[None].float()
    height, width = tile.shape
    right, bottom = width - x.shape[3], height - x.shape[2]
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if right or bottom else x


def reduced(pixels: Tensor, scale: int) -> Tensor:
    """The means of boxes of scale x scale ``pixels`` [H, W, 3], of fewer at the right and bottom
    edges: float [H / scale, W / scale, 3], both rounded up."""
    x = pixels.permute(2, 0, 1)[None].float()
    return F.avg_pool2d(x, scale, ceil_mode=True, count_include_pad=False)[0].permute(1, 2, 0)


def shared(image: np.ndarray) -> Tensor:
    """A uint8 image [H, W, 3] as a tensor, without a copy where torch can share its memory."""
    return torch.from_numpy(np.require(image, requirements=["C", "W"]))


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
