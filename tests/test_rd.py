import csv
import math
from pathlib import Path

import pytest
from helpers import ROOT, colour, grey, save_png, save_tiny
from PIL import Image

from benchmarks.curves import read_published
from model.limits import DEFAULT_QUALITY
from utils.images import read_picture
from utils.metrics import psnr

SETTINGS = 13  # of JPEG


@pytest.fixture
def rd(script, workplace):
    """Run the script on two pictures, for JPEG if not told otherwise."""
    save_png(workplace / "tiny" / "colour.png", colour(40, 56))
    save_png(workplace / "tiny" / "grey.png", grey(33, 24))

    def run(*args, codecs=("jpeg",)):
        return script("benchmarks/rd", "tiny", "--out", "results", "--codecs", *codecs, *args)

    return run


def rows(path="results/rd.csv") -> list[dict]:
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_measures_each_file_once(rd):
    first = rd("--keep", "kept")
    assert first.code == 0, first.err
    assert f"{2 * SETTINGS} files measured, 0 were" in first.out
    table = Path("results/rd.csv").read_bytes()
    assert table.startswith(b"codec,setting,picture,bytes,bpp,psnr,ssim,ms_ssim\n")
    for name in ("rd-psnr.png", "rd-ms-ssim.png"):
        assert Image.open(f"results/{name}").size == (1050, 750)
    assert "| JPEG | anchor |" in Path("results/rd.md").read_text()

    second = rd("--range", "20", "30")
    assert second.code == 0, second.err
    assert f"0 files measured, {2 * SETTINGS} were" in second.out
    assert Path("results/rd.csv").read_bytes() == table


def test_rows_are_those_of_the_files(rd):
    rd("--keep", "kept")
    assert len(rows()) == 2 * SETTINGS
    for row in rows():
        assert row["codec"] == "jpeg"
        name = Path(row["picture"]).name
        file = Path("kept", "jpeg", row["setting"], f"{name}.jpg")
        original = read_picture(Path("tiny", name))
        height, width = original.shape
        assert int(row["bytes"]) == file.stat().st_size
        assert float(row["bpp"]) == pytest.approx(
            8 * file.stat().st_size / (height * width), rel=1e-5
        )
        score = psnr(original.rgb, read_picture(file).rgb)
        assert float(row["psnr"]) == pytest.approx(score, rel=1e-5)
        assert row["ms_ssim"] == ""  # too small for it


@pytest.mark.parametrize("left", [-1, 30, 0])
def test_a_half_written_row_is_repaired(rd, left):
    rd()
    path = Path("results/rd.csv")
    table = path.read_bytes()
    path.write_bytes(table[:left])
    kept = max(table[:left].count(b"\n") - 1, 0)
    again = rd()
    assert again.code == 0, again.err
    assert f"{2 * SETTINGS - kept} files measured, {kept} were" in again.out
    assert path.read_bytes() == table


def test_another_csv_is_left_alone(rd):
    path = Path("results/rd.csv")
    path.parent.mkdir()
    path.write_text("name,score\na,1")
    done = rd()
    assert done.code == 1 and "another kind of CSV" in done.err
    assert path.read_text() == "name,score\na,1"


@pytest.mark.parametrize(("arch", "effort"), [("binary", 0), ("hyperprior", 0), ("hyperprior", 2)])
def test_ours_are_the_files_of_encode(rd, script, checkpoints, arch, effort):
    done = rd("--model", checkpoints[arch], "--qualities", 1, 100, "--keep", "kept",
              "--effort", effort, codecs=("ours", "jpeg"))  # fmt: skip
    assert done.code == 0, done.err
    label = f"tiny (ours), --effort {effort}" if effort else "tiny (ours)"
    assert f"{label} at its default quality {DEFAULT_QUALITY}" in done.out
    ours = [row for row in rows() if row["codec"] != "jpeg"]
    assert sorted(int(row["setting"]) for row in ours) == [1, 1, *[DEFAULT_QUALITY] * 2, 100, 100]
    folders = ["--image_folder", "tiny", "--out_folder", "encoded"]
    coding = ["--model", checkpoints[arch], "--effort", effort]
    assert script("encode", *coding, *folders).code == 0
    for name in ("colour", "grey"):
        file = Path("kept", ours[0]["codec"], str(DEFAULT_QUALITY), f"{name}.png.xfr")
        assert file.read_bytes() == Path("encoded", f"{name}.xfr").read_bytes()


