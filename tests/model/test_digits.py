"""Integers become digits, in an order that encoder and decoder agree on, and come back."""

import numpy as np
import pytest
import torch
from helpers import tiny_codec
from hypothesis import given
from hypothesis import strategies as st

from model.binary.digits import (
    INTEGER_LIMIT,
    LEVELS,
    LatentWriter,
    cross,
    differences,
    falling,
    from_differences,
    prediction,
    pyramid,
    slope,
    smooth,
)
from model.binary.packing import MAX_DIGITS, DigitReader, DigitWriter
from model.bytestream import Reader

CODEC = tiny_codec("binary")
LARGEST = 2**MAX_DIGITS - 1
INTEGERS = st.integers(-3, 3) | st.integers(-LARGEST, LARGEST)


# Digits


@given(st.lists(st.lists(INTEGERS, max_size=40), min_size=1, max_size=4))
def test_any_integers_come_back_from_their_digits(sets):
    writer = DigitWriter()
    for values in sets:
        writer.write(np.array(values, np.int32))
    digits = DigitReader(Reader(writer.finish(), "payload"))
    for values in sets:
        assert digits.read(len(values)).tolist() == values
    digits.finish()


def test_digits_that_are_not_all_read_are_refused():
    writer = DigitWriter()
    writer.write(np.arange(-500, 500, dtype=np.int32))
    digits = DigitReader(Reader(writer.finish(), "payload"))
    with pytest.raises(ValueError, match="damaged payload"):
        digits.finish()


def test_zeros_take_next_to_nothing_and_signs_a_bit_each():
    rng = np.random.default_rng(0)
    values = rng.choice([-1, 1], 8000).astype(np.int32)

    def size(values: np.ndarray) -> int:
        writer = DigitWriter()
        writer.write(values)
        return len(writer.finish())

    assert size(np.zeros(100_000, np.int32)) < 80
    assert size(values) - 1000 < 40
    assert size(np.append(values, np.zeros(100_000, np.int32))) - 1000 < 120


# The order of the digits


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (8, 8), (5, 33), (64, 40)])
def test_the_pyramid_reaches_every_position_once_and_can_be_undone(shape):
    y = torch.randint(-99, 99, (1, 3, *shape), dtype=torch.int32)
    visits = torch.zeros_like(y)
    visits[..., :: 2**LEVELS, :: 2**LEVELS] = 1
    for step in pyramid(*shape):
        assert 1 <= step.level <= LEVELS
        visits[step.place] += 1
    assert (visits == 1).all()
    assert shape == (1, 1) or not differences(y).equal(y)
    assert from_differences(differences(y)).equal(y)


@pytest.mark.parametrize("shape", [(1, 7), (6, 1), (5, 33), (64, 40)])
def test_a_prediction_depends_on_earlier_positions_alone(shape):
    y = torch.randint(-99, 99, (1, 3, *shape), dtype=torch.int32)
    known = torch.zeros_like(y)
    known[..., :: 2**LEVELS, :: 2**LEVELS] = y[..., :: 2**LEVELS, :: 2**LEVELS]
    for step in pyramid(*shape):
        assert prediction(known, step).equal(prediction(y, step))
        known[step.place] = y[step.place]


def test_a_plane_is_predicted_exactly_inside():
    rows, columns = torch.meshgrid(torch.arange(65), torch.arange(65), indexing="ij")
    y = (3 * rows - 2 * columns)[None, None].float()
    for step in pyramid(65, 65):
        error = (y[step.place] - prediction(y, step))[..., 1:-1, 1:-1]
        assert error.numel() == 0 or error.abs().max() == 0


def test_features_are_sums_of_magnitudes_nearby():
    x = torch.zeros(1, 1, 5, 5)
    x[..., 2, 2] = 1
    kernel = torch.tensor([0.0, 1, 2, 1, 0])
    assert smooth(x)[0, 0].equal(torch.outer(kernel, kernel))
    plus = torch.zeros(5, 5)
    plus[2, 1:4] = plus[1:4, 2] = 4
    assert slope(x)[0, 0].equal(plus + 12 * x[0, 0])
    plus[2, 2] = 0
    assert cross(x)[0, 0].equal(plus)


def test_scales_fall_in_classes_of_a_16th_of_an_octave():
    scales = torch.tensor([4096.0, 20_000, 4100, 4400, 19_990, 2**45, 0, 24_000, 100])
    assert falling(scales).tolist() == [5, 7, 1, 4, 3, 0, 2, 6, 8]


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.integers(1, 100))
def test_any_latent_comes_back(seed, height, width, quality):
    rng = np.random.default_rng(seed)
    size = rng.choice([0, 1, 30, INTEGER_LIMIT])
    y = rng.integers(-size, size + 1, (1, CODEC.config.latent, height, width))
    y = torch.from_numpy(y.astype(np.int32))
    data = CODEC.digits.encode(y, torch.tensor([quality]))
    reader = Reader(data, "payload")
    assert CODEC.digits.decode(reader, height, width, torch.tensor([quality])).equal(y)


class Orders(LatentWriter):
    """Keeps the order of each set; from set ``count`` on, the integers become other ones."""

    def __init__(self, y: torch.Tensor, count: int):
        super().__init__(y)
        self.count, self.orders = count, []

    def code(self, channels, positions, order):
        self.orders.append(order)
        values = super().code(channels, positions, order)
        return values if len(self.orders) <= self.count else 9 - values


def test_the_order_of_a_set_depends_on_the_sets_before_it_alone():
    """Otherwise the decoder, which does not know the other sets yet, would use another order."""
    model, quality = CODEC.digits, torch.tensor([60])
    y = torch.randint(-9, 9, (1, CODEC.config.latent, 6, 7), dtype=torch.int32)

    def orders(count: int) -> list[np.ndarray]:
        coder = Orders(y, count)
        model.code(coder, 6, 7, quality)
        return coder.orders

    expected = orders(100)
    for count in range(len(expected)):
        found = orders(count)
        assert all(map(np.array_equal, found[: count + 1], expected[: count + 1]))
    assert not all(map(np.array_equal, orders(0), expected))
