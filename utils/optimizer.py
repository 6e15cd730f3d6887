"""The optimiser of all training runs: SOAP, on several threads."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from pytorch_optimizer import SOAP
from torch import Tensor, nn


class FastSOAP(SOAP):
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024,
    https://arxiv.org/abs/2409.11321), with its large matrix products in bfloat16.

    Statistics, moments and eigenbases stay float32; only the operands of products are rounded.
    Dimensions of size one are skipped: there is nothing to rotate.
    """

    def init_pre_conditioner(self, grad: Tensor, state: dict, *args, **kwargs) -> None:
        super().init_pre_conditioner(grad, state, *args, **kwargs)
        state["GG"] = [statistic if len(statistic) > 1 else [] for statistic in state["GG"]]

    def project(self, grad: Tensor, state: dict, *_, project_type: str = "forward", **__) -> Tensor:
        """Rotate ``grad`` into the eigenbasis, or back, one dimension after the other."""
        side = 0 if project_type == "forward" else 1
        x = grad
        for basis in state["Q"]:
            if len(basis):
                x = torch.tensordot(x.bfloat16(), basis.bfloat16(), dims=[[0], [side]])
            else:
                x = x.movedim(0, -1)
        return x.to(grad.dtype)

    def update_pre_conditioner(self, grad: Tensor, state: dict, step: int, *_, **__) -> None:
        for dim, statistic in enumerate(state["GG"]):
            if len(statistic):
                rows = grad.movedim(dim, 0).flatten(1).bfloat16()
                statistic.lerp_((rows @ rows.T).float(), weight=1 - state["shampoo_beta"])
        if state["Q"] is None:
            state["Q"] = self.get_orthogonal_matrix(state["GG"])
        elif step % state["precondition_frequency"] == 0:
            state["Q"] = self.get_orthogonal_matrix_qr(state)


class ParallelSOAP:
    """FastSOAP on several threads: the weights are divided among COUNT optimisers with the same
    ``settings``, since most matrices are too small to divide one product among threads.

    It has those methods of a ``torch.optim.Optimizer`` that the training loop needs. On a GPU,
    which is parallel in itself, there is one thread.
    """

    COUNT = 8

    def __init__(self, weights: Iterable[nn.Parameter], **settings):
        ordered = sorted(weights, key=Tensor.numel, reverse=True)
        shares = (ordered[first :: self.COUNT] for first in range(self.COUNT))
        self.optimizers = [FastSOAP(share, **settings) for share in shares if share]
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
