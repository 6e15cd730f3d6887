"""Files and folders that are not what they seem: one line each, and the rest is done."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from helpers import ROOT, colour, noise, save_png
from PIL import Image

from model.checkpoint import load_checkpoint
from model.codec import Codec
from utils.files import atomic_write
from xfr.images import Picture, read_opened, write_picture

MODEL = ["--model", ROOT / "out/main.tar"]


@pytest.fixture
def originals(workplace) -> Path:
    """out/original/ with two pictures, a.png and b.png."""
    for index, name in enumerate("ab"):
        save_png(workplace / f"out/original/{name}.png", colour(48, 70, index))
    return workplace / "out/original"


@contextmanager
def files_of_at_most(size: int):
    """No file grows beyond ``size`` bytes: writing it fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def everything(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).rglob("*"))


def one_failed(result, name: str, done: str) -> None:
    """Just the file ``name`` failed, in one line, and ``done`` says what was done."""
    lines = [line for line in result.err.splitlines() if "failed: " in line]
    assert result.code == 1 and len(lines) == 1 and name in lines[0], result
    assert f"{done}, 1 failed" in result.out and "Traceback" not in result.err


def test_a_disk_that_is_full(script, originals):
    large = save_png(originals / "large.png", colour(200, 300, 9))
    assert script("encode", *MODEL).code == 0
    with files_of_at_most(100_000):  # large.bmp takes 180 kB
        one_failed(script("decode", *MODEL), "large.xfr", "2 decoded")
    assert everything("out/reconstructed") == ["a.bmp", "b.bmp"]
    size = Path("out/compressed/large.xfr").stat().st_size
    Path("out/compressed/large.xfr").write_bytes(b"XFR, old")
    with files_of_at_most(size - 1):
        one_failed(script("encode", *MODEL), large.name, "2 encoded")
    assert Path("out/compressed/large.xfr").read_bytes() == b"XFR, old"
    assert everything("out/compressed") == ["a.xfr", "b.xfr", "large.xfr"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root alone mounts")
@pytest.mark.parametrize("extension", ["bmp", "jp2"])
def test_a_disk_that_is_full_ends_the_job_with_one_line(script, originals, extension):
    for name in "cdefghij":
        save_png(originals / f"{name}.png", noise(100, 100))
    script("encode", *MODEL)
    small = originals.parent / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        (small / "fill").write_bytes(bytes(50_000))
        flags = ["--out_folder", small, "--file_format", extension]
        result = script("decode", *MODEL, *flags)
        assert result.code == 1 and result.out == ""
        error = f"No space left on device; finished files are kept: '{small}"
        (line,) = [line for line in result.err.splitlines() if "note: " not in line]
        assert line.startswith("decode.py: error: ") and error in line
        for path in set(small.iterdir()) - {small / "fill"}:
            Image.open(path).load()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_disk_that_is_full_while_training(script, workplace):
    for index in range(4):
        save_png(workplace / f"dataset/{index}.png", colour(64, 64, index))
    flags = ["--crop_size", 64, "--batch_size", 2, "--workers", 0, "--device", "cpu"]
    assert script("train", *flags, "--num_of_epochs", 1).code == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    resume = ["--num_of_epochs", 2, "--checkpoint_path", "out/last.tar"]
    with files_of_at_most(100_000):
        result = script("train", *flags, *resume)
    assert result.code == 1 and "train.py: error: " in result.err.splitlines()[-1], result
    assert "Traceback" not in result.err
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert load_checkpoint(Path("out/last.tar"))["epoch"] == 1


@pytest.mark.parametrize("extension", ["bmp", "jpg", "png", "ppm", "tiff", "webp"])
def test_a_picture_that_a_full_disk_cuts_short_by_a_byte_is_no_result(tmp_path, extension):
    def write(path: Path) -> None:
        with atomic_write(path) as stream:
            write_picture(Picture(colour(48, 70)), stream, extension)

    intact, cut = tmp_path / "intact", tmp_path / "cut"
    write(intact)
    with files_of_at_most(intact.stat().st_size - 1):
        with pytest.raises(OSError, match=re.escape(f"File too large: '{cut}'")):
            write(cut)
    assert everything(tmp_path) == ["intact"]


def test_a_disk_that_is_full_for_the_page_of_the_scores(script, originals):
    script("encode", *MODEL)
    script("decode", *MODEL)
    with files_of_at_most(5_000):
        result = script("test", "--report")
    assert result.code == 1 and "Traceback" not in result.err
    error = "test.py: error: [Errno 27] File too large: 'out/scores/scores.html'"
    assert result.err.splitlines()[-1] == error
    assert everything("out/scores") == ["scores.csv"]


@pytest.mark.parametrize("flags", [[], ["--skip_existing"]])
def test_a_folder_where_a_file_should_be(script, originals, flags):
    Path("out/compressed/a.xfr").mkdir(parents=True)
    one_failed(script("encode", *MODEL, *flags), "a.png", "1 encoded")
    Path("out/compressed/a.xfr").rmdir()
    script("encode", *MODEL)
    Path("out/reconstructed/b.bmp").mkdir(parents=True)
    one_failed(script("decode", *MODEL, *flags), "b.xfr", "1 decoded")
    one_failed(script("test"), "b.png", "1 scored")
    assert everything("out/compressed") == ["a.xfr", "b.xfr"]
    assert everything("out/reconstructed") == ["a.bmp", "b.bmp"]


def test_a_folder_where_the_scores_should_be(script, originals):
    script("encode", *MODEL)
    script("decode", *MODEL)
    Path("out/scores/scores.csv").mkdir(parents=True)
    result = script("test")
    assert result.code == 1 and "test.py: error: " in result.err and "scores.csv" in result.err
    assert "Traceback" not in result.err and everything("out/scores") == ["scores.csv"]


def test_an_out_folder_that_cannot_be(script, originals):
    script("encode", *MODEL, "--out_folder", "packed")
    packed = ["--compressed_folder", "packed"]
    script("decode", *MODEL, *packed)
    for folder in ("compressed", "scores", "plain"):
        Path("out", folder).write_text("a file")
    jobs = {
        "out/compressed": script("encode", *MODEL),
        "out/plain": script("decode", *MODEL, *packed, "--out_folder", "out/plain"),
        "out/scores": script("test", "--folder_path_compressed", "packed"),
    }
    for folder, result in jobs.items():
        assert result.code == 1 and result.out == "" and result.err.count("\n") == 0
        assert result.err.endswith(f".py: error: [Errno 20] Not a directory: '{folder}'")
    for folder in ("compressed", "scores", "plain"):
        assert Path("out", folder).read_text() == "a file"


def test_an_input_that_has_vanished(script, originals):
    (originals / "gone.png").symlink_to("nowhere.png")
    one_failed(script("encode", *MODEL), "gone.png", "2 encoded")
    Path("out/compressed/gone.xfr").symlink_to("nowhere.xfr")
    one_failed(script("decode", *MODEL), "gone.xfr", "2 decoded")
    one_failed(script("decode", *MODEL, "--verify"), "gone.xfr", "2 verified")
    one_failed(script("test"), "gone.png", "2 scored")


def test_a_picture_that_vanishes_once_it_is_read_is_no_failure(script, originals, monkeypatch):
    def read_and_remove(stream: BinaryIO, max_pixels: int) -> Picture:
        picture = read_opened(stream, max_pixels)
        Path(stream.name).unlink()
        return picture

    monkeypatch.setattr("xfr.images.read_opened", read_and_remove)
    result = script("encode", *MODEL)
    assert result.code == 0 and result.out.startswith("2 encoded: ") and result.err == ""
    assert everything("out/compressed") == ["a.xfr", "b.xfr"]


def test_memory_that_is_short_for_a_picture_is_told_as_that(script, originals, monkeypatch):
    compress = Codec.compress

    def short(self, image, *settings):
        if image.shape[0] > 100:
            raise MemoryError
        return compress(self, image, *settings)

    monkeypatch.setattr("model.codec.Codec.compress", short)
    save_png(originals / "large.png", noise(101, 20))
    result = script("encode", *MODEL)
    one_failed(result, "large.png: not enough memory for this picture", "2 encoded")
    monkeypatch.setattr("xfr.images.read_any", lambda *_: short(None, noise(101, 1)))
    result = script("encode", originals / "a.png", *MODEL)
    assert result.err == f"failed: {originals}/a.png: not enough memory for this picture\n"


def test_links_that_go_in_circles(script, originals):
    (originals / "circle.png").symlink_to("circle.png")
    (originals / "up").symlink_to("..")
    (originals / "up2").symlink_to(".")
    one_failed(script("encode", *MODEL, "--recursive"), "circle.png", "2 encoded")
    assert everything("out/compressed") == ["a.xfr", "b.xfr"]


def test_pictures_that_are_not_read_have_failed_and_all_else_is_counted(script, originals):
    contents = {"c.nef": b"II*\0", "d.CR3": b"\0\0\0\x18ftypcrx ", "e.xcf": b"gimp xcf v011"}
    contents |= {"v.mov": b"\0\0\0\x14ftypqt  ", "t.txt": b"text", "w.TXT": b"text", "README": b"-"}
    for name, beginning in contents.items():
        (originals / name).write_bytes(beginning + bytes(100))
    (originals / ".hidden.nef").write_bytes(b"II*\0")
    (originals / "old.xfr").write_bytes(b"XFR")
    os.mkfifo(originals / "pipe.dng")
    (originals / "sub").mkdir()
    result = script("encode", *MODEL)
    assert result.code == 1 and result.out.startswith("2 encoded, 3 failed, 6 left alone: ")
    lines = result.err.splitlines()
    raw = "a camera's raw file: develop it first, as with the package rawpy"
    assert lines == [
        f"failed: out/original/c.nef, out/original/d.CR3: {raw}",
        "failed: out/original/e.xcf: not a format that is read: export a png",
        "left alone: out/original/sub: sub-folders, see --recursive",
        "left alone: 2 .txt, 1 README, 1 .dng, 1 .mov: no pictures",
    ]


def test_a_picture_that_needs_a_package_names_it(script, originals, monkeypatch):
    monkeypatch.setattr("xfr.formats.is_installed", lambda name: False)
    for path in originals.iterdir():
        path.unlink()
    for index in range(5):
        (originals / f"{index}.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    result = script("encode", *MODEL)
    assert result.code == 1 and result.out == "0 encoded, 5 failed\n"
    names = ", ".join(f"out/original/{index}.heic" for index in range(3))
    assert result.err == f"failed: {names} and 2 more: HEIF: needs the package pillow-heif\n"


def test_other_files_are_no_failure_and_one_format_leaves_the_others_alone(script, originals):
    (originals / "notes.txt").write_text("text")
    (originals / "c.nef").write_bytes(b"II*\0")
    Image.fromarray(colour(20, 20)).save(originals / "c.jpg")
    result = script("encode", *MODEL, "--file_format", "jpg")
    assert result.code == 0 and result.out.startswith("1 encoded, 4 left alone: ")
    assert "left alone: 2 .png, 1 " in result.err and result.err.endswith(": not .jpg\n")


def test_links_to_folders_are_left_alone_and_told(script, originals):
    save_png(originals.parent / "elsewhere/c.png", colour(20, 20))
    (originals / "link").symlink_to("../elsewhere")
    result = script("encode", *MODEL, "--recursive")
    assert result.code == 0 and result.out.startswith("2 encoded, 1 left alone: ")
    assert result.err == "left alone: out/original/link: links to folders\n"


def test_folders_that_cannot_be_listed(script, originals, monkeypatch):
    save_png(originals / "locked/c.png", colour(48, 70))
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # whoever runs the tests may be allowed anything
    one_failed(script("encode", *MODEL, "--recursive"), "locked: Permission denied", "2 encoded")
    training = script("train", "--dataset_path", originals, "--save_at", "out/new")
    assert training.code == 1 and "Permission denied" in training.err
    assert "Traceback" not in training.err


def test_a_pipe_is_not_waited_for(script, originals):
    os.mkfifo(originals / "pipe.png")
    one_failed(script("encode", *MODEL), "pipe.png: not a regular file", "2 encoded")
    os.mkfifo("out/compressed/pipe.xfr")
    one_failed(script("decode", *MODEL), "pipe.xfr: not a regular file", "2 decoded")


def test_training_into_a_place_that_takes_no_files_ends_before_it_begins(script, originals):
    Path("file").write_text("a file")
    for place in ("file", "file/folder"):
        result = script("train", "--dataset_path", originals, "--save_at", place)
        assert result.code == 1 and result.err.strip().count("\n") == 0, result
        assert re.search(rf"(File exists|Not a directory): '{place}'", result.err)


def test_verify_names_the_good_the_damaged_and_those_of_another_checkpoint(
    script, originals, checkpoints
):
    save_png(originals / "a.png", noise(48, 70))
    script("encode", *MODEL)
    Path("out/other").mkdir()
    script("encode", "--model", checkpoints["hyperprior"], "--out_folder", "out/other")
    Path("out/other/a.xfr").rename("out/compressed/other.xfr")
    data = bytearray(Path("out/compressed/b.xfr").read_bytes())
    data[-1] ^= 1
    Path("out/compressed/b.xfr").write_bytes(data)
    result = script("decode", *MODEL, "--verify")
    assert result.code == 1 and "1 verified, 2 failed" in result.out
    assert "good: out/compressed/a.xfr" in result.out and result.out.count("good: ") == 1
    failed = [line for line in result.err.splitlines() if "failed: " in line]
    assert "b.xfr" in failed[0] and "damaged" in failed[0]
    assert "other.xfr" in failed[1] and "made by checkpoint" in failed[1]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_no_terminal_can_show(script, shell, originals, checkpoints, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    (originals / "a.png").rename(originals / os.fsdecode(b"\xff.png"))
    (originals / "b.png").rename(originals / "two\nlines.png")
    save_png(originals / "é.png", colour(48, 70))
    model = ["--model", checkpoints["binary"]]
    assert script("encode", *model).code == 0
    shutil.copy(os.fsdecode(b"out/compressed/\xff.xfr"), os.fsdecode(b"out/compressed/\xff.XFR"))
    verified = shell("decode", *model, "--verify")
    assert verified.code == 0
    assert sorted(verified.out.splitlines()[:-1]) == [
        "good: out/compressed/" + name
        for name in (r"\udcff.XFR", r"\udcff.xfr", r"\xe9.xfr", r"two\nlines.xfr")
    ]
    Path(os.fsdecode(b"out/compressed/\xff.XFR")).unlink()
    assert script("decode", *model).code == 0
    tested = shell("test", "--out_file_name", os.fsdecode(b"\xfe.csv"))
    assert tested.code == 0 and "Traceback" not in tested.err
    table = Path(os.fsdecode(b"out/scores/\xfe.csv")).read_bytes()
    assert b"\n\xff.png,70,48," in table and b'\n"two\nlines.png",70,48,' in table
