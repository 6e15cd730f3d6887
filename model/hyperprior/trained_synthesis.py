"""The synthesis in integers while it is trained: the integers are made of floating-point weights.

Each step of training rounds the weights anew, with gradients that pass straight through (Bengio,
Léonard, Courville 2013, https://arxiv.org/abs/1308.3432), and computes with ``IntegerSynthesis``
itself: a codec is trained for the numbers that it will have. Jacob et al. 2018, "Quantization and
training of neural networks for efficient integer-arithmetic-only inference",
https://arxiv.org/abs/1712.05877.
"""

import math
from collections.abc import Iterable
from threading import Lock
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from model.gains import LOG_BITS
from model.hyperprior.integer_synthesis import (
    INTO_FINE,
    STAGES,
    WHITE_LEVEL,
    IntegerSynthesis,
    from_blocks,
    new_steps,
)
from model.hyperprior.transforms import (
    BLOCK_SIDE,
    SYNTHESIS_BOUND,
    HyperpriorConfig,
    blocks,
    damped_inverse,
)
from model.integer_layers import (
    WIDE_LIMIT,
    IntegerPointwise,
    IntegerResidualBlock,
    to_limit,
)
from model.integer_products import DEPTHWISE_LIMIT, EXACT_UP_TO, INPUT_LIMIT, WEIGHT_LIMIT
from model.layers import Conv1x1, QualityTable, ResidualBlock, Up
from model.quantizers import round_straight_through

Values = dict[str, Tensor]  # integers and scales, by their names in IntegerSynthesis
Ranges = dict[str, Tensor]  # magnitudes [C], by the names of steps
EIGHT_BITS = "up8", "depthwise", "gate"  # begin the names of activations that have 8 bits
CLIPPING_SHARES = 1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2  # tried: of the largest value
LEAST_CHANGE = 1.5  # factor by which a step that has been chosen changes
SHAPES_LOCK = Lock()  # functional_call changes its module for the time of the call
STREAM_ROOM = 1.25  # range of a stream, relative to the largest value in calibration


