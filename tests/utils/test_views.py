"""The places of pictures on the page of test.py --report."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import SRGB, save_png
from PIL import Image

from utils.report.page import write_report
from utils.report.views import AMPLIFY, Views, worst_area
from utils.scores import Result, Score
from xfr.images import Picture
from xfr.metadata import Metadata

LEVELS = {"original": 100, "reconstruction": 120, "second": 90}
LARGE = 900, 1300  # more than is shown


def opened(uri: str) -> Image.Image:
    """The picture in a data: URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def level(uri: str) -> int:
    """The mean grey of a picture on the page."""
    return round(np.asarray(opened(uri)).mean())


class Images(HTMLParser):
    """The pictures of a page: the label, what is shown at first and at 1:1."""

    def __init__(self, path: Path):
        super().__init__()
        self.found: list[tuple[str, int, int | None]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            values = dict(attributes)
            actual = values.get("data-actual")
            self.found.append((values["alt"], level(values["src"]), actual and level(actual)))


@pytest.mark.parametrize("shape", [(40, 60), LARGE])
def test_each_picture_of_both_comparisons_is_the_one_that_its_label_says(tmp_path, shape):
    paths = {
        name: str(save_png(tmp_path / f"{name}/a.png", np.full((*shape, 3), grey, np.uint8)))
        for name, grey in LEVELS.items()
    }
    score = Score("a.png", *shape[::-1], 7200, 900, 8.0, 3.0, {"psnr": 30.0})
    result = Result(score, paths["original"], paths["reconstruction"], None, paths["second"], score)
    write_report(tmp_path / "page.html", [result], 10**8, tmp_path / "second")
    expected = [("Original", 100), ("Reconstruction", 120), ("Reconstruction", 120), ("second", 90)]
    *shown, first, other = Images(tmp_path / "page.html").found
    assert [(label, grey) for label, grey, _ in shown] == expected
    if shape == LARGE:
        assert [(label, actual) for label, _, actual in shown] == expected
    assert [first[:2], other[:2]] == [("Error map", 20 * AMPLIFY), ("Error map", 10 * AMPLIFY)]


def test_errors_are_five_times_as_bright_and_end_at_white():
    before, after = (np.full((40, 60, 3), grey, np.uint8) for grey in (100, 40))
    after[:, :30] = 110
    (uri,) = Views([Picture(before), Picture(after)]).errors
    error = np.asarray(opened(uri)).astype(int)
    assert abs(error[:, :25].mean() - 50) < 3 and abs(error[:, 35:].mean() - 255) < 3


@pytest.mark.parametrize(
    ("place", "box"),
    [
        ((0, 0), (0, 0, 1200, 1200)),
        ((1990, 1590), (800, 400, 2000, 1600)),
        ((1990, 0), (800, 0, 2000, 1200)),
    ],
)
def test_the_area_that_is_seen_at_1_to_1_holds_the_largest_errors(place, box):
    error = Image.new("RGB", (2000, 1600))
    error.paste((255, 255, 255), (*place, place[0] + 10, place[1] + 10))
    left, top, right, bottom = worst_area(error)
    assert (right - left, bottom - top) == (1200, 1200)
    assert left <= place[0] and place[0] + 10 <= right
    assert top <= place[1] and place[1] + 10 <= bottom
    assert 0 <= left and right <= 2000 and 0 <= top and bottom <= 1600


def test_pictures_have_the_profile_of_the_original_and_error_maps_none():
    pixels = np.full((40, 60, 3), 90, np.uint8)
    views = Views([Picture(pixels, metadata=Metadata(icc=SRGB)), Picture(pixels)])
    assert [opened(uri).info.get("icc_profile") for uri in views.shown] == [SRGB, SRGB]
    assert [opened(uri).info.get("icc_profile") for uri in views.errors] == [None]


@pytest.mark.parametrize(
    ("shape", "shown"),
    [((16, 16), (256, 256)), ((60, 100), (200, 120)), ((200, 300), (300, 200)),
     ((900, 1300), (800, 554))],
)  # fmt: skip
def test_a_small_picture_is_enlarged_by_a_whole_number_and_a_large_one_reduced(shape, shown):
    picture = Picture(np.zeros((*shape, 3), np.uint8))
    views = Views([picture, picture])
    assert (views.width, views.height) == shown


def test_errors_of_single_pixels_do_not_vanish_where_a_picture_is_reduced():
    """Every other pixel is wrong by 40, as in a chequerboard: reduced, their mean is seen."""
    before = np.full((32, 1600, 3), 90, np.uint8)
    after = before + 40 * (np.indices(before.shape[:2]).sum(0) % 2)[:, :, None].astype(np.uint8)
    (uri,) = Views([Picture(before), Picture(after)]).errors
    error = np.asarray(opened(uri)).astype(int)
    assert error.shape[:2] == (16, 800) and abs(error - 40 * AMPLIFY / 2).max() < 4
