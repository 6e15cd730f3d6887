"""What rd.py reports: the tables that compare curves, in Markdown."""

import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import PIL

from benchmarks.bdrate import bd_rate
from benchmarks.curves import Series
from benchmarks.markdown import table
from benchmarks.measures import MEASURES, Measure

Range = tuple[float, float]


def bd_cell(one: Series, anchor: Series, measure: Measure, limits: Range) -> tuple[float, str]:
    """The BD-rate of the average curves, to sort by and to show."""
    if one is anchor:
        return 0, "anchor"
    try:
        percent, start, end = bd_rate(anchor.curve(measure), one.curve(measure), *limits)
    except ValueError as error:
        return math.inf, f"none: {error}"
    reached = f"{start:.1f} to {end:.1f} {measure.level_unit}".rstrip()
    part = "" if (start, end) == limits else f" ({reached})"
    return percent, f"{percent:+.1f} %{part}"


def mean_bd_cell(one: Series, anchor: Series, measure: Measure, limits: Range) -> str:
    """The mean of the pictures' BD-rates, of those whose curves have a range in common."""
    if one is anchor:
        return ""
    percents = []
    for picture in one.pictures.keys() & anchor.pictures.keys():
        try:
            curves = (series.curve(measure, picture) for series in (anchor, one))
            percents.append(bd_rate(*curves, *limits)[0])
        except ValueError:
            continue
    if not percents:
        return ""
    part = f" ({len(percents)} of {len(one.pictures)})" if len(percents) < len(one.pictures) else ""
    return f"{fmean(percents):+.1f} %{part}"


def bd_table(
    series: Iterable[Series], anchors: list[Series], measure: Measure, limits: Range
) -> str:
    """BD-rates to each anchor, those of the average curves and the means of the pictures' own, with
    a row for each codec that has the measure; best first."""
    rows = []
    for one in series:
        if one.has(measure):
            cells = [bd_cell(one, anchor, measure, limits) for anchor in anchors]
            means = [mean_bd_cell(one, anchor, measure, limits) for anchor in anchors]
            pairs = [text for (_, cell), mean in zip(cells, means) for text in (cell, mean)]
            rows.append((cells[0][0], [one.label, *pairs]))
    rows.sort(key=lambda row: row[0])
    head = ["codec"]
    for anchor in anchors:
        head += [f"BD-rate to {anchor.label}", "mean of the pictures'"]
    return table(head, [cells for _, cells in rows])


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
    """Rate and PSNR of ``ours`` at its default quality, and the rate of JPEG at the same PSNR."""
    measure = MEASURES["psnr"]
    point = next(point for point in ours.points if point.setting == ours.default)
    psnr = point.scores[measure.name]
    text = f"{ours.label} at its default quality {ours.default}: {point.bpp:.3f} bpp, {psnr:.2f} dB"
    try:
        rate = jpeg.curve(measure).rate_at(psnr)
    except ValueError:
        rate = None
    if rate is None:
        return f"{text}, a PSNR outside of JPEG's curve"
    return f"{text}; {point.bpp / rate:.1%} of the bytes of JPEG at that PSNR ({rate:.3f} bpp)"


def report(
    title: str,
    series: dict[str, Series],
    anchors: list[str],
    measures: dict[Measure, Range],
    at_bpp: list[float],
) -> str:
    """All tables of the ``series`` of one folder. ``anchors``: names in it; ``measures``: with the
    range that BD-rates are over."""
    parts = [f"# Rate and distortion, {title}"]
    for measure, limits in measures.items():
        if compared := [series[name] for name in anchors if series[name].has(measure)]:
            parts.append(f"## {measure.heading(*limits)}")
            parts.append(bd_table(series.values(), compared, measure, limits))
    if at_bpp:
        parts.append("## At equal rates")
        parts += [rate_table(series.values(), list(measures), bpp) for bpp in at_bpp]
    if ours := [one for one in series.values() if one.kind == "ours"]:
        parts.append("## At each quality")
        if "jpeg" in series and MEASURES["psnr"] in measures:
            parts.append("\n".join(f"- {default_line(one, series['jpeg'])}" for one in ours))
        parts.append(quality_table(ours, list(measures)))
    return "\n\n".join(parts)


def folder_report(
    folders: dict[str, dict[str, Series]], anchors: list[str], measures: dict[Measure, Range]
) -> str:
    """The means of the pictures' BD-rates of our codecs, with a row for each folder's title."""
    codecs = next(iter(folders.values()))
    ours = [name for name, one in codecs.items() if one.kind == "ours"]
    pairs = [(name, anchor) for name in ours for anchor in anchors if name != anchor]
    columns = [f"{codecs[name].label} to {codecs[anchor].label}" for name, anchor in pairs]
    parts = ["# Means of the pictures' BD-rates"]
    for measure, limits in measures.items():
        rows = []
        for title, series in folders.items():
            compared = ((series[name], series[anchor]) for name, anchor in pairs)
            rows.append([title, *(mean_bd_cell(*pair, measure, limits) for pair in compared)])
        parts.append(table([measure.heading(*limits), *columns], rows))
    return "\n\n".join(parts)


def preamble(published: Path | None) -> str:
    """What the numbers of all tables are."""
    text = (
        "BD-rates are average changes in bytes at equal quality, over the range in the heading or "
        "as far as both curves reach: those of average curves over all pictures, and beside them "
        "the mean of the pictures' own, without pictures whose curves have no range in common. "
        "MS-SSIM, FSIM, VSI and HaarPSI in dB are -10 log10(1 - score), MDSI is -10 log10(score). "
        f"Pillow {PIL.__version__}."
    )
    if published:
        text += (
            f" Published curves are those of {published.name}. They are comparable only if they "
            "were measured on the same pictures."
        )
    return text
