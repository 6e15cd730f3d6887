"""The measurements of speed.py; each gives a table in Markdown."""

import os
import re
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import fmean, median
from unittest import mock

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import decode
import encode
from benchmarks.peers import Ours, make_peers
from model.entropy import SymbolCoder, SymbolDecoder
from utils.devices import pick_device
from utils.images import Picture, read_picture, to_picture, write_picture

ROOT = Path(__file__).resolve().parents[1]
EFFORT = 8  # of ours that has one, timed beside none
# About 30 dB on Kodak, as our default quality gives.
SETTINGS = {"jpeg": 50, "webp": 40, "avif": 40, "jpegxl": 50}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(function: Callable, *args) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


class MbtMean:
    """CompressAI's mbt2018-mean at quality 3: Minnen, Ballé, Toderici 2018."""

    label, extension = "mbt2018-mean (CompressAI)", "mbt"

    def __init__(self):
        from compressai.zoo import mbt2018_mean

        self.network = mbt2018_mean(quality=3, pretrained=False).eval()
        self.network.update()

    @torch.inference_mode()
    def write(self, picture: Picture, _: int, path: Path) -> None:
        x = torch.from_numpy(picture.rgb).permute(2, 0, 1)[None] / 255
        bottom, right = -x.shape[2] % 64, -x.shape[3] % 64
        x = torch.nn.functional.pad(x, (0, right, 0, bottom), mode="replicate")
        self.coded = self.network.compress(x)
        path.write_bytes(b"".join(part[0] for part in self.coded["strings"]))

    @torch.inference_mode()
    def read(self, path: Path) -> np.ndarray:
        x_hat = self.network.decompress(**self.coded)["x_hat"][0]
        return x_hat.permute(1, 2, 0).mul(255).round().byte().numpy()


def codecs(models: list[Path], paths: list[Path], repeat: int, threads: int, folder: Path) -> str:
    """Encoding and decoding by every codec that is to be had, the mean over the pictures of
    their medians, and how many times faster than AVIF that is."""
    device = pick_device("cpu")
    chosen = []
    for model in models:
        ours = Ours(model, [], device)
        fast = Ours(model, [], device, fast=True)
        chosen += [(ours, ours.default), (fast, ours.default)]
        if ours.has_effort:
            chosen.append((ours.at_effort(EFFORT), ours.default))
    missing = []
    for peer in make_peers():
        if peer.name in SETTINGS:
            if peer.available:
                chosen.append((peer, SETTINGS[peer.name]))
            else:
                missing.append(peer.label)
            if peer.name in ("avif", "jpegxl"):
                name = "max_threads" if peer.name == "avif" else "num_threads"
                peer.options = with_threads(peer.options, name, threads)
    try:
        chosen.append((MbtMean(), 3))
    except ImportError:
        missing.append(MbtMean.label)

    times = {}
    for codec, setting in tqdm(chosen, "codecs", leave=False):
        means = []
        for path in paths:
            picture = read_picture(path)
            file = folder / f"timed.{codec.extension}"
            codec.write(picture, setting, file)
            codec.read(file)
            runs = [
                (seconds(codec.write, picture, setting, file), seconds(codec.read, file))
                for _ in range(repeat)
            ]
            means.append([median(column) for column in zip(*runs)])
        times[f"{codec.label}, {setting}"] = [1000 * fmean(column) for column in zip(*means)]
    anchor = next((value for label, value in times.items() if "AVIF" in label), None)
    rows = []
    for label, (encoding, decoding) in times.items():
        ratios = [anchor[0] / encoding, anchor[1] / decoding] if anchor else []
        rows.append([label, f"{encoding:.1f}", f"{decoding:.1f}", *(f"{r:.2f}" for r in ratios)])
    head = ["codec, setting", "encode, ms", "decode, ms"]
    head += ["encodes x AVIF's speed", "decodes x AVIF's speed"] if anchor else []
    note = f"\n\nNot installed: {', '.join(missing)}." if missing else ""
    return table(head, rows) + note


def with_threads(options: Callable[[int], dict], name: str, threads: int):
    return lambda setting: {**options(setting), name: threads}


PILLOW = """
import sys
from PIL import Image
Image.open(sys.argv[1]).convert("RGB").save(sys.argv[2], quality=int(sys.argv[3]))
"""


def script(name: str, *flags) -> list[str]:
    return [sys.executable, str(ROOT / f"{name}.py"), *map(str, flags)]


def wall(command: list[str]) -> float:
    return seconds(lambda: subprocess.run(command, check=True, capture_output=True))


def scripts(models: list[Path], path: Path, repeat: int, folder: Path) -> str:
    """A whole process for one picture, start-up included, beside Python with Pillow."""
    rows = []
    for model in models:
        packed, plain = folder / model.stem, folder / f"{model.stem}-decoded"
        commands = [
            script("encode", "--model", model, "--image_folder", path, "--out_folder", packed),
            script("decode", "--model", model, "--compressed_folder", packed,
                   "--out_folder", plain),
        ]  # fmt: skip
        rows.append([model.stem, *(median(wall(c) for _ in range(repeat)) for c in commands)])
    for extension, name in (("webp", "WebP"), ("avif", "AVIF")):
        coded, plain = folder / f"one.{extension}", folder / "one.bmp"
        commands = [
            [sys.executable, "-c", PILLOW, str(path), str(coded), str(SETTINGS[extension])],
            [sys.executable, "-c", PILLOW, str(coded), str(plain), "0"],
        ]
        rows.append([f"Python, Pillow, {name}"])
        rows[-1] += [median(wall(c) for _ in range(repeat)) for c in commands]
    rows = [[label, *(f"{1000 * value:.0f}" for value in values)] for label, *values in rows]
    return table(["process", "encode, ms", "decode, ms"], rows)


