"""Devices that the networks run on, by name."""

import torch


def usable_device(name: str) -> torch.device:
    """The device of that name, such as cpu, cuda:1 or mps. ValueError if there is none, or if it is
    not usable here."""
    try:
        device = torch.device(name)
    except RuntimeError:  # torch's own message lists twenty backends
        raise ValueError(f"no such device: {name}; use cpu, cuda, cuda:1 or mps") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device '{name}' is not usable here ({reason})") from None
    return device
