import csv
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_optimizer
import torch
from helpers import (
    ARCHS,
    ROOT,
    TINY,
    as_tensor,
    colour,
    grey,
    older_contents,
    save_png,
    save_tiny,
    tiny_codec,
    tiny_config,
    torchrun,
    write_checkpoint,
)
from PIL import Image
from torch import nn

import utils.training
from model import codec_class, load_codec
from model.checkpoint import load_checkpoint
from model.entropy import SymbolCoder
from model.hyperprior.network import HyperpriorConfig
from utils.configuration import default_settings, setting
from utils.curves import QUALITIES, jpeg_curve
from utils.data import crops_in, split
from utils.files import find_files, image_extensions
from utils.history import Mean
from utils.optimizer import SOAP
from utils.schedule import EpochSchedule, learning_rate_factor
from utils.step import CLIP_NORM, rate_distortion
from utils.training import Trainer
from utils.upgrade import upgraded

SMALL = ["--crop_size", 64, "--batch_size", 2, "--workers", 0, "--device", "cpu"]


@pytest.fixture
def pictures(workplace) -> Path:
    """dataset/ with pictures of many sizes, kinds and formats."""
    folder = workplace / "dataset"
    for index, (height, width) in enumerate([(80, 80), (60, 97), (90, 70), (120, 64)]):
        save_png(folder / f"sub{index % 2}/{index}.png", colour(height, width, index))
    Image.fromarray(colour(85, 91, 7)).save(folder / "seven.jpg")
    Image.fromarray(grey(70, 70, 8)).save(folder / "eight.bmp")
    Image.fromarray(colour(40, 300, 9)).quantize().save(folder / "nine.gif")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def train(script, pictures):
    """Runs train.py, with a tiny codec unless it begins with a checkpoint."""

    def run(*flags):
        begun = "--checkpoint_path" in flags
        arch = flags[flags.index("--arch") + 1] if "--arch" in flags else "binary"
        return script("train", *SMALL, *([] if begun else tiny_config(arch)), *flags)

    return run


def same(first: dict, second: dict) -> None:
    """Two training states are equal, to the last bit of every tensor."""
    assert first["epoch"] == second["epoch"] and first["run"] == second["run"]
    for kind in ("weights", "average"):
        torch.testing.assert_close(first[kind], second[kind], rtol=0, atol=0)
    states = first["optimizer"], second["optimizer"]
    torch.testing.assert_close(*states, rtol=0, atol=0, equal_nan=True)
    histories = [
        {name: values for name, values in state["history"].items() if name != "seconds"}
        for state in (first, second)
    ]
    assert repr(histories[0]) == repr(histories[1])  # repr: NaN is equal to itself there


def only_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    assert len(lines) == 1, text
    return lines[0]


def without_bar(text: str) -> str:
    """stderr without the progress bar, which is drawn over itself."""
    return re.sub(r"epoch \d+/\d+: [^\r\n\]]*\]|\r", "", text)


# Runs


@pytest.mark.slow
def test_train_py_works_as_it_is_on_sizes_and_formats_of_all_kinds(shell, pictures):
    flags = ["--crop_size", 64, "--batch_size", 2, "--num_of_epochs", 2]
    result = shell("train", *flags, "--validation_split", 0.3, cwd=pictures.parent)
    assert result.code == 0, result.err
    first, *warnings, _, _ = result.out.splitlines()
    epochs = result.out.splitlines()[-2:]
    assert "scratch: 4 pictures to train on, 3 to validate; an epoch is 4 crops in 2 steps" in first
    assert "cut on the CPU, on cpu for mse -> out; train.py --crop_size 64" in first
    assert len(warnings) == 2 and all(line.startswith("warning: ") for line in warnings)
    assert "3 pictures to validate" in warnings[1] and "within its warm-up" in warnings[0]
    assert [line.split(":")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"last.tar", "best.tar", "history.png", "history.csv"}
    assert load_checkpoint(Path("out/last.tar"))["history"]["epoch"] == [1, 2]


