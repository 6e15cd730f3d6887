"""The scores as a single HTML page: a table, and the pictures to compare.

Its template is utils/report.html, with $names to fill in and two sections that repeat.
"""

import base64
import hashlib
import io
import math
import re
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image, ImageChops

from utils.files import atomic_write
from utils.images import read_picture
from utils.jobs import printable
from utils.scores import Score, average

TEMPLATE = Path(__file__).with_suffix(".html")
MAX_SHOWN = 12  # pictures; the others are only in the table
MIN_SIDE, MAX_SIDE = 256, 800  # pixels that the longer side of a picture is shown with
WEBP_QUALITY = 90  # of the embedded pictures; WebP must lose little compared with the codec
AMPLIFY = 5  # factor of the error maps, the same for all pictures so that they can be compared
FORMATS = {
    "width": ",.0f", "height": ",.0f", "compressed_bytes": ",.0f", "compression_ratio": ".1f",
    "bpp": ".3f", "psnr": ".2f", "ssim": ".4f", "ms_ssim": ".4f",
}  # fmt: skip


def write_report(path: Path, pictures: list[tuple[Score, Path, Path]], max_pixels: int) -> None:
    """Write the page. ``pictures``: the score, the original and the reconstruction of each.

    It is written picture by picture, so that only one of them is in memory at a time.
    """
    # The template is cut into five pieces at the two sections that repeat. Every value that is
    # filled in is a number, base64, or escaped.
    text = TEMPLATE.read_text("utf-8")
    pieces = re.split(r" *<!-- (?:each \w+|end) -->\n", text)
    head, row, middle, picture, tail = map(Template, pieces)
    scores = [score for score, *_ in pictures]
    mean = figures(average(scores))
    with atomic_write(path) as stream:

        def put(piece: Template, values: dict[str, str]) -> None:
            stream.write(piece.substitute(values).encode())

        put(head, {
            **mean, "script": fingerprint(text, "script"), "style": fingerprint(text, "style"),
            "count": counted(len(scores), "picture"), "title": shown_name(path.stem),
        })  # fmt: skip
        for index, score in enumerate(scores):
            link = f'href="#picture-{index}"' if index < MAX_SHOWN else ""
            put(row, {**figures(score), "file": shown_name(score.file), "link": link})
        put(middle, {**mean, "shown": shown_count(len(scores)), "amplify": str(AMPLIFY)})
        for index, (score, original, reconstructed) in enumerate(pictures[:MAX_SHOWN]):
            names = {"index": str(index), "file": shown_name(score.file), "amplify": str(AMPLIFY)}
            put(picture, {**figures(score), **names, **views(original, reconstructed, max_pixels)})
        put(tail, {})


def views(original: Path, reconstructed: Path, max_pixels: int) -> dict[str, str]:
    """The two pictures and their error map as data: URIs, their size, and notes about them."""
    before, after = (read_picture(path, max_pixels) for path in (original, reconstructed))
    images = [Image.fromarray(np.ascontiguousarray(picture.rgb)) for picture in (before, after)]
    error = ImageChops.difference(*images).point(lambda value: min(AMPLIFY * value, 255))
    full = error.size
    scale = min(MAX_SIDE / max(full), 1)
    size = tuple(max(round(side * scale), 1) for side in full)
    zoom = max(MIN_SIDE // max(size), 1)  # by the browser, so that a slider fits onto an icon
    notes = []
    if size != full:
        # The error map is reduced after it was computed: otherwise errors would vanish.
        notes.append(
            f"Reduced to {100 * scale:.0f}\u202f% from {full[0]:,}\u202f×\u202f{full[1]:,} for "
            "this page: fine artefacts look smaller than they are."
        )
    if before.alpha is not None:
        notes.append("Shown and scored without its transparency.")
    # The original's for both: not every format of reconstructions can hold a profile.
    profile = before.metadata.icc if before.pixels.ndim == 3 else None
    return {
        "original": data_uri(images[0].resize(size, Image.Resampling.LANCZOS), profile),
        "reconstruction": data_uri(images[1].resize(size, Image.Resampling.LANCZOS), profile),
        "error": data_uri(error.resize(size, Image.Resampling.BOX), None),
        "shown_width": str(size[0] * zoom),
        "shown_height": str(size[1] * zoom),
        "notes": " ".join(notes),
    }


def data_uri(image: Image.Image, profile: bytes | None) -> str:
    """The image as WebP."""
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=WEBP_QUALITY, icc_profile=profile)
    return "data:image/webp;base64," + base64.b64encode(stream.getbuffer()).decode()


def figures(score: Score) -> dict[str, str]:
    """The score's numbers as text: to read under their names, to sort by under <name>_key."""
    values = {name: getattr(score, name) for name in FORMATS}
    shown = {name: figure(value, FORMATS[name]) for name, value in values.items()}
    keys = {
        f"{name}_key": "" if value is None else str(value).replace("inf", "Infinity")
        for name, value in values.items()
    }
    return {**shown, **keys, "pixels_key": str(score.width * score.height)}


def figure(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    return format(value, form) if math.isfinite(value) else "∞"


def shown_name(name: str) -> str:
    """A file name as HTML. It may be hostile, and need not be valid UTF-8."""
    return escape(printable(Path(name)))


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shown_count(count: int) -> str:
    if count <= MAX_SHOWN:
        return ""
    return f"The first {MAX_SHOWN} of {count:,} pictures are shown below; the table has them all."


def fingerprint(text: str, element: str) -> str:
    """The Content-Security-Policy source that allows the page's own <script> or <style> alone, and
    none that a file name might contain."""
    content = re.search(f"<{element}>(.*?)</{element}>", text, re.DOTALL)[1]
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
