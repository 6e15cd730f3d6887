import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ARCHS, ROOT, TINY, as_tensor, colour, full_latent, tiny_codec
from hypothesis import given
from hypothesis import strategies as st

from model import ARCHITECTURES, codec_class, load_codec
from model.bytestream import Reader, pack_chunk, pack_number
from model.checkpoint import fingerprint, load_checkpoint
from model.distortion import RECORDS
from model.entropy import (
    CERTAIN_BELOW,
    MAX_SYMBOL,
    SCALES,
    TABLE_BITS,
    SymbolCoder,
    dead_zone,
    gaussian_bits,
    scale_of,
)
from model.fixed_point import (
    ACTIVATION_LIMIT,
    FINE_STEPS,
    FRACTION_BITS,
    LATENT_LIMIT,
    MIN_LARGEST,
    MOST_BITS,
    WEIGHT_BITS,
    Depthwise,
    LatentPointwise,
    Pointwise,
    Rounding,
    activation_bits,
    soft_bits,
)
from model.hyperprior.coder import HyperpriorLatents, SearchedLatents
from model.hyperprior.context import PASSES
from model.hyperprior.network import CORRECTED_FROM, HyperpriorCodec
from model.hyperprior.transforms import BLOCK_SIDE, used_channels
from model.integer_products import INPUT_LIMIT, WEIGHT_LIMIT
from model.layers import ResidualBlock, dct_basis
from model.quantizers import CURVATURE
from model.tiles import Tile, join, padded
from utils.measures import psnr

SHAPES = [(1, 1), (7, 5), (257, 129)]
CODECS = {arch: tiny_codec(arch) for arch in ARCHS}


@pytest.fixture(params=ARCHS)
def codec(request):
    return tiny_codec(request.param)


def checksum(latent: torch.Tensor) -> str:
    return hashlib.sha256(latent.contiguous().numpy().tobytes()).hexdigest()


# Payloads


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_a_picture_of_any_size_comes_back_in_its_shape(codec, height, width):
    payload = codec.compress(colour(height, width), 50)
    image = codec.decompress(payload, height, width, 50)
    assert isinstance(payload, bytes)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("quality", [1, 37, 100])
def test_compressing_and_decompressing_are_deterministic(codec, quality):
    image = colour(70, 90)
    payloads = {codec.compress(image, quality) for _ in range(3)}
    assert len(payloads) == 1
    first, second = (codec.decompress(*payloads, 70, 90, quality) for _ in range(2))
    assert np.array_equal(first, second)


def test_an_image_may_lie_in_memory_in_any_way(codec):
    image = colour(40, 50)
    mirrored = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    mirrored.flags.writeable = False
    assert codec.compress(mirrored, 50) == codec.compress(image, 50)


def test_a_higher_quality_takes_more_bytes(codec):
    image = colour(128, 128)
    small, medium, large = (len(codec.compress(image, quality)) for quality in (1, 50, 100))
    assert small < medium < large


def test_the_binary_decoder_sees_what_the_encoder_saw(monkeypatch):
    codec, seen = tiny_codec("binary"), []
    analyse = codec.analyse
    monkeypatch.setattr(codec, "analyse", lambda *args: seen.append(analyse(*args)) or seen[-1])
    payload = codec.compress(colour(70, 90), 50)
    assert full_latent(codec, payload, 70, 90, 50).equal(seen[0].y)


@pytest.fixture
def coded_values(monkeypatch):
    """A hyperprior codec, and a list of what each pass of its context model has coded."""
    codec, values = tiny_codec("hyperprior"), []
    update = codec.context.update

    def spy(state, y_hat, step, bits=None):
        values.append(y_hat.clone())
        return update(state, y_hat, step, bits)

    monkeypatch.setattr(codec.context, "update", spy)
    return codec, values


@pytest.mark.parametrize("effort", [0, 3])
def test_the_hyperprior_decoder_sees_what_the_encoder_saw(coded_values, effort):
    codec, values = coded_values
    payload = codec.compress(colour(70, 90), 50, effort)
    encoded, values[:] = values[-PASSES:], []
    latent = full_latent(codec, payload, 70, 90, 50)
    assert len(encoded) == len(values) == PASSES
    assert all(map(torch.equal, encoded, values))
    assert latent.flatten().sort().values.equal(torch.cat(values).flatten().sort().values)
    assert latent.unique().numel() > 100


def test_a_search_changes_the_symbols_repeatably():
    codec, image = tiny_codec("hyperprior"), colour(70, 90)
    payload = codec.compress(image, 50, effort=3)
    assert codec.compress(image, 50, effort=3) == payload
    assert codec.compress(image, 50) != payload