@pytest.mark.parametrize("arch", ARCHS)
def test_best_tar_is_a_small_codec_that_can_be_shipped(train, arch):
    assert train("--arch", arch, "--num_of_epochs", 1).code == 0
    best, last = (load_checkpoint(Path("out", name)) for name in ("best.tar", "last.tar"))
    described = {"arch", "config", "distortion", "command", "version", "history"}
    assert set(best) == {"format", "fingerprint", "weights", *described}
    codec = load_codec(best)
    payload = codec.compress(colour(50, 60), 50)
    assert codec.decompress(payload, 50, 60, 50).shape == (50, 60, 3)
    for name, weight in best["weights"].items():
        if name in last["average"] and weight.dtype == torch.float16:
            assert weight.equal(last["average"][name].half()), name


def test_best_tar_has_tables_that_were_measured_on_the_validation_pictures(train):
    flags = ["--arch", "hyperprior", "--num_of_epochs", 1]
    tables = []
    for share in (0, 0.3):
        folder = Path(f"share{share}")
        assert train(*flags, "--validation_split", share, "--save_at", folder).code == 0
        tables.append(load_checkpoint(folder / "best.tar")["weights"]["coder.counts"])
    assert tables[0].equal(SymbolCoder().counts) and not tables[1].equal(tables[0])


def test_best_tar_is_of_the_epoch_with_the_lowest_validation_loss(train, monkeypatch):
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(Trainer, "validate", lambda *_: {".": Mean([next(losses), 0.0, 0.0], 1)})
    train("--num_of_epochs", 3, "--validation_split", 0.3)
    assert load_checkpoint(Path("out/best.tar"))["history"]["epoch"] == [1, 2]
    assert load_checkpoint(Path("out/last.tar"))["history"]["epoch"] == [1, 2, 3]


def take_step(optimizer: SOAP) -> None:
    optimizer.prepare(optimizer.learning_rate)
    optimizer.move()
    optimizer.finish()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_the_optimiser_lowers_the_loss(arch):
    torch.manual_seed(0)
    codec = codec_class(arch)(TINY[arch])
    optimizer = SOAP(codec.parameters(), 0.01)
    x = torch.stack([as_tensor(colour(64, 64, seed)) for seed in range(4)]) / 255
    losses = []
    for _ in range(40):
        loss = rate_distortion(codec, codec, x, torch.tensor([1.0, 30, 60, 100]))[0].mean()
        codec.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(codec.parameters(), CLIP_NORM)
        take_step(optimizer)
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


def test_soap_steps_as_that_of_a_library_does(monkeypatch):
    monkeypatch.setattr("utils.optimizer.mixed_precision", lambda _: False)
    shapes = [(9, 5, 3, 3), (7, 7, 1, 1), (7,), (7, 7), (6, 1, 3, 3), (4, 600), (1,)]
    start = [torch.randn(shape) for shape in shapes]
    copies = [[nn.Parameter(weight.clone()) for weight in start] for _ in range(2)]
    settings = {"betas": [0.95] * 2, "precondition_frequency": 10, "eps": 1e-8}
    theirs = pytorch_optimizer.SOAP(
        copies[1], lr=0.1, weight_decay=0, max_precondition_dim=512, **settings
    )
    ours = SOAP(copies[0], 0.1)
    for weights, step in [(copies[0], lambda: take_step(ours)), (copies[1], theirs.step)]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(25):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            step()
    torch.testing.assert_close(*copies, rtol=1e-3, atol=1e-4)
    assert not any(weight.equal(old) for weight, old in zip(copies[0], start))


