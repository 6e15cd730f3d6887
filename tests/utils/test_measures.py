"""The measures of test.py and of the benchmarks give the right numbers."""

import io
import math

import numpy as np
import pytest
from helpers import ROOT, colour, noise, save_png
from PIL import Image
from ssimulacra2 import compute_ssimulacra2

from utils.measures import MEASURES, likeness, ms_ssim, psnr, ssim, ssimulacra2
from xfr.images import read_picture

SAMPLES = ROOT / "out/original"


def test_psnr_is_over_all_channels_at_once_with_a_peak_of_255():
    black, white = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0
    one_channel = black.copy()
    one_channel[..., 1] = 9  # a mean squared error of 27
    assert psnr(black, one_channel) == pytest.approx(10 * math.log10(255**2 / 27))
    assert psnr(white, white) == math.inf


# Scores by pytorch-msssim 1.0.0 (https://github.com/VainF/pytorch-msssim), an independent
# implementation, on [1, 3, H, W] in float64: ``ssim(x, y, data_range=255)`` and ``ms_ssim(x, y,
# data_range=255)``. Both sides of the picture are multiples of 16, as implementations pad odd ones
# differently.
REFERENCES = {
    "coarser": (0.821435, 0.968121),
    "blurred": (0.900800, 0.980232),
    "flatter": (0.833365, 0.827777),
    "striped": (0.434314, 0.893359),
}


def distorted(x: np.ndarray, how: str) -> np.ndarray:
    if how == "coarser":
        return x // 32 * 32 + 16
    if how == "blurred":
        return (x + np.roll(x, 1, 0) + np.roll(x, 1, 1) + np.roll(x, (1, 1), (0, 1))) // 4
    if how == "flatter":
        return x // 2 + 60
    return (x + 24 * (np.arange(x.shape[1])[:, None] % 3 - 1)).clip(0, 255)


@pytest.mark.parametrize("how", REFERENCES)
def test_ssim_and_ms_ssim_are_those_of_another_implementation(how):
    original = read_picture(SAMPLES / "astronaut.png").rgb[:176, 128:320]
    other = distorted(original.astype(int), how).astype(np.uint8)
    found = ssim(original, other), ms_ssim(original, other)
    assert found == pytest.approx(REFERENCES[how], abs=2e-5)
    assert ssim(original, original) == ms_ssim(original, original) == pytest.approx(1, abs=1e-6)


def test_ssim_of_a_picture_smaller_than_the_gaussian_window_is_that_of_a_square_one():
    x, y = colour(7, 7, seed=1), colour(7, 7, seed=2)
    expected = []
    for a, b in zip(*(image.reshape(49, 3).T.astype(float) for image in (x, y))):
        ((var_a, covariance), (_, var_b)) = np.cov(a, b)
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
        expected.append(luminance * (2 * covariance + c2) / (var_a + var_b + c2))
    assert ssim(x, y) == pytest.approx(np.mean(expected), abs=1e-6)
    assert MEASURES["ssim"].score(x[:6], y[:6]) is None


def test_ssimulacra_2_takes_the_original_first(tmp_path):
    original = read_picture(SAMPLES / "chelsea.png").rgb[:96, :128]
    coarser = distorted(original.astype(int), "coarser").astype(np.uint8)
    files = save_png(tmp_path / "a.png", original), save_png(tmp_path / "b.png", coarser)
    forth, back = compute_ssimulacra2(*files), compute_ssimulacra2(*files[::-1])
    assert abs(forth - back) > 0.1
    assert ssimulacra2(original, coarser) == pytest.approx(forth, abs=1e-3)


