import csv
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    ARCHS,
    ROOT,
    SMALL,
    SRGB,
    WIDE,
    colour,
    grey,
    noise,
    run_process,
    save_png,
    save_tiny,
    torchrun,
    torchrun_command,
)
from PIL import Image

import xfr
from model.checkpoint import fingerprint, load_checkpoint
from model.limits import DEFAULT_QUALITY
from utils.measures import psnr
from xfr.file import pack, unpack
from xfr.images import read_picture

SCRIPTS = ("train", "encode", "decode", "test")
COLUMNS = [
    "file", "width", "height", "original_bytes", "compressed_bytes", "compression_ratio", "bpp",
    "psnr", "ssim", "ms_ssim",
]  # fmt: skip


@pytest.fixture
def project(workplace, checkpoints) -> Path:
    """The current folder, with out/main.tar and two pictures where the scripts look for them."""
    model = workplace / "out/main.tar"
    model.parent.mkdir()
    shutil.copy(checkpoints["binary"], model)
    save_png(workplace / "out/original/photo.png", colour(48, 70))
    save_png(workplace / "out/original/sub/deep.png", colour(70, 48, seed=1))
    return workplace


def files(folder: str | Path) -> list[str]:
    """Every file below a folder, hidden ones included."""
    folder = Path(folder)
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_coding_imports_only_what_it_needs(project, checkpoints, arch):
    code = (
        f"import runpy, sys, contextlib; del sys.argv[0]; sys.path[0] = {str(ROOT)!r}\n"
        "with contextlib.suppress(SystemExit): runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "print({'torch._dynamo', 'matplotlib', 'skimage'} & set(sys.modules))"
    )
    for name in ("encode", "decode"):
        script = [ROOT / f"{name}.py", "--model", checkpoints[arch]]
        result = run_process([sys.executable, "-c", code, *script])
        assert re.search(r"1 (en|de)coded", result.out) and "set()" in result.out, result


def only_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


def failures(result) -> list[str]:
    return [line for line in result.err.splitlines() if "failed: " in line]


def scores(path: str = "out/scores/scores.csv") -> list[dict]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


# The chain


@pytest.mark.slow
def test_encode_decode_and_test_work_on_each_others_results(shell, project):
    encoded = shell("encode", "--recursive", cwd=project)
    assert encoded.code == 0 and encoded.out.startswith("2 encoded: ")
    assert files("out/compressed") == ["photo.xfr", "sub/deep.xfr"]
    decoded = shell("decode", "--recursive", cwd=project)
    assert decoded.code == 0 and decoded.out.startswith("2 decoded: ")
    assert files("out/reconstructed") == ["photo.bmp", "sub/deep.bmp"]
    tested = shell("test", "--recursive", cwd=project)
    assert tested.code == 0 and tested.out.startswith("2 scored: ")
    assert [row["file"] for row in scores()] == ["photo.png", "sub/deep.png", "average"]
    assert "Traceback" not in encoded.err + decoded.err + tested.err


def test_sub_folders_are_left_alone_without_recursive(script, project):
    assert script("encode").code == 0
    assert files("out/compressed") == ["photo.xfr"]


def test_a_single_file_can_be_given_as_the_folder(script, project):
    photo = "out/original/sub/deep.png"
    assert script("encode", "--image_folder", photo, "--out_folder", "packed").code == 0
    assert files("packed") == ["deep.xfr"]
    packed = "packed/deep.xfr"
    assert script("decode", "--compressed_folder", packed, "--out_folder", "plain").code == 0
    assert files("plain") == ["deep.bmp"]
    tested = script(
        "test", "--folder_path_original", photo, "--folder_path_compressed", "packed",
        "--folder_path_reconstructed", "plain",
    )  # fmt: skip
    assert tested.code == 0 and scores()[0]["file"] == "deep.png"


@pytest.mark.parametrize("given", ["jpg", ".JPG", "jpeg", ".Jpeg"])
def test_file_format_is_matched_without_dot_case_and_spelling(script, project, given):
    for name in ("a.JPG", "b.jpeg", "c.jpg"):
        Image.fromarray(colour(20, 20)).save(project / "out/original" / name, "JPEG")
    assert script("encode", "--file_format", given).code == 0
    assert files("out/compressed") == ["a.xfr", "b.xfr", "c.xfr"]


@pytest.mark.parametrize("extension", ["png", ".PNG", "jpeg", "tif", "webp", "ppm"])
def test_decode_writes_the_format_that_is_asked_for(script, project, extension):
    script("encode")
    assert script("decode", "--file_format", extension).code == 0
    (name,) = files("out/reconstructed")
    wanted = {"jpeg": "jpg", "tif": "tiff", ".PNG": "png"}.get(extension, extension)
    assert name == f"photo.{wanted}"
    assert Image.open(f"out/reconstructed/{name}").size == (70, 48)
    tested = script("test", "--file_format", extension)
    assert tested.code == 0 and len(scores()) == 2


