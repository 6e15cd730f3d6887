"""Make a reduced copy of a folder of pictures, so that a data set can travel to another machine.

examples:
  python -m utils.reduce photos/ small/ --max_bytes 24M

Pictures above a number of pixels, the same for all, are scaled down to it; it is the largest that
keeps the copy within --max_bytes. They are stored as JPEG at high quality with full colour, or as
lossless WebP where that is smaller, as it is for screenshots. A picture that need not be scaled
down stays the file that it is. Sub-folders stay; two runs make the same files.
"""

import io
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from utils.console import make_parser, printable, run, size
from utils.data import area
from utils.files import atomic_write, pictures_below
from xfr.images import read_picture

JPEG_OPTIONS = {"quality": 92, "subsampling": 0, "optimize": True}
SAMPLE_PICTURES = 48  # pictures by which the number of pixels is estimated
FILLED_SHARE = 0.97  # share of --max_bytes at which the estimate aims
SEARCH_STEPS = 12


class Copy(NamedTuple):
    """The content of a file, and its suffix; of a picture that cannot be read, the ``reason``."""

    content: bytes = b""
    suffix: str = ""
    reason: str = ""


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("source", type=Path, help="folder of pictures, searched recursively")
    add("out", type=Path, help="folder for the copies; it must be new or empty")
    add("--max_bytes", type=size, required=True, help="size of all copies, such as 800k or 24M")
    return parser.parse_args()


def reduced(path: Path, pixels: int) -> Copy:
    """The copy of a picture, of about this many pixels at most."""
    try:
        if 0 < area(path) <= pixels:
            return Copy(path.read_bytes(), path.suffix)
        image = Image.fromarray(read_picture(path).rgb)
    except Exception as error:  # Pillow may raise nearly anything on a damaged file
        return Copy(reason=str(error))
    scale = (pixels / (image.width * image.height)) ** 0.5
    shape = [max(round(scale * side), 1) for side in image.size]
    image = image.resize(shape, Image.Resampling.LANCZOS)
    return min(
        encoded(image, "JPEG", ".jpg", **JPEG_OPTIONS),
        encoded(image, "WEBP", ".webp", lossless=True),
        key=lambda copy: len(copy.content),
    )


def encoded(image: Image.Image, kind: str, suffix: str, **options: int | bool) -> Copy:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Copy(stream.getvalue(), suffix)


def copies(paths: list[Path], pixels: int) -> list[Copy]:
    with ThreadPoolExecutor(cpu_count()) as threads:
        return list(threads.map(lambda path: reduced(path, pixels), paths))


def total_bytes(found: list[Copy]) -> int:
    return sum(len(copy.content) for copy in found)


def largest_copies(paths: list[Path], max_bytes: int) -> tuple[int, list[Copy]]:
    """The number of pixels, and the copies. ValueError if they cannot be so small."""
    sample = paths[:: -(-len(paths) // SAMPLE_PICTURES)]
    low, high = 1, max(map(area, paths))
    aim = FILLED_SHARE * max_bytes * sum(map(area, sample)) / max(sum(map(area, paths)), 1)
    for _ in range(SEARCH_STEPS if sum(path.stat().st_size for path in paths) > max_bytes else 0):
        middle = round((low * high) ** 0.5)
        if total_bytes(copies(sample, middle)) > aim:
            high = middle
        else:
            low = middle
    pixels = high if low == 1 else low
    while total_bytes(found := copies(paths, pixels)) > max_bytes:
        if pixels == 1:
            raise ValueError(f"{len(paths)} pictures cannot have {max_bytes} bytes")
        pixels = max(int(0.95 * pixels * min(max_bytes / total_bytes(found), 1)), 1)
    return pixels, found


def main(args: Namespace) -> int:
    if args.out.exists() and any(args.out.iterdir()):
        raise FileExistsError(f"{args.out} is not empty")
    paths = pictures_below(args.source, option="source")
    pixels, found = largest_copies(paths, args.max_bytes)
    written: set[Path] = set()
    for path, copy in zip(paths, found):
        if not copy.content:
            print(printable(f"skipped: {path}: {copy.reason}"), file=sys.stderr)
            continue
        place = args.out / path.relative_to(args.source)
        name = place.with_suffix(copy.suffix)
        if name in written:  # photo.png and photo.tif
            name = place.with_name(place.name + copy.suffix)
        written.add(name)
        with atomic_write(name) as stream:
            stream.write(copy.content)
    print(
        f"{len(written)} pictures of at most {pixels / 1e6:.2f} megapixels, "
        f"{total_bytes(found)} bytes -> {args.out}"
    )
    return 0 if len(written) == len(paths) else 1


if __name__ == "__main__":
    run(main, parse_args())
