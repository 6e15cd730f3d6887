import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from helpers import SRGB, colour, grey
from PIL import Image
from PIL.JpegImagePlugin import get_sampling
from raw_files import upright

from model.limits import MAX_PIXELS
from xfr.formats import normalize_extension
from xfr.images import (
    Picture,
    check_shape,
    is_intact,
    read_picture,
    set_up_pillow,
    writable_format,
    write_picture,
)
from xfr.metadata import Metadata

EXTENSIONS = ["bmp", "png", "jpg", "jpeg", "webp", "tiff", "tif", "ppm", "avif", "gif", "jp2"]
LOSSLESS = ["bmp", "png", "webp", "tiff", "tif", "ppm"]
HOLDS_ALPHA = {"png", "webp", "tiff", "tif", "avif", "jp2"}
SHAPE = (24, 38)
ALPHA = np.linspace(0, 255, SHAPE[0] * SHAPE[1]).astype(np.uint8).reshape(SHAPE)


@pytest.fixture
def reread(tmp_path):
    """Save a Pillow image and read it as a Picture."""

    def run(image: Image.Image, name: str = "picture.png", **options) -> Picture:
        image.save(tmp_path / name, **options)
        return read_picture(tmp_path / name)

    return run


def written(picture: Picture, extension: str) -> tuple[Image.Image, list[str]]:
    stream = io.BytesIO()
    notices = write_picture(picture, stream, extension)
    stream.seek(0)
    image = Image.open(stream)
    image.load()
    return image, notices


# Reading


def test_rgb_is_read_as_it_is(reread):
    picture = reread(Image.fromarray(colour(*SHAPE)))
    assert np.array_equal(picture.pixels, colour(*SHAPE))
    assert picture.alpha is None and picture.metadata.icc is None and picture.notices == []


def test_grey_stays_grey(reread):
    picture = reread(Image.fromarray(grey(*SHAPE)))
    assert np.array_equal(picture.pixels, grey(*SHAPE))
    assert picture.rgb.shape == (*SHAPE, 3) and picture.shape == SHAPE


def test_one_bit_becomes_grey(reread):
    picture = reread(Image.fromarray(grey(*SHAPE) > 100))
    assert np.array_equal(picture.pixels, 255 * np.uint8(grey(*SHAPE) > 100))


def test_one_bit_with_a_transparent_value_has_alpha(reread):
    bits = grey(*SHAPE) > 100
    picture = reread(Image.fromarray(bits), transparency=1)
    assert np.array_equal(picture.pixels, 255 * bits)
    assert np.array_equal(picture.alpha, np.where(bits, 0, 255))


def test_palette_becomes_rgb(reread):
    image = Image.fromarray(colour(*SHAPE)).quantize(16)
    picture = reread(image)
    assert np.array_equal(picture.pixels, np.array(image.convert("RGB")))
    assert picture.alpha is None


def test_palette_with_transparency_becomes_rgb_and_alpha(reread):
    image = Image.fromarray(np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE).astype(np.uint8) % 3)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture = reread(image, transparency=1)
    assert picture.pixels.shape == (*SHAPE, 3)
    assert np.array_equal(picture.alpha, np.where(np.array(image) == 1, 0, 255))


def test_rgb_with_a_transparent_colour_has_alpha(reread):
    pixels = np.zeros((*SHAPE, 3), np.uint8)
    pixels[5:9] = 1, 2, 3
    picture = reread(Image.fromarray(pixels), transparency=(1, 2, 3))
    assert np.array_equal(picture.alpha == 0, (pixels == (1, 2, 3)).all(axis=2))


DAMAGED = SRGB[:16] + b"CMYK" + bytes(200)


@pytest.mark.parametrize("profile", [None, DAMAGED, SRGB], ids=["no", "a_damaged", "an_rgb"])
@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_cmyk_is_converted_without_a_profile_of_no_use_and_that_is_told(reread, profile, extension):
    image = Image.fromarray(colour(*SHAPE)).convert("CMYK")
    picture = reread(image, f"picture.{extension}", icc_profile=profile)
    assert extension == "jpg" or np.array_equal(picture.pixels, colour(*SHAPE))
    unused = ["its colour profile is damaged or not for its pixels: dropped"] * bool(profile)
    assert not picture.metadata.icc
    assert picture.notices == ["CMYK is converted to sRGB", *unused]


