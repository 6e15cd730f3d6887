"""The totals that the scripts print are those of the files."""

import re
import shutil
from pathlib import Path

import pytest
from helpers import colour, grey, save_png
from PIL import Image

from utils.jobs import run_job

PIXELS = 48 * 70 + 60 * 52


@pytest.fixture
def project(workplace, checkpoints) -> Path:
    """The current folder, with out/main.tar, a grey picture and one of colours with alpha."""
    (workplace / "out").mkdir()
    shutil.copy(checkpoints["binary"], "out/main.tar")
    save_png(workplace / "out/original/grey.png", grey(48, 70))
    picture = Image.fromarray(colour(60, 52, seed=1))
    picture.putalpha(100)
    picture.save("out/original/alpha.png")
    return workplace


def size(folder: str) -> int:
    return sum(path.stat().st_size for path in Path("out", folder).iterdir())


def numbers(line: str) -> dict[str, float]:
    """The numbers of a summary, by the words before or behind them."""
    found = {"in": r"([\d,]+) bytes in", "out": r"([\d,]+) out", "bpp": r"bpp ([\d.]+)",
             "ratio": r"ratio ([\d.]+)"}  # fmt: skip
    matches = {name: re.search(pattern, line) for name, pattern in found.items()}
    return {name: float(m[1].replace(",", "")) for name, m in matches.items() if m}


def test_bytes_and_rates_are_of_all_files_whatever_their_channels(script, project):
    encoded = script("encode")
    packed, original = size("compressed"), size("original")
    rate = pytest.approx(8 * packed / PIXELS, abs=6e-4)
    ratio = pytest.approx(original / packed, abs=0.01)
    expected = {"in": original, "out": packed, "bpp": rate, "ratio": ratio}
    assert encoded.code == 0 and numbers(encoded.out) == expected

    decoded = script("decode", "--file_format", "png")
    assert decoded.code == 0
    assert numbers(decoded.out) == {"in": packed, "out": size("reconstructed"), "bpp": rate}

    scored = script("test", "--file_format", "png")
    summary, _ = scored.out.splitlines()
    assert scored.code == 0 and numbers(summary) == numbers(encoded.out)


@pytest.mark.parametrize(("more", "larger"), [(0, False), (1, True)])
def test_a_file_is_larger_than_its_original_from_one_byte_more_on(
    script, project, monkeypatch, more, larger
):
    Path("out/original/alpha.png").unlink()
    content = bytes(size("original") + more)
    monkeypatch.setattr("xfr.encoder.Encoder.encode", lambda *args: content)
    found = script("encode")
    assert found.code == 0 and ("1 larger than the original" in found.out) == larger
    assert ("is larger" in found.err) == larger


def test_room_is_kept_for_the_pixels_of_every_picture(script, project, monkeypatch):
    """Room for its channels and transparency; decoded, for three channels; scored, for two
    pictures."""
    rooms = []

    def spy(paths, tally, load, compute, save, computers, pixel_bytes) -> None:
        rooms.append({path.stem: pixel_bytes(load(path)) for path in paths})
        run_job(paths, tally, load, compute, save, computers, pixel_bytes)

    monkeypatch.setattr("utils.jobs.run_job", spy)
    for name in ("encode", "decode", "test"):
        assert script(name).code == 0
    grey_pixels, pixels = 48 * 70, 60 * 52
    assert rooms == [
        {"grey": grey_pixels, "alpha": 4 * pixels},
        {"grey": 3 * grey_pixels, "alpha": 4 * pixels},
        {"grey": 6 * grey_pixels, "alpha": 6 * pixels},
    ]
