"""The training loop: epochs of steps, validation, and what is saved."""

import gc
import math
import shlex
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

import xfr
from model.checkpoint import first_line, save_checkpoint
from model.codec import Codec
from model.precision import fast_precision
from utils.batches import Batches, samples
from utils.configuration import TrainingSettings
from utils.console import uninterrupted
from utils.curves import CURVE_PICTURES, codec_curve, jpeg_curve
from utils.data import batches
from utils.files import atomic_write, check_folder
from utils.history import COLUMNS, EpochState, Mean, add_curve, is_history, plot_history, write_csv
from utils.processes import processes
from utils.schedule import Clock, Schedule
from utils.step import TrainingStep, rate_distortion

LOOK_STEPS = 20  # steps on a GPU between two looks at losses and clock
PROGRAM_VERSION = f"xfr {xfr.__version__}"
FEW_PICTURES = 50  # validation pictures: fewer do not choose between epochs
# Settings that a resumed run must share with the run it resumes, or it is another run.
SHARED_SETTINGS = ("seed", "batch_size", "crop_size", "lr_rate", "validation_split", "only")


def check_place(folder: Path, checkpoint: Path | None) -> None:
    """OSError if no file can be saved in ``folder``; ValueError if that would overwrite the results
    of a run, other than the one that is resumed from the path ``checkpoint``."""
    check_folder(folder)
    state = folder / "last.tar"
    resumed = checkpoint and state.exists() and state.samefile(checkpoint)
    for saved in (state, folder / "best.tar"):
        if saved.exists() and not resumed:
            raise ValueError(
                f"{saved} belongs to another run: choose another --save_at, or resume that run "
                "from its last.tar with --checkpoint_path"
            )


