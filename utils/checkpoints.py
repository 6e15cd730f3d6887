"""Checkpoints: saving and loading them, and the fingerprint that names their weights.

A checkpoint is a dictionary of: ``format`` (1), ``arch``, ``config`` (the codec's
hyper-parameters), ``weights`` (float16 or float32) and ``history``. A training state has also
``epoch``, ``optimizer`` and ``run`` (the flags that a resumed run must share).
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from utils.files import atomic_write

FORMAT = 1
DTYPES = (torch.float16, torch.float32, torch.int32)
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
    except Exception as error:  # torch raises many kinds on a file that is not one
        raise ValueError(
            f"{path} is not a checkpoint, or is damaged ({first_line(error)})"
        ) from None
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
        if not isinstance(weight, Tensor) or weight.dtype not in DTYPES:
            raise ValueError(f"{path}: weight {name!r:.80} is not a tensor of {DTYPES}")
        if weight.is_floating_point() and not weight.isfinite().all():
            raise ValueError(f"{path}: weight {name!r:.80} has values that are not finite")
    return checkpoint


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def fingerprint(checkpoint: dict) -> int:
    """64 bits that name the architecture, its configuration and every weight."""
    named = checkpoint["arch"], sorted(checkpoint["config"].items())
    digest = hashlib.sha256(repr(named).encode())
    for name, weight in sorted(checkpoint["weights"].items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.numpy().tobytes())  # in the order of its indices, however it lies
    return int.from_bytes(digest.digest()[:8], "big")


class Shelf:
    """Finds the codec that made a file: ``model``'s, or that of another .tar beside it.

    ``build`` makes a codec of a checkpoint; each is built once, when it is first asked for.
    """

    def __init__(self, model: Path, build: Callable):
        self.model, self.build = model, build
        checkpoint = load_checkpoint(model)
        self.own = fingerprint(checkpoint)
        self.codecs = {self.own: build(checkpoint)}
        self.unseen = sorted(set(model.parent.glob("*.tar")) - {model})

    def codec(self, wanted: int):
        """The codec of fingerprint ``wanted``; ValueError if there is none."""
        while wanted not in self.codecs and self.unseen:
            try:
                checkpoint = load_checkpoint(self.unseen.pop(0))
            except (OSError, ValueError):
                continue  # some other .tar
            name = fingerprint(checkpoint)
            if name == wanted:
                self.codecs[name] = self.build(checkpoint)
        if wanted not in self.codecs:
            raise ValueError(
                f"made by checkpoint {wanted:016x}, but {self.model} is {self.own:016x} and no "
                "other .tar beside it fits"
            )
        return self.codecs[wanted]
