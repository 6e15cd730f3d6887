"""What the coding of a tile sees of the tiles before it: their decoded latents along its border.

Without them, the entropy networks would predict less well there, and a step of the reconstruction
would show between two tiles of a smooth sky.
"""

import torch
from torch import Tensor


class Border:
    """The values of a latent to the left of a tile and above it, ``depth`` positions wide.

    Tiles of a picture come row by row; the picture's latent has ``width`` positions in a row. A
    tile with fewer than ``channels`` is zero in the others.
    """

    def __init__(self, channels: int, width: int, depth: int):
        self.depth, self.width, self.column = depth, width, 0
        self.above: Tensor | None = None  # [1, C, depth, W], of the row of tiles before this one
        self.left: Tensor | None = None  # [1, C, h, depth]
        self.bottom = torch.zeros(1, channels, depth, width)  # of this row, as far as it has come

    def window(self, channels: int, height: int, width: int) -> tuple[Tensor, int, int]:
        """Room for the next tile, and what is known above it and to its left:
        [1, channels, top + height, left + width], top and left."""
        top = 0 if self.above is None else self.depth
        left = 0 if self.left is None else self.depth
        values = torch.zeros(1, channels, top + height, left + width)
        if top:
            columns = slice(self.column - left, self.column + width)
            values[:, :, :top] = self.above[:, :channels, :, columns]
        if left:
            values[:, :, top:, :left] = self.left[:, :channels]
        return values, top, left

    def add(self, tile: Tensor) -> None:
        """Go on after ``tile``, [1, channels, height, width]."""
        channels, width = tile.shape[1], tile.shape[3]
        place = self.bottom[..., self.column : self.column + width]
        place[:, :channels] = tile[:, :, -self.depth :]
        place[:, channels:] = 0
        self.left = tile.new_zeros(1, self.bottom.shape[1], tile.shape[2], self.depth)
        self.left[:, :channels] = tile[..., -self.depth :]
        self.column += width
        if self.column == self.width:
            self.above, self.bottom = self.bottom, torch.zeros_like(self.bottom)
            self.left, self.column = None, 0
