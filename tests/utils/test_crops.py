"""Crops and qualities that codecs are trained and validated on."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import as_tensor, noise, save_png
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from utils.data import PictureDataset
from utils.device_crops import DeviceBatches, fits

HEIGHT, WIDTH, SIDE = 128, 160, 32
PLACES = "CPU", "device"


@pytest.fixture(scope="module")
def ramps(tmp_path_factory) -> Path:
    """A picture whose red is the column, green the row and blue the same everywhere."""
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([column, row, np.full_like(row, 77)], axis=2).astype(np.uint8)
    return save_png(tmp_path_factory.mktemp("ramps") / "ramps.png", pixels)


def dataset(path: Path, training: bool, count: int = 1, crop_size: int = SIDE) -> PictureDataset:
    return PictureDataset([path] * count, crop_size, 16, seed=0, training=training)


def draw(path: Path, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Many training crops, float [N, 3, H, W] in 0 to 255, and their qualities."""
    if where == "CPU":
        source = dataset(path, training=True)
        items = [source[epoch, 0] for epoch in range(2048)]
    else:
        source = DeviceBatches(dataset(path, training=True, count=64), 64, torch.device("cpu"))
        items = [item for batch in islice(source.after(0), 32) for item in zip(*batch)]
    crops, qualities = zip(*items)
    return 255 * torch.stack(crops).numpy(), torch.stack(qualities).numpy()


@pytest.fixture(scope="module", params=PLACES)
def drawn(request, ramps) -> tuple[np.ndarray, np.ndarray]:
    return draw(ramps, request.param)


@pytest.fixture(scope="module")
def natural(drawn) -> np.ndarray:
    """Crops that are not of pure colours."""
    crops, _ = drawn
    return crops[(abs(crops[:, 2] - 77) < 1).all((1, 2))]


def slopes(values: np.ndarray) -> np.ndarray:
    """The slope of values [N, SIDE] a pixel, without the edges, where the resampling ends."""
    return (values[:, -5] - values[:, 4]) / (SIDE - 9)


def test_qualities_are_drawn_evenly_from_1_to_100(drawn):
    _, qualities = drawn
    quantiles = np.quantile(qualities, [0, 0.25, 0.5, 0.75, 1])
    assert quantiles == pytest.approx([1, 25.75, 50.5, 75.25, 100], abs=3)
    assert qualities.min() >= 1 and qualities.max() <= 100
    assert (qualities == qualities.round()).all()  # as in files


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


