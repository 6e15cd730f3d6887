"""Palettes: fewer colours make screenshots, plots and logos small at little loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from model.tiles import tiles

PALETTE_SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
MOST_COLOURS = 2**15  # of a picture that is reduced: screenshots have 10,000, photographs 50,000
KMEANS_ROUNDS = 4  # for each palette
PART_SIDE = 1024  # pixels on each side of a part of the picture, which bounds the memory


def packed(pixels: np.ndarray) -> np.ndarray:
    """The colours of uint8 pixels, [H, W, 3] or grey [H, W], as int32 [H, W]: 0xRRGGBB."""
    pixels = pixels.astype(np.int32)
    red, green, blue = np.moveaxis(pixels, 2, 0) if pixels.ndim == 3 else [pixels] * 3
    return red << 16 | green << 8 | blue


@dataclass
class Palette:
    """Fewer colours for a picture of U colours. ``colours``: uint8 [N, 3]; ``chosen``: uint8 [U],
    the index among them of the one that each colour of the picture becomes."""

    colours: np.ndarray
    chosen: np.ndarray


class Colours:
    """The colours of a uint8 picture, [H, W, 3] or grey [H, W], and palettes for them."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels
        seen = np.zeros(2**24, bool)
        for _, part in self.parts():
            seen[packed(part)] = True
        self.numbers = np.flatnonzero(seen)

    def parts(self) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
        """Tiles of the picture, each behind its place: its rows and columns."""
        height, width = self.pixels.shape[:2]
        for tile in tiles(height, width, PART_SIDE):
            yield tile.place, self.pixels[tile.place]

    @cached_property
    def order(self) -> np.ndarray:
        """The index of each colour, by its number, among those of the picture: int32 [2^24]."""
        order = np.zeros(2**24, np.int32)
        order[self.numbers] = np.arange(len(self.numbers))
        return order

    @cached_property
    def palettes(self) -> list[Palette]:
        """A palette of each size below the number of colours; none above MOST_COLOURS."""
        if len(self.numbers) > MOST_COLOURS:
            return []
        counts = np.zeros(len(self.numbers), np.int64)
        for _, part in self.parts():
            counts += np.bincount(self.order[packed(part)].ravel(), minlength=len(counts))
        colours = np.stack([self.numbers >> shift & 255 for shift in (16, 8, 0)], axis=1)
        return list(make_palettes(colours.astype(np.float32), counts))

    def reduced(self, palette: Palette) -> np.ndarray:
        """The picture with the colours of ``palette``, uint8 [H, W, 3]."""
        out = np.empty((*self.pixels.shape[:2], 3), np.uint8)
        for place, part in self.parts():
            out[place] = palette.colours[palette.chosen[self.order[packed(part)]]]
        return out


def make_palettes(colours: np.ndarray, counts: np.ndarray) -> Iterator[Palette]:
    """Palettes of fewer colours than ``colours``, float32 [U, 3], which occur ``counts`` [U] times.

    Each palette comes from the one before: the colour that stands for the largest squared error is
    split in two, until there are enough; some rounds of k-means follow. Orchard, Bouman 1991,
    "Color quantization of images", splits in the same order.
    """
    chosen = np.zeros(len(colours), int)
    palette, errors = centres(colours, counts, chosen)
    for count in PALETTE_SIZES:
        if count >= len(colours):
            return
        while len(palette) < count:
            worst, axis = np.unravel_index(errors.argmax(), errors.shape)
            members = np.flatnonzero(chosen == worst)
            above = members[colours[members, axis] > palette[worst, axis]]
            chosen[above] = len(palette)
            half = (chosen[members] != worst).astype(int)
            halves, halved = centres(colours[members], counts[members], half)
            palette = np.concatenate([palette, halves[1:]])
            errors = np.concatenate([errors, halved[1:]])
            palette[worst], errors[worst] = halves[0], halved[0]
        for _ in range(KMEANS_ROUNDS):
            _, chosen = np.unique(nearest(colours, palette), return_inverse=True)
            palette, errors = centres(colours, counts, chosen)
        rounded = palette.round()
        yield Palette(rounded.astype(np.uint8), nearest(colours, rounded).astype(np.uint8))


def centres(
    colours: np.ndarray, counts: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each of N groups of ``colours`` [U, 3], which occur ``counts`` [U] times, and the
    sum of their squared errors in each channel: [N, 3] both. ``chosen`` [U]: the groups, 0 to
    N - 1, that the colours are in."""

    def sums(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(chosen, counts * column) for column in values.T], axis=1)

    means = sums(colours) / np.bincount(chosen, counts)[:, None]
    return means, sums((colours - means[chosen]) ** 2)


def nearest(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The index of the colour of ``palette`` [N, 3] that is closest to each of ``colours``: [U]."""
    palette = palette.astype(np.float32)
    return (np.square(palette).sum(1) - 2 * colours @ palette.T).argmin(1)
