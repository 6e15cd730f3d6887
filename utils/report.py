"""The scores as a single HTML page: a table, and the pictures to compare.

Its template, utils/report.html, is cut into pieces with $names to fill in.
"""

import base64
import hashlib
import io
import math
import re
from collections.abc import Iterator
from datetime import date
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image, ImageChops

from utils.console import printable, total_and_mean
from utils.files import atomic_write
from utils.scores import Origin, Result, Score, average, total
from xfr.images import Picture, read_picture

TEMPLATE = Path(__file__).with_suffix(".html")
MAX_SHOWN = 12  # pictures; the others are only in the table
MIN_SIDE, MAX_SIDE = 256, 800  # pixels that the longer side of a picture is shown with
ACTUAL_SIDE = 1200  # pixels on a side that can be seen at 1:1, of a larger picture
WEBP_QUALITY = 90  # of the embedded pictures; WebP must lose little compared with the codec
AMPLIFY = 5  # factor of the error maps, the same for all pictures so that they can be compared
COLUMNS = {  # of the table: its header, its name beside a picture, its format
    "compressed_bytes": ("Bytes", "bytes", ",.0f"),
    "bpp": ("bpp", "bpp", ".3f"),
    "psnr": ("PSNR, dB", "dB PSNR", ".2f"),
    "ssim": ("SSIM", "SSIM", ".4f"),
    "ms_ssim": ("MS-SSIM", "MS-SSIM", ".4f"),
    "ssimulacra2": ("SSIMULACRA 2", "SSIMULACRA 2", ".1f"),
    "compression_ratio": ("Ratio", "ratio", ".1f"),
}


def write_report(
    path: Path, results: list[Result], max_pixels: int, second: Path | None = None
) -> None:
    """Write the page. ``second``: where the reconstructions of the second run are, if there is one.

    It is written piece by piece, so that only one picture is in memory at a time.
    """
    with atomic_write(path) as stream:
        for piece in Report(results, max_pixels, second).page(path.stem):
            stream.write(piece.encode())


class Report:
    """The page of some results, as text."""

    def __init__(self, results: list[Result], max_pixels: int, second: Path | None):
        self.results, self.max_pixels = results, max_pixels
        self.second = "" if second is None else shown_name(second.resolve().name)
        scored = any(result.score.ssimulacra2 is not None for result in results)
        self.columns = [name for name in COLUMNS if name != "ssimulacra2" or scored]
        self.headers = [COLUMNS[name][0] for name in self.columns] + ["Pixels"]
        self.measure = "ssimulacra2" if scored else "psnr"  # by which pictures are the worst
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
        worst = sorted(self.results, key=self.badness)[:MAX_SHOWN]
        yield self.piece(
            "head",
            **{name: fingerprint(self.text, name) for name in ("script", "style")},
            title=shown_name(title),
            count=counted(len(scores), "picture"),
            date=date.today().isoformat(),
            origin=described(self.results),
            rates=rates(scores),
            second=f"In grey, {self.second}: {rates(seconds)}" if seconds else "",
            headers="".join(self.piece("header", name=name) for name in self.headers),
        )
        for result in self.results:
            link = f'href="#picture-{worst.index(result)}"' if result in worst else ""
            yield self.row(result.score.file, result.score, result.second_score, link)
        footer = self.row("Average", average(scores), average(seconds) if seconds else None)
        footer += self.row("Total", total(scores), total(seconds) if seconds else None)
        shown = f"with the lowest {COLUMNS[self.measure][0].removesuffix(', dB')} first"
        if len(worst) < len(scores):
            shown = f"Below are {len(worst)} of the {len(scores):,} pictures, {shown}."
        else:
            shown = f"Below are the pictures, {shown}."
        yield self.piece("middle", footer=footer, shown=shown, amplify=AMPLIFY)
        for index, result in enumerate(worst):
            yield self.picture(index, result)
        yield self.piece("tail")

    def badness(self, result: Result) -> tuple[bool, float]:
        """The first when sorted is the worst picture."""
        value = getattr(result.score, self.measure)
        return value is None, value or 0.0

    def row(self, name: str, first: Score, second: Score | None, link: str = "") -> str:
        """A row of the table."""
        cells = ""
        for column in self.columns:
            value, form = getattr(first, column), COLUMNS[column][2]
            below = ""
            if self.second:
                other = getattr(second, column) if second else None
                below = self.piece("second", value=figure(other, form))
            key = "" if value is None else str(value).replace("inf", "Infinity")
            cells += self.piece("cell", key=key, value=figure(value, form), second=below)
        key, size = "", ""
        if first.width is not None:
            key, size = first.width * first.height, f"{first.width:,.0f} × {first.height:,.0f}"
        cells += self.piece("cell", key=key, value=size, second="")
        return self.piece("row", link=link, file=shown_name(name), cells=cells)

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
        for column in self.columns:
            _, name, form = COLUMNS[column]
            items += self.piece("figure", name=name, value=figure(getattr(score, column), form))
        if origin:
            quality = f"{origin.quality}{', graphic' * origin.graphic}"
            items += self.piece("figure", name="quality", value=quality)
        return self.piece("figures", items=items)


