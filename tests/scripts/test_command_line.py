"""Messages before any work, and the places where the scripts look."""

import errno
import os
import re
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from helpers import ROOT, colour, noise, run_process, save_png
from PIL import Image

from utils.console import run, size
from xfr.checkpoints import SHIPPED

# Runs a script with the arguments that follow its path, then says whether torch was loaded.
WITHOUT_TORCH = f"""
import runpy, sys
sys.path[0] = {str(ROOT)!r}
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("torch" in sys.modules)
"""


@pytest.fixture
def photos(workplace) -> Path:
    """The current folder: a folder of photos, and a tree of others, but no out/ folder."""
    save_png(workplace / "photos/a.png", colour(48, 70))
    save_png(workplace / "photos/b.png", colour(70, 48, 1))
    return workplace


def last_line(result) -> str:
    assert "Traceback" not in result.err, result.err
    return result.err.strip().splitlines()[-1]


# Places


def test_the_default_checkpoint_is_found_from_any_folder(script, photos):
    encoded = script("encode", "--image_folder", "photos", "--out_folder", "packed")
    assert encoded.code == 0, encoded.err
    decoded = script("decode", "--compressed_folder", "packed")
    assert decoded.code == 0, decoded.err
    assert sorted(p.name for p in Path("out/reconstructed").iterdir()) == ["a.bmp", "b.bmp"]


def test_the_samples_are_found_from_any_folder_and_their_scores_name_visual(script, workplace):
    for name in ("encode", "decode"):
        result = script(name)
        assert result.code == 0 and not result.err, result.err
        assert result.out.startswith("5 ")
    result = script("test")
    assert result.code == 0 and "visual.tar" in result.out.splitlines()[-1]
    script("encode", "out/reconstructed", "--out_folder", "again")
    result = script(
        "test", "--folder_path_original", "out/reconstructed", "--out_file_name", "b.csv"
    )
    assert "visual.tar" not in result.out


def test_the_other_checkpoint_is_found_from_any_folder(script, photos):
    flags = ["--model", "out/hyperprior.tar", "--image_folder", "photos/a.png"]
    assert script("encode", *flags).code == 0


def test_a_checkpoint_that_is_where_one_stands_comes_first(script, photos, checkpoints):
    Path("out").mkdir()
    shutil.copy(checkpoints["binary"], "out/main.tar")
    script("encode", "--image_folder", "photos")
    assert script("decode", "--model", checkpoints["binary"]).code == 0


# Before any work


@pytest.mark.parametrize(
    ("name", "flags", "error"),
    [
        ("encode", ["--model", "none.tar"], "no such checkpoint: none.tar (--model)"),
        ("encode", ["--image_folder", "nowhere"], "no such file or folder: nowhere"),
        ("encode", ["--image_folder", "photos", "--out_folder", "file"], "Not a directory: 'file'"),
        (
            "decode",
            ["--compressed_folder", "x.xfr", "--model", "none.tar"],
            "no such checkpoint: none.tar (--model)",
        ),
        ("decode", ["--file_format", "xyz"], "extension 'xyz'"),
        ("decode", ["--compressed_folder", "nowhere"], "no such file or folder: nowhere"),
        ("decode", ["--compressed_folder", "x.xfr", "--out_folder", "file/under"], "file/under"),
        ("test", ["--folder_path_original", "nowhere"], "no such file or folder: nowhere"),
    ],
)
def test_what_cannot_work_is_told_before_torch_is_loaded(photos, name, flags, error):
    Path("file").write_text("a file")
    Path("x.xfr").write_bytes(b"XFR\x01" + bytes(20))
    before = sorted(photos.rglob("*"))
    result = run_process([sys.executable, "-c", WITHOUT_TORCH, ROOT / f"{name}.py", *flags])
    assert result.code == 1 and result.out == "False\n"
    assert last_line(result).startswith(f"{name}.py: error: ") and error in last_line(result)
    assert sorted(photos.rglob("*")) == before