@pytest.mark.parametrize("where", PLACES)
def test_crops_reach_the_first_and_the_last_row_and_column(tmp_path, where):
    """Red is dark in the first row and bright in the last, green so in the columns, and blue is
    darker on the left. The picture has 36 pixels a side, and most crops have all of them."""
    pixels = np.full((SIDE + 4, SIDE + 4, 3), 100, np.uint8)
    pixels[0, :, 0] = pixels[:, 0, 1] = 0
    pixels[-1, :, 0] = pixels[:, -1, 1] = 255
    pixels[:, : SIDE // 2 + 2, 2] = 90
    crops, _ = draw(save_png(tmp_path / "edges.png", pixels), where)
    crops = crops[(abs(crops[:, 2] - 95) < 10).all((1, 2))]  # not those of pure colours
    mirrored = crops[:, 2, :, 0].mean(1) > crops[:, 2, :, -1].mean(1)
    rows, columns = crops[:, 0].mean(2), crops[:, 1].mean(1)
    for values in (rows, columns[~mirrored], columns[mirrored][:, ::-1]):
        begins, ends = values[:, 0] < 60, values[:, -1] > 150
        assert 0.02 < np.mean(begins & ~ends) < 0.2 and 0.02 < np.mean(ends & ~begins) < 0.2


def test_one_crop_in_256_is_of_pure_colours(drawn, natural):
    crops, _ = drawn
    pure = np.isin(crops.round(), [0, 255]).all((1, 2, 3))
    assert pure.sum() + len(natural) == len(crops)
    assert 0.3 / 256 < pure.mean() < 3 / 256


def test_validation_takes_the_middle_of_pictures_at_qualities_spread_evenly(ramps):
    source = dataset(ramps, training=False, count=16)
    crops, qualities = zip(*(source[3, index] for index in range(16)))
    expected = [round(1 + 99 * (k + 0.5) / 8) for k in range(8)]
    assert torch.stack(qualities).tolist() == 2 * expected
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
    kinds = [(np.array_equal(x, padded), np.array_equal(x, mirrored)) for x in found]
    assert set(kinds) == {(True, False), (False, True)}


# Crops of the device

SIZES = [(100, 90), (33, 70), (20, 64)]  # room for all scales, for some, for none


@pytest.fixture
def noisy(tmp_path) -> tuple[DeviceBatches, list[torch.Tensor]]:
    """Batches of three pictures of noise, and the pictures."""
    pictures = [noise(*size, seed) // 2 + 64 for seed, size in enumerate(SIZES)]
    paths = [save_png(tmp_path / f"{seed}.png", image) for seed, image in enumerate(pictures)]
    source = PictureDataset(paths, SIDE, 16, seed=0, training=True)
    return DeviceBatches(source, 3, torch.device("cpu")), [as_tensor(image) for image in pictures]


def test_the_device_resamples_as_torchvision_does(noisy):
    batches, pictures = noisy
    starts = np.cumsum([0, *(height * width for height, width in SIZES)])
    bicubic, square = InterpolationMode.BICUBIC, [SIDE, SIDE]
    for top, left, flip in ((0, 0, 0), (3, 7, 1)):
        sides = [min(50, height - top, width - left) for height, width in SIZES]
        rows = [
            [starts[k] + top * SIZES[k][1] + left, SIZES[k][1], sides[k], flip, 0] for k in range(3)
        ]
        found = 255 * batches.cut(torch.tensor(rows), torch.Generator())
        for crop, image, side in zip(found, pictures, sides):
            expected = transforms.resized_crop(
                image, top, left, side, side, square, bicubic, antialias=True
            )
            expected = expected.flip(2) if flip else expected
            assert (crop - expected).abs().max() <= 1.01  # torchvision rounds in between


def test_batches_of_the_device_go_on_anywhere_and_differ_by_epoch(noisy):
    batches, _ = noisy
    assert len(batches) == 1
    first = [x for x, _ in islice(batches.after(0), 4)]
    later = [x for x, _ in islice(batches.after(2), 2)]
    assert torch.equal(first[2], later[0]) and torch.equal(first[3], later[1])
    assert not torch.equal(first[0], first[1])
    assert first[0].is_contiguous(memory_format=torch.channels_last)


def test_processes_share_the_crops_of_an_epoch(ramps):
    source = dataset(ramps, training=True, count=9)
    plans = []
    for rank in range(2):
        batches = DeviceBatches(source, 2, torch.device("cpu"), rank, world=2)
        assert len(batches) == 2
        plans.append(batches.plan(0)[1])
    assert [len(plan) for plan in plans] == [4, 4]
    assert not set(plans[0].tolist()) & set(plans[1].tolist())


def test_each_process_and_each_step_has_noise_of_its_own(ramps, monkeypatch):
    source, seeds = dataset(ramps, training=True, count=9), []
    for rank in range(2):
        batches = DeviceBatches(source, 2, torch.device("cpu"), rank, world=2)
        monkeypatch.setattr(
            batches, "cut", lambda _, generator: seeds.append(generator.get_state())
        )
        list(islice(batches.after(0), 3))
    assert len({bytes(state.tolist()) for state in seeds}) == 6


def test_pictures_that_cannot_be_read_are_left_out_on_the_device(ramps, tmp_path, capsys):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"damaged")
    source = PictureDataset([damaged, ramps, damaged], SIDE, 16, seed=0, training=True)
    batches = DeviceBatches(source, 1, torch.device("cpu"))
    assert (batches.pictures, batches.crops) == (1, 1)
    assert capsys.readouterr().err.count("skipped: ") == 1
    with pytest.raises(
        ValueError, match="1 crops of readable pictures are fewer than one batch of 3"
    ):
        DeviceBatches(source, 3, torch.device("cpu"))
    with pytest.raises(ValueError, match="none of the training pictures"):
        DeviceBatches(PictureDataset([damaged], SIDE, 16, 0, True), 1, torch.device("cpu"))


def test_pictures_are_kept_on_a_gpu_if_they_fit_into_half_of_its_free_memory(ramps, monkeypatch):
    size = 3 * HEIGHT * WIDTH
    for free, expected in ((2 * size, True), (2 * size - 2, False)):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda _, free=free: (free, 10**12))
        assert fits([ramps, ramps], torch.device("cuda")) == expected


def test_no_more_than_32_gigabytes_are_kept_on_a_gpu_however_much_it_has(ramps, monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (10**12, 10**12))
    for pixels, expected in ((10**10, True), (12 * 10**9, False)):
        monkeypatch.setattr("utils.device_crops.area", lambda _, pixels=pixels: pixels)
        assert fits([ramps], torch.device("cuda")) == expected
