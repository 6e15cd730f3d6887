"""The optimiser that all training uses."""

import torch
from pytorch_optimizer import SOAP
from torch import Tensor


class FastSOAP(SOAP):
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024,
    https://arxiv.org/abs/2409.11321), with its large matrix products in bfloat16.

    Statistics, moments and eigenbases stay float32; only what enters a product is rounded.
    Dimensions of one are left out: they have no basis to rotate into.
    """

    def init_pre_conditioner(self, grad: Tensor, state: dict, *args, **kwargs) -> None:
        super().init_pre_conditioner(grad, state, *args, **kwargs)
        state["GG"] = [statistic if len(statistic) > 1 else [] for statistic in state["GG"]]

    def project(self, grad: Tensor, state: dict, *_, project_type: str = "forward", **__) -> Tensor:
        """Into the eigenbasis, or back, one dimension of ``grad`` after the other."""
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
