"""Time, memory and accuracy of previews beside those of decoding the entire picture.

examples:
  python -m benchmarks.previews out/original/
  python -m benchmarks.previews kodak/ --megapixels 12 --pictures 1 --model out/visual.tar

Each picture is decoded in a process of its own, by one thread. Processor time and peak memory are
those of decoding alone, beyond a process that has loaded torch, the checkpoint and the file. PSNR
compares a preview with the means of boxes of the decoded picture's pixels. For Linux alone.
"""

import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from statistics import fmean

from benchmarks.markdown import table
from benchmarks.peers import add_model_argument, chosen_models
from benchmarks.speed import repeated
from model.limits import DEFAULT_QUALITY, MAX_QUALITY, MIN_QUALITY, PREVIEW_SCALES
from model.tiles import Extract
from utils.console import SCRIPTS, make_parser, number, run
from utils.files import pictures_below
from utils.measures import psnr
from xfr.decoder import Decoder
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import unpack
from xfr.graphics import reduced
from xfr.images import Picture, read_picture

DECODE_SCRIPT = """
import re, sys, time
from pathlib import Path
import torch
from model.tiles import Extract
from utils.devices import pick_device
from xfr.decoder import Decoder
from xfr.file import unpack

def memory(field):
    return int(re.search(field + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

decoder = Decoder(Path(sys.argv[1]), pick_device("cpu"))
xfr, extract = unpack(Path(sys.argv[2]).read_bytes()), Extract(int(sys.argv[3]))
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
torch.set_num_threads(1)
before, start = memory("VmRSS"), time.process_time()
decoder.decode(xfr, extract=extract)
print(time.process_time() - start, (memory("VmHWM") - before) / 1024)
"""


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="pictures; sub-folders are searched too")
    add_model_argument(parser)
    add("--pictures", type=number(int, 1), default=4, help="number of pictures")
    add("--megapixels", type=number(float, 0), help="repeat each picture up to this size")
    add("--quality", type=number(int, MIN_QUALITY, MAX_QUALITY), default=DEFAULT_QUALITY)
    return parser.parse_args()


def main(args: Namespace) -> int:
    paths = pictures_below(args.folder)[: args.pictures]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in chosen_models(args):
            rows = []
            for path in paths:
                source = repeated(path, args.megapixels, folder) if args.megapixels else path
                rows.append(measured(model, read_picture(source), args.quality, folder))
            print(f"## {model.stem}, quality {args.quality}\n\n{summary(rows)}\n")
    return 0


def measured(model: Path, picture: Picture, quality: int, folder: Path) -> list[list[float]]:
    """Milliseconds, MiB and PSNR of decoding a picture at each scale, 1 first."""
    encoder, file = Encoder(model), folder / "measured.xfr"
    file.write_bytes(encoder.encode(Picture(picture.rgb), EncodingSettings(quality)))
    xfr, decoder = unpack(file.read_bytes()), Decoder(model)
    whole, rows = decoder.decode(xfr).rgb, []
    for scale in (1, *PREVIEW_SCALES):
        command = [sys.executable, "-c", DECODE_SCRIPT, model.resolve(), file, scale]
        process = subprocess.run(
            list(map(str, command)), cwd=SCRIPTS, capture_output=True, text=True, check=True
        )
        seconds, mebibytes = map(float, process.stdout.split())
        preview = decoder.decode(xfr, extract=Extract(scale)).rgb
        rows.append([1000 * seconds, mebibytes, psnr(reduced(whole, scale), preview)])
    return rows


def summary(pictures: list[list[list[float]]]) -> str:
    """A table of means over pictures, and of the least PSNR."""
    rows: list[list[str]] = []
    for scale, *values in zip((1, *PREVIEW_SCALES), *pictures, strict=True):
        milliseconds, mebibytes, decibels = zip(*values)
        accuracy = f"{min(decibels):.1f}" if min(decibels) < float("inf") else "equal"
        rows.append([f"{scale}", f"{fmean(milliseconds):.0f}", f"{fmean(mebibytes):.0f}", accuracy])
    return table(["scale", "decode, ms", "peak, MiB", "least PSNR, dB"], rows)


if __name__ == "__main__":
    run(main, parse_args())
