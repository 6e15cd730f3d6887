"""The measures of the benchmarks: levels, right values, and what is not installed."""

import io

import numpy as np
import pytest
from helpers import ROOT, colour
from PIL import Image

from benchmarks import measures
from benchmarks.measures import MEASURES
from model.cvvdp import cvvdp_terms
from utils.measures import Measure

SAMPLE = ROOT / "out/original/astronaut.png"


def coded(quality: int) -> tuple[np.ndarray, np.ndarray]:
    """A part of a photograph, and what JPEG leaves of it."""
    original = np.asarray(Image.open(SAMPLE).convert("RGB").crop((120, 0, 320, 200)))
    file = io.BytesIO()
    Image.fromarray(original).save(file, "jpeg", quality=quality)
    return original, np.asarray(Image.open(file))


def flat(*rgb: int) -> np.ndarray:
    """A picture of one colour, uint8 [64, 80, 3]."""
    return np.full((64, 80, 3), rgb, np.uint8)


def installed(name: str) -> Measure:
    """The measure of that name. The test is skipped where what it needs is missing."""
    if not MEASURES[name].available:
        pytest.skip(f"{name} is not installed: {MEASURES[name].remedy}")
    return MEASURES[name]


@pytest.mark.parametrize("name", MEASURES)
def test_levels_rise_with_quality(name):
    measure = installed(name)
    pairs = [coded(quality) for quality in (5, 20, 60, 95)]
    levels = [measure.level(measure.score(*pair)) for pair in pairs]
    assert levels == sorted(set(levels))
    assert levels[0] < measure.high and levels[-1] > measure.low
    same = measure.level(measure.score(pairs[0][0], pairs[0][0]))
    assert same > levels[-1]


@pytest.mark.parametrize("name", MEASURES)
def test_a_picture_has_a_score_from_the_smallest_side_on(name):
    measure = installed(name)
    side = measure.smallest_side
    if side > 1:
        small = colour(side - 1, 60)
        assert measure.score(small, small) is None
    enough = colour(side, max(side, 60))
    assert measure.score(enough, enough // 2) is not None


def test_cvvdp_is_10_for_equal_pictures_and_falls_by_the_distance_that_a_network_is_trained_for():
    measure, pair = installed("cvvdp"), coded(30)
    assert measure.score(pair[0], pair[0]) == 10
    x, x_hat = (measures.as_batch(image).float() for image in pair)
    assert measure.score(*pair) == pytest.approx(10 - cvvdp_terms(x_hat, x)[0].item(), abs=0.003)


def test_butteraugli_has_the_norms_of_libjxl():
    original = flat(100, 120, 140)
    spot = original.copy()
    spot[20:24, 30:34] += 40
    worst, mean = (installed(f"butteraugli{name}").score(original, spot) for name in ("_max", ""))
    assert (worst, mean) == pytest.approx((22.742, 8.3258), rel=0.05)  # by libjxl 0.7, from PNG
    assert installed("butteraugli").score(original, original) == 0


def test_a_program_that_fails_is_an_error_of_its_file(monkeypatch):
    monkeypatch.setattr(measures, "BUTTERAUGLI", "false")
    with pytest.raises(OSError, match="false: "):
        MEASURES["butteraugli"].score(flat(1, 2, 3), flat(3, 2, 1))


def test_flip_is_1_between_green_and_blue_which_differ_most():
    measure = installed("flip")
    green, blue = flat(0, 255, 0), flat(0, 0, 255)
    assert measure.score(green, blue) == pytest.approx(1, abs=1e-3)
    assert measure.score(green, green) == 0


def test_psnr_hvs_m_of_flat_blocks_weighs_their_difference_by_the_lowest_frequency():
    lighter = 20 * np.log10(255 / 6 / 1.608443)  # luma 108 and 102, and the weight of the paper
    assert installed("psnr_hvs_m").score(flat(100, 100, 100), flat(107, 107, 107)) == pytest.approx(
        lighter, abs=1e-6
    )


def test_pixels_beyond_the_last_whole_block_do_not_count_for_psnr_hvs_m():
    original, other = coded(30)
    score = installed("psnr_hvs_m").score
    assert score(original[:197, :195], other[:197, :195]) == score(
        original[:192, :192], other[:192, :192]
    )
