"""The optimiser of all training runs: SOAP; and the average of the weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.precision import mixed_precision

AVERAGE_DECAY = 0.999  # a step changes the average by 1 - AVERAGE_DECAY of the difference


class Stack:
    """Weights of the same shape in a tensor [N, ...], without dimensions of size one; their
    moments; and, for each dimension of up to MAX_SIDE, statistics and eigenbases [N, S, S]."""

    MAX_SIDE = 512

    def __init__(self, shape: tuple[int, ...], weights: list[nn.Parameter]):
        self.weights = weights
        self.shape = len(weights), *shape
        device = weights[0].device
        self.mean, self.square = (torch.zeros(self.shape, device=device) for _ in range(2))
        sides = [size if size <= self.MAX_SIDE else 0 for size in shape if len(shape) > 1]
        eyes = [torch.eye(size, device=device).repeat(len(weights), 1, 1) for size in sides]
        self.statistics, self.bases = [torch.zeros_like(eye) for eye in eyes], eyes
        self.dtype = torch.bfloat16 if mixed_precision(device) else torch.float32

    def gradients(self) -> Tensor:
        """The gradients of all weights, [N, ...]; zero where a weight has none."""
        found = (torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights)
        return torch.stack([gradient.reshape(self.shape[1:]) for gradient in found])

    def rotated(self, x: Tensor, back: bool = False) -> Tensor:
        """x [N, ...] in the eigenbases, or back from them, one dimension after the other."""
        for basis in self.bases:
            rest = x.shape[2:]
            x = x.flatten(2).mT
            if basis.numel():
                x = x.to(self.dtype) @ (basis.mT if back else basis).to(self.dtype)
            x = x.unflatten(1, rest)
        return x.float()

    def observe(self, gradients: Tensor, decay: float) -> None:
        for dim, statistic in enumerate(self.statistics, start=1):
            if statistic.numel():
                rows = gradients.movedim(dim, 1).flatten(2).to(self.dtype)
                statistic.lerp_((rows @ rows.mT).float(), 1 - decay)

    def begin(self) -> None:
        """Start with the eigenbases of the first statistics."""
        for statistic, basis in zip(self.statistics, self.bases):
            basis.copy_(torch.linalg.eigh(statistic.double())[1].flip(2))

    def refresh(self) -> None:
        """Improve the eigenbases by a power iteration, and sort them by their eigenvalues."""
        for dim, (statistic, basis) in enumerate(zip(self.statistics, self.bases), start=1):
            if basis.numel():
                order = refresh_basis(statistic, basis)
                view = [len(order), *[1] * (self.square.ndim - 1)]
                view[dim] = order.shape[1]
                self.square.copy_(self.square.gather(dim, order.view(view).expand(self.shape)))


def refresh_basis(statistic: Tensor, basis: Tensor) -> Tensor:
    """Bring eigenbases [N, S, S] up to date, in place; returns the order [N, S] of the columns.

    It is QR by a Cholesky decomposition, which is parallel on a GPU. A millionth of the largest
    eigenvalue is added to all: so float64 is precise enough. Where it fails nevertheless, a basis
    stays as it is.
    """
    product = statistic @ basis
    values = (basis * product).sum(1)
    order = values.argsort(1, descending=True)
    product = product + 1e-6 * values.amax(1)[:, None, None].clamp(min=1e-30) * basis
    columns = product.gather(2, order[:, None].expand_as(product)).double()
    columns = columns / torch.linalg.vector_norm(columns, dim=1, keepdim=True)
    lower, failed = torch.linalg.cholesky_ex(columns.mT @ columns)
    found = torch.linalg.solve_triangular(lower, columns.mT, upper=False).mT.float()
    fine = (failed == 0) & found.isfinite().all(2).all(1)
    basis.copy_(torch.where(fine[:, None, None], found, basis))
    return torch.where(fine[:, None], order, torch.arange(order.shape[1], device=order.device))


class SOAP:
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024,
    https://arxiv.org/abs/2409.11321).

    A step is ``prepare``, ``move`` and ``finish``; the first one only begins the statistics.
    Weights of a shape are stepped together: most matrices are too small to keep a GPU, or several
    threads, busy. Large products are in bfloat16 where that is faster.
    """

    DECAY = 0.95  # both moments and the statistics
    EPSILON = 1e-8
    FREQUENCY = 10  # steps from one refresh of the eigenbases to the next

    def __init__(self, weights: Iterable[nn.Parameter], learning_rate: float):
        shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for weight in weights:
            shapes.setdefault(tuple(s for s in weight.shape if s > 1) or (1,), []).append(weight)
        self.stacks = [Stack(shape, alike) for shape, alike in shapes.items()]
        self.learning_rate = learning_rate
        self.steps = 0
        self.rate = torch.zeros((), device=self.stacks[0].weights[0].device)

    def prepare(self, learning_rate: float) -> None:
        """Bring the learning rate to the device, with the bias corrections of both moments."""
        self.learning_rate = learning_rate
        unbiased = (1 - self.DECAY**self.steps) ** -0.5 if self.steps else 0.0
        self.rate.fill_(learning_rate * unbiased)

    @torch.no_grad()
    def move(self) -> None:
        """The part of a step that a CUDA graph can hold, from the second step on."""
        for stack in self.stacks:
            gradients = stack.gradients()
            if self.steps:
                self.move_stack(stack, gradients)
            stack.observe(gradients, self.DECAY)

    @torch.no_grad()
    def finish(self) -> None:
        """Bring the eigenbases up to date, now and then."""
        if not self.steps:
            for stack in self.stacks:
                stack.begin()
        elif self.steps % self.FREQUENCY == 0:
            for stack in self.stacks:
                stack.refresh()
        self.steps += 1

    def move_stack(self, stack: Stack, gradients: Tensor) -> None:
        stack.mean.lerp_(gradients, 1 - self.DECAY)
        stack.square.lerp_(stack.rotated(gradients).square(), 1 - self.DECAY)
        step = stack.rotated(stack.mean) / (stack.square.sqrt() + self.EPSILON)
        step = stack.rotated(step, back=True).mul_(self.rate)
        steps = [part.view_as(weight) for part, weight in zip(step, stack.weights)]
        torch._foreach_sub_(stack.weights, steps)

    def state_dict(self) -> dict:
        names = "mean", "square", "statistics", "bases"
        stacks = [{name: getattr(stack, name) for name in names} for stack in self.stacks]
        return {"steps": self.steps, "stacks": stacks}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """AttributeError, LookupError, RuntimeError, TypeError or ValueError if it does not fit."""
        self.steps = int(state["steps"])
        for stack, saved in zip(self.stacks, state["stacks"], strict=True):
            ours = [stack.mean, stack.square, *stack.statistics, *stack.bases]
            theirs = [saved["mean"], saved["square"], *saved["statistics"], *saved["bases"]]
            for tensor, value in zip(ours, theirs, strict=True):
                if tensor.shape != value.shape:
                    raise ValueError("the optimiser's state is of other weights")
                tensor.copy_(value)


class WeightAverage:
    """The exponential moving average of the weights of ``codec``: while the learning rate is high,
    it is a better codec than the latest weights are (Polyak, Juditsky 1992, "Acceleration of
    stochastic approximation by averaging")."""

    def __init__(self, codec: nn.Module):
        self.weights = dict(codec.named_parameters())
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def update(self, step: int) -> None:
        """Take in the weights after step number ``step``, from 0 on; early averages are shorter."""
        share = max(1 - AVERAGE_DECAY, 9 / (10 + step))
        average, weights = list(self.average.values()), list(self.weights.values())
        torch._foreach_lerp_(average, [weight.detach() for weight in weights], share)

    def load(self, average: dict[str, Tensor]) -> None:
        """Continue from an earlier average. LookupError or RuntimeError if it does not fit."""
        for name, weight in self.average.items():
            weight.copy_(average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the codec has the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        for name, weight in self.weights.items():
            weight.data, self.average[name] = self.average[name], weight.data