# Latents


def encode(codec, latents, quality: torch.Tensor) -> bytes:
    """The only tile of a picture of its width."""
    width = codec.LATENT_STRIDE * latents.y.shape[3]
    return codec.tile_coder(width, quality).encode(latents)


def decode(codec, chunk: bytes, height: int, width: int, quality: torch.Tensor) -> torch.Tensor:
    return codec.tile_coder(width, quality).decode(chunk, height, width)


def hyperprior_round_trip(y: torch.Tensor, z: torch.Tensor, quality: int) -> None:
    """The decoder's latent is the encoder's, and within half a step of y, or within one where a
    symbol that is taken for zero is not worth coding."""
    codec = CODECS["hyperprior"]
    q, (height, width) = codec.quality_tensor(quality), y.shape[2:]
    chunk = encode(codec, SearchedLatents(y, z), q)
    latent = decode(codec, chunk, 16 * height, 16 * width, q)
    assert ((latent.double() / 64 - y).abs() <= 1 + (1 + y.abs()) * 1e-6).all()
    assert encode(codec, SearchedLatents(latent.double() / 64, z), q) == chunk


def latents(y_scale: float, z_scale: float, height: int = 4, width: int = 8, seed: int = 0):
    config, generator = TINY["hyperprior"], torch.Generator().manual_seed(seed)
    y = y_scale * torch.randn(1, config.latent, height, width, generator=generator)
    z = z_scale * torch.randn(1, config.hyper, height // 4, width // 4, generator=generator)
    return y, z.round()


@pytest.mark.parametrize("y_scale", [0, 0.01, 1, 30, 1000, 1e6])
@pytest.mark.parametrize("z_scale", [0, 3, 1e6])
def test_noise_of_any_scale_comes_back(y_scale, z_scale):
    hyperprior_round_trip(*latents(y_scale, z_scale), quality=50)


@pytest.mark.parametrize("spike", [1, -600, 10**6, -(10**6)])
def test_a_single_spike_comes_back(spike):
    y, z = latents(0, 0)
    y[0, 5, 2, 3] = spike
    hyperprior_round_trip(y, z, quality=50)
    y, z = latents(0, 0)
    z[0, 5, 0, 1] = spike
    hyperprior_round_trip(y, z, quality=50)


def certain_codec(index: int) -> HyperpriorCodec:
    """A codec whose every scale of y has this index, and whose every mean is zero."""
    codec = tiny_codec("hyperprior")
    for step in codec.context.passes:
        for layer in step.heads:
            layer.weight.zero_()
            layer.bias.zero_()
            layer.bias[1::2] = (index - SCALES / 3) / 8  # of the scales
    return codec


@pytest.mark.parametrize("index", [CERTAIN_BELOW - 1, CERTAIN_BELOW])
def test_symbols_that_are_certain_are_not_coded(index):
    codec, (y, z) = certain_codec(index), latents(0.1, 1)
    q = codec.quality_tensor(50)
    segments, certain = codec.tile_coder(128, q).symbols(HyperpriorLatents(y, z))
    assert certain == CERTAIN_BELOW
    coded = sum(symbols.size for symbols, _ in segments[1:])
    assert coded == (y.numel() if index == CERTAIN_BELOW else 0)
    chunk = encode(codec, HyperpriorLatents(y, z), q)
    assert decode(codec, chunk, 64, 128, q).count_nonzero() == 0


@pytest.mark.parametrize("distortion", RECORDS)
def test_residuals_just_above_a_half_are_not_worth_the_bits_of_rare_symbols(distortion):
    codec, (y, z) = certain_codec(10), latents(0, 0)
    codec.distortion = distortion
    y[0, :4, 1, 2] = torch.tensor([0.4, 0.53, -0.53, 0.9])
    q = codec.quality_tensor(50)

    def decoded(kind):
        return decode(codec, encode(codec, kind(y, z), q), 64, 128, q)[0, :4, 1, 2]

    zone = distortion == "mse"  # the other has none
    assert decoded(HyperpriorLatents).tolist() == [0, 64 * (not zone), -64 * (not zone), 64]
    assert decoded(SearchedLatents).tolist() == [0, 64, -64, 64]


def test_the_dead_zone_is_where_a_share_of_the_bits_outweighs_the_distortion():
    index, share = torch.tensor([[0, 20, 40, 63]] * 2), torch.tensor([0.0, 0.5])
    none, half = dead_zone(index, share)
    assert none.tolist() == [0.5] * 4
    assert (half.diff() < 0).all() and half[-1] < 0.501
    bits = gaussian_bits(torch.tensor([1.0, 0.0]), torch.tensor(20.0))
    saved = CURVATURE / 2 * (half[1] ** 2 - (half[1] - 1) ** 2)
    assert saved.item() == pytest.approx(0.5 * (bits[0] - bits[1]).item(), rel=1e-5)


def test_what_is_not_as_certain_as_predicted_is_coded_all_the_same():
    codec, (y, z) = certain_codec(0), latents(0, 0)
    y[0, 3, 1, 2] = 50
    q = codec.quality_tensor(50)
    chunk = encode(codec, HyperpriorLatents(y, z), q)
    assert (decode(codec, chunk, 64, 128, q) == 2**FRACTION_BITS * y).all()


def test_only_the_first_channels_of_y_are_coded_as_far_as_they_are_worth_it():
    y = torch.zeros(3, 64, 4, 4)
    y[0, :20] = 3  # two steps of 16 channels
    y[1, 40, 0, 0] = 0.55  # hardly better than zero, and dear
    y[2, 40] = 30
    assert used_channels(y).tolist() == [32, 16, 48]

    codec, (y, z) = tiny_codec("hyperprior"), latents(1, 1)
    q, y = codec.quality_tensor(50), y[:, :16]
    chunk = encode(codec, HyperpriorLatents(y, z), q)
    assert decode(codec, chunk, 64, 128, q).shape == y.shape


def test_the_synthesis_is_inverted_as_far_as_it_is_linear():
    codec, (y, _) = tiny_codec("hyperprior"), latents(3, 0)
    quality = codec.quality_tensor(70)
    for part in (codec.synthesis.latent, codec.synthesis.up1[0]):
        part.weight.zero_()
    change = codec.synthesis(y, quality) - codec.synthesis(0 * y, quality)
    change = F.pixel_unshuffle(change, BLOCK_SIDE)
    assert (codec.synthesis.inverse(change, quality) - y).norm() < 0.2 * y.norm()


def test_a_high_quality_brings_back_what_the_transforms_lose(monkeypatch):
    torch.manual_seed(0)
    config = replace(TINY["hyperprior"], latent=3 * BLOCK_SIDE**2)  # what is lost can be coded
    codec, image = HyperpriorCodec(config).requires_grad_(False), colour(150, 200)
    codec.analysis.linear[1].weight.mul_(0.8)  # no longer inverse to the synthesis

    def coded(quality):
        payload = codec.compress(image, quality)
        return payload, psnr(image, codec.decompress(payload, *image.shape[:2], quality))

    corrected, below = coded(100), coded(CORRECTED_FROM - 1)
    monkeypatch.setattr("model.hyperprior.network.CORRECTED_FROM", 101)
    assert corrected[1] > coded(100)[1] + 1
    assert below == coded(CORRECTED_FROM - 1)


@pytest.mark.parametrize(("quality", "corrected"), [(89, False), (90, True), (100, True)])
def test_the_latent_is_corrected_from_quality_90_on(monkeypatch, quality, corrected):
    codec, called = tiny_codec("hyperprior"), []
    monkeypatch.setattr(codec, "corrected", lambda y, *_: called.append(y) or y)
    codec.compress(colour(64, 64), quality)
    assert bool(called) == corrected


def test_training_starts_with_steps_in_proportion_to_the_inverse_root_of_lmbda():
    codec = HyperpriorCodec(replace(TINY["hyperprior"], rate_points=8))
    lmbda = torch.tensor(codec.LMBDA)
    gains = codec.analysis.gain.points.exp()[:, :1]
    steps = 1 / gains
    torch.testing.assert_close(steps / steps[0], (lmbda[0] / lmbda).sqrt()[:, None])
    assert gains.log().mean().item() == pytest.approx(2)
    torch.testing.assert_close(codec.synthesis.gain.points.exp()[:, :1], steps)


def test_blocks_that_lose_much_are_corrected_and_blocks_that_lose_little_hardly_move(monkeypatch):
    codec = tiny_codec("hyperprior")
    quality, y = codec.quality_tensor(95), torch.zeros(1, 16, 4, 8)
    whole = Tile(0, 64, 0, 128)
    x = codec.pixels(y, quality, whole, whole).permute(2, 0, 1)[None] / 255
    half = 0.5 / codec.lmbda(quality).item() / 255
    lost = half * torch.tensor([0.01, 1, 100])  # root mean squares of the errors of three blocks
    for block, error in enumerate(lost.tolist()):
        x[..., :16, 16 * block : 16 * (block + 1)] += error
    seen = []
    monkeypatch.setattr(
        codec.synthesis, "inverse", lambda error, quality: seen.append(error) or torch.ones_like(y)
    )
    step = codec.corrected(y, x, quality)[0, 0, 0]
    assert step[:4].tolist() == pytest.approx([0.0001, 0.5, 0.9999, 0], rel=1e-2, abs=1e-6)
    assert seen[0][0, :, 0, 2].tolist() == pytest.approx([lost[2].item()] * 768, rel=1e-3)


@pytest.mark.parametrize("count, certain", [(0, 0), (3, 0), (255, 3), (2, SCALES + 1)])
def test_more_channels_or_scales_than_there_are_are_refused(count, certain):
    codec, (y, z) = tiny_codec("hyperprior"), latents(1, 1)
    q = codec.quality_tensor(50)
    chunk = encode(codec, HyperpriorLatents(y, z), q)
    with pytest.raises(ValueError, match="channels or scales is out of range"):
        decode(codec, bytes([count, certain]) + chunk[2:], 64, 128, q)


def test_tiles_side_by_side_may_have_different_numbers_of_channels():
    one, two = torch.ones(1, 2, 3, 4), torch.ones(1, 5, 3, 1)
    both = join([one, two], dim=3)
    assert both.shape == (1, 5, 3, 5) and both.sum() == one.sum() + two.sum()
    assert both[:, 2:, :, :4].count_nonzero() == 0


@given(
    st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3), st.floats(0, 6), st.floats(0, 6),
    st.integers(1, 100),
)  # fmt: skip
def test_random_latents_come_back(seed, rows, columns, y_power, z_power, quality):
    y, z = latents(10**y_power - 1, 10**z_power - 1, 4 * rows, 4 * columns, seed)
    hyperprior_round_trip(y, z, quality)


