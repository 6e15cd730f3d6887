"""The training loop: rate-distortion optimisation of any codec."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from model.codec import Codec
from utils.checkpoints import first_line, save_checkpoint
from utils.data import EpochSampler, PictureDataset, batches, crops_in, make_loader, split
from utils.devices import fast_precision
from utils.files import atomic_write, check_folder, find_files, image_extensions
from utils.optimizer import ParallelSOAP
from utils.processes import processes

WARMUP_STEPS = 200
DECAY = 0.8  # the part of the run, up to its end, in which the learning rate falls to zero
BALANCE = 0.5  # a sample's loss is divided by lmbda^BALANCE, so that no quality dominates
CLIP_NORM = 1.0
MEASURES = ("loss", "bpp", "psnr")
SUBSETS = ("train", "validation")
COLUMNS = (  # of the history
    "epoch",
    *(f"{subset}_{name}" for subset in SUBSETS for name in MEASURES),
    "learning_rate",
    "seconds",
)
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


def is_history(history: dict, epochs: int) -> bool:
    """Whether ``history`` is that of a run of so many epochs."""
    columns = history.values()
    return (
        set(history) == set(COLUMNS)
        and all(type(column) is list and len(column) == epochs for column in columns)
        and all(type(value) in (int, float) for column in columns for value in column)
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
    ValueError if there are too few pictures to train on.
    """
    root = settings.dataset_path
    paths = find_files(root, image_extensions(settings.file_format), recursive=True)
    if not paths:
        raise ValueError(f"no readable pictures in {root}: put some there, or see --dataset_path")
    train, validation = split(paths, root, settings.validation_split)
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
    """Loss, mean rate (bpp) and mean PSNR (dB) of a batch x [B, 3, H, W] in 0 to 1.

    The loss is the mean of ``(bpp + lmbda * mse) / lmbda^BALANCE``. ``model`` is the codec itself
    or its data-parallel wrapping.
    """
    x_hat, bpp = model(x, quality)
    mse = (255 * (x_hat - x)).square().mean((1, 2, 3))
    lmbda = codec.lmbda(quality)
    loss = ((bpp + lmbda * mse) / lmbda**BALANCE).mean()
    psnr = 10 * torch.log10(255**2 / mse.detach().clamp(min=1e-3)).mean()
    return loss, bpp.detach().mean(), psnr


def make_optimizer(codec: nn.Module, learning_rate: float) -> ParallelSOAP:
    """The optimiser of all weights of ``codec``."""
    return ParallelSOAP(
        codec.parameters(),
        lr=learning_rate,
        betas=(0.95, 0.95),
        weight_decay=0,
        precondition_frequency=10,
        max_precondition_dim=512,
    )


class Mean:
    """The mean of [loss, bpp, PSNR] over samples; NaN without any."""

    def __init__(self):
        self.totals, self.count = [0.0] * len(MEASURES), 0

    def add(self, values: list[Tensor], count: int) -> None:
        self.totals = [t + v.item() * count for t, v in zip(self.totals, values, strict=True)]
        self.count += count

    @property
    def values(self) -> list[float]:
        return [total / self.count if self.count else math.nan for total in self.totals]