def test_eigenbases_stay_orthonormal_where_nothing_is_known_of_most_directions():
    weight = nn.Parameter(torch.zeros(40, 30))
    optimizer = SOAP([weight], 0.1)
    for _ in range(3 * SOAP.FREQUENCY):
        weight.grad = torch.zeros_like(weight)
        weight.grad[:3] = torch.randn(3, 30) * 10.0 ** -torch.arange(3)[:, None]
        take_step(optimizer)
    for basis in optimizer.stacks[0].bases:
        assert (basis.mT @ basis - torch.eye(basis.shape[1])).abs().max() < 1e-3
    assert weight.isfinite().all()


def test_main_tar_is_never_written(train):
    train("--num_of_epochs", 1)
    assert not Path("out/main.tar").exists()
    shipped = save_tiny(Path("out/main.tar")).read_bytes()
    train("--num_of_epochs", 1, "--checkpoint_path", "out/main.tar")
    assert Path("out/main.tar").read_bytes() == shipped


def test_entire_pictures_of_one_shape_are_trained_on(train, pictures):
    result = train("--crop_size", 0, "--batch_size", 1, "--num_of_epochs", 1)
    assert result.code == 0


# Going on


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_an_interrupted_run_that_is_resumed_equals_one_that_was_not(train, monkeypatch, arch):
    flags = ["--arch", arch, "--num_of_epochs", 4]
    assert train(*flags, "--save_at", "uninterrupted").code == 0

    save = Trainer.save

    def save_then_interrupt(self, *args):
        save(self, *args)
        if self.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", save_then_interrupt)
        result = train(*flags, "--save_at", "resumed")
    assert result.code == 130 and "the state of epoch 2 is in resumed/last.tar" in result.err
    result = train(*flags, "--save_at", "resumed", "--checkpoint_path", "resumed/last.tar")
    assert result.code == 0 and "resumed at epoch 2" in result.out
    same(*(load_checkpoint(Path(folder, "last.tar")) for folder in ("uninterrupted", "resumed")))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_run_that_is_stopped_within_an_epoch_resumes_there(train, monkeypatch, arch):
    flags = ["--arch", arch, "--num_of_epochs", 2]  # of three steps of two samples each
    assert train(*flags, "--save_at", "uninterrupted").code == 0
    saves = []
    save = Trainer.save_state

    def save_then_interrupt(self):
        save(self)
        saves.append((self.epoch, self.progress.steps))
        if self.epoch == 1 and self.progress.steps == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(EpochSchedule, "save_seconds", 0)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_state", save_then_interrupt)
        result = train(*flags, "--save_at", "resumed")
    assert result.code == 130
    assert "the state of epoch 1 and 2 steps is in resumed/last.tar" in result.err
    assert saves[:2] == [(0, 1), (0, 2)]
    result = train(*flags, "--save_at", "resumed", "--checkpoint_path", "resumed/last.tar")
    assert result.code == 0 and "resumed at epoch 1" in result.out
    same(*(load_checkpoint(Path(folder, "last.tar")) for folder in ("uninterrupted", "resumed")))


def test_a_run_that_ends_between_its_two_files_still_has_the_best_epoch(train, monkeypatch):
    flags = ["--num_of_epochs", 3, "--validation_split", 0.3]
    losses, saves = [3.0, 1.0, 2.0], []
    save = utils.training.save_checkpoint

    def save_three_times(*args):
        if len(saves) == 3:  # the first file of epoch 2 is written, the second is not
            raise KeyboardInterrupt
        saves.append(args)
        save(*args)

    def validate(self, _):
        return {".": Mean([losses[self.epoch], 0.0, 0.0], 1)}

    monkeypatch.setattr(Trainer, "validate", validate)
    with monkeypatch.context() as patch:
        patch.setattr(utils.training, "save_checkpoint", save_three_times)
        assert train(*flags).code == 130
    assert train(*flags, "--checkpoint_path", "out/last.tar").code == 0
    assert load_checkpoint(Path("out/last.tar"))["history"]["epoch"] == [1, 2, 3]
    assert load_checkpoint(Path("out/best.tar"))["history"]["epoch"] == [1, 2]