@given(
    st.lists(st.tuples(st.integers(-(10**6), 10**6) | st.integers(-5, 5), st.integers(0, 63)),
             min_size=1, max_size=200)
)  # fmt: skip
def test_any_symbols_under_any_scale_come_back(pairs):
    symbols, index = (np.array(column) for column in zip(*pairs))
    index = index.astype(np.uint8)
    coder = CODECS["hyperprior"].coder
    decoder = coder.decoder(coder.encode([(symbols, index), (symbols[::-1], index)]))
    assert np.array_equal(decoder.decode(index), symbols)
    assert np.array_equal(decoder.decode(index), symbols[::-1])
    decoder.finish()


def test_measured_tables_take_fewer_bits_and_still_code_anything():
    rng = np.random.default_rng(0)
    index = np.full(20_000, 20, np.uint8)
    scale = scale_of(torch.tensor(20.0)).item()
    laplacian = rng.laplace(0, 0.7 * scale, (2, len(index))).round().astype(np.int32)
    coder = SymbolCoder()
    gaussian = len(coder.encode([(laplacian[0], index)]))
    untouched = coder.counts.clone()
    coder.fit(coder.histogram([(laplacian[1], index)]))
    assert len(coder.encode([(laplacian[0], index)])) < 0.98 * gaussian
    changed = [
        not before.equal(after)
        for before, after in zip(
            *(counts.split((2 * coder.reach + 2).tolist()) for counts in (untouched, coder.counts))
        )
    ]
    assert changed == [i == 20 for i in range(SCALES)]
    values = np.array([0, 1, -1, 10**6, -(10**6), 40], np.int32)
    for indices in (np.full(6, 20, np.uint8), np.array([0, 63, 20, 20, 63, 0], np.uint8)):
        decoder = coder.decoder(coder.encode([(values, indices)]))
        assert decoder.decode(indices).tolist() == values.tolist()
        decoder.finish()
    SymbolCoder().load_state_dict(coder.state_dict())  # a checkpoint may hold them


