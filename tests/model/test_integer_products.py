"""A way of computing that rounds is not used."""

import pytest
import torch
from torch import Tensor

from model import integer_products
from model.integer_products import (
    conv_sums,
    depthwise_way,
    double_mm,
    fine_product,
    float_mm,
    is_exact_depthwise,
    is_exact_product,
    matrix_product,
    shifted_sums,
)

CPU = torch.device("cpu")


def saturating(x: Tensor, weight: Tensor, total: Tensor) -> None:
    """Adds pairs of products in 16 bits, as processors without VNNI do."""
    pairs = (x.long() + 128).view(len(x), -1, 2)
    pairs = torch.einsum("pkc,kcd->pkd", pairs, weight.long().reshape(-1, 2, weight.shape[1]))
    total.copy_(pairs.clamp(-(2**15), 2**15 - 1).sum(1) - 128 * weight.long().sum(0))


def in_bfloat16(x: Tensor, weight: Tensor, total: Tensor) -> None:
    total.copy_(x.bfloat16() @ weight.bfloat16())


def unavailable(x: Tensor, weight: Tensor, total: Tensor) -> None:
    raise RuntimeError("not implemented for Char")


@pytest.fixture
def choose(monkeypatch):
    """Forget what has been chosen, now and after the test."""
    for choice in (matrix_product, fine_product, depthwise_way):
        choice.cache_clear()
    yield monkeypatch
    for choice in (matrix_product, fine_product, depthwise_way):
        choice.cache_clear()


def test_products_that_saturate_in_16_bits_are_exact_with_weights_of_7_bits_alone(monkeypatch):
    assert is_exact_product(saturating, CPU)
    monkeypatch.setattr(integer_products, "WEIGHT_LIMIT", 127)
    assert not is_exact_product(saturating, CPU)


@pytest.mark.parametrize("product", [in_bfloat16, unavailable])
def test_a_product_that_is_not_exact_or_not_there_is_not_used(choose, product):
    choose.setattr(integer_products, "int_mm", product)
    assert matrix_product(CPU) is float_mm


def test_without_an_exact_product_there_is_an_error(choose):
    for name in ("int_mm", "float_mm"):
        choose.setattr(integer_products, name, in_bfloat16)
    with pytest.raises(ArithmeticError, match="not exact on cpu"):
        matrix_product(CPU)


def test_a_fine_product_that_rounds_is_not_used(choose):
    assert fine_product(CPU) is float_mm
    fine_product.cache_clear()
    choose.setattr(integer_products, "float_mm", in_bfloat16)
    assert fine_product(CPU) is double_mm
    largest = torch.full((5, 160), 1023.0)
    total = torch.empty(5, 16, dtype=torch.int32)
    fine_product(CPU)(largest, torch.full((160, 16), 63, dtype=torch.int8), total)
    assert total.unique().tolist() == [1023 * 63 * 160]


def test_a_depthwise_convolution_that_rounds_is_not_used(choose):
    assert is_exact_depthwise(conv_sums, CPU) and is_exact_depthwise(shifted_sums, CPU)

    def rounding(x: Tensor, weight: Tensor, bias: Tensor, sides: int) -> Tensor:
        return conv_sums(*(tensor.bfloat16() for tensor in (x, weight, bias)), sides).float()

    choose.setattr(integer_products, "conv_sums", rounding)
    assert depthwise_way(CPU) is shifted_sums
