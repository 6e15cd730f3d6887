"""Formats: opened by content from a list, and named where they cannot be read."""

import io
import struct
import subprocess
import sys
import time
from types import ModuleType

import numpy as np
import pytest
from helpers import SRGB, WIDE, colour, grey
from PIL import Image
from raw_files import rounded, segment

import xfr.formats
from xfr.colour import is_srgb
from xfr.formats import readable_extensions, unreadable_reason
from xfr.images import Picture, check_quality, write_picture
from xfr.metadata import Metadata
from xfr.text import pack_texts, unpack_texts

RNG = np.random.default_rng(0)
HEIC = b"\0\0\0\x18ftypheic" + bytes(100)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
IPTC = b"\x1c\x02\x50\0\x05ALICE"


def saved(format_name: str, image: Image.Image | None = None, **options) -> bytes:
    stream = io.BytesIO()
    (image or Image.fromarray(colour(20, 30))).save(stream, format_name, **options)
    return stream.getvalue()


# Opening


@pytest.mark.parametrize("name", ["picture.png", "picture.jpg", "picture.eps"])
def test_postscript_under_any_name_starts_no_program(read, name, monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program"))
    with pytest.raises(OSError, match="vector graphics"):
        read(POSTSCRIPT, name)


def test_formats_without_pixels_of_their_own_are_not_looked_for():
    assert readable_extensions().isdisjoint({"eps", "ps", "wmf", "emf", "mpg", "h5", "grib", "iim"})
    assert {
        "jpg",
        "png",
        "tiff",
        "webp",
        "avif",
        "gif",
        "bmp",
        "jp2",
        "mpo",
    } <= readable_extensions()


def test_of_several_pictures_for_a_stereo_viewer_the_first_is_read(read):
    frames = [Image.fromarray(colour(20, 30)), Image.new("RGB", (30, 20))]
    picture = read(saved("MPO", frames[0], save_all=True, append_images=frames[1:]), "picture.mpo")
    assert picture.shape == (20, 30) and picture.notices == ["only the first frame is kept"]
    assert np.abs(picture.pixels.astype(int) - colour(20, 30)).mean() < 12


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.heic", HEIC, "pillow-heif"), ("A.HEIF", b"", "pillow-heif"),
        ("a.jpg", HEIC, "pillow-heif"),
        ("a.nef", b"II*\0", "rawpy"), ("a.CR2", b"II*\0\x10\0\0\0CR\2\0", "rawpy"),
        ("a.cr3", b"\0\0\0\x18ftypcrx ", "rawpy"), ("a.arw", b"II*\0", "rawpy"),
        ("a.dng", b"II*\0", "rawpy"), ("a.raf", b"FUJIFILMCCD-RAW", "rawpy"),
        ("a.eps", POSTSCRIPT, "vector"), ("a.svg", b"<svg/>", "vector"), ("a.exr", b"", "dynamic"),
    ],
)  # fmt: skip
def test_a_picture_that_is_not_read_names_what_would_read_it(
    tmp_path, monkeypatch, name, content, reason
):
    monkeypatch.setattr(xfr.formats, "find_spec", lambda _: None)
    (tmp_path / name).write_bytes(content)
    assert reason in unreadable_reason(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b"hello"), ("a.mpg", b"\0\0\1\xb3"), ("a.mov", b"\0\0\0\x14ftypqt  "), ("a", b"")],
)
def test_what_is_no_picture_needs_no_reason(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert unreadable_reason(tmp_path / name) is None
    assert unreadable_reason(tmp_path / "missing.txt") is None


@pytest.mark.parametrize(
    "name", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "QOI", "DDS", "HEIF"]
)
def test_a_picture_under_another_extension_is_to_be_renamed(tmp_path, monkeypatch, name):
    monkeypatch.setattr(xfr.formats, "find_spec", lambda _: True)
    content = HEIC if name == "HEIF" else saved(name)
    for path in (tmp_path / "photo", tmp_path / "photo.bin", tmp_path / "photo.jpg_large"):
        path.write_bytes(content)
        assert unreadable_reason(path) == "a picture without a picture's extension: rename it"
    for path in (tmp_path / "photo.png", tmp_path / "video.thm"):  # of a camera, beside a video
        path.write_bytes(content)
        assert unreadable_reason(path) is None


