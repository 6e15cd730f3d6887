"""The distortions that a codec can be trained for, each in a record of its own."""

import io
from functools import cache

import numpy as np
import pytest
import torch
from helpers import ROOT, as_tensor, colour, noise
from PIL import Image
from torch import Tensor

from model.cvvdp import cvvdp_terms
from model.distortion import CVVDP_EXPONENT, CVVDP_FACTOR, RECORDS, ssimulacra2_cost
from model.ssimulacra2 import ssimulacra2_distance


@cache
def photograph(quality: int) -> tuple[Tensor, Tensor]:
    """A part of a photograph after JPEG, and before: [1, 3, 192, 192]."""
    original = (
        Image.open(ROOT / "out/original/chelsea.png").convert("RGB").crop((130, 60, 322, 252))
    )
    file = io.BytesIO()
    original.save(file, "jpeg", quality=quality, subsampling=0)
    pair = (np.array(image) for image in (Image.open(file), original))
    return tuple(as_tensor(pixels)[None] / 255 for pixels in pair)


@pytest.mark.parametrize("name", RECORDS)
def test_a_distortion_is_zero_for_equal_pictures_and_grows_with_the_error_and_with_lmbda(name):
    loss = RECORDS[name].loss
    x, error = (as_tensor(pixels)[None] / 255 for pixels in (colour(64, 64), noise(64, 64)))
    low, high = torch.tensor([0.001]), torch.tensor([0.1])
    little, much = ((x + share * (error - 0.5)).requires_grad_() for share in (0.05, 0.3))
    assert loss(x, x, high).tolist() == pytest.approx([0], abs=1e-4)
    assert 0 < loss(little, x, low) < loss(much, x, low) < loss(much, x, high)
    (gradient,) = torch.autograd.grad(loss(much, x, high).sum(), much)
    assert gradient.isfinite().all() and (gradient * (much - x)).sum() > 0


@pytest.mark.parametrize("name", RECORDS)
def test_a_distortion_does_not_depend_on_its_batch(name):
    pairs, lmbda = (
        [photograph(quality) for quality in (10, 30, 80)],
        torch.tensor([0.001, 0.006, 0.03]),
    )
    together = RECORDS[name].loss(*map(torch.cat, zip(*pairs)), lmbda)
    alone = [RECORDS[name].loss(*pair, lmbda[i : i + 1]) for i, pair in enumerate(pairs)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert together.unique().numel() == 3


# JPEG at a quality, and the lmbda of a codec's files that look like it.
ALIKE = pytest.mark.parametrize("quality, lmbda", [(10, 0.001), (30, 0.006), (80, 0.03)])


@ALIKE
def test_both_measures_of_the_visual_distortion_count_about_as_much(quality, lmbda):
    pair, lmbda = photograph(quality), torch.tensor([lmbda])
    cvvdp_cost = CVVDP_FACTOR * lmbda**CVVDP_EXPONENT * cvvdp_terms(*pair)[0]
    assert 0.5 < cvvdp_cost / ssimulacra2_cost(*pair, lmbda) < 2


@ALIKE
def test_distortions_cost_about_as_much_so_that_a_quality_has_about_as_many_bytes(quality, lmbda):
    costs = [
        record.loss(*photograph(quality), torch.tensor([lmbda])) for record in RECORDS.values()
    ]
    assert max(costs) < 1.6 * min(costs)


def test_the_visual_distortion_is_the_mean_of_two_measures_with_spots_and_some_squared_error():
    x_hat, x = photograph(30)
    lmbda = 0.006
    distance, spots = cvvdp_terms(x_hat, x)
    ssimulacra2 = (
        6.2 * lmbda**1.066 / (1 + 0.0005 / lmbda) * ssimulacra2_distance(x_hat, x, mirror=True)
    )
    error = 255 * (x_hat - x)
    luma = torch.tensordot(torch.tensor([0.299, 0.587, 0.114]), error, ([0], [1]))[:, None]
    squares = 0.5 * error.square().mean() + 4.5 * (error - luma).square().mean()
    measures = 0.5 * ssimulacra2 + 0.5 * 65 * lmbda**1.05 * distance
    expected = measures + 0.2 * lmbda * spots + 0.13 * lmbda * squares
    found = RECORDS["visual"].loss(x_hat, x, torch.tensor([lmbda]))
    torch.testing.assert_close(found, expected)
    assert 0.2 * lmbda * spots > 0.01 * expected  # or else the test could not tell


def test_a_step_against_the_gradient_of_the_visual_distortion_lowers_all_that_it_consists_of():
    x_hat, x = photograph(30)
    lmbda = torch.tensor([0.006])
    x_hat = x_hat.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(RECORDS["visual"].loss(x_hat, x, lmbda).sum(), x_hat)
    step = x_hat.detach() - 1e-3 * gradient / gradient.abs().max()
    for part in (*(RECORDS[name].loss for name in RECORDS), ssimulacra2_cost):
        assert part(step, x, lmbda) < part(x_hat, x, lmbda)
    for before, after in zip(cvvdp_terms(x_hat, x), cvvdp_terms(step, x)):
        assert after < before


@pytest.mark.parametrize("name", RECORDS)
def test_gradients_are_finite_at_equal_and_at_the_farthest_pictures(name):
    black = torch.zeros(1, 3, 32, 32)
    for x_hat, x in ((black, black), (black + 1, black), (black, black + 1), (black - 9, black)):
        x_hat = x_hat.clone().requires_grad_()
        RECORDS[name].loss(x_hat, x, torch.tensor([0.4])).sum().backward()
        assert x_hat.grad.isfinite().all()


@pytest.mark.parametrize("name", RECORDS)
def test_a_dead_zone_never_counts_more_than_all_bits_and_is_no_narrower_at_high_quality(name):
    low, high = RECORDS[name].dead_zone
    assert 0 <= low <= high <= 1
