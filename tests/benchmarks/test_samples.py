"""Crops at equal bytes: the figure of benchmarks/samples.py."""

import re

import numpy as np
import pytest
from helpers import colour, save_png
from PIL import Image

from benchmarks.peers import Ours, make_peers
from benchmarks.samples import GAP_WIDTH, LABEL_HEIGHT, middle, middle_of_worst, panel, reconstruct
from xfr.images import read_picture


@pytest.fixture
def codecs(checkpoints) -> list:
    others = [peer for peer in make_peers() if peer.name in ("jpeg", "webp")]
    return [*others, Ours(checkpoints["hyperprior"], [], "cpu")]


def test_no_file_is_larger_than_asked_and_ours_no_larger_than_the_others(codecs, workplace):
    path = save_png(workplace / "disc.png", colour(72, 96))
    versions = reconstruct(codecs, path, bpp=1.6)
    labels = [label for label, _ in versions]
    sizes = [int(re.search(r"([\d,]+) bytes", label)[1].replace(",", "")) for label in labels]
    original, *others, ours = sizes
    assert original == path.stat().st_size
    assert labels[0].startswith("disc.png") and labels[-1].startswith("tiny (ours)")
    assert ours <= min(others) and max(others) <= 1.6 * 72 * 96 / 8
    for codec, size in zip(codecs, others):  # the best setting that is allowed, not just any
        codec.write(read_picture(path), 100, workplace / "best")
        assert size > 0.8 * 1.6 * 72 * 96 / 8 or size == (workplace / "best").stat().st_size


def test_a_rate_that_a_codec_cannot_reach_names_it(codecs, workplace):
    path = save_png(workplace / "disc.png", colour(72, 96))
    with pytest.raises(ValueError, match=r"disc.png: JPEG: the lowest quality takes \d+ bytes"):
        reconstruct(codecs, path, bpp=0.1)


@pytest.mark.parametrize("zoom", [1, 2])
def test_a_panel_shows_the_middle_pixel_by_pixel(zoom):
    pixels = colour(72, 96)
    shown = np.asarray(panel("a label\nof two lines", pixels, [48, 32], zoom, middle(pixels)))[
        LABEL_HEIGHT:
    ]
    top, left = (72 - 32 // zoom) // 2, (96 - 48 // zoom) // 2
    inner = pixels[top : top + 32 // zoom, left : left + 48 // zoom]
    np.testing.assert_array_equal(shown, inner.repeat(zoom, 0).repeat(zoom, 1))


def test_a_picture_smaller_than_the_crop_is_shown_whole():
    pixels = colour(20, 30)
    shown = np.asarray(panel("small\n", pixels, [48, 32], 1, middle(pixels)))[LABEL_HEIGHT:]
    np.testing.assert_array_equal(shown[:20, :30], pixels)
    assert (shown[20:] == 255).all() and (shown[:, 30:] == 255).all()


def test_the_worst_tile_is_shown_even_in_a_corner():
    original = colour(256, 384)
    another, ours = original.copy(), original // 8 * 8
    another[:100, :100] = 255
    ours[200:, 300:] = 255
    centre = middle_of_worst([("original", original), ("another", another), ("ours", ours)])
    assert centre == (384 - 64, 256 - 64)
    shown = np.asarray(panel("ours\n", ours, [160, 160], 1, centre))[LABEL_HEIGHT:]
    np.testing.assert_array_equal(shown, ours[-160:, -160:])


def test_the_figure_has_a_row_for_each_picture_and_zoom(script, workplace, checkpoints):
    for seed in (0, 1):
        save_png(workplace / f"{seed}.png", colour(72, 96, seed))
    done = script("benchmarks/samples", "0.png", "1.png", "--model", checkpoints["hyperprior"],
                  "--codecs", "jpeg", "--bpp", 3, "--crop", 48, 32, "--zoom", 1, 2,
                  "--worst", "--out", "figure.png")  # fmt: skip
    assert done.code == 0, done.err
    width, height = Image.open("figure.png").size
    assert (width, height) == (3 * 48 + 2 * GAP_WIDTH, 4 * (32 + LABEL_HEIGHT) + 3 * GAP_WIDTH)
