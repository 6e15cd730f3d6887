"""Devices that the networks run on: choosing one, data-parallel training."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.processes import processes
from xfr.devices import usable_device
from xfr.memory import keep_freed_memory


def pick_device(name: str) -> torch.device:
    """The device of that name. auto: CUDA, or else MPS, or else the CPU. ValueError if unusable."""
    keep_freed_memory()
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if name == "cuda":  # under torchrun, each process of a machine has its own GPU
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return usable_device(name)


@contextmanager
def data_parallel(network: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The network itself; under torchrun, a wrapping that averages the gradients of all processes.
    On a GPU, everything runs in a stream of its own from now on, which a CUDA graph can record."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # all batches have one shape
        torch.cuda.synchronize()  # with what the default stream has begun
        torch.cuda.set_stream(torch.cuda.Stream())
    if processes()[1] == 1:
        yield network
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield DistributedDataParallel(network, [device.index] if device.type == "cuda" else None)
    finally:
        dist.destroy_process_group()
