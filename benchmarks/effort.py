"""The gain of the encoder's search, --effort, and the time it takes: a table and a figure.

examples:
  python -m benchmarks.effort out/original/ --effort 1 3 5
  python -m benchmarks.effort photos/ --pictures 6 --crop 256 --qualities 20 40 60

Pictures, or squares from their middle, are coded and decoded. The encoder makes a cost small: the
bits of the file, and the distortion in bits. The gain is the cost that is saved by an effort, in
percent of the bits without effort: about the share of bytes that is saved at equal distortion.
Times are of one thread, whatever else is running.
"""

import time
from argparse import Namespace
from pathlib import Path
from statistics import fmean

import torch
from tqdm import tqdm

from benchmarks.markdown import table
from benchmarks.peers import MODELS
from benchmarks.plots import COLOURS, pyplot
from model.limits import DEFAULT_QUALITY, MAX_EFFORT, MAX_QUALITY, MIN_QUALITY
from utils.console import make_parser, number, run
from utils.devices import pick_device
from utils.files import atomic_write, pictures_below
from xfr.decoder import Decoder
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import unpack
from xfr.images import Picture, read_picture


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("folder", metavar="FOLDER", type=Path, help="pictures; sub-folders are searched too")
    add("--model", type=Path, default=MODELS[1], help="checkpoint of a codec that has efforts")
    add("--pictures", type=number(int, 1), default=4, help="pictures, spread over the folder")
    add("--crop", type=number(int, 0), default=0, help="side of the squares; 0: entire pictures")
    add("--qualities", nargs="+", type=number(int, MIN_QUALITY, MAX_QUALITY),
        default=[DEFAULT_QUALITY], metavar="QUALITY",
        help="the gain is the mean over all of them")
    add("--effort", nargs="+", type=number(int, 1, MAX_EFFORT),
        default=list(range(1, MAX_EFFORT + 1)), metavar="EFFORT",
        help="efforts to measure, beside none")
    add("--out", type=Path, default=Path("./out/scores/effort/"), help="directory for the results")
    # fmt: on
    return parser.parse_args()


def main(args: Namespace) -> int:
    torch.set_num_threads(1)
    paths = pictures_below(args.folder)
    chosen = paths[:: max(1, len(paths) // args.pictures)][: args.pictures]
    encoder, decoder = Encoder(args.model, pick_device("cpu")), Decoder(args.model)
    encoder.check(EncodingSettings(effort=max(args.effort)))
    efforts = sorted(set(args.effort))
    gains: dict[int, list[float]] = {effort: [] for effort in efforts}
    seconds: dict[int, list[float]] = {effort: [] for effort in [0, *efforts]}
    first = middle(chosen[0], 64)
    measure(encoder, decoder, first, DEFAULT_QUALITY, efforts[-1])  # warms up
    for path in tqdm(chosen, "pictures"):
        picture = middle(path, args.crop)
        for quality in args.qualities:
            plain, bits, taken = measure(encoder, decoder, picture, quality, 0)
            seconds[0].append(taken)
            for effort in efforts:
                cost, _, taken = measure(encoder, decoder, picture, quality, effort)
                gains[effort].append(100 * (plain - cost) / bits)
                seconds[effort].append(taken)
    rows = [["0", f"{fmean(seconds[0]):.2f}", "", ""]]
    for effort in efforts:
        least, mean = min(gains[effort]), fmean(gains[effort])
        rows.append([f"{effort}", f"{fmean(seconds[effort]):.2f}", f"{mean:.2f}", f"{least:.2f}"])
    head = ["effort", "s per megapixel, one thread", "gain, % of the bits", "least gain"]
    text = table(head, rows) + "\n"
    print(text)
    with atomic_write(args.out / "effort.md") as stream:
        stream.write(text.encode())
    draw(args.out / "effort.png", [fmean(seconds[e]) for e in efforts], gains)
    return 0


def middle(path: Path, side: int) -> Picture:
    """A picture, or the square of ``side`` pixels in its middle."""
    picture = read_picture(path)
    top, left = ((length - side) // 2 for length in picture.shape)
    if not side or min(top, left) < 0:
        return Picture(picture.pixels)
    return Picture(picture.pixels[top : top + side, left : left + side])


def measure(
    encoder: Encoder, decoder: Decoder, picture: Picture, quality: int, effort: int
) -> tuple[float, int, float]:
    """The cost of a file and its size, in bits, and the seconds that a megapixel takes."""
    start = time.process_time()
    data = encoder.encode(picture, EncodingSettings(quality, effort=effort))
    taken = time.process_time() - start
    decoded = decoder.decode(unpack(data)).rgb
    distortion = encoder.codec.picture_distortion(decoded, picture.rgb, quality)
    height, width = picture.shape
    bits = 8 * len(data)
    return bits + distortion, bits, taken * 1e6 / (height * width)


def draw(path: Path, seconds: list[float], gains: dict[int, list[float]]) -> None:
    """The gains over the seconds for a megapixel, as PNG."""
    figure, axis = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    means = [fmean(values) for values in gains.values()]
    axis.semilogx(seconds, means, "o-", color=COLOURS["ours"][0], linewidth=2.4)
    for effort, at, mean in zip(gains, seconds, means):
        axis.annotate(f"{effort}", (at, mean), (-4, 6), textcoords="offset points", fontsize=8)
    axis.set(xlabel="seconds per megapixel, one thread", ylabel="gain (% of the bits)")
    axis.set_title("--effort", fontsize=10)
    axis.grid(color="#e4e4e4", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    run(main, parse_args())