class Stopwatch:
    """Adds up the time spent in each stage, without that of the stages within it."""

    def __init__(self):
        self.times: dict[str, float] = defaultdict(float)
        self.inner = [0.0]

    @contextmanager
    def stage(self, name: str):
        self.inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.times[name] += spent - self.inner.pop()
            self.inner[-1] += spent

    def watch(self, owner, method: str, name: str):
        """A patch under which calls of ``owner.method`` count as the stage ``name``."""
        original = getattr(owner, method)

        def timed(*args, **kwargs):
            with self.stage(name):
                return original(*args, **kwargs)

        return mock.patch.object(owner, method, timed)


def stages(model: Path, paths: list[Path], repeat: int, folder: Path) -> str:
    """Means over pictures and repeats, of what encode.py and decode.py do with a picture."""
    ours = Ours(model, [], pick_device("cpu"))
    watch = Stopwatch()
    file, plain = folder / "staged.xfr", folder / "staged.bmp"
    kind = type(ours.encoder.codec)

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
        watch.watch(kind, "encode_latents", "encode: entropy model, packing"),
        watch.watch(SymbolCoder, "encode", "encode: symbol coder"),
        watch.watch(kind, "decode_latents", "decode: entropy model, unpacking"),
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


def plain_loop(paths, tally, load: Callable, compute: Callable, save: Callable, _) -> None:
    """What ``run_job`` does, one thing after the other, with all threads for each."""
    for path in paths:
        save(path, compute(path, load(path)))


def silent(function: Callable, args: Namespace) -> tuple[float, float]:
    """Seconds that a script's ``main`` takes, by the clock and of all cores. RuntimeError if it
    fails."""
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        start, busy = time.perf_counter(), time.process_time()
        if function(args):
            raise RuntimeError("a picture could not be coded")
        return time.perf_counter() - start, time.process_time() - busy


def arguments(module, *flags) -> Namespace:
    with mock.patch.object(sys, "argv", [module.__name__, *map(str, flags)]):
        return module.parse_args()


def throughput(models: list[Path], paths: list[Path], folder: Path) -> str:
    """Pictures a second of encode.py and decode.py, beside a plain loop over the same functions."""
    source = folder / "many"
    source.mkdir()
    for index, path in enumerate(paths):
        shutil.copy(path, source / f"{index}{path.suffix}")
    rows = []
    for model in tqdm(models, "throughput", leave=False):
        packed = folder / f"{model.stem}-many"
        coding = {
            "encode": (encode, "--image_folder", source, "--out_folder", packed),
            "decode": (decode, "--compressed_folder", packed, "--out_folder", folder / "plain"),
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


def mosaic(paths: list[Path], megapixels: float, path: Path) -> None:
    """A picture of this size, 4:3, of the pictures side by side."""
    height = max(1, round((megapixels * 1e6 * 3 / 4) ** 0.5))
    width = max(1, round(megapixels * 1e6 / height))
    out = Image.new("RGB", (width, height))
    parts = [Image.open(part).convert("RGB") for part in paths]
    cell_width, cell_height = (min(sizes) for sizes in zip(*(part.size for part in parts)))
    for row, top in enumerate(range(0, height, cell_height)):
        for column, left in enumerate(range(0, width, cell_width)):
            out.paste(parts[(row + column) % len(parts)].crop((0, 0, cell_width, cell_height)),
                      (left, top))  # fmt: skip
    out.save(path)


def growth(models: list[Path], paths: list[Path], sizes: list[float], folder: Path) -> str:
    """Seconds a megapixel, as the scripts say, and the most memory that they ever hold."""
    rows = []
    for size in tqdm(sizes, "sizes", leave=False):
        source = folder / "mosaic.ppm"
        mosaic(paths, size, source)
        for model in models:
            packed = folder / f"{model.stem}-mosaic"
            commands = [
                script("encode", "--model", model, "--image_folder", source,
                       "--out_folder", packed),
                script("decode", "--model", model, "--compressed_folder", packed,
                       "--out_folder", folder / "plain"),
            ]  # fmt: skip
            cells = []
            for command in commands:
                taken, memory = measured(command)
                cells += [f"{1000 * taken / size:.0f}", f"{memory / 2**20:.0f}"]
            rows.append([f"{size:g}", model.stem, *cells])
    head = ["megapixels", "codec", "encode, ms a megapixel", "encode, MiB"]
    return table([*head, "decode, ms a megapixel", "decode, MiB"], rows)


def measured(command: list[str]) -> tuple[float, int]:
    """Seconds a picture, from a script's summary, and the most resident memory, in bytes. The
    scripts start no other processes."""
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
    """Bytes of memory that a process has been resident in at most, as Linux counts them; 0 where
    that is not known. (The ru_maxrss of a child starts from what its parent holds.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0
