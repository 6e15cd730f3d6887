"""Pillow's plugin: Image.open and Image.save of .xfr files."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, SRGB, drawing, grey, run_process, textured
from PIL import Image, UnidentifiedImageError

import xfr
from xfr.file import TARGETS, unpack
from xfr.images import writable_format
from xfr.plugin import SAVE_SETTINGS
from xfr.targets import psnr

PHOTO = textured(70, 90)
# Opens a file, then loads it, and says each time whether torch is there.
OPEN_AND_LOAD = f"""
import sys
sys.path[0] = {str(ROOT)!r}
import xfr
from PIL import Image
image = Image.open(sys.argv[1])
print(image.format, image.size, image.mode, sorted(image.info), "torch" in sys.modules)
image.load()
print("torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """An .xfr file of PHOTO with profile, EXIF, XMP and resolution."""
    path, exif = tmp_path_factory.mktemp("plugin") / "photo.xfr", Image.Exif()
    exif[0x10F] = "maker"
    metadata = {"icc_profile": SRGB, "exif": exif, "xmp": b"<x/>", "dpi": (300, 300)}
    Image.fromarray(PHOTO).save(path, quality=70, checkpoint="main", **metadata)
    return path


def test_a_file_is_opened_without_torch_and_decoded_when_it_is_loaded(photo):
    result = run_process([sys.executable, "-c", OPEN_AND_LOAD, photo])
    info = ["dpi", "exif", "icc_profile", "xmp"]
    assert result.out.splitlines() == [f"XFR (90, 70) RGB {info} False", "True"]


def test_an_opened_image_is_the_decoded_one(photo):
    expected = xfr.decode(photo.read_bytes())
    with Image.open(photo) as image:
        assert image.info == expected.info and image.getexif()[0x10F] == "maker"
        assert np.array_equal(np.asarray(image), np.asarray(expected))
        assert image.get_format_mimetype() == "image/x-xfr"


def test_an_image_is_saved_as_the_library_encodes_it(tmp_path):
    image = Image.fromarray(PHOTO)
    for settings in (
        {"quality": 60},
        {"checkpoint": "main", "max_bytes": 1500},
        {"checkpoint": "main", "target_psnr": 27.0},
        {"checkpoint": "hyperprior", "quality": 30, "effort": 1},
    ):
        image.save(tmp_path / "a.xfr", **settings)
        assert (tmp_path / "a.xfr").read_bytes() == xfr.encode(PHOTO, **settings)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_an_image_of_each_mode_comes_back(tmp_path, mode):
    image = Image.fromarray(drawing(40, 60)).convert(mode)
    if "A" in mode:
        image.putalpha(Image.fromarray(grey(40, 60)))
    image.save(tmp_path / "a.xfr", checkpoint="main", quality=100)
    opened = Image.open(tmp_path / "a.xfr")
    assert opened.mode == mode and opened.size == (60, 40)
    assert np.array_equal(np.asarray(opened), np.asarray(image))  # a graphic


def test_of_metadata_only_the_profile_is_saved_unless_it_is_given(photo):
    with Image.open(photo) as image:
        image.save(stream := io.BytesIO(), "XFR", checkpoint="main")
        assert Image.open(stream).info == {"icc_profile": SRGB}
        image.save(stream := io.BytesIO(), "XFR", checkpoint="main", **image.info)
        assert Image.open(stream).info == image.info


def test_orientation_is_applied_to_pixels_and_resolution():
    exif = Image.Exif()
    exif[0x112] = 6
    options = {"exif": exif.tobytes(), "dpi": (100, 200)}
    image = Image.fromarray(drawing(40, 60))
    image.save(stream := io.BytesIO(), "XFR", checkpoint="main", quality=100, **options)
    found = Image.open(stream)
    assert found.size == (40, 60) and found.info["dpi"] == (200, 100)
    assert found.getexif()[0x112] == 1
    assert np.array_equal(np.asarray(found), np.rot90(drawing(40, 60), -1))
    assert image.size == (60, 40) and not image.info


def test_damaged_exif_is_no_obstacle_unless_it_is_to_be_written(tmp_path):
    image = Image.fromarray(PHOTO)
    image.save(tmp_path / "a.jpg", exif=b"Exif\0\0garbage!!")
    opened = Image.open(tmp_path / "a.jpg")
    expected = xfr.encode(np.asarray(opened), "main")
    assert xfr.encode(opened, "main") == expected
    opened.save(tmp_path / "a.xfr", checkpoint="main")
    assert (tmp_path / "a.xfr").read_bytes() == expected
    with pytest.raises(ValueError, match="its EXIF is damaged"):
        opened.save(tmp_path / "b.xfr", checkpoint="main", exif=b"garbage!!")


def test_a_folder_of_images_is_read_as_torchvision_does(tmp_path):
    from torchvision.datasets import ImageFolder

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(PHOTO).save(tmp_path / name / "a.xfr", checkpoint="main")
    folder = ImageFolder(tmp_path, is_valid_file=lambda path: path.endswith(".xfr"))
    assert folder.classes == ["cat", "dog"]
    assert [label for _, label in folder] == [0, 1]
    assert all(psnr(PHOTO, np.asarray(image)) > 25 for image, _ in folder)


def test_a_preview_and_a_crop_are_taken_from_the_decoded_pixels(photo):
    image = Image.open(photo)
    image.thumbnail((45, 45))
    assert image.size == (45, 35)
    crop = np.asarray(Image.open(photo).crop((10, 20, 30, 40)))
    assert np.array_equal(crop, np.asarray(xfr.decode(photo.read_bytes()))[20:40, 10:30])


def test_a_thumbnail_is_made_of_a_preview_and_is_close_to_that_of_all_pixels(tmp_path):
    source = Image.open(ROOT / "out/original/chelsea.png").convert("RGB")
    source.save(tmp_path / "a.xfr")
    image, whole = Image.open(tmp_path / "a.xfr"), Image.open(tmp_path / "a.xfr")
    image.thumbnail((50, 50))
    whole.load()
    whole.thumbnail((50, 50))
    assert image.scale == 8 and whole.scale == 1 and image.size == whole.size == (50, 33)
    assert psnr(np.asarray(image), np.asarray(whole)) > 34


def test_a_thumbnail_weights_colours_by_their_opacity(tmp_path):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :33] = 255
    thumbnails = []
    for name, options in (("a.xfr", {"quality": 100, "checkpoint": "main"}), ("a.png", {})):
        Image.fromarray(pixels).save(tmp_path / name, **options)
        image = Image.open(tmp_path / name)
        image.thumbnail((4, 4), reducing_gap=2.0)
        thumbnails.append(np.asarray(image).astype(int))
    assert np.abs(thumbnails[0] - thumbnails[1]).max() <= 2


@pytest.mark.parametrize(
    ("size", "scale"), [((90, 70), 1), ((46, 36), 1), ((45, 45), 2), ((22, 17), 4), ((0, 1), 16)]
)
def test_a_draft_is_the_smallest_preview_that_is_not_smaller(photo, size, scale):
    with Image.open(photo) as image:
        shape = -(-90 // scale), -(-70 // scale)
        assert image.draft("RGB", size) == ("RGB", (0, 0, 90 / scale, 70 / scale))
        expected = xfr.decode(photo.read_bytes(), scale=scale)
        assert image.size == shape and np.array_equal(np.asarray(image), np.asarray(expected))


def test_a_draft_is_chosen_once_and_before_pixels_are_loaded(photo):
    image = Image.open(photo)
    assert image.draft("RGB", None) is None
    image.draft("RGB", (40, 30))
    assert image.draft("RGB", (10, 10)) is None and image.size == (45, 35)
    image = Image.open(photo)
    image.load()
    assert image.draft("RGB", (10, 10)) is None and image.size == (90, 70)


@pytest.mark.parametrize("data", [b"", b"XFR", b"no file", b"XFR\2" + bytes(60)])
def test_no_xfr_file_is_not_identified(data):
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(data))


def test_a_damaged_file_is_an_oserror_each_time_it_is_loaded(photo):
    data = bytearray(photo.read_bytes())
    for damaged in (data[:-9], data[:-30] + bytes([data[-30] ^ 1]) + data[-29:], data + b"more"):
        image = Image.open(io.BytesIO(damaged))
        assert image.size == (90, 70)
        for _ in range(2):
            with pytest.raises(OSError, match="truncated file|CRC|trailing bytes"):
                image.load()
        with pytest.raises(SyntaxError, match="truncated file|CRC|trailing bytes"):
            Image.open(io.BytesIO(damaged)).verify()


def test_a_good_file_is_verified(photo):
    Image.open(photo).verify()
    with Image.open(photo) as image:
        image.draft("RGB", (10, 10))
        image.verify()


def test_no_more_is_read_than_a_picture_of_the_size_in_the_header_can_take(photo, tmp_path):
    path = tmp_path / "long.xfr"
    path.write_bytes(photo.read_bytes())
    with path.open("r+b") as stream:
        stream.truncate(2**40)  # a file with a hole: no memory holds what it seems to
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)


def test_damaged_metadata_are_not_identified(photo):
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(photo.read_bytes()[:60]))


def test_the_limit_of_pixels_is_that_of_pillow(photo, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70 * 90 // 2 - 1)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70 * 90 // 2)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    Image.open(photo).load()


@pytest.mark.parametrize("mode", ["CMYK", "F", "I;16"])
def test_a_mode_that_8_bits_do_not_hold_is_refused_and_leaves_no_file(tmp_path, mode):
    with pytest.raises(OSError, match=f"cannot write mode {mode} as XFR"):
        Image.new(mode, (8, 8)).save(tmp_path / "a.xfr")
    assert not (tmp_path / "a.xfr").exists()


def test_settings_that_cannot_be_met_are_named(tmp_path):
    for settings, message in (
        ({"quality": 101}, "quality 101 is not a whole number in 1 to 100"),
        ({"quality": 50, "max_bytes": 900}, "only one can be met"),
    ):
        with pytest.raises(ValueError, match=message):
            Image.fromarray(PHOTO).save(tmp_path / "a.xfr", checkpoint="main", **settings)
    Image.fromarray(PHOTO).save(tmp_path / "a.xfr", checkpoint="main", optimize=True)
    assert unpack((tmp_path / "a.xfr").read_bytes()).quality == 50


def test_every_target_can_be_given():
    assert set(TARGETS) < set(SAVE_SETTINGS)


def test_decoded_pictures_are_not_written_as_xfr_files():
    with pytest.raises(ValueError, match="Pillow cannot write files with the extension 'xfr'"):
        writable_format("xfr")


def test_xmp_may_be_text(tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "a.xfr", checkpoint="main", xmp="<x/>")
    assert Image.open(tmp_path / "a.xfr").info["xmp"] == b"<x/>"