def test_a_folder_that_takes_no_files_is_told_before_any_work(script, photos, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", str(Path(dir, "tmp1234")))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root may be allowed anything
    for name, flags in {
        "encode": ["--image_folder", "photos", "--out_folder", "packed"],
        "test": ["--folder_path_original", "photos"],
    }.items():
        result = script(name, *flags)
        folder = "packed" if name == "encode" else "out/scores"
        assert result.code == 1 and result.out == ""
        assert last_line(result) == f"{name}.py: error: [Errno 13] Permission denied: '{folder}'"


# One file to one file


def test_one_file_to_one_file(script, photos, checkpoints):
    model = ["--model", checkpoints["binary"]]
    encoded = script("encode", "--image_folder", "photos/a.png", "--out_folder", "b.xfr", *model)
    assert encoded.code == 0 and Path("b.xfr").is_file()
    decoded = script("decode", "--compressed_folder", "b.xfr", "--out_folder", "new/c.tif", *model)
    assert decoded.code == 0 and Image.open("new/c.tif").format == "TIFF"
    three = ["--folder_path_original", "photos/a.png", "--folder_path_compressed", "b.xfr"]
    tested = script("test", *three, "--folder_path_reconstructed", "new/c.tif")
    assert tested.code == 0 and tested.err.count("note: ") == 0, tested.err
    assert "\na.png,70,48," in Path("out/scores/scores.csv").read_text()


def test_one_original_is_scored_among_the_results_of_many(script, photos, checkpoints):
    model = ["--model", checkpoints["binary"]]
    script("encode", "--image_folder", "photos", *model)
    script("decode", *model)
    tested = script("test", "--folder_path_original", "photos/b.png")
    assert tested.code == 0 and tested.out.startswith("1 scored: ") and tested.err == ""


def test_a_name_with_a_dot_may_still_be_a_folder(script, photos, checkpoints):
    flags = ["--image_folder", "photos/a.png", "--model", checkpoints["binary"]]
    Path("folder.xfr").mkdir()
    for folder in ("folder.xfr", "version1.2"):
        assert script("encode", *flags, "--out_folder", folder).code == 0
        assert Path(folder, "a.xfr").is_file()


@pytest.mark.parametrize(
    ("name", "flags", "error"),
    [
        ("encode", ["--image_folder", "photos", "--out_folder", "b.xfr"], "photos is a folder"),
        ("encode", ["--image_folder", "photos/a.png", "--out_folder", "b.png"], "end in .xfr"),
        ("decode", ["--compressed_folder", "x.xfr", "--out_folder", "c.xfr"], "extension 'xfr'"),
        ("decode", ["--file_format", "png", "--out_folder", "c.jpg"], "end in .png"),
        ("test", ["--folder_path_compressed", "x.xfr"], "photos is a folder"),
    ],
)
def test_a_file_that_cannot_be_is_refused_and_becomes_no_folder(script, photos, name, flags, error):
    Path("x.xfr").touch()
    if name == "decode":
        flags = ["--compressed_folder", "x.xfr", *flags]
    elif name == "test":
        flags = ["--folder_path_original", "photos", *flags]
    before = sorted(photos.rglob("*"))
    result = script(name, *flags)
    assert result.code == 1 and error in last_line(result)
    assert sorted(photos.rglob("*")) == before


# Inputs without an option


def test_files_and_folders_are_named_without_an_option(script, photos, checkpoints):
    save_png(photos / "one.png", colour(30, 30))
    save_png(photos / "more/sub/c.png", colour(30, 30))
    model = ["--model", checkpoints["binary"]]
    encoded = script("encode", "photos/", "--quality", 40, "one.png", *model, "more", "--recursive")
    assert encoded.code == 0 and encoded.out.startswith("4 encoded: ")
    names = [path.relative_to("out/compressed") for path in Path("out/compressed").rglob("*.xfr")]
    assert sorted(map(str, names)) == ["a.xfr", "b.xfr", "one.xfr", "sub/c.xfr"]
    folders = ["out/compressed", "out/compressed/sub"]
    decoded = script("decode", *model, *folders, "--out_folder", "plain", "--file_format", "png")
    assert decoded.code == 0 and decoded.err == ""
    names = sorted(path.name for path in Path("plain").iterdir())
    assert names == ["a.png", "b.png", "c.png", "one.png"]
    decoded = script("decode", *model, "out/compressed", "--verify")
    assert decoded.code == 0 and "3 verified, 1 left alone" in decoded.out
    assert decoded.err == "left alone: out/compressed/sub: sub-folders, see --recursive\n"


def test_an_input_that_is_named_twice_is_encoded_once(script, photos, checkpoints):
    model = ["--model", checkpoints["binary"]]
    encoded = script("encode", "photos", "./photos/a.png", "--image_folder", "photos/b.png", *model)
    assert encoded.code == 0 and encoded.out.startswith("2 encoded: ")


def test_one_input_to_one_file(script, photos, checkpoints):
    model = ["--model", checkpoints["binary"]]
    assert script("encode", "photos/a.png", "--out_folder", "b.xfr", *model).code == 0
    assert script("decode", "b.xfr", "--out_folder", "c.png", *model).code == 0
    assert Image.open("c.png").size == (70, 48)
    many = script("encode", "photos/a.png", "photos/b.png", "--out_folder", "d.xfr", *model)
    error = "encode.py: error: d.xfr is the name of a file, but there are several inputs"
    assert many.code == 1 and last_line(many) == error


def test_pictures_of_one_name_in_two_inputs_are_told_apart_by_their_folders(script, photos):
    save_png(photos / "more/a.png", colour(30, 30))
    result = script("encode", "photos", "more")
    assert result.code == 1 and result.out.startswith("1 encoded, 2 failed: ")
    assert "photos/a.png and more/a.png have the same result, a.xfr" in result.err
    assert "rename one" in result.err and "--keep_extension" not in result.err


def test_an_input_that_does_not_exist_is_told_before_any_work(script, photos):
    result = script("encode", "photos", "nowhere.png")
    error = "encode.py: error: no such file or folder: nowhere.png"
    assert result.code == 1 and result.err == error
    assert not Path("out").exists()


def test_an_empty_folder_among_others_is_noted(script, photos, checkpoints):
    Path("empty").mkdir()
    result = script("encode", "photos", "empty", "--model", checkpoints["binary"])
    assert result.code == 0 and result.out.startswith("2 encoded: ")
    assert result.err == "note: empty: no pictures that Pillow reads in it: it holds no files\n"
    Path("photos/a.png").unlink()
    Path("photos/b.png").unlink()
    result = script("encode", "empty", "photos")
    assert result.code == 1 and "no pictures that Pillow reads in empty: " in last_line(result)


# Nothing to do


def test_a_folder_without_pictures_says_what_was_looked_for(script, photos):
    Path("empty/.git").mkdir(parents=True)
    Path("empty/.hidden").touch()
    Path("texts").mkdir()
    Path("texts/a.txt").touch()
    Path("texts/README").touch()
    wanted = {
        "empty": "no pictures that Pillow reads in empty (--image_folder): it holds no files",
        "texts": "no pictures that Pillow reads in texts (--image_folder): "
        "it holds only .txt, README",
        ".": "no pictures that Pillow reads in . (--image_folder): "
        "its sub-folders hold 2, see --recursive",
    }
    for folder, error in wanted.items():
        result = script("encode", "--image_folder", folder)
        assert result.code == 1 and result.out == ""
        assert last_line(result) == f"encode.py: error: {error}"
    decoded = script("decode", "--compressed_folder", "photos")
    assert last_line(decoded).endswith(
        "no .xfr files in photos (--compressed_folder): it holds only .png"
    )
    other = script("encode", "--image_folder", "photos", "--file_format", "jpg")
    assert "no .jpg files in photos" in last_line(other)
    assert not Path("out").exists()


def test_a_folder_that_cannot_be_listed_does_not_keep_others_from_being_encoded(
    script, photos, checkpoints, monkeypatch
):
    Path("locked").mkdir()
    listed, walked = Path.iterdir, os.walk

    def refuse(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    def iterdir(self):
        return refuse(self) if self.name == "locked" else listed(self)

    def walk(folder, onerror=None, **options):
        if Path(folder).name != "locked":
            return walked(folder, onerror=onerror, **options)
        onerror(PermissionError(errno.EACCES, "Permission denied", str(folder)))
        return iter(())

    monkeypatch.setattr("pathlib.Path.iterdir", iterdir)
    monkeypatch.setattr("os.walk", walk)
    result = script("encode", "photos", "locked", "--model", checkpoints["binary"])
    assert result.code == 1 and result.out.startswith("2 encoded, 1 failed: ")
    assert "failed: locked: Permission denied" in result.err


def test_a_folder_of_what_failed_only_is_not_called_empty(script, photos):
    Path("pipes").mkdir()
    os.mkfifo("pipes/a.png")
    result = script("encode", "--image_folder", "pipes")
    assert result.code == 1 and result.out == "0 encoded, 1 failed\n"


# Messages that say what to do


def test_memory_that_is_short_before_the_first_picture_is_one_line(script, photos, monkeypatch):
    for error in (MemoryError(), RuntimeError("[enforce fail] can't allocate memory: 9 bytes")):

        def short(path, error=error):
            raise error

        monkeypatch.setattr("xfr.encoder.load_checkpoint", short)
        result = script("encode", "--image_folder", "photos")
        assert result.code == 1 and result.err == "encode.py: error: not enough memory"


def test_effort_names_the_codec_that_has_it(script, photos):
    line = last_line(script("encode", "--image_folder", "photos", "--effort", 3))
    assert "--effort: main cannot use it" in line
    assert line.endswith("but hyperprior and visual can (--model out/visual.tar)")


def test_a_device_that_does_not_exist_is_told_which_do(script, photos):
    line = last_line(script("encode", "--image_folder", "photos", "--device", "gpu"))
    assert line == "encode.py: error: no such device: gpu; use cpu, cuda, cuda:1 or mps"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20000", 20000), ("20k", 20000), ("1.5M", 1_500_000), ("2.3m", 2_300_000),
        ("20kB", 20000), ("1.5MB", 1_500_000), ("20 k", 20000), (" 20 KB ", 20000), ("500b", 500),
        ("500 B", 500), (".5 MB", 500_000), ("64KiB", 65536), ("1.5 MiB", 1_572_864),
        ("1GB", 10**9), ("0.07k", 70), ("20 000", 20000), ("1 000.5 kB", 1_000_500),
    ],
)  # fmt: skip
def test_sizes_may_have_a_unit(text, value):
    assert size(text) == value


