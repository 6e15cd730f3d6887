"""A fixed grid of tiles, so that a picture of any size is coded in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

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
        """Its rows and columns in an image [H, W, ...]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def crop(self, x: Tensor, origin: "Tile") -> Tensor:
        """This tile's part of x [..., H / s, W / s], which covers ``origin`` with any stride s."""
        stride = origin.shape[1] // x.shape[-1]
        return x[
            ...,
            (self.top - origin.top) // stride : (self.bottom - origin.top) // stride,
            (self.left - origin.left) // stride : (self.right - origin.left) // stride,
        ]

    def grown(self, margin: int, height: int, width: int) -> "Tile":
        """With ``margin`` pixels more on each side, within a picture of height x width."""
        return Tile(
            max(self.top - margin, 0),
            min(self.bottom + margin, height),
            max(self.left - margin, 0),
            min(self.right + margin, width),
        )

    def bands(self, pixels: int, stride: int) -> list["Tile"]:
        """The tile in bands of about ``pixels`` or less, whose heights are multiples of ``stride``,
        as its own is."""
        height, width = self.shape
        rows = padded(-(-height // -(-height * width // pixels)), stride)
        return [
            Tile(top, min(top + rows, self.bottom), self.left, self.right)
            for top in range(self.top, self.bottom, rows)
        ]


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