@pytest.mark.parametrize("extension", ["jpg", "webp", "avif"])
def test_decode_writes_the_quality_that_is_asked_for(script, project, extension):
    save_png(project / "out/original/photo.png", noise(48, 70))
    script("encode", "--quality", 100)
    flags = ["--file_format", extension, "--output_quality"]
    sizes = []
    for quality in (20, 60, 90):
        assert script("decode", *flags, quality).code == 0
        sizes.append(Path(f"out/reconstructed/photo.{extension}").stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]


def test_an_output_quality_of_a_format_without_one_is_refused_before_any_work(script, project):
    script("encode")
    for flags in ([], ["--file_format", "png"], ["--out_folder", "a.tiff"]):
        result = script("decode", *flags, "--output_quality", 90)
        assert result.code == 1 and "only jpg, mpo, webp and avif have" in only_line(result.err)
    assert not Path("out/reconstructed").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf_8_passes_through_all_scripts(script, project):
    strange = os.fsdecode(b"caf\xe9")
    (project / "out/original/photo.png").rename(project / f"out/original/{strange}.png")
    for name in ("encode", "decode", "test"):
        assert script(name).code == 0
    assert files("out/reconstructed") == [f"{strange}.bmp"]
    assert scores()[0]["file"] == f"{strange}.png"


def test_messages_hold_nothing_that_a_terminal_would_obey(script, project):
    for extension in ("png", "jpg"):
        Image.fromarray(colour(20, 20)).save(f"out/original/a\x1b[31m.{extension}")
    lines = failures(script("encode"))
    assert [("\x1b" in line, line.count(r"a\x1b[31m")) for line in lines] == [(False, 4)] * 2


def test_threads_make_the_same_files(script, project, checkpoints, monkeypatch):
    for index in range(10):
        save_png(project / f"out/original/{index}.png", colour(50 + index, 60, index))
    model = ("--model", checkpoints["hyperprior"])
    made = []
    for threads in (1, 4):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        assert script("encode", *model).code == script("decode", *model).code == 0
        folders = Path("out/compressed"), Path("out/reconstructed")
        made.append([(name, (folder / name).read_bytes()) for folder in folders
                     for name in files(folder)])  # fmt: skip
    assert len(made[0]) == 22 and made[0] == made[1]


@pytest.mark.slow
def test_two_processes_share_a_folder_and_give_one_summary(script, project):
    for index in range(10):
        save_png(project / f"out/original/{index}.png", colour(50, 60, index))
    Path("out/original/damaged.png").write_bytes(b"damaged")
    shared = torchrun(ROOT / "encode.py", "--out_folder", "shared")
    assert (
        shared.out.startswith("11 encoded, 1 failed, 1 left alone: ")
        and shared.out.count("\n") == 1
    )
    assert shared.code == 0 and shared.err.count("failed: out/original/damaged.png") == 1
    assert "Traceback" not in shared.err and "note: the exit code is 0" in shared.err
    script("encode", "--out_folder", "alone")
    assert files("shared") == files("alone") and len(files("alone")) == 11
    assert all(Path("shared", f).read_bytes() == Path("alone", f).read_bytes()
               for f in files("alone"))  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes under /proc")
