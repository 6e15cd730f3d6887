"""One training step, and how it is launched."""

import pytest
import torch
from helpers import ARCHS, TINY, as_tensor, colour
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import codec_class
from model.constants import constant
from model.distortion import RECORDS
from model.ssimulacra2 import window_matrix
from utils.optimizer import SOAP
from utils.step import BALANCE, EAGER_STEPS, RecordedStep, TrainingStep, rate_distortion, train_only

QUALITY = torch.tensor([20.0, 80.0])


@pytest.fixture
def x() -> torch.Tensor:
    return torch.stack([as_tensor(colour(64, 64, seed)) for seed in range(2)]) / 255


def make_step(arch: str = "hyperprior", parts: list[str] | None = None) -> TrainingStep:
    torch.manual_seed(0)
    codec = codec_class(arch)(TINY[arch]).train()
    train_only(codec, parts)
    return TrainingStep(codec, codec, 1e-3)


def take(step: TrainingStep, x: torch.Tensor, count: int) -> list[torch.Tensor]:
    """The measures of some steps, each with noise of its own."""
    found = []
    for index in range(count):
        torch.manual_seed(index)
        found.append(step(x * (1 - index / 100), QUALITY, index, 1e-3 * (1 + index)))
    return found


@pytest.mark.parametrize("arch", ARCHS)
def test_the_loss_is_the_lagrangian_of_rate_and_squared_error(arch, x):
    codec = codec_class(arch)(TINY[arch]).eval()
    loss, bpp, psnr = rate_distortion(codec, codec, x, QUALITY)
    mse = 255**2 / 10 ** (psnr / 10)
    lmbda = codec.lmbda(QUALITY)
    torch.testing.assert_close(loss, (bpp + lmbda * mse) / lmbda**BALANCE)


def test_a_recorded_step_does_what_one_that_is_launched_does(x):
    """A replay, which on a GPU runs the same kernels again, here runs the same function."""
    plain, recorded = make_step(), make_step()
    records = []

    def record(function):
        records.append(recorded.optimizer.steps)
        return function

    recorded.launch = RecordedStep(recorded.descend, record)
    count = EAGER_STEPS + 12  # new eigenbases are among them
    first, second = take(plain, x, count), take(recorded, x, count)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert plain.codec.state_dict().keys() == recorded.codec.state_dict().keys()
    for name, weight in plain.codec.state_dict().items():
        assert weight.equal(recorded.codec.state_dict()[name]), name
    assert records == [EAGER_STEPS]


def test_where_a_step_cannot_be_recorded_it_is_launched_and_this_is_said_once(x, capsys):
    step = make_step()

    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    step.launch = RecordedStep(step.descend, refuse)
    losses = [measures[0].sum() for measures in take(step, x, EAGER_STEPS + 3)]
    assert torch.stack(losses).isfinite().all() and step.optimizer.steps == len(losses)
    note = "note: a step is no CUDA graph, and slower (operation not permitted when stream is"
    assert capsys.readouterr().err.count(note) == 1


def test_a_batch_of_another_shape_is_launched_beside_the_recorded_ones(x):
    step = make_step()
    step.launch = RecordedStep(step.descend, lambda function: function)
    take(step, x, 2)
    measures = step(x[:1, :, :, :64].repeat(1, 1, 2, 1), QUALITY[:1], 2, 1e-3)
    assert measures.shape == (3, 1) and measures.isfinite().all()


def test_only_the_parts_that_are_named_are_trained(x):
    step = make_step(parts=["synthesis", "context.passes.0"])
    before = {name: weight.clone() for name, weight in step.codec.named_parameters()}
    take(step, x, 3)
    moved = {
        name for name, weight in step.codec.named_parameters() if not weight.equal(before[name])
    }
    assert moved and all(n.startswith(("synthesis.", "context.passes.0.")) for n in moved)
    assert {n.split(".")[0] for n in moved} == {"synthesis", "context"}
    held = sum(len(stack.weights) for stack in step.optimizer.stacks)
    assert held == len(step.weights) < len(before)


def test_a_part_that_is_none_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match="no part 'synth'; it has analysis, .*synthesis"):
        make_step(parts=["synth"])


class HostWatch(TorchDispatchMode):
    """Collects what would wait for a GPU: operations that read its values, and copies to it."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        on_host = [tensor for tensor in tensors if tensor.device.type == "cpu"]
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if len(on_host) < len(tensors) and any(copies or tensor.ndim for tensor in on_host):
            self.found.append(str(func))
        return result


def pretends_gpus() -> bool:
    """Whether torch computes with tensors of a pretended GPU. Older ones ask its driver."""
    try:
        with FakeTensorMode():
            return torch.empty(2, device="cuda")[:1].is_cuda
    except RuntimeError:
        return False


@pytest.mark.skipif(not pretends_gpus(), reason="this torch pretends no GPU")
@pytest.mark.parametrize("distortion", RECORDS)
def test_a_step_on_a_gpu_never_waits_for_it(distortion, monkeypatch):
    """The GPU is pretended: its tensors have shapes, and no values that could be read."""
    for name in ("step", "optimizer"):
        monkeypatch.setattr(f"utils.{name}.mixed_precision", lambda _: True, raising=False)
    codec = codec_class("hyperprior")(TINY["hyperprior"]).train()
    codec.distortion = distortion
    with FakeTensorMode():
        for module in codec.modules():
            for weights in (module._parameters, module._buffers):
                for name, weight in weights.items():
                    moved = torch.empty(weight.shape, dtype=weight.dtype, device="cuda")
                    weights[name] = nn.Parameter(moved) if weights is module._parameters else moved
        x, quality = torch.rand(2, 3, 64, 64, device="cuda"), torch.rand(2, device="cuda")
        optimizer = SOAP(codec.parameters(), 1e-3)
        optimizer.steps = 1
        rate_distortion(codec, codec, x, quality)  # constants are copied once
        with HostWatch() as watch:
            measures = rate_distortion(codec, codec, x, quality)
            optimizer.move()
    for cached in (constant, window_matrix):  # which hold tensors of the pretended GPU
        cached.cache_clear()
    assert measures.shape == (3, 2) and measures.is_cuda
    assert not watch.found


def test_large_gradients_are_shortened_to_a_norm_of_one():
    step = make_step("binary")
    noise = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    step(noise, torch.tensor([90.0, 100.0]), 0, 1e-3)
    norm = torch.stack([weight.grad.norm() for weight in step.weights]).norm()
    assert norm.item() == pytest.approx(1, rel=1e-3)
