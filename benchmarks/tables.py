"""The tables of rd.py that compare curves, in Markdown."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import fmean

import PIL

from benchmarks.bdrate import bd_rate, common_range
from benchmarks.curves import Series
from benchmarks.markdown import table
from benchmarks.measures import MEASURES, Measure
from model.limits import DEFAULT_QUALITY
from utils.measures import decibels, likeness

Range = tuple[float, float]
Measures = dict[Measure, Range | None]  # with the range of their BD-rates: None for the common one


def shared_range(series: Iterable[Series], measure: Measure) -> Range:
    """The levels that the average curves of all ``series`` reach, within the measure's default
    range, rounded to tenths. ValueError if there are none."""
    curves = [one.curve(measure) for one in series]
    low, high = common_range(curves, measure.low, measure.high)
    return common_range([], math.ceil(10 * low) / 10, math.floor(10 * high) / 10)


def bd_cell(measure: Measure, limits: Range, one: Series, anchor: Series) -> tuple[float, str]:
    """The BD-rate of the average curves over ``limits``, to sort by and to show."""
    try:
        percent = bd_rate(anchor.curve(measure), one.curve(measure), *limits)
    except ValueError as error:
        return math.inf, f"none: {error}"
    return percent, f"{percent:+.1f} %"


def mean_bd_cell(
    measure: Measure, limits: Range, series: Iterable[Series], one: Series, anchor: Series
) -> tuple[float, str]:
    """The mean of the pictures' own BD-rates, to sort by and to show, each over the part of
    ``limits`` that the curves of all ``series`` reach on that picture. Pictures without such a part
    are left out and counted."""
    percents = []
    for picture in one.pictures:
        try:
            levels = common_range([other.curve(measure, picture) for other in series], *limits)
            pair = anchor.curve(measure, picture), one.curve(measure, picture)
            percents.append(bd_rate(*pair, *levels))
        except ValueError:
            continue
    if not percents:
        return math.inf, ""
    part = f" ({len(percents)} of {len(one.pictures)})" if len(percents) < len(one.pictures) else ""
    return fmean(percents), f"{fmean(percents):+.1f} %{part}"


def bd_table(
    title: str,
    series: Iterable[Series],
    anchors: list[Series],
    cell: Callable[[Series, Series], tuple[float, str]],
) -> str:
    """BD-rates to each anchor, best first. ``cell``: of a codec and an anchor."""
    rows = []
    for one in series:
        cells = [(0.0, "anchor") if one is anchor else cell(one, anchor) for anchor in anchors]
        rows.append((cells[0][0], [one.label, *(text for _, text in cells)]))
    rows.sort(key=lambda row: row[0])
    head = [title, *(f"BD-rate to {anchor.label}" for anchor in anchors)]
    return table(head, [cells for _, cells in rows])


def bd_section(
    series: Iterable[Series], anchors: list[Series], measure: Measure, named: Range | None
) -> list[str]:
    """Heading and tables of BD-rates over the range ``named``, or else that of all codecs."""
    measured = [one for one in series if one.has(measure)]
    compared = [anchor for anchor in anchors if anchor.has(measure)]
    if not compared:
        return []
    try:
        limits = named or shared_range(measured, measure)
    except ValueError:
        return [f"## {measure.label}", "No levels are reached by all codecs: see --range."]
    parts = [
        f"## {measure.heading(*limits)}",
        f"Shipped checkpoints trained for it: {' and '.join(measure.trained) or 'none'}.",
        bd_table("codec", measured, compared, partial(bd_cell, measure, limits)),
    ]
    own = [one for one in measured if len(one.pictures) > 1]
    if own and (to := [anchor for anchor in compared if anchor in own]):
        cell = partial(mean_bd_cell, measure, named or (measure.low, measure.high), own)
        parts.append(bd_table("mean of the pictures' own", own, to, cell))
    return parts


def overview(series: dict[str, Series], anchor: Series, measures: Measures) -> str:
    """The means of the pictures' own BD-rates to ``anchor``: a row for each measure, and a column
    for each codec that was measured, by its name in ``series``. Bold: it was trained for that."""
    own = {name: one for name, one in series.items() if one.pictures and one is not anchor}
    rows = []
    for measure, named in measures.items():
        limits = named or (measure.low, measure.high)
        compared = [one for one in [anchor, *own.values()] if one.has(measure)]
        cells = []
        for name, one in own.items():
            _, text = mean_bd_cell(measure, limits, compared, one, anchor)
            cells.append(f"**{text}**" if text and name in measure.trained else text)
        rows.append([measure.heading(*limits), *cells])
    return table([f"BD-rate to {anchor.label}", *(one.label for one in own.values())], rows)


def rate_table(series: Iterable[Series], measures: list[Measure], bpp: float) -> str:
    """The levels of the average curves at ``bpp``, sorted by the first measure; best first."""
    rows = []
    for one in series:
        levels = [
            one.curve(measure).level_at(bpp) if one.has(measure) else None for measure in measures
        ]
        if any(level is not None for level in levels):
            cells = ["" if level is None else f"{level:.2f}" for level in levels]
            rows.append((-math.inf if levels[0] is None else levels[0], [one.label, *cells]))
    rows.sort(key=lambda row: row[0], reverse=True)
    head = [f"at {bpp:g} bpp", *(measure.title for measure in measures)]
    return table(head, [cells for _, cells in rows])


def quality_table(ours: list[Series], measures: list[Measure]) -> str:
    """bpp and all scores of each of ``ours``, with a row for each quality."""

    def cell(one: Series, setting: int) -> str:
        point = next((point for point in one.points if point.setting == setting), None)
        if point is None:
            return ""
        numbers = [f"{point.bpp:.3f}"]
        for measure in measures:
            score = point.scores.get(measure.name)
            digits = 2 if measure.level is float else 4  # those of the others are at most 1
            numbers.append("none" if score is None else f"{score:.{digits}f}")
        return ", ".join(numbers)

    settings = sorted({point.setting for one in ours for point in one.points})
    names = ", ".join(["bpp", *(measure.label for measure in measures)])
    head = ["quality", *(f"{one.label}: {names}" for one in ours)]
    rows = [[str(setting), *(cell(one, setting) for one in ours)] for setting in settings]
    return table(head, rows, left=0)


def default_line(ours: Series, jpeg: Series) -> str:
    """Rate and PSNR at the default quality, and JPEG's rate at that PSNR; "" without these."""
    measure = MEASURES["psnr"]
    point = next((point for point in ours.points if point.setting == DEFAULT_QUALITY), None)
    if point is None or measure.name not in point.scores:
        return ""
    psnr = point.scores[measure.name]
    quality = f"{ours.label} at its default quality {DEFAULT_QUALITY}"
    text = f"{quality}: {point.bpp:.3f} bpp, {psnr:.2f} dB"
    try:
        rate = jpeg.curve(measure).rate_at(psnr)
    except ValueError:
        rate = None
    if rate is None:
        return f"{text}, a PSNR outside of JPEG's curve"
    return f"{text}; {point.bpp / rate:.1%} of the bytes of JPEG at that PSNR ({rate:.3f} bpp)"


