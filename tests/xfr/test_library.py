"""The library: import xfr."""

import math
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import ROOT, SRGB, drawing, grey, save_png, textured
from PIL import Image, PngImagePlugin

import xfr
from model.checkpoint import fingerprint, load_checkpoint
from xfr import library
from xfr.checkpoints import EARLIER, FOLDER, SHIPPED
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import TARGETS, unpack
from xfr.images import Picture, is_intact
from xfr.targets import TARGETS as MEETING_TARGETS
from xfr.targets import psnr, ssimulacra2
from xfr.text import pack_raw_profile

PHOTO = textured(70, 90)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_checkpoint_has_the_name_and_fingerprint_that_messages_tell(name):
    checkpoint = load_checkpoint(FOLDER / f"{name}.tar")
    assert SHIPPED[name] == (checkpoint["arch"], fingerprint(checkpoint))


def test_every_checkpoint_in_the_folder_has_a_name():
    assert {path.stem for path in FOLDER.glob("*.tar")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_earlier_checkpoint_of_a_name_is_known_by_its_commit(name, tmp_path):
    def fingerprint_at(commit: str) -> int:
        command = ["git", "show", f"{commit}:out/{name}.tar"]
        data = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        (tmp_path / "earlier.tar").write_bytes(data)
        return fingerprint(load_checkpoint(tmp_path / "earlier.tar"))

    command = ["git", "log", "--format=%H", "--", f"out/{name}.tar"]
    log = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not log or (ROOT / ".git/shallow").exists():
        pytest.skip("no history")
    while len(log) > 1 and fingerprint_at(log[1]) == SHIPPED[name].fingerprint:
        log.pop(1)  # the same weights, saved again
    known = [commit for earlier, commit in EARLIER.values() if earlier == name]
    assert [commit[:7] for commit in reversed(log[1:])] == known
    assert not set(EARLIER) & {shipped.fingerprint for shipped in SHIPPED.values()}


def test_every_target_of_a_file_can_be_met():
    assert tuple(MEETING_TARGETS) == TARGETS


def test_the_import_loads_nothing_slow():
    program = "import sys, xfr; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert "xfr" in out.stdout.split()
    assert not {"torch", "numpy", "xfr.file", "xfr.encoder"} & set(out.stdout.split())


def test_the_version_of_the_package_is_that_of_the_library():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "xfr.__version__"}
    assert xfr.__version__.count(".") == 2


def test_packages_are_all_that_the_library_needs():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for room in ("model", "xfr") for path in (ROOT / room).rglob("*.py")}
    names = {str(path.relative_to(ROOT)).replace("/", ".") for path in folders}
    assert set(listed["packages"]) == names | {"out"}
    assert listed["package-data"] == {
        "out": [f"{name}.tar" for name in ("main", "hyperprior", "visual")]
    }


def test_pillow_s_limit_of_pixels_stays_that_of_the_program_that_uses_the_library(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70 * 90)
    path = save_png(tmp_path / "a.png", PHOTO)
    xfr.decode(xfr.encode(path, "main"))
    assert is_intact(path, path, (70, 90))
    assert Image.MAX_IMAGE_PIXELS == 70 * 90
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="more pixels than the limit of 2000"):
        xfr.encode(path, "main")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_picture_comes_back_from_every_checkpoint_without_naming_it_again(name):
    image = xfr.decode(xfr.encode(PHOTO, name))
    assert image.mode == "RGB" and image.size == (90, 70)
    assert psnr(PHOTO, np.asarray(image)) > 20


def test_a_preview_and_a_crop_of_a_picture_are_decoded():
    data = xfr.encode(PHOTO, "main")
    whole = xfr.decode(data)
    assert xfr.decode(data, scale=8).size == (12, 9)
    crop = xfr.decode(data, crop=(10, 20, 30, 40))
    assert np.array_equal(np.asarray(crop), np.asarray(whole)[20:60, 10:40])
    for wanted, message in (
        ({"scale": 3}, "a scale of 3 is not one of"),
        ({"crop": (80, 0, 11, 5)}, "a crop of 11x5 pixels at 80, 0 is not within"),
        ({"scale": 2, "crop": (0, 0, 8, 8)}, "choose a crop or a scale"),
    ):
        with pytest.raises(ValueError, match=message):
            xfr.decode(data, **wanted)


def test_the_bytes_are_those_of_the_scripts(tmp_path):
    path, encoder = save_png(tmp_path / "a.png", PHOTO), Encoder(FOLDER / "main.tar")
    expected = encoder.encode(Picture(PHOTO), EncodingSettings(30))
    for picture in (PHOTO, Image.fromarray(PHOTO), path, str(path)):
        assert xfr.encode(picture, "main", 30) == expected
    assert xfr.encode(PHOTO, FOLDER / "main.tar", 30) == expected
    assert unpack(xfr.encode(PHOTO, "main")).quality == 50


