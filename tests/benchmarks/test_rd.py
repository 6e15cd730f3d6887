import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT, colour, grey, save_png, save_tiny
from PIL import Image

from benchmarks.curves import average, read_published
from benchmarks.measures import MEASURES
from benchmarks.peers import make_peers
from benchmarks.results import Results
from model.limits import DEFAULT_QUALITY
from utils.measures import psnr, ssimulacra2
from xfr.file import pack, unpack
from xfr.images import read_picture

SETTINGS = 13  # of JPEG


@pytest.fixture
def rd(script, workplace):
    """Run the script on two pictures, for JPEG and its PSNR if not told otherwise."""
    save_png(workplace / "tiny" / "colour.png", colour(40, 56))
    save_png(workplace / "tiny" / "grey.png", grey(33, 24))

    def run(*args, codecs=("jpeg",), measures=("psnr",), folders=("tiny",)):
        chosen = ["--codecs", *codecs, "--measures", *measures]
        return script("benchmarks/rd", *folders, "--out", "results", *chosen, *args)

    return run


def rows(path="results/rd.csv") -> list[dict]:
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_measures_each_file_once(rd):
    first = rd("--keep", "kept")
    assert first.code == 0, first.err
    assert f"{2 * SETTINGS} files measured, 0 were" in first.out
    table = Path("results/rd.csv").read_bytes()
    assert table.startswith(b"codec,setting,picture,bytes,bpp,measure,score\n")
    assert Image.open("results/tiny-psnr.png").size == (1050, 750)
    assert "| JPEG | anchor |" in Path("results/rd.md").read_text()

    second = rd("--range", "psnr", "20", "30")
    assert second.code == 0, second.err
    assert f"0 files measured, {2 * SETTINGS} were" in second.out
    assert Path("results/rd.csv").read_bytes() == table


def test_rows_are_those_of_the_files(rd):
    rd("--keep", "kept", "--every", 4, measures=["psnr", "ms_ssim", "ssimulacra2"])
    assert len(rows()) == 2 * 4 * 3
    for row in rows():
        assert row["codec"] == "jpeg"
        name = Path(row["picture"]).name
        file = Path("kept", "jpeg", row["setting"], f"tiny/{name}.jpg")
        original = read_picture(Path("tiny", name))
        height, width = original.shape
        assert int(row["bytes"]) == file.stat().st_size
        assert float(row["bpp"]) == pytest.approx(
            8 * file.stat().st_size / (height * width), rel=1e-5
        )
        score = {"psnr": psnr, "ssimulacra2": ssimulacra2}.get(row["measure"], lambda *_: None)
        expected = score(original.rgb, read_picture(file).rgb)
        if expected is None:  # too small for MS-SSIM
            assert row["measure"] == "ms_ssim" and row["score"] == ""
        else:
            assert float(row["score"]) == pytest.approx(expected, rel=1e-5)


def test_a_later_run_adds_measures_to_what_is_there(rd):
    rd()
    table = Path("results/rd.csv").read_bytes()
    done = rd("--every", 4, measures=["psnr", "ssimulacra2"])
    assert "8 files measured, 0 were" in done.out
    assert Path("results/rd.csv").read_bytes().startswith(table)
    assert len(rows()) == 2 * SETTINGS + 8
    assert "## SSIMULACRA 2, " in done.out
    done = rd("--every", 8, measures=["ssimulacra2"])  # half of these settings
    assert "0 files measured, 4 were" in done.out and "PSNR, 26" not in done.out


def test_folders_have_tables_and_plots_of_their_own_and_one_in_common(rd, checkpoints):
    save_png(Path("round/disc.png"), colour(48, 48, 1))
    done = rd("--model", checkpoints["binary"], "--qualities", 1, 100, "--anchor", "webp",
              codecs=["ours", "webp"], folders=["tiny", "round"])  # fmt: skip
    assert done.code == 0, done.err
    assert "# Rate and distortion, 2 pictures of tiny\n" in done.out
    assert "# Rate and distortion, round/disc.png\n" in done.out
    together = done.out.split("# Means of the pictures' BD-rates\n\n")[1].splitlines()
    assert together[0] == "| PSNR, 26 to 36 dB | tiny (ours) to WebP |"
    assert [line.split(" | ")[0] for line in together[2:4]] == [
        "| 2 pictures of tiny",
        "| round/disc.png",
    ]
    assert {path.name for path in Path("results").glob("*.png")} == {
        "tiny-psnr.png",
        "round-psnr.png",
    }