class Trainer:
    """Trains ``codec``; ``model`` is the codec itself or its data-parallel wrapping. Saves to
    ``folder``.

    ``began``: when the session began, in seconds of ``time.monotonic``.
    ``epoch`` counts the finished epochs; ``history`` has a list for each of COLUMNS, with a value
    for each epoch. What is validated, and kept in best.tar, is the moving average of the weights.
    """

    def __init__(
        self, codec: Codec, model: nn.Module, settings: TrainingSettings, folder: Path, began: float
    ):
        self.codec, self.model, self.device, self.folder = codec, model, codec.device, folder
        self.run = {name: getattr(settings, name) for name in SHARED_SETTINGS}
        self.run |= {"lmbda": codec.LMBDA, "distortion": codec.distortion}
        self.settings = settings
        self.train_step = TrainingStep(codec, model, settings.lr_rate)
        self.optimizer, self.average = self.train_step.optimizer, self.train_step.average
        self.clock = Clock(began, codec.device)
        self.step = self.epoch = 0  # number of finished ones
        self.progress = EpochState()
        self.saved_at = time.monotonic()
        self.saved = ""  # the epoch and the steps of the last state that was saved, in words
        self.best = math.inf  # the lowest loss of an epoch so far
        self.history: dict[str, list[float]] = {name: [] for name in COLUMNS}
        self.curves: dict[str, list[float]] = {}  # a column for each point, as in utils/curves.py
        self.jpeg: dict[str, float] = {}  # JPEG's curve, when it is known
        self.board = None  # a writer for TensorBoard
        self.origin = "from scratch"

    def resume(self, checkpoint: dict | None) -> None:
        """Resume from a training state, or fine-tune a checkpoint that holds only weights.
        ValueError if the training state is damaged or at the last epoch already."""
        if checkpoint is None:
            return
        if "optimizer" not in checkpoint:
            self.origin = "fine-tuning (the checkpoint has no optimiser state)"
            if checkpoint["config"] != self.codec.config_dict():
                self.origin = "grown from a smaller codec"
            return
        self.epoch, run, best = map(checkpoint.get, ("epoch", "run", "best"))
        if type(self.epoch) is not int or self.epoch < 0 or type(run) is not dict:
            raise ValueError("the checkpoint's training state has no valid 'epoch' or no 'run'")
        self.history = checkpoint["history"]
        if type(best) is not float or not is_history(self.history, self.epoch):
            raise ValueError(f"the checkpoint's history is not that of {self.epoch} epochs")
        epochs = self.settings.num_of_epochs
        if self.epoch >= epochs and not self.settings.minutes:
            raise ValueError(
                f"the checkpoint is at epoch {self.epoch} already; --num_of_epochs is {epochs}"
            )
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.average.load(checkpoint["average"])
            steps, totals, count, seconds = checkpoint["progress"]
            self.progress = EpochState(int(steps), Mean(totals, count), float(seconds))
            self.step = int(checkpoint.get("step", 0))
            self.curves = dict(checkpoint.get("curves", {}))
            self.clock.before = float(checkpoint.get("elapsed", 0.0))
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint's training state does not fit ({first_line(error)}): "
                "fine-tune its best.tar instead"
            ) from None
        self.origin = f"resumed at epoch {self.epoch}"
        changed = [
            f"{name} {run.get(name)} -> {value}"
            for name, value in self.run.items()
            if run.get(name) != value
        ]
        if changed:  # and losses cannot be compared with those before
            self.origin += f" with other settings ({', '.join(changed)})"
            self.progress = EpochState()
        else:
            self.best = best

    def description(self, train: Batches, validation: DataLoader, schedule: Schedule) -> str:
        """The run in one line, and a line for each warning."""
        weights = sum(weight.numel() for weight in self.codec.parameters())
        pictures = len(validation.dataset)
        warnings = list(schedule.warnings)
        if 0 < pictures < FEW_PICTURES:
            warnings.append(
                f"{pictures} pictures to validate are too few to choose an epoch by, or to measure "
                "tables on: raise --validation_split"
            )
        line = (
            f"{self.codec.arch}, {weights / 1e6:.2f} M weights, {self.origin}: "
            f"{train.pictures} pictures to train on, {pictures} to validate; an epoch is "
            f"{train.crops} crops in {len(train)} steps, {train.source}, on {self.device} "
            f"for {self.codec.distortion} -> {self.folder}; {command()}, {PROGRAM_VERSION}"
        )
        return "\n".join([line, *(f"warning: {warning}" for warning in warnings)])

    def train(self, train: Batches, validation: DataLoader, schedule: Schedule) -> None:
        """Train to the end of the schedule. Rank 0 prints a line for each epoch, and saves.
        ValueError if the loss is no finite number, no picture can be read or time is too short."""
        leads = processes()[0] == 0
        if self.settings.minutes:
            self.rehearse(validation, schedule)
        self.step = schedule.first_step(self.epoch, self.progress.steps, self.step)
        source = train.after(self.step)
        while not schedule.over(self.epoch, self.progress.steps):
            self.train_epoch(source, schedule)
            title = schedule.title(self.epoch + 1)
            line = self.finish_epoch(self.validate(validation), title)
            if leads:
                print(line, flush=True)
                self.save(validation)
            schedule.finished()

    def rehearse(self, validation: DataLoader, schedule: Schedule) -> None:
        """Do all that ends a timed run once, to see that it works and how long it takes."""
        schedule.look_up()
        loss, bpp, psnr = sum(self.validate(validation).values(), start=Mean()).values
        if processes()[0] == 0:
            self.measure_curve(validation)
            self.averaged_weights(validation)
            self.save_state()
            print(f"at the start: validation loss {loss:.3f} ({bpp:.3f} bpp, {psnr:.2f} dB)")
        schedule.finished()
        if schedule.over(self.epoch, self.progress.steps):
            raise ValueError("--minutes leaves no time to train beside the validation and saving")

    def train_epoch(self, source: Iterator[tuple[Tensor, Tensor]], schedule: Schedule) -> None:
        """Train for an epoch or its rest; save the state now and then. ValueError as ``train``."""
        rank, _ = processes()
        self.model.train()
        schedule.begin()
        progress = self.progress
        start = time.perf_counter() - progress.seconds
        self.saved_at = time.monotonic()
        with tqdm(
            desc=schedule.title(self.epoch + 1),
            total=schedule.length,
            initial=progress.steps,
            leave=False,
            disable=rank > 0 or None,
        ) as bar:
            while schedule.goes_on(progress.steps):
                x, quality = next(source)
                # Noise depends on seed, step and rank alone: a resumed run has the same.
                torch.manual_seed(hash((self.settings.seed, self.step, rank)))
                learning_rate = self.run["lr_rate"] * schedule.factor(self.step)
                progress.mean.add(self.train_step(x, quality, self.step, learning_rate))
                self.step += 1
                progress.steps += 1
                progress.seconds = time.perf_counter() - start
                bar.update()
                if self.device.type != "cuda" or progress.steps % LOOK_STEPS == 0:
                    self.look_up(schedule)
                    bar.set_postfix(loss=f"{progress.mean.values[0]:.3f}", refresh=False)
            self.look_up(schedule)

    def look_up(self, schedule: Schedule) -> None:
        """Read losses and clock, once the device is done; save if due. ValueError as ``train``."""
        loss = self.progress.mean.totals[0]
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {self.step}; {self.kept()}")
        schedule.look_up()
        due = time.monotonic() - self.saved_at > schedule.save_seconds
        if due and processes()[0] == 0 and schedule.goes_on(self.progress.steps):
            self.save_state()

    @torch.no_grad()
    def validate(self, loader: DataLoader) -> dict[str, Mean]:
        """Loss, bpp and PSNR of the validation pictures, quantized as for encoding: the mean of
        those in each folder right within the dataset's, "." for those in none."""
        measured = []
        with self.average.applied(), fast_precision(self.device):
            self.codec.eval()
            for batch in batches(loader):
                x, quality = (tensor.to(self.device, non_blocking=True) for tensor in batch)
                x = x.contiguous(memory_format=torch.channels_last)
                measured += rate_distortion(self.codec, self.codec, x, quality).unbind(1)
        dataset, folders = loader.dataset, {}
        readable = [path for path in dataset.paths if path not in dataset.unreadable]
        for path, measures in zip(readable, measured, strict=True):
            folder = (path.relative_to(self.settings.dataset_path).parent.parts or (".",))[0]
            folders.setdefault(folder, Mean()).add(measures[:, None])
        return folders

    def finish_epoch(self, validated: dict[str, Mean], title: str) -> str:
        """Append the epoch to the history. Returns it as one line of text."""
        total = sum(validated.values(), start=Mean())
        learning_rate = self.optimizer.learning_rate
        seconds = self.progress.seconds
        self.epoch += 1
        values = self.epoch, *self.progress.mean.values, *total.values, learning_rate, seconds
        for name, value in zip(COLUMNS, values, strict=True):
            self.history[name].append(value)
        train_loss, (loss, bpp, psnr) = self.progress.mean.values[0], total.values
        folders = [f"{folder} {mean.values[0]:.3f}" for folder, mean in sorted(validated.items())]
        self.progress = EpochState()
        return (
            f"{title}: training loss {train_loss:.3f}, validation loss "
            f"{loss:.3f} ({', '.join([*folders * (len(folders) > 1), f'{bpp:.3f} bpp'])}, "
            f"{psnr:.2f} dB), learning rate {learning_rate:.2e}, {seconds:.0f} s"
        )

    def measure_curve(self, validation: DataLoader) -> None:
        """Append the curve of validation pictures to ``curves``; tell TensorBoard of the epoch."""
        pictures = islice((x for batch in batches(validation) for x in batch[0]), CURVE_PICTURES)
        crops = [x[None].to(self.device) for x in pictures]
        if crops and len({x.shape for x in crops}) == 1:
            crops = list(torch.cat(crops).split(validation.batch_size))
        self.jpeg = self.jpeg or jpeg_curve(crops, self.codec.distortion)
        with self.average.applied():
            add_curve(self.curves, codec_curve(self.codec.eval(), crops), self.epoch)
        if self.board and self.epoch:
            for name, column in {**self.history, **self.curves}.items():
                self.board.add_scalar(name, column[-1], self.epoch)

    def averaged_weights(self, validation: DataLoader) -> dict[str, Tensor]:
        """The codec as it is shipped: averaged weights, tables and ranges that are measured on the
        validation pictures. On training pictures, tables would fit a little too well."""
        with self.average.applied():
            self.codec.eval()
            with fast_precision(self.device):
                self.codec.calibrate(lambda: samples(batches(validation)))
            return self.codec.shipped_weights()

    def save(self, validation: DataLoader) -> None:
        """Save last.tar, a plot, and, if the epoch was the best, best.tar."""
        loss = self.history["validation_loss"][-1]
        if math.isnan(loss):  # nothing to validate on: the training loss is used instead
            loss = self.history["train_loss"][-1]
        self.measure_curve(validation)
        if loss < self.best:
            self.best = loss
            self.write("best.tar", {"weights": self.averaged_weights(validation)})
        # After best.tar: a run that is killed between them repeats the epoch, and saves both.
        self.save_state()
        with uninterrupted():
            write_csv(self.history, self.curves, self.folder / "history.csv")
            plot_history(self.history, self.curves, self.jpeg, self.folder / "history.png")
            gc.collect()  # later, callbacks of matplotlib's garbage could swallow a Ctrl-C

    def state(self) -> dict:
        """The state that a run is resumed from, without ``identity``."""
        progress, mean = self.progress, self.progress.mean
        return {
            "weights": self.codec.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "progress": [progress.steps, mean.totals, mean.count, progress.seconds],
            "elapsed": self.clock.own(),
            "best": self.best,
            "curves": self.curves,
            "run": self.run,
            "average": self.average.average,
            "optimizer": self.optimizer.state_dict(),
        }

    def save_state(self) -> None:
        """Save last.tar, to resume from."""
        with uninterrupted():
            self.write("last.tar", self.state())
            self.saved_at = time.monotonic()
            self.saved = f"epoch {self.epoch}"
            if self.progress.steps:
                self.saved += f" and {self.progress.steps} steps"

    def write(self, name: str, contents: dict) -> None:
        """Write a checkpoint of the run with these ``contents``."""
        with atomic_write(self.folder / name) as stream:
            save_checkpoint(stream, {**self.identity(), **contents})

    def identity(self) -> dict:
        """The entries of every checkpoint of the run."""
        return {
            "arch": self.codec.arch,
            "config": self.codec.config_dict(),
            "distortion": self.codec.distortion,
            "command": command(),
            "version": PROGRAM_VERSION,
            "history": self.history,
        }

    def kept(self) -> str:
        """The remains of a run that ended early, in words."""
        if not self.saved:
            return "nothing was saved yet"
        return f"the state of {self.saved} is in {self.folder / 'last.tar'}"


def command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
