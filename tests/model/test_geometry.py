"""Tiles fit the networks: of every architecture, and of codecs made to have some reach."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from helpers import ARCHS, colour, save_png, tiny_codec
from torch import Tensor, nn

from model import codec_class
from model.binary.network import BinaryCodec
from model.codec import Codec
from model.geometry import check_geometry


@pytest.mark.parametrize("arch", ARCHS)
def test_tiles_see_as_far_as_the_transforms(arch):
    check_geometry(tiny_codec(arch))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_tiles_see_as_far_as_the_transforms_of_default_size(arch):
    check_geometry(codec_class(arch)())


@pytest.mark.parametrize("arch", ARCHS)
def test_a_margin_one_stride_too_small_is_refused(arch):
    codec = tiny_codec(arch)
    least, codec.MARGIN = codec.MARGIN, codec.MARGIN - codec.STRIDE
    with pytest.raises(ValueError, match=rf"MARGIN, {codec.MARGIN}, is smaller .* {least}$"):
        check_geometry(codec)


@pytest.mark.parametrize("reach", range(1, 9))
def test_even_a_pixel_of_reach_needs_a_margin(reach):
    with pytest.raises(ValueError, match="MARGIN, 0, is smaller"):
        check_geometry(Probe(0, 3, analysis=0, synthesis=reach))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"MARGIN": 20}, "MARGIN, 20, is not a multiple of its STRIDE, 8"),
        ({"TILE": 1004}, "TILE, 1004, is not a multiple of its STRIDE, 8"),
        ({"STRIDE": 12, "TILE": 1020, "MARGIN": 36}, "STRIDE, 12, is not a multiple of its LATENT"),
    ],
)
def test_sides_that_do_not_fit_each_other_are_refused(monkeypatch, changes, error):
    for name, value in changes.items():
        monkeypatch.setattr(BinaryCodec, name, value)
    with pytest.raises(ValueError, match=error):
        check_geometry(tiny_codec("binary"))


class ProbeLatents(NamedTuple):
    y: Tensor


class Probe(Codec):
    """A codec each of whose transforms sees so many pixels to one side."""

    arch, STRIDE, LATENT_STRIDE, TILE = "probe", 4, 4, 64

    def __init__(self, margin: int, axis: int, analysis: int, synthesis: int):
        super().__init__(None)
        self.MARGIN, self.axis, self.reach = margin, axis, (analysis, synthesis)
        self.weight = nn.Parameter(torch.zeros(1))  # no weight is needed to see a dependency

    def analyse(self, x, quality):
        return ProbeLatents(F.avg_pool2d(x + self.weight * x.roll(self.reach[0], self.axis), 4))

    def synthesise(self, latent, quality):
        x = F.interpolate(latent, scale_factor=4)
        return x + self.weight * x.roll(self.reach[1], self.axis)

    def tile_coder(self, width, quality):
        return self

    def encode(self, latents):
        self.latent = latents.y
        return b""

    def decode(self, chunk, height, width):
        return self.latent


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("reach", [8, -8])
@pytest.mark.parametrize("transform", ["analysis", "synthesis"])
def test_a_margin_is_refused_if_a_transform_reaches_beyond_it(transform, reach, axis):
    reaches = {"analysis": 0, "synthesis": 0} | {transform: reach}
    check_geometry(Probe(8, axis, **reaches))
    with pytest.raises(ValueError, match=f"MARGIN, 4, is smaller .* its {transform}.* at least 8"):
        check_geometry(Probe(4, axis, **reaches))


def test_checking_changes_neither_codec_nor_random_numbers():
    codec = tiny_codec("hyperprior").train()
    before = {name: weight.clone() for name, weight in codec.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    check_geometry(codec)
    assert torch.rand(1).equal(expected) and codec.training
    assert all(weight.equal(before[name]) for name, weight in codec.state_dict().items())


def test_training_refuses_it_before_it_begins(script, workplace, monkeypatch):
    save_png(workplace / "dataset/a.png", colour(64, 64))
    monkeypatch.setattr(BinaryCodec, "MARGIN", 0)
    result = script("train", "--save_at", "out/new")
    assert result.code == 1 and result.out == "" and not (workplace / "out/new").exists()
    assert result.err.startswith("train.py: error: the binary codec's MARGIN, 0, is smaller than")
