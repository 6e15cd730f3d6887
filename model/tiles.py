"""Pictures of any size in bounded memory: a fixed grid of tiles, and the margin around each.

The file is geometry alone: it knows pixels, latents and strides, but no codec.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


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

    def bands(self, pixels: int, stride: int) -> list["Tile"]:
        """The tile in bands of about ``pixels`` or less, whose heights are multiples of ``stride``,
        as its own is."""
        height, width = self.shape
        rows = padded(-(-height // -(-height * width // pixels)), stride)
        return [
            Tile(top, min(top + rows, self.bottom), self.left, self.right)
            for top in range(self.top, self.bottom, rows)
        ]


class View(NamedTuple):
    """A tile, and the part of the picture that the transforms see to compute it."""

    tile: Tile
    around: Tile  # the tile and a margin
    x: Tensor  # the pixels of ``around``, [1, 3, h, w] in 0 to 1


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture of height x width pixels, which the padding is part of."""

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
        self.drop_above(around.top)
        while self.bottom < around.bottom:
            self.held.append(next(self.rows))
            self.bottom += self.held[-1].shape[2] * self.stride
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