def test_a_resumed_run_takes_the_architecture_of_its_checkpoint(train):
    train("--arch", "hyperprior", "--num_of_epochs", 1)
    result = train("--checkpoint_path", "out/last.tar", "--num_of_epochs", 2)
    assert result.code == 0 and result.out.startswith("hyperprior, ")


def test_a_checkpoint_says_what_it_was_trained_for(train):
    save_tiny(Path("shipped.tar"))
    flags = ["--num_of_epochs", 1, "--crop_size", 64]
    assert train(*flags, "--checkpoint_path", "shipped.tar", "--save_at", "a").code == 0
    fine_tune = ["--checkpoint_path", "a/best.tar", "--distortion", "ssimulacra2"]
    assert train(*flags, *fine_tune, "--save_at", "b").code == 0
    assert train(*flags, "--checkpoint_path", "b/best.tar", "--save_at", "c").code == 0
    checkpoints = [load_checkpoint(Path(folder, "best.tar")) for folder in "abc"]
    assert [load_codec(checkpoint).distortion for checkpoint in checkpoints] == [
        "mse", "ssimulacra2", "ssimulacra2",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="distortion is not one of"):
        load_codec({**checkpoints[0], "distortion": "beauty"}).check_distortion()


def test_a_resumed_run_names_the_flags_that_have_changed(train):
    train("--num_of_epochs", 1)
    result = train("--num_of_epochs", 2, "--checkpoint_path", "out/last.tar", "--seed", 5)
    assert result.code == 0 and "resumed at epoch 1 with other settings (seed 0 -> 5)" in result.out


def test_a_new_run_does_not_overwrite_the_state_of_another(train):
    assert train("--num_of_epochs", 1).code == 0
    before = Path("out/last.tar").read_bytes()
    for flags in ([], ["--checkpoint_path", "out/best.tar"]):
        result = train("--num_of_epochs", 2, *flags)
        assert result.code == 1 and "out/last.tar belongs to another run" in result.err
    assert Path("out/last.tar").read_bytes() == before


def test_fine_tuning_does_not_overwrite_where_it_began(train):
    assert train("--num_of_epochs", 1).code == 0
    Path("out/last.tar").unlink()
    before = Path("out/best.tar").read_bytes()
    result = train("--num_of_epochs", 1, "--checkpoint_path", "out/best.tar")
    assert result.code == 1 and "out/best.tar belongs to another run" in result.err
    assert Path("out/best.tar").read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda history: history.clear(),
        lambda history: history.update(more=[]),
        lambda history: history["train_loss"].append(1.0),
        lambda history: history.update(train_bpp="text"),
        lambda history: history.update(validation_loss=["1"]),
    ],
)
def test_a_damaged_history_is_one_line(train, change):
    assert train("--num_of_epochs", 1).code == 0
    state = torch.load("out/last.tar", weights_only=True)
    change(state["history"])
    torch.save(state, "out/last.tar")
    result = train("--checkpoint_path", "out/last.tar", "--num_of_epochs", 2)
    assert result.code == 1 and "history is not that of 1 epochs" in only_line(result.err)


def test_best_tar_starts_anew_where_losses_cannot_be_compared(train):
    assert train("--num_of_epochs", 1, "--validation_split", 0).code == 0
    flags = ["--checkpoint_path", "out/last.tar", "--validation_split", 0.3]
    assert train("--num_of_epochs", 2, *flags).code == 0
    assert load_checkpoint(Path("out/best.tar"))["history"]["epoch"] == [1, 2]


def test_a_run_that_is_over_is_not_resumed(train):
    train("--num_of_epochs", 1)
    result = train("--num_of_epochs", 1, "--checkpoint_path", "out/last.tar")
    assert result.code == 1 and "at epoch 1 already" in only_line(result.err)


def test_a_checkpoint_without_optimiser_state_is_fine_tuned_and_this_is_said(train):
    shipped = save_tiny(Path("shipped.tar"))
    result = train("--checkpoint_path", shipped, "--num_of_epochs", 1)
    assert result.code == 0 and "fine-tuning" in result.out
    assert load_checkpoint(Path("out/last.tar"))["history"]["epoch"] == [1]