def test_what_a_killed_process_leaves_a_second_run_completes(script, project):
    for index in range(100):
        save_png(project / f"out/original/{index}.png", colour(96, 128, index))
    command = torchrun_command(ROOT / "encode.py", "--out_folder", "killed")
    launcher = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(Path("killed").glob("*.xfr"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ranks = [
        int(pid) for pid in children if b"encode.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert launcher.wait(60) != 0
    for unfinished in Path("killed").glob(".*.part"):
        unfinished.unlink()
    left = files("killed")
    assert 5 <= len(left) < 101

    result = torchrun(ROOT / "encode.py", "--out_folder", "killed", "--skip_existing")
    assert result.code == 0
    assert result.out.startswith(f"{101 - len(left)} encoded, {len(left)} skipped, 1 left alone: ")
    script("encode", "--out_folder", "alone")
    assert files("killed") == files("alone") and len(files("alone")) == 101
    assert all(Path("killed", f).read_bytes() == Path("alone", f).read_bytes()
               for f in files("alone"))  # fmt: skip


# Kept exactly


def test_alpha_comes_back_exactly_in_png(script, project):
    alpha = np.random.default_rng(0).integers(0, 256, (48, 70), dtype=np.uint8)
    save_png(project / "out/original/photo.png", np.dstack([colour(48, 70), alpha]))
    script("encode")
    assert script("decode", "--file_format", "png").err.count("note:") == 0
    decoded = read_picture(project / "out/reconstructed/photo.png")
    assert np.array_equal(decoded.alpha, alpha) and decoded.pixels.ndim == 3
    assert "note: " in script("decode", "--file_format", "jpg").err


def test_grey_stays_grey(script, project):
    save_png(project / "out/original/photo.png", grey(48, 70))
    script("encode")
    assert script("decode").code == 0
    assert Image.open("out/reconstructed/photo.bmp").mode == "L"


def test_the_profile_comes_back(script, project):
    Image.fromarray(colour(48, 70)).save("out/original/photo.png", icc_profile=SRGB)
    script("encode")
    script("decode", "--file_format", "png")
    assert Image.open("out/reconstructed/photo.png").info["icc_profile"] == SRGB


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tiff"])
def test_exif_xmp_and_resolution_come_back_unless_they_are_stripped(script, project, extension):
    exif, xmp = Image.Exif(), b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    exif[0x8298] = "Someone"
    options = {"exif": exif, "xmp": xmp, "dpi": (300, 300), "icc_profile": SRGB}
    Path("out/original/photo.png").unlink()
    Image.fromarray(colour(48, 70)).save("out/original/photo.jpg", **options)

    def found() -> tuple:
        script("decode", "--file_format", extension)
        path = Path(f"out/reconstructed/photo.{extension}")
        metadata = read_picture(path).metadata
        with Image.open(path) as image:
            return image.getexif().get(0x8298), metadata.xmp, metadata.dpi, metadata.icc

    script("encode")
    whole = Path("out/compressed/photo.xfr").stat().st_size
    dpi = None if extension == "webp" else pytest.approx((300, 300), abs=0.01)
    assert found() == ("Someone", xmp, dpi, SRGB)
    assert "1 encoded" in script("encode", "--strip_metadata", "--skip_existing").out
    assert Path("out/compressed/photo.xfr").stat().st_size < whole - 50
    assert found() == (None, None, None, SRGB)
    assert "1 skipped" in script("encode", "--strip_metadata", "--skip_existing").out


def test_what_bmp_cannot_hold_is_noted(script, project):
    Image.fromarray(colour(48, 70)).save("out/original/photo.png", icc_profile=WIDE)
    script("encode")
    assert "photo.xfr: bmp cannot hold its colour profile: dropped" in script("decode").err


def test_a_result_that_is_larger_than_the_original_is_noted_and_counted(script, project):
    for index in range(3):
        Path(f"out/original/dot{index}.ppm").write_bytes(b"P6 1 1 255 abc")
    result = script("encode")
    assert result.code == 0 and ", 3 larger than the original, " in result.out
    note = ": its .xfr file is larger: try a lower quality or target"
    lines = [line for line in result.err.splitlines() if line.endswith(f".ppm{note}")]
    assert len(lines) == 2 and all(f"dot{index}.ppm" in "".join(lines) for index in range(3))
    assert "larger" not in script("encode", "--image_folder", "out/original/photo.png").out


@pytest.mark.parametrize("extension", ["bmp", "tiff", "gif"])
def test_the_bytes_that_are_reported_are_those_of_the_files(script, project, extension):
    script("encode")
    result = script("decode", "--file_format", extension)
    size = Path(f"out/reconstructed/photo.{extension}").stat().st_size
    assert result.code == 0 and f"bytes in, {size:,} out, " in result.out


# Files that cannot be done


def test_two_pictures_of_the_same_name_are_refused_by_name_and_the_others_are_done(script, project):
    Image.fromarray(colour(20, 20)).save("out/original/photo.jpg")
    Image.fromarray(colour(20, 20)).save("out/original/other.jpg")
    result = script("encode")
    assert result.code == 1 and "1 encoded, 2 failed" in result.out
    for line, name in zip(failures(result), ("photo.jpg:", "photo.png:"), strict=True):
        assert name in line and "photo.jpg and photo.png" in line
    assert "rename one" in result.err and "--keep_extension" in result.err
    assert files("out/compressed") == ["other.xfr"]


def test_pictures_of_one_name_in_two_formats_go_through_all_scripts(script, project):
    for seed, name in enumerate(("photo.tif", "photo.JPG", "sub/a.b.png"), 1):
        Image.fromarray(colour(48, 70, seed)).save(Path("out/original", name))
    keep, recursive = "--keep_extension", "--recursive"
    assert script("encode", keep, recursive).code == 0
    stems = ["photo.JPG", "photo.png", "photo.tif", "sub/a.b.png", "sub/deep.png"]
    assert files("out/compressed") == [f"{stem}.xfr" for stem in stems]
    assert "5 skipped" in script("encode", keep, recursive, "--skip_existing").out
    assert script("decode", recursive).code == 0
    assert files("out/reconstructed") == [f"{stem}.bmp" for stem in stems]
    second = ["--folder_path_second", "out/reconstructed"]
    assert script("test", keep, recursive, *second).code == 0
    assert [row["file"] for row in scores()[:-1]] == stems
    assert all(float(row["psnr"]) > 25 and row["second_psnr"] == row["psnr"] for row in scores())


def test_a_file_is_not_made_again_from_what_was_decoded_beside_it(script, project):
    folder = ["--image_folder", "out/original", "--out_folder", "out/original"]
    script("encode", *folder)
    before = Path("out/original/photo.xfr").read_bytes()
    script("decode", "--compressed_folder", "out/original", "--out_folder", "out/original")
    assert script("encode", *folder, "--skip_existing").code == 1
    assert Path("out/original/photo.xfr").read_bytes() == before


def test_a_damaged_picture_is_reported_by_name_and_the_others_are_done(script, project):
    intact = Path("out/original/photo.png").read_bytes()
    Path("out/original/a_half.png").write_bytes(intact[: len(intact) // 2])
    Path("out/original/b_none.png").write_bytes(b"")
    result = script("encode")
    assert result.code == 1 and "1 encoded, 2 failed" in result.out
    assert ["a_half.png" in failures(result)[0], "b_none.png" in failures(result)[1]] == [True] * 2
    assert files("out/compressed") == ["photo.xfr"]


def test_a_damaged_xfr_is_reported_by_name_and_the_others_are_done(script, project):
    script("encode")
    data = bytearray(Path("out/compressed/photo.xfr").read_bytes())
    data[40] ^= 1
    Path("out/compressed/a_flipped.xfr").write_bytes(data)
    Path("out/compressed/b_cut.xfr").write_bytes(data[:30])
    for flags in ([], ["--verify"]):
        result = script("decode", *flags)
        assert result.code == 1 and "2 failed" in result.out
        assert "a_flipped.xfr: damaged file: its CRC" in failures(result)[0]
        assert "b_cut.xfr: truncated file" in failures(result)[1]
        assert files("out/reconstructed") == ([] if flags else ["photo.bmp"])
        shutil.rmtree("out/reconstructed")
        Path("out/reconstructed").mkdir()


def test_verify_writes_nothing(script, project):
    script("encode", "--recursive")
    result = script("decode", "--verify", "--recursive")
    assert result.code == 0 and "2 verified" in result.out
    assert not Path("out/reconstructed").exists()


def test_pictures_larger_than_max_pixels_are_refused_by_name(script, project):
    assert script("encode").code == 0
    result = script("encode", "--max_pixels", 3359)
    assert result.code == 1 and "photo.png: more pixels than the limit of 3359 (" in only_line(
        failures(result)[0]
    )
    result = script("decode", "--max_pixels", 3359)
    assert result.code == 1 and "photo.xfr: 70x48 pixels" in only_line(failures(result)[0])


# Files of the user's


def test_originals_are_not_replaced_by_what_they_decode_to(script, project):
    original = Path("out/original/photo.png").read_bytes()
    folder = ["--image_folder", "out/original", "--out_folder", "out/original"]
    assert script("encode", *folder).code == 0
    folder[0] = "--compressed_folder"
    for flags in ([], ["--skip_existing"]):
        result = script("decode", *folder, "--file_format", "png", *flags)
        assert result.code == 1 and "0 decoded, 1 failed" in result.out
        assert "photo.png exists: see --overwrite" in failures(result)[0]
        assert Path("out/original/photo.png").read_bytes() == original
    assert script("decode", *folder).code == 0  # photo.bmp is in nobody's way
    assert files("out/original") == ["photo.bmp", "photo.png", "photo.xfr", "sub/deep.png"]


def test_decode_replaces_a_picture_if_told_to(script, project):
    script("encode")
    made = Path("plain/photo.bmp")
    assert script("decode", "--out_folder", "plain").code == 0
    good = made.read_bytes()
    made.write_bytes(good[:100])
    assert script("decode", "--out_folder", "plain").code == 1
    assert made.read_bytes() == good[:100]
    assert script("decode", "--out_folder", "plain", "--overwrite", "--skip_existing").code == 0
    assert made.read_bytes() == good


def test_an_existing_crop_is_not_taken_for_another_one(script, project):
    script("encode")
    result = script("decode", "--crop", 0, 0, 5, 5, "--skip_existing")
    assert result.code == 1 and "--skip_existing cannot tell one --crop from another" in result.err


def test_the_default_folders_are_written_again_and_again(script, project):
    for _ in range(2):
        assert [script(name).code for name in ("encode", "decode", "test")] == [0, 0, 0]


@pytest.mark.parametrize("place", ["out/reconstructed/photo.bmp", "out/reconstructed/sub/"])
def test_what_is_in_the_default_folder_is_replaced(script, project, place):
    script("encode")
    packed = ["--compressed_folder", "out/compressed/photo.xfr", "--out_folder"]
    assert [script("decode", *packed, place).code for _ in range(2)] == [0, 0]
    beside = "out/reconstructed/../plain/"
    assert [script("decode", *packed, beside).code for _ in range(2)] == [0, 1]


def test_encode_replaces_only_files_of_this_project(script, project):
    packed = Path("out/compressed/photo.xfr")
    packed.parent.mkdir()
    packed.write_bytes(b"a letter")
    for flags in ([], ["--skip_existing"]):
        result = script("encode", *flags)
        assert result.code == 1 and "photo.xfr exists, and is no result" in failures(result)[0]
        assert packed.read_bytes() == b"a letter"
    packed.write_bytes(b"XFR")
    assert script("encode").code == 0 and unpack(packed.read_bytes()).width == 70
    packed.write_bytes(b"")
    assert script("encode").code == 0 and unpack(packed.read_bytes()).width == 70


def test_scores_replace_only_scores(script, project):
    script("encode")
    script("decode")
    for _ in range(2):
        assert script("test", "--report", "--out_file_name", "made/scores.csv").code == 0
    for name in ("scores.csv", "scores.html"):
        good = Path("made", name).read_bytes()
        Path("made", name).write_text("a letter")
        result = script("test", "--report", "--out_file_name", "made/scores.csv")
        assert result.code == 1 and f"made/{name} exists, and is no result" in only_line(result.err)
        assert Path("made", name).read_text() == "a letter"
        Path("made", name).write_bytes(good)


# Going on where a job was left


def test_encode_skips_what_is_intact_and_redoes_what_is_not(script, project):
    for name in ("cut", "intact", "other"):
        save_png(project / f"out/original/{name}.png", colour(30, 30))
    script("encode")
    packed = Path("out/compressed")
    good = (packed / "cut.xfr").read_bytes()
    (packed / "cut.xfr").write_bytes(good[:-1])
    script("encode", "--image_folder", "out/original/other.png", "--quality", 90)
    (packed / "photo.xfr").unlink()
    before = (packed / "intact.xfr").stat().st_mtime_ns
    result = script("encode", "--skip_existing")
    assert result.code == 0 and "3 encoded, 1 skipped" in result.out
    assert (packed / "intact.xfr").stat().st_mtime_ns == before
    assert (packed / "cut.xfr").read_bytes() == good
    assert unpack((packed / "other.xfr").read_bytes()).quality == DEFAULT_QUALITY


@pytest.mark.parametrize("shape", [(48, 70), (40, 70)])
@pytest.mark.parametrize("date", [0, 1e9, 4e9])
def test_encode_redoes_a_picture_that_was_replaced_whatever_its_date(script, project, date, shape):
    script("encode")
    save_png(Path("out/original/photo.png"), colour(*shape, 7))
    os.utime("out/original/photo.png", (date, date))
    assert "1 encoded" in script("encode", "--skip_existing").out
    assert unpack(Path("out/compressed/photo.xfr").read_bytes()).shape == shape
    assert "1 skipped" in script("encode", "--skip_existing").out


def test_encode_skips_a_picture_that_was_copied(script, project):
    script("encode")
    shutil.copy("out/original/photo.png", "copy.png")
    Path("copy.png").replace("out/original/photo.png")  # with the date of today
    assert "1 skipped" in script("encode", "--skip_existing").out


def test_files_that_do_not_say_what_they_were_made_from_are_skipped_by_date(script, project):
    script("encode")
    packed = Path("out/compressed/photo.xfr")
    packed.write_bytes(pack(replace(unpack(packed.read_bytes()), source=None)))
    assert "1 skipped" in script("encode", "--skip_existing").out
    os.utime("out/original/photo.png", (4e9, 4e9))
    assert "1 encoded" in script("encode", "--skip_existing").out


def test_encode_redoes_what_another_checkpoint_made(script, project):
    script("encode")
    save_tiny(project / "out/main.tar", seed=1)
    assert "1 encoded" in script("encode", "--skip_existing").out
    assert "1 skipped" in script("encode", "--skip_existing").out


def test_encode_redoes_what_another_target_made(script, project):
    target = ["--skip_existing", "--max_bytes"]
    assert "1 encoded" in script("encode", *target, 3000).out
    assert "1 skipped" in script("encode", *target, 3000).out
    assert "1 encoded" in script("encode", *target, 2999).out
    assert "1 encoded" in script("encode", "--skip_existing").out


def test_decode_skips_what_is_intact_and_redoes_what_is_not(script, project):
    save_png(project / "out/original/cut.png", colour(30, 30))
    save_png(project / "out/original/old.png", colour(30, 30))
    script("encode")
    script("decode")
    plain = Path("out/reconstructed")
    good = (plain / "cut.bmp").read_bytes()
    (plain / "cut.bmp").write_bytes(good[:100])
    os.utime(plain / "old.bmp", (0, 0))
    result = script("decode", "--skip_existing")
    assert result.code == 0 and "2 decoded, 1 skipped" in result.out
    assert (plain / "cut.bmp").read_bytes() == good


# Previews and crops


def test_decode_writes_previews_and_skips_those_that_are_there(script, project):
    script("encode")
    preview = ["--scale", 8, "--out_folder", "previews"]
    result = script("decode", *preview)
    assert result.code == 0 and "1 decoded" in result.out
    assert Image.open("previews/photo.bmp").size == (9, 6)
    bpp = 8 * Path("out/compressed/photo.xfr").stat().st_size / (48 * 70)
    assert f"bpp {bpp:.3f}" in result.out  # of the picture, not of the preview
    assert "1 skipped" in script("decode", *preview, "--skip_existing").out


def test_decode_writes_a_crop_with_the_pixels_of_the_whole(script, project):
    script("encode")
    script("decode")
    result = script("decode", "--crop", 50, 10, 20, 30, "--out_folder", "part")
    assert result.code == 0, result.err
    whole = read_picture(Path("out/reconstructed/photo.bmp")).pixels
    assert np.array_equal(read_picture(Path("part/photo.bmp")).pixels, whole[10:40, 50:70])


def test_a_crop_outside_of_a_picture_is_one_line_and_writes_nothing(script, project):
    script("encode")
    result = script("decode", "--crop", 51, 10, 20, 30, "--out_folder", "part")
    reason = "a crop of 20x30 pixels at 51, 10 is not within the picture of 70x48"
    assert result.code == 1 and result.err.count(reason) == 1 and "Traceback" not in result.err
    assert files("part") == []


@pytest.mark.parametrize(
    "flags",
    [("--scale", 3), ("--scale", 0), ("--crop", 0, 0, -1, 5), ("--crop", 0, 0, 5),
     ("--scale", 2, "--crop", 0, 0, 4, 4), ("--scale", 2, "--verify")],
)  # fmt: skip
def test_previews_and_crops_that_do_not_exist_are_wrong_command_lines(script, project, flags):
    result = script("decode", *flags)
    assert result.code == 2 and "decode.py: error: argument" in result.err


# Checkpoints


def test_decode_finds_the_checkpoint_that_made_a_file_beside_the_model(script, project):
    save_tiny(project / "out/other.tar", "hyperprior", seed=1)
    (project / "out/broken.tar").write_bytes(b"no checkpoint")
    save_png(project / "out/original/second.png", colour(30, 30))
    script("encode")
    script("encode", "--image_folder", "out/original/second.png", "--model", "out/other.tar")
    for model in ("out/main.tar", "out/other.tar"):
        result = script("decode", "--model", model)
        assert result.code == 0 and "2 decoded" in result.out


def test_decode_without_the_right_checkpoint_names_both_fingerprints(script, project):
    save_png(project / "out/original/photo.png", noise(48, 70))  # no graphic, which needs none
    script("encode")
    other = save_tiny(project / "elsewhere/other.tar", seed=1)
    names = [f"{fingerprint(load_checkpoint(p)):016x}" for p in (project / "out/main.tar", other)]
    shutil.copy("out/compressed/photo.xfr", "out/compressed/again.xfr")
    result = script("decode", "--model", other)
    assert result.code == 1 and "2 failed" in result.out
    for line, name in zip(failures(result), ("again.xfr", "photo.xfr"), strict=True):
        assert name in line and names[0] in line and "--model" not in line
    (note,) = [line for line in result.err.splitlines() if line.startswith("note: ")]
    assert "give --model the checkpoint" in note and str(other) in note and names[1] in note
    assert not Path("out/reconstructed").exists()


@pytest.mark.parametrize("name", ["encode", "decode"])
def test_a_missing_or_wrong_model_is_one_line(script, project, name):
    save_png(project / "out/original/photo.png", noise(48, 70))
    script("encode")
    result = script(name, "--model", "out/none.tar")
    assert result.code == 1 and "out/none.tar" in only_line(result.err)
    result = script(name, "--model", "out/original/photo.png")
    assert result.code == 1 and "is not a checkpoint" in only_line(result.err)


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("encode", "--image_folder"),
        ("decode", "--compressed_folder"),
        ("test", "--folder_path_original"),
    ],
)
def test_a_missing_folder_is_one_line(script, project, name, flag):
    result = script(name, flag, "nowhere")
    assert result.code == 1 and "nowhere" in only_line(result.err)


# Scores


def two_pictures(project: Path) -> None:
    """large.png, decoded without loss, and small.png, each pixel of which is 5 off."""
    shutil.rmtree("out/original")
    for name, side, error in (("large", 200, 0), ("small", 40, 5)):
        pixels = colour(side, side).clip(5, 250)
        save_png(project / f"out/original/{name}.png", pixels)
        Path("out/compressed").mkdir(exist_ok=True)
        Path(f"out/compressed/{name}.xfr").write_bytes(bytes(side))
        save_png(project / f"out/reconstructed/{name}.bmp", pixels + np.uint8(error))


def test_the_csv_has_these_columns_a_row_a_picture_and_an_average(script, project):
    two_pictures(project)
    result = script("test", "--out_file_name", "some.csv")
    assert result.code == 0
    text = Path("out/scores/some.csv").read_text()
    assert text.splitlines()[0].split(",") == COLUMNS
    large, small, average = scores("out/scores/some.csv")
    assert [row["file"] for row in (large, small, average)] == [
        "large.png", "small.png", "average",
    ]  # fmt: skip
    assert (small["width"], small["height"], small["compressed_bytes"]) == ("40", "40", "40")
    assert float(small["bpp"]) == 8 * 40 / 1600 and float(large["bpp"]) == 8 * 200 / 40000
    original = Path("out/original/small.png").stat().st_size
    assert float(small["compression_ratio"]) == pytest.approx(original / 40, rel=1e-4)
    for column in ("width", "bpp", "compression_ratio", "ssim"):
        mean = (float(large[column]) + float(small[column])) / 2
        assert float(average[column]) == pytest.approx(mean, rel=1e-4)


def test_an_infinite_psnr_is_written_and_kept_out_of_the_average(script, project):
    two_pictures(project)
    script("test")
    large, small, average = scores()
    assert large["psnr"] == "inf"
    assert float(small["psnr"]) == pytest.approx(10 * np.log10(255**2 / 25), rel=1e-5)
    assert average["psnr"] == small["psnr"]


def test_ms_ssim_is_empty_for_small_pictures_and_kept_out_of_the_average(script, project):
    two_pictures(project)
    script("test")
    large, small, average = scores()
    assert (large["ms_ssim"], small["ms_ssim"], average["ms_ssim"]) == ("1", "", "1")


def test_ssimulacra_2_is_a_column_for_those_who_ask(script, project):
    for name, pixels in {"a": colour(60, 80), "b": colour(60, 80), "c": colour(6, 80)}.items():
        save_png(project / f"out/original/{name}.png", pixels)
    script("encode")
    script("decode")
    shutil.copy("out/original/a.png", "out/reconstructed/a.bmp")
    script("test")
    assert "ssimulacra2" not in scores()[0]
    assert "SSIMULACRA 2 " in script("test", "--ssimulacra2").out
    same, lossy, small, *_, average = (row["ssimulacra2"] for row in scores())
    assert same == "100" and float(lossy) < 90 and small == ""
    assert float(lossy) < float(average) < 100


@pytest.mark.parametrize("missing", ["compressed/small.xfr", "reconstructed/small.bmp"])
def test_a_missing_partner_is_reported_and_the_others_are_scored(script, project, missing):
    two_pictures(project)
    Path("out", missing).unlink()
    result = script("test")
    assert result.code == 1 and "1 scored, 1 failed" in result.out
    assert "small.png" in failures(result)[0] and missing in failures(result)[0]
    assert [row["file"] for row in scores()] == ["large.png", "average"]


def test_results_without_an_original_are_noted_once(script, project):
    two_pictures(project)
    Path("out/original/small.png").unlink()
    result = script("test")
    assert result.code == 0 and result.out.startswith("1 scored: ")
    (note,) = [line for line in result.err.splitlines() if "it has no original" in line]
    assert "small.xfr: it has no original: left out, and 1 more" in note
    assert [row["file"] for row in scores()] == ["large.png", "average"]


def test_a_score_of_an_xfr_file_of_something_else_is_told(script, project):
    for name in ("encode", "decode"):
        assert script(name).code == 0
    assert "scored, but" not in script("test").err
    save_png(project / "out/original/photo.png", 255 - colour(48, 70))
    result = script("test")
    told = "photo.xfr: scored, but made from another file, or before this one changed"
    assert result.code == 0 and told in result.err
    Path("out/compressed/photo.xfr").write_bytes(b"garbage")
    Path("out/reconstructed/photo.bmp").touch()
    assert "photo.xfr: scored, but not an .xfr file" in script("test").err


def test_a_huge_file_that_is_no_picture_is_refused_before_it_is_read(script, project):
    with Path("out/original/huge.png").open("wb") as stream:
        stream.truncate(2**38)  # a hole: reading it would take minutes
    result = script("encode")
    assert result.code == 1 and "huge.png: not a picture of a kind that is read" in result.err


def test_a_reconstruction_of_another_size_is_reported(script, project):
    two_pictures(project)
    save_png(project / "out/reconstructed/small.bmp", colour(40, 41))
    result = script("test")
    assert result.code == 1
    assert (
        "small.png: 40x40, but its reconstruction out/reconstructed/small.bmp is 41x40"
        in failures(result)[0]
    )


def test_what_an_earlier_file_was_decoded_to_is_not_scored(script, project):
    script("encode")
    script("decode")
    script("encode", "--quality", 10)
    script("decode", "--file_format", "png")
    result = script("test")
    assert result.code == 1 and "average" not in result.out and not Path("out/scores").exists()
    assert failures(result) == [
        "failed: out/original/photo.png: out/reconstructed/photo.bmp is older than "
        "out/compressed/photo.xfr"
    ]
    assert "decode again, or name the extension of the new pictures (--file_format)" in result.err
    assert "nothing to score" not in result.err
    named = script("test", "--file_format", "png")
    assert named.code == 0 and not named.err
    script("decode")
    result = script("test")
    assert result.code == 0
    assert only_line(result.err) == (
        "note: out/reconstructed/photo.bmp: scored, and not photo.png: see --file_format"
    )


def test_nothing_to_score_is_an_error(script, project):
    script("encode")
    script("decode", "--file_format", "png")
    result = script("test")
    line = only_line(result.err)
    assert result.code == 1 and "no .bmp files in out/reconstructed" in line
    assert "--file_format" in line and line.endswith("it holds only .png")


def test_the_csv_goes_where_its_path_says(script, project):
    two_pictures(project)
    for path in ("elsewhere/some.csv", str(project / "absolute.csv"), "./here.csv"):
        assert script("test", "--out_file_name", path).code == 0
        assert len(scores(path)) == 3
    assert not Path("out/scores").exists()


# Flags


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("encode", ["--quality", "0"]),
        ("encode", ["--quality", "101"]),
        ("encode", ["--quality", "best"]),
        ("encode", ["--target_bpp", "-1"]),
        ("encode", ["--target_bpp", "nan"]),
        ("encode", ["--max_bytes", "1.5"]),
        ("encode", ["--max_bytes", "1.2345k"]),
        ("encode", ["--max_bytes", "infk"]),
        ("encode", ["--max_bytes", "k"]),
        ("encode", ["--max_bytes", "20kbit"]),
        ("encode", ["--max_bytes", "2..5k"]),
        ("encode", ["--max_bytes", "20,000"]),
        ("encode", ["--target_psnr", "x"]),
        ("encode", ["--quality", "60", "--max_bytes", "10"]),
        ("encode", ["--quality", "50", "--max_bytes", "10"]),
        ("decode", ["--max_pixels", "0"]),
        ("decode", ["--output_quality", "101"]),
        ("train", ["--validation_split", "1"]),
        ("train", ["--batch_size", "0"]),
        ("train", ["--num_of_epochs", "0"]),
        ("train", ["--crop_size", "-64"]),
        ("train", ["--arch", "ternary"]),
        ("test", ["--nonsense"]),
    ],
)
def test_a_bad_flag_is_named_in_one_line_after_the_usage(script, project, name, flags):
    result = script(name, *flags)
    assert result.code == 2 and result.out == "" and "Traceback" not in result.err
    usage, line = result.err.strip().rsplit("\n", 1)
    assert usage.startswith(f"usage: {name}.py")
    assert line.startswith(f"{name}.py: error: ") and flags[0] in line


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("encode", ["--device", "nonsense"]),
        ("encode", ["--effort", "8"]),
        ("decode", ["--file_format", "xyz"]),
        ("train", ["--crop_size", "100"]),
        ("train", ["--device", "nonsense"]),
    ],
)
def test_a_flag_that_cannot_be_met_is_named_in_one_line(script, project, name, flags):
    result = script(name, *flags)
    line = only_line(result.err)
    assert result.code == 1 and (flags[0] in line or flags[1] in line)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_version_is_told(script, name):
    result = script(name, "--version")
    assert (result.code, result.out) == (0, f"xfr {xfr.__version__}\n")


