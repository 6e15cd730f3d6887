"""Rounding of weights, one input after another, where each makes up for the errors before it.

Frantar, Ashkboos, Hoefler, Alistarh 2022, "GPTQ: Accurate post-training quantization for generative
pre-trained transformers", https://arxiv.org/abs/2210.17323. The bias is a last input, a constant,
and is not rounded. The largest weight of each row keeps its value, and so does the row's step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from model.hyperprior.trained_synthesis import STAGES, TrainedSynthesis, row_steps
from model.integer_products import INPUT_LIMIT, WEIGHT_LIMIT
from model.layers import Conv1x1

DAMPING = 0.01  # of the inputs' correlations, relative to their mean square


class Compensation:
    """The rounding of a synthesis whose steps are known, for the latents that it observes."""

    def __init__(self, synthesis: TrainedSynthesis):
        self.synthesis = synthesis
        self.layers = {"up8": synthesis.up8.conv, "up1": synthesis.up1.conv}  # by their input
        for stage in STAGES:
            for i, block in enumerate(synthesis.stage(stage)):
                self.layers[f"depthwise{stage}_{i}"] = block.expand
                self.layers[f"gate{stage}_{i}"] = block.project
        self.correlations: dict[str, Tensor] = {}

    @torch.no_grad()
    def observe(self, y_hat: Tensor, quality: Tensor) -> None:
        """Add up the correlations of all inputs, for y_hat [B, K, h, w] and quality [B]."""
        for name, x in self.synthesis.activations(y_hat.float(), quality):
            if name in self.layers:
                x = x / self.synthesis.step(name)[:, None, None]
                x = x.round().clamp(-INPUT_LIMIT, INPUT_LIMIT)
                x = F.pad(x.movedim(1, -1).flatten(0, 2), (0, 1), value=1).double()
                self.correlations[name] = self.correlations.get(name, 0) + x.T @ x

    @torch.no_grad()
    def apply(self) -> None:
        """Round the weights of all layers to their steps."""
        for name, layer in self.layers.items():
            round_layer(layer, self.synthesis.step(name), self.correlations[name])


def round_layer(layer: Conv1x1, inputs: Tensor, correlations: Tensor) -> None:
    """Round the weights of ``layer``, of inputs in steps [K]."""
    weight = layer.weight.flatten(1) * inputs
    step = row_steps(weight, WEIGHT_LIMIT)[:, None]
    numbers = torch.cat([weight, layer.bias[:, None]], dim=1).double() / step
    numbers = compensated(numbers, correlations).float() * step
    layer.weight.copy_((numbers[:, :-1] / inputs).view_as(layer.weight))
    layer.bias.copy_(numbers[:, -1])


def compensated(numbers: Tensor, correlations: Tensor) -> Tensor:
    """Weights and bias [D, K + 1] in steps of their rows, to integers and a bias, given the
    correlations [K + 1, K + 1] of the inputs and a constant 1."""
    count = len(correlations) - 1
    power = correlations.diagonal()[:count]
    # The inputs that matter most come first.
    order = torch.cat([power.argsort(descending=True), torch.tensor([count], device=power.device)])
    damping = DAMPING * power.mean() * torch.eye(count + 1).to(correlations)
    inverse = torch.linalg.inv(correlations[order][:, order] + damping)
    factor = torch.linalg.cholesky(inverse, upper=True)
    largest = numbers[:, :count].abs().argmax(1, keepdim=True)
    left, rounded = numbers[:, order].clone(), torch.empty_like(numbers)
    for i, channel in enumerate(order[:count]):
        exact = numbers[:, channel]
        value = torch.where(largest[:, 0] == channel, exact, left[:, i]).round()
        value = value.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        error = (left[:, i] - value) / factor[i, i]
        left[:, i:] -= error[:, None] * factor[i, i:]
        rounded[:, channel] = value
    rounded[:, count] = left[:, count]
    return rounded
