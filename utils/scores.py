"""Scores of a folder of pictures, and the CSV that holds them."""

import csv
import io
import math
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch

from model import ARCHITECTURES, codec_class
from utils.files import atomic_write
from utils.matching import PictureFiles
from utils.metrics import ms_ssim, psnr, ssim, ssimulacra2
from utils.processes import gather
from xfr.file import unpack
from xfr.formats import normalize_extension
from xfr.images import read_picture

COMPRESSED = {"avif", "heic", "heif", "j2k", "jp2", "jpg", "jxl", "webp"}  # whose size is a rate


@dataclass
class Score:
    """A row of the CSV. Rates are in bytes and bits per pixel, PSNR is in dB; None is written as an
    empty cell. The last column is left out unless it was asked for."""

    file: str
    width: float | None
    height: float | None
    original_bytes: float
    compressed_bytes: float | None
    compression_ratio: float | None
    bpp: float | None
    psnr: float | None
    ssim: float | None
    ms_ssim: float | None
    ssimulacra2: float | None = None


class Origin(NamedTuple):
    """What an .xfr file says of how it was made. ``graphic``: whether it holds one, see
    xfr/graphics.py. ``target``: its name and value, or ""."""

    checkpoint: str
    quality: int
    graphic: bool
    target: str


@dataclass
class Result:
    """A picture: its score, its files, and what its .xfr file says. ``second``: its reconstruction
    in another run, if there is one, with a score of its own. Paths are text, for ``gather``."""

    score: Score
    original: str
    reconstructed: str
    origin: Origin | None
    second: str | None = None
    second_score: Score | None = None


def score_picture(
    name: str, files: PictureFiles, max_pixels: int, device: torch.device, perceptual: bool = False
) -> Result:
    """Score a picture; OSError or ValueError if one of its files is unusable."""
    for path in (files.compressed, files.reconstructed):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty")
    original = read_picture(files.original, max_pixels)
    height, width = original.shape
    before = files.original.stat().st_size

    def score(reconstructed: Path, after: int | None) -> Score:
        decoded = read_picture(reconstructed, max_pixels)
        if decoded.shape != original.shape:
            h, w = decoded.shape
            raise ValueError(f"{width}x{height}, but its reconstruction {reconstructed} is {w}x{h}")
        x, y = original.rgb, decoded.rgb
        rates = (
            (before / after, 8 * after / (width * height)) if after is not None else (None, None)
        )
        similar = ssim(x, y), ms_ssim(x, y, device), ssimulacra2(x, y) if perceptual else None
        return Score(name, width, height, before, after, *rates, psnr(x, y), *similar)

    result = Result(
        score(files.reconstructed, files.compressed.stat().st_size),
        str(files.original),
        str(files.reconstructed),
        read_origin(files.compressed, max_pixels),
    )
    if files.second is not None:
        compressed = normalize_extension(files.second.suffix) in COMPRESSED
        size = files.second.stat().st_size if compressed else None
        result.second, result.second_score = str(files.second), score(files.second, size)
    return result


def read_origin(compressed: Path, max_pixels: int) -> Origin | None:
    """What the header of an .xfr file says; None if it is not intact."""
    try:
        xfr = unpack(compressed.read_bytes(), max_pixels)
    except ValueError:
        return None
    arch = [arch for arch in ARCHITECTURES if codec_class(arch).FILE_NUMBER == xfr.arch]
    checkpoint = " ".join([*arch, f"{xfr.fingerprint:016x}"[:8]])
    target = "{} {:g}".format(*xfr.target) if xfr.target else ""
    return Origin(checkpoint, xfr.quality, xfr.graphic, target)


def gather_results(results: list[Result]) -> list[Result]:
    """Those of all processes, sorted by the path of the original, in rank 0; [] in others."""
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
    rates = (None, None) if after is None else (before / after, 8 * after / pixels)
    return Score("total", None, None, before, after, *rates, None, None, None)


def average(scores: list[Score]) -> Score:
    """The mean of each column over the pictures that have a finite value in it."""

    def mean(values: list) -> float | None:
        values = [value for value in values if value is not None and math.isfinite(value)]
        return sum(values) / len(values) if values else None

    columns = list(zip(*(astuple(score)[1:] for score in scores), strict=True))
    return Score("average", *(mean(column) for column in columns))


def write_scores(path: Path, scores: list[Score], perceptual: bool = False) -> None:
    """Write the CSV: a row per picture, and the averages."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = [field.name for field in fields(Score)]
    columns = columns if perceptual else columns[:-1]
    writer.writerow(columns)
    for score in [*scores, average(scores)]:
        writer.writerow([cell(getattr(score, column)) for column in columns])
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode("utf-8", "surrogateescape"))


def average_line(scores: list[Score]) -> str:
    """The averages of the measures in one line."""
    mean = average(scores)
    shown = {
        "PSNR": (mean.psnr, " dB"),
        "SSIM": (mean.ssim, ""),
        "MS-SSIM": (mean.ms_ssim, ""),
        "SSIMULACRA 2": (mean.ssimulacra2, ""),
    }
    return "on average " + ", ".join(
        f"{k} {v:.4g}{unit}" for k, (v, unit) in shown.items() if v is not None
    )


def cell(value: str | float | None) -> str:
    """A value as the text of a CSV's cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "inf"
    return str(value)
