"""A figure of one picture: the original, and what each codec makes of it at about equal bytes.

examples:
  python -m benchmarks.samples out/original/chelsea.png
  python -m benchmarks.samples photo.png --bpp 0.25 --crop 384 256 --out comparison.png

Every codec writes and reads a file, at the highest quality that stays within --bpp.
"""

from argparse import Namespace
from pathlib import Path

from benchmarks.rd import MODELS
from utils.console import make_parser, number, run


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("picture", metavar="PICTURE", type=Path, help="the picture to code")
    add("--bpp", type=number(float, 0), default=0.3, help="bits per pixel of each file, at most")
    add(
        "--crop",
        type=number(int, 16),
        nargs=2,
        default=[320, 240],
        metavar=("WIDTH", "HEIGHT"),
        help="size of the part in the middle of the picture that is shown",
    )
    add("--out", type=Path, default=Path("./benchmarks/figures/samples.png"), help="the figure")
    return parser.parse_args()


def main(args: Namespace) -> int:
    import tempfile

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from benchmarks.peers import Ours, Peer, make_peers
    from utils.coding import highest_quality_within
    from utils.devices import pick_device
    from utils.files import atomic_write
    from utils.images import read_picture
    from utils.metrics import psnr

    picture = read_picture(args.picture)
    height, width = picture.shape
    codecs: list[Peer | Ours] = [peer for peer in make_peers() if peer.name == "jpeg"]
    codecs += [Ours(model, [], pick_device("auto")) for model in MODELS if model.is_file()]
    panels = [(f"original\n{args.picture.stat().st_size:,} bytes", picture.rgb)]
    with tempfile.TemporaryDirectory() as folder:
        for codec in codecs:
            file = Path(folder, f"picture.{codec.extension}")

            def bpp(quality: int, codec: Peer | Ours = codec, file: Path = file) -> float:
                codec.write(picture, quality, file)
                return 8 * file.stat().st_size / (height * width)

            bpp(highest_quality_within(args.bpp, "bpp", bpp))
            decoded, size = codec.read(file), file.stat().st_size
            label = f"{codec.label}\n{size:,} bytes, {psnr(picture.rgb, decoded):.1f} dB"
            panels.append((label, decoded))
    wide, high = args.crop
    top, left = max(height - high, 0) // 2, max(width - wide, 0) // 2
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(3.2 * len(panels), 3.2 * high / wide + 0.5), layout="constrained"
    )
    for axis, (label, rgb) in zip(axes, panels):
        axis.imshow(rgb[top : top + high, left : left + wide])
        axis.set_title(label, fontsize=9)
        axis.axis("off")
    with atomic_write(args.out) as stream:
        figure.savefig(stream, format="png", dpi=100)
    print(f"-> {args.out}")
    return 0


if __name__ == "__main__":
    run(main, parse_args())
