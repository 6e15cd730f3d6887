"""Which pictures are taken for drawings, whose colours may become fewer."""

import numpy as np
import pytest

from xfr.candidates import Graphic
from xfr.images import Picture


@pytest.mark.parametrize(("levels", "drawing"), [(4, True), (8, True), (32, False), (128, False)])
def test_a_drawing_takes_up_to_four_bits_a_pixel(levels, drawing):
    """Independent pixels of 8 levels take 3 bits, of 32 levels 5."""
    pixels = np.random.default_rng(0).integers(0, levels, (300, 300), dtype=np.uint8)
    assert Graphic(Picture(pixels)).is_drawing == drawing


def test_a_picture_of_one_colour_has_nothing_to_leave_out():
    assert not Graphic(Picture(np.full((300, 300, 3), 9, np.uint8))).is_drawing
