"""The precision that networks run in."""

import torch


def mixed_precision(device: torch.device) -> bool:
    """True if bfloat16 is faster than float32 on ``device``."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def fast_precision(device: torch.device) -> torch.autocast:
    """A context in which the networks run in bfloat16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision(device))