def test_a_large_picture_gives_more_crops_than_a_small_one(train, pictures):
    large = save_png(pictures / "sub0" / "large.png", colour(200, 210))
    assert crops_in(large, 64) == 2 and crops_in(large, 0) == 1
    assert crops_in(pictures / "eight.bmp", 64) == 1
    assert crops_in(pictures / "notes.txt", 64) == 1
    out = train("--num_of_epochs", 1, "--validation_split", 0).out
    assert "8 pictures to train on, 0 to validate; an epoch is 9 crops in 4 steps" in out


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    factors = [learning_rate_factor(step, 10_000) for step in range(10_001)]
    assert 0 < factors[0] < 0.01 and max(factors) == 1 and factors[-1] == 0
    top = factors.index(1)
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)


# Configurations


def test_config_sets_any_field_and_the_checkpoint_has_it(script, pictures):
    fields = ["channels8=16", "channels16=16", "latent=32", "context=16", "synthesis_blocks=2,1"]
    flags = ["--arch", "hyperprior", "--num_of_epochs", 1, "--config", *fields]
    assert script("train", *SMALL, *flags).code == 0
    config = load_checkpoint(Path("out/best.tar"))["config"]
    assert (config["latent"], config["synthesis_blocks"]) == (32, (2, 1))
    assert config["analysis_blocks"] == HyperpriorConfig().analysis_blocks


@pytest.mark.parametrize(
    ("field", "error"),
    [
        ("latnt=32", "binary has no field 'latnt'; it has filters, latent, groups, rate_points"),
        ("latent=none", "latent=none is not NAME=VALUE"),
        ("latent", "latent is not NAME=VALUE"),
        ("latent=4096", "the configuration's latent is not an integer in 1 to 192"),
        ("filters=8", "the configuration's filters is not a tuple of 2 integers"),
    ],
)
def test_a_config_that_cannot_be_is_one_line(script, pictures, field, error):
    result = script("train", "--config", field)
    assert result.code and error in result.err.splitlines()[-1]


def test_a_larger_config_makes_a_checkpoint_grow(train):
    shipped = save_tiny(Path("shipped.tar"), "hyperprior")
    flags = ["--num_of_epochs", 1, "--config", "channels8=24"]
    result = train("--checkpoint_path", shipped, *flags)
    assert result.code == 0 and "grown from a smaller codec" in result.out
    assert load_checkpoint(Path("out/best.tar"))["config"]["channels8"] == 24
    result = train("--checkpoint_path", "out/last.tar", "--config", "channels8=32")
    assert result.code == 1 and "is a training state: grow its best.tar" in only_line(result.err)


@pytest.mark.parametrize("arch", ARCHS)
def test_help_shows_the_fields_of_each_configuration(script, arch):
    shown = " ".join(script("train", "--help").out.split())
    config = codec_class(arch).Config()
    settings = dict(map(setting, default_settings(arch).split()))
    assert settings == asdict(config)
    assert all(f"{name}=" in shown for name in settings)


# Output of a run


