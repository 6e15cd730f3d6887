"""The optimiser's eigenbases, and the moving average of the weights."""

import pytest
import torch
from torch import nn

from utils.optimizer import SOAP, WeightAverage


def averaged(*steps: int) -> float:
    """The average after the weights have gone from 0 to 1, and these steps were taken."""
    layer = nn.Linear(1, 1)
    nn.init.zeros_(layer.weight)
    average = WeightAverage(layer)
    nn.init.ones_(layer.weight)
    for step in steps:
        average.update(step)
    return average.average["weight"].item()


def test_the_first_weights_are_forgotten_at_once():
    assert averaged(0) == pytest.approx(0.9)
    assert averaged(0, 1) == pytest.approx(1 - 0.1 * 2 / 11)
    assert averaged(90) == pytest.approx(0.09)


def test_late_in_a_run_a_step_moves_the_average_by_a_thousandth():
    assert averaged(10**6) == pytest.approx(0.001)
    assert averaged(*range(10**6, 10**6 + 1000)) == pytest.approx(1 - 0.999**1000, rel=1e-3)


def test_the_average_is_used_within_its_context_alone():
    layer = nn.Linear(1, 1)
    average = WeightAverage(layer)
    with torch.no_grad():
        latest = layer.weight.add_(1).clone()
    average.update(90)
    with average.applied():
        assert layer.weight.item() == pytest.approx(latest.item() - 0.91)
    assert layer.weight.equal(latest)
    assert average.average["weight"].item() == pytest.approx(latest.item() - 0.91)


def test_dimensions_of_2_to_512_have_eigenbases_and_vectors_have_none():
    shapes = [(512, 3, 1, 1), (513, 2), (7,)]
    stacks = SOAP([nn.Parameter(torch.zeros(shape)) for shape in shapes], 0.1).stacks
    sizes = [[basis.shape[1] for basis in stack.bases] for stack in stacks]
    assert sizes == [[512, 3], [0, 2], []]
