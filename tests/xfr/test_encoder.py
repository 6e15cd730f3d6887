"""The content of a file for a size that it is to keep."""

import pytest
import torch
from helpers import noise

from model.tiles import Tile
from xfr.candidates import Graphic
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import unpack
from xfr.images import Picture
from xfr.metadata import Metadata

PROFILE = noise(10, 10).tobytes()


@pytest.fixture
def picture() -> Picture:
    """Squares of many colours: a drawing whose palettes take more bytes, the larger they are. It
    has a profile that cannot be compressed."""
    pixels = noise(30, 40).repeat(5, axis=0).repeat(5, axis=1)
    return Picture(pixels, metadata=Metadata(icc=PROFILE))


@pytest.fixture
def encoder(checkpoints, monkeypatch, picture) -> Encoder:
    """An encoder whose codec gives every payload 100 bytes, and decodes it to the picture,
    inverted."""
    encoder = Encoder(checkpoints["binary"])
    tile = Tile(0, 150, 0, 200), torch.tensor(255 - picture.pixels)
    monkeypatch.setattr(encoder.codec, "compress", lambda *args: bytes(100))
    monkeypatch.setattr(encoder.codec, "decoded_tiles", lambda *args: iter([tile]))
    return encoder


@pytest.mark.parametrize("beside", [20, 200, 330])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_graphic_leaves_room_for_all_that_is_beside_it_in_the_file(
    encoder, picture, version, beside
):
    """The limit is between the bytes of a palette's payload and those of its file."""
    limit = len(Graphic(picture).payload(version)) + beside
    data = encoder.encode(picture, EncodingSettings(target=("max_bytes", limit)))
    xfr = unpack(data)
    assert len(data) <= limit and xfr.quality == 100
    assert xfr.graphic == (version > 0)  # of fewer colours; there are none fewer than two
    assert len(PROFILE) < len(data) - len(xfr.payload)


def test_a_graphic_that_just_fits_with_all_that_is_beside_it_is_taken(encoder, picture):
    sizes = [len(Graphic(picture).payload(version)) for version in (0, 1)]
    data = encoder.encode(picture, EncodingSettings(target=("max_bytes", sizes[1] + 500)))
    beside = len(data) - len(unpack(data).payload)
    for version, size in enumerate(sizes):
        target = "max_bytes", size + beside
        xfr = unpack(encoder.encode(picture, EncodingSettings(target=target)))
        assert xfr.graphic and len(xfr.payload) == sizes[version]
