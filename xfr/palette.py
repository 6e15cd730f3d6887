"""Pictures of fewer colours: what makes screenshots, plots and logos small at little loss."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from model.tiles import tiles

COUNTS = (2, 4, 8, 16, 32, 64, 128, 256)
MOST_COLOURS = 2**15  # that are worth reducing: screenshots have 10,000, photographs 50,000
ROUNDS = 4  # of k-means for each palette
SIDE = 1024  # pixels of a tile, at which the picture is looked at once


def packed(pixels: np.ndarray) -> np.ndarray:
    """uint8 pixels, [H, W, 3] or grey [H, W], to a number for each colour, int32 [H, W]."""
    pixels = pixels.astype(np.int32)
    red, green, blue = np.moveaxis(pixels, 2, 0) if pixels.ndim == 3 else [pixels] * 3
    return red << 16 | green << 8 | blue


@dataclass
class Palette:
    """Fewer colours for those of a picture: uint8 [N, 3], and which of them, uint8 [U], each of the
    picture's becomes."""

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
        """Tiles of the picture, each with where it is."""
        for tile in tiles(*self.pixels.shape[:2], SIDE):
            yield tile.place, self.pixels[tile.place]

    @cached_property
    def order(self) -> np.ndarray:
        """The place of each colour among those of the picture, by its number: int32 [2^24]."""
        order = np.zeros(2**24, np.int32)
        order[self.numbers] = np.arange(len(self.numbers))
        return order

    @cached_property
    def palettes(self) -> list[Palette]:
        """One for each of COUNTS that is below the number of colours. None if there are too many
        colours for a drawing."""
        if len(self.numbers) > MOST_COLOURS:
            return []
        counts = sum(
            np.bincount(self.order[packed(part)].ravel(), minlength=len(self.numbers))
            for _, part in self.parts()
        )
        colours = np.stack([self.numbers >> shift & 255 for shift in (16, 8, 0)], axis=1)
        return list(make_palettes(colours.astype(np.float32), counts))

    def reduced(self, palette: Palette) -> np.ndarray:
        """The picture with the colours of ``palette``, uint8 [H, W, 3]."""
        out = np.empty((*self.pixels.shape[:2], 3), np.uint8)
        for place, part in self.parts():
            out[place] = palette.colours[palette.chosen[self.order[packed(part)]]]
        return out


def make_palettes(colours: np.ndarray, counts: np.ndarray) -> Iterator[Palette]:
    """Palettes of fewer than the ``colours``, float32 [U, 3], of which a picture has ``counts``.

    Each comes from the one before: whichever of its colours stands for the largest squared error is
    split in two, until there are enough; then follow some rounds of k-means. Orchard, Bouman 1991,
    "Color quantization of images", splits in the same order.
    """
    chosen = np.zeros(len(colours), int)
    palette, errors = centres(colours, counts, chosen)
    for count in COUNTS:
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
        for _ in range(ROUNDS):
            _, chosen = np.unique(nearest(colours, palette), return_inverse=True)
            palette, errors = centres(colours, counts, chosen)
        rounded = palette.round()
        yield Palette(rounded.astype(np.uint8), nearest(colours, rounded).astype(np.uint8))


def centres(
    colours: np.ndarray, counts: np.ndarray, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of those of ``colours`` [U, 3] that have each number, 0 to N - 1, in ``chosen`` [U],
    and the sum of their squared errors in each channel: [N, 3] both."""

    def sums(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(chosen, counts * column) for column in values.T], axis=1)

    means = sums(colours) / np.bincount(chosen, counts)[:, None]
    return means, sums((colours - means[chosen]) ** 2)


def nearest(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The index of the colour of ``palette`` [N, 3] that is closest to each of ``colours``: [U]."""
    palette = palette.astype(np.float32)
    return (np.square(palette).sum(1) - 2 * colours @ palette.T).argmin(1)
