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
    "hyperprior": Shipped("hyperprior", 0x55F76E97E01D0DC3),
    "visual": Shipped("hyperprior", 0x6A760324E029D70A),
}


# The names and the commits of the checkpoints that were shipped before, by fingerprint.
EARLIER = {
    0x80BDE490FC0A9290: ("main", "dbe22cf"), 0x875927B7CE2ADA29: ("main", "435db38"),
    0x7ED3EF01436BE7FE: ("main", "a51b67f"), 0x93A7E6DF7CE6DA23: ("hyperprior", "5fddaa5"),
    0x5CD6A64BCE515DC1: ("hyperprior", "8f79b6b"), 0xC47EE6E3F4880A63: ("hyperprior", "aec9252"),
    0xA860D4C6100A539E: ("hyperprior", "b15b0a6"), 0xDF94C030C1BD31F9: ("hyperprior", "b2f314a"),
    0xCFCAF7F73CC444D5: ("hyperprior", "7c9ca49"), 0xCDFE86DD97A4C199: ("hyperprior", "6cc7152"),
    0x51893CCA3B95ED4B: ("visual", "72f439e"), 0xC3005429B4A18158: ("visual", "6cc7152"),
    0x198480B4AE219A4C: ("visual", "6b283e8"), 0xEDA45FB66BAF38A6: ("visual", "76e5419"),
    0xE7EFAD3BAF50BDCB: ("hyperprior", "dbcdfd9"), 0xC233B4BD1C4EEECB: ("visual", "595ef92"),
    0xF93AF776A742A4B0: ("hyperprior", "5904136"), 0x71482646D0FE5527: ("visual", "5904136"),
}  # fmt: skip


def shipped_name(fingerprint: int) -> str | None:
    """The name of the shipped checkpoint with this fingerprint; None if none has it."""
    return next((n for n, shipped in SHIPPED.items() if shipped.fingerprint == fingerprint), None)


def describe(fingerprint: int) -> str:
    """The name of a checkpoint for messages, its commit if another has the name now, and its
    fingerprint.

    >>> describe(0x6A760324E029D70A), describe(0x51893CCA3B95ED4B), describe(0x1234)
    ('visual (6a760324e029d70a)', 'visual of 72f439e (51893cca3b95ed4b)', '0000000000001234')
    """
    name, number = shipped_name(fingerprint), f"{fingerprint:016x}"
    if fingerprint in EARLIER:
        name = " of ".join(EARLIER[fingerprint])
    return f"{name} ({number})" if name else number


def remedy(fingerprint: int) -> str:
    """The way to get an earlier checkpoint by its fingerprint, in words; "" if it is unknown."""
    if fingerprint not in EARLIER:
        return ""
    name, commit = EARLIER[fingerprint]
    return (
        f"in a full clone, `git show {commit}:out/{name}.tar > out/older.tar` brings it back; if "
        f"this version of the program does not decode with it, that of `git checkout {commit}` does"
    )


def checkpoint_path(checkpoint: str | Path) -> Path:
    """The file of a checkpoint that is named by its path or, if it is shipped, by its name."""
    return FOLDER / f"{checkpoint}.tar" if checkpoint in SHIPPED else Path(checkpoint)