def test_heic_is_read_where_its_package_is_installed(read, monkeypatch):
    registered = []
    package = ModuleType("pillow_heif")
    package.register_heif_opener = lambda: registered.append(True)
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(xfr.formats, "find_spec", lambda _: True)
    assert {"heic", "heif"} <= readable_extensions() and not registered
    with pytest.raises(OSError, match="not a picture"):
        read(HEIC, "picture.heic")
    assert registered == [True]


# Samples of other formats


@pytest.mark.parametrize(
    ("masks", "bits"), [((0xF800, 0x7E0, 0x1F), (5, 6, 5)), ((0x7C00, 0x3E0, 0x1F), (5, 5, 5))]
)
def test_colours_of_five_and_six_bits_are_rounded_to_the_nearest(read, masks, bits):
    samples = RNG.integers(0, 65536, (6, 10)) & sum(masks)
    data = samples[::-1].astype("<u2").tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, 10, 6, 1, 16, 3, len(data), 0, 0, 0, 0)
    head = b"BM" + struct.pack("<IHHI", 66 + len(data), 0, 0, 66)
    shifts = bits[1] + bits[2], bits[2], 0
    expected = [rounded((samples >> s) & (2**b - 1), 2**b - 1) for s, b in zip(shifts, bits)]
    picture = read(head + info + struct.pack("<III", *masks) + data, "picture.bmp")
    assert np.array_equal(picture.pixels, np.dstack(expected))


@pytest.mark.parametrize("top", [255, 1000, 65535])
def test_grey_with_any_largest_value_is_rounded_to_the_nearest(read, top):
    samples = RNG.integers(0, top + 1, (6, 10))
    data = samples.astype(">u2" if top > 255 else "u1").tobytes()
    picture = read(f"P5 10 6 {top}\n".encode() + data, "picture.pgm")
    assert np.array_equal(picture.pixels, rounded(samples, top))


def test_jpeg_2000_of_16_bits_is_right_in_grey_and_refused_in_colour(read):
    samples = RNG.integers(0, 65536, (32, 32)).astype(np.uint16)
    data = saved("JPEG2000", Image.fromarray(samples))
    assert np.array_equal(read(data).pixels, rounded(samples, 65535))
    for bits in (4, 12, 16):
        deep = bytearray(saved("JPEG2000"))
        at = deep.find(b"\xff\x4f\xff\x51") + 42
        deep[at : at + 9 : 3] = bytes([bits - 1] * 3)
        with pytest.raises(ValueError, match=f"3 channels of {bits} bits"):
            read(bytes(deep))


@pytest.mark.parametrize("bits", [16, 32, -32])
def test_measurements_of_astronomers_are_refused(read, bits):
    cards = {"SIMPLE": "T", "BITPIX": bits, "NAXIS": 2, "NAXIS1": 10, "NAXIS2": 6}
    head = "".join(f"{name:8}= {value:>20}".ljust(80) for name, value in cards.items()) + "END"
    with pytest.raises(OSError, match="export a png"):
        read(head.ljust(2880).encode() + bytes(2880), "picture.fits")


def test_sgi_of_16_bits_is_refused(read):
    head = struct.pack(">hBBHHHHII4x80sI404x", 474, 0, 2, 2, 10, 6, 1, 0, 65535, b"", 0)
    with pytest.raises(ValueError, match="16-bit samples of SGI"):
        read(head + bytes(120), "picture.sgi")


@pytest.mark.parametrize("colour_map", [1, 2, 3])
def test_sgi_with_a_colour_map_is_refused(read, colour_map):
    sizes = 474, 0, 1, 2, 10, 6, 1, 0, 255, b""
    head = struct.pack(">hBBHHHHII4x80sI404x", *sizes, colour_map)
    with pytest.raises(ValueError, match="SGI files with a colour map"):
        read(head + bytes(60), "picture.sgi")