class Trainer:
    """Trains ``codec``; ``model`` is the codec itself or its data-parallel wrapping.

    ``epoch`` counts the finished epochs; ``history`` has a list for each of COLUMNS, with a value
    for each epoch.
    """

    def __init__(
        self, codec: Codec, model: nn.Module, device: torch.device, settings: TrainingSettings
    ):
        self.codec, self.model, self.device = codec, model, device
        self.run = {name: getattr(settings, name) for name in SHARED} | {"lmbda": codec.LMBDA}
        self.seed, self.epochs = settings.seed, settings.num_of_epochs
        self.optimizer = make_optimizer(codec, settings.lr_rate)
        self.epoch = self.saved_epoch = 0
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
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint's optimiser state does not fit ({first_line(error)}): "
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
        else:
            self.best = best

    def description(self, train: DataLoader, validation: DataLoader) -> str:
        """The run in one line."""
        weights = sum(weight.numel() for weight in self.codec.parameters())
        pictures = len(set(train.dataset.paths))
        return (
            f"{self.codec.arch}, {weights / 1e6:.2f} M weights, {self.origin}: "
            f"{pictures} pictures to train on, {len(validation.dataset)} to validate, "
            f"{len(train)} steps per epoch, on {self.device}"
        )

    def measure(self, model: nn.Module, batch: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, mean bpp and mean PSNR of a batch."""
        x, quality = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        x = x.contiguous(memory_format=torch.channels_last)
        with fast_precision(self.device):
            return rate_distortion(self.codec, model, x, quality)

    def train_epoch(self, epoch: int, loader: DataLoader) -> list[float]:
        """Train for epoch number ``epoch``, from 0 on. Returns its mean loss, bpp and PSNR.

        Raises DivergedError, or ValueError if no picture can be read.
        """
        rank, _ = processes()
        # Noise depends on seed, epoch and rank alone: a resumed run has the same.
        torch.manual_seed(hash((self.seed, epoch, rank)))
        self.model.train()
        loader.sampler.epoch = epoch
        mean, last_step = Mean(), self.epochs * len(loader)
        title = f"epoch {epoch + 1}/{self.epochs}"
        bar = tqdm(batches(loader), title, len(loader), leave=False, disable=rank > 0 or None)
        for step, batch in enumerate(bar, start=epoch * len(loader)):
            if batch is None:
                raise ValueError("none of the training pictures can be read")
            for group in self.optimizer.param_groups:
                group["lr"] = self.run["lr_rate"] * learning_rate_factor(step, last_step)
            measures = self.measure(self.model, batch)
            loss = measures[0]
            if not loss.isfinite():
                raise DivergedError(f"the loss is {loss.item()} at step {step + 1}")
            self.codec.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.codec.parameters(), CLIP_NORM)
            self.optimizer.step()
            mean.add(measures, len(batch[0]))
            bar.set_postfix(loss=f"{mean.values[0]:.3f}", refresh=False)
        return mean.values

    @torch.no_grad()
    def validate(self, loader: DataLoader) -> list[float]:
        """Mean loss, bpp and PSNR of the validation pictures, quantized as for encoding."""
        self.codec.eval()
        mean = Mean()
        for batch in batches(loader):
            if batch is not None:
                mean.add(self.measure(self.codec, batch), len(batch[0]))
        return mean.values

    def record(
        self, epoch: int, trained: list[float], validated: list[float], seconds: float
    ) -> None:
        """Append an epoch to the history."""
        learning_rate = self.optimizer.param_groups[0]["lr"]
        row = (epoch + 1, *trained, *validated, learning_rate, round(seconds, 1))
        for name, value in zip(COLUMNS, row, strict=True):
            self.history[name].append(value)
        self.epoch = epoch + 1

    def summary(self) -> str:
        """The last epoch in one line."""
        last = {name: values[-1] for name, values in self.history.items()}
        return (
            f"epoch {last['epoch']}/{self.epochs}: train {last['train_loss']:.3f}, validation "
            f"{last['validation_loss']:.3f} ({last['validation_bpp']:.3f} bpp, "
            f"{last['validation_psnr']:.2f} dB), learning rate {last['learning_rate']:.2e}, "
            f"{last['seconds']:.0f} s"
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

    def save(self, folder: Path, validation: DataLoader) -> None:
        """Save last.tar, to resume from, a plot, and, if this epoch was the best, best.tar."""
        weights = self.codec.state_dict()
        checkpoint = {
            "arch": self.codec.arch,
            "config": self.codec.config_dict(),
            "history": self.history,
        }
        loss = self.history["validation_loss"][-1]
        if math.isnan(loss):  # nothing to validate on: the training loss is used instead
            loss = self.history["train_loss"][-1]
        if loss < self.best:
            self.best = loss
            self.calibrate(validation)
            half = {
                name: weight.half() if weight.is_floating_point() else weight
                for name, weight in weights.items()
            }
            save_checkpoint(folder / "best.tar", {**checkpoint, "weights": half})
        # After best.tar: a run that is killed between them repeats the epoch, and saves both.
        state = {"epoch": self.epoch, "best": self.best, "run": self.run}
        state["optimizer"] = self.optimizer.state_dict()
        save_checkpoint(folder / "last.tar", {**checkpoint, "weights": weights, **state})
        self.saved_epoch = self.epoch
        plot_history(self.history, folder / "history.png")

    def kept(self, folder: Path) -> str:
        """What is left of a run that ended early, in words."""
        if not self.saved_epoch:
            return "no epoch was finished, nothing was saved"
        return f"the state of epoch {self.saved_epoch} is in {folder / 'last.tar'}"


def plot_history(history: dict[str, list[float]], path: Path) -> None:
    """Plot loss, rate and PSNR over the epochs, of training and validation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(MEASURES), figsize=(12, 3.5), layout="constrained")
    units = {"loss": "loss", "bpp": "rate (bpp)", "psnr": "PSNR (dB)"}
    for axis, name in zip(axes, MEASURES):
        for subset in SUBSETS:
            axis.plot(history["epoch"], history[f"{subset}_{name}"], label=subset)
        axis.set(xlabel="epoch", ylabel=units[name])
    axes[0].set_yscale("log")
    axes[0].legend()
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=100)
    pyplot.close(figure)
