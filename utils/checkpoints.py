"""Checkpoints: saving and loading them, and the fingerprint that names their weights.

A checkpoint is a dictionary of: ``format`` (1), ``arch``, ``config`` (the codec's
hyper-parameters), ``weights`` (float16 or float32) and ``history``. A training state has also
``epoch``, ``best`` (the lowest loss so far), ``optimizer`` and ``run`` (the flags that a resumed
run must share).
"""

import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from utils.files import atomic_write

FORMAT = 1
DTYPES = (torch.float16, torch.float32, torch.int32)
KEYS = {"format": int, "arch": str, "config": dict, "history": dict}


def save_checkpoint(path: Path, checkpoint: dict) -> None:
    contents = io.BytesIO()  # torch hides the OSError of a full disk behind one of its own
    torch.save({"format": FORMAT, **checkpoint}, contents)
    with atomic_write(path) as stream:
        stream.write(contents.getbuffer())


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint, on the CPU. No code in it is run.

    Raises FileNotFoundError, or ValueError saying what the file is instead.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            # torch writes without compression; a stranger's file could unpack to anything.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever it is, it is one of ours or refused
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on a file that is not one
        raise ValueError(
            f"{path} is not a checkpoint, or is damaged ({first_line(error)})"
        ) from None
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is not a checkpoint of this project")
    for key, kind in KEYS.items():
        if type(checkpoint.get(key)) is not kind:
            raise ValueError(f"{path} is not a checkpoint of this project: no '{key}' in it")
    if not isinstance(checkpoint.get("weights"), dict):
        raise ValueError(f"{path} is not a checkpoint of this project: no 'weights' in it")
    if checkpoint["format"] != FORMAT:
        raise ValueError(
            f"{path} is a checkpoint of format {checkpoint['format']}, this program reads {FORMAT}"
        )
    for name, value in checkpoint["config"].items():
        if not isinstance(name, str) or not plain(value):
            raise ValueError(f"{path}: the configuration's {name!r:.40} is not a plain number")
    checkpoint["weights"] = dict(checkpoint["weights"])  # without what torch hangs on it
    room = path.stat().st_size
    for name, weight in checkpoint["weights"].items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: a weight's name is not text")
        if not isinstance(weight, Tensor) or weight.dtype not in DTYPES:
            raise ValueError(f"{path}: weight {name!r:.80} is not a tensor of {DTYPES}")
        # A stranger's tensor may claim more elements than the file has bytes.
        room -= weight.numel() * weight.element_size()
        if weight.layout != torch.strided or not weight.is_cpu or room < 0:
            raise ValueError(f"{path}: weight {name!r:.80} is not stored whole")
        if weight.is_floating_point() and not weight.isfinite().all():
            raise ValueError(f"{path}: weight {name!r:.80} has values that are not finite")
        checkpoint["weights"][name] = weight.detach().resolve_neg()  # just its numbers
    return checkpoint


def plain(value) -> bool:
    """Whether ``value`` is a number or a short tuple of numbers."""
    values = value if type(value) is tuple and len(value) <= 16 else (value,)
    return all(type(v) in (bool, int, float) and abs(v) < 2**63 for v in values)


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    line = lines[0][:200] if lines else type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in line)


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

    ``build`` makes a codec of a checkpoint; each is built once, when it is first asked for. Threads
    may share a shelf.
    """

    def __init__(self, model: Path, build: Callable):
        self.model, self.build = model, build
        checkpoint = load_checkpoint(model)
        self.own = fingerprint(checkpoint)
        self.codecs = {self.own: build(checkpoint)}
        self.unfit: dict[int, str] = {}  # fingerprints of checkpoints that are none, and why
        self.unseen = sorted(set(model.parent.glob("*.tar")) - {model})
        self.lock = Lock()

    def codec(self, wanted: int):
        """The codec of fingerprint ``wanted``; ValueError if there is none."""
        with self.lock:
            while wanted not in self.codecs and self.unseen:
                try:
                    checkpoint = load_checkpoint(self.unseen.pop(0))
                except (OSError, ValueError):
                    continue  # some other .tar
                name = fingerprint(checkpoint)
                if name == wanted:
                    try:
                        self.codecs[name] = self.build(checkpoint)
                    except ValueError as error:
                        self.unfit[name] = str(error)
        if wanted in self.unfit:
            raise ValueError(self.unfit[wanted])
        if wanted not in self.codecs:
            raise ValueError(
                f"made by checkpoint {wanted:016x}, but {self.model} is {self.own:016x} and no "
                "other .tar beside it fits"
            )
        return self.codecs[wanted]
