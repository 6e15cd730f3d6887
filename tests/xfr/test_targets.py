"""The quality that meets a target, with few searches."""

import numpy as np
import pytest
from helpers import colour, grey, noise, save_tiny

from model.limits import MAX_QUALITY, MIN_QUALITY, SSIMULACRA2_SIDE
from xfr.decoder import Decoder
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import unpack
from xfr.images import Picture
from xfr.targets import (
    highest_quality_within,
    lowest_quality_reaching,
    search_quality,
    ssimulacra2,
)


class Measured:
    """A measure of qualities and efforts, and those that it was taken at with an effort."""

    def __init__(self, measure):
        self.measure, self.slow = measure, []

    def __call__(self, quality: int, effort: int) -> float:
        if effort:
            self.slow.append(quality)
        return self.measure(quality, effort)


def within(limit: float):
    return lambda size: highest_quality_within(limit, "bytes", size)


@pytest.mark.parametrize("effort", [0, 9])
@pytest.mark.parametrize("limit", [105, 1000, 3000, 5000, 10**6])
def test_a_size_is_kept_with_few_searches(effort, limit):
    def size(quality: int, effort: int) -> float:
        return 100 * 1.05**quality * (1 - 0.01 * effort + 0.0003 * effort * quality / 10)

    measured = Measured(size)
    quality = search_quality(within(limit), MIN_QUALITY, measured, effort)
    assert size(quality, effort) <= limit
    assert quality == MAX_QUALITY or size(quality + 1, effort) > limit
    assert len(measured.slow) <= 3


@pytest.mark.parametrize("limit", [22.0, 30.0, 39.7])
def test_a_psnr_is_reached_with_few_searches(limit):
    def score(quality: int, effort: int) -> float:
        return 20 + 0.2 * quality - 0.03 * effort

    measured = Measured(score)
    quality = search_quality(
        lambda score: lowest_quality_reaching(limit, "dB", score), MAX_QUALITY, measured, 9
    )
    assert score(quality, 9) >= limit
    assert quality == MIN_QUALITY or score(quality - 1, 9) < limit
    assert len(measured.slow) <= 3


@pytest.mark.parametrize("limit", [-50, 0, 30.0])
def test_a_score_that_may_be_negative_is_reached_with_few_searches(limit):
    def score(quality: int, effort: int) -> float:
        return 1.5 * quality - 75 - 0.1 * effort

    measured = Measured(score)
    quality = search_quality(
        lambda score: lowest_quality_reaching(limit, "points", score), MAX_QUALITY, measured, 9
    )
    assert score(quality, 9) >= limit > score(quality - 1, 9)
    assert len(measured.slow) <= 4


def test_a_size_that_only_the_search_can_keep_is_kept():
    def size(quality: int, effort: int) -> float:
        return 100 * quality * (1 - 0.01 * effort)

    assert search_quality(within(95), MIN_QUALITY, size, 9) == MIN_QUALITY


def test_a_size_that_no_search_can_keep_is_named():
    with pytest.raises(ValueError, match="the lowest quality takes 91 bytes, more than 90"):
        search_quality(within(90), MIN_QUALITY, lambda q, effort: 100 * q - effort, 9)


def test_a_search_that_misleads_still_keeps_the_size():
    def size(quality: int, effort: int) -> float:
        return 100 * quality + (quality * 7919 % 13) * 30 * (effort > 0)

    quality = search_quality(within(3000), MIN_QUALITY, size, 9)
    assert size(quality, 9) <= 3000


def test_a_file_for_a_target_is_the_one_of_its_quality_and_effort(tmp_path):
    encoder = Encoder(save_tiny(tmp_path / "tiny.tar", "hyperprior"))
    picture = Picture(noise(64, 64))
    limit = len(encoder.encode(picture, EncodingSettings(60, effort=2)))
    data = encoder.encode(picture, EncodingSettings(target=("max_bytes", limit), effort=2))
    assert len(data) <= limit


def test_a_graphic_that_is_a_byte_too_large_leaves_the_size_to_learned_files(checkpoints):
    squares = np.random.default_rng(0).integers(0, 4, (15, 20)).repeat(4, 0).repeat(4, 1)
    picture, encoder = Picture(noise(1, 4)[0][squares]), Encoder(checkpoints["binary"])
    exact = encoder.encode(picture, EncodingSettings(target=("max_bytes", 10**6)))
    assert unpack(exact).graphic and len(unpack(exact).payload) > 127  # whose length takes 2 bytes
    smaller = encoder.encode(picture, EncodingSettings(target=("max_bytes", len(exact) - 1)))
    assert len(smaller) < len(exact)


@pytest.mark.parametrize("effort", [0, 1])
@pytest.mark.parametrize("target", [("max_bytes", 9000), ("target_psnr", 99)])
def test_a_picture_is_compressed_once_at_each_quality_and_effort(
    checkpoints, monkeypatch, target, effort
):
    encoder, tried = Encoder(checkpoints["hyperprior"]), []
    compress = encoder.codec.compress

    def recorded(rgb, quality, effort, report):
        tried.append((quality, effort))
        return compress(rgb, quality, effort, report)

    monkeypatch.setattr(encoder.codec, "compress", recorded)
    encoder.encode(Picture(noise(64, 64)), EncodingSettings(target=target, effort=effort))
    assert tried and len(set(tried)) == len(tried)


@pytest.mark.parametrize("pixels", [colour(64, 80), grey(64, 80)], ids=["colour", "grey"])
def test_an_ssimulacra_2_that_no_quality_reaches_is_met_without_loss(checkpoints, pixels):
    pixels = (pixels // 2 + noise(64, 80)[(..., 0) if pixels.ndim == 2 else ...] // 2).astype("u1")
    encoder = Encoder(checkpoints["hyperprior"])
    for limit, exact in ((99.9, True), (-1e3, False)):
        settings = EncodingSettings(target=("target_ssimulacra2", limit))
        xfr = unpack(encoder.encode(Picture(pixels), settings))
        decoded = Decoder(checkpoints["hyperprior"]).decode(xfr).pixels
        assert np.array_equal(decoded, pixels) == exact
        assert ssimulacra2(pixels, decoded) >= limit and xfr.graphic == exact


@pytest.mark.parametrize("shape", [(SSIMULACRA2_SIDE, 60), (60, SSIMULACRA2_SIDE)])
def test_a_picture_that_is_too_small_for_ssimulacra_2_is_named(checkpoints, shape):
    encoder = Encoder(checkpoints["hyperprior"])
    settings = EncodingSettings(target=("target_ssimulacra2", 70))
    assert encoder.encode(Picture(noise(*shape)), settings)
    smaller = noise(*(side - (side == SSIMULACRA2_SIDE) for side in shape))
    with pytest.raises(ValueError, match="pixels are too few for this target, which needs 8 on"):
        encoder.encode(Picture(smaller), settings)


def test_a_target_is_told_in_full():
    assert str(EncodingSettings(target=("max_bytes", 1_234_567))) == "max_bytes 1234567"
    assert str(EncodingSettings(target=("target_bpp", 0.1))) == "target_bpp 0.1"
