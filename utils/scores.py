"""Scores of a folder of pictures, and the CSV that holds them."""

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

from utils.files import atomic_write, csv_bytes
from utils.matching import OpenFiles, PictureFiles, status
from utils.measures import MEASURES, Measure
from utils.processes import gather
from xfr.checkpoints import shipped_name
from xfr.file import checksum_of, read_stream, unpack
from xfr.formats import normalize_extension
from xfr.images import Picture, read_opened

# Extensions of files whose size is a rate.
RATED_EXTENSIONS = {"avif", "heic", "heif", "j2k", "jp2", "jpg", "jxl", "webp"}
SIZE_COLUMNS = ("width", "height", "original_bytes")  # columns of the CSV, in this order
RATE_COLUMNS = ("compressed_bytes", "compression_ratio", "bpp")
# Places where a spreadsheet would take a text for a formula: at its start, or behind a separator
# other than the comma.
FORMULA = re.compile(r"(?:^|(?<=[;\t\r\n]))(?=[=+\-@\t\r\n＝＋－＠])")


@dataclass
class Score:
    """A row of the CSV: sizes, rates, and ``measures`` by their names. None is an empty cell."""

    file: str
    width: float | None
    height: float | None
    original_bytes: float
    compressed_bytes: float | None
    compression_ratio: float | None
    bpp: float | None
    measures: dict[str, float | None]

    @classmethod
    def of(cls, name: str, sizes: tuple, bytes_out: float | None, measures: dict) -> "Score":
        """The score of a picture of ``sizes``: width, height and bytes of the original; bytes_out:
        None where the size of its reconstruction is no rate."""
        width, height, bytes_in = sizes
        if bytes_out is None:
            return cls(name, *sizes, None, None, None, measures)
        bpp = 8 * bytes_out / (width * height)
        return cls(name, *sizes, bytes_out, bytes_in / bytes_out, bpp, measures)

    def value(self, column: str) -> float | None:
        """The value in a column: one of SIZE_COLUMNS and RATE_COLUMNS, or the name of a measure."""
        return self.measures[column] if column in self.measures else getattr(self, column)


class Origin(NamedTuple):
    """The making of an .xfr file, by its header. ``fingerprint``: of the checkpoint. ``graphic``:
    see xfr/graphics.py. ``target``: its name and value, or ""."""

    fingerprint: int
    quality: int
    graphic: bool
    target: str


@dataclass
class Result:
    """A picture: score, files, making. ``doubt``: the reason why the .xfr file may not be of this
    original, or "". ``second``: a reconstruction in another run, if there is one, with a score of
    its own. Paths are text, for ``gather``."""

    score: Score
    original: str
    reconstructed: str
    origin: Origin | None
    second: str | None = None
    second_score: Score | None = None
    doubt: str = ""


def score_picture(
    name: str, files: PictureFiles, max_pixels: int, measures: Iterable[Measure]
) -> Result:
    """Score a picture; OSError or ValueError if one of its files is unusable."""
    with files.opened() as opened:
        original = read_opened(opened.original, max_pixels)
        height, width = original.shape
        sizes = width, height, status(opened.original).st_size
        scored = score_pair(original, opened.reconstructed, max_pixels, measures)
        origin, doubt = read_origin(opened, max_pixels)
        result = Result(
            Score.of(name, sizes, status(opened.compressed).st_size, scored),
            str(files.original),
            str(files.reconstructed),
            origin,
            doubt=doubt,
        )
        if opened.second is not None:
            compressed = normalize_extension(files.second.suffix) in RATED_EXTENSIONS
            bytes_out = status(opened.second).st_size if compressed else None
            scored = score_pair(original, opened.second, max_pixels, measures)
            result.second = str(files.second)
            result.second_score = Score.of(name, sizes, bytes_out, scored)
        return result


def score_pair(
    original: Picture, reconstructed: BinaryIO, max_pixels: int, measures: Iterable[Measure]
) -> dict[str, float | None]:
    """The scores of a reconstruction by measure; ValueError if it has another size."""
    decoded = read_opened(reconstructed, max_pixels)
    if decoded.shape != original.shape:
        (height, width), (h, w) = original.shape, decoded.shape
        raise ValueError(
            f"{width}x{height}, but its reconstruction {reconstructed.name} is {w}x{h}"
        )
    x, x_hat = original.rgb, decoded.rgb
    return {measure.name: measure.score(x, x_hat) for measure in measures}