class TrainedSynthesis(nn.Module):
    """y_hat [B, K, H/16, W/16], the first K channels, to x_hat [B, 3, H, W]: weights in floating
    point, and the steps in which activations are rounded.

    steps: float32 [C] each, by the name of the activation. The largest values of the activations
    decide on them: at first, in the first batch of training, later, in a calibration.
    """

    calibrated: Tensor  # int32: 1 if steps have been chosen

    def __init__(self, config: HyperpriorConfig):
        super().__init__()
        self.config, (at16, at8) = config, config.synthesis_blocks
        self.gain = QualityTable(config.rate_points, config.latent)
        self.linear = Up(config.latent, 3, BLOCK_SIDE)
        self.latent = Conv1x1(config.latent, config.channels16)
        self.blocks16 = blocks(at16, config.channels16, SYNTHESIS_BOUND)
        self.gain16 = QualityTable(config.rate_points, config.channels16)
        self.up8 = Up(config.channels16, config.channels8)
        self.blocks8 = blocks(at8, config.channels8, SYNTHESIS_BOUND)
        self.up1 = Up(config.channels8, 3, 8)
        self.steps = new_steps(config)
        self.register_buffer("calibrated", torch.zeros(1, dtype=torch.int32))
        # Lists hide these modules from torch: their numbers are not part of the state.
        self.shapes = [IntegerSynthesis(config)]
        self.made: list[IntegerSynthesis] = []
        self.chosen = False  # ``calibrated``, without waiting for a GPU that holds it

    def train(self, mode: bool = True) -> "TrainedSynthesis":
        self.made = []  # the weights are about to change, or have just changed
        self.chosen = bool(self.calibrated)
        return super().train(mode)

    def step(self, name: str) -> Tensor:
        return cast(Tensor, getattr(self.steps, name))

    def stage(self, stage: int) -> list[ResidualBlock]:
        return cast(list[ResidualBlock], list(self.get_submodule(f"blocks{stage}").children()))

    def forward(self, y_hat: Tensor, quality: Tensor) -> Tensor:
        """y_hat [B, K, H/16, W/16] and quality [B] to x_hat [B, 3, H, W], both differentiable."""
        if self.training and not self.chosen:
            largest, errors = Ranges(), Ranges()
            self.observe(y_hat.detach(), quality, largest)
            self.compare(y_hat.detach(), quality, largest, errors)
            self.choose_steps(largest, errors)
        values = self.values()
        with SHAPES_LOCK:  # threads share a codec
            shapes = self.shapes[0].train(self.training)
            return functional_call(shapes, values, (y_hat, quality))

    def inverse(self, error: Tensor, quality: Tensor) -> Tensor:
        """See ``IntegerSynthesis.inverse``."""
        weight = self.linear.conv.weight[:, :, 0, 0] / BLOCK_SIDE
        return damped_inverse(weight, error).div_(self.gain(quality).exp())

    @torch.no_grad()
    def integers(self) -> IntegerSynthesis:
        """The transform in integers. It is made when it is first asked for, and after training.
        ValueError if a sum would not be exact."""
        if not self.made:
            made = IntegerSynthesis(self.config).to(self.step("range").device)
            made.load_state_dict(self.values())
            made.check()
            self.made = [made.eval()]
        return self.made[0]

    # Steps

    @torch.no_grad()
    def observe(self, y_hat: Tensor, quality: Tensor, largest: Ranges) -> None:
        """Note the ``largest`` values of each channel of the activations, without any rounding, of
        y_hat [B, K, h, w] and quality [B]."""
        with torch.autocast(y_hat.device.type, enabled=False):
            for name, x in self.activations(y_hat.float(), quality):
                most = x.abs().amax((0, 2, 3))
                largest[name] = torch.maximum(largest.get(name, most), most)

    @torch.no_grad()
    def compare(self, y_hat: Tensor, quality: Tensor, largest: Ranges, errors: Ranges) -> None:
        """Add to ``errors``, [N, C], the squared errors of activations that are rounded to 8 bits
        and clipped at each of the N CLIPPING_SHARES of their ``largest`` values."""
        with torch.autocast(y_hat.device.type, enabled=False):
            for name, x in self.activations(y_hat.float(), quality):
                if name.startswith(EIGHT_BITS):
                    errors[name] = errors.get(name, 0) + clipping_errors(x, largest[name])

    @torch.no_grad()
    def choose_steps(self, largest: Ranges, errors: Ranges) -> None:
        """Choose the steps of activations by their ``largest`` values: of those with ``errors``, by
        the share that has the least error. Of these, a step that is nearly as good stays, since
        training has chosen the multiples of weights for it."""
        for name, most in largest.items():
            most = with_floor(most)
            if name in errors:
                most = clipped_least(most, errors[name])
            if name == "range":
                halvings = (2 * most / (WIDE_LIMIT / 2**10)).log2().ceil().clamp(min=0)
                self.step(name).copy_(2.0**halvings)
            elif name.startswith("stream"):
                self.step(name).copy_(most * STREAM_ROOM / DEPTHWISE_LIMIT)
            else:
                step, best = self.step(name), most / INPUT_LIMIT
                fits = (step < LEAST_CHANGE * best) & (best < LEAST_CHANGE * step)
                step.copy_(torch.where(fits & (self.calibrated > 0), step, best))
        self.calibrated.fill_(1)
        self.chosen, self.made = True, []

    def activations(self, y_hat: Tensor, quality: Tensor) -> Iterable[tuple[str, Tensor]]:
        """The activations that are rounded, [B, C, h, w] each, by the names of their steps, as they
        are without rounding."""
        count = y_hat.shape[1]
        y = y_hat * self.gain(quality)[:, :count].exp()
        yield "range", F.pad(y, (0, 0, 0, 0, 0, len(self.step("range")) - count))
        x = self.latent(y)
        yield "stream16", x
        for stage in STAGES:
            if stage == 8:
                x = x * self.gain16(quality).exp()
                yield "up8", x
                x = self.up8(x)
                yield "stream8", x
            for i, block in enumerate(self.stage(stage)):
                inner = block.depthwise(x)
                yield f"depthwise{stage}_{i}", inner
                hidden = gated(block.expand(inner))
                yield f"gate{stage}_{i}", hidden
                x = x + block.project(hidden)
                yield f"stream{stage}", x

    # Integers, as floating-point tensors with gradients

    def values(self) -> Values:
        """The numbers of the transform in integers, of the current weights and steps."""
        stream16, stream8 = self.step("stream16"), self.step("stream8")
        values = self.first() | {
            "gain": log2_points(self.gain.points),
            "gain16": log2_points(self.gain16.points),
            "ranges": self.step("range"),
            "into8": stream16 / self.step("up8"),
        }
        values |= {f"steps.{name}": step for name, step in self.steps.named_buffers()}
        for stage in STAGES:
            for i, block in enumerate(self.stage(stage)):
                values |= self.block(block, stage, i)

        up8, up1 = self.up8.conv, self.up1.conv
        weight, bias = in_places(up8.weight.flatten(1)), in_places(up8.bias)
        values |= pointwise("up8", weight, bias, self.step("up8"), stream8.repeat(4))
        weight, bias = in_blocks(up1.weight.flatten(1), 8), in_blocks(up1.bias, 8)
        level = torch.full_like(bias, 1 / WHITE_LEVEL)
        return values | pointwise("up1", weight, bias, INTO_FINE * stream8, level)

    def first(self) -> Values:
        """The first layers, to the stream at 1/16 and to the linear part of the pixels."""
        stream, linear = self.step("stream16"), self.linear.conv
        pixels = in_blocks(linear.weight.flatten(1), BLOCK_SIDE) * (WHITE_LEVEL / BLOCK_SIDE)
        weight = torch.cat([self.latent.weight.flatten(1) / stream[:, None], pixels])
        weight = weight * self.step("range")
        step = row_steps(weight, WEIGHT_LIMIT + 0.3)  # fine weights reach beyond coarse ones
        weight = weight / step[:, None]
        coarse = to_limit(weight.detach(), WEIGHT_LIMIT)  # the gradient goes through fine alone
        fine = to_limit((weight - coarse) * 128, WEIGHT_LIMIT)
        grey = in_blocks(linear.bias, BLOCK_SIDE) * WHITE_LEVEL + WHITE_LEVEL / 2
        bias = torch.cat([self.latent.bias / stream, grey])
        return {"first.coarse": coarse, "first.fine": fine, "first.scale": step, "first_bias": bias}

    def block(self, block: ResidualBlock, stage: int, i: int) -> Values:
        name, stream = f"blocks{stage}.{i}", self.step(f"stream{stage}")
        inner, gate = self.step(f"depthwise{stage}_{i}"), self.step(f"gate{stage}_{i}")
        weight, bias = depthwise(block.depthwise, stream, inner)
        values = {f"{name}.weight": weight, f"{name}.bias": bias}
        # Steps of a and of b, whose product hardswish divides by 6.
        outputs = torch.cat([torch.ones_like(gate), 6 * gate])
        expand, project = block.expand, block.project
        values |= pointwise(f"{name}.expand", expand.weight.flatten(1), expand.bias, inner, outputs)
        weight = project.weight.flatten(1)
        return values | pointwise(f"{name}.project", weight, project.bias, gate, stream)