def test_the_unit_of_a_size_may_be_a_word_of_its_own(script, photos):
    assert script("encode", "--max_bytes", "20", "kB", "photos", "--out_folder", "a").code == 0
    assert script("encode", "--max_bytes", "20000", "photos", "--out_folder", "b").code == 0
    assert [Path("a", p.name).read_bytes() for p in sorted(Path("a").iterdir())] == [
        p.read_bytes() for p in sorted(Path("b").iterdir())
    ]


def test_a_library_that_memory_is_too_short_for_is_told_as_that(script, photos, monkeypatch):
    def load(path):
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")

    monkeypatch.setattr("xfr.encoder.load_checkpoint", load)
    result = script("encode", "photos")
    assert result.code == 1 and result.err == "encode.py: error: not enough memory"


def test_a_size_that_is_none_is_told_with_an_example(script, photos):
    line = last_line(script("encode", "photos", "--max_bytes", "20,000"))
    assert line.endswith("--max_bytes: '20,000' is no number of bytes, such as 20000 or 20kB")


def test_names_behind_two_dashes_may_begin_as_options_do(script, photos, checkpoints):
    for name in ("-a.png", "--quality.png"):
        save_png(photos / name, colour(20, 20))
    flags = ["--model", checkpoints["binary"], "--out_folder", "packed"]
    result = script("encode", "photos/a.png", *flags, "--", "-a.png", "--quality.png")
    assert result.code == 0 and result.out.startswith("3 encoded")
    assert {path.name for path in Path("packed").iterdir()} == {"a.xfr", "-a.xfr", "--quality.xfr"}