def test_another_checkpoint_of_that_name_is_measured_anew(rd, workplace):
    flags = ["--model", "tiny.tar", "--qualities", DEFAULT_QUALITY, "--anchor", "tiny"]
    for seed in (0, 1):
        save_tiny(workplace / "tiny.tar", seed=seed)
        assert "2 files measured, 0 were" in rd(*flags, codecs=["ours"]).out
    assert "0 files measured, 2 were" in rd(*flags, codecs=["ours"]).out
    assert len({row["codec"] for row in rows()}) == 2


def test_efforts_are_curves_of_their_own(rd, checkpoints):
    models = [flag for arch in checkpoints for flag in ("--model", checkpoints[arch])]
    done = rd(*models, "--qualities", DEFAULT_QUALITY, "--effort", 0, 1, codecs=("ours", "jpeg"))
    assert done.code == 0, done.err
    assert len({row["codec"] for row in rows()} - {"jpeg"}) == 3  # the binary codec has no effort


def test_a_picture_that_fails_is_in_no_average(rd):
    Path("tiny", "broken.png").write_bytes(b"no picture")
    done = rd()
    assert done.code == 1
    assert "failed: tiny/broken.png" in done.err
    assert "left out of all averages, since they failed: 1" in done.out
    assert "2 pictures of tiny" in Path("results/rd.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--anchor", "jpeg2001"], "--anchor jpeg2001 is not one of jpeg"),
        (["--range", "36", "26"], "--range"),
        (["--published", "tiny/grey.png"], "tiny/grey.png is not a CSV"),
        (["--model", "missing.tar", "--codecs", "ours"], "no such checkpoint"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(rd, flags, message):
    done = rd(*flags)
    assert done.code == 1 and message in done.err
    assert not Path("results").exists()


def test_published_curves_rise_and_name_their_source(rd):
    path = ROOT / "benchmarks/published_kodak.csv"
    for series in read_published(path).values():
        curve = series.curve()
        assert len(curve.rate) == len(series.points) >= 4
        assert 20 < min(curve.psnr) < max(curve.psnr) < 50 and max(curve.rate) < 6
    assert all(row["source"] for row in rows(path))
    done = rd("--published", path, "--anchor", "jpeg", "VTM (VVC)", "--range", 20, 40)
    assert "| BD-rate to VTM (VVC) (published) |" in done.out
    assert "BPG 4:4:4 (published)" in done.out


def test_help_names_the_options(module):
    done = module("benchmarks.rd", "--help")
    assert done.code == 0 and "--anchor" in done.out


def test_earlier_checkpoints_are_drawn_as_published_curves_are(rd):
    path = ROOT / "benchmarks/checkpoints_kodak.csv"
    names = list(read_published(path))
    assert len(names) >= 5
    done = rd("--published", path, "--range", 20, 40)
    assert done.code == 0, done.err
    assert all(f"| {name} (published) |" in done.out for name in names)


def test_average_over_pictures_is_arithmetic(rd):
    from benchmarks.curves import average
    from benchmarks.results import Results

    rd()
    results = Results(Path("results/rd.csv"))
    names = ["tiny/colour.png", "tiny/grey.png"]
    (point,) = average(results, "jpeg", [50], names)
    pair = [results.rows["jpeg", 50, name] for name in names]
    assert point.bpp == pytest.approx((pair[0].bpp + pair[1].bpp) / 2)
    assert point.psnr == pytest.approx((pair[0].psnr + pair[1].psnr) / 2)
    assert point.ms_ssim is None and math.isfinite(point.psnr)