def gated(expanded: Tensor) -> Tensor:
    """The gate of a block, [B, 2 C, h, w] to [B, C, h, w], as integers compute it."""
    a, b = expanded.chunk(2, dim=1)
    return (F.hardswish(a) * b).clamp(-SYNTHESIS_BOUND, SYNTHESIS_BOUND)


def with_floor(largest: Tensor) -> Tensor:
    """The ``largest`` values [C] of channels; of a dead one, a thousandth of the largest of all."""
    return torch.maximum(largest, 1e-3 * largest.max()).clamp(min=1e-6)


def clipped_least(largest: Tensor, errors: Tensor) -> Tensor:
    """The ``largest`` values [C], each times the one of CLIPPING_SHARES with the least of its
    ``errors`` [N, C]."""
    return largest * torch.tensor(CLIPPING_SHARES, device=largest.device)[errors.argmin(0)]


def clipping_errors(x: Tensor, largest: Tensor) -> Tensor:
    """The squared errors, [N, C], of x [B, C, h, w] that is rounded to 8 bits and clipped at each
    of the N CLIPPING_SHARES of its ``largest`` values [C]."""
    steps = (largest.clamp(min=1e-6) / INPUT_LIMIT)[:, None, None]
    shares = [share * steps for share in CLIPPING_SHARES]
    losses = [to_limit(x / step, INPUT_LIMIT) * step - x for step in shares]
    return torch.stack([loss.square().sum((0, 2, 3)) for loss in losses])


def row_steps(weight: Tensor, limit: float) -> Tensor:
    """The steps [D] at which the largest weight of each row of ``weight`` [D, K] is ``limit``."""
    return weight.detach().abs().amax(1).clamp(min=1e-12) / limit


def pointwise(name: str, weight: Tensor, bias: Tensor, inputs: Tensor, outputs: Tensor) -> Values:
    """A 1x1 convolution with weights [D, K], of inputs in steps [K] to outputs in steps [D]."""
    weight = weight * inputs
    step = row_steps(weight, WEIGHT_LIMIT)
    return {
        f"{name}.weight": round_straight_through(weight / step[:, None]),
        f"{name}.bias": round_straight_through(bias / step),
        f"{name}.scale": step / outputs,
    }


