"""The training loop: rate-distortion optimisation of any codec."""

import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.checkpoint import first_line, save_checkpoint
from model.codec import Codec
from model.precision import fast_precision
from utils.console import uninterrupted
from utils.data import EpochSampler, PictureDataset, batches, crops_in, make_loader, split
from utils.files import atomic_write, check_folder, find_inputs, image_extensions
from utils.history import COLUMNS, Mean, Progress, is_history, plot_history
from utils.optimizer import SOAP, WeightAverage
from utils.processes import processes

WARMUP_STEPS = 200
DECAY = 0.2  # the part of the run, up to its end, in which the learning rate falls to zero
SAVE_SECONDS = 600  # the most training time that a sudden end costs
BALANCE = 0.5  # a sample's loss is divided by lmbda^BALANCE, so that no quality dominates
CLIP_NORM = 1.0
# Settings that a resumed run must share with the run it resumes, or it is another run.
SHARED = ("seed", "batch_size", "crop_size", "lr_rate", "validation_split")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The settings of a run; they are options of train.py, which explains them."""

    dataset_path: Path
    file_format: str | None = None
    num_of_epochs: int
    batch_size: int
    validation_split: float
    lr_rate: float
    crop_size: int
    workers: int = 0
    seed: int = 0


class DivergedError(RuntimeError):
    """The loss is not a finite number."""


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


def learning_rate_factor(step: int, last_step: int) -> float:
    """The learning rate relative to its peak: a rise, a plateau, a linear fall to zero. On its
    plateau, a run can still be prolonged."""
    return max(0.0, min(1.0, (step + 1) / WARMUP_STEPS, (last_step - step) / (DECAY * last_step)))


def training_loaders(
    settings: TrainingSettings, stride: int, rank: int, world: int
) -> tuple[DataLoader, DataLoader]:
    """Loaders of the training and the validation pictures, for process ``rank`` of ``world``.

    ``stride``: heights and widths of entire pictures are padded to multiples of it. Raises
    FileNotFoundError if there are no pictures, ValueError if there are too few to train on.
    """
    root = settings.dataset_path
    extensions = image_extensions(settings.file_format)
    paths = find_inputs(root, extensions, recursive=True, tally=None, option="--dataset_path")
    train, validation = split(paths, settings.validation_split)
    if len(train) < settings.batch_size * world:
        raise ValueError(
            f"{len(train)} of {len(paths)} pictures are left to train on, fewer than one batch of "
            f"{settings.batch_size * world}: lower --validation_split or --batch_size"
        )
    train = [path for path in train for _ in range(crops_in(path, settings.crop_size))]
    train_set, validation_set = (
        PictureDataset(files, settings.crop_size, stride, settings.seed, training)
        for files, training in ((train, True), (validation, False))
    )
    sampler = EpochSampler(len(train), settings.seed, shuffle=True, rank=rank, world=world)
    train_loader = make_loader(train_set, settings.batch_size, sampler, settings.workers)
    sampler = EpochSampler(len(validation), settings.seed, shuffle=False)
    batch_size = settings.batch_size if settings.crop_size else 1  # entire pictures differ in size
    return train_loader, make_loader(validation_set, batch_size, sampler, workers=0)


def rate_distortion(
    codec: Codec, model: nn.Module, x: Tensor, quality: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, rate (bpp) and PSNR (dB) of each sample of x [B, 3, H, W] in 0 to 1: [B] each.

    The loss is ``(bpp + distortion) / lmbda^BALANCE``, with a distortion of model/distortion.py.
    ``model`` is the codec itself or its data-parallel wrapping.
    """
    x_hat, bpp = model(x, quality)
    distortion = codec.weighted_distortion(x_hat, x, quality)
    loss = (bpp + distortion) / codec.lmbda(quality) ** BALANCE
    mse = (255 * (x_hat.detach() - x)).square().mean((1, 2, 3))
    psnr = 10 * torch.log10(255**2 / mse.clamp(min=1e-3))
    return loss, bpp.detach(), psnr