def test_a_progress_bar_is_only_for_a_terminal(script, photos, checkpoints):
    result = script("encode", "--image_folder", "photos", "--model", checkpoints["binary"])
    assert result.code == 0 and result.err == "" and "\r" not in result.out


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError(4), "KeyError in codec.py, line {line}: 4"),
        (ValueError("shapes differ"), "ValueError in codec.py, line {line}: shapes differ"),
    ],
)
def test_a_defect_of_a_codec_shows_its_type_and_place(
    script, photos, checkpoints, monkeypatch, error, message
):
    def broken(self, latents):
        raise error

    monkeypatch.setattr("model.binary.network.BinaryTileCoder.encode", broken)
    result = script("encode", "--image_folder", "photos/a.png", "--model", checkpoints["binary"])
    lines = (ROOT / "model/codec.py").read_text().splitlines()
    (line,) = [i for i, text in enumerate(lines, 1) if "coder.encode(" in text]
    assert result.code == 1
    assert result.err == f"failed: photos/a.png: {message.format(line=line)}\n"


# Totals


@pytest.mark.parametrize(
    ("flags", "made"),
    [
        ([], "quality 50"),
        (["--quality", 7], "quality 7"),
        (["--target_bpp", 2.5], "target_bpp 2.5"),
        (["--model", "out/visual.tar", "--effort", 1], "quality 50, effort 1"),
    ],
)
def test_the_last_line_says_how_files_were_made_where_they_are_and_how_long_it_took(
    script, photos, flags, made
):
    result = script("encode", "photos", "--out_folder", "packed", *flags)
    name = "visual" if "--effort" in flags else "main"
    label = rf"{name} \({SHIPPED[name].fingerprint:016x}\)"
    line = result.out.splitlines()[-1]
    assert re.search(
        rf", \d+\.\d\d s per picture, \d+\.\d s, .*with {label}, {made} -> packed$", line
    )