def depthwise(layer: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [C, 1, 3, 3] and biases [C] of a depthwise convolution, of inputs in steps [C] to
    outputs in steps [C]: for each channel multiples of a power of two that keeps sums exact."""
    weight = layer.weight * (inputs / outputs)[:, None, None, None]
    bias = cast(Tensor, layer.bias) / outputs
    with torch.no_grad():
        most = DEPTHWISE_LIMIT * weight.double().abs().sum((1, 2, 3)) + bias.double().abs()
        room = EXACT_UP_TO - 4.5 * DEPTHWISE_LIMIT - 1  # rounding may add half a unit to each
        bits = (room / most).log2().floor().clamp(max=24)
        unit = (2.0**-bits).float()
    units = unit[:, None, None, None]
    weight = round_straight_through(weight / units) * units
    return weight, round_straight_through(bias / unit) * unit


def log2_points(points: Tensor) -> Tensor:
    """Natural logarithms [P, C] to a table for ``gains``."""
    return round_straight_through(points * (2**LOG_BITS / math.log(2)))


def in_blocks(x: Tensor, side: int) -> Tensor:
    """Outputs [3 * side^2, ...] of a pixel-shuffle in the order of ``IntegerSynthesis``, [side / 8,
    side / 8, 8, 8, 3]: the inverse of ``from_blocks``."""
    x = x.unflatten(0, (3, side // 8, 8, side // 8, 8))
    return x.movedim((1, 3, 2, 4, 0), (0, 1, 2, 3, 4)).flatten(0, 4)


def in_places(x: Tensor) -> Tensor:
    """Outputs [4 C, ...] of a pixel-shuffle by 2, in the order of ``IntegerSynthesis``: [2, 2, C]
    for each position."""
    return x.unflatten(0, (-1, 2, 2)).movedim(0, 2).flatten(0, 2)


def from_places(x: Tensor) -> Tensor:
    """The inverse of ``in_places``."""
    return x.unflatten(0, (2, 2, -1)).movedim(2, 0).flatten(0, 2)


# From integers


@torch.no_grad()
def restored(made: IntegerSynthesis, config: HyperpriorConfig) -> TrainedSynthesis:
    """The weights from which ``made`` could have been made."""
    synthesis = TrainedSynthesis(config).to(made.first_bias.device)
    synthesis.steps.load_state_dict(made.steps.state_dict())
    synthesis.calibrated.fill_(1)
    for table, logs in ((synthesis.gain, made.gain), (synthesis.gain16, made.gain16)):
        table.points.copy_(logs * (math.log(2) / 2**LOG_BITS))
    stream16, stream8 = synthesis.step("stream16"), synthesis.step("stream8")
    weight = made.first.weight * made.first.scale[:, None] / synthesis.step("range")
    linear, count = synthesis.linear.conv, len(stream16)
    set_weights(synthesis.latent, weight[:count] * stream16[:, None], made.first_bias[:count])
    synthesis.latent.bias.mul_(stream16)
    pixels = from_blocks(weight[count:], BLOCK_SIDE) * (BLOCK_SIDE / WHITE_LEVEL)
    grey = from_blocks(made.first_bias[count:], BLOCK_SIDE)
    set_weights(linear, pixels, (grey - WHITE_LEVEL / 2) / WHITE_LEVEL)
    for stage, made_blocks in zip(STAGES, (made.blocks16, made.blocks8)):
        for i, block in enumerate(made_blocks):
            restore_block(synthesis, stage, i, cast(IntegerResidualBlock, block))
    weight, bias = unscaled(made.up8, synthesis.step("up8"), stream8.repeat(4))
    set_weights(synthesis.up8.conv, from_places(weight), from_places(bias))
    level = torch.full_like(grey[: len(made.up1.bias)], 1 / WHITE_LEVEL)
    weight, bias = unscaled(made.up1, INTO_FINE * stream8, level)
    set_weights(synthesis.up1.conv, from_blocks(weight, 8), from_blocks(bias, 8))
    return synthesis


def restore_block(
    synthesis: TrainedSynthesis, stage: int, i: int, made: IntegerResidualBlock
) -> None:
    block, stream = synthesis.stage(stage)[i], synthesis.step(f"stream{stage}")
    inner, gate = synthesis.step(f"depthwise{stage}_{i}"), synthesis.step(f"gate{stage}_{i}")
    weight = made.weight * (inner / stream)[:, None, None, None]
    set_weights(block.depthwise, weight, made.bias * inner)
    outputs = torch.cat([torch.ones_like(gate), 6 * gate])
    set_weights(block.expand, *unscaled(made.expand, inner, outputs))
    set_weights(block.project, *unscaled(made.project, gate, stream))


def unscaled(made: IntegerPointwise, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [D, K] and biases [D] of a layer that ``pointwise`` has made."""
    step = made.scale * outputs
    return made.weight * step[:, None] / inputs, made.bias * step


def set_weights(layer: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight.view_as(layer.weight))
    cast(Tensor, layer.bias).copy_(bias)