class Trainer:
    """Trains ``codec``; ``model`` is the codec itself or its data-parallel wrapping. Saves to
    ``folder``.

    ``epoch`` counts the finished epochs; ``history`` has a list for each of COLUMNS, with a value
    for each epoch. What is validated, and kept in best.tar, is the moving average of the weights.
    """

    def __init__(
        self,
        codec: Codec,
        model: nn.Module,
        device: torch.device,
        settings: TrainingSettings,
        folder: Path,
    ):
        self.codec, self.model, self.device, self.folder = codec, model, device, folder
        self.run = {name: getattr(settings, name) for name in SHARED}
        self.run |= {"lmbda": codec.LMBDA, "distortion": codec.distortion}
        self.seed, self.epochs = settings.seed, settings.num_of_epochs
        self.root = settings.dataset_path
        self.optimizer = SOAP(codec.parameters(), settings.lr_rate)
        self.average = WeightAverage(codec)
        self.epoch = 0
        self.progress = Progress()
        self.saved = ""  # what the last state that was saved is of
        self.best = math.inf  # the lowest loss of an epoch so far
        self.history: dict[str, list[float]] = {name: [] for name in COLUMNS}
        self.origin = "from scratch"

    def resume(self, checkpoint: dict | None) -> None:
        """Resume from a training state, or fine-tune a checkpoint that holds only weights.

        ValueError if the training state is damaged or at the last epoch already.
        """
        if checkpoint is None:
            return
        if "optimizer" not in checkpoint:
            self.origin = "fine-tuning (the checkpoint has no optimiser state)"
            return
        self.epoch, run, best = map(checkpoint.get, ("epoch", "run", "best"))
        if type(self.epoch) is not int or self.epoch < 0 or type(run) is not dict:
            raise ValueError("the checkpoint's training state has no valid 'epoch' or no 'run'")
        self.history = checkpoint["history"]
        if type(best) is not float or not is_history(self.history, self.epoch):
            raise ValueError(f"the checkpoint's history is not that of {self.epoch} epochs")
        if self.epoch >= self.epochs:
            raise ValueError(
                f"the checkpoint is at epoch {self.epoch} already; --num_of_epochs is {self.epochs}"
            )
        try:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.average.load(checkpoint["average"])
            self.progress = Progress(*checkpoint["progress"])
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
            self.progress = Progress()
        else:
            self.best = best

    def description(self, train: DataLoader, validation: DataLoader) -> str:
        """The run in one line."""
        weights = sum(weight.numel() for weight in self.codec.parameters())
        pictures = len(set(train.dataset.paths))
        return (
            f"{self.codec.arch}, {weights / 1e6:.2f} M weights, {self.origin}: "
            f"{pictures} pictures to train on, {len(validation.dataset)} to validate; an epoch is "
            f"{len(train.dataset)} crops in {len(train)} steps, on {self.device} -> {self.folder}"
        )

    def measure(self, model: nn.Module, batch: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, bpp and PSNR of each sample of a batch."""
        x, quality = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        x = x.contiguous(memory_format=torch.channels_last)
        with fast_precision(self.device):
            try:
                return rate_distortion(self.codec, model, x, quality)
            except ValueError as error:  # a codec takes any picture: this is a defect of it
                raise RuntimeError(str(error)) from error

    def train_epoch(self, loader: DataLoader) -> None:
        """Train for an epoch, or for what is left of one; save the state now and then.

        Raises DivergedError, or ValueError if no picture can be read.
        """
        rank, _ = processes()
        self.model.train()
        progress, steps = self.progress, len(loader)
        loader.sampler.epoch, loader.sampler.start = self.epoch, progress.steps * loader.batch_size
        now = time.perf_counter()
        start, saved = now - progress.seconds, now
        title = f"epoch {self.epoch + 1}/{self.epochs}"
        bar = tqdm(
            batches(loader),
            title,
            steps,
            initial=progress.steps,
            leave=False,
            disable=rank > 0 or None,
        )
        for batch in bar:
            if batch is None:
                raise ValueError("none of the training pictures can be read")
            step = self.epoch * steps + progress.steps
            # Noise depends on seed, step and rank alone: a resumed run has the same.
            torch.manual_seed(hash((self.seed, step, rank)))
            factor = learning_rate_factor(step, self.epochs * steps)
            self.optimizer.learning_rate = self.run["lr_rate"] * factor
            measures = self.measure(self.model, batch)
            loss = measures[0].mean()
            if not loss.isfinite():
                raise DivergedError(f"the loss is {loss.item()} at step {step + 1}")
            self.codec.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.codec.parameters(), CLIP_NORM)
            self.optimizer.step()
            self.average.update(step)
            progress.mean.add(measures)
            progress.steps += 1
            now = time.perf_counter()
            progress.seconds = now - start
            bar.set_postfix(loss=f"{progress.mean.values[0]:.3f}", refresh=False)
            if rank == 0 and now - saved > SAVE_SECONDS and progress.steps < steps:
                self.save_state()
                saved = now

    @torch.no_grad()
    def validate(self, loader: DataLoader) -> dict[str, Mean]:
        """Loss, bpp and PSNR of the validation pictures, quantized as for encoding: the mean of
        those in each folder right within the dataset's, "." for those in none."""
        measured = []
        with self.average.applied():
            self.codec.eval()
            for batch in batches(loader):
                if batch is not None:
                    measured += torch.stack(self.measure(self.codec, batch)).unbind(1)
        dataset, folders = loader.dataset, {}
        readable = [path for path in dataset.paths if path not in dataset.unreadable]
        for path, measures in zip(readable, measured, strict=True):
            folder = (path.relative_to(self.root).parent.parts or (".",))[0]
            folders.setdefault(folder, Mean()).add(measures[:, None])
        return folders

    def finish_epoch(self, validated: dict[str, Mean]) -> str:
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
        self.progress = Progress()
        return (
            f"epoch {self.epoch}/{self.epochs}: training loss {train_loss:.3f}, validation loss "
            f"{loss:.3f} ({', '.join([*folders * (len(folders) > 1), f'{bpp:.3f} bpp'])}, "
            f"{psnr:.2f} dB), learning rate {learning_rate:.2e}, {seconds:.0f} s"
        )

    def calibrate(self, loader: DataLoader) -> None:
        """Calibrate the codec on the validation pictures: to those that it was trained on, it is
        fitted a little too well."""
        readable = (batch for batch in batches(loader) if batch is not None)
        samples = (
            ((255 * x).round().byte().permute(1, 2, 0).numpy(), round(quality.item()))
            for batch in readable
            for x, quality in zip(*batch)
        )
        with fast_precision(self.device):
            self.codec.calibrate(samples)

    def save(self, validation: DataLoader) -> None:
        """After an epoch, save last.tar, a plot, and, if the epoch was the best, best.tar."""
        loss = self.history["validation_loss"][-1]
        if math.isnan(loss):  # nothing to validate on: the training loss is used instead
            loss = self.history["train_loss"][-1]
        if loss < self.best:
            self.best = loss
            with self.average.applied():
                self.codec.eval()
                self.calibrate(validation)
                self.write("best.tar", {"weights": self.codec.shipped_weights()})
        # After best.tar: a run that is killed between them repeats the epoch, and saves both.
        self.save_state()
        with uninterrupted():
            plot_history(self.history, self.folder / "history.png")
            gc.collect()  # later, callbacks of matplotlib's garbage could swallow a Ctrl-C

    def state(self) -> dict:
        """What a run is resumed from, without ``identity``."""
        return {
            "weights": self.codec.state_dict(),
            "epoch": self.epoch,
            "progress": self.progress.state(),
            "best": self.best,
            "run": self.run,
            "average": self.average.average,
            "optimizer": self.optimizer.state_dict(),
        }

    def save_state(self) -> None:
        """Save last.tar, to resume from."""
        with uninterrupted():
            self.write("last.tar", self.state())
            self.saved = f"epoch {self.epoch}"
            if self.progress.steps:
                self.saved += f" and {self.progress.steps} steps"

    def write(self, name: str, contents: dict) -> None:
        """Write a checkpoint of the run with these ``contents``."""
        with atomic_write(self.folder / name) as stream:
            save_checkpoint(stream, {**self.identity(), **contents})

    def identity(self) -> dict:
        """What every checkpoint of the run has."""
        return {
            "arch": self.codec.arch,
            "config": self.codec.config_dict(),
            "distortion": self.codec.distortion,
            "history": self.history,
        }

    def kept(self) -> str:
        """What is left of a run that ended early, in words."""
        if not self.saved:
            return "nothing was saved yet"
        return f"the state of {self.saved} is in {self.folder / 'last.tar'}"
