"""What a training run has measured so far: means over samples, the history of epochs, its plot."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from utils.files import atomic_write

MEASURES = ("loss", "bpp", "psnr")
SUBSETS = ("train", "validation")
COLUMNS = (  # of the history
    "epoch",
    *(f"{subset}_{name}" for subset in SUBSETS for name in MEASURES),
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


class Mean:
    """The mean of [loss, bpp, PSNR] over samples; NaN without any."""

    def __init__(self, totals: Sequence[float] = (0.0,) * len(MEASURES), count: int = 0):
        self.totals, self.count = list(totals), count

    def add(self, samples: Iterable[Tensor]) -> None:
        """Add samples: each of the three measures, [B]."""
        measures = torch.stack([measure.detach() for measure in samples])
        self.totals = [t + v for t, v in zip(self.totals, measures.sum(1).tolist(), strict=True)]
        self.count += measures.shape[1]

    def __add__(self, other: "Mean") -> "Mean":
        totals = [a + b for a, b in zip(self.totals, other.totals, strict=True)]
        return Mean(totals, self.count + other.count)

    @property
    def values(self) -> list[float]:
        return [total / self.count if self.count else math.nan for total in self.totals]


class Progress:
    """How far an epoch has come: its steps so far, their mean measures and their seconds."""

    def __init__(
        self,
        steps: int = 0,
        totals: Sequence[float] = (0.0,) * len(MEASURES),
        count: int = 0,
        seconds: float = 0.0,
    ):
        self.steps, self.mean, self.seconds = int(steps), Mean(totals, count), float(seconds)

    def state(self) -> list:
        """What to make it from again."""
        return [self.steps, self.mean.totals, self.mean.count, self.seconds]


def plot_history(history: dict[str, list[float]], path: Path) -> None:
    """Plot loss, rate and PSNR over the epochs, of training and validation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(MEASURES), figsize=(12, 3.5), layout="constrained")
    units = {"loss": "loss", "bpp": "rate (bpp)", "psnr": "PSNR (dB)"}
    for axis, name in zip(axes, MEASURES):
        for subset in SUBSETS:
            axis.plot(history["epoch"], history[f"{subset}_{name}"], label=subset, marker=".")
        axis.set(xlabel="epoch", ylabel=units[name])
    axes[0].set_yscale("log")
    axes[0].legend()
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=100)
    pyplot.close(figure)
