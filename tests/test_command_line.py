"""What is told before any work, and where the scripts look for things."""

import shutil
import sys
from pathlib import Path

import pytest
from helpers import ROOT, colour, run_process, save_png

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


# Where things are


def test_the_default_checkpoint_is_found_from_any_folder(script, photos):
    encoded = script("encode", "--image_folder", "photos", "--out_folder", "packed")
    assert encoded.code == 0, encoded.err
    decoded = script("decode", "--compressed_folder", "packed")
    assert decoded.code == 0, decoded.err
    assert sorted(p.name for p in Path("out/reconstructed").iterdir()) == ["a.bmp", "b.bmp"]


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
        ("decode", ["--model", "none.tar"], "no such checkpoint: none.tar (--model)"),
        ("decode", ["--file_format", "xyz"], "extension 'xyz'"),
        ("decode", ["--compressed_folder", "nowhere"], "no such file or folder: nowhere"),
        ("decode", ["--compressed_folder", "x.xfr", "--out_folder", "file/under"], "file/under"),
        ("test", ["--folder_path_original", "nowhere"], "no such file or folder: nowhere"),
    ],
)
def test_what_cannot_work_is_told_before_torch_is_loaded(photos, name, flags, error):
    Path("file").write_text("a file")
    Path("x.xfr").write_text("not looked at")
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
