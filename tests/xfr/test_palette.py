"""The colours of palettes."""

import numpy as np

from xfr.palette import Colours


def picture(*colours: tuple[tuple[int, int, int], int]) -> np.ndarray:
    """uint8 [1, W, 3]: each colour as often as it says."""
    return np.array([[colour for colour, count in colours for _ in range(count)]], np.uint8)


def two_colours(pixels: np.ndarray) -> list[list[int]]:
    palette = Colours(pixels).palettes[0]
    return sorted(palette.colours.tolist())


def test_a_colour_of_a_palette_is_the_mean_of_those_that_it_stands_for_rounded():
    pixels = picture(((10, 20, 30), 1), ((11, 20, 27), 3), ((200, 200, 200), 9))
    assert two_colours(pixels) == [[11, 20, 28], [200, 200, 200]]  # 10.75, 20, 27.75
    pixels = picture(((10, 20, 30), 3), ((11, 20, 27), 1), ((200, 200, 200), 9))
    assert two_colours(pixels) == [[10, 20, 29], [200, 200, 200]]  # 10.25, 20, 29.25


def test_a_colour_counts_as_often_as_it_occurs():
    """The colour left out is the one with the least error in sum."""
    rare, often = ((0, 0, 0), 1), ((60, 60, 60), 100)
    assert two_colours(picture(rare, often, ((140, 140, 140), 100))) == [[59] * 3, [140] * 3]


def test_a_grey_picture_has_grey_palettes():
    pixels = np.array([[10, 11, 11, 11, 200]], np.uint8)
    assert two_colours(pixels) == [[11] * 3, [200] * 3]
    reduced = Colours(pixels).reduced(Colours(pixels).palettes[0])
    assert reduced[0, :, 1].tolist() == [11, 11, 11, 11, 200]


def test_each_palette_has_twice_the_colours_of_the_one_before_up_to_256():
    levels = np.arange(300)
    pixels = np.stack([levels % 256, levels // 256 * 90, 0 * levels], axis=1)[None]
    palettes = Colours(pixels.astype(np.uint8)).palettes
    assert [len(palette.colours) for palette in palettes] == [2, 4, 8, 16, 32, 64, 128, 256]
