"""A figure of pictures: the original, and what each codec makes of it at about equal bytes.

examples:
  python -m benchmarks.samples out/original/chelsea.png --worst
  python -m benchmarks.samples kodak/kodim01.png kodak/kodim09.png kodak/kodim17.png --zoom 1 2 \\
      --codecs avif --model out/visual.tar --bpp 0.2 --out comparison.png

Every codec writes and reads a file: the others at the highest quality that stays within --bpp,
ours at the highest that then takes no more bytes than any of them. The middle of each picture is
shown, so that no part is chosen because it looks good, or with --worst what our last checkpoint
does worst.
"""

from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.peers import Ours, Peer, add_model_argument, chosen_models, make_peers
from utils.console import make_parser, number, run
from utils.devices import pick_device
from utils.files import atomic_write
from utils.measures import MEASURES, TILE_SIDE, find_worst_tile, ssimulacra2
from xfr.images import read_picture

CODECS = ["jpeg", "webp", "avif", "avif-psnr", "avif-ssimulacra2", "jpegxl"]
LABEL_HEIGHT, GAP_WIDTH = 36, 8  # pixels of the figure


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("pictures", metavar="PICTURE", nargs="+", type=Path, help="pictures to code")
    add_model_argument(parser)
    add("--codecs", nargs="+", choices=CODECS, default=["jpeg"], metavar="CODEC",
        help=f"other codecs, of {', '.join(CODECS)}")
    add("--bpp", type=number(float, 0), default=0.3, help="bits per pixel of each file, at most")
    add("--crop", type=number(int, 16), nargs=2, default=[320, 240], metavar=("WIDTH", "HEIGHT"),
        help="size of each part of the figure")
    add("--zoom", type=number(int, 1, 8), nargs="+", default=[1],
        help="times that pixels are enlarged; each is a row for every picture")
    add("--worst", action="store_true",
        help=f"show the tile of {TILE_SIDE}x{TILE_SIDE} pixels where our last checkpoint has the "
        "lowest SSIMULACRA 2, in place of the middle")
    add("--out", type=Path, default=Path("./out/scores/samples.png"), help="the figure")
    # fmt: on
    return parser.parse_args()


def reconstruct(codecs: list[Ours | Peer], path: Path, bpp: float) -> list[tuple[str, np.ndarray]]:
    """The label and the pixels, uint8 [H, W, 3], of a picture and of what each codec makes of it.
    ``codecs``: ours last. ValueError if one cannot write so few bytes."""
    picture = read_picture(path)
    height, width = picture.shape
    limit = int(bpp * height * width / 8)
    versions = [(f"{path.name}\n{path.stat().st_size:,} bytes", picture.rgb)]
    smallest = limit  # of the files of other codecs
    with TemporaryDirectory() as folder:
        for codec in codecs:
            mine, file = isinstance(codec, Ours), Path(folder, f"picture.{codec.extension}")
            try:
                codec.write_within(picture, smallest if mine else limit, file)
            except ValueError as error:
                raise ValueError(f"{path}: {codec.label}: {error}") from None
            decoded, size = codec.read(file), file.stat().st_size
            if not mine:
                smallest = min(smallest, size)
            psnr, eye = (MEASURES[n].score(picture.rgb, decoded) for n in ("psnr", "ssimulacra2"))
            numbers = f"{size:,} bytes, {psnr:.1f} dB"
            if eye is not None:
                numbers += f", SSIMULACRA 2 {eye:.0f}"
            versions.append((f"{codec.label}\n{numbers}", decoded))
    return versions


def middle(pixels: np.ndarray) -> tuple[float, float]:
    """The column and the row of the middle of ``pixels`` [H, W, 3]."""
    return pixels.shape[1] / 2, pixels.shape[0] / 2


def middle_of_worst(versions: list[tuple[str, np.ndarray]]) -> tuple[float, float]:
    """The column and the row of the middle of the last version's worst tile."""
    original, ours = versions[0][1], versions[-1][1]
    _, top, left = find_worst_tile(ssimulacra2, original, ours)
    tile = original[top : top + TILE_SIDE, left : left + TILE_SIDE]
    x, y = middle(tile)
    return left + x, top + y


def panel(
    label: str, pixels: np.ndarray, crop: list[int], zoom: int, centre: tuple[float, float]
) -> Image.Image:
    """The label, and below it ``pixels`` [H, W, 3] around the ``centre``, a column and a row, each
    ``zoom`` times as wide and high, on a ``crop`` of (width, height)."""
    picture = Image.fromarray(pixels)
    part = [min(side, size // zoom) for side, size in zip(picture.size, crop)]
    left, top = (
        min(max(int(at - length / 2), 0), side - length)
        for at, side, length in zip(centre, picture.size, part)
    )
    shown = picture.crop((left, top, left + part[0], top + part[1])).resize(
        [zoom * length for length in part], Image.Resampling.NEAREST
    )
    canvas = Image.new("RGB", (crop[0], crop[1] + LABEL_HEIGHT), "white")
    canvas.paste(shown, (0, LABEL_HEIGHT))
    if zoom > 1:
        label = label.replace("\n", f", {zoom}00 %\n")
    ImageDraw.Draw(canvas).text((1, 1), label, "black", ImageFont.load_default(LABEL_HEIGHT / 3))
    return canvas


def main(args: Namespace) -> int:
    codecs = [peer for peer in make_peers() if peer.name in args.codecs]
    for peer in codecs:
        if not peer.available:
            raise ValueError(f"--codecs {peer.name} is not available in this Pillow")
    models = chosen_models(args)
    codecs += [Ours(model, [], pick_device("auto")) for model in models]
    rows = []
    for path in args.pictures:
        versions = reconstruct(codecs, path, args.bpp)
        centre = middle_of_worst(versions) if args.worst else middle(versions[0][1])
        for zoom in args.zoom:
            rows.append([panel(*version, args.crop, zoom, centre) for version in versions])
    wide, high = rows[0][0].size
    size = len(rows[0]) * (wide + GAP_WIDTH) - GAP_WIDTH, len(rows) * (high + GAP_WIDTH) - GAP_WIDTH
    figure = Image.new("RGB", size, "white")
    for row, panels in enumerate(rows):
        for column, one in enumerate(panels):
            figure.paste(one, (column * (wide + GAP_WIDTH), row * (high + GAP_WIDTH)))
    with atomic_write(args.out) as stream:
        figure.save(stream, "png", optimize=True)
    print(f"-> {args.out}")
    return 0


if __name__ == "__main__":
    run(main, parse_args())
