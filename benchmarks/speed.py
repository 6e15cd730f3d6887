"""Time and memory of our codecs beside those of others, in one run on the same pictures.

examples:
  python -m benchmarks.speed out/original/
  python -m benchmarks.speed kodak/ --pictures 4 --threads 2
  python -m benchmarks.speed kodak/ --pictures 4 --sizes 0.1 0.5 2 10 25 100

Times depend on the machine and its load; only their ratios compare with those of another run.
Coding goes from pixels in memory to a file and back, with files in the page cache. CompressAI's
mbt2018-mean is measured where that package is installed, with random weights: its networks take as
long as with trained ones, its entropy coder may not.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.markdown import table
from benchmarks.peers import MbtMean, Ours, add_model_argument, chosen_models, make_peers
from model.limits import DEFAULT_QUALITY
from model.precision import fast_precision
from model.tiles import padded
from utils.console import SCRIPTS, make_parser, number, run
from utils.devices import pick_device
from utils.files import atomic_write, pictures_below
from xfr.images import read_picture, to_picture, write_picture

TIMED_EFFORT = 4  # effort of our codecs that search, timed beside none
# About 30 dB on Kodak, as our default quality gives.
PEER_QUALITIES = {"jpeg": 50, "webp": 40, "avif": 40, "jpegxl": 50}
PILLOW_SCRIPT = """
import sys
from PIL import Image
Image.open(sys.argv[1]).convert("RGB").save(sys.argv[2], quality=int(sys.argv[3]))
"""


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="pictures; sub-folders are searched too")
    add_model_argument(parser)
    add("--pictures", type=number(int, 1), default=8, help="number of pictures to time")
    add("--repeat", type=number(int, 1), default=5, help="times that each is coded; medians count")
    add("--threads", type=number(int, 1), default=2, help="threads of each codec")
    add("--sizes", nargs="+", type=number(float, 0), default=[], metavar="MEGAPIXELS",
        help="also measure time and memory for pictures of these sizes")  # fmt: skip
    add("--out", type=Path, default=Path("./out/scores/speed.md"), help="file for the tables")
    return parser.parse_args()


def main(args: Namespace) -> int:
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of the processes that are started
    torch.set_num_threads(args.threads)
    paths = pictures_below(args.folder)
    models = chosen_models(args)
    first = paths[: args.pictures]
    report = [f"# Speed, {len(first)} pictures of {args.folder.name}, {args.threads} threads"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report += ["## A picture, in a process that is already running"]
        report += [codec_times(models, first, args.repeat, args.threads, folder)]
        report += ["## A picture, as a separate process"]
        report += [process_times(models, first[0], args.repeat, folder)]
        for model in models:
            report += [f"## Where {model.stem} spends its time"]
            report += [stage_times(model, first, args.repeat, folder)]
        for size in sorted(args.sizes):
            report += [f"## A picture of {size:g} megapixels, as a separate process"]
            report += [process_times(models, repeated(first[0], size, folder), 1, folder)]
    text = "\n\n".join(report) + "\n"
    print(text)
    with atomic_write(args.out) as stream:
        stream.write(text.encode())
    return 0


def timed(function: Callable, *args: Any) -> tuple[float, Any]:
    """The milliseconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function(*args)
    return 1000 * (time.perf_counter() - start), result


def codec_times(
    models: list[Path], paths: list[Path], repeat: int, threads: int, folder: Path
) -> str:
    """The times of all codecs: means over the pictures of the medians over the repeats."""
    chosen = []
    for model in models:
        ours = Ours(model, [], pick_device("cpu"))
        chosen.append((ours, DEFAULT_QUALITY))
        if ours.has_effort:
            chosen.append((ours.at_effort(TIMED_EFFORT), DEFAULT_QUALITY))
    peers = [peer for peer in make_peers(threads) if peer.name in PEER_QUALITIES]
    chosen += [(peer, PEER_QUALITIES[peer.name]) for peer in peers if peer.available]
    missing = [peer.label for peer in peers if not peer.available]
    try:
        chosen.append((MbtMean(), MbtMean.setting))
    except ImportError:
        missing.append(MbtMean.label)
    times = {}
    for codec, setting in chosen:
        medians = []
        for picture in map(read_picture, paths):
            file, runs = folder / f"timed.{codec.extension}", []
            for _ in range(repeat + 1):
                encoding, _ = timed(codec.write, picture, setting, file)
                runs.append((encoding, timed(codec.read, file)[0]))
            medians.append([median(column) for column in zip(*runs[1:])])  # the first warms up
        times[f"{codec.label}, {setting}"] = [fmean(column) for column in zip(*medians)]
    rows = [[label, *(f"{taken:.1f}" for taken in pair)] for label, pair in times.items()]
    note = f"\n\nNot installed: {', '.join(missing)}." if missing else ""
    return table(["codec, setting", "encode, ms", "decode, ms"], rows) + note


