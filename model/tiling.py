"""A fixed grid of tiles, so that a picture of any size is coded in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Rows top:bottom and columns left:right of the padded picture, in pixels."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    def crop(self, x: Tensor, stride: int = 1, origin: "Tile | None" = None) -> Tensor:
        """This part of x [..., H / stride, W / stride], which itself shows ``origin``."""
        top, left = (origin.top, origin.left) if origin else (0, 0)
        return x[
            ...,
            (self.top - top) // stride : (self.bottom - top) // stride,
            (self.left - left) // stride : (self.right - left) // stride,
        ]

    def grown(self, margin: int, height: int, width: int) -> "Tile":
        """With ``margin`` pixels around it, as far as a picture of height x width reaches."""
        return Tile(
            max(self.top - margin, 0),
            min(self.bottom + margin, height),
            max(self.left - margin, 0),
            min(self.right + margin, width),
        )


def padded(length: int, stride: int) -> int:
    """``length`` rounded up to a multiple of ``stride``."""
    return -(-length // stride) * stride


def tiles(height: int, width: int, side: int) -> Iterator[Tile]:
    """The tiles, ``side`` pixels wide and high or what is left, row by row."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Tile(top, min(top + side, height), left, min(left + side, width))


def window(image: Tensor, tile: Tile) -> Tensor:
    """``tile`` of image [3, H, W], its last row and column repeated where the tile goes beyond."""
    part = image[:, tile.top : tile.bottom, tile.left : tile.right]
    height, width = tile.size
    right, bottom = width - part.shape[2], height - part.shape[1]
    if not right and not bottom:
        return part.float()
    return F.pad(part[None].float(), (0, right, 0, bottom), mode="replicate")[0]