def test_the_last_lines_of_decode_and_test_say_how_the_files_were_made(script, photos):
    for name in "ab":
        save_png(photos / f"photos/{name}.png", noise(60, 60))  # no graphic
    script("encode", "photos/a.png", "--quality", 20)
    script("encode", "photos/b.png", "--model", "out/visual.tar")
    names = [f"{name} ({SHIPPED[name].fingerprint:016x})" for name in ("main", "visual")]
    made = f" s, with {' and '.join(names)}, qualities 20 to 50"
    assert f"{made} -> out/reconstructed\n" in script("decode").out
    tested = script("test", "--folder_path_original", "photos").out.splitlines()
    assert tested[0].endswith(made) and tested[1].endswith(" -> out/scores/scores.csv")
    assert script("decode", "--verify").out.endswith(f"{made}\n")


def test_rates_are_of_all_pictures_together_and_agree_in_all_scripts(
    script, workplace, checkpoints
):
    for name, shape in {"dot": (1, 1), "small": (40, 40), "large": (100, 300)}.items():
        save_png(workplace / f"out/original/{name}.png", colour(*shape))
    model = ["--model", checkpoints["binary"]]
    lines = [script("encode", *model).out, script("decode", *model).out, script("test").out]
    packed, original = (
        sum(path.stat().st_size for path in Path("out", name).iterdir())
        for name in ("compressed", "original")
    )
    rate = f"bpp {8 * packed / (1 + 40 * 40 + 100 * 300):.3f}, "
    assert all(rate in line and "average" not in line.splitlines()[0] for line in lines)
    ratio = f" out, ratio {original / packed:.2f}, "
    assert [ratio in line for line in lines] == [True, False, True]


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (ValueError("one line"), "script.py: error: one line"),
     (MemoryError(), "script.py: error: not enough memory")],
)  # fmt: skip
def test_a_script_that_is_interrupted_has_an_exit_code_of_its_own(monkeypatch, capsys, error, code):
    def main(args: Namespace) -> int:
        raise error

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr(sys, "argv", ["some/script.py"])
    with pytest.raises(SystemExit) as end:
        run(main, Namespace())
    assert end.value.code == code
    told = "script.py: interrupted; finished files are kept" in capsys.readouterr().err
    assert told == (code == 130)
