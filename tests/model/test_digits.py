"""Integers become digits, in an order that encoder and decoder agree on, and come back."""

import numpy as np
import pytest
import torch
from helpers import tiny_codec
from hypothesis import given
from hypothesis import strategies as st

from model.binary.digits import (
    LEVELS,
    LIMIT,
    cross,
    falling,
    neighbours,
    predict,
    slope,
    smooth,
)  # fmt: skip
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
    visits, differences = torch.zeros_like(y), y.clone()
    visits[..., :: 2**LEVELS, :: 2**LEVELS] = 1
    for index, values, level in neighbours(y):
        assert values.shape == (4, *y[index].shape) and 1 <= level <= LEVELS
        visits[index] += 1
        differences[index] -= predict(values)
    assert (visits == 1).all()
    for index, values, _ in neighbours(differences):
        differences[index] += predict(values)
    assert differences.equal(y)


def test_a_plane_is_predicted_exactly_inside():
    rows, columns = torch.meshgrid(torch.arange(65), torch.arange(65), indexing="ij")
    y = (3 * rows - 2 * columns)[None, None].float()
    for index, values, _ in neighbours(y):
        error = (y[index] - predict(values))[..., 1:-1, 1:-1]
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
    size = rng.choice([0, 1, 30, LIMIT])
    y = rng.integers(-size, size + 1, (1, CODEC.config.latent, height, width))
    y = torch.from_numpy(y.astype(np.int32))
    data = CODEC.digits.encode(y, torch.tensor([quality]))
    reader = Reader(data, "payload")
    assert CODEC.digits.decode(reader, height, width, torch.tensor([quality])).equal(y)


def test_what_is_decoded_later_changes_no_order():
    """Or else the decoder, which does not know it yet, would use another."""
    model, quality = CODEC.digits, torch.tensor([60])
    y = torch.randint(-9, 9, (1, 24, 6, 7), dtype=torch.int32)
    orders = [order for *_, order in model.passes(y.clone(), quality)]
    for count in range(len(orders)):
        partly = torch.zeros_like(y)
        for i, (channels, positions, order) in enumerate(model.passes(partly, quality)):
            assert i > count or np.array_equal(order, orders[i])
            if i < count:
                part = partly[0, channels].flatten(1)
                part[:, positions] = y[0, channels].flatten(1)[:, positions]