@pytest.mark.parametrize(
    ("target", "limit"), [("max_bytes", 800), ("target_bpp", 1.0), ("target_psnr", 25)]
)
def test_a_target_is_met(target, limit):
    data = xfr.encode(PHOTO, "main", **{target: limit})
    assert unpack(data).target == (target, limit)
    size = {"max_bytes": len(data), "target_bpp": 8 * len(data) / PHOTO[..., 0].size}
    if target in size:
        assert 0.5 * limit < size[target] <= limit
    else:
        assert limit <= psnr(PHOTO, np.asarray(xfr.decode(data))) < limit + 2


def test_an_ssimulacra_2_is_met_by_the_lowest_quality_and_with_effort_too():
    image = Image.open(FOLDER / "original/chelsea.png").crop((120, 30, 280, 190))
    pixels = np.asarray(image.convert("RGB"))
    data, searched = (xfr.encode(pixels, effort=e, target_ssimulacra2=70) for e in (0, 1))
    quality = unpack(data).quality
    lower = xfr.encode(pixels, quality=quality - 1)
    scores = [ssimulacra2(pixels, np.asarray(xfr.decode(x))) for x in (data, searched, lower)]
    assert min(scores[:2]) >= 70 > scores[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quality": 101}, "quality 101 is not a whole number in 1 to 100"),
        ({"quality": 0}, "quality 0 is not a whole number in 1 to 100"),
        ({"quality": 60.5}, "quality 60.5 is not a whole number in 1 to 100"),
        ({"quality": "60"}, "quality '60' is not a whole number in 1 to 100"),
        ({"effort": 10}, "effort 10 is not a whole number in 0 to 9"),
        ({"target_psnr": math.nan}, "target_psnr nan is not a number within 1e[+]15 of 0"),
        ({"target_bpp": 1e40}, "target_bpp 1e[+]40 is not a number"),
        ({"max_bytes": -1}, "the lowest quality takes .* bytes, more than -1"),
        ({"max_bytes": "2kB"}, "max_bytes '2kB' is not a number"),
        ({"max_byte": 3}, "'max_byte' is none of the targets"),
        ({"quality": 30, "max_bytes": 3}, "only one can be met"),
        ({"target_psnr": 30, "max_bytes": 3}, "only one can be met"),
        ({"max_bytes": 3}, "the lowest quality takes .* bytes, more than 3"),
        ({"effort": 1}, "--effort: main cannot use it, but hyperprior and visual can"),
        ({"device": "gpu"}, "no such device: gpu; use cpu, cuda"),
    ],
)
def test_a_setting_that_cannot_be_met_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        xfr.encode(PHOTO, "main", **settings)


@pytest.mark.parametrize(
    ("mode", "decoded"),
    [("L", "L"), ("1", "L"), ("LA", "LA"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("P", "RGB")],
)
def test_an_image_of_any_8_bit_mode_comes_back(mode, decoded):
    image = Image.fromarray(drawing(40, 60)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(grey(40, 60)))
    found = xfr.decode(xfr.encode(image, "main", 100))
    assert found.mode == decoded and found.size == (60, 40)
    assert np.array_equal(np.asarray(found), np.asarray(image.convert(decoded)))  # a graphic


@pytest.mark.parametrize("mode", ["CMYK", "F", "I;16", "LAB"])
def test_an_image_that_8_bits_do_not_hold_is_refused(mode):
    with pytest.raises(ValueError, match=f"an image of mode {mode}: convert it"):
        xfr.encode(Image.new(mode, (8, 8)), "main")


def test_an_image_is_turned_upright_and_left_as_it_is(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(drawing(40, 60)).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        found = xfr.decode(xfr.encode(image, "main", 100))
        assert image.size == (60, 40) and found.size == (40, 60)
    from_path = xfr.decode(xfr.encode(tmp_path / "turned.png", "main", 100))
    assert np.array_equal(np.asarray(found), np.asarray(from_path))


def test_profile_and_metadata_are_where_pillow_looks_for_them(tmp_path):
    exif = Image.Exif()
    exif[0x10F] = "maker"
    image = Image.fromarray(drawing(40, 60))
    image.save(tmp_path / "a.png", exif=exif, icc_profile=SRGB, dpi=(300, 300))
    found = xfr.decode(xfr.encode(tmp_path / "a.png", "main", 100))
    assert found.info["icc_profile"] == SRGB and found.getexif()[0x10F] == "maker"
    assert found.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    stripped = xfr.decode(xfr.encode(tmp_path / "a.png", "main", 100, strip_metadata=True))
    assert set(stripped.info) == {"icc_profile"}
    with Image.open(tmp_path / "a.png") as image:
        assert xfr.decode(xfr.encode(image, "main", 100)).info == {"icc_profile": SRGB}


def test_iptc_comments_and_texts_are_in_the_info_of_a_decoded_image(tmp_path):
    words = PngImagePlugin.PngInfo()
    for keyword, text in (("Comment", "seen"), ("Title", "two"), ("transparency", "no level")):
        words.add_text(keyword, text)
    iptc = b"\x1c\x02\x69\0\x03abc"
    words.add_text("Raw profile type iptc", pack_raw_profile("iptc", iptc))
    Image.fromarray(drawing(40, 60)).save(tmp_path / "a.png", pnginfo=words)
    found = xfr.decode(xfr.encode(tmp_path / "a.png", "main", 100))
    assert found.info == {
        "photoshop": {0x0404: iptc}, "comment": b"seen",
        "texts": [("Comment", "seen"), ("Title", "two"), ("transparency", "no level")],
    }  # fmt: skip
    found.save(tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").info["comment"] == b"seen"


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 5), np.float32), np.zeros((4, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8)],
    ids=["floats", "four channels", "empty"],
)
def test_an_array_that_is_no_picture_is_refused(array):
    with pytest.raises(ValueError, match=r"not uint8 \[H, W, 3\] or \[H, W\]"):
        xfr.encode(array, "main")


