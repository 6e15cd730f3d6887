"""The tables of the benchmarks of effort and of speed, of known costs and times."""

import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from helpers import colour, save_png

from benchmarks import effort, speed
from xfr.images import Picture

MIB = 2**20


def cells(text: str) -> dict[str, list[str]]:
    """The cells of each row of a table by the first of them."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


# Effort


@pytest.fixture
def pictures(tmp_path) -> Path:
    for index in range(2):
        save_png(tmp_path / f"pictures/{index}.png", colour(80, 100, index))
    return tmp_path / "pictures"


def test_the_gain_is_saved_cost_in_percent_of_the_bits_and_the_least_is_of_one_picture(
    pictures, checkpoints, monkeypatch, tmp_path
):
    costs = {0: [3000, 2000], 2: [2900, 1950], 5: [2600, 2050]}  # of the two pictures
    bits, seconds = {0: [1000, 500], 2: [900, 450], 5: [800, 400]}, {0: 1, 2: 3, 5: 12}
    taken: dict[int, int] = dict.fromkeys(costs, 0)

    def measure(encoder, decoder, picture, quality, effort):
        if picture.shape == (64, 64):  # the one that warms up
            return 10**6, 1, 10**6
        index, taken[effort] = taken[effort], taken[effort] + 1
        return costs[effort][index], bits[effort][index], (index + 1) * seconds[effort]

    monkeypatch.setattr(effort, "measure", measure)
    args = Namespace(folder=pictures, model=checkpoints["hyperprior"], pictures=2, crop=0,
                     qualities=[50], effort=[5, 2], out=tmp_path)  # fmt: skip
    assert effort.main(args) == 0
    table = cells((tmp_path / "effort.md").read_text())
    assert table["0"][0] == "1.50"
    assert table["2"] == ["4.50", "10.00", "10.00"]
    assert table["5"] == ["18.00", "15.00", "-10.00"]


class Coder:
    """A stand-in for encoder and decoder: 1000 bytes, and every level off by ``error``."""

    def __init__(self, error: int):
        self.error, self.codec = error, self

    def encode(self, picture, settings) -> bytes:
        return bytes(1000)

    def decode(self, xfr) -> Picture:
        return Picture(colour(80, 100) ^ self.error)

    def picture_distortion(self, decoded, original, quality) -> float:
        return quality * float(np.abs(decoded.astype(int) - original).max())


def test_the_cost_of_a_file_is_its_bits_and_its_distortion_and_its_time_that_of_a_megapixel(
    monkeypatch,
):
    times = iter([7.0, 7.4])
    monkeypatch.setattr(effort.time, "process_time", lambda: next(times))
    monkeypatch.setattr(effort, "unpack", lambda data: data)
    found = effort.measure(Coder(0), Coder(1), Picture(colour(80, 100)), 50, 3)
    assert found == (8050, 8000, pytest.approx(50))


@pytest.mark.parametrize("side", [0, 40, 1000])
def test_squares_are_from_the_middle_of_pictures_that_have_one(pictures, side):
    found = effort.middle(pictures / "0.png", side).pixels
    expected = colour(80, 100)[20:60, 30:70] if side == 40 else colour(80, 100)
    assert np.array_equal(found, expected)


# Speed


class Timed:
    """A codec that does nothing."""

    extension, has_effort = "xfr", False

    def __init__(self, model, qualities, device):
        self.label = model.stem

    def write(self, picture, setting, path) -> None:
        path.write_bytes(b"")

    def read(self, path) -> None:
        pass


def test_a_time_is_the_mean_over_pictures_of_the_median_run_but_for_the_first(
    pictures, monkeypatch, tmp_path
):
    """Encoding, then decoding: four runs of each of two pictures; then of the other codec."""
    runs = [900, 900, 10, 1, 30, 3, 20, 2, 900, 900, 50, 5, 40, 9, 1000, 7]
    times = iter([*runs, *(10 * run for run in runs)])
    monkeypatch.setattr(speed, "timed", lambda function, *args: (next(times), function(*args)))
    monkeypatch.setattr(speed, "make_peers", lambda threads: [])
    monkeypatch.setattr(speed, "Ours", Timed)
    paths = sorted(pictures.iterdir())
    models = [Path("one.tar"), Path("two.tar")]
    table = cells(speed.codec_times(models, paths, 3, 1, tmp_path))
    assert table["one, 50"] == ["35.0", "4.5"] and table["two, 50"] == ["350.0", "45.0"]


def test_a_stage_takes_its_call_less_those_within_it(pictures, checkpoints, monkeypatch, tmp_path):
    taken = {"read_picture": 3, "write": 100, "read": 60, "compress": 70, "decompress": 45,
             "write_picture": 2}  # fmt: skip
    listed = {"tile_latents": 25, "latent_rows": 15}  # what a list is made of
    first = True

    def timed(function, *args):
        nonlocal first
        name = args[0].__name__ if function is list else function.__name__
        milliseconds = (taken | listed)[name] + 1000 * first
        first = first and name != "write_picture"
        return milliseconds, function(*args)

    monkeypatch.setattr(speed, "timed", timed)
    paths = sorted(pictures.iterdir())
    table = cells(speed.stage_times(checkpoints["hyperprior"], paths, 1, tmp_path))
    found = {name: float(row[0]) for name, row in table.items() if name[0] not in "s-"}
    assert found == {
        "read the picture": 3,
        "encode: analysis transform": 25,
        "encode: entropy coding": 45,
        "encode: the rest, and write the .xfr": 30,
        "decode: read the .xfr, and the rest": 15,
        "decode: entropy coding": 15,
        "decode: synthesis transform": 30,
        "write the picture": 2,
    }


def test_a_process_is_shown_with_its_median_time_and_memory(pictures, monkeypatch, tmp_path):
    decoding = iter([(90, 8 * MIB), (70, 6 * MIB), (80, 7 * MIB)])
    encoding = iter([(10, 1 * MIB), (30, 3 * MIB), (20, 2 * MIB)])

    def run_script(command):
        if "--image_folder" in command:
            return next(encoding)
        return next(decoding) if "--compressed_folder" in command else (5, MIB)

    monkeypatch.setattr(speed, "run_script", run_script)
    table = cells(speed.process_times([Path("one.tar")], pictures / "0.png", 3, tmp_path))
    assert table["one"] == ["20", "80", "2", "7"]
    assert table["Python, Pillow, webp"] == ["5", "5", "1", "1"]


ALLOCATE = """
import time
numbers = bytearray(100_000_000)
time.sleep(0.3)
lines = dict(line.split(":") for line in open("/proc/self/status"))
open("peak", "w").write(str(1024 * int(lines["VmHWM"].split()[0])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is that of Linux")
def test_the_memory_of_a_process_is_its_peak_in_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, peak = speed.run_script([sys.executable, "-c", ALLOCATE])
    assert peak == pytest.approx(int(Path("peak").read_text()), rel=0.01)
    assert peak > 100_000_000


def test_milliseconds_are_of_the_call(monkeypatch):
    times = iter([2.0, 2.25])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(times))
    assert speed.timed(max, 3, 4) == (250, 4)


@pytest.mark.parametrize("megapixels", [0.003, 0.1])
def test_a_picture_is_repeated_to_the_size_that_was_asked_for(pictures, tmp_path, megapixels):
    source = colour(80, 100)
    found = effort.read_picture(speed.repeated(pictures / "0.png", megapixels, tmp_path)).pixels
    height, width, _ = found.shape
    assert height * width == pytest.approx(1e6 * megapixels, rel=0.03)
    assert width / height == pytest.approx(4 / 3, rel=0.03)
    tiled = np.tile(source, (-(-height // 80), -(-width // 100), 1))[:height, :width]
    assert np.array_equal(found, tiled)