def test_history_csv_has_each_epoch_and_the_curve_of_its_validation_pictures(train):
    flags = ["--validation_split", 0.3, "--save_at", "a", "--num_of_epochs"]
    for count in (1, 2):
        resume = ["--checkpoint_path", "a/last.tar"] if count == 2 else []
        assert train(*flags, count, *resume).code == 0
        with open("a/history.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["epoch"] for row in rows] == ["1", "2"][:count]
    history = load_checkpoint(Path("a/best.tar"))["history"]
    assert float(rows[0]["validation_psnr"]) == history["validation_psnr"][0]
    for row in rows:
        rates = [float(row[f"bpp_{quality}"]) for quality in QUALITIES]
        assert rates == sorted(rates) and 5 < float(row["psnr_50"]) < 60
    assert "ssimulacra2_50" not in rows[0]


def test_a_run_for_ssimulacra_2_shows_it(train):
    assert train("--num_of_epochs", 1, "--distortion", "ssimulacra2").code == 0
    assert ",ssimulacra2_50," in Path("out/history.csv").read_text().splitlines()[0]


def test_the_curve_of_jpeg_rises():
    pictures = [torch.stack([as_tensor(colour(64, 64, seed)) for seed in range(2)]) / 255]
    found = jpeg_curve(pictures, "ssimulacra2")
    for measure in ("bpp", "psnr", "ssimulacra2"):
        values = [found[f"{measure}_{quality}"] for quality in QUALITIES]
        assert values == sorted(values) and values[0] < values[-1]
    assert found["psnr_90"] > 25 and found["ssimulacra2_90"] > 60


def test_tensorboard_is_written_to_if_it_is_there_and_asked_for_in_one_line_if_not(
    train, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = train("--tensorboard", "--num_of_epochs", 1)
    assert result.code == 1 and "pip install tensorboard" in only_line(result.err)
    written = {}

    class SummaryWriter:
        def __init__(self, folder):
            written["folder"] = folder

        def add_scalar(self, name, value, epoch):
            written[name, epoch] = value

    board = SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    assert train("--tensorboard", "--num_of_epochs", 1).code == 0
    loss = load_checkpoint(Path("out/last.tar"))["history"]["validation_loss"][0]
    assert repr(written["validation_loss", 1]) == repr(loss)
    assert written["folder"] == "out/tensorboard" and ("psnr_50", 1) in written


# Parts, time and the device


def test_only_some_parts_of_a_codec_are_trained(train):
    shipped = save_tiny(Path("shipped.tar"), "hyperprior")
    flags = ["--checkpoint_path", shipped, "--num_of_epochs", 2]
    assert train(*flags, "--only", "synthesis").code == 0
    before, after = (load_checkpoint(path)["weights"] for path in (shipped, Path("out/best.tar")))
    changed = {name for name in before if not before[name].equal(after[name])}
    parts = {name.split(".")[0] for name in changed if ".rounding." not in name}  # calibrated
    assert parts == {"synthesis", "coder"} or parts == {"synthesis"}
    result = train(*flags, "--only", "decoder", "--save_at", "other")
    assert result.code == 1 and "hyperprior has no part 'decoder'" in only_line(result.err)


def test_only_the_synthesis_learns_from_a_teacher(train):
    codec = tiny_codec("hyperprior")
    write_checkpoint(Path("older.tar"), older_contents(codec))
    write_checkpoint(Path("start.tar"), upgraded(older_contents(codec)))
    flags = ["--checkpoint_path", "start.tar", "--num_of_epochs", 2]
    assert train(*flags, "--teacher", "older.tar").code == 0
    before, after = (load_checkpoint(Path(name)) for name in ("start.tar", "out/best.tar"))
    assert set(after["history"]["train_bpp"]) == {0}
    for name, weight in before["weights"].items():
        if name.startswith(("analysis.", "z_scale.")):
            assert weight.half().equal(after["weights"][name]), name
    result = train("--arch", "binary", "--teacher", "older.tar", "--save_at", "other")
    assert result.code == 1 and "has another configuration" in only_line(result.err)


def test_a_run_on_crops_of_the_device_resumes_exactly(train, monkeypatch):
    flags = ["--crops", "device", "--num_of_epochs", 2, "--validation_split", 0]
    whole = train(*flags, "--save_at", "uninterrupted")
    assert whole.code == 0 and "cut on the device, on cpu" in whole.out
    save = Trainer.save

    def save_then_interrupt(self, *args):
        save(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", save_then_interrupt)
        assert train(*flags, "--save_at", "resumed").code == 130
    resume = ["--save_at", "resumed", "--checkpoint_path", "resumed/last.tar"]
    assert train(*flags, *resume).code == 0
    same(*(load_checkpoint(Path(folder, "last.tar")) for folder in ("uninterrupted", "resumed")))


def test_entire_pictures_are_not_cut_on_the_device(train):
    result = train("--crops", "device", "--crop_size", 0)
    assert result.code == 1 and "--crops device needs a --crop_size" in only_line(result.err)


@pytest.mark.slow
def test_a_run_by_time_ends_in_time_with_all_its_files_and_resumes(train):
    begun = time.monotonic()
    result = train("--minutes", 0.75, "--validation_split", 0.3)
    assert time.monotonic() - begun < 60  # the machine may be busy
    assert result.code == 0, result.err
    _, *lines = [line for line in result.out.splitlines() if not line.startswith("warning")]
    assert lines[0].startswith("at the start: validation loss ")
    assert lines[1].startswith("epoch 1, 0.") and "of 0.75 minutes: training loss" in lines[1]
    best, last = (load_checkpoint(Path("out", name)) for name in ("best.tar", "last.tar"))
    load_codec(best)
    assert last["history"]["learning_rate"][-1] < 0.5 * 2.5e-3 and 15 < last["elapsed"] < 60
    result = train("--minutes", 0.75, "--checkpoint_path", "out/last.tar")
    assert result.code == 1 and "--minutes" in only_line(result.err)


# Ends


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_the_state_of_the_last_epoch(pictures, how):
    command = [sys.executable, str(ROOT / "train.py"), "--num_of_epochs", "10000"]
    command += ["--crop_size", "64", "--batch_size", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        while not process.stdout.readline().startswith("epoch 2/"):
            assert process.poll() is None, process.stderr.read()
        time.sleep(0.3)
        os.killpg(process.pid, how)  # as terminals and clusters do: to the loading processes too
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    epoch = load_checkpoint(Path("out/last.tar"))["epoch"]
    assert epoch >= 1
    message = f"stopped; the state of epoch {epoch} is in out/last.tar"
    assert only_line(without_bar(err)) == message
    assert not list(Path("out").glob(".*"))


def test_what_ctrl_c_says_is_true_while_the_state_is_being_saved(train, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "write", interrupt)
    result = train("--num_of_epochs", 2)
    assert result.code == 130
    assert "is in out/last.tar" not in result.err


@pytest.mark.parametrize(
    ("owner", "during"), [(Trainer, "write"), (utils.training, "plot_history")]
)
def test_a_ctrl_c_while_a_file_is_written_waits_and_is_not_lost(train, monkeypatch, owner, during):
    class Garbage:
        def __del__(self):  # where Python itself would ignore the exception
            signal.raise_signal(signal.SIGINT)

    original = getattr(owner, during)

    def slow(*args):
        original(*args)
        if Path("out/last.tar").exists():
            Garbage()

    monkeypatch.setattr(owner, during, slow)
    result = train("--num_of_epochs", 2)
    assert result.code == 130
    assert only_line(result.err) == "stopped; the state of epoch 1 is in out/last.tar"
    assert load_checkpoint(Path("out/last.tar"))["epoch"] == 1


def test_a_loss_that_is_not_a_number_ends_the_run_and_keeps_the_last_epoch(train, monkeypatch):
    def diverge(codec, model, x, quality):
        measures = rate_distortion(codec, model, x, quality)
        if codec.training and Path("out/last.tar").exists():
            measures = measures * float("nan")
        return measures

    monkeypatch.setattr("utils.step.rate_distortion", diverge)
    result = train("--num_of_epochs", 3)
    assert result.code == 1 and "Traceback" not in result.err
    assert "the loss is nan" in result.err and "the state of epoch 1 is in" in result.err
    load_codec(load_checkpoint(Path("out/last.tar")))


def test_a_defect_of_a_codec_is_not_taken_for_an_error_of_the_input(train, monkeypatch):
    def broken(*_):
        raise ValueError("shapes differ")

    monkeypatch.setattr("model.binary.network.BinaryCodec.forward", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train("--num_of_epochs", 3)


def test_an_empty_or_missing_folder_is_one_line(train, workplace):
    (workplace / "empty").mkdir()
    result = train("--dataset_path", "empty")
    assert result.code == 1 and "in empty (--dataset_path): it holds no files" in only_line(
        result.err
    )
    result = train("--dataset_path", "nowhere")
    assert result.code == 1 and "nowhere" in only_line(result.err)
    result = train("--file_format", "tiff")
    assert result.code == 1 and "no .tiff files in" in only_line(result.err)


def test_a_split_that_leaves_less_than_a_batch_is_one_line(train):
    for flags in (["--validation_split", 0.99], ["--batch_size", 8]):
        result = train(*flags)
        assert result.code == 1 and "are left to train on" in only_line(result.err)


def test_a_checkpoint_of_another_architecture_is_one_line(train):
    shipped = save_tiny(Path("shipped.tar"), "hyperprior")
    result = train("--checkpoint_path", shipped, "--arch", "binary")
    assert result.code == 1
    assert "shipped.tar holds a hyperprior codec, not binary" in only_line(result.err)


def test_a_missing_or_broken_checkpoint_is_one_line(train):
    Path("broken.tar").write_bytes(b"broken")
    for name in ("none.tar", "broken.tar"):
        result = train("--checkpoint_path", name)
        assert result.code == 1 and name in only_line(result.err)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_entire_pictures_of_mixed_shapes_names_two_of_them_in_one_line(train, workers):
    result = train("--crop_size", 0, "--batch_size", 4, "--workers", workers)
    assert result.code == 1
    line = only_line(without_bar(result.err))
    assert line.startswith("train.py: error: ") and "a batch of entire pictures" in line
    assert len(set(re.findall(r"\d+x\d+", line))) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_skipped_and_named_once(train, pictures, workers):
    intact = (pictures / "seven.jpg").read_bytes()
    (pictures / "half.jpg").write_bytes(intact[: len(intact) // 2])
    flags = ["--num_of_epochs", 3, "--validation_split", 0, "--workers", workers]
    result = train(*flags)
    assert result.code == 0
    assert result.err.count("skipped: dataset/half.jpg") == 1


def test_best_tar_is_saved_if_no_validation_picture_can_be_read(train, pictures):
    _, validation = split(find_files(pictures, image_extensions(None), True), 0.3)
    assert validation
    for path in validation:
        path.write_bytes(b"damaged")
    assert train("--num_of_epochs", 1, "--validation_split", 0.3).code == 0
    assert Path("out/best.tar").exists()


def test_pictures_that_all_are_damaged_are_one_line(train, pictures):
    for name in ("a.png", "b.png"):
        (pictures / name).write_bytes(b"damaged")
    result = train("--file_format", "png", "--dataset_path", pictures / "none")
    assert result.code == 1
    only = pictures.parent / "damaged"
    only.mkdir()
    for name in ("a.png", "b.png"):
        (only / name).write_bytes(b"damaged")
    result = train("--dataset_path", only, "--validation_split", 0)
    assert result.code == 1
    assert "none of the training pictures can be read" in result.err.splitlines()[-1]


# Many processes


@pytest.mark.slow
def test_two_processes_end_with_equal_weights(pictures):
    ranks = ROOT / "tests" / "train_ranks.py"
    flags = [*SMALL, "--num_of_epochs", 2, "--validation_split", 0.2]
    done = torchrun(ranks, pictures.parent, *flags)
    assert done.code == 0, done.err
    sums = {path.name: path.read_text() for path in pictures.parent.glob("rank*")}
    assert sums["rank0_epoch1"] == sums["rank1_epoch1"] != sums["rank0_epoch2"]
    assert sums["rank0_epoch2"] == sums["rank1_epoch2"]
    assert done.out.count("epoch 2/2") == 1
    assert load_checkpoint(Path("out/last.tar"))["epoch"] == 2
