"""Checkpoints: saving and loading them, and the fingerprint that identifies their weights.

A checkpoint is a dictionary of ``format`` (1), ``arch``, ``config`` (the codec's
hyper-parameters), ``distortion`` (what it was trained for; mse if it says nothing), ``weights``
(float16 or float32, and int32 for tables) and ``history``. A training state also has ``epoch``,
``progress`` within the next, ``best`` (the lowest loss so far), ``average`` (of the weights),
``optimizer`` and ``run`` (the settings that a resumed run must share). The ``fingerprint`` of the
weights, where it is stored, must be theirs; older checkpoints do not store it.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickletools import genops
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

FORMAT = 1
DTYPES = (torch.float16, torch.float32, torch.int32)
KEYS = {"format": int, "arch": str, "config": dict, "weights": dict, "history": dict}
MAX_WEIGHT = 4096.0  # magnitude; those of trained codecs stay below 20
# The only names that a checkpoint's pickle may refer to; nothing is imported for them.
TENSOR, DICTIONARY = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"
STORAGES = {
    "torch HalfStorage": torch.float16,
    "torch FloatStorage": torch.float32,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
}


def save_checkpoint(stream: BinaryIO, checkpoint: dict) -> None:
    """Write ``checkpoint``, without its ``format`` and ``fingerprint``, to a stream. OSError if the
    system refuses."""
    contents = io.BytesIO()  # torch would replace the OSError of a full disk by one of its own
    torch.save({"format": FORMAT, "fingerprint": fingerprint(checkpoint), **checkpoint}, contents)
    stream.write(contents.getbuffer())


def load_checkpoint(path: Path) -> dict:
    """Read a checkpoint, to the CPU, without running any code that is in it.

    Raises FileNotFoundError, or ValueError saying what is wrong with the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    try:
        checkpoint = read_archive(path)
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
    for key, kind in KEYS.items():
        if type(checkpoint.get(key)) is not kind:
            raise ValueError(f"{path} is not a checkpoint of this project: its '{key}' is missing")
    if type(checkpoint.get("distortion", "")) is not str:
        raise ValueError(f"{path} is not a checkpoint of this project: its 'distortion' is no text")
    if checkpoint["format"] != FORMAT:
        raise ValueError(
            f"{path} is a checkpoint of format {checkpoint['format']}; this program reads {FORMAT}"
        )
    for name, value in checkpoint["config"].items():
        if not is_plain(value):
            raise ValueError(f"{path}: the configuration's {name!r:.40} is not a plain number")


def check_weight(path: Path, name: str, weight: object) -> None:
    """ValueError unless ``weight`` is a tensor of finite numbers that a trained codec may have."""
    if not isinstance(weight, Tensor) or weight.dtype not in DTYPES:
        raise ValueError(f"{path}: weight {name!r:.80} is not a tensor of {DTYPES}")
    if weight.nbytes > path.stat().st_size:
        raise ValueError(f"{path}: weight {name!r:.80} is not stored in full")
    # A comparison with NaN is false.
    if weight.is_floating_point() and not (weight.float().abs() <= MAX_WEIGHT).all():
        raise ValueError(f"{path}: weight {name!r:.80} is not finite, or beyond {MAX_WEIGHT:g}")


def read_archive(path: Path) -> object:
    """The object in a file of ``torch.save``: a zip archive of a pickle and the tensors' numbers.

    Every entry is checked against its CRC-32. Entries are stored without compression, and together
    take no more bytes than the file has. ValueError, or nearly any other exception, if the file is
    damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()):
            raise ValueError("two of its entries have one name")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries.values()) > path.stat().st_size:
            raise ValueError("its entries are larger than the file")
        contents = {name: archive.read(entry) for name, entry in entries.items()}
    if contents.get("byteorder", b"little") != b"little":
        raise ValueError("its numbers are not little-endian")
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str) -> Tensor:
        if key not in storages:
            numbers = bytearray(contents[f"data/{key}"])
            storages[key] = torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0)
        return storages[key].view(dtype)

    return unpickled(contents["data.pkl"], storage)


def unpickled(data: bytes, storage: Callable[[torch.dtype, str], Tensor]) -> object:
    """The dictionaries, lists, tuples, texts, numbers and tensors that a pickle holds.

    Python's own unpickler calls whatever a pickle names, with any arguments. This one knows the few
    instructions that ``torch.save`` writes for a checkpoint, and calls nothing. ValueError for any
    other instruction.
    """
    stack: list = []
    marks: list[int] = []
    memo: dict[int, object] = {}

    def since_mark() -> list:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for instruction, argument, _ in genops(data):
        match instruction.name:
            case "PROTO":
                pass
            case "STOP":
                break
            case "MARK":
                marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": []}.get(instruction.name, ()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                start = len(stack) - int(instruction.name[-1])
                stack[start:] = [tuple(stack[start:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                values = since_mark()
                stack[-1].extend(values)
            case "SETITEM" | "SETITEMS":
                items = (
                    since_mark() if instruction.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                )
                if not all(type(key) is str for key in items[::2]):
                    raise ValueError("a key of it is not text")
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                if argument not in (TENSOR, DICTIONARY, *STORAGES):
                    raise ValueError(f"it asks for {argument}")
                stack.append(Name(argument))
            case "BINPERSID":
                _, kind, key, _, count = stack.pop()
                stack.append(storage(STORAGES[kind.text], key)[:count])
            case "REDUCE":
                arguments, name = stack.pop(), stack.pop()
                stack.append({} if name.text == DICTIONARY else rebuilt(*arguments))
            case "BUILD":
                stack.pop()  # the attributes that torch gives to a dictionary of weights
            case _:
                raise ValueError(f"it has the instruction {instruction.name}")
    return stack.pop()


class Name(NamedTuple):
    """A name that a pickle refers to."""

    text: str


def rebuilt(
    storage: Tensor, offset: int, shape: tuple, stride: tuple, gradient: bool, hooks: dict
) -> Tensor:
    """A tensor of ``shape`` whose numbers are in ``storage`` [N], in this order. ValueError if some
    of them are not there; TypeError for a tensor that torch describes by more than this, such as
    one that it negates when it is read."""
    if not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
        raise ValueError("a tensor has no valid shape")
    reach = sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    if math.prod(shape) and offset + reach >= len(storage):
        raise ValueError("a tensor is not stored in full")
    return storage.as_strided(shape, stride, offset)


def is_plain(value: object) -> bool:
    """Whether ``value`` is a number or a short tuple of numbers."""
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