@pytest.mark.parametrize("source", [None, [[1, 2], [3, 4]], PHOTO.tobytes()], ids=type)
def test_what_is_no_picture_at_all_is_a_type_error(source):
    with pytest.raises(TypeError, match="is no path, no image of Pillow and no array"):
        xfr.encode(source, "main")


def test_what_is_lost_of_a_file_is_a_warning(tmp_path):
    frames = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="a.gif: only the first frame is kept"):
        xfr.encode(tmp_path / "a.gif", "main")


def test_a_file_is_decoded_by_its_path_or_its_bytes(tmp_path):
    data = xfr.encode(PHOTO, "main")
    (tmp_path / "a.xfr").write_bytes(data)
    expected = np.asarray(xfr.decode(data))
    for source in (tmp_path / "a.xfr", str(tmp_path / "a.xfr"), bytearray(data)):
        assert np.array_equal(xfr.decode(source), expected)
    with pytest.raises(TypeError, match="int is no path and no bytes"):
        xfr.decode(3)
    with pytest.raises(FileNotFoundError):
        xfr.decode("missing.xfr")


@pytest.mark.parametrize(
    ("extract", "error"),
    [
        ({"scale": 3}, "a scale of 3 is not one of"),
        ({"scale": 2.0}, "a scale of 2.0 is not one of"),
        ({"crop": (3, 4, 5)}, r"a crop of \(3, 4, 5\) is not x, y, width and height"),
        ({"crop": ()}, "a crop of .* is not x, y, width and height"),
        ({"crop": (0.5, 0, 5, 5)}, "a crop of .* is not x, y, width and height"),
        ({"crop": (0, 0, 91, 5)}, "a crop of 91x5 pixels at 0, 0 is not within"),
    ],
)
def test_an_extract_that_cannot_be_is_named(extract, error):
    data = xfr.encode(PHOTO, "main")
    with pytest.raises(ValueError, match=error):
        xfr.decode(data, **extract)


def test_any_strides_of_an_array_do():
    flipped = PHOTO[::-1, :, ::-1]
    assert xfr.encode(flipped, "main") == xfr.encode(flipped.copy(), "main")


def test_a_picture_beyond_the_limit_of_pixels_is_refused(monkeypatch):
    huge = np.broadcast_to(np.uint8(0), (13378, 13378))
    with pytest.raises(ValueError, match="13378x13378 pixels are more than the limit"):
        xfr.encode(huge, "main")
    monkeypatch.setattr(library, "MAX_PIXELS", 70 * 90 - 1)
    with pytest.raises(ValueError, match="90x70 pixels are more than the limit"):
        xfr.encode(Image.fromarray(PHOTO), "main")
    data = xfr.encode(PHOTO[:-1], "main")
    with pytest.raises(ValueError, match="90x69 pixels are more than the limit"):
        xfr.decode(data, max_pixels=69 * 90 - 1)


def test_a_file_of_another_checkpoint_is_decoded_with_it(checkpoints):
    data = xfr.encode(PHOTO, checkpoints["hyperprior"])
    with pytest.raises(ValueError, match="made by checkpoint [0-9a-f]{16}, which is not here"):
        xfr.decode(data)
    assert xfr.decode(data, checkpoints["hyperprior"]).size == (90, 70)


def test_threads_load_a_checkpoint_once(checkpoints):
    loaded = []

    class Coder:
        def __init__(self, path, device):
            loaded.append(path)

    with ThreadPoolExecutor(8) as pool:
        coders = list(
            pool.map(lambda _: library.shared(Coder, checkpoints["binary"], "cpu"), range(50))
        )
    assert len(loaded) == 1 and len(set(map(id, coders))) == 1


def test_a_checkpoint_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint: .*none\.tar"):
        xfr.encode(PHOTO, "none.tar")


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="an image without any pixel"):
        xfr.encode(Image.new("RGB", (0, 5)), "main")


def test_the_edges_of_a_crop_may_be_numbers_of_numpy():
    data = xfr.encode(PHOTO, "main")
    crop = np.array([3, 4, 10, 12])
    assert xfr.decode(data, crop=tuple(crop)).tobytes() == (
        xfr.decode(data, crop=(3, 4, 10, 12)).tobytes()
    )