def test_measured_tables_are_symmetric_and_forget_earlier_measurements():
    rng = np.random.default_rng(1)
    coder, again = SymbolCoder(), SymbolCoder()
    values, index = rng.integers(-90, 10, 5000), rng.integers(0, SCALES, 5000).astype(np.uint8)
    coder.fit(coder.histogram([(values[:100], index[:100])]))
    for each in (coder, again):
        each.fit(each.histogram([(values.reshape(50, 100), index.reshape(50, 100))]))
    assert coder.counts.equal(again.counts)
    for table in coder.counts.split((2 * coder.reach + 2).tolist()):
        assert table[:-1].equal(table[:-1].flip(0)) and abs(table.sum() - 2**TABLE_BITS) < 2000


def test_a_symbol_too_large_for_a_latent_is_refused():
    coder, index = CODECS["hyperprior"].coder, np.zeros(1, np.uint8)
    reader = Reader(coder.encode([(np.array([10_000]), index)]), "payload")
    assert len(reader.chunk()) == len(pack_number(20_000))
    words = reader.take(reader.remaining)
    for number in (2 * MAX_SYMBOL, 2**34, 2**35 - 1):
        decoder = coder.decoder(pack_chunk(pack_number(number)) + words)
        with pytest.raises(ValueError, match="too large"):
            decoder.decode(index)


