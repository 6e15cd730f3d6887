"""Residual blocks by products of 8-bit integers, for the encoder, which need not be exact.

Each position has a step of its own, from its largest value, and so has each output's weights: there
is nothing to calibrate and nothing to store. Dettmers et al. 2022, "LLM.int8(): 8-bit matrix
multiplication for transformers at scale", https://arxiv.org/abs/2208.07339, section 2.1.
"""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.integer_layers import PIECE_VALUES, Workspace, pieces
from model.integer_products import CHANNEL_MULTIPLE, INPUT_LIMIT, WEIGHT_LIMIT
from model.layers import Conv1x1, ResidualBlock

SMALLEST_MAXIMUM = 1e-12  # stands in for a largest value of zero, which would be a divisor


class RoundedConv1x1:
    """A 1x1 convolution, of float32 x [P, C] to [P, D]."""

    @torch.no_grad()
    def __init__(self, layer: Conv1x1):
        weight = layer.weight.float().flatten(1)
        self.step = weight.abs().amax(1).clamp_(min=SMALLEST_MAXIMUM) / WEIGHT_LIMIT
        weight = (weight / self.step[:, None]).round_().to(torch.int8)
        self.padding = -weight.shape[1] % CHANNEL_MULTIPLE
        self.weight = F.pad(weight, (0, self.padding)).T
        self.bias = layer.bias.detach().float()

    def __call__(self, x: Tensor, work: Workspace) -> Tensor:
        """The product, which holds until the next call; x is changed."""
        step = x.abs().amax(1, keepdim=True).clamp_(min=SMALLEST_MAXIMUM) / INPUT_LIMIT
        rounded = F.pad(x.div_(step).round_().to(torch.int8), (0, self.padding))
        total = work("total", torch.int32, len(x), len(self.bias))
        work.product(rounded, self.weight, total)
        result = work("scaled", torch.float32, *total.shape).copy_(total)
        return result.mul_(step).mul_(self.step).add_(self.bias)


class RoundedBlocks:
    """A sequence of residual blocks, of x [1, C, H, W], which is changed, to the same shape."""

    def __init__(self, blocks: Iterable[nn.Module]):
        self.blocks = [cast(ResidualBlock, block) for block in blocks]
        self.products = [
            (RoundedConv1x1(block.expand), RoundedConv1x1(block.project)) for block in self.blocks
        ]

    def __call__(self, x: Tensor) -> Tensor:
        x, shape, work = x.float(), x.shape, Workspace(x.device)
        with torch.autocast(x.device.type, enabled=False):
            for block, (expand, project) in zip(self.blocks, self.products):
                inner, y = positions(block.depthwise(x)), positions(x)
                for start, end in pieces(len(y), shape[1], PIECE_VALUES):
                    a, b = expand(inner[start:end], work).chunk(2, dim=1)
                    gated = F.silu(a).mul_(b).clamp_(-block.bound, block.bound)
                    y[start:end] += project(gated, work)
                x = y.view(1, *shape[2:], shape[1]).permute(0, 3, 1, 2)
        return x


def positions(x: Tensor) -> Tensor:
    """x [1, C, H, W] as [H * W, C], without a copy where channels lie side by side."""
    return x[0].permute(1, 2, 0).reshape(-1, x.shape[1])
