"""The synthesis in integers: equal pixels everywhere, in training and in files."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, colour, drawing, tiny_codec

from model import codec_class, integer_layers, integer_products, load_codec
from model.checkpoint import load_checkpoint, save_checkpoint
from model.gains import exp2
from model.geometry import check_geometry
from model.hyperprior import trained_synthesis
from tests import reference_synthesis
from tests.integer_pixels import cases, everything

QUALITIES = (5, 50, 95)
MACHINES = {
    **{isa: {"ONEDNN_MAX_CPU_ISA": isa} for isa in ("SSE41", "AVX2", "AVX2_VNNI")},
    **{isa: {"ONEDNN_MAX_CPU_ISA": isa} for isa in ("AVX512_CORE", "AVX512_CORE_VNNI")},
    "plain": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
    "without oneDNN": {"WITHOUT_MKLDNN": "1"},
}
CONFIG = TINY["hyperprior"]


def picture(height: int = 90, width: int = 150) -> np.ndarray:
    return np.where(np.arange(width)[:, None] < 70, colour(height, width), drawing(height, width))


def random_codec():
    """A tiny codec whose every part matters."""
    torch.manual_seed(0)
    codec = codec_class("hyperprior")(CONFIG)
    for weight in codec.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    return codec


@pytest.fixture(scope="module")
def trained():
    """A codec as training has it at its end, and the checkpoint that it ships."""
    codec = random_codec().eval()
    codec.calibrate(lambda: [(picture(), quality) for quality in QUALITIES])
    checkpoint = {"arch": codec.arch, "config": codec.config_dict(), "history": {}}
    return codec, {**checkpoint, "weights": codec.shipped_weights()}


@pytest.fixture
def shipped(trained):
    return load_codec(trained[1])


# Exactness


def digests(environment: dict) -> list[str]:
    """One for each picture; a line with several would be one that is not always the same."""
    command = [sys.executable, "tests/integer_pixels.py"]
    environment = {**os.environ, **environment}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    return run.stdout.decode().splitlines()


@pytest.mark.parametrize("number", range(4))
def test_pixels_are_those_of_sums_in_int64(number):
    synthesis, y, quality = list(cases())[number]
    found = synthesis.pixels(y, quality, everything(y)).numpy()
    assert 0.05 < ((found > 0) & (found < 255)).mean()  # or else all were clipped
    assert np.array_equal(found, reference_synthesis.pixels(synthesis, y.long().numpy(), quality))


@pytest.fixture(scope="module")
def here():
    return digests({})


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_pixels_are_the_same_on_a_machine_with(machine, here):
    assert all(" " not in line for line in here) and len(set(here)) == 8
    assert digests(MACHINES[machine]) == here


@pytest.mark.parametrize(("piece", "strip"), [(100, 1000), (1000, 10**6)])
def test_pieces_and_strips_do_not_change_pixels(monkeypatch, piece, strip):
    synthesis, y, quality = next(cases())
    whole = synthesis.pixels(y, quality, everything(y))
    for module in ("model.integer_layers", "model.hyperprior.integer_synthesis"):
        monkeypatch.setattr(f"{module}.PIECE_VALUES", piece)
    monkeypatch.setattr(integer_layers, "STRIP_VALUES", strip)
    assert synthesis.pixels(y, quality, everything(y)).equal(whole)


@pytest.mark.parametrize("product", [integer_products.int_mm, integer_products.float_mm])
def test_the_precision_of_other_layers_does_not_change_pixels(monkeypatch, product):
    monkeypatch.setattr(integer_layers, "matrix_product", lambda device: product)
    synthesis, y, quality = next(cases())
    expected = synthesis.pixels(y, quality, everything(y))
    with torch.autocast("cpu", torch.bfloat16):
        assert synthesis.pixels(y, quality, everything(y)).equal(expected)


def test_channels_that_are_zero_may_be_left_out():
    synthesis, y, quality = next(cases())
    y[37:] = 0
    pictures = [synthesis.pixels(part, quality, everything(y)) for part in (y, y[:37], y[:38])]
    assert pictures[0].equal(pictures[1]) and pictures[0].equal(pictures[2])


@pytest.mark.parametrize("tile", [64, 128])
def test_tiles_do_not_change_pixels(shipped, monkeypatch, tile):
    """A latent without a border of tiles, cut in other tiles."""
    monkeypatch.setattr(shipped, "TILE", 1024)
    image, q = colour(190, 250), shipped.quality_tensor(50)
    payload = shipped.compress(image, 50)
    with torch.inference_mode():
        latent = torch.cat(list(shipped.latent_rows(payload, 192, 256, 50)), dim=2)
    monkeypatch.setattr(shipped, "TILE", tile)
    rows = [latent[:, :, i : i + tile // 16] for i in range(0, 12, tile // 16)]
    monkeypatch.setattr(shipped, "latent_rows", lambda *_: iter(rows))
    whole = shipped.integer_synthesis().pixels(latent[0], q, everything(latent[0])).numpy()
    assert np.array_equal(shipped.decompress(b"", 190, 250, 50), whole[:190, :250])


def test_powers_of_two_are_right_to_a_part_in_four_million():
    x = torch.arange(-(20 << 16), 20 << 16, 997)
    assert (exp2(x) / 2.0 ** (x.double() / 65536) - 1).abs().max() < 2.0**-22
    assert exp2(torch.arange(-20, 20) << 16).equal(2.0 ** torch.arange(-20.0, 20.0))


# Training


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("form", ["trained", "shipped"])
def test_the_form_with_gradients_gives_the_pixels_of_files(trained, shipped, form, quality):
    codec = {"trained": trained[0], "shipped": shipped}[form]
    payload = codec.compress(picture(), quality)
    decoded = codec.decompress(payload, 90, 150, quality)
    latent = next(codec.latent_rows(payload, 128, 192, quality)).clone().requires_grad_()
    x_hat = codec.synthesise(latent, codec.quality_tensor(quality))
    assert torch.autograd.grad(x_hat.square().sum(), latent)[0].any()
    pixels = x_hat.detach()[0].mul(255).round().clamp(0, 255).permute(1, 2, 0)[:90, :150]
    assert np.array_equal(pixels.numpy(), decoded) and 50 < decoded.std()


def test_threads_may_share_a_synthesis_in_training(trained, monkeypatch):
    inside, together = [], []

    def call(*args):
        inside.append(args)
        time.sleep(0.01)
        together.append(len(inside))
        inside.pop()

    monkeypatch.setattr(trained_synthesis, "functional_call", call)
    y_hat, quality = torch.zeros(1, 16, 4, 4), torch.tensor([50.0])
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: trained[0].synthesis(y_hat, quality), range(3)))
    assert together == [1, 1, 1]


def test_every_weight_has_a_gradient_and_the_first_batch_chooses_the_steps():
    codec = random_codec().train()
    x, quality = torch.rand(2, 3, 64, 64), torch.tensor([20.0, 80.0])
    assert not codec.synthesis.calibrated
    for _ in range(2):
        x_hat, bpp = codec(x, quality)
    ((x_hat - x).square().mean() + bpp.mean()).backward()
    assert all(weight.grad.any() for weight in codec.parameters())
    assert codec.synthesis.calibrated and (x_hat - x).square().mean() < 0.2


def test_training_goes_on_from_its_state(trained):
    codec = trained[0]
    codec.integer_synthesis()  # leaves nothing in the state
    checkpoint = {**trained[1], "weights": codec.state_dict()}
    resumed = codec_class(codec.arch).from_checkpoint(checkpoint).eval()
    assert resumed.synthesis.calibrated
    found, expected = resumed.shipped_weights(), codec.shipped_weights()
    assert set(found) == set(expected) and all(found[n].equal(expected[n]) for n in found)


def test_a_step_that_is_nearly_right_stays_when_ranges_are_measured_again(trained):
    codec = codec_class("hyperprior").from_checkpoint(
        {**trained[1], "weights": trained[0].state_dict()}
    )
    step = codec.eval().synthesis.step("gate16_0")
    chosen = step.clone()
    disturbed = torch.tensor([1.2, 1 / 1.2, 4, 1 / 4]).repeat(len(step))[: len(step)]
    step.mul_(disturbed)
    codec.calibrate(lambda: [(picture(), quality) for quality in QUALITIES])
    near = (disturbed.log2().abs() < 1).nonzero().flatten()
    assert step[near].equal((chosen * disturbed)[near])
    far = (disturbed.log2().abs() > 1).nonzero().flatten()
    assert torch.allclose(step[far].log2(), chosen[far].log2(), atol=0.5)


def test_what_is_shipped_is_trained_on_from_the_same_integers(trained, shipped):
    codec = load_codec(trained[1])
    codec.become_trainable()
    found, expected = codec.integer_synthesis().state_dict(), trained[1]["weights"]
    for name, value in found.items():
        same = expected[f"synthesis.{name}"]
        if value.dtype == torch.int8:
            assert (value != same).float().mean() < 1e-3  # ties are rounded either way
        else:
            assert torch.allclose(value.double(), same.double(), rtol=1e-4, atol=1), name
    assert all(weight.requires_grad for weight in codec.synthesis.parameters())
    x, q = codec.quality_tensor(50).new_zeros(1, 32, 4, 4).normal_(), codec.quality_tensor(50)
    assert torch.allclose(codec.synthesis(x, q), shipped.synthesis(x, q), atol=0.02)


# Checkpoints


def test_what_is_shipped_is_integers_and_exact_scales(trained, tmp_path):
    codec, checkpoint = trained
    weights = checkpoint["weights"]
    types = {name: weight.dtype for name, weight in weights.items() if "synthesis" in name}
    assert types["synthesis.up8.weight"] == torch.int8
    assert types["synthesis.up8.bias"] == types["synthesis.gain"] == torch.int32
    assert types["synthesis.up8.scale"] == torch.float32
    assert types["hyper_synthesis.head.weight"] == torch.float16
    with open(tmp_path / "codec.tar", "wb") as stream:
        save_checkpoint(stream, checkpoint)
    loaded = load_codec(load_checkpoint(tmp_path / "codec.tar"))
    again = loaded.shipped_weights()
    assert set(again) == set(weights) and all(again[n].equal(weights[n]) for n in weights)
    made, found = codec.integer_synthesis(), loaded.integer_synthesis()
    assert all(map(torch.equal, made.state_dict().values(), found.state_dict().values()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("up8.weight", 64),
        ("first.fine", -64),
        ("blocks16.0.weight", 1 / 3),
        ("blocks8.0.bias", 4000.1),
        ("up8.bias", 2**24),
        ("up8.scale", -1.0),
        ("up1.weight", 64),
        ("up1.bias", 2**24),
        ("ranges", 3.0),
        ("ranges", 0.5),
        ("gain", 30 << 16),
        ("gain16", -(2**31)),
        ("into8", -0.5),
    ],
)
def test_numbers_that_would_not_be_exact_are_refused(trained, name, value):
    weights = {name: weight.clone() for name, weight in trained[1]["weights"].items()}
    weights[f"synthesis.{name}"].view(-1)[0] = value
    with pytest.raises(ValueError, match="weights do not fit"):
        load_codec({**trained[1], "weights": weights})


@pytest.mark.parametrize("changes", [{"channels8": 1}, {"channels16": 20}])
def test_configurations_that_could_not_be_exact_are_refused(changes):
    with pytest.raises(ValueError, match="the configuration's channels"):
        replace(CONFIG, **changes)


@pytest.mark.parametrize("kind", [torch.int32, torch.float32])
def test_integers_of_another_type_are_refused(trained, kind):
    weights = dict(trained[1]["weights"])
    weights["synthesis.up8.weight"] = weights["synthesis.up8.weight"].to(kind)
    with pytest.raises(ValueError, match=r"synthesis.up8.weight is torch.\w+32 .*, not torch.int8"):
        load_codec({**trained[1], "weights": weights})


# The encoder


def test_the_encoder_corrects_and_searches_with_the_synthesis_in_integers(shipped):
    image = picture()

    def cost(effort: int, quality: int) -> float:
        payload = shipped.compress(image, quality, effort)
        decoded = shipped.decompress(payload, 90, 150, quality)
        return 8 * len(payload) + shipped.picture_distortion(decoded, image, quality)

    assert cost(3, 50) < cost(0, 50)
    x = torch.rand(1, 3, 64, 64)
    q = shipped.quality_tensor(95)
    with torch.inference_mode():
        y = shipped.analysis.used(x, q)
        errors = [
            (shipped.synthesis(one, q) - x).square().mean().item()
            for one in (y, shipped.corrected(y, x, q))
        ]
    assert errors[1] < errors[0]


def test_tiles_see_as_far_as_the_transforms(shipped):
    for codec in (shipped, random_codec()):
        check_geometry(codec)


def test_progress_is_reported_tile_by_tile(monkeypatch):
    codec = tiny_codec("hyperprior")
    monkeypatch.setattr(codec, "TILE", 64)
    shares: list[float] = []
    codec.decompress(codec.compress(colour(60, 250), 50), 60, 250, 50, shares.append)
    assert shares == [0.25, 0.5, 0.75, 1]
