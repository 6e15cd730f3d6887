import numpy as np
import pytest
import torch
from helpers import ROOT, colour, tiny_codec

from model import load_codec
from model.bytestream import pack_chunk
from model.checkpoint import load_checkpoint
from model.hyperprior.coder import Border
from model.tiles import padded
from tests.fuzz import memory_bound, virtual_bytes


def test_a_tile_sees_what_was_coded_to_its_left_and_above_it():
    picture = torch.arange(2 * 6 * 8.0).view(1, 2, 6, 8)
    border = Border(width=8, depth=2)
    for top, left in ((0, 0), (0, 4), (4, 0), (4, 4)):
        tile = picture[:, :, top : top + 4, left : left + 4]
        values, above, beside = border.window(2, *tile.shape[2:])
        assert (above, beside) == (min(top, 2), min(left, 2))
        expected = picture[:, :, top - above : top + 4, left - beside : left + 4].clone()
        expected[:, :, above:, beside:] = 0  # the tile itself
        assert values.equal(expected)
        border.add(tile)


def test_channels_that_a_tile_has_not_coded_are_zero_to_the_next():
    border = Border(width=8, depth=1)
    border.add(torch.ones(1, 3, 2, 4))
    border.add(torch.ones(1, 3, 2, 4))
    border.add(torch.ones(1, 1, 2, 4))
    values, top, left = border.window(3, 2, 4)
    assert (top, left) == (1, 1)
    assert values[0, :, 0].eq(1).all()
    assert values[0, :, 1, 0].tolist() == [1, 0, 0]


def test_the_entropy_networks_see_four_positions_of_the_tiles_before(monkeypatch):
    codec, image = tiny_codec("hyperprior"), colour(192, 320)
    shapes = set()
    for layer in codec.context.passes:
        layer.register_forward_pre_hook(lambda _, inputs: shapes.add(tuple(inputs[0].shape[2:])))
    monkeypatch.setattr(codec, "TILE", 128)
    payload = codec.compress(image, 50)
    # Rows of 8 and 4 positions, columns of 8, 8 and 4; and 4 more but for the first of each.
    assert shapes == {(8, 8), (8, 12)}
    assert codec.decompress(payload, 192, 320, 50).shape == image.shape


@pytest.mark.skipif(virtual_bytes() is None, reason="memory is bounded on Linux only")
def test_a_wide_picture_is_refused_at_its_first_tile_before_memory_is_taken_for_others():
    codec, width = tiny_codec("hyperprior"), 2_796_202
    payload = pack_chunk(b"\0\0") * (padded(width, codec.TILE) // codec.TILE)
    with memory_bound(16), pytest.raises(ValueError, match="number of channels"):
        codec.decompress(payload, 64, width, 50)


@pytest.mark.slow
@pytest.mark.parametrize("quality", [1, 20, 35, 60, 100])
def test_no_step_shows_between_the_tiles_of_a_smooth_sky(quality):
    codec = load_codec(load_checkpoint(ROOT / "out/hyperprior.tar"))
    height, width = 1216, 448
    y, x = np.mgrid[0:height, 0:width]
    slopes = ((120, 60, 60), (20, 80, 90), (40, -70, 150))
    sky = np.stack([base + a * x / 2500 + b * y / 1500 for a, b, base in slopes], 2)
    sky = sky.round().astype(np.uint8)
    decoded = codec.decompress(codec.compress(sky, quality), height, width, quality)
    steps = np.abs(np.diff(decoded.astype(float) - sky, axis=0)).mean((1, 2))
    blocks = steps[15::16]  # across the borders of blocks
    assert steps[codec.TILE - 1] < 1.2 * np.quantile(blocks, 0.9)
