"""The text of the page: its table, the scores of each picture, and where its views are shown.

The template, page.html, is cut into pieces with $names to fill in.
"""

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from utils.console import printable
from utils.files import atomic_write
from utils.measures import MEASURES, Measure
from utils.report.views import AMPLIFY, Views
from utils.scores import Origin, Result, Score, average, total, trained_for
from xfr.checkpoints import describe
from xfr.images import read_picture

TEMPLATE = Path(__file__).with_suffix(".html")
MAX_SHOWN = 12  # pictures; the others are only in the table


class Column(NamedTuple):
    """A column of the table: its header, its name beside a picture, and its format."""

    header: str
    name: str
    form: str


def score_columns(measures: Iterable[Measure]) -> dict[str, Column]:
    """The columns of the table, but for the last (pixels), by their names in the CSV."""
    columns = {
        "compressed_bytes": Column("Bytes", "bytes", ",.0f"),
        "bpp": Column("bpp", "bpp", ".3f"),
    }
    for one in measures:
        header = f"{one.label}, {one.unit}" if one.unit else one.label
        columns[one.name] = Column(header, f"{one.unit} {one.label}".strip(), one.form)
    return columns | {"compression_ratio": Column("Ratio", "ratio", ".1f")}


def write_report(path: Path, results: list[Result], max_pixels: int, second: Path | None) -> None:
    """Write the page. ``second``: the folder of the second run's pictures, if there is one. It is
    written piece by piece, so that the pictures of only one row are in memory at a time."""
    with atomic_write(path) as stream:
        for piece in Report(results, max_pixels, second).page(path.stem):
            stream.write(piece.encode())


class Report:
    """The page of some results, as text."""

    def __init__(self, results: list[Result], max_pixels: int, second: Path | None):
        self.results, self.max_pixels = results, max_pixels
        self.second = "" if second is None else shown_name(second.resolve().name)
        measures = [MEASURES[name] for name in results[0].score.measures]
        self.columns = score_columns(measures)
        # The worst pictures are those by the measure that was asked for, or else by PSNR.
        self.measure = next((one for one in measures if one.help), MEASURES["psnr"])
        self.text = TEMPLATE.read_text("utf-8")
        head, *others = re.split(r" *<!-- piece: (\w+) -->\n", self.text)
        pieces = {"head": head} | dict(zip(others[::2], others[1::2]))
        self.pieces = {name: Template(piece) for name, piece in pieces.items()}

    def piece(self, name: str, /, **values: object) -> str:
        """A piece of the template. Every value is a number, base64, escaped, or such a piece."""
        return self.pieces[name].substitute(values)

    def page(self, title: str) -> Iterator[str]:
        """The page, piece by piece."""
        scores = [result.score for result in self.results]
        seconds = [result.second_score for result in self.results if result.second_score]
        headers = [*(column.header for column in self.columns.values()), "Pixels"]
        worst = sorted(self.results, key=self.badness)[:MAX_SHOWN]
        yield self.piece(
            "head",
            **{name: content_source(self.text, name) for name in ("script", "style")},
            title=shown_name(title),
            count=counted(len(scores), "picture"),
            date=date.today().isoformat(),
            origin=described(self.results),
            rates=rates(scores),
            second=f"In grey, {self.second}: {rates(seconds)}" if seconds else "",
            headers="".join(self.piece("header", name=name) for name in headers),
        )
        for result in self.results:
            link = f'href="#picture-{worst.index(result)}"' if result in worst else ""
            yield self.row(result.score.file, result.score, result.second_score, link)
        footer = self.row("Total", total(scores), total(seconds) if seconds else None)
        footer += self.row("Average", means(scores), means(seconds) if seconds else None)
        shown = f"with the lowest {self.measure.label} first"
        if len(worst) < len(scores):
            shown = f"Below are {len(worst)} of the {len(scores):,} pictures, {shown}."
        else:
            shown = f"Below are the pictures, {shown}."
        yield self.piece("middle", footer=footer, shown=shown, amplify=AMPLIFY)
        for index, result in enumerate(worst):
            yield self.picture(index, result)
        yield self.piece("tail")

    def badness(self, result: Result) -> tuple[bool, float]:
        value = result.score.measures[self.measure.name]
        return value is None, self.measure.level(value or 0.0)

    def row(self, title: str, first: Score, second: Score | None, link: str = "") -> str:
        cells = ""
        for name, column in self.columns.items():
            value, below = first.value(name), ""
            if self.second:
                other = second.value(name) if second else None
                below = self.piece("second", value=figure(other, column.form))
            key = "" if value is None else str(value).replace("inf", "Infinity")
            cells += self.piece("cell", key=key, value=figure(value, column.form), second=below)
        key, size = "", ""
        if first.width is not None:
            key, size = first.width * first.height, f"{first.width:,.0f} × {first.height:,.0f}"
        cells += self.piece("cell", key=key, value=size, second="")
        return self.piece("row", link=link, file=shown_name(title), cells=cells)

    def picture(self, index: int, result: Result) -> str:
        """A picture: its scores, the comparisons and the error maps."""
        file = shown_name(result.score.file)
        paths = [result.original, result.reconstructed] + [result.second] * bool(result.second)
        views = Views([read_picture(Path(path), self.max_pixels) for path in paths])
        figures = self.figures(result.score, result.origin)
        if result.second_score:
            figures += self.figures(result.second_score, None, self.second)
        names = ["Original", "Reconstruction", self.second]
        parts = [
            self.piece(
                "picture", index=index, file=file, figures=figures, notes=views.notes,
                views="two" if result.second else "",
            )
        ]  # fmt: skip
        sides = {"width": views.width, "height": views.height}
        for i in range(len(paths) - 1):
            parts.append(
                self.piece(
                    "comparison", id=f"{index}-{i}", file=file, **sides,
                    left=names[i], right=names[i + 1], left_name=names[i].lower(),
                    first=views.shown[i], second=views.shown[i + 1],
                    actual_first=views.actual[i], actual_second=views.actual[i + 1],
                )
            )  # fmt: skip
        for error, name in zip(views.errors, ["", f" of {self.second}"]):
            parts.append(self.piece("error", error=error, of=name, amplify=AMPLIFY, **sides))
        return "".join([*parts, self.piece("close")])

    def figures(self, score: Score, origin: Origin | None, run: str = "") -> str:
        """The scores of a picture as a list, after the name of the ``run``, if it needs one."""
        items = self.piece("run", name=run) if run else ""
        for name, column in self.columns.items():
            value = figure(score.value(name), column.form)
            items += self.piece("figure", name=column.name, value=value)
        if origin:
            quality = f"{origin.quality}{', graphic' * origin.graphic}"
            items += self.piece("figure", name="quality", value=quality)
        return self.piece("figures", items=items)


