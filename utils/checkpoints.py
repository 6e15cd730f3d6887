"""Checkpoints: saving and loading them, and the fingerprint that names their weights.

A checkpoint is a dictionary of: ``format`` (1), ``arch``, ``config`` (the codec's
hyper-parameters), ``weights`` (float16 or float32) and ``history``. A training state has also
``epoch``, ``optimizer`` and ``run`` (the flags that a resumed run must share).
"""

import hashlib
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from utils.files import atomic_write

FORMAT = 1
KEYS = {"format": int, "arch": str, "config": dict, "weights": dict, "history": dict}


def save_checkpoint(path: Path, checkpoint: dict) -> None:
    with atomic_write(path) as stream:
        torch.save({"format": FORMAT, **checkpoint}, stream)


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint, on the CPU. No code in it is run.

    Raises FileNotFoundError, or ValueError saying what the file is instead.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, ValueError,
            KeyError, AttributeError, TypeError, IndexError, OSError) as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged ({first_line(error)})")
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is not a checkpoint of this project")
    for key, kind in KEYS.items():
        if not isinstance(checkpoint.get(key), kind):
            raise ValueError(f"{path} is not a checkpoint of this project: no '{key}' in it")
    if checkpoint["format"] != FORMAT:
        raise ValueError(
            f"{path} is a checkpoint of format {checkpoint['format']}, this program reads {FORMAT}"
        )
    for name, weight in checkpoint["weights"].items():
        if not isinstance(weight, Tensor):
            raise ValueError(f"{path}: weight '{name}' is not a tensor")
        if weight.is_floating_point() and not weight.isfinite().all():
            raise ValueError(f"{path}: weight '{name}' has values that are not finite")
    return checkpoint


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def fingerprint(checkpoint: dict) -> int:
    """64 bits that name the architecture, its configuration and every weight."""
    digest = hashlib.sha256(repr((checkpoint["arch"], sorted(checkpoint["config"].items()))).encode())
    for name, weight in sorted(checkpoint["weights"].items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.contiguous().view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest()[:8], "big")
