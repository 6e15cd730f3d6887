"""Fits a synthesis in integers to an older one in floating point, layer by layer.

A gate of the older one is silu(a) * b, of the newer one hardswish(K a) * b / K, with the K of each
channel that comes closest. The layer behind a gate is fitted by least squares, so that it makes up
for all errors before it. Where a weight is rounded, the weights that are not rounded yet make up
for the error: Frantar et al. 2022, "GPTQ: accurate post-training quantization for generative
pre-trained transformers", https://arxiv.org/abs/2210.17323.
"""

from copy import deepcopy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from model.codec import Codec, Sample
from model.hyperprior.integer_synthesis import INTO_FINE, STAGES
from model.hyperprior.network import HyperpriorCodec
from model.hyperprior.trained_synthesis import (
    CLIPPING_SHARES,
    TrainedSynthesis,
    clipped_least,
    clipping_errors,
    gated,
    with_floor,
)
from model.integer_layers import to_limit
from model.integer_products import FINE_LIMIT, INPUT_LIMIT, WEIGHT_LIMIT
from model.layers import ResidualBlock
from utils.step import BALANCE

GATE_FACTORS = 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.75, 2.0, 2.5  # tried for K
WEIGHT_SHARES = 1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7  # tried: of a row's largest weight
RANGE_INTERVAL = 4  # one in so many crops shows the ranges of the entropy networks
RIDGE_SHARE = 1e-3  # of least squares, relative to the mean square of the inputs
ROUNDING_DAMPING = 0.01  # of the sums of products that rounded weights are chosen by, likewise

Latents = list[tuple[Tensor, Tensor]]  # of crops: y_hat [1, K, h, w] and quality [1]


@torch.no_grad()
def fit(codec: HyperpriorCodec, samples: list[Sample]) -> None:
    """Fit the synthesis of ``codec``, whose weights are those of xfr 0.9, to what they compute in
    floating point from the latents of ``samples``."""
    codec.measure_ranges(lambda: samples[::RANGE_INTERVAL])
    newer = cast(TrainedSynthesis, codec.synthesis)
    latents = []
    for pixels, quality in tqdm(samples, desc="latents", leave=False, disable=None):
        q = codec.quality_tensor(quality)
        for view in codec.grid(*pixels.shape[:2]).views(pixels, codec.device):
            latents.append((codec.quantized(view.x, q).y_hat, q))
    Fitting(codec, newer, deepcopy(newer), latents).run()


