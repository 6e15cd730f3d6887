"""A synthesis in integers that is fitted to an older one, without gradients."""

from copy import deepcopy

import pytest
import torch
from helpers import older_contents, tiny_codec, write_checkpoint
from PIL import Image

from model import load_codec
from model.checkpoint import load_checkpoint
from model.integer_products import WEIGHT_LIMIT
from utils.fitting import Sums, fit, rounded_weights
from utils.teacher import in_floating_point
from utils.upgrade import upgraded


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rounding_with_feedback_changes_outputs_less_than_rounding_to_the_nearest():
    mixed = random(500, 24) @ random(24, 24, seed=1)  # inputs that depend on each other
    weight = random(8, 24, seed=2).double()
    found = rounded_weights(weight, torch.cov(mixed.T.double()))
    step = found.abs().amax(1, keepdim=True) / WEIGHT_LIMIT
    assert (found / step - (found / step).round()).abs().max() < 1e-9
    nearest = (weight / step).round() * step
    errors = [((w - weight) @ mixed.T.double()).square().mean() for w in (found, nearest)]
    assert errors[0] < 0.7 * errors[1]


def test_least_squares_finds_the_layer_that_made_the_targets():
    sums, weight, bias = Sums(), random(3, 5), random(3, seed=3)
    for seed, share in ((4, 0.2), (5, 2.0)):
        x = random(1, 5, 20, 30, seed=seed) + 1
        target = torch.einsum("dk,bkhw->bdhw", weight, x) + bias[:, None, None]
        sums.add(x, target, share)
    assert torch.allclose(
        sums.solution(), torch.cat([weight, bias[:, None]], 1).double(), atol=0.02
    )
    assert sums.moments()[0] == pytest.approx(torch.ones(5), abs=0.1)


@pytest.fixture
def older():
    """A tiny codec of xfr 0.9, with gates that are far from linear."""
    codec = tiny_codec("hyperprior")
    for block in (*codec.synthesis.stage(16), *codec.synthesis.stage(8)):
        block.expand.weight.mul_(2)
    return older_contents(codec)


def test_the_fitted_synthesis_is_closer_to_the_older_one(older):
    codec = load_codec(upgraded(older))
    samples = [
        ((random(64, 64, 3, seed=i).sigmoid() * 255).byte().numpy(), 10 + 5 * i) for i in range(16)
    ]
    plain, teacher = deepcopy(codec), deepcopy(codec.synthesis)
    plain.measure_ranges(lambda: samples)
    fit(codec, samples)
    y_hat, quality = random(1, codec.config.latent, 8, 8, seed=7), torch.tensor([45.0])
    with torch.no_grad():
        goal = in_floating_point(teacher, y_hat, quality)
        errors = [
            (c.synthesis.eval()(y_hat, quality) - goal).square().mean() for c in (codec, plain)
        ]
    assert errors[0] < 0.5 * errors[1]
    codec.synthesis.integers()  # whose sums are exact


def test_the_command_writes_a_checkpoint_to_train_on(older, module, tmp_path):
    write_checkpoint(tmp_path / "older.tar", older)
    for i in range(8):
        pixels = (random(80, 80, 3, seed=i).sigmoid() * 255).byte().numpy()
        Image.fromarray(pixels).resize((256, 256)).save(tmp_path / f"{i}.png")
    words = tmp_path / "older.tar", tmp_path / "newer.tar", "--dataset_path", tmp_path
    done = module("utils.upgrade", *words, "--crops", 8)
    assert done.code == 0, done.err
    codec = load_codec(load_checkpoint(tmp_path / "newer.tar"))
    assert codec.synthesis.calibrated
    assert "newer.tar exists" in module("utils.upgrade", *words).err
