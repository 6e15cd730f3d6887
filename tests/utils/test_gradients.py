"""The gradient that a training step gives to the optimiser."""

import pytest
import torch
from torch import nn

from utils.step import TrainingStep


class Line(nn.Module):
    """A stand-in for a codec: the loss of a sample x [B, 2] is the product of x and the weights, so
    that x is its gradient."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


@pytest.fixture
def gradient(monkeypatch):
    """The gradient that a step leaves, after steps on each of these batches."""

    def rate_distortion(codec, model, x, quality):
        return torch.stack([(x * codec.weight).sum(1), *torch.ones(2, len(x))])

    def run(*batches: list[tuple[float, float]]) -> list[float]:
        monkeypatch.setattr("utils.step.rate_distortion", rate_distortion)
        line = Line()
        step = TrainingStep(line, line, 1e-3)
        for number, batch in enumerate(batches):
            step(torch.tensor(batch), torch.ones(len(batch)), number, 1e-3)
        return line.weight.grad.tolist()

    return run


def test_a_gradient_is_the_mean_over_the_samples(gradient):
    assert gradient([(0.3, 0.4)]) == pytest.approx([0.3, 0.4])
    assert gradient([(0.3, 0.4), (0.1, -0.2)]) == pytest.approx([0.2, 0.1])


def test_a_gradient_longer_than_1_is_shortened_to_1(gradient):
    assert gradient([(0.6, 0.79)]) == pytest.approx([0.6, 0.79])
    assert gradient([(30.0, 40.0)]) == pytest.approx([0.6, 0.8], abs=1e-4)


def test_nothing_is_left_of_the_gradient_of_the_step_before(gradient):
    assert gradient([(0.3, 0.4)], [(0.1, 0.2)]) == pytest.approx([0.1, 0.2])
