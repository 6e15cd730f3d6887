"""Files of ``torch.save``, read without running what they name.

Python's own unpickler calls whatever a pickle names, with any arguments. The reader here knows the
few instructions that ``torch.save`` writes for a checkpoint, and calls nothing.
"""

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickletools import genops
from typing import Any, NamedTuple

import torch
from torch import Tensor

# The only names that a checkpoint's pickle may refer to; nothing is imported for them.
TENSOR, DICTIONARY = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"
STORAGES = {
    "torch HalfStorage": torch.float16,
    "torch FloatStorage": torch.float32,
    "torch CharStorage": torch.int8,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
}
MAX_PICKLE = 2**20  # bytes, of which each may make an object; a training state has 2^17
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# Texts and numbers.
PLAIN_INSTRUCTIONS = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}

Storage = Callable[[torch.dtype, str], Tensor]  # the numbers [N] of a type, by their key


class Name(NamedTuple):
    """A name that a pickle refers to."""

    text: str


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
        if entries["data.pkl"].file_size > MAX_PICKLE:
            raise ValueError(f"its pickle has more than {MAX_PICKLE} bytes")
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

    return Unpickler(storage).read(contents["data.pkl"])


class Unpickler:
    """Reads the dictionaries, lists, tuples, texts, numbers and tensors of a pickle."""

    def __init__(self, storage: Storage):
        self.storage = storage
        self.stack: list[Any] = []
        self.marks: list[int] = []  # where the items of a collection begin on the stack
        self.memo: dict[int, Any] = {}

    def read(self, data: bytes) -> object:
        """The object in a pickle. ValueError for an instruction that no checkpoint needs; nearly
        any other exception for a damaged one."""
        for instruction, argument, _ in genops(data):
            if instruction.name == "STOP":
                break
            self.follow(instruction.name, argument)
        return self.stack.pop()

    def follow(self, instruction: str, argument: Any) -> None:
        """Follow one instruction."""
        stack = self.stack
        if instruction in PLAIN_INSTRUCTIONS:
            stack.append(argument)
        elif instruction in CONSTANTS:
            stack.append(CONSTANTS[instruction])
        elif instruction == "MARK":
            self.marks.append(len(stack))
        elif instruction in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif instruction in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif instruction == "GLOBAL":
            if argument not in (TENSOR, DICTIONARY, *STORAGES):
                raise ValueError(f"it asks for {argument}")
            stack.append(Name(argument))
        elif instruction == "BINPERSID":
            _, kind, key, _, count = stack.pop()
            stack.append(self.storage(STORAGES[kind.text], key)[:count])
        elif instruction == "REDUCE":
            arguments, name = stack.pop(), stack.pop()
            stack.append({} if name.text == DICTIONARY else rebuilt(*arguments))
        elif instruction == "BUILD":
            stack.pop()  # the attributes that torch gives to a dictionary of weights
        elif instruction != "PROTO":
            self.collect(instruction)

    def collect(self, instruction: str) -> None:
        """Follow an instruction that makes or fills a tuple, a list or a dictionary."""
        stack = self.stack
        if instruction == "EMPTY_LIST":
            stack.append([])
        elif instruction == "EMPTY_DICT":
            stack.append({})
        elif instruction == "TUPLE":
            stack.append(tuple(self.taken()))
        elif instruction in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self.taken(int(instruction[-1]))))
        elif instruction in ("APPEND", "APPENDS"):
            items = self.taken(1 if instruction == "APPEND" else None)
            stack[-1].extend(items)
        elif instruction in ("SETITEM", "SETITEMS"):
            items = self.taken(2 if instruction == "SETITEM" else None)
            if not all(type(key) is str for key in items[::2]):
                raise ValueError("a key of it is not text")
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        else:
            raise ValueError(f"it has the instruction {instruction}")

    def taken(self, count: int | None = None) -> list:
        """The last ``count`` objects of the stack, or all since the last mark, taken from it."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        items = self.stack[start:]
        del self.stack[start:]
        return items


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
