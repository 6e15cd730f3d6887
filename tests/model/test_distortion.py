"""The distortions that a codec can be trained for, each in a record of its own."""

import pytest
import torch
from helpers import as_tensor, colour, noise

from model.distortion import RECORDS
from model.limits import DISTORTIONS


def test_every_distortion_has_a_name_for_the_command_line_and_a_record():
    assert list(RECORDS) == list(DISTORTIONS)


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
def test_a_dead_zone_never_counts_more_than_all_bits_and_is_no_narrower_at_high_quality(name):
    low, high = RECORDS[name].dead_zone
    assert 0 <= low <= high <= 1
