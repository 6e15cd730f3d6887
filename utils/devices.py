"""Devices that the networks run on: threads, precision, data-parallel training."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.jobs import IN_FLIGHT
from utils.processes import processes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def glibc(name: str) -> Callable[..., int] | None:
    """A function of the C library, where that is glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def keep_freed_memory() -> None:
    """Let glibc keep up to 256 MiB of freed memory for the next picture: returning it to the system
    and faulting it in again would take a fifth of the coding time. Once, for all threads, instead
    of once for each of them, which was half a gigabyte of a large picture."""
    mallopt = glibc("mallopt")
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, 2**28)
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Give what glibc has kept of freed memory back to the system. After a large picture that is
    several hundred MiB, in pieces, and writing it takes as much again."""
    trim = glibc("malloc_trim")
    if trim:
        trim(0)


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA if available, else MPS, else the CPU. ValueError if
    it cannot be used."""
    keep_freed_memory()
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if name == "cuda":  # under torchrun, each process of a machine has its own GPU
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
    except RuntimeError:  # torch's own message lists twenty backends
        raise ValueError(f"no such device: {name}; use auto, cpu, cuda, cuda:1 or mps") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device '{name}' is not usable here ({reason})") from None
    return device


def compute_pool(device: torch.device, pictures: int) -> ThreadPoolExecutor:
    """The threads that encode or decode so many ``pictures``, on the CPU several at a time.

    Two pictures with one thread each take less time than one after the other with two threads,
    since not all of the work can be shared among threads.
    """
    if device.type != "cpu":
        return ThreadPoolExecutor(1)
    threads = torch.get_num_threads()
    workers = max(1, min(threads, pictures, IN_FLIGHT))
    return ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(threads // workers,)
    )


def mixed_precision(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on ``device``."""
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def fast_precision(device: torch.device) -> torch.autocast:
    """A context in which the networks run in bfloat16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision(device))


@contextmanager
def data_parallel(codec: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The codec itself; under torchrun, a wrapping that averages the gradients of all processes."""
    if processes()[1] == 1:
        yield codec
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield DistributedDataParallel(codec, [device.index] if device.type == "cuda" else None)
    finally:
        dist.destroy_process_group()
