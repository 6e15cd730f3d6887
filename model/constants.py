"""Constants as tensors, on any device."""

from functools import cache

import torch
from torch import Tensor


@cache
@torch.inference_mode(False)  # constants made in inference mode could not be used in training
def constant(values: tuple, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of ``values`` on ``device``. It is copied there once: later uses do not wait
    for the device, and a CUDA graph can hold them."""
    return torch.tensor(values, dtype=dtype, device=device)
