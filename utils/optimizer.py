"""The optimiser of all training runs: SOAP, on several threads; and the average of the weights."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from pytorch_optimizer import SOAP
from torch import Tensor, nn

from utils.devices import mixed_precision

AVERAGING = 0.999  # a step changes the average by 1 - AVERAGING of the difference


class FastSOAP(SOAP):
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024,
    https://arxiv.org/abs/2409.11321), with the operands of its large matrix products in ``dtype``.

    Statistics, moments and eigenbases stay float32. Dimensions of size one are skipped: there is
    nothing to rotate.
    """

    def __init__(self, weights: Iterable[nn.Parameter], dtype: torch.dtype, **settings):
        super().__init__(weights, **settings)
        self.dtype = dtype

    def init_pre_conditioner(self, grad: Tensor, state: dict, *args, **kwargs) -> None:
        super().init_pre_conditioner(grad, state, *args, **kwargs)
        state["GG"] = [statistic if len(statistic) > 1 else [] for statistic in state["GG"]]

    def project(self, grad: Tensor, state: dict, *_, project_type: str = "forward", **__) -> Tensor:
        """Rotate ``grad`` into the eigenbasis, or back, one dimension after the other."""
        side = 0 if project_type == "forward" else 1
        x = grad
        for basis in state["Q"]:
            if len(basis):
                x = torch.tensordot(x.to(self.dtype), basis.to(self.dtype), dims=[[0], [side]])
            else:
                x = x.movedim(0, -1)
        return x.to(grad.dtype)

    def update_pre_conditioner(self, grad: Tensor, state: dict, step: int, *_, **__) -> None:
        for dim, statistic in enumerate(state["GG"]):
            if len(statistic):
                rows = grad.movedim(dim, 0).flatten(1).to(self.dtype)
                statistic.lerp_((rows @ rows.T).float(), weight=1 - state["shampoo_beta"])
        if state["Q"] is None:
            state["Q"] = self.get_orthogonal_matrix(state["GG"])
        elif step % state["precondition_frequency"] == 0:
            state["Q"] = self.get_orthogonal_matrix_qr(state)


class ParallelSOAP:
    """FastSOAP on several threads: the weights are divided among COUNT optimisers with the same
    ``settings``, since most matrices are too small to divide one product among threads. Products
    are in bfloat16 where that is faster: where it is emulated, a step takes ten times as long.

    It has those methods of a ``torch.optim.Optimizer`` that the training loop needs. On a GPU,
    which is parallel in itself, there is one thread.
    """

    COUNT = 8

    def __init__(self, weights: Iterable[nn.Parameter], **settings):
        ordered = sorted(weights, key=Tensor.numel, reverse=True)
        shares = (ordered[first :: self.COUNT] for first in range(self.COUNT))
        dtype = torch.bfloat16 if mixed_precision(ordered[0].device) else torch.float32
        self.optimizers = [FastSOAP(share, dtype, **settings) for share in shares if share]
        threads = torch.get_num_threads() if ordered[0].is_cpu else 1
        self.threads = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    @property
    def param_groups(self) -> list[dict]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        list(self.threads.map(FastSOAP.step, self.optimizers))

    def state_dict(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


class WeightAverage:
    """The exponential moving average of the weights of ``codec``: while the learning rate is high,
    it is a better codec than the latest weights are (Polyak, Juditsky 1992, "Acceleration of
    stochastic approximation by averaging")."""

    def __init__(self, codec: nn.Module):
        self.weights = dict(codec.named_parameters())
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def update(self, step: int) -> None:
        """Take in the weights after step number ``step``, from 0 on; early averages are shorter."""
        share = max(1 - AVERAGING, 9 / (10 + step))
        average, weights = list(self.average.values()), list(self.weights.values())
        torch._foreach_lerp_(average, [weight.detach() for weight in weights], share)

    def load(self, average: dict[str, Tensor]) -> None:
        """Continue from an earlier average. LookupError or RuntimeError if it does not fit."""
        for name, weight in self.average.items():
            weight.copy_(average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context, the codec has the averaged weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        for name, weight in self.weights.items():
            weight.data, self.average[name] = self.average[name], weight.data