class Views:
    """What is shown of an original and its reconstructions: pictures and error maps as data: URIs,
    ``width`` and ``height`` in pixels of the page, and ``notes`` about them.

    ``actual``: what is seen at 1:1, or "" where the picture is not reduced anyway.
    """

    def __init__(self, pictures: list[Picture]):
        before = pictures[0]
        # The original's for all: not every format of reconstructions can hold a profile.
        profile = before.metadata.icc if before.pixels.ndim == 3 else None
        images = [Image.fromarray(np.ascontiguousarray(picture.rgb)) for picture in pictures]
        errors = [
            ImageChops.difference(images[0], image).point(lambda value: min(AMPLIFY * value, 255))
            for image in images[1:]
        ]
        full = images[0].size
        scale = min(MAX_SIDE / max(full), 1)
        size = tuple(max(round(side * scale), 1) for side in full)
        zoom = max(MIN_SIDE // max(size), 1)  # by the browser, so that a slider fits onto an icon
        self.width, self.height = (zoom * side for side in size)
        reduced = [image.resize(size, Image.Resampling.LANCZOS) for image in images]
        self.shown = [data_uri(image, profile) for image in reduced]
        # Reduced after they were computed: otherwise errors would vanish.
        reduced = [error.resize(size, Image.Resampling.BOX) for error in errors]
        self.errors = [data_uri(error, None) for error in reduced]
        self.actual, notes = [""] * len(images), []
        if size != full:
            box = worst_area(errors[0])
            self.actual = [data_uri(image.crop(box), profile) for image in images]
            part = "all of it" if box == (0, 0, *full) else "the part with the largest errors"
            notes.append(
                f"Reduced to {100 * scale:.0f}\u202f% from {full[0]:,}\u202f×\u202f{full[1]:,} for "
                f"this page: fine artefacts look smaller than they are. 1:1 shows {part}."
            )
        if before.alpha is not None:
            notes.append("Shown and scored without its transparency.")
        self.notes = " ".join(notes)


def worst_area(error: Image.Image) -> tuple[int, int, int, int]:
    """The box, of at most ACTUAL_SIDE pixels on a side, with the largest sum of errors."""
    step = 16
    coarse = np.asarray(error.convert("L").reduce(step), np.int64)
    height, width = (min(ACTUAL_SIDE // step, length) for length in coarse.shape)
    sums = np.pad(coarse.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows = sums[height:] - sums[:-height]
    areas = rows[:, width:] - rows[:, :-width]
    top, left = (step * int(i) for i in np.unravel_index(areas.argmax(), areas.shape))
    side = ACTUAL_SIDE
    left, top = max(min(left, error.width - side), 0), max(min(top, error.height - side), 0)
    return left, top, min(left + side, error.width), min(top + side, error.height)


def data_uri(image: Image.Image, profile: bytes | None) -> str:
    """The image as WebP."""
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=WEBP_QUALITY, icc_profile=profile)
    return "data:image/webp;base64," + base64.b64encode(stream.getbuffer()).decode()


def figure(value: float | None, form: str) -> str:
    """A number as text."""
    if value is None:
        return "–"
    return format(value, form) if math.isfinite(value) else "∞"


def rates(scores: list[Score]) -> str:
    """Rates and PSNR of all pictures in words."""
    whole, mean = total(scores), average(scores)
    parts = [f"{figure(mean.psnr, '.2f')} dB PSNR on average"]
    if whole.bpp is not None:
        parts.insert(0, f"bpp {total_and_mean(whole.bpp, mean.bpp, '.3f')}")
        ratio = total_and_mean(whole.compression_ratio, mean.compression_ratio, ".2f")
        parts.insert(1, f"ratio {ratio}")
    return f"{', '.join(parts)}."


def described(results: list[Result]) -> str:
    """The checkpoints, qualities and targets of the .xfr files in words; "" if none is intact."""
    origins = [result.origin for result in results if result.origin]
    if not origins:
        return ""
    checkpoints = sorted({origin.checkpoint for origin in origins})
    targets = sorted({f"--{origin.target}" for origin in origins if origin.target})
    chosen = f", chosen for {' and '.join(targets)}" if targets else ""
    qualities = [origin.quality for origin in origins]
    low, high = min(qualities), max(qualities)
    parts = [f"Checkpoint {' and '.join(checkpoints)}"]
    parts.append(f"quality {low}" if low == high else f"qualities {low} to {high}")
    if graphics := sum(origin.graphic for origin in origins):
        parts.append(f"{counted(graphics, 'graphic')}")
    return f"{', '.join(parts)}{chosen}."


def shown_name(name: str) -> str:
    """A file name as HTML. It may be hostile, and need not be valid UTF-8."""
    return escape(printable(Path(name)))


def counted(count: int, noun: str) -> str:
    """A number of things in words."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def fingerprint(text: str, element: str) -> str:
    """The Content-Security-Policy source that allows the page's own <script> or <style> alone, and
    none that a file name might contain."""
    content = re.search(f"<{element}>(.*?)</{element}>", text, re.DOTALL)[1]
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
