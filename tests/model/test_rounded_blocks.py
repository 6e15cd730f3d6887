"""The encoder's residual blocks, by products of 8-bit integers."""

import pytest
import torch
from helpers import tiny_codec
from torch import nn

from model.layers import ResidualBlock
from model.rounded_blocks import RoundedBlocks

BOUND = 0.25


def random_blocks(count, channels):
    torch.manual_seed(0)
    return nn.Sequential(*(ResidualBlock(channels, BOUND) for _ in range(count)))


def random_input(channels, height, width):
    x = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(1))
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("channels", "height", "width"), [(8, 1, 1), (24, 5, 7), (32, 70, 90)])
@torch.no_grad()
def test_rounded_blocks_nearly_do_what_blocks_do(channels, height, width):
    blocks, x = random_blocks(2, channels), random_input(channels, height, width)
    exact = blocks(x)
    change, error = exact - x, RoundedBlocks(blocks)(x.clone()) - exact
    assert 0 < error.abs().mean() < 0.03 * change.abs().mean()


@torch.no_grad()
def test_a_position_is_rounded_in_steps_of_its_own():
    blocks, x = RoundedBlocks(random_blocks(1, 16)), random_input(16, 12, 12)
    other = x.clone()
    other[..., 9:, 9:] *= 1000  # beyond the reach of the depthwise convolution
    first, second = blocks(x)[..., :8, :8], blocks(other)[..., :8, :8]
    assert torch.equal(first, second)


@torch.no_grad()
def test_zeros_are_no_division_by_zero():
    blocks = random_blocks(1, 8)
    for weight in blocks.parameters():
        weight.zero_()
    assert torch.equal(RoundedBlocks(blocks)(torch.zeros(1, 8, 2, 2)), torch.zeros(1, 8, 2, 2))


@torch.no_grad()
def test_an_encoder_follows_the_weights_that_are_trained():
    codec = tiny_codec("hyperprior").eval()
    x, quality = torch.rand(1, 3, 64, 64), codec.quality_tensor(80)
    before = codec.analysis.used(x, quality)
    codec.train()
    codec.analysis.blocks16[0].project.bias.add_(1)
    after = codec.eval().analysis.used(x, quality)
    assert before.shape != after.shape or not torch.equal(before, after)