def read_origin(opened: OpenFiles, max_pixels: int) -> tuple[Origin | None, str]:
    """The origin of the .xfr file, None if that is not intact; and the reason for a doubt that it
    is of this original, or ""."""
    try:
        xfr = unpack(read_stream(opened.compressed, max_pixels), max_pixels)
    except ValueError as error:
        return None, str(error)
    target = "{} {:.7g}".format(*xfr.target) if xfr.target else ""  # of float32 precision
    same = xfr.source in (None, checksum_of(opened.original))
    doubt = "" if same else "made from another file, or before this one changed"
    return Origin(xfr.fingerprint, xfr.quality, xfr.graphic, target), doubt


def gather_results(results: list[Result]) -> list[Result]:
    """The results of all processes, sorted by the path of the original, in rank 0; [] in others."""
    rows = [row for rows in gather("scores", list(map(asdict, results))) for row in rows]
    for row in rows:
        row["score"] = Score(**row["score"])
        row["origin"] = row["origin"] and Origin(*row["origin"])
        row["second_score"] = row["second_score"] and Score(**row["second_score"])
    return sorted((Result(**row) for row in rows), key=lambda result: result.original)


def total(scores: list[Score]) -> Score:
    """The sums of bytes, and the ratio and the rate of all pictures together."""
    pixels = sum(score.width * score.height for score in scores)
    before = sum(score.original_bytes for score in scores)
    sizes = [score.compressed_bytes for score in scores]
    after = None if None in sizes else sum(sizes)
    whole = Score.of("total", (pixels, 1, before), after, dict.fromkeys(scores[0].measures))
    return replace(whole, width=None, height=None)


def average(scores: list[Score]) -> Score:
    """The mean of each column over the pictures that have a finite value in it."""
    sizes = [mean(score.value(name) for score in scores) for name in SIZE_COLUMNS + RATE_COLUMNS]
    names = scores[0].measures
    measures = {name: mean(score.measures[name] for score in scores) for name in names}
    return Score("average", *sizes, measures)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are finite; None if there are none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def write_scores(path: Path, results: list[Result]) -> None:
    """Write the CSV: a row per picture, the averages, and a second run's scores beside them."""
    scores = [result.score for result in results]
    seconds = [result.second_score for result in results]
    names = [*RATE_COLUMNS, *scores[0].measures]
    columns = [*SIZE_COLUMNS, *names]
    rows = [["file", *columns]]
    for score in [*scores, average(scores)]:
        rows.append([inert(score.file), *(cell(score.value(column)) for column in columns)])
    if found := [score for score in seconds if score]:
        rows[0] += [f"second_{name}" for name in names]
        for row, score in zip(rows[1:], [*seconds, average(found)]):
            row += [cell(score.value(name)) if score else "" for name in names]
    with atomic_write(path) as stream:
        stream.write(csv_bytes(rows))


def inert(name: str) -> str:
    """A file name as text that no spreadsheet takes for a formula: an apostrophe stands wherever
    one could begin, as OWASP's page on CSV injection advises. That is at the start, after what
    separates the columns in some countries, and after a line break.

    >>> inert("=cmd|' /C calc'!A0.png"), inert("a;+1.png"), inert("a-1.png")
    ("'=cmd|' /C calc'!A0.png", "a;'+1.png", 'a-1.png')
    """
    return FORMULA.sub("'", name)


def average_line(results: list[Result]) -> str:
    """The averages of the measures, and which of them are flattered, in one line."""
    shown = [
        f"{MEASURES[name].label} {value:.4g} {MEASURES[name].unit}".rstrip()
        for name, value in average([result.score for result in results]).measures.items()
        if value is not None
    ]
    flattered = "".join(f" ({trained})" for trained in trained_for(results))
    return f"on average {', '.join(shown)}{flattered}"


def trained_for(results: list[Result]) -> list[str]:
    """The shipped checkpoints that were trained for measures, which flatters them, in words."""
    origins = [result.origin for result in results if result.origin]
    names = {shipped_name(origin.fingerprint) for origin in origins if not origin.graphic}
    measures: dict[str, list[str]] = {}
    for measure in results[0].score.measures:
        for name in MEASURES[measure].trained:
            if name in names:
                measures.setdefault(name, []).append(MEASURES[measure].label)
    return [f"{name} was trained for {' and '.join(found)}" for name, found in measures.items()]


def cell(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "inf"
    return str(value)