def test_tables_and_plots_are_made_again_from_the_csv_alone(rd, script, checkpoints):
    models = ["--model", checkpoints["hyperprior"], "--qualities", 1, 100, "--effort", 0, 1]
    done = rd(*models, codecs=["ours", "jpeg", "webp"], measures=["psnr", "ssimulacra2"])
    assert done.code == 0, done.err
    text, table = Path("results/rd.md").read_text(), Path("results/rd.csv").read_bytes()
    shutil.rmtree("tiny")
    stored = ["--from", "results/rd.csv", "--out", "again"]
    again = script("benchmarks/rd", *stored, "--effort", 0, 1)
    assert again.code == 0, again.err
    found = Path("again/rd.md").read_text()
    assert found.split("\n# ")[1] == text.split("\n# ")[1] and "From rd.csv." in found
    assert {path.name for path in Path("again").iterdir()} == {
        "rd.md", "tiny-psnr.png", "tiny-ssimulacra2.png"
    }  # fmt: skip
    fewer = script("benchmarks/rd", *stored, "tiny/grey.png", "--codecs", "ours", "webp",
                   "--anchor", "webp", "--measures", "psnr")  # fmt: skip
    assert fewer.code == 0 and "# Rate and distortion, tiny/grey.png" in fewer.out
    assert "JPEG" not in fewer.out and "--effort 1" not in fewer.out and "(ours)" in fewer.out
    assert Path("results/rd.csv").read_bytes() == table


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Name a folder of pictures, or see --from"),
        (["--from", "none.csv"], "no such file: none.csv (--from)"),
        (["--from", "results/rd.csv", "other"], "has none of these pictures"),
        (["--from", "results/rd.csv", "--codecs", "avif"], "has none of these codecs"),
        (["--from", "results/rd.csv", "--measures", "vsi"], "has none of these measures"),
    ],
)
def test_what_a_csv_does_not_have_is_told(rd, script, flags, message):
    rd("--every", 4)
    done = script("benchmarks/rd", *flags)
    assert done.code == 1 and message in done.err


def test_a_folder_without_pictures_is_told(rd):
    Path("empty").mkdir()
    done = rd(folders=["empty"])
    assert done.code == 1 and "no pictures in empty; sub-folders are not searched" in done.err


def test_without_any_checkpoint_there_is_nothing_of_ours_to_measure(rd):
    done = rd(codecs=["ours", "jpeg"])
    assert done.code == 1 and "no checkpoint was found, see --model" in done.err


def test_files_that_are_kept_have_the_folder_of_their_picture(rd):
    save_png(Path("other/colour.png"), colour(40, 56))
    rd("--every", 4, "--keep", "kept", folders=["tiny", "other"])
    assert len(list(Path("kept").rglob("colour.png.jpg"))) == 2 * 4


def test_single_pictures_are_a_part_of_their_folder(rd):
    done = rd(folders=["tiny/grey.png"])
    assert f"{SETTINGS} files measured, 0 were" in done.out
    assert f"{SETTINGS} files measured, {SETTINGS} were" in rd().out


def test_pictures_of_one_name_and_folder_name_are_refused(rd):
    save_png(Path("other/tiny/grey.png"), grey(20, 20))
    done = rd(folders=["tiny", "other/tiny"])
    assert done.code == 1 and "grey.png would have the same name" in done.err
    assert not Path("results").exists()


def test_without_jpeg_the_anchor_is_the_first_codec_that_is_not_ours(rd, checkpoints):
    models = ["--model", checkpoints["binary"], "--qualities", 1, 100, "--every", 4]
    done = rd(*models, codecs=["ours", "webp"])
    assert done.code == 0, done.err
    assert "| BD-rate to WebP |" in done.out
    assert rd(*models, codecs=["ours"]).code == 0