def test_a_file_of_another_picture_that_is_replaced_is_noted(script, project):
    photo = "out/original/photo.png"
    for _ in range(2):  # of the same one, it is not
        assert script("encode", photo).err == ""
    save_png(Path(photo), colour(48, 71))
    line = f"note: {photo}: its .xfr file replaces that of another picture"
    assert only_line(script("encode", photo, "--target_bpp", 9).err) == line
    assert script("encode", photo, "--target_bpp", 9).err == ""


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_comes_at_once_without_loading_torch(name):
    command = [sys.executable, "-X", "importtime", str(ROOT / f"{name}.py"), "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 0.5
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "argparse" in loaded and not loaded & {"torch", "numpy", "PIL"}
    assert f"python {name}.py" in done.stdout and "examples:" in done.stdout


# Targets


@pytest.fixture(params=SMALL)  # whose files are smaller than those without loss
def encode_one(request, script, project, checkpoints):
    """Encode one picture with some flags: the result, and the file or None."""
    picture = save_png(project / "target.png", noise(120, 150))

    def run(*flags):
        out = project / "target"
        shutil.rmtree(out, ignore_errors=True)
        model = ["--model", checkpoints[request.param]]
        result = script("encode", "--image_folder", picture, "--out_folder", out, *model, *flags)
        assert files(out) in ([], ["target.xfr"]) if out.exists() else True
        packed = out / "target.xfr"
        return result, packed.read_bytes() if packed.exists() else None

    def decoded(data: bytes) -> float:
        (project / "one.xfr").write_bytes(data)
        flags = ["--model", checkpoints[request.param], "--file_format", "png", "--overwrite"]
        script("decode", "--compressed_folder", "one.xfr", "--out_folder", "plain", *flags)
        return psnr(read_picture(picture).rgb, read_picture(project / "plain/one.png").rgb)

    run.psnr = decoded
    return run


@pytest.mark.parametrize("flag", ["--max_bytes", "--target_bpp"])
def test_a_size_is_met_by_the_best_quality_that_fits(encode_one, flag):
    smallest, largest = (len(encode_one("--quality", quality)[1]) for quality in (1, 100))
    limit = (smallest + largest) // 2
    value = limit if flag == "--max_bytes" else 8 * limit / (120 * 150)
    result, data = encode_one(flag, value)
    assert result.code == 0 and len(data) <= limit
    xfr = unpack(data)
    assert 1 < xfr.quality < 100
    assert xfr.target == (flag[2:], pytest.approx(value, rel=1e-6))
    _, larger = encode_one("--quality", xfr.quality + 1)
    assert len(larger) + 5 > limit  # the target itself takes five bytes


def test_a_psnr_is_met(encode_one):
    best = encode_one.psnr(encode_one("--quality", 100)[1])
    for value in (best, best - 0.01, 1, 99):
        result, data = encode_one("--target_psnr", value)
        assert result.code == 0 and encode_one.psnr(data) >= value
        assert unpack(data).target[0] == "target_psnr"


@pytest.mark.parametrize("flags", [["--max_bytes", 20], ["--target_bpp", 0.001]])
def test_a_size_that_cannot_be_kept_writes_nothing(encode_one, flags):
    result, data = encode_one(*flags)
    assert result.code == 1 and data is None
    assert "target.png" in failures(result)[0]
