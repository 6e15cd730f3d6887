"""What the codecs are trained and validated on: crops and qualities."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import save_png

from utils.data import PictureDataset

HEIGHT, WIDTH, SIDE = 128, 160, 32


@pytest.fixture(scope="module")
def ramps(tmp_path_factory) -> Path:
    """A picture whose red is the column, green the row and blue the same everywhere."""
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([column, row, np.full_like(row, 77)], axis=2).astype(np.uint8)
    return save_png(tmp_path_factory.mktemp("ramps") / "ramps.png", pixels)


def dataset(path: Path, training: bool, count: int = 1, crop_size: int = SIDE) -> PictureDataset:
    return PictureDataset([path] * count, crop_size, 16, seed=0, training=training)


@pytest.fixture(scope="module")
def drawn(ramps) -> tuple[np.ndarray, np.ndarray]:
    """Many training crops, float [N, 3, H, W] in 0 to 255, and their qualities."""
    source = dataset(ramps, training=True)
    crops, qualities = zip(*(source[epoch, 0] for epoch in range(2048)))
    return 255 * torch.stack(crops).numpy(), torch.stack(qualities).numpy()


@pytest.fixture(scope="module")
def natural(drawn) -> np.ndarray:
    """Those of the crops that are not of pure colours."""
    crops, _ = drawn
    return crops[(abs(crops[:, 2] - 77) < 1).all((1, 2))]


def slopes(values: np.ndarray) -> np.ndarray:
    """Of values [N, SIDE] a pixel, without the edges, where the resampling ends."""
    return (values[:, -5] - values[:, 4]) / (SIDE - 9)


def test_qualities_are_drawn_evenly_from_1_to_100(drawn):
    _, qualities = drawn
    quantiles = np.quantile(qualities, [0, 0.25, 0.5, 0.75, 1])
    assert quantiles == pytest.approx([1, 25.75, 50.5, 75.25, 100], abs=3)
    assert qualities.min() >= 1 and qualities.max() <= 100


def test_crops_are_reduced_by_0_5_to_1_as_much_down_as_across(natural):
    across, down = abs(slopes(natural[:, 0].mean(1))), slopes(natural[:, 1].mean(2))
    assert across == pytest.approx(down, abs=0.06)
    assert np.quantile(1 / down, [0, 0.5, 1]) == pytest.approx([0.5, 0.75, 1], abs=0.03)


def test_half_of_the_crops_are_mirrored_and_none_is_upside_down(natural):
    assert 0.45 < np.mean(slopes(natural[:, 0].mean(1)) < 0) < 0.55
    assert (slopes(natural[:, 1].mean(2)) > 0).all()


def test_crops_are_taken_from_everywhere(natural):
    for channel, length in ((0, WIDTH), (1, HEIGHT)):
        values = natural[:, channel].mean((1, 2))  # where the middle of a crop is
        assert values.mean() == pytest.approx((length - 1) / 2, abs=3)
        assert values.min() < SIDE / 2 + 2 and values.max() > length - 1 - SIDE / 2 - 2


def test_one_crop_in_256_is_of_pure_colours(drawn, natural):
    crops, _ = drawn
    pure = np.isin(crops.round(), [0, 255]).all((1, 2, 3))
    assert pure.sum() + len(natural) == len(crops)
    assert 0.3 / 256 < pure.mean() < 3 / 256


def test_validation_takes_the_middle_of_pictures_at_qualities_spread_evenly(ramps):
    source = dataset(ramps, training=False, count=16)
    crops, qualities = zip(*(source[3, index] for index in range(16)))
    expected = [1 + 99 * (k + 0.5) / 8 for k in range(8)]
    assert torch.stack(qualities).tolist() == pytest.approx(2 * expected)
    rows, columns = (
        slice((length - SIDE) // 2, (length + SIDE) // 2) for length in (HEIGHT, WIDTH)
    )
    row, column = np.mgrid[rows, columns]
    for crop in crops:
        found = (255 * crop).round().int()
        assert np.array_equal(found, np.stack([column, row, np.full_like(row, 77)]))


def test_entire_pictures_are_trained_on_at_full_size_with_their_edge_repeated(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 37, 3), dtype=np.uint8)
    source = dataset(save_png(tmp_path / "noise.png", pixels), training=True, crop_size=0)
    padded = np.pad(pixels, ((0, 12), (0, 11), (0, 0)), mode="edge").transpose(2, 0, 1)
    mirrored = np.pad(pixels[:, ::-1], ((0, 12), (0, 11), (0, 0)), mode="edge").transpose(2, 0, 1)
    found = [(255 * source[epoch, 0][0]).round().int().numpy() for epoch in range(8)]
    assert all(np.array_equal(x, padded) or np.array_equal(x, mirrored) for x in found)