def test_what_is_not_installed_is_said(rd, monkeypatch):
    monkeypatch.setattr("benchmarks.peers.round_trip", lambda name, *_, **__: name != "JXL" or None)
    monkeypatch.setattr("utils.measures.find_spec", lambda name: None)
    monkeypatch.setattr("utils.measures.which", lambda name: None)
    done = rd(codecs=["jpeg", "jpegxl"])
    assert done.code == 0 and "| JPEG | anchor |" in done.out
    assert "jpegxl: not available in this Pillow: pip install pillow-jxl-plugin" in done.err
    done = rd(measures=["psnr", "vsi"])
    assert done.code == 0 and "## PSNR" in done.out and "VSI" not in done.out.split("## PSNR")[1]
    assert "note: vsi: not installed: pip install piq" in done.err
    done = rd(measures=["butteraugli"])
    assert done.code == 1 and "butteraugli: not installed: install libjxl's tools" in done.err
    assert "there is no measure to score by" in done.err


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


def test_a_csv_that_is_only_read_stays_as_it_is(rd, script):
    rd("--every", 4)
    path = Path("results/rd.csv")
    table = path.read_bytes()[:-1]
    path.write_bytes(table)
    assert script("benchmarks/rd", "--from", path, "--out", "again").code == 0
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
        file = Path("kept", ours[0]["codec"], str(DEFAULT_QUALITY), f"tiny/{name}.png.xfr")
        kept, encoded = file.read_bytes(), Path("encoded", f"{name}.xfr").read_bytes()
        assert len(kept) == len(encoded)
        # The checksums differ: of the pixels here, of the picture's file there.
        pair = [replace(unpack(data), source=None) for data in (kept, encoded)]
        assert pack(pair[0]) == pack(pair[1])


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
        (["--range", "psnr", "36", "26"], "--range psnr takes the lower value first"),
        (["--range", "psnr", "26", "dB"], "--range psnr: 26 and dB are no numbers"),
        (["--range", "vsi", "26", "36"], "--range vsi is not one of psnr"),
        (["--published", "tiny/grey.png"], "tiny/grey.png is not a CSV"),
        (["--model", "missing.tar", "--codecs", "ours"], "no such checkpoint"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(rd, flags, message):
    done = rd(*flags)
    assert done.code == 1 and message in done.err
    assert not Path("results").exists()


def test_published_curves_rise_and_name_their_source(rd):
    path = ROOT / "benchmarks/results/published_kodak.csv"
    for series in read_published(path).values():
        curve = series.curve(MEASURES["psnr"])
        assert len(curve.rate) == len(series.points) >= 4
        assert 20 < min(curve.level) < max(curve.level) < 50 and max(curve.rate) < 6
    assert all(row["source"] for row in rows(path))
    done = rd("--published", path, "--anchor", "jpeg", "VTM (VVC)", "--range", "psnr", 20, 40)
    assert "| BD-rate to VTM (VVC) (published) |" in done.out
    assert "BPG 4:4:4 (published)" in done.out


def test_help_names_the_options(module):
    done = module("benchmarks.rd", "--help")
    assert done.code == 0 and "--anchor" in done.out


def test_earlier_checkpoints_are_drawn_as_published_curves_are(rd):
    path = ROOT / "benchmarks/results/checkpoints_kodak.csv"
    names = list(read_published(path))
    assert len(names) >= 5
    done = rd("--published", path, "--range", "psnr", 20, 40)
    assert done.code == 0, done.err
    assert all(f"| {name} (published) |" in done.out for name in names)


def test_average_over_pictures_is_arithmetic(rd):
    rd()
    results = Results(Path("results/rd.csv"))
    names = ["tiny/colour.png", "tiny/grey.png"]
    codec = next(peer for peer in make_peers() if peer.name == "jpeg")
    codec.settings = [50]
    (point,) = average(results, codec, names, [MEASURES["psnr"]])
    pair = [results.rows["jpeg", 50, name, "psnr"] for name in names]
    assert point.bpp == pytest.approx((pair[0].bpp + pair[1].bpp) / 2)
    assert point.scores["psnr"] == pytest.approx((pair[0].score + pair[1].score) / 2)
