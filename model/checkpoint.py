"""Checkpoints: saving and loading them, and the fingerprint that identifies their weights.

A checkpoint is a dictionary of ``format`` (1), ``arch``, ``config`` (the codec's
hyper-parameters), ``distortion`` (the loss it was trained for; mse if it is missing), ``weights``
(float16 or float32, int32 for tables, int8 and int32 for layers of integers), ``history``, and the
``command`` and ``version`` of the program that made it. A training state (utils/training.py) also
has what a run is resumed from. The ``fingerprint`` of the weights, where it is stored, must be
theirs; older checkpoints do not store it.
"""

import hashlib
import io
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from model.archive import read_archive

CHECKPOINT_FORMAT = 1
WEIGHT_TYPES = (torch.float16, torch.float32, torch.int32, torch.int8)
REQUIRED_KEYS = {"format": int, "arch": str, "config": dict, "weights": dict, "history": dict}
MAX_WEIGHT = 4096.0  # magnitude; those of trained codecs stay below 20


def save_checkpoint(stream: BinaryIO, checkpoint: dict) -> None:
    """Write ``checkpoint``, without its ``format`` and ``fingerprint``, to a stream. OSError if the
    system refuses."""
    contents = io.BytesIO()  # torch would replace the OSError of a full disk by one of its own
    added = {"format": CHECKPOINT_FORMAT, "fingerprint": fingerprint(checkpoint)}
    torch.save(added | checkpoint, contents)
    stream.write(contents.getbuffer())


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint, to the CPU, without running any code that is in it. Its ``fingerprint`` is
    added where it is not stored. Raises FileNotFoundError, or ValueError saying what is wrong with
    the file."""
    if not path.is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    try:
        checkpoint: Any = read_archive(path)
    except Exception as error:  # a damaged file makes nearly any kind of them
        raise ValueError(
            f"{path} is not a checkpoint, or is damaged ({first_line(error)})"
        ) from None
    check_contents(path, checkpoint)
    for name, weight in checkpoint["weights"].items():
        check_weight(path, name, weight)
    # Hostile tensors may claim more elements than the file has bytes.
    if sum(weight.nbytes for weight in checkpoint["weights"].values()) > path.stat().st_size:
        raise ValueError(f"{path}: its weights are not stored in full")
    found = fingerprint(checkpoint)
    if checkpoint.setdefault("fingerprint", found) != found:
        raise ValueError(f"{path} is damaged: its fingerprint is not that of its weights")
    return checkpoint


def check_contents(path: Path, checkpoint: object) -> None:
    """ValueError unless ``checkpoint`` has the keys of one, and a configuration of numbers."""
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is not a checkpoint of this project")
    for key, kind in REQUIRED_KEYS.items():
        if type(checkpoint.get(key)) is not kind:
            raise ValueError(f"{path} is not a checkpoint of this project: its '{key}' is missing")
    if type(checkpoint.get("distortion", "")) is not str:
        raise ValueError(f"{path} is not a checkpoint of this project: its 'distortion' is no text")
    if checkpoint["format"] != CHECKPOINT_FORMAT:
        found = f"{path} is a checkpoint of format {checkpoint['format']}"
        raise ValueError(f"{found}; this program reads {CHECKPOINT_FORMAT}")
    for name, value in checkpoint["config"].items():
        if not is_plain(value):
            raise ValueError(f"{path}: the configuration's {name!r:.40} is not a plain number")


def check_weight(path: Path, name: str, weight: object) -> None:
    """ValueError unless ``weight`` is a tensor of finite numbers that a trained codec may have."""
    if not isinstance(weight, Tensor) or weight.dtype not in WEIGHT_TYPES:
        raise ValueError(f"{path}: weight {name!r:.80} is not a tensor of {WEIGHT_TYPES}")
    if weight.nbytes > path.stat().st_size:
        raise ValueError(f"{path}: weight {name!r:.80} is not stored in full")
    # A comparison with NaN is false.
    if weight.is_floating_point() and not (weight.float().abs() <= MAX_WEIGHT).all():
        raise ValueError(f"{path}: weight {name!r:.80} is not finite, or beyond {MAX_WEIGHT:g}")


def check_weights(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """ValueError unless ``weights`` have the names, shapes and kinds of numbers of a network's
    ``expected`` ones."""
    if set(weights) != set(expected):
        odd = min(set(weights) ^ set(expected), key=repr)
        raise ValueError(f"the checkpoint's weights do not fit: {odd!r:.80}")
    for name, weight in expected.items():
        found = weights[name]
        # Floating-point weights may be stored in half precision.
        kinds = [w.is_floating_point() or w.dtype for w in (found, weight)]
        if found.shape != weight.shape or kinds[0] != kinds[1] or not found.is_cpu:
            raise ValueError(
                f"the checkpoint's weights do not fit: {name} is {found.dtype} "
                f"{list(found.shape)}, not {weight.dtype} {list(weight.shape)}"
            )


def is_plain(value: object) -> bool:
    """True for a number or a short tuple of numbers."""
    values = value if type(value) is tuple and len(value) <= 16 else (value,)
    return all(type(v) in (bool, int, float) and abs(v) < 2**63 for v in values)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none; printable and short."""
    lines = str(error).strip().splitlines()
    line = lines[0][:200] if lines else type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in line)


def fingerprint(checkpoint: dict) -> int:
    """A 64-bit hash of the architecture, its configuration and all weights."""
    named = checkpoint["arch"], sorted(checkpoint["config"].items())
    digest = hashlib.sha256(repr(named).encode())
    for name, weight in sorted(checkpoint["weights"].items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.numpy().tobytes())  # in the order of indices, whatever the strides
    return int.from_bytes(digest.digest()[:8], "big")
