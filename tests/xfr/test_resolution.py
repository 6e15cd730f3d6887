"""The resolution of a picture in an .xfr file."""

import struct
from pathlib import Path

import pytest
from helpers import colour
from PIL import Image

from xfr.file import Xfr, pack, unpack
from xfr.images import Picture, read_picture, write_picture
from xfr.metadata import Metadata


@pytest.mark.parametrize(
    "dpi",
    [299.9994, 300.0006, 72.5, 0.5, 1.0, 300.0, 2.0**24 + 2, 2.0**31, 1e30],
)
@pytest.mark.parametrize("down", [1, 2])
def test_every_resolution_comes_back_as_it_is(dpi, down):
    """Resolutions keep the precision of float32, whole or not, the same both ways or not."""
    (dpi,) = struct.unpack("f", struct.pack("f", dpi))
    xfr = Xfr(1, 2, 30, 20, False, 50, b"", metadata=Metadata(dpi=(dpi, down * dpi)))
    assert unpack(pack(xfr)).metadata.dpi == (dpi, down * dpi)


@pytest.mark.parametrize("extension", ["png", "jpg", "tiff", "bmp"])
@pytest.mark.parametrize("dpi", [(300.0, 300.0), (72.4, 150.6)])
def test_a_resolution_is_written_rounded_where_a_format_has_no_fractions(
    tmp_path: Path, extension, dpi
):
    path = tmp_path / f"picture.{extension}"
    with path.open("wb") as stream:
        picture = Picture(colour(20, 30), metadata=Metadata(dpi=dpi))
        assert write_picture(picture, stream, extension) == []  # nothing is dropped
    assert read_picture(path).metadata.dpi == pytest.approx(dpi, abs=0.5)


@pytest.mark.parametrize("extension", ["png", "jpg", "tiff", "webp", "gif"])
def test_a_picture_of_no_resolution_has_none(tmp_path, extension):
    path = tmp_path / f"picture.{extension}"
    Image.fromarray(colour(20, 30)).save(path)
    assert read_picture(path).metadata.dpi is None