def reference_ms_ssim(original: np.ndarray, other: np.ndarray) -> float:
    """MS-SSIM of two uint8 arrays [H, W], written down from the paper: every window on its own."""
    offsets = np.arange(11) - 5
    window = np.exp(-np.add.outer(offsets**2, offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    x, y, product = original.astype(float), other.astype(float), 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            bottom, right = (side % 2 for side in x.shape)
            x, y = (np.pad(image, ((0, bottom), (0, right)), "edge") for image in (x, y))
            x, y = (image.reshape(len(image) // 2, 2, -1, 2).mean(axis=(1, 3)) for image in (x, y))
        windows = [np.lib.stride_tricks.sliding_window_view(image, (11, 11)) for image in (x, y)]
        means = [np.einsum("ijkl,kl->ij", one, window) for one in windows]
        centred = [one - mean[:, :, None, None] for one, mean in zip(windows, means)]
        var_x, var_y = (np.einsum("ijkl,ijkl,kl->ij", one, one, window) for one in centred)
        covariance = np.einsum("ijkl,ijkl,kl->ij", *centred, window)
        term = (2 * covariance + 58.5225) / (var_x + var_y + 58.5225)
        if scale == 4:
            term *= (2 * means[0] * means[1] + 6.5025) / (means[0] ** 2 + means[1] ** 2 + 6.5025)
        product *= max(term.mean(), 0) ** weight
    return product


@pytest.mark.parametrize("shape", [(161, 175), (162, 190), (176, 211), (200, 163)])
def test_ms_ssim_of_any_sides_from_161_pixels_is_that_of_its_definition(shape):
    original, other = colour(*shape), noise(*shape) // 8 + colour(*shape) // 8 * 7
    expected = [reference_ms_ssim(original[..., c], other[..., c]) for c in range(3)]
    assert MEASURES["ms_ssim"].score(original, other) == pytest.approx(np.mean(expected), abs=1e-9)


def test_ms_ssim_of_nearly_equal_bright_pictures_is_exact_and_not_above_1():
    original = np.full((200, 210, 3), 254, np.uint8)
    for other in (original + 1, original - (noise(200, 210) & 1), original):
        expected = [reference_ms_ssim(original[..., c], other[..., c]) for c in range(3)]
        found = ms_ssim(original, other)
        assert found <= 1 and found == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.parametrize("shape, place", [((300, 260), (299, 0)), ((128, 256), (5, 130)),
                                          ((100, 290), (99, 289))])  # fmt: skip
def test_the_worst_tile_is_found_wherever_it_is_and_nothing_else_counts(shape, place):
    original = colour(*shape)
    reconstruction = original ^ 1  # each value is wrong by 1
    reconstruction[place] ^= 128
    measure, pixels = MEASURES["psnr_worst"], min(shape[0], 128) * 128
    errors = [
        3 * (pixels - 1),
        *(np.subtract(original[place], reconstruction[place], dtype=int) ** 2),
    ]
    expected = 10 * math.log10(255**2 * 3 * pixels / sum(errors))
    assert measure.score(original, reconstruction) == pytest.approx(expected)
    assert measure.score(original, reconstruction) < psnr(original, reconstruction)


def test_the_worst_tile_of_an_evenly_coded_picture_is_scored_as_the_picture_is():
    original = np.tile(colour(128, 128), (2, 3, 1))
    reconstruction = original // 8 * 8
    one = ssimulacra2(original[:128, :128], reconstruction[:128, :128])
    assert MEASURES["ssimulacra2_worst"].score(original, reconstruction) == pytest.approx(one)


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_has_a_score_from_its_smallest_side_on(name):
    measure = MEASURES[name]
    if measure.smallest_side > 1:
        thin = colour(measure.smallest_side - 1, 300)
        assert (
            measure.score(thin, thin) is None and measure.score(*[thin.swapaxes(0, 1)] * 2) is None
        )
    enough = colour(measure.smallest_side, 300)
    assert measure.level(measure.score(enough, enough)) > measure.high


def test_levels_in_decibels_are_of_the_distance_to_1():
    assert likeness(0.99) == pytest.approx(20) and likeness(1) == math.inf
    assert MEASURES["ms_ssim"].level_unit == MEASURES["psnr"].level_unit == "dB"
    assert MEASURES["ssimulacra2"].level_unit == ""


@pytest.mark.parametrize(
    ("name", "side"), [("psnr", 1), ("ssim", 7), ("ms_ssim", 161), ("ssimulacra2", 8)]
)
def test_the_smallest_side_is_that_of_the_window_at_its_coarsest_scale(name, side):
    assert MEASURES[name].smallest_side == side


def test_ssim_and_ms_ssim_are_compared_where_ssimulacra_2_gives_30_to_80():
    """Comments and tables say so of the levels that BD-rates are over."""
    original = read_picture(SAMPLES / "coffee.png").rgb[72:328, 172:428]
    names, points = ("ssimulacra2", "ssim", "ms_ssim"), []
    for quality in (2, 10, 80, 92):
        file = io.BytesIO()
        Image.fromarray(original).save(file, "webp", quality=quality)
        decoded = np.asarray(Image.open(file).convert("RGB"))
        measures = [MEASURES[name] for name in names]
        points.append([one.level(one.score(original, decoded)) for one in measures])
    eye, *others = zip(*points)
    for name, levels in zip(names[1:], others):
        ends = MEASURES[name].low, MEASURES[name].high
        assert np.interp([30, 80], eye, levels) == pytest.approx(ends, abs=1.6)


@pytest.mark.parametrize("name", ["psnr", "ssimulacra2"])
def test_worst_tiles_are_compared_at_lower_levels_than_entire_pictures(name):
    whole, worst = MEASURES[name], MEASURES[f"{name}_worst"]
    assert worst.low < whole.low < worst.high < whole.high
