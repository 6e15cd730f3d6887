"""Scores of a folder of pictures, and the CSV that holds them."""

import csv
import io
import math
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch

from utils.files import atomic_write
from utils.images import read_picture
from utils.metrics import ms_ssim, psnr, ssim, ssimulacra2
from utils.processes import gather


@dataclass
class Score:
    """A row of the CSV. Rates are in bytes and bits per pixel, PSNR is in dB; None is written as an
    empty cell. The last column is left out unless it was asked for."""

    file: str
    width: float
    height: float
    original_bytes: float
    compressed_bytes: float
    compression_ratio: float
    bpp: float
    psnr: float | None
    ssim: float | None
    ms_ssim: float | None
    ssimulacra2: float | None = None


def score_picture(
    name: str,
    original: Path,
    compressed: Path,
    reconstructed: Path,
    max_pixels: int,
    device: torch.device,
    perceptual: bool = False,
) -> Score:
    """Score a picture from its three files; OSError or ValueError if one of them is unusable."""
    for path in (compressed, reconstructed):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
    first, second = (read_picture(path, max_pixels) for path in (original, reconstructed))
    if first.shape != second.shape:
        (h1, w1), (h2, w2) = first.shape, second.shape
        raise ValueError(f"{w1}x{h1}, but its reconstruction is {w2}x{h2}")
    height, width = first.shape
    before, after = original.stat().st_size, compressed.stat().st_size
    return Score(
        name, width, height, before, after, before / after, 8 * after / (width * height),
        psnr(first.rgb, second.rgb), ssim(first.rgb, second.rgb),
        ms_ssim(first.rgb, second.rgb, device),
        ssimulacra2(first.rgb, second.rgb) if perceptual else None,
    )  # fmt: skip


def gather_scores(pictures: list[tuple[Score, Path, Path]]) -> list[tuple[Score, Path, Path]]:
    """The (score, original, reconstruction) of all processes, sorted, in rank 0; [] in others."""
    rows = [(astuple(score), *map(str, paths)) for score, *paths in pictures]
    gathered = [row for rows in gather("scores", rows) for row in rows]
    gathered.sort(key=lambda row: row[1])
    return [(Score(*score), Path(first), Path(second)) for score, first, second in gathered]


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
    return ", ".join(f"{k} {v:.4g}{unit}" for k, (v, unit) in shown.items() if v is not None)


def cell(value: str | float | None) -> str:
    """A value as the text of a CSV's cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "inf"
    return str(value)
