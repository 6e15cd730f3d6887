"""Time and memory of our codecs beside those of others, in one run on the same pictures.

examples:
  python -m benchmarks.speed out/original/
  python -m benchmarks.speed kodak/ --pictures 4 --threads 2
  python -m benchmarks.speed photos/ --throughput 200
  python -m benchmarks.speed kodak/ --pictures 4 --sizes 0.1 0.5 2 10 25 100

Times depend on the machine and its load; only their ratios compare with those of another run.
Coding goes from pixels in memory to a file and back, with files in the page cache. CompressAI's
mbt2018-mean is measured where that package is installed, with random weights: its networks take as
long as with trained ones, its entropy coder may not.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import fmean, median
from types import ModuleType
from typing import Any
from unittest import mock

import decode
import encode
from benchmarks.markdown import table
from benchmarks.models import add_model_argument, chosen_models
from utils.console import make_parser, number, run

ROOT = Path(__file__).resolve().parents[1]
EFFORT = 4  # of our codecs that have one, timed beside none
# About 30 dB on Kodak, as our default quality gives.
SETTINGS = {"jpeg": 50, "webp": 40, "avif": 40, "jpegxl": 50}


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="pictures; sub-folders are searched too")
    add_model_argument(parser)
    add("--pictures", type=number(int, 1), default=8, help="number of pictures to time")
    add("--repeat", type=number(int, 1), default=5, help="times that each is coded; medians count")
    add("--threads", type=number(int, 1), default=2, help="threads of each codec")
    add(
        "--throughput",
        type=number(int, 1),
        metavar="COUNT",
        help="also measure encode.py and decode.py on a folder of this many pictures",
    )
    add(
        "--sizes",
        nargs="+",
        type=number(float, 0),
        default=[],
        metavar="MEGAPIXELS",
        help="also measure time and memory for pictures of these sizes",
    )
    add("--out", type=Path, default=Path("./out/scores/speed.md"), help="file for the tables")
    return parser.parse_args()


def main(args: Namespace) -> int:
    # Before any library starts its threads; the processes that are started inherit it.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)

    import torch

    from utils.files import atomic_write, find_files, image_extensions

    torch.set_num_threads(args.threads)
    paths = find_files(args.folder, image_extensions(None), recursive=True)
    if not paths:
        raise ValueError(f"no readable pictures in {args.folder}")
    models = list(dict.fromkeys(chosen_models(args)))
    first, many = paths[: args.pictures], paths[: args.throughput]
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
        if args.throughput:
            report += [f"## A folder of {len(many)} pictures", throughput(models, many, folder)]
        if args.sizes:
            report += ["## Large pictures", growth(models, first, sorted(args.sizes), folder)]
    text = "\n\n".join(report) + "\n"
    print(text)
    with atomic_write(args.out) as stream:
        stream.write(text.encode())
    return 0


def seconds(function: Callable, *args: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


# A picture, in this process


def codec_times(
    models: list[Path], paths: list[Path], repeat: int, threads: int, folder: Path
) -> str:
    """A table of the times to encode and decode with every available codec: means over the pictures
    of the medians over the repeats, and speeds relative to AVIF."""
    from tqdm import tqdm

    from benchmarks.peers import MbtMean, Ours, make_peers
    from utils.devices import pick_device
    from xfr.images import read_picture

    device = pick_device("cpu")
    chosen = []
    for model in models:
        ours = Ours(model, [], device)
        fast = Ours(model, [], device, fast=True)
        chosen += [(ours, ours.default), (fast, ours.default)]
        if ours.has_effort:
            chosen.append((ours.at_effort(EFFORT), ours.default))
    peers = [peer for peer in make_peers(threads) if peer.name in SETTINGS]
    chosen += [(peer, SETTINGS[peer.name]) for peer in peers if peer.available]
    missing = [peer.label for peer in peers if not peer.available]
    try:
        chosen.append((MbtMean(), MbtMean.setting))
    except ImportError:
        missing.append(MbtMean.label)

    times = {}
    for codec, setting in tqdm(chosen, "codecs", leave=False):
        medians = []
        for path in paths:
            picture = read_picture(path)
            file = folder / f"timed.{codec.extension}"
            codec.write(picture, setting, file)
            codec.read(file)
            runs = [
                (seconds(codec.write, picture, setting, file), seconds(codec.read, file))
                for _ in range(repeat)
            ]
            medians.append([median(column) for column in zip(*runs)])
        times[f"{codec.label}, {setting}"] = [1000 * fmean(column) for column in zip(*medians)]
    anchor = next((value for label, value in times.items() if "AVIF" in label), None)
    rows = []
    for label, (encoding, decoding) in times.items():
        ratios = [anchor[0] / encoding, anchor[1] / decoding] if anchor else []
        rows.append([label, f"{encoding:.1f}", f"{decoding:.1f}", *(f"{r:.2f}" for r in ratios)])
    head = ["codec, setting", "encode, ms", "decode, ms"]
    head += ["encoding speed / AVIF's", "decoding speed / AVIF's"] if anchor else []
    note = f"\n\nNot installed: {', '.join(missing)}." if missing else ""
    return table(head, rows) + note


class Stopwatch:
    """Adds up the time spent in each stage, without that of the stages within it."""

    def __init__(self):
        self.times: dict[str, float] = defaultdict(float)
        self.inner = [0.0]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A context whose time counts as the stage ``name``."""
        self.inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.times[name] += spent - self.inner.pop()
            self.inner[-1] += spent

    def watch(self, owner: type, method: str, name: str) -> Any:
        """A patch under which calls of ``owner.method`` count as the stage ``name``."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return original(*args, **kwargs)

        return mock.patch.object(owner, method, timed)


def stage_times(model: Path, paths: list[Path], repeat: int, folder: Path) -> str:
    """A table of the stages of encode.py and decode.py: means over pictures and repeats."""
    from benchmarks.peers import Ours
    from model.entropy import SymbolCoder, SymbolDecoder
    from utils.devices import pick_device
    from xfr.images import read_picture, to_picture, write_picture

    ours = Ours(model, [], pick_device("cpu"))
    watch = Stopwatch()
    file, plain = folder / "staged.xfr", folder / "staged.bmp"
    codec = ours.encoder.codec
    kind, coder = type(codec), type(codec.tile_coder(codec.STRIDE, codec.quality_tensor(1)))

    def both(path: Path) -> None:
        with watch.stage("read the picture"):
            picture = read_picture(path)
        with watch.stage("encode: the rest, and write the .xfr"):
            ours.write(picture, ours.default, file)
        with watch.stage("decode: read the .xfr, and the rest"):
            decoded = ours.read(file)
        with watch.stage("write the picture"), plain.open("wb") as stream:
            write_picture(to_picture(decoded, grey=False), stream, "bmp")

    with (
        watch.watch(kind, "analyse", "encode: analysis transform"),
        watch.watch(coder, "encode", "encode: entropy model, packing"),
        watch.watch(SymbolCoder, "encode", "encode: symbol coder"),
        watch.watch(coder, "decode", "decode: entropy model, unpacking"),
        watch.watch(SymbolDecoder, "decode", "decode: symbol coder"),
        watch.watch(kind, "synthesise", "decode: synthesis transform"),
    ):
        both(paths[0])
        watch.times.clear()
        for _ in range(repeat):
            for path in paths:
                both(path)
    count = repeat * len(paths)
    order = sorted(watch.times.items(), key=lambda item: -item[1])
    return table(["stage", "ms"], [[name, f"{1000 * t / count:.1f}"] for name, t in order])


# A picture, in a process that is started for it

PILLOW = """
import sys
from PIL import Image
Image.open(sys.argv[1]).convert("RGB").save(sys.argv[2], quality=int(sys.argv[3]))
"""


def script_commands(model: Path, source: Path, packed: Path, plain: Path) -> list[list[str]]:
    """The command lines that encode the picture ``source`` to ``packed``, and decode it to
    ``plain``."""
    into_plain = ("--out_folder", plain, "--overwrite")
    flags = {
        "encode": ("--model", model, "--image_folder", source, "--out_folder", packed),
        "decode": ("--model", model, "--compressed_folder", packed, *into_plain),
    }
    return [[sys.executable, str(ROOT / f"{k}.py"), *map(str, v)] for k, v in flags.items()]


def process_times(models: list[Path], path: Path, repeat: int, folder: Path) -> str:
    """A table of the times of entire processes for one picture, start-up included, beside those of
    Python with Pillow."""
    commands = {}
    for model in models:
        packed, plain = folder / model.stem, folder / f"{model.stem}-decoded"
        commands[model.stem] = script_commands(model, path, packed, plain)
    for extension, name in (("webp", "WebP"), ("avif", "AVIF")):
        coded, plain = folder / f"one.{extension}", folder / "one.bmp"
        pillow, quality = [sys.executable, "-c", PILLOW], str(SETTINGS[extension])
        commands[f"Python, Pillow, {name}"] = [
            [*pillow, str(path), str(coded), quality],
            [*pillow, str(coded), str(plain), "0"],
        ]

    def median_ms(command: list[str]) -> str:
        runs = [
            seconds(lambda: subprocess.run(command, check=True, capture_output=True))
            for _ in range(repeat)
        ]
        return f"{1000 * median(runs):.0f}"

    rows = [[label, *map(median_ms, pair)] for label, pair in commands.items()]
    return table(["process", "encode, ms", "decode, ms"], rows)


# A folder of pictures


def plain_loop(
    paths: Sequence[Path], tally: Any, load: Callable, compute: Callable, save: Callable, _: Any
) -> None:
    """What ``run_job`` does, one step after the other, with all threads for each."""
    for path in paths:
        save(path, compute(path, load(path)))


def silent(function: Callable[[Namespace], int], args: Namespace) -> tuple[float, float]:
    """Seconds that a script's ``main`` takes, by the clock and of all cores together. RuntimeError
    if it fails."""
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        start, busy = time.perf_counter(), time.process_time()
        if function(args):
            raise RuntimeError("a picture could not be coded")
        return time.perf_counter() - start, time.process_time() - busy


def arguments(module: ModuleType, *flags: object) -> Namespace:
    """The arguments of a script that is called with these flags."""
    with mock.patch.object(sys, "argv", [module.__name__, *map(str, flags)]):
        return module.parse_args()


def throughput(models: list[Path], paths: list[Path], folder: Path) -> str:
    """A table of the pictures per second of encode.py and decode.py, beside a plain loop over the
    same functions."""
    from tqdm import tqdm

    source = folder / "many"
    source.mkdir()
    for index, path in enumerate(paths):
        shutil.copy(path, source / f"{index}{path.suffix}")
    rows = []
    for model in tqdm(models, "throughput", leave=False):
        packed, plain = folder / f"{model.stem}-many", folder / "plain"
        into_plain = ("--out_folder", plain, "--overwrite")
        coding = {
            "encode": (encode, "--image_folder", source, "--out_folder", packed),
            "decode": (decode, "--compressed_folder", packed, *into_plain),
        }
        for name, (module, *flags) in coding.items():
            args = arguments(module, "--model", model, *flags)
            with mock.patch("utils.jobs.run_job", plain_loop):
                loop, _ = silent(module.main, args)
            job, busy = silent(module.main, args)
            rates = [f"{len(paths) / loop:.1f}", f"{len(paths) / job:.1f}", f"{loop / job:.2f}"]
            rows.append([f"{model.stem}, {name}.py", *rates, f"{busy / job:.2f}"])
    head = ["", "plain loop, pictures/s", "script, pictures/s", "ratio", "script, cores busy"]
    return table(head, rows)


# Large pictures


def mosaic(paths: list[Path], megapixels: float, path: Path) -> None:
    """Write a picture of this size, 4:3, of the pictures side by side."""
    from PIL import Image

    height = max(1, round((megapixels * 1e6 * 3 / 4) ** 0.5))
    width = max(1, round(megapixels * 1e6 / height))
    out = Image.new("RGB", (width, height))
    images = [Image.open(image).convert("RGB") for image in paths]
    cell_width, cell_height = (min(sides) for sides in zip(*(image.size for image in images)))
    for row, top in enumerate(range(0, height, cell_height)):
        for column, left in enumerate(range(0, width, cell_width)):
            image = images[(row + column) % len(images)]
            out.paste(image.crop((0, 0, cell_width, cell_height)), (left, top))
    out.save(path)


def growth(models: list[Path], paths: list[Path], sizes: list[float], folder: Path) -> str:
    """A table of the time per megapixel and of the peak memory of the scripts, by picture size."""
    rows = []
    for size in sizes:
        source = folder / "mosaic.ppm"
        mosaic(paths, size, source)
        for model in models:
            packed, cells = folder / f"{model.stem}-mosaic", []
            for command in script_commands(model, source, packed, folder / "plain"):
                taken, memory = measured(command)
                cells += [f"{1000 * taken / size:.0f}", f"{memory / 2**20:.0f}"]
            rows.append([f"{size:g}", model.stem, *cells])
    head = ["megapixels", "codec", "encode, ms per megapixel", "encode, MiB"]
    return table([*head, "decode, ms per megapixel", "decode, MiB"], rows, left=2)


def measured(command: list[str]) -> tuple[float, int]:
    """Seconds per picture, from a script's summary, and its peak resident memory in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, peak_memory(process.pid))
        time.sleep(0.02)
    out, err = process.communicate()
    found = re.search(r"([\d.]+) s per picture", out)
    if process.returncode or not found:
        raise RuntimeError(f"{Path(command[1]).name} failed: {err.splitlines()[-1:]}")
    return float(found[1]), peak


def peak_memory(pid: int) -> int:
    """The peak resident memory of a process in bytes, from Linux's VmHWM; 0 on other systems. (A
    child's ru_maxrss starts from what its parent holds.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


if __name__ == "__main__":
    run(main, parse_args())
