"""Rate-distortion plots: our codecs in strong colours, the others muted, behind them."""

from collections.abc import Iterable
from math import isfinite
from pathlib import Path

import matplotlib

from benchmarks.curves import Series
from benchmarks.measures import Measure
from utils.files import atomic_write

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

MAX_BPP = 1.5
COLOURS = {
    "ours": ["#d1232a", "#1857c4", "#0c8a4d", "#8a2be2"],
    "peer": ["#e0a458", "#7fb3a6", "#b48bb8", "#9aa77c", "#c58f86", "#8ca3cf"],
    "published": ["#8996a3", "#c2a98a", "#9c92c4", "#86b5a2"],
}
DASHES = ["--", ":", "-."]  # published curves take the next after each round of colours


def plot(path: Path, series: Iterable[Series], measure: Measure, title: str) -> None:
    """Draw the levels of each series' points over bits per pixel, as PNG."""
    figure, axis = pyplot.subplots(figsize=(7, 5), layout="constrained")
    drawn = {kind: 0 for kind in COLOURS}
    visible: list[float] = []
    for one in series:
        points = [(point.bpp, point.level(measure)) for point in one.points]
        points = [(bpp, level) for bpp, level in points if level is not None and isfinite(level)]
        if not points:
            continue
        visible += [level for bpp, level in points if bpp <= MAX_BPP]
        colours, index = COLOURS[one.kind], drawn[one.kind]
        drawn[one.kind] += 1
        style = {"color": colours[index % len(colours)]}
        if one.kind == "ours":
            style |= {"linewidth": 2.4, "marker": "o", "markersize": 4.5, "zorder": 4}
        elif one.kind == "peer":
            style |= {"linewidth": 1.5, "marker": "o", "markersize": 2.5, "zorder": 3}
        else:
            style |= {"linewidth": 1.1, "zorder": 2}
            style["linestyle"] = DASHES[index // len(colours) % len(DASHES)]
        axis.plot(*zip(*points), label=one.label, **style)
    axis.set(xlabel="rate (bits per pixel)", ylabel=measure.title, title=title, xlim=(0, MAX_BPP))
    if visible:
        margin = 0.04 * (max(visible) - min(visible)) or 1
        worst = 2 * measure.low - measure.high  # SSIMULACRA 2 falls without end
        axis.set_ylim(max(min(visible) - margin, worst), max(visible) + margin)
    axis.grid(color="#e4e4e4", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    if axis.lines:
        style = {"fontsize": 7, "ncols": 2} if len(axis.lines) > 8 else {"fontsize": 8}
        axis.legend(loc="lower right", framealpha=0.85, edgecolor="none", **style)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=150)
    pyplot.close(figure)