# Fixed point


def random_layer(layer, scale: float, bits: int):
    """The layer with weights of this size, and integers of it that are as large as they may be."""
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.requires_grad_(False).parameters():
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    if isinstance(layer, Pointwise):
        most = 2000 * torch.rand(layer.rounding.largest.shape, generator=generator) + 10
        layer.rounding.largest.copy_(most)
    layer.train(False)  # forgets earlier integers
    limit = LATENT_LIMIT if isinstance(layer, LatentPointwise) else ACTIVATION_LIMIT
    x = torch.randint(-limit, limit + 1, (1, layer.in_channels, 6, 7), generator=generator)
    if not isinstance(layer, Depthwise):
        x[0, :, 0, 0] = limit * layer.weight.flatten(1)[0].sign()  # the largest sum there is
    return layer, x.float()


@pytest.mark.parametrize("scale", [0.05, 40])
@pytest.mark.parametrize("bits", [4, 7])
def test_a_depthwise_convolution_is_exact_up_to_its_limits(bits, scale):
    layer, x = random_layer(Depthwise(30), scale, bits)
    weight, bias = (tensor.double() * 2**WEIGHT_BITS for tensor in layer.rounded(bits))
    assert weight.equal(weight.round()) and bias.equal(bias.round())
    weight, bias = weight.long(), bias.long()[:, None, None]
    windows = F.pad(x.double(), (1, 1, 1, 1), mode="replicate")[0].long()
    windows = windows.unfold(1, 3, 1).unfold(2, 3, 1)
    total = (windows * weight[:, 0][:, None, None]).sum((3, 4))
    expected = (total + bias) >> WEIGHT_BITS
    assert layer(x, bits).equal(expected.float()[None])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x, bits).equal(expected.float()[None])
    error = (weight / 2**WEIGHT_BITS - layer.weight).abs()
    assert error.max() <= (1.01 * 2**-9 if scale < 1 else 0.51)


@pytest.mark.parametrize("scale", [0.05, 40])
@pytest.mark.parametrize("bits", [4, 7])
@pytest.mark.parametrize("channels", [36, 320])
def test_a_1x1_convolution_is_exact_up_to_its_limits(channels, bits, scale):
    layer, x = random_layer(Pointwise(channels, 20), scale, bits)
    found = layer(x, bits)
    factor, coarse, fine, bias, unit = layer.integers(bits)
    assert coarse.abs().max() == WEIGHT_LIMIT and fine.abs().max() <= FINE_STEPS // 2
    inputs = (x[0] * factor[:, None, None]).clamp(-INPUT_LIMIT, INPUT_LIMIT).round().long()
    weight = (FINE_STEPS * coarse.long() + fine.long())[:, :channels]
    total = torch.einsum("dc,chw->dhw", weight, inputs) + bias[:, None, None]
    assert total.abs().max() < 2**31
    assert found.equal((total.float() * unit[:, None, None]).round()[None])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x, bits).equal(found)
    steps = layer.rounding.steps(bits)
    error = (weight * unit.double()[:, None] / steps - layer.weight.flatten(1).double()).abs()
    assert (error <= 0.51 * unit.double()[:, None] / steps).all()


@pytest.mark.parametrize("scale", [0.05, 40])
@pytest.mark.parametrize("bits", [4, 7])
def test_a_1x1_convolution_of_latents_is_exact_up_to_its_limits(bits, scale):
    layer, x = random_layer(LatentPointwise(300, 20), scale, bits)
    weight, bias = (tensor.long() for tensor in layer.rounded(bits))
    total = torch.einsum("dc,chw->dhw", weight, x[0].long()) + bias[:, None, None]
    expected = (total.double() / 2.0 ** (FRACTION_BITS + WEIGHT_BITS - bits)).round()
    assert layer(x, bits).equal(expected.float()[None])
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x, bits).equal(expected.float()[None])
    x[:, 12:] = 0
    assert layer(x[:, :12], bits).equal(layer(x, bits))