def figure(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    return format(value, form) if math.isfinite(value) else "∞"


def means(scores: list[Score]) -> Score:
    """The averages, without a mean of rates: a tiny picture, mostly header, would decide it."""
    return replace(average(scores), bpp=None, compression_ratio=None)


def rates(scores: list[Score]) -> str:
    """The rate of all pictures together and their mean PSNR in words."""
    whole, psnr = total(scores), average(scores).measures["psnr"]
    known = whole.bpp is not None
    rate = f"bpp {whole.bpp:.3f}, ratio {whole.compression_ratio:.2f}, " if known else ""
    return f"{rate}{figure(psnr, '.2f')} dB PSNR on average."


def described(results: list[Result]) -> str:
    """Checkpoints, qualities and targets of the .xfr files, and the measures that flatter them."""
    origins = [result.origin for result in results if result.origin]
    if not origins:
        return ""
    checkpoints = sorted({describe(origin.fingerprint) for origin in origins})
    targets = sorted({f"--{origin.target}" for origin in origins if origin.target})
    chosen = f", chosen for {' and '.join(targets)}" if targets else ""
    qualities = [origin.quality for origin in origins]
    low, high = min(qualities), max(qualities)
    parts = [f"Checkpoint {' and '.join(checkpoints)}"]
    parts.append(f"quality {low}" if low == high else f"qualities {low} to {high}")
    if graphics := sum(origin.graphic for origin in origins):
        parts.append(counted(graphics, "graphic"))
    sentences = [f"{', '.join(parts)}{chosen}", *trained_for(results)]
    return " ".join(f"{sentence}." for sentence in sentences)


def shown_name(name: str) -> str:
    """A file name as HTML. It may be hostile, and need not be valid UTF-8."""
    return escape(printable(Path(name)))


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def content_source(text: str, element: str) -> str:
    """The Content-Security-Policy source of the page's own <script> or <style>, and no other."""
    content = re.search(f"<{element}>(.*?)</{element}>", text, re.DOTALL)[1]
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
