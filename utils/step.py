"""A training step: the loss, the move of the weights, and the way that a GPU is asked for both."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.codec import Codec
from model.precision import fast_precision
from utils.curves import psnr
from utils.optimizer import SOAP, WeightAverage

BALANCE = 0.5  # a sample's loss is divided by lmbda^BALANCE, so that no quality dominates
CLIP_NORM = 1.0
EAGER_STEPS = 4  # steps before one is recorded: by then all memory and all libraries are in use

Descend = Callable[[Tensor, Tensor], Tensor]  # x [B, 3, H, W], quality [B] to measures [3, B]


def rate_distortion(codec: Codec, model: nn.Module, x: Tensor, quality: Tensor) -> Tensor:
    """Loss, rate (bpp) and PSNR (dB) of each sample of x [B, 3, H, W] in 0 to 1: [3, B]. The loss
    is the Lagrangian of rate and distortion (model/distortion.py), over lmbda^BALANCE. ``model`` is
    the codec itself or its data-parallel wrapping."""
    try:
        x_hat, bpp = model(x, quality)
    except ValueError as error:  # a codec takes any picture: this is a defect of it
        raise RuntimeError(str(error)) from error
    loss = (bpp + codec.weighted_distortion(x_hat, x, quality)) / codec.lmbda(quality) ** BALANCE
    return torch.stack([loss, bpp.detach(), psnr(x_hat.detach(), x)])


class TrainingStep:
    """Moves those weights of ``codec`` that require gradients, and their moving average. ``model``
    is the codec itself or its data-parallel wrapping."""

    def __init__(self, codec: Codec, model: nn.Module, learning_rate: float):
        self.codec, self.model = codec, model
        self.weights = [weight for weight in codec.parameters() if weight.requires_grad]
        self.optimizer = SOAP(self.weights, learning_rate)
        self.average = WeightAverage(codec)
        recorded = codec.device.type == "cuda" and model is codec  # one process has one GPU
        self.launch = RecordedStep(self.descend, cuda_graph) if recorded else self.descend

    def __call__(self, x: Tensor, quality: Tensor, step: int, learning_rate: float) -> Tensor:
        """Step number ``step``, from 0 on, on x [B, 3, H, W] in 0 to 1 and quality [B]; returns the
        measures [3, B] of ``rate_distortion`` before it."""
        self.optimizer.prepare(learning_rate)
        measures = self.launch(x, quality)
        self.optimizer.finish()
        self.average.update(step)
        return measures

    def descend(self, x: Tensor, quality: Tensor) -> Tensor:
        """The part of a step that is launched at once on a GPU: it never waits for the device."""
        with fast_precision(x.device):
            measures = rate_distortion(self.codec, self.model, x, quality)
        self.codec.zero_grad()
        measures[0].mean().backward()
        nn.utils.clip_grad_norm_(self.weights, CLIP_NORM)
        self.optimizer.move()
        return measures.detach()


class RecordedStep:
    """A training step that is recorded once and replayed from then on, on batches of one shape.
    ``record(function)`` returns what runs the function again. If it raises a RuntimeError, a note
    says so, and steps are launched one operation after the other, as the first ones are."""

    def __init__(self, step: Descend, record: Callable[[Callable[[], None]], Callable[[], None]]):
        self.step, self.record = step, record
        self.taken = 0
        self.replay = self.once

    def once(self) -> None:
        self.measures.copy_(self.step(self.x, self.quality))

    def __call__(self, x: Tensor, quality: Tensor) -> Tensor:
        if self.taken == 0:  # the memory that a recorded step reads and writes
            self.x, self.quality = torch.empty_like(x), torch.empty_like(quality)
            self.measures = torch.empty(3, len(x), device=x.device)
        if x.shape != self.x.shape:  # entire pictures
            return self.step(x, quality)
        self.x.copy_(x)
        self.quality.copy_(quality)
        if self.taken == EAGER_STEPS:
            try:
                self.replay = self.record(self.once)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                print(f"note: a step is no CUDA graph, and slower ({reason})", file=sys.stderr)
        self.taken += 1
        self.replay()
        return self.measures.clone()


def cuda_graph(function: Callable[[], None]) -> Callable[[], None]:
    """A function that replays ``function``, recorded as a CUDA graph of the current stream, which
    must not be the default one. RuntimeError if ``function`` waits for the device, or copies from
    the host.

    Random numbers are those of the default generator, of the seed and offset at each replay.
    """
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    state = generator.clone_state()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(
            graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
        ):
            function()
    except RuntimeError:
        generator.graphsafe_set_state(state)  # a failed recording leaves it unusable
        torch.cuda.synchronize()
        raise
    return graph.replay


def train_only(codec: Codec, parts: list[str] | None) -> None:
    """Freeze all weights but those of these parts of the codec, submodules by name; none if there
    are no ``parts``. ValueError if it has no such part."""
    names = [name for name, _ in codec.named_parameters()]
    for part in parts or []:
        if not any(name == part or name.startswith(f"{part}.") for name in names):
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise ValueError(f"--only: {codec.arch} has no part {part!r:.40}; it has {known}")
    for name, weight in codec.named_parameters():
        chosen = any(name == part or name.startswith(f"{part}.") for part in parts or [name])
        weight.requires_grad_(chosen)