def report(
    title: str, series: dict[str, Series], anchors: list[str], measures: Measures, at_bpp: list
) -> str:
    """The tables of the ``series`` of a folder. ``anchors``: names of series."""
    parts = [f"# Rate and distortion, {title}"]
    compared = [series[name] for name in anchors]
    if len(measures) > 1:
        parts.append("## By all measures: means of the pictures' own")
        parts += [overview(series, anchor, measures) for anchor in compared if anchor.pictures]
    for measure, named in measures.items():
        parts += bd_section(series.values(), compared, measure, named)
    if at_bpp:
        parts.append("## At equal rates")
        parts += [rate_table(series.values(), list(measures), bpp) for bpp in at_bpp]
    if ours := [one for one in series.values() if one.kind == "ours" and one.points]:
        parts.append("## At each quality")
        if "jpeg" in series and MEASURES["psnr"] in measures:
            lines = [default_line(one, series["jpeg"]) for one in ours]
            parts.append("\n".join(f"- {line}" for line in lines if line))
        parts.append(quality_table(ours, list(measures)))
    return "\n\n".join(parts)


def folder_report(
    folders: dict[str, dict[str, Series]], anchors: list[str], measures: Measures
) -> str:
    """The means of the pictures' BD-rates of our codecs, with a row for each folder's title."""
    codecs = next(iter(folders.values()))
    ours = [name for name, one in codecs.items() if one.kind == "ours"]
    pairs = [(name, anchor) for name in ours for anchor in anchors if name != anchor]
    columns = [f"{codecs[name].label} to {codecs[anchor].label}" for name, anchor in pairs]
    parts = ["# Means of the pictures' BD-rates"]
    for measure, named in measures.items():
        limits = named or (measure.low, measure.high)
        rows = []
        for title, series in folders.items():
            own = [one for one in series.values() if one.pictures and one.has(measure)]
            compared = ((series[name], series[anchor]) for name, anchor in pairs)
            rows.append(
                [title, *(mean_bd_cell(measure, limits, own, *pair)[1] for pair in compared)]
            )
        parts.append(table([measure.heading(*limits), *columns], rows))
    return "\n\n".join(parts)


def labels(level: Callable[[float], float]) -> str:
    """The labels of the measures whose scores become levels by this function."""
    *others, last = (m.label for m in MEASURES.values() if m.level is level)
    return f"{', '.join(others)} and {last}"


def preamble(stored: Path | None, published: Path | None) -> str:
    """The paragraph before all tables, which says what their numbers are."""
    source = f"From {stored.name}." if stored else f"Pillow {PIL.__version__}."
    text = (
        "BD-rates are average changes in bytes at equal quality, of average curves over all "
        "pictures: all rows of a table over the levels in its heading. The means of the pictures' "
        "own are each over the levels that all codecs reach on that picture. "
        f"In dB, {labels(likeness)} are -10 log10(1 - score); {labels(decibels)} are "
        f"-10 log10(score). {source}"
    )
    if published:
        text += (
            f" Published curves are those of {published.name}. They are comparable only if they "
            "were measured on the same pictures."
        )
    return text