class Sums:
    """Weighted sums over positions of products of a layer's inputs [K], with a 1 behind them, with
    each other and with targets [D]: float64."""

    def __init__(self) -> None:
        self.inputs: Tensor | int = 0
        self.targets: Tensor | int = 0

    def add(self, inputs: Tensor, target: Tensor, weight: float) -> None:
        """inputs [1, K, h, w] and target [1, D, h, w]."""
        x, y = (values[0].flatten(1).T for values in (inputs, target))
        x = F.pad(x, (0, 1), value=1)
        self.inputs += weight * (x.T @ x).double()
        self.targets += weight * (x.T @ y).double()

    def solution(self) -> Tensor:
        """The weights, and the bias behind them, of the layer that comes closest to the targets:
        [D, K + 1]."""
        squares = cast(Tensor, self.inputs)
        ridge = (
            torch.eye(len(squares), dtype=torch.float64) * RIDGE_SHARE * squares.diagonal().mean()
        )
        return torch.linalg.solve(squares + ridge, self.targets).T

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean of the inputs [K] and their covariance [K, K]."""
        moments = cast(Tensor, self.inputs) / cast(Tensor, self.inputs)[-1, -1]
        mean = moments[-1, :-1]
        return mean, moments[:-1, :-1] - mean[:, None] * mean


class Fitting:
    """The streams of both syntheses at the layer that has been reached, [1, C, h, w] of each crop.

    ``goal``: of the older; ``own``: of the newer, with rounded numbers.
    """

    def __init__(
        self, codec: Codec, newer: TrainedSynthesis, older: TrainedSynthesis, crops: Latents
    ):
        self.newer, self.older = newer, older
        self.gains = [older.gain16(quality).exp() for _, quality in crops]
        self.weights = [codec.lmbda(quality).item() ** (1 - BALANCE) for _, quality in crops]
        gained = [y_hat * older.gain(q)[:, : y_hat.shape[1]].exp() for y_hat, q in crops]
        self.goal = [older.latent(y) for y in gained]
        self.own = [x.clone() for x in self.goal]

    def run(self) -> None:
        """Fit all layers from the latent's gains on."""
        at_pixels = self.weights
        self.weights = [w * gain.square().mean().item() for w, gain in zip(at_pixels, self.gains)]
        for stage in STAGES:
            if stage == 8:
                self.weights = at_pixels
                self.up8()
            count = len(self.newer.stage(stage))
            for i in tqdm(range(count), desc=f"blocks at 1/{stage}", leave=False, disable=None):
                self.block(stage, i)
        self.up1()

    def block(self, stage: int, i: int) -> None:
        """Fit residual block ``i`` of a stage, and move ``goal`` and ``own`` behind it."""
        older, newer = (synthesis.stage(stage)[i] for synthesis in (self.older, self.newer))
        inputs = self.rounded(f"depthwise{stage}_{i}", [newer.depthwise(x) for x in self.own])
        self.scale_gate(older, newer, inputs)
        outputs = [newer.expand(x) for x in inputs]
        self.fit_layer(newer.expand, inputs, outputs, self.newer.step(f"depthwise{stage}_{i}"))
        hidden = [gated(newer.expand(x)) for x in inputs]
        hidden = self.rounded(f"gate{stage}_{i}", hidden)
        self.goal = [older(x) for x in self.goal]
        changes = [goal - own for goal, own in zip(self.goal, self.own)]
        self.fit_layer(newer.project, hidden, changes, self.newer.step(f"gate{stage}_{i}"))
        self.own = [x + newer.project(h) for x, h in zip(self.own, hidden)]

    def scale_gate(self, older: ResidualBlock, newer: ResidualBlock, inputs: list[Tensor]) -> None:
        """Choose the factor K of each channel with the least error on ``inputs`` [1, C, h, w], and
        put it into the weights of ``newer``."""
        errors = torch.zeros(len(GATE_FACTORS), len(newer.project.weight))
        for x, weight in zip(inputs, self.weights):
            a, b = older.expand(x).chunk(2, dim=1)
            for error, k in zip(errors, GATE_FACTORS):
                difference = b * (F.silu(a) - F.hardswish(k * a) / k)
                error += weight * difference.square().sum((0, 2, 3))
        factor = torch.tensor(GATE_FACTORS)[errors.argmin(0)]
        factors = torch.cat([factor, 1 / factor])
        newer.expand.weight.mul_(factors[:, None, None, None])
        newer.expand.bias.mul_(factors)

    def up8(self) -> None:
        """Fit the layer from 1/16 to 1/8, and move ``goal`` and ``own`` [1, C, h, w] behind it."""
        self.goal = [x * gain for x, gain in zip(self.goal, self.gains)]
        inputs = self.rounded("up8", [x * gain for x, gain in zip(self.own, self.gains)])
        targets = [self.older.up8.conv(x) for x in self.goal]
        self.fit_layer(self.newer.up8.conv, inputs, targets, self.newer.step("up8"))
        self.goal = [self.older.up8(x) for x in self.goal]
        self.own = [self.newer.up8(x) for x in inputs]

    def up1(self) -> None:
        """Fit the last layer, from ``own`` at 1/8 to pixels."""
        step = INTO_FINE * self.newer.step("stream8")
        inputs = [rounded(x, step, FINE_LIMIT) for x in self.own]
        targets = [self.older.up1.conv(x) for x in self.goal]
        self.fit_layer(self.newer.up1.conv, inputs, targets, step)

    def rounded(self, name: str, activations: list[Tensor]) -> list[Tensor]:
        """``activations`` of each crop, rounded to 8 bits in the steps with the least error, which
        become the steps of this ``name``."""
        largest = with_floor(torch.stack([x.abs().amax((0, 2, 3)) for x in activations]).amax(0))
        errors = torch.zeros(len(CLIPPING_SHARES), len(largest))
        for x, weight in zip(activations, self.weights):
            errors += weight * clipping_errors(x, largest)
        step = clipped_least(largest, errors) / INPUT_LIMIT
        self.newer.step(name).copy_(step)
        return [rounded(x, step) for x in activations]

    def fit_layer(
        self, layer: nn.Conv2d, inputs: list[Tensor], targets: list[Tensor], step: Tensor
    ) -> None:
        """Bring the outputs of a 1x1 convolution, whose inputs are multiples of ``step`` [K],
        closest to ``targets``, with weights that will be rounded to 7 bits."""
        sums = Sums()
        for x, target, weight in zip(inputs, targets, self.weights):
            sums.add(x, target - layer(x), weight)
        change, bias = sums.solution(), cast(Tensor, layer.bias)
        fitted = layer.weight.flatten(1) + change[:, :-1]
        mean, covariance = sums.moments()
        final = rounded_weights(fitted * step, covariance / step / step[:, None]) / step
        layer.weight.copy_(final.view_as(layer.weight))
        bias.add_(change[:, -1] + (fitted - final) @ mean)


def rounded(x: Tensor, step: Tensor, limit: int = INPUT_LIMIT) -> Tensor:
    """x [1, C, h, w] in multiples of ``step`` [C] up to ``limit``."""
    step = step[:, None, None]
    return to_limit(x / step, limit) * step


def rounded_weights(weight: Tensor, covariance: Tensor) -> Tensor:
    """``weight`` float64 [D, K], of inputs with this ``covariance`` [K, K], in multiples of a step
    for each row. The largest multiple of a row is WEIGHT_LIMIT, as in training."""
    damping = ROUNDING_DAMPING * covariance.diagonal().mean()
    covariance = covariance + damping * torch.eye(len(covariance), dtype=torch.float64)
    order = covariance.diagonal().argsort(descending=True)
    weight, covariance = weight[:, order], covariance[order][:, order]
    factor = torch.linalg.cholesky(covariance.inverse(), upper=True)
    best, least = weight, torch.full((len(weight),), torch.inf, dtype=torch.float64)
    for share in WEIGHT_SHARES:
        step = share * weight.abs().amax(1) / WEIGHT_LIMIT
        found = with_feedback(weight, step, factor)
        error = ((found - weight) @ covariance * (found - weight)).sum(1)
        reaches = found.abs().amax(1) > (WEIGHT_LIMIT - 0.5) * step
        better = reaches & (error < least)
        best = torch.where(better[:, None], found, best)
        least = torch.where(better, error, least)
    return best[:, order.argsort()]


def with_feedback(weight: Tensor, step: Tensor, factor: Tensor) -> Tensor:
    """``weight`` [D, K] in multiples of ``step`` [D], column after column. ``factor``: the upper
    Cholesky factor of the inverse covariance of the inputs."""
    left, found = weight.clone(), torch.empty_like(weight)
    for k in range(weight.shape[1]):
        found[:, k] = to_limit(left[:, k] / step, WEIGHT_LIMIT) * step
        error = (left[:, k] - found[:, k]) / factor[k, k]
        left[:, k:] -= error[:, None] * factor[k, k:]
    return found
