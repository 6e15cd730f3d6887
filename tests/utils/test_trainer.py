"""The steps of a training run: their numbers, their noise, and what is validated and kept."""

from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest
import torch
from helpers import TINY, as_tensor, colour, save_png
from torch.utils.data import DataLoader

from model import codec_class
from utils.batches import LoadedBatches
from utils.configuration import TrainingSettings
from utils.data import EpochSampler, PictureDataset, make_loader
from utils.history import EpochState
from utils.schedule import Clock, EpochSchedule, TimedSchedule
from utils.training import Trainer

CPU = torch.device("cpu")
X, QUALITY = as_tensor(colour(64, 64))[None] / 255, torch.tensor([50.0])


class Steps:
    """A stand-in for a training step: it draws noise, moves nothing, and keeps what it was
    given."""

    def __init__(self):
        self.numbers, self.rates, self.noise = [], [], []

    def __call__(self, x, quality, step: int, learning_rate: float) -> torch.Tensor:
        self.numbers.append(step)
        self.rates.append(learning_rate)
        self.noise.append(torch.rand(()).item())
        return torch.ones(3, len(x))


def make_trainer(folder: Path, **settings) -> Trainer:
    codec = codec_class("binary")(TINY["binary"])
    chosen = {"num_of_epochs": 3, "batch_size": 1, "validation_split": 0, "lr_rate": 0.02,
              "crop_size": 64, "dataset_path": folder}  # fmt: skip
    return Trainer(codec, codec, TrainingSettings(**chosen | settings), folder, monotonic())


@pytest.fixture
def trainer(tmp_path) -> Trainer:
    return make_trainer(tmp_path)


def batches(step: int):
    while True:
        yield X, QUALITY


def steps_of(trainer: Trainer, epochs: int, length: int) -> Steps:
    """The steps of the epochs that are left, in the order of ``Trainer.train``."""
    trainer.train_step, schedule = Steps(), EpochSchedule(epochs, length)
    trainer.step = schedule.first_step(trainer.epoch, trainer.progress.steps, trainer.step)
    while not schedule.over(trainer.epoch, trainer.progress.steps):
        trainer.train_epoch(batches(trainer.step), schedule)
        trainer.epoch += 1
        trainer.progress = EpochState()
    return trainer.train_step


def test_the_learning_rate_rises_over_200_steps_of_all_epochs_and_falls_at_the_end(trainer):
    rates = steps_of(trainer, epochs=5, length=100).rates
    assert len(rates) == 500
    assert rates[0] == pytest.approx(0.02 / 200) and rates[149] == pytest.approx(0.015)
    assert set(rates[199:400]) == {0.02}
    assert [rates[step] for step in (425, 450, 475)] == pytest.approx([0.015, 0.01, 0.005])


def test_steps_of_a_resumed_run_go_on_where_it_stopped(trainer):
    trainer.epoch, trainer.progress = 2, EpochState(steps=3)
    steps = steps_of(trainer, epochs=4, length=5)
    assert steps.numbers == list(range(13, 20))


def test_noise_is_of_the_step_the_seed_and_the_process(tmp_path, monkeypatch):
    found = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        for seed in (0, 1):
            found.append(steps_of(make_trainer(tmp_path, seed=seed), epochs=2, length=4).noise)
    assert len(set(sum(found, []))) == 4 * 8
    assert found[-1] == steps_of(make_trainer(tmp_path, seed=1), epochs=2, length=4).noise


def validation(folder: Path, *places: str) -> DataLoader:
    """A loader of pictures at these places in a folder."""
    paths = [save_png(folder / place, colour(64, 64)) for place in places]
    dataset = PictureDataset(paths, 64, 8, seed=0, training=False)
    return make_loader(dataset, 2, EpochSampler(len(paths), 0, shuffle=False), 0)


def test_the_history_has_the_learning_rate_of_the_last_step_of_each_epoch(trainer, monkeypatch):
    monkeypatch.setattr(Trainer, "save", lambda *_: None)
    source = SimpleNamespace(after=batches)
    trainer.train(source, validation(trainer.folder, "a.png"), EpochSchedule(3, 2))
    found = trainer.history["learning_rate"]
    assert found == pytest.approx([0.02 * step / 200 for step in (2, 4, 6)])
    assert trainer.optimizer.steps == trainer.step == 6


