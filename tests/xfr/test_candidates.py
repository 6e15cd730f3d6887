"""Pictures that are taken for drawings, whose colours may become fewer."""

import numpy as np
import pytest
from helpers import noise

from xfr.candidates import Graphic, estimate
from xfr.graphics import compress
from xfr.images import Picture


@pytest.mark.parametrize(("levels", "drawing"), [(4, True), (8, True), (32, False), (128, False)])
def test_a_drawing_takes_up_to_four_bits_a_pixel(levels, drawing):
    """Independent pixels of 8 levels take 3 bits, of 32 levels 5."""
    pixels = np.random.default_rng(0).integers(0, levels, (300, 300), dtype=np.uint8)
    assert Graphic(Picture(pixels)).is_drawing == drawing


def test_a_picture_of_one_colour_has_nothing_to_leave_out():
    assert not Graphic(Picture(np.full((300, 300, 3), 9, np.uint8))).is_drawing


def test_the_bytes_of_a_picture_are_estimated_from_parts_all_over_it():
    """Noise but for a square in the middle, which is of one colour."""
    pixels = noise(400, 400)
    pixels[140:260, 140:260] = 90
    assert estimate(pixels) == pytest.approx(len(compress(pixels)), rel=0.15)
    assert estimate(pixels[150:250, 150:250]) < 0.01 * len(compress(pixels))
