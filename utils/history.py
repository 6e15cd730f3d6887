"""Measures of a training run: means over samples, the history of epochs, its table and its plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.files import atomic_write, csv_bytes

EPOCH_MEASURES = ("loss", "bpp", "psnr")
SUBSETS = ("train", "validation")
COLUMNS = (  # of the history
    "epoch",
    *(f"{subset}_{name}" for subset in SUBSETS for name in EPOCH_MEASURES),
    "learning_rate",
    "seconds",
)


def is_history(history: dict, epochs: int) -> bool:
    """Whether ``history`` is that of a run of so many epochs."""
    columns = history.values()
    return (
        set(history) == set(COLUMNS)
        and all(type(column) is list and len(column) == epochs for column in columns)
        and all(type(value) in (int, float) for column in columns for value in column)
    )


def add_curve(curves: dict[str, list[float]], row: dict[str, float], epoch: int) -> None:
    """Append the curve of an epoch, counted from 1; NaN where a column has no value."""
    for name in [*curves, *row]:
        column = curves.setdefault(name, [])
        column += [math.nan] * (epoch - 1 - len(column))
        if len(column) < epoch:
            column.append(row.get(name, math.nan))


class Mean:
    """The mean of [loss, bpp, PSNR] over samples; NaN without any. Reading waits for the device."""

    def __init__(self, totals: Sequence[float] = (0.0,) * len(EPOCH_MEASURES), count: int = 0):
        self.read, self.count = list(totals), count
        self.unread: list[Tensor] = []

    def add(self, measures: Tensor) -> None:
        """Add the measures [3, B] of samples."""
        self.unread.append(measures.sum(1))
        self.count += measures.shape[1]

    @property
    def totals(self) -> list[float]:
        """The sums over all samples."""
        if self.unread:
            for sums in torch.stack(self.unread).tolist():
                self.read = [total + value for total, value in zip(self.read, sums)]
            self.unread.clear()
        return self.read

    def __add__(self, other: "Mean") -> "Mean":
        totals = [a + b for a, b in zip(self.totals, other.totals, strict=True)]
        return Mean(totals, self.count + other.count)

    @property
    def values(self) -> list[float]:
        return [total / self.count if self.count else math.nan for total in self.totals]


@dataclass
class EpochState:
    """Progress of an epoch: its steps so far, their mean measures and their seconds."""

    steps: int = 0
    mean: Mean = field(default_factory=Mean)
    seconds: float = 0.0


def write_csv(history: dict[str, list[float]], curves: dict[str, list[float]], path: Path) -> None:
    """Write a row for each epoch: the history, then the curves as far as they were measured."""
    columns = {**history, **curves}
    with atomic_write(path) as stream:
        stream.write(csv_bytes([columns, *zip(*columns.values(), strict=True)]))


def plot_history(
    history: dict[str, list[float]],
    curves: dict[str, list[float]],
    jpeg: dict[str, float],
    path: Path,
) -> None:
    """Plot loss, rate and PSNR over the epochs, of training and validation; and the curve of the
    validation pictures, after the first and the last epoch, beside that of JPEG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measures = list(dict.fromkeys(name.rpartition("_")[0] for name in jpeg))[1:]
    count = len(EPOCH_MEASURES) + len(measures)
    figure, axes = pyplot.subplots(1, count, figsize=(4 * count, 3.5), layout="constrained")
    units = {
        "loss": "loss", "bpp": "rate (bpp)", "psnr": "PSNR (dB)", "ssimulacra2": "SSIMULACRA 2"
    }  # fmt: skip
    for axis, name in zip(axes, EPOCH_MEASURES):
        for subset in SUBSETS:
            axis.plot(history["epoch"], history[f"{subset}_{name}"], label=subset, marker=".")
        axis.set(xlabel="epoch", ylabel=units[name])
    axes[0].set_yscale("log")
    axes[0].legend()
    rows = {"JPEG": jpeg}
    for row in (0, -1):
        label = f"epoch {history['epoch'][row]}"
        rows[label] = {name: column[row] for name, column in curves.items()}
    for axis, measure in zip(axes[len(EPOCH_MEASURES) :], measures):
        for label, row in rows.items():
            rates, values = (
                [value for name, value in row.items() if name.startswith(f"{kind}_")]
                for kind in ("bpp", measure)
            )
            axis.plot(rates, values, label=label, marker=".")
        axis.set(xlabel=units["bpp"], ylabel=units[measure], xscale="log")
        axis.legend()
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=100)
    pyplot.close(figure)


def open_tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard's files in ``folder``. ValueError if the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs a package: pip install tensorboard") from None
    return SummaryWriter(str(folder / "tensorboard"))