def box(kind: bytes, content: bytes) -> bytes:
    """A box of JPEG 2000, AVIF or HEIC."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def with_box(data: bytes, *boxes: bytes) -> bytes:
    """A JPEG 2000 file with further boxes at the end of its header, and without its cdef."""
    at = data.find(b"jp2h") - 4
    (size,) = struct.unpack_from(">I", data, at)
    content = data[at + 8 : at + size]
    start = content.find(b"cdef") - 4
    if start >= 0:
        content = content[:start] + content[start + int.from_bytes(content[start : start + 4]) :]
    return data[:at] + box(b"jp2h", content + b"".join(boxes)) + data[at + size :]


def cdef(*channels: tuple[int, int, int]) -> bytes:
    """The box that tells number, kind and colour of each channel."""
    entries = b"".join(struct.pack(">HHH", *channel) for channel in channels)
    return box(b"cdef", struct.pack(">H", len(channels)) + entries)


@pytest.mark.parametrize(
    "channels",
    [
        ((0, 0, 3), (1, 0, 2), (2, 0, 1), (3, 1, 0)),
        ((0, 1, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3)),
        ((0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 2, 0)),
        ((0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 65535, 65535)),
    ],
    ids=["BGRA", "ARGB", "multiplied", "unspecified"],
)
def test_channels_of_jpeg_2000_that_pillow_takes_for_others_are_refused(read, channels):
    pixels = np.dstack([colour(20, 30), grey(20, 30, 1)])
    data = saved("JPEG2000", Image.fromarray(pixels), irreversible=False)
    usual = cdef((3, 1, 0), (0, 0, 1), (1, 0, 2), (2, 0, 3))
    picture = read(with_box(data, usual), "picture.jp2")
    assert np.array_equal(np.dstack([picture.pixels, picture.alpha]), pixels)
    with pytest.raises(ValueError, match="reordered or premultiplied channels"):
        read(with_box(data, cdef(*channels)), "picture.jp2")


def test_a_palette_of_jpeg_2000_in_another_order_is_refused(read):
    levels, colours = grey(20, 30), RNG.integers(0, 256, (256, 3)).astype(np.uint8)
    data = saved("JPEG2000", Image.fromarray(levels), irreversible=False)
    data = data.replace(b"\1\0\0\0\0\0\x11", b"\1\0\0\0\0\0\x10")  # sRGB in place of grey
    palette = box(b"pclr", struct.pack(">HB", 256, 3) + b"\7\7\7" + colours.tobytes())
    usual, reversed_order = (
        box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, column) for column in order))
        for order in ((0, 1, 2), (2, 1, 0))
    )
    picture = read(with_box(data, palette, usual), "picture.jp2")
    assert np.array_equal(picture.pixels, colours[levels])
    with pytest.raises(ValueError, match="reordered"):
        read(with_box(data, palette, reversed_order), "picture.jp2")


@pytest.mark.parametrize(("columns", "depth"), [(1, 7), (2, 7), (3, 4), (3, 15)])
def test_a_palette_of_jpeg_2000_that_is_not_of_colours_of_8_bits_is_refused(read, columns, depth):
    data = saved("JPEG2000", Image.fromarray(grey(20, 30)), irreversible=False)
    entries = bytes(256 * columns * (1 + depth // 8))
    palette = box(b"pclr", struct.pack(">HB", 256, columns) + columns * bytes([depth]) + entries)
    with pytest.raises(ValueError, match="with a palette of grey or of other than 8 bits"):
        read(with_box(data, palette), "picture.jp2")


def test_jpeg_2000_of_cielab_is_refused(read):
    data = saved("JPEG2000").replace(b"\1\0\0\0\0\0\x10", b"\1\0\0\0\0\0\x0e")
    with pytest.raises(ValueError, match="CIELab"):
        read(data, "picture.jp2")


@pytest.mark.parametrize("name", ["AVIF", "JPEG2000"])
def test_a_uuid_box_that_is_not_kept_is_told(read, name):
    data = saved(name)
    assert read(data).notices == []
    assert read(data + box(b"uuid", bytes(16) + b"C2PA")).notices == ["its UUID box is not kept"]


def photoshop(kind: int, channels: int, layers: int) -> tuple[np.ndarray, bytes]:
    """A picture [C, H, W] and its file, with IPTC and empty layers."""
    pixels = RNG.integers(0, 256, (channels, 4, 5)).astype(np.uint8)
    layer = struct.pack(">4iHhI", 0, 0, 4, 5, 1, 0, 22) + b"8BIMnorm\xff\0\0\0"
    layer += struct.pack(">III", 12, 0, 0) + b"\1a\0\0"
    section = struct.pack(">h", layers) + layer * layers + bytes(22 * layers)
    section = struct.pack(">I", len(section)) + section + bytes(4) if layers else b""
    resource = b"8BIM\4\4\0\0" + struct.pack(">I", len(IPTC)) + IPTC
    head = b"8BPS" + struct.pack(">H6xHIIHHI", 1, channels, 4, 5, 8, kind, 0)
    parts = struct.pack(">I", len(resource)) + resource + struct.pack(">I", len(section)) + section
    return pixels, head + parts + bytes(2) + pixels.tobytes()


def test_a_photoshop_file_with_layers_is_what_they_show_together(read):
    pixels, data = photoshop(3, 3, layers=2)
    picture = read(data, "picture.psd")
    assert np.array_equal(picture.pixels, pixels.transpose(1, 2, 0))
    assert picture.metadata.iptc == IPTC
    assert picture.notices == ["its layers are not kept, but what they show together"]
    _, multichannel = photoshop(7, 3, layers=0)
    with pytest.raises(ValueError, match="multichannel"):
        read(multichannel, "picture.psd")


def with_resources(data: bytes, *resources: tuple[int, bytes]) -> bytes:
    """A Photoshop file without any, with resources."""
    content = b"".join(
        b"8BIM" + struct.pack(">HHI", number, 0, len(value)) + value for number, value in resources
    )
    (palette,) = struct.unpack_from(">I", data, 26)
    at = 30 + palette
    (size,) = struct.unpack_from(">I", data, at)
    return data[:at] + struct.pack(">I", len(content)) + content + data[at + 4 + size :]


def test_the_resolution_of_photoshop_is_kept(read):
    _, data = photoshop(3, 3, layers=0)
    resolution = struct.pack(">IHHIHH", 300 << 16, 2, 1, 150 << 16, 1, 1)
    picture = read(with_resources(data, (1005, resolution)), "picture.psd")
    assert picture.metadata.dpi == (300, 150)


@pytest.mark.parametrize("index", [0, 7, 255, 65535])
def test_the_transparent_colour_of_a_photoshop_palette_is_transparent(read, index):
    levels, colours = (
        np.arange(20, dtype=np.uint8) % 10,
        RNG.integers(0, 256, (256, 3)).astype(np.uint8),
    )
    _, data = photoshop(2, 1, layers=0)
    data = data[:26] + struct.pack(">I", 768) + colours.T.tobytes() + data[30:-20]
    data += levels.tobytes()
    picture = read(with_resources(data, (1047, struct.pack(">H", index))), "picture.psd")
    assert np.array_equal(picture.pixels, colours[levels].reshape(4, 5, 3))
    alpha = np.full((4, 5), 255) if picture.alpha is None else picture.alpha
    assert np.array_equal(alpha == 0, (levels == index).reshape(4, 5))


# Colours and metadata of other formats


def test_linear_colours_of_qoi_become_a_profile(read):
    body = b"".join(b"\xfe" + pixel.tobytes() for pixel in colour(4, 5).reshape(-1, 3))
    for space, has_profile in ((0, False), (1, True)):
        data = b"qoif" + struct.pack(">IIBB", 5, 4, 3, space) + body + bytes(7) + b"\1"
        picture = read(data, "picture.qoi")
        assert np.array_equal(picture.pixels, colour(4, 5))
        assert (picture.metadata.icc is not None) == has_profile
        assert not has_profile or not is_srgb(picture.metadata.icc)


def test_colours_that_an_avif_file_names_by_numbers_become_a_profile(read):
    data = saved("AVIF")
    at = data.find(b"nclx") + 4
    named = {
        pair: data[:at] + struct.pack(">HH", *pair) + data[at + 4 :]
        for pair in ((1, 13), (12, 13), (9, 16))
    }
    assert read(named[1, 13]).metadata.icc is None and read(named[1, 13]).notices == []
    assert read(named[12, 13]).metadata.icc[16:20] == b"RGB "
    assert "PQ" in read(named[9, 16]).notices[0]


def test_a_profile_and_xmp_of_jpeg_2000_are_kept(read):
    data = saved("JPEG2000")
    header = data.find(b"jp2h") - 4
    (size,) = struct.unpack_from(">I", data, header)
    old = data.find(b"colr") - 4
    (old_size,) = struct.unpack_from(">I", data, old)
    box = struct.pack(">I4sBBB", 11 + len(SRGB), b"colr", 2, 0, 0) + SRGB
    xmp = b"<x:xmpmeta/>"
    uuid = (
        struct.pack(">I4s", 24 + len(xmp), b"uuid")
        + bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
        + xmp
    )
    changed = (
        data[:header]
        + uuid
        + struct.pack(">I", size - old_size + len(box))
        + data[header + 4 : old]
        + box
    )
    metadata = read(changed + data[old + old_size :], "picture.jp2").metadata
    assert metadata.icc == SRGB and metadata.xmp == xmp


def test_comments_and_iptc_of_jpeg_are_kept(read):
    data = saved("JPEG")
    resource = b"Photoshop 3.0\x008BIM\4\4\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0"
    comments = segment(0xFE, b"first") + segment(0xFE, "zweiter: grün".encode("latin-1"))
    picture = read(data[:2] + segment(0xED, resource) + comments + data[2:])
    assert picture.metadata.iptc == IPTC and not picture.notices
    expected = [("Comment", "first"), ("Comment", "zweiter: grün")]
    assert unpack_texts(picture.metadata.texts) == expected
    stream = io.BytesIO()
    assert write_picture(picture, stream, "jpg") == [
        "jpg cannot hold its texts but for a comment: dropped"
    ]
    assert read(stream.getvalue()).metadata.iptc == IPTC
    assert Image.open(stream).info["comment"] == "first\nzweiter: grün".encode()


def test_iptc_that_is_split_over_segments_of_jpeg_is_whole_and_cut_iptc_is_told(read):
    data, prefix = saved("JPEG"), b"Photoshop 3.0\0"
    resource = b"8BIM\4\4\0\0" + struct.pack(">I", 100 * len(IPTC)) + 100 * IPTC
    first, second = segment(0xED, prefix + resource[:500]), segment(0xED, prefix + resource[500:])
    picture = read(data[:2] + first + second + data[2:])
    assert picture.metadata.iptc == 100 * IPTC and picture.notices == []
    picture = read(data[:2] + first + data[2:])
    assert picture.metadata.iptc is None
    assert picture.notices == ["its IPTC is damaged: dropped"]


@pytest.mark.parametrize(
    ("behind", "is_told"),
    [(b"", False), (bytes(2000), False), (b"ftypmp42" + bytes(2000), True)],
    ids=["nothing", "zeros", "video"],
)
def test_what_lies_behind_a_jpeg_file_is_told(read, behind, is_told):
    notices = read(saved("JPEG") + behind).notices
    assert notices == ["the data behind its end, such as a video, are not kept"] * is_told


def test_a_jpeg_file_that_pillow_does_not_open_is_told_as_damaged(read):
    data = saved("JPEG")
    with pytest.raises(OSError, match="a damaged JPEG file"):
        read(data[:2] + segment(0xE2, b"ICC_PROFILE\0") + data[2:])
    with pytest.raises(OSError, match="Truncated File Read"):
        read(data[:30])


def test_what_a_jpeg_file_holds_beside_is_told(read):
    data = saved("JPEG", icc_profile=SRGB)
    cut = data.replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2")
    assert read(cut).notices == ["its colour profile is damaged: dropped"]
    credentials = data[:2] + segment(0xEB, b"JP\0\0credentials") + data[2:]
    assert read(credentials).notices == ["its segments APP11 are not kept"]
    gain = (
        data[:2]
        + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version='1.0'/>")
        + data[2:]
    )
    assert read(gain).notices == ["its gain map (HDR) is not kept"]


@pytest.mark.parametrize("name", ["GIF", "JPEG2000"])
def test_the_comment_of_other_formats_is_kept(read, name):
    picture = read(saved(name, Image.fromarray(grey(20, 30)), comment=b"hello"))
    assert unpack_texts(picture.metadata.texts) == [("Comment", "hello")]
    stream = io.BytesIO()
    write_picture(picture, stream, {"GIF": "gif", "JPEG2000": "jp2"}[name])
    assert Image.open(stream).info["comment"] == b"hello"


def blocks(label: bytes, content: bytes) -> bytes:
    """An extension of GIF, in blocks of at most 255 bytes."""
    parts = [content[start : start + 255] for start in range(0, len(content), 255)]
    return b"!" + label + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def test_comments_of_gif_behind_its_frames_and_its_profile_are_kept(read):
    frames = [Image.fromarray(colour(20, 30, seed)) for seed in (0, 1)]
    data = saved("GIF", frames[0], save_all=True, append_images=frames[1:], comment=b"first")
    profile = WIDE + bytes(300)
    icc = b"!\xff\x0bICCRGBG1012" + blocks(b"", profile)[1:]
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    data = data[:start] + icc + data[start:-1] + blocks(b"\xfe", b"last" * 100) + b";"
    picture = read(data, "picture.gif")
    assert unpack_texts(picture.metadata.texts) == [("Comment", "first\n" + "last" * 100)]
    assert picture.metadata.icc == profile


@pytest.mark.parametrize("extension", ["jpg", "png", "tiff"])
def test_iptc_is_written_where_there_is_a_place_for_it(read, extension):
    stream = io.BytesIO()
    assert (
        write_picture(Picture(grey(20, 30), metadata=Metadata(iptc=IPTC)), stream, extension) == []
    )
    assert read(stream.getvalue(), f"picture.{extension}").metadata.iptc == IPTC


@pytest.mark.parametrize("extension", ["webp", "avif", "bmp"])
def test_what_has_no_place_for_iptc_and_texts_says_so(extension):
    metadata = Metadata(iptc=IPTC, texts=pack_texts([("Title", "hello")]))
    notices = write_picture(Picture(grey(20, 30), metadata=metadata), io.BytesIO(), extension)
    assert [
        f"{extension} cannot hold its {kind}: dropped" for kind in ("IPTC", "texts")
    ] == notices[-2:]


# Writing


class FullDisk(io.RawIOBase):
    """Takes 2000 bytes."""

    def __init__(self):
        self.taken = 0

    def writable(self):
        return True

    def tell(self):
        return self.taken

    def seek(self, *_):
        return self.taken

    def write(self, data):
        self.taken += len(data)
        if self.taken > 2000:
            raise OSError(28, "No space left on device")
        return len(data)


@pytest.mark.parametrize(
    "extension", ["jp2", "jpg", "png", "webp", "avif", "tiff", "bmp", "gif", "tga", "ppm"]
)
def test_a_full_disk_ends_the_writing(extension):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(OSError, match="No space left"):
        write_picture(Picture(noise), FullDisk(), extension)


@pytest.mark.parametrize(
    ("extension", "limit"),
    [("jpg", 65500), ("gif", 65535), ("webp", 16383), ("tga", 65535), ("avif", 32768)],
)
def test_a_picture_too_long_for_a_format_says_how_many_pixels_it_holds(extension, limit):
    for shape in ((1, limit + 1), (limit + 1, 1)):
        message = f"{shape[1]}x{shape[0]}: {extension} holds at most {limit} pixels a side"
        with pytest.raises(ValueError, match=message):
            write_picture(Picture(np.zeros(shape, np.uint8)), io.BytesIO(), extension)
    write_picture(Picture(np.zeros((1, limit), np.uint8)), io.BytesIO(), extension)


@pytest.mark.parametrize("extension", ["jpg", "mpo", "webp", "avif"])
def test_an_output_quality_trades_bytes_for_fidelity(read, extension):
    pixels = colour(100, 100)
    sizes, errors = [], []
    for quality in (20, 60, 95):
        stream = io.BytesIO()
        write_picture(Picture(pixels), stream, extension, quality)
        sizes.append(len(stream.getvalue()))
        found = read(stream.getvalue(), f"picture.{extension}").pixels
        errors.append(np.abs(found.astype(int) - pixels).mean())
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    assert sizes[0] < sizes[-1] and errors[0] > errors[-1]


@pytest.mark.parametrize("extension", ["jpg", "mpo", "avif"])
def test_without_an_output_quality_levels_and_fine_colours_are_nearly_kept(read, extension):
    """Columns of 1 pixel in turns of two colours, which subsampled chroma would mix."""
    pixels = colour(64, 64) // 2 + 60
    pixels[:, ::2, 0] += 30
    stream = io.BytesIO()
    write_picture(Picture(pixels), stream, extension)
    error = read(stream.getvalue(), f"picture.{extension}").pixels.astype(int) - pixels
    assert np.square(error).mean() < 4


@pytest.mark.parametrize("extension", ["png", "webp", "tiff"])
def test_colours_below_full_transparency_are_kept(read, extension):
    picture, stream = Picture(colour(40, 50), np.zeros((40, 50), np.uint8)), io.BytesIO()
    write_picture(picture, stream, extension)
    found = read(stream.getvalue(), f"picture.{extension}")
    assert np.array_equal(found.pixels, picture.pixels) and not found.alpha.any()


def test_an_output_quality_is_checked():
    for extension, quality, message in (
        ("png", 80, "png has no quality"),
        ("jpg", 0, "1 to 100"),
        ("jpg", 101, "1 to 100"),
    ):
        with pytest.raises(ValueError, match=message):
            check_quality(extension, quality)
    check_quality("JPEG", 80)
    check_quality("mpo", 80)
    check_quality("png", None)


def test_exif_of_many_directories_costs_no_time_in_tiff():
    """Each of 21 directories of 65,535 tags is the first's further one."""
    size = 2 + 12 * 65535 + 4
    exif = bytearray(b"II*\0\x08\0\0\0")
    for number in range(21):
        entries = b"".join(struct.pack("<HHII", 0x9000 + k % 1000, 4, 1, k) for k in range(65534))
        link = struct.pack("<HHII", 0x8769, 4, 1, 8 + size * (number + 1))
        exif += struct.pack("<H", 65535) + entries + link + bytes(4)
    picture = Picture(grey(8, 9), metadata=Metadata(exif=bytes(exif)))
    start = time.process_time()
    assert write_picture(picture, io.BytesIO(), "tiff") == ["tiff cannot hold its EXIF: dropped"]
    assert time.process_time() - start < 1


def test_a_profile_that_a_format_cannot_hold_is_told_unless_it_is_that_of_srgb():
    assert is_srgb(SRGB) and not is_srgb(WIDE) and not is_srgb(b"nonsense")
    for icc, notices in ((SRGB, []), (WIDE, ["bmp cannot hold its colour profile: dropped"])):
        picture = Picture(colour(8, 9), metadata=Metadata(icc=icc))
        assert write_picture(picture, io.BytesIO(), "bmp") == notices
