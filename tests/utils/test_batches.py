"""The training crops of an epoch: every part of every picture, each in one of the processes."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import noise, save_png

from utils.batches import training_data
from utils.configuration import TrainingSettings
from utils.data import EpochSampler, PictureDataset
from utils.device_crops import DeviceBatches
from xfr.images import Picture, read_picture

SIDE = 32
SOURCES = ("cpu", "device")
CPU = torch.device("cpu")


def many_crops(path: Path, source: str, count: int = 400) -> torch.Tensor:
    """Training crops of a picture, [N, 3, SIDE, SIDE] in 0 to 1."""
    dataset = PictureDataset([path] * count, SIDE, 16, seed=0, training=True)
    if source == "cpu":
        return torch.stack([dataset[0, index][0] for index in range(count)])
    batches = DeviceBatches(dataset, 50, CPU)
    return torch.cat([x for x, _ in islice(batches.after(0), len(batches))])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("axis", [0, 1], ids=["row", "column"])
def test_a_crop_one_pixel_smaller_than_its_picture_begins_at_either_end(
    tmp_path, axis, last, source
):
    """Most crops of these 41x40 pixels are of 40x40."""
    pixels = np.zeros((41, 40, 3) if axis == 0 else (40, 41, 3), np.uint8)
    pixels.swapaxes(0, axis)[40 if last else 0] = 200
    found = many_crops(save_png(tmp_path / "line.png", pixels), source)
    bright = (found > 0.2).all(1).all(2 - axis)  # rows, or columns
    assert 0.3 < bright.any(1).float().mean() < 0.7


@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_of_one_process_has_every_picture_once(shuffle):
    keys = list(EpochSampler(11, seed=3, shuffle=shuffle))
    assert sorted(keys) == [(0, index) for index in range(11)]
    assert (keys == sorted(keys)) == (not shuffle)


def test_processes_share_an_epoch_without_a_picture_in_common():
    samplers = [EpochSampler(12, seed=3, shuffle=True, rank=rank, world=3) for rank in range(3)]
    keys = [list(sampler) for sampler in samplers]
    assert [len(part) for part in keys] == [len(sampler) for sampler in samplers] == [4, 4, 4]
    assert sorted(sum(keys, [])) == [(0, index) for index in range(12)]


@pytest.mark.parametrize("length", [12, 13, 14])
def test_processes_take_as_many_steps_whatever_is_left_over(length):
    samplers = [EpochSampler(length, seed=3, shuffle=True, rank=rank, world=3) for rank in range(3)]
    keys = [list(sampler) for sampler in samplers]
    assert [len(part) for part in keys] == [4, 4, 4]
    assert len(set(sum(keys, []))) == 12


def test_epochs_and_seeds_are_shuffled_anew_and_the_same_when_repeated():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(50, seed, shuffle=True)
        sampler.epoch = epoch
        return [index for _, index in sampler]

    orders = [order(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len(set(map(tuple, orders))) == 3
    assert order(0, 1) == orders[1]


@pytest.fixture
def flat_pictures(tmp_path) -> Path:
    """A folder of twelve pictures of one grey level each: 20, 40, ... 240."""
    for level in range(20, 241, 20):
        save_png(tmp_path / f"flat/{level}.png", np.full((40, 40, 3), level, np.uint8))
    return tmp_path / "flat"


def levels_of_an_epoch(folder: Path, source: str, epoch: int = 0) -> list[int]:
    """The levels of the crops of this process, but for those of pure colours."""
    settings = TrainingSettings(
        dataset_path=folder, num_of_epochs=1, batch_size=3, validation_split=0, lr_rate=1e-3,
        crop_size=SIDE, crops=source, seed=0,
    )  # fmt: skip
    batches, _ = training_data(settings, 16, CPU)
    found = islice(batches.after(epoch * len(batches)), len(batches))
    return [round(255 * x.mean().item()) for batch, _ in found for x in batch]


@pytest.mark.parametrize("source", SOURCES)
def test_each_process_trains_on_its_own_part_of_the_pictures(flat_pictures, monkeypatch, source):
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(levels_of_an_epoch(flat_pictures, source))
    assert [len(part) for part in parts] == [6, 6]
    assert sorted(sum(parts, [])) == list(range(20, 241, 20))


@pytest.mark.parametrize("source", SOURCES)
def test_every_epoch_has_the_pictures_in_another_order(flat_pictures, source):
    first, second = (levels_of_an_epoch(flat_pictures, source, epoch) for epoch in range(2))
    assert sorted(first) == sorted(second) == list(range(20, 241, 20)) and first != second


@pytest.mark.parametrize("source", SOURCES)
def test_crops_of_a_picture_differ_in_an_epoch_from_epoch_to_epoch_and_by_seed(tmp_path, source):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save_png(tmp_path / "noise.png", pixels)
    crops, again = (crops_of_two_epochs(path, source, seed=0) for _ in range(2))
    assert crops == again and len(set(crops)) == 8
    assert not set(crops) & set(crops_of_two_epochs(path, source, seed=1))


def crops_of_two_epochs(path: Path, source: str, seed: int) -> list[bytes]:
    """The pixels of eight training crops of a picture."""
    dataset = PictureDataset([path] * 4, SIDE, 16, seed, training=True)
    if source == "cpu":
        crops = [dataset[epoch, index][0] for epoch in range(2) for index in range(4)]
    else:
        crops = [x[0] for x, _ in islice(DeviceBatches(dataset, 1, CPU).after(0), 8)]
    return [x.numpy().tobytes() for x in crops]


def test_pictures_stay_in_memory_up_to_a_number_of_bytes_and_are_read_again_beyond(
    tmp_path, monkeypatch
):
    paths = [save_png(tmp_path / f"{seed}.png", noise(40, 50, seed)) for seed in range(3)]
    monkeypatch.setattr("utils.data.CACHE_BYTES", 2 * 3 * 40 * 50)
    dataset, read = PictureDataset(paths, SIDE, 16, seed=0, training=True), []

    def recorded(path: Path) -> Picture:
        read.append(path)
        return read_picture(path)

    monkeypatch.setattr("utils.data.read_picture", recorded)
    for _ in range(2):
        for index in range(3):
            assert np.array_equal(dataset.picture(index), noise(40, 50, index).transpose(2, 0, 1))
    assert read == [*paths, paths[2]]


def test_entire_pictures_are_validated_one_by_one_and_crops_in_batches(flat_pictures):
    """Pictures of other sizes would not fit into one batch."""
    for name in ("0", "2"):  # which are held out
        save_png(flat_pictures / f"{name}.png", noise(60, 30))
    for crop_size, batch_size in ((0, 1), (SIDE, 3)):
        settings = TrainingSettings(
            dataset_path=flat_pictures, num_of_epochs=1, batch_size=3, validation_split=0.3,
            lr_rate=1e-3, crop_size=crop_size, crops="cpu", seed=0,
        )  # fmt: skip
        _, validation = training_data(settings, 16, CPU)
        assert len(next(iter(validation))[0]) == batch_size
