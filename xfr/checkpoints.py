"""The checkpoints that come with the program, and their names: main, hyperprior and visual."""

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / "out"


class Shipped(NamedTuple):
    """A checkpoint in FOLDER, whose name is that of its file."""

    arch: str
    fingerprint: int


SHIPPED = {
    "main": Shipped("binary", 0x99C643C5FC9ECB31),
    "hyperprior": Shipped("hyperprior", 0xE7EFAD3BAF50BDCB),
    "visual": Shipped("hyperprior", 0xC233B4BD1C4EEECB),
}


def shipped_name(fingerprint: int) -> str | None:
    """The name of the shipped checkpoint with this fingerprint; None if none has it."""
    return next((n for n, shipped in SHIPPED.items() if shipped.fingerprint == fingerprint), None)


def describe(fingerprint: int) -> str:
    """A checkpoint for messages: by its name, if it has one, and its fingerprint.

    >>> describe(0xC233B4BD1C4EEECB), describe(0x1234)
    ('visual (c233b4bd1c4eeecb)', '0000000000001234')
    """
    name, number = shipped_name(fingerprint), f"{fingerprint:016x}"
    return f"{name} ({number})" if name else number


def checkpoint_path(checkpoint: str | Path) -> Path:
    """The file of a checkpoint that is named by its path or, if it is shipped, by its name."""
    return FOLDER / f"{checkpoint}.tar" if checkpoint in SHIPPED else Path(checkpoint)