def test_what_is_validated_drawn_and_shipped_are_the_averaged_weights(trainer, monkeypatch):
    seen = []
    average = {name: weight + 1 for name, weight in trainer.average.average.items()}
    trainer.average.load(average)

    def look(codec):
        weights = dict(codec.named_parameters())
        seen.append(all(weights[name].equal(average[name]) for name in average))

    def rate_distortion(codec, model, x, quality):
        look(codec)
        return torch.ones(3, len(x))

    def codec_curve(codec, crops):
        look(codec)
        return {"bpp_10": 1.0}

    monkeypatch.setattr("utils.training.rate_distortion", rate_distortion)
    loader = validation(trainer.folder, "a.png")
    trainer.validate(loader)
    shipped = trainer.averaged_weights(loader)
    monkeypatch.setattr("utils.training.codec_curve", codec_curve)
    trainer.measure_curve(loader)
    assert seen == [True, True]
    assert all(shipped[name].equal(average[name].half()) for name in average)
    assert not any(w.equal(average[n]) for n, w in trainer.codec.named_parameters())


def test_the_validation_loss_is_the_mean_of_all_pictures_and_each_folder_has_its_own(
    trainer, monkeypatch
):
    losses = iter([1.0, 2.0, 6.0])

    def rate_distortion(codec, model, x, quality):
        return torch.tensor([[next(losses), 0.5, 30.0] for _ in x]).T

    monkeypatch.setattr("utils.training.rate_distortion", rate_distortion)
    validated = trainer.validate(validation(trainer.folder, "x/a.png", "x/deep/b.png", "c.png"))
    assert {name: mean.values[0] for name, mean in validated.items()} == {"x": 1.5, ".": 6}
    line = trainer.finish_epoch(validated, "epoch 1/3")
    assert "validation loss 3.000 (. 6.000, x 1.500, 0.500 bpp, 30.00 dB)" in line


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_prints_and_saves(trainer, monkeypatch, capsys, rank):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(EpochSchedule, "save_seconds", -1)
    loader, trainer.folder = validation(trainer.folder), trainer.folder / "out"
    trainer.folder.mkdir()
    trainer.train(SimpleNamespace(after=batches), loader, EpochSchedule(1, 3))
    names = {path.name for path in trainer.folder.iterdir()}
    assert names == (set() if rank else {"last.tar", "best.tar", "history.csv", "history.png"})
    assert bool(capsys.readouterr().out) == (rank == 0)


@pytest.mark.parametrize(("timed", "seconds"), [(False, 600), (True, 60)])
def test_a_sudden_end_costs_ten_minutes_or_one_minute_of_a_timed_run(
    trainer, monkeypatch, timed, seconds
):
    schedule = TimedSchedule(600, Clock(monotonic(), CPU)) if timed else EpochSchedule(1, 3)
    schedule.begin()
    began = trainer.saved_at
    for later, saved in ((seconds - 5, False), (seconds + 5, True)):
        monkeypatch.setattr("time.monotonic", lambda later=later: began + later)
        trainer.look_up(schedule)
        assert (trainer.folder / "last.tar").exists() == saved


@pytest.mark.parametrize(("count", "few"), [(0, False), (49, True), (50, False)])
def test_fewer_than_fifty_pictures_to_validate_are_warned_of(trainer, count, few):
    dataset = PictureDataset([Path("a.png")] * count, 64, 8, seed=0, training=False)
    loader = make_loader(dataset, 2, EpochSampler(count, 0, shuffle=False), 0)
    train = LoadedBatches(validation(trainer.folder, "a.png"), CPU)
    text = trainer.description(train, loader, EpochSchedule(100, 100))
    assert f"{count} pictures to validate are too few" in text or not few
    assert ("warning" in text) == few and f", {count} to validate; " in text


def test_a_curve_is_of_thirty_two_pictures_at_most(trainer, monkeypatch):
    counts = []

    def curve(_, crops: list[torch.Tensor]) -> dict[str, float]:
        counts.append(sum(map(len, crops)))
        return {}

    monkeypatch.setattr("utils.training.codec_curve", curve)
    monkeypatch.setattr("utils.training.jpeg_curve", lambda crops, _: curve(_, crops))
    path = save_png(trainer.folder / "a.png", colour(64, 64))
    for count in (5, 40):
        dataset = PictureDataset([path] * count, 64, 8, seed=0, training=False)
        sampler = EpochSampler(count, 0, shuffle=False)
        trainer.measure_curve(make_loader(dataset, 3, sampler, 0))
    assert counts == [5, 5, 32, 32]