@pytest.mark.parametrize("kind", [Pointwise, LatentPointwise])
def test_biases_count_where_weights_are_next_to_nothing(kind):
    layer, x = random_layer(kind(40, 20), 0, 5)
    layer.bias.copy_(torch.linspace(-30, 30, 20))
    layer.train(False)
    assert (layer(x, 5)[0] / 32 - layer.bias[:, None, None]).abs().max() < 0.02


def test_the_first_outputs_may_be_had_in_finer_units():
    layer, x = random_layer(Pointwise(40, 20), 0.05, 5)
    fine, coarse = layer(x, 5, 8, 7), layer(x, 5, 8)
    assert fine.shape[1] == 8 and coarse.equal(layer(x, 5)[:, :8])
    assert (fine / 4 - coarse).abs().max() <= 0.5


def test_the_form_for_training_is_close_to_that_in_fixed_point():
    """The training form rounds inputs alike, and no output."""
    bits, soft = 5, soft_bits(torch.tensor([60.0]))
    assert soft.flatten().tolist() == [bits] == [activation_bits(60)]
    layer, x = random_layer(Pointwise(64, 20), 0.05, bits)
    apart = layer(x / 2**bits, soft) * 2**bits - layer(x, bits)
    assert apart.abs().max() < 1.5
    layer, x = random_layer(LatentPointwise(64, 20), 0.05, bits)
    x = x.clamp(-5000, 5000)
    apart = layer(x / 2**FRACTION_BITS, soft) * 2**bits - layer(x, bits)
    assert apart.abs().max() < 5


def test_steps_follow_the_largest_values_at_each_number_of_bits():
    rounding = Rounding(2).train()
    x = torch.tensor([[1.0, -3.0], [0.5, 0.1]])[None, :, :, None]
    soft = torch.full((1, 1, 1, 1), 4.0)
    rounding.follow(x, soft, decay=0.999)
    assert rounding.largest[MOST_BITS - 4].tolist() == [48, 8]
    assert rounding.largest[:-1].unique().tolist() == [MIN_LARGEST]
    assert torch.allclose(rounding.steps(4) * INPUT_LIMIT, torch.tensor([60.0, 10.0]).double())
    assert torch.allclose(rounding(x, soft), x, atol=60 / INPUT_LIMIT / 32)
    rounding.follow(x / 2, soft, decay=0.999)
    assert torch.allclose(rounding.largest[-1], torch.tensor([48, 8]) * 0.999)
    rounding.follow(torch.cat([x, 2 * x]), torch.tensor([5.0, 4.0])[:, None, None, None], 0.999)
    assert rounding.largest[-2:].tolist() == [[96, 16], [96, 16]]


@pytest.mark.parametrize("learns", [True, False])
def test_steps_change_only_where_weights_do(learns):
    layer = Pointwise(2, 3).train().requires_grad_(learns)
    before, soft = layer.rounding.largest.clone(), torch.full((1, 1, 1, 1), 4.0)
    layer(torch.ones(1, 2, 1, 1), soft)
    assert layer.rounding.largest.equal(before) != learns
    before = layer.rounding.largest.clone()
    layer.eval()(4 * torch.ones(1, 2, 1, 1), soft)
    assert layer.rounding.largest.equal(before)


# Tiles


def small_tiles(codec, monkeypatch) -> None:
    monkeypatch.setattr(codec, "TILE", 2 * codec.STRIDE)


