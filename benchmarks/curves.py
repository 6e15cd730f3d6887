"""Curves of a codec: of averages over pictures, and of each picture."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from statistics import fmean

from benchmarks.bdrate import Curve, rising
from benchmarks.measures import MEASURES, Measure
from benchmarks.peers import Compared
from benchmarks.results import Results


@dataclass
class Point:
    """Averages over pictures at one setting: bits per pixel, and scores by the names of their
    measures. A measure that all of the pictures are too small for is missing."""

    setting: int | None
    bpp: float
    scores: dict[str, float]

    def level(self, measure: Measure) -> float | None:
        """The level of the score, None if that is missing."""
        score = self.scores.get(measure.name)
        return None if score is None else measure.level(score)


@dataclass
class Series:
    """A codec's points, by rising rate: of the averages, and of each picture by its name. ``kind``:
    ours, peer or published."""

    label: str
    kind: str
    points: list[Point]
    pictures: dict[str, list[Point]] = field(default_factory=dict)

    def has(self, measure: Measure) -> bool:
        """Whether there is a curve of the averages of the measure."""
        try:
            return bool(self.curve(measure))
        except ValueError:
            return False

    def curve(self, measure: Measure, picture: str | None = None) -> Curve:
        """Levels over rate, of a picture or the averages. ValueError for fewer than two points."""
        points = self.points if picture is None else self.pictures[picture]
        levels = ((point.bpp, point.level(measure)) for point in points)
        return rising((bpp, level) for bpp, level in levels if level is not None)


def average(
    results: Results, codec: Compared, pictures: list[str], measures: Iterable[Measure]
) -> list[Point]:
    """The averages over ``pictures`` at each of the codec's settings that was measured on all of
    them. Pictures that are too small for a measure are left out of its average."""
    points = []
    for setting in codec.settings:
        scores, rates = {}, []
        for measure in measures:
            keys = [(codec.key, setting, name, measure.name) for name in pictures]
            if all(key in results.rows for key in keys):
                rows = [results.rows[key] for key in keys]
                rates = [row.bpp for row in rows]
                if found := [row.score for row in rows if row.score is not None]:
                    scores[measure.name] = fmean(found)
        if rates:
            points.append(Point(setting, fmean(rates), scores))
    return sorted(points, key=attrgetter("bpp"))


def make_series(
    results: Results, codec: Compared, pictures: list[str], measures: Iterable[Measure]
) -> Series:
    return Series(
        codec.label,
        codec.kind,
        average(results, codec, pictures, measures),
        {picture: average(results, codec, [picture], measures) for picture in pictures},
    )


def read_published(path: Path) -> dict[str, Series]:
    """The curves of a CSV with the columns codec, bpp, source and one or more named like measures,
    by the codec's name. ValueError if it is not such a CSV."""
    found: dict[str, list[Point]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                scores = {name: float(row[name]) for name in MEASURES if row.get(name)}
                if not scores:
                    raise ValueError
                point = Point(None, float(row["bpp"]), scores)
                found.setdefault(row["codec"], []).append(point)
    except (KeyError, TypeError, ValueError, csv.Error):
        raise ValueError(f"{path} is not a CSV with the columns codec, bpp, psnr, source") from None
    return {
        codec: Series(f"{codec} (published)", "published", sorted(points, key=attrgetter("bpp")))
        for codec, points in found.items()
    }
