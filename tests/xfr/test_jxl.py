"""JPEG XL: its size is known before it is decoded, and what is not kept of it is told."""

import importlib
import io
import struct

import numpy as np
import pytest
from helpers import colour, grey
from PIL import Image

from xfr.jxl import JxlHeader, read_jxl_header

pytest.importorskip("pillow_jxl")
NAME = "picture.jxl"


class BitWriter:
    """Reverse of the reader: numbers of some bits each, the lowest first."""

    def __init__(self):
        self.bits = self.length = 0

    def put(self, *pairs: tuple[int, int]) -> "BitWriter":
        for value, count in pairs:
            self.bits |= value << self.length
            self.length += count
        return self

    def data(self) -> bytes:
        return b"\xff\x0a" + self.bits.to_bytes(-(-self.length // 8) + 8, "little")


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


SIGNATURE = box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ")


def saved(image: Image.Image, **options) -> bytes:
    importlib.import_module("pillow_jxl")
    stream = io.BytesIO()
    image.save(stream, "JXL", lossless=True, **options)
    return stream.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 64), (640, 480), (513, 300), (2000, 17)])
@pytest.mark.parametrize("boxed", [False, True])
def test_the_size_is_read_before_the_pixels(size, boxed):
    data = saved(Image.new("RGB", size), use_container=boxed)
    assert read_jxl_header(io.BytesIO(data)) == JxlHeader(*size, 8, False)


@pytest.mark.parametrize("boxed", [False, True])
def test_a_bomb_is_refused_before_it_is_decoded(read, boxed):
    side = (3, 2), (2**30 - 1, 30)
    data = BitWriter().put((0, 1), *side, (0, 3), *side, (1, 1)).data()
    assert read_jxl_header(io.BytesIO(data))[:2] == (2**30, 2**30)
    data = SIGNATURE + box(b"Exif", bytes(300)) + box(b"jxlc", data) if boxed else data
    with pytest.raises(ValueError, match="more pixels than the limit"):
        read(data, NAME)


def test_depth_is_found_behind_all_other_fields():
    size = (1, 1), (3, 5), (7, 3)  # 32 high, by a ratio of 2 to 1
    shown = (0, 1), (0, 2), (99, 9), (1, 3)
    preview = (1, 1), (1, 2), (0, 3), (2, 2), (5, 5)
    frames = (2, 2), (9, 10), (1, 2), (1, 2), (5, 3), (0, 1)
    fields = [(0, 1), (1, 1), (4, 3), (1, 1), *shown, (1, 1), *preview, (1, 1), *frames]
    depth = (0, 1), (3, 2), (15, 6)
    data = BitWriter().put(*size, *fields, *depth).data()
    assert read_jxl_header(io.BytesIO(data)) == JxlHeader(64, 32, 16, True, 5)


@pytest.mark.parametrize("data", [b"", b"\xff\x0a", SIGNATURE, SIGNATURE + bytes(8)])
def test_a_header_that_is_cut_short_is_refused(data):
    with pytest.raises(OSError, match="damaged"):
        read_jxl_header(io.BytesIO(data))


@pytest.mark.parametrize("pixels", [colour(20, 30), grey(20, 30)], ids=["colour", "grey"])
def test_pixels_come_back(read, pixels):
    picture = read(saved(Image.fromarray(pixels)), NAME)
    assert np.array_equal(picture.pixels, pixels) and picture.notices == []


@pytest.mark.parametrize(("turned", "shape"), [(6, (20, 30)), (1, (30, 20))])
def test_pixels_that_libjxl_has_turned_are_not_turned_again(read, monkeypatch, turned, shape):
    exif = Image.Exif()
    exif[0x112], exif[0x10F] = 6, "maker"
    image, xmp = Image.fromarray(colour(20, 30)), b'<rdf:Description tiff:Orientation="6"/>'
    data = saved(image, use_container=True, exif=exif.tobytes(), xmp=xmp)
    header = read_jxl_header(io.BytesIO(data))._replace(orientation=turned)
    monkeypatch.setattr("xfr.jxl.read_jxl_header", lambda stream: header)
    picture = read(data, NAME)
    assert picture.shape == shape and b"maker" in picture.metadata.exif
    assert picture.metadata.xmp == xmp.replace(b"6", b"1")


def test_an_animation_is_refused(read, monkeypatch):
    data = saved(Image.fromarray(colour(20, 30)))
    header = read_jxl_header(io.BytesIO(data))._replace(is_animated=True)
    monkeypatch.setattr("xfr.jxl.read_jxl_header", lambda stream: header)
    with pytest.raises(ValueError, match="animations in JPEG XL are not read"):
        read(data, NAME)


def test_content_credentials_are_told(read):
    data = saved(Image.fromarray(colour(20, 30)), use_container=True) + box(b"jumb", b"c2pa")
    told = "its JUMBF box, such as Content Credentials, is not kept"
    assert read(data, NAME).notices == [told]


def test_xmp_is_kept_and_compressed_metadata_are_told(read):
    options = {"use_container": True, "xmp": b"<x:xmpmeta/>"}
    image = Image.fromarray(colour(20, 30))
    picture = read(saved(image, **options), NAME)
    assert picture.metadata.xmp == b"<x:xmpmeta/>" and picture.notices == []
    picture = read(saved(image, compress_metadata=True, **options), NAME)
    assert picture.metadata.xmp is None
    assert picture.notices == ["its compressed metadata are not kept"]
