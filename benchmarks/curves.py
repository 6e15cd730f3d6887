"""Curves of averages over pictures, and the tables that compare them."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.bdrate import Curve, bd_rate, rising
from benchmarks.markdown import table
from benchmarks.results import Results


@dataclass
class Point:
    """Averages over pictures at one setting: bits per pixel, dB, and MS-SSIM if it was measured."""

    setting: int | None
    bpp: float
    psnr: float
    ms_ssim: float | None = None


@dataclass
class Series:
    """A codec's points, by rising rate. ``kind``: ours, peer or published; ``default``: the default
    setting of our codecs."""

    label: str
    kind: str
    points: list[Point]
    default: int | None = None

    def curve(self) -> Curve:
        """PSNR over rate; ValueError if there are too few points."""
        return rising((point.bpp, point.psnr) for point in self.points)


def by_rate(point: Point) -> float:
    """The key that sorts points by rate."""
    return point.bpp


def average(results: Results, codec: str, settings: list[int], pictures: list[str]) -> list[Point]:
    """The averages over ``pictures`` at each setting, for all of which ``results`` has a row.
    ``codec``: its key in the results."""
    points = []
    for setting in settings:
        rows = [results.rows[codec, setting, picture] for picture in pictures]
        similar = [row.ms_ssim for row in rows if row.ms_ssim is not None]
        points.append(Point(
            setting, fmean(row.bpp for row in rows), fmean(row.psnr for row in rows),
            fmean(similar) if similar else None,
        ))  # fmt: skip
    return sorted(points, key=by_rate)


def read_published(path: Path) -> dict[str, Series]:
    """The curves of a CSV with the columns codec, bpp, psnr, source, by the codec's name.
    ValueError if it is not such a CSV."""
    found: dict[str, list[Point]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                point = Point(None, float(row["bpp"]), float(row["psnr"]))
                found.setdefault(row["codec"], []).append(point)
    except (KeyError, TypeError, ValueError, csv.Error):
        raise ValueError(f"{path} is not a CSV with the columns codec, bpp, psnr, source") from None
    return {
        codec: Series(f"{codec} (published)", "published", sorted(points, key=by_rate))
        for codec, points in found.items()
    }


def bd_rate_table(series: list[Series], anchors: list[Series], low: float, high: float) -> str:
    """BD-rates, with a row for each codec and a column for each anchor; best first."""

    def cell(one: Series, anchor: Series) -> tuple[float, str]:
        if one is anchor:
            return 0, "anchor"
        try:
            percent, start, end = bd_rate(anchor.curve(), one.curve(), low, high)
        except ValueError as error:
            return math.inf, f"none: {error}"
        part = "" if (start, end) == (low, high) else f" ({start:.1f} to {end:.1f} dB)"
        return percent, f"{percent:+.1f} %{part}"

    rows = [(one.label, *(cell(one, anchor) for anchor in anchors)) for one in series]
    rows.sort(key=lambda row: row[1][0])
    head = ["codec", *(f"BD-rate to {anchor.label}" for anchor in anchors)]
    return table(head, [[label, *(text for _, text in cells)] for label, *cells in rows])


def quality_table(ours: list[Series]) -> str:
    """bpp, PSNR and MS-SSIM of each of ``ours``, with a row for each quality."""
    settings = sorted({point.setting for one in ours for point in one.points})
    rows = []
    for setting in settings:
        cells = []
        for one in ours:
            point = next((point for point in one.points if point.setting == setting), None)
            similar = f", {point.ms_ssim:.3f}" if point and point.ms_ssim is not None else ""
            cells.append(f"{point.bpp:.3f}, {point.psnr:.2f} dB{similar}" if point else "")
        rows.append([str(setting), *cells])
    head = ["quality", *(f"{one.label}: bpp, PSNR, MS-SSIM" for one in ours)]
    return table(head, rows, left=0)


def default_line(ours: Series, jpeg: Series) -> str:
    """Rate and PSNR of ``ours`` at its default quality, and the rate of JPEG at the same PSNR."""
    point = next(point for point in ours.points if point.setting == ours.default)
    text = f"{ours.label} at its default quality {ours.default}: "
    text += f"{point.bpp:.3f} bpp, {point.psnr:.2f} dB"
    try:
        rate = jpeg.curve().rate_at(point.psnr)
    except ValueError:
        rate = None
    if rate is None:
        return f"{text}, a PSNR outside of JPEG's curve"
    return f"{text}; {point.bpp / rate:.1%} of the bytes of JPEG at that PSNR ({rate:.3f} bpp)"