def coded_symbols(codec, image: np.ndarray) -> torch.Tensor:
    """The rounded y of the entire picture, put together from its tiles as they are coded."""
    stride = codec.LATENT_STRIDE
    tiles = [latents.y.round() for latents in codec.tile_latents(image, codec.quality_tensor(50))]
    height, width = (padded(length, codec.STRIDE) for length in image.shape[:2])
    symbols = tiles[0].new_zeros(1, tiles[0].shape[1], height // stride, width // stride)
    side, position = codec.TILE // stride, 0
    for top in range(0, symbols.shape[2], side):
        for left in range(0, symbols.shape[3], side):
            symbols[:, :, top : top + side, left : left + side] = tiles[position]
            position += 1
    assert position == len(tiles)
    return symbols


def test_tiles_hold_the_symbols_that_the_entire_picture_has(codec, monkeypatch):
    image = colour(330, 450)
    untiled = coded_symbols(codec, image)
    small_tiles(codec, monkeypatch)
    tiled = coded_symbols(codec, image)
    assert untiled.unique().numel() > 2
    assert (tiled != untiled).double().mean() <= 1e-4


def test_tiles_are_synthesised_as_the_entire_picture_is(codec, monkeypatch):
    image = colour(330, 450)
    payload = codec.compress(image, 50)
    latent = full_latent(codec, payload, 330, 450, 50)
    untiled = codec.decompress(payload, 330, 450, 50)
    small_tiles(codec, monkeypatch)
    rows = latent.split(codec.TILE // codec.LATENT_STRIDE, dim=2)
    assert len(rows) > 2
    monkeypatch.setattr(codec, "latent_rows", lambda *_: iter(rows))
    tiled = codec.decompress(b"", 330, 450, 50)
    assert np.abs(tiled.astype(int) - untiled).max() <= 1


def test_a_tiled_picture_of_any_size_comes_back(codec, monkeypatch):
    small_tiles(codec, monkeypatch)
    side = codec.TILE
    for height, width in [(side, side), (side + 1, 2 * side - 1), (3 * side, 1)]:
        payload = codec.compress(colour(height, width), 50)
        assert codec.decompress(payload, height, width, 50).shape == (height, width, 3)


# Damage


def decoded_or_refused(codec, payload: bytes, height: int, width: int) -> bool:
    """Whether it was refused: by a ValueError, the only exception allowed."""
    try:
        image = codec.decompress(payload, height, width, 50)
    except ValueError:
        return True
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    return False


def test_every_truncation_is_refused(codec):
    payload = codec.compress(colour(60, 70), 50)
    for length in range(0, len(payload), 1 + len(payload) // 100):
        assert decoded_or_refused(codec, payload[:length], 60, 70)


def test_bytes_left_over_are_refused(codec):
    payload = codec.compress(colour(60, 70), 50)
    assert decoded_or_refused(codec, payload + b"\0", 60, 70)


def test_a_mutated_payload_is_refused_or_gives_a_picture(codec):
    payload, rng = codec.compress(colour(60, 70), 50), np.random.default_rng(0)
    for _ in range(300):
        mutated = bytearray(payload)
        for position in rng.integers(0, min(len(payload), rng.choice([8, 10**9])), 3):
            mutated[position] = rng.integers(256)
        decoded_or_refused(codec, bytes(mutated), 60, 70)


@given(st.sampled_from(ARCHS), st.binary(max_size=100))
def test_any_payload_at_all_is_refused_or_gives_a_picture(arch, payload):
    decoded_or_refused(CODECS[arch], payload, 20, 30)
    decoded_or_refused(CODECS[arch], bytes([len(payload)]) + payload, 20, 30)


def test_a_payload_of_another_size_is_refused_or_gives_a_picture(codec):
    payload = codec.compress(colour(60, 70), 50)
    for height, width in [(1, 1), (200, 60), (60, 200), (300, 300)]:
        decoded_or_refused(codec, payload, height, width)


# Machines


@pytest.fixture(scope="module")
def coded(checkpoints):
    """A payload and the checksum of its decoded latent, per architecture."""
    results = {}
    for arch, path in checkpoints.items():
        codec = load_codec(load_checkpoint(path))
        payload = codec.compress(colour(200, 300), 60)
        latent = checksum(full_latent(codec, payload, 200, 300, 60))
        results[arch] = SimpleNamespace(payload=payload, latent=latent, path=path)
    return results


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_latent_is_the_same_with_any_number_of_threads(coded, arch, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        codec = load_codec(load_checkpoint(coded[arch].path))
        latent = full_latent(codec, coded[arch].payload, 200, 300, 60)
    finally:
        torch.set_num_threads(before)
    assert checksum(latent) == coded[arch].latent


DECODE = """
import hashlib, sys
from pathlib import Path
sys.path.append("tests")
from helpers import full_latent
from model import load_codec
from model.checkpoint import load_checkpoint
for checkpoint, payload in zip(sys.argv[1::2], sys.argv[2::2]):
    codec = load_codec(load_checkpoint(Path(checkpoint)))
    latent = full_latent(codec, Path(payload).read_bytes(), 200, 300, 60)
    print(hashlib.sha256(latent.contiguous().numpy().tobytes()).hexdigest())
"""


def test_the_latent_is_the_same_on_an_old_processor(coded, tmp_path):
    args = []
    for arch, one in coded.items():
        (tmp_path / arch).write_bytes(one.payload)
        args += [one.path, tmp_path / arch]
    old = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    out = subprocess.run(
        [sys.executable, "-c", DECODE, *map(str, args)], cwd=ROOT, env={**os.environ, **old},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert out.split() == [one.latent for one in coded.values()]


# Checkpoints


def test_architectures_have_their_names_and_different_numbers_in_files():
    classes = {arch: codec_class(arch) for arch in ARCHITECTURES}
    assert all(codec.arch == arch for arch, codec in classes.items())
    numbers = {codec.FILE_NUMBER for codec in classes.values()}
    assert len(numbers) == len(classes) and numbers <= set(range(256))


def test_a_checkpoint_comes_back_with_its_fingerprint(checkpoints):
    for arch, path in checkpoints.items():
        checkpoint = load_checkpoint(path)
        codec = load_codec(checkpoint)
        assert codec.arch == arch and codec.config == TINY[arch]
        assert fingerprint(checkpoint) == fingerprint(load_checkpoint(path))
    assert len({fingerprint(load_checkpoint(path)) for path in checkpoints.values()}) == len(ARCHS)


def test_the_fingerprint_changes_with_any_weight(checkpoints):
    checkpoint = load_checkpoint(checkpoints["binary"])
    before = fingerprint(checkpoint)
    next(iter(checkpoint["weights"].values())).view(-1)[0] += 0.01
    assert fingerprint(checkpoint) != before


def test_a_checkpoint_that_does_not_fit_is_refused(checkpoints):
    checkpoint = load_checkpoint(checkpoints["binary"])
    with pytest.raises(ValueError, match="unknown architecture 'ternary'"):
        load_codec({**checkpoint, "arch": "ternary"})
    with pytest.raises(ValueError, match="configuration"):
        load_codec({**checkpoint, "arch": "hyperprior"})
    with pytest.raises(ValueError, match="configuration"):
        load_codec({**checkpoint, "config": {}})
    with pytest.raises(ValueError, match="weights do not fit"):
        load_codec({**checkpoint, "weights": {}})


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04"])
def test_what_is_no_checkpoint_is_refused_by_name(tmp_path, content):
    (tmp_path / "some.tar").write_bytes(content)
    with pytest.raises(ValueError, match="some.tar is not a checkpoint"):
        load_checkpoint(tmp_path / "some.tar")


@pytest.mark.parametrize("arch", ARCHS)
def test_the_gradient_reaches_every_weight(arch):
    torch.manual_seed(0)
    codec = codec_class(arch)(TINY[arch])
    x = as_tensor(colour(128, 128))[None].float() / 255
    x_hat, bpp = codec(x, torch.tensor([50.0]))
    assert x_hat.shape == x.shape and bpp.shape == (1,)
    (x_hat.square().mean() + bpp.sum()).backward()
    without = [name for name, weight in codec.named_parameters() if weight.grad is None]
    assert not without


# Transforms


def test_the_dct_basis_is_orthonormal_and_in_the_order_of_variance():
    basis = dct_basis(8, 192)
    torch.testing.assert_close(basis @ basis.T, torch.eye(192), rtol=0, atol=1e-5)
    torch.testing.assert_close(basis[0], torch.full((192,), 192**-0.5))
    assert torch.equal(dct_basis(8, 10), basis[:10])


def test_the_deep_codec_starts_as_a_transform_codec():
    torch.manual_seed(0)
    codec = HyperpriorCodec().eval()
    image = colour(128, 128)
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        x_hat, _ = codec(x, codec.quality_tensor(50))
    decoded = x_hat[0].permute(1, 2, 0).mul(255).clamp(0, 255).byte().numpy()
    assert psnr(image, decoded) > 24


def test_what_a_residual_block_adds_is_bounded():
    torch.manual_seed(0)
    block, x = ResidualBlock(8, bound=0.5), torch.randn(1, 8, 4, 4)
    with torch.inference_mode():
        added = block(1e9 * x) - 1e9 * x
        most = 0.5 * block.project.weight.abs().sum((1, 2, 3)).max()
    assert added.abs().max() <= most + 64  # of float32 at 1e9


@pytest.mark.parametrize("channels", [16, 320])
def test_a_residual_block_starts_two_per_cent_from_the_identity(channels):
    torch.manual_seed(0)
    block, x = ResidualBlock(channels, bound=128), torch.randn(1, channels, 16, 16)
    with torch.inference_mode():
        added = block(x) - x
    assert (added.norm() / x.norm()).item() == pytest.approx(0.02, abs=0.004)