def test_lab_is_converted(reread):
    picture = reread(Image.new("LAB", (8, 8), (255, 128, 128)), "picture.tif")
    assert picture.pixels.shape == (8, 8, 3) and picture.pixels.min() >= 250


def test_16_bit_grey_is_reduced_with_a_notice(reread):
    values = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE) * 71
    picture = reread(Image.fromarray(values))
    assert np.array_equal(picture.pixels, np.round(values / 257))
    assert picture.notices == ["16 bits per channel are reduced to 8"] and picture.alpha is None


def test_16_bit_grey_with_a_transparent_value_has_alpha(reread):
    values = np.arange(SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(SHAPE) * 71
    picture = reread(Image.fromarray(values), transparency=710)
    assert np.array_equal(picture.pixels, np.round(values / 257))
    assert np.array_equal(picture.alpha, np.where(values == 710, 0, 255))


def test_16_bit_rgb_is_reduced_with_a_notice(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    wide = colour(*SHAPE).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    header = struct.pack(">IIBBBBB", SHAPE[1], SHAPE[0], 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    (tmp_path / "wide.png").write_bytes(png + chunk(b"IEND", b""))
    picture = read_picture(tmp_path / "wide.png")
    assert np.array_equal(picture.pixels, colour(*SHAPE))
    assert picture.notices == ["16 bits per channel are reduced to 8"]


@pytest.mark.parametrize("width", [38, 54])
@pytest.mark.parametrize("extension", ["bmp", "tif", "png", "jpg"])
def test_8_bit_pictures_of_any_width_have_no_notice(reread, extension, width):
    assert reread(Image.new("RGB", (width, 10)), f"picture.{extension}").notices == []


def test_16_bits_for_all_three_channels_are_not_reduced(tmp_path):
    masks, pixels = struct.pack("<III", 0xF800, 0x7E0, 0x1F), bytes(2 * 10 * 6)
    info = struct.pack("<IiiHHIIiiII", 40, 10, 6, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    head = struct.pack("<IHHI", 66 + len(pixels), 0, 0, 66)
    (tmp_path / "picture.bmp").write_bytes(b"BM" + head + info + masks + pixels)
    picture = read_picture(tmp_path / "picture.bmp")
    assert picture.shape == (6, 10) and picture.notices == []


def test_floating_point_is_refused(reread):
    with pytest.raises(ValueError, match="floating-point"):
        reread(Image.new("F", (4, 4)), "picture.tif")


def test_alpha_of_rgba_is_exact(reread):
    image = Image.fromarray(np.dstack([colour(*SHAPE), ALPHA]))
    picture = reread(image)
    assert np.array_equal(picture.alpha, ALPHA)
    assert np.array_equal(picture.pixels, colour(*SHAPE))


def test_alpha_of_la_is_exact_and_grey_stays_grey(reread):
    image = Image.fromarray(grey(*SHAPE))
    image.putalpha(Image.fromarray(ALPHA))
    picture = reread(image)
    assert np.array_equal(picture.alpha, ALPHA)
    assert np.array_equal(picture.pixels, grey(*SHAPE))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(reread, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = colour(*SHAPE)
    picture = reread(Image.fromarray(pixels), exif=exif)
    assert np.array_equal(picture.pixels, upright(pixels, orientation))


def test_the_profile_of_an_rgb_picture_is_kept(reread):
    assert reread(Image.fromarray(colour(*SHAPE)), icc_profile=SRGB).metadata.icc == SRGB


def test_a_profile_of_another_colour_space_is_dropped_with_a_notice(reread):
    picture = reread(Image.fromarray(grey(*SHAPE)), icc_profile=SRGB)
    assert picture.metadata.icc is None
    assert picture.notices == ["its colour profile does not fit its pixels: dropped"]


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tif"])
def test_only_the_first_frame_of_an_animation_is_kept_with_a_notice(reread, extension):
    frames = [Image.new("RGB", (20, 10), c) for c in ("red", "lime", "blue")]
    options = {"save_all": True, "append_images": frames[1:]}
    if extension == "webp":
        options["lossless"] = True
    picture = reread(frames[0], f"picture.{extension}", **options)
    assert (picture.pixels == (255, 0, 0)).all()
    assert picture.notices == ["only the first frame is kept"]


def test_more_pixels_than_the_limit_are_refused(tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "picture.png")
    assert read_picture(tmp_path / "picture.png", 600).shape == (20, 30)
    with pytest.raises(ValueError, match="30x20 pixels are more than the limit of 599"):
        read_picture(tmp_path / "picture.png", 599)


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_a_picture_within_an_icon_is_not_larger_than_the_limit(tmp_path, monkeypatch):
    inner = io.BytesIO()
    Image.new("L", (400, 300)).save(inner, "PNG")
    entry = struct.pack("<4B2H2I", 16, 16, 0, 0, 1, 32, len(inner.getvalue()), 22)
    data = struct.pack("<3H", 0, 1, 1) + entry + inner.getvalue()
    for name in ("icon.ico", "icon.png"):  # Pillow goes by the content
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match="more than the limit of 119999"):
            read_picture(tmp_path / name, max_pixels=119_999)
        assert read_picture(tmp_path / name, max_pixels=120_000).shape == (300, 400)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 119_999 / 2)  # as the scripts set it
        with pytest.raises(ValueError, match="more pixels than the limit of 119999"):
            read_picture(tmp_path / name)
        monkeypatch.undo()


def test_the_limit_without_any_other_is_that_at_which_pillow_refuses_pictures():
    """Twice as many as a quarter of a gigabyte of 24-bit pixels."""
    most = 2 * (2**30 // 4 // 3)
    check_shape(64, most // 64, MAX_PIXELS)
    with pytest.raises(ValueError, match="more than the limit"):
        check_shape(64, most // 64 + 1, MAX_PIXELS)


def test_the_limit_of_a_script_is_that_of_pillow_with_no_warning_below(monkeypatch):
    stream = io.BytesIO()
    Image.new("L", (400, 300)).save(stream, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        set_up_pillow(120_000)
        assert Image.open(stream).size == (400, 300)
        set_up_pillow(119_999)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(stream)
    assert not caught


def test_a_bomb_is_refused_before_its_pixels_are_decoded(tmp_path):
    (tmp_path / "bomb.ppm").write_bytes(b"P6\n100000 100000\n255\n")
    with pytest.raises(ValueError, match="more pixels than the limit"):
        read_picture(tmp_path / "bomb.ppm")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"II"])
def test_what_is_no_picture_is_refused(tmp_path, content):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises((OSError, ValueError)) as error:
        read_picture(tmp_path / "picture.png")
    assert "unpack" not in str(error.value)


def test_a_truncated_picture_is_refused(tmp_path):
    Image.fromarray(colour(100, 100)).save(tmp_path / "picture.jpg")
    intact = (tmp_path / "picture.jpg").read_bytes()
    (tmp_path / "picture.jpg").write_bytes(intact[: len(intact) // 2])
    with pytest.raises(OSError):
        read_picture(tmp_path / "picture.jpg")


# Writing


@pytest.mark.parametrize("extension", ["jpg", "mpo"])
@pytest.mark.parametrize("quality", [None, 50, 100])
def test_noise_is_written_to_jpeg(extension, quality):
    noise = np.random.default_rng(0).integers(0, 2, (300, 300, 3)).astype(np.uint8) * 255
    stream = io.BytesIO()
    write_picture(Picture(noise), stream, extension, quality)
    assert Image.open(stream).size == (300, 300)


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("pixels", [colour(*SHAPE), grey(*SHAPE)], ids=["colour", "grey"])
def test_every_format_is_written(extension, pixels):
    image, notices = written(Picture(pixels), extension)
    reduced = extension == "gif" and pixels.ndim == 3
    assert notices == ["gif has no more than 256 colours: reduced"] * reduced
    assert image.size == (SHAPE[1], SHAPE[0])
    same = np.array_equal(np.array(image.convert("RGB")), Picture(pixels).rgb)
    assert same or extension not in LOSSLESS


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("pixels", [colour(*SHAPE), grey(*SHAPE)], ids=["colour", "grey"])
def test_alpha_is_dropped_with_a_notice_only_where_the_format_has_none(extension, pixels):
    image, notices = written(Picture(pixels, ALPHA), extension)
    if extension in HOLDS_ALPHA:
        assert notices == []
        alpha = np.array(image.getchannel("A"), dtype=int)
        assert abs(alpha - ALPHA).max() <= (8 if extension == "avif" else 0)
    else:
        assert notices[0] == f"{normalize_extension(extension)} has no alpha channel: dropped"
        assert "A" not in image.getbands()


def test_few_colours_are_written_to_gif_as_they_are_without_a_notice():
    few = np.random.default_rng(0).integers(0, 2, (*SHAPE, 3)).astype(np.uint8) * 200
    image, notices = written(Picture(few), "gif")
    assert np.array_equal(np.array(image.convert("RGB")), few) and notices == []
    many = np.arange(257 * 3).reshape(1, 257, 3).astype(np.uint8)
    many[0, :, 1] = np.arange(257) // 2
    assert written(Picture(many), "gif")[1] == ["gif has no more than 256 colours: reduced"]


@pytest.mark.parametrize("extension", ["pbm", "pfm"])
def test_an_extension_under_which_pillow_writes_another_format_is_refused(extension):
    with pytest.raises(ValueError, match=f"writes a ppm under the extension {extension}"):
        writable_format(extension)


def test_pgm_is_written_of_grey_alone():
    image, _ = written(Picture(grey(*SHAPE)), "pgm")
    assert image.mode == "L" and np.array_equal(np.array(image), grey(*SHAPE))
    with pytest.raises(ValueError, match="pgm holds grey alone"):
        written(Picture(colour(*SHAPE)), "pgm")


@pytest.mark.parametrize("extension", ["jpg", "JPEG", ".jpg"])
def test_jpeg_is_of_quality_95_without_subsampling(extension):
    image, _ = written(Picture(colour(*SHAPE)), extension)
    reference = io.BytesIO()
    Image.fromarray(colour(*SHAPE)).save(reference, "JPEG", quality=95)
    assert image.format == "JPEG" and get_sampling(image) == 0
    assert image.quantization == Image.open(reference).quantization


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tiff", "avif"])
def test_the_profile_is_written(extension):
    image, _ = written(Picture(colour(*SHAPE), metadata=Metadata(icc=SRGB)), extension)
    assert image.info["icc_profile"] == SRGB


@pytest.mark.parametrize("alpha", [None, ALPHA], ids=["opaque", "alpha"])
def test_a_grey_profile_is_not_written_with_colour(alpha):
    profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    picture = Picture(grey(*SHAPE), alpha, Metadata(icc=profile))
    image, notices = written(picture, "webp")
    assert image.mode.startswith("RGB") and "icc_profile" not in image.info
    assert notices == ["webp has no grey: its profile is dropped"]
    image, notices = written(picture, "png")
    assert image.info["icc_profile"] == profile and not notices


@pytest.mark.parametrize("extension", ["ico", "icns", "pdf", "xbm", "msp", "palm", "blp"])
def test_a_format_that_cannot_give_every_picture_back_is_refused(extension):
    with pytest.raises(ValueError, match=f"any size as {extension} and read them back"):
        writable_format(extension)


@pytest.mark.parametrize("extension", ["gif", "dds", "dib", "mpo", "pcx", "qoi", "sgi", "tga"])
@pytest.mark.parametrize("pixels", [colour(300, 270), grey(300, 270)], ids=["colour", "grey"])
def test_less_common_formats_work(extension, pixels):
    image, _ = written(Picture(pixels), extension)
    assert image.size == (270, 300)
    error = np.array(image.convert("RGB"), int) - Picture(pixels).rgb
    assert np.abs(error).mean() < 3


@pytest.mark.parametrize("extension", ["xyz", "", "psd"])
def test_an_extension_that_cannot_be_written_is_refused(extension):
    with pytest.raises(ValueError, match="Pillow cannot write files with the extension"):
        writable_format(extension)
    with pytest.raises(ValueError):
        write_picture(Picture(grey(4, 4)), io.BytesIO(), extension)


def test_extensions_are_compared_without_dot_and_case():
    assert normalize_extension(".JPEG") == normalize_extension("jpg") == "jpg"
    assert normalize_extension("TIF") == normalize_extension(".tiff") == "tiff"


def test_an_output_is_intact_if_complete_newer_and_of_the_right_size(tmp_path):
    source, output = tmp_path / "a.xfr", tmp_path / "a.png"
    source.write_bytes(b"")
    assert not is_intact(output, source, (20, 30))
    Image.new("RGB", (30, 20)).save(output)
    assert is_intact(output, source, (20, 30))
    assert not is_intact(output, source, (30, 20))
    output.write_bytes(output.read_bytes()[:50])
    assert not is_intact(output, source, (20, 30))


def test_an_output_is_damaged_whatever_pillow_raises(tmp_path, monkeypatch):
    source, output = tmp_path / "a.xfr", tmp_path / "a.png"
    source.write_bytes(b"")
    Image.new("RGB", (30, 20)).save(output)

    def damaged(image):
        raise RuntimeError("decoding failed")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", damaged)
    assert not is_intact(output, source, (20, 30))