def stage_times(model: Path, paths: list[Path], repeat: int, folder: Path) -> str:
    """A table of the stages of encode.py and decode.py, means over pictures and repeats. The time
    of a stage is that of a call less that of the calls within it, each of which is timed alone."""
    ours = Ours(model, [], pick_device("cpu"))
    codec, quality = ours.encoder.codec, DEFAULT_QUALITY
    file, plain = folder / "staged.xfr", folder / "staged.bmp"
    times: list[dict[str, float]] = []
    for path in [paths[0], *paths * repeat]:  # the first warms up
        reading, picture = timed(read_picture, path)
        encoding, _ = timed(ours.write, picture, quality, file)
        decoding, decoded = timed(ours.read, file)
        shape = [padded(length, codec.STRIDE) for length in picture.shape]
        with torch.inference_mode():
            with fast_precision(codec.device):  # the encoder's precision
                compressing, payload = timed(codec.compress, picture.rgb, quality)
                latents = codec.tile_latents(picture.rgb, codec.quality_tensor(quality))
                analysing, _ = timed(list, latents)
            decompressing, _ = timed(codec.decompress, payload, *picture.shape, quality)
            unpacking, _ = timed(list, codec.latent_rows(payload, *shape, quality))
        with plain.open("wb") as stream:
            writing, _ = timed(write_picture, to_picture(decoded, grey=False), stream, "bmp")
        times.append({
            "read the picture": reading,
            "encode: analysis transform": analysing,
            "encode: entropy coding": compressing - analysing,
            "encode: the rest, and write the .xfr": encoding - compressing,
            "decode: read the .xfr, and the rest": decoding - decompressing,
            "decode: entropy coding": unpacking,
            "decode: synthesis transform": decompressing - unpacking,
            "write the picture": writing,
        })  # fmt: skip
    means = {name: fmean(one[name] for one in times[1:]) for name in times[0]}
    rows = [[name, f"{max(mean, 0):.1f}"] for name, mean in means.items()]  # a difference
    return table(["stage", "ms"], rows)


def script_commands(model: Path, source: Path, packed: Path, plain: Path) -> tuple[list, list]:
    """The command lines that encode ``source`` to ``packed``, and decode that to ``plain``."""
    encode, decode = ([sys.executable, SCRIPTS / f"{name}.py"] for name in ("encode", "decode"))
    encode += ["--model", model, "--image_folder", source, "--out_folder", packed]
    decode += ["--model", model, "--compressed_folder", packed, "--out_folder", plain]
    return encode, [*decode, "--overwrite"]


def process_times(models: list[Path], path: Path, repeat: int, folder: Path) -> str:
    """Times and peak memory of entire processes for one picture, beside Python with Pillow."""
    plain = folder / "one.bmp"
    commands = {
        model.stem: script_commands(model, path, folder / f"{model.stem}-{path.stem}.xfr", plain)
        for model in models
    }
    pillow = sys.executable, "-c", PILLOW_SCRIPT
    for name in ("webp", "avif"):
        coded, setting = folder / f"one.{name}", PEER_QUALITIES[name]
        pair = [*pillow, path, coded, setting], [*pillow, coded, plain, 0]
        commands[f"Python, Pillow, {name}"] = pair
    rows = []
    for label, pair in commands.items():
        runs = [list(zip(*(run_script(command) for _ in range(repeat)))) for command in pair]
        times, sizes = zip(*([median(column) for column in pair] for pair in runs))
        rows.append([label, *(f"{t:.0f}" for t in times), *(f"{s / 2**20:.0f}" for s in sizes)])
    return table(["process", "encode, ms", "decode, ms", "encode, MiB", "decode, MiB"], rows)


def repeated(path: Path, megapixels: float, folder: Path) -> Path:
    """A file in ``folder``: the picture beside and below itself, of this size, 4:3."""
    pixels, height = read_picture(path).rgb, round((megapixels * 1e6 * 3 / 4) ** 0.5)
    rows, columns = (np.arange(side) for side in (height, height * 4 // 3))
    pixels = pixels[rows % pixels.shape[0]][:, columns % pixels.shape[1]]
    Image.fromarray(pixels).save(folder / "repeated.ppm")
    return folder / "repeated.ppm"


def run_script(command: list) -> tuple[float, int]:
    """The milliseconds of a process, and its peak resident memory in bytes, from Linux's VmHWM; 0
    on other systems. RuntimeError if it fails."""
    start, peak = time.perf_counter(), 0
    command = list(map(str, command))
    with tempfile.TemporaryFile("w+") as errors:  # a pipe that nobody reads would fill up
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            text = status.read_text() if status.exists() else ""
            if found := re.search(r"VmHWM:\s*(\d+) kB", text):
                peak = 1024 * int(found[1])
            time.sleep(0.005)
        taken = 1000 * (time.perf_counter() - start)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{Path(command[1]).name} failed: {errors.read()[-200:]}")
    return taken, peak


if __name__ == "__main__":
    run(main, parse_args())
