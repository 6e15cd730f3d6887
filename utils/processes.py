"""Several processes on one job, started by torchrun: who takes which file, and one summary.

torch's own store, which torchrun brings up, is all that they share.
"""

import json
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache


def processes() -> tuple[int, int]:
    """This process's rank and their number, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@cache
def store():
    """The store of this run."""
    from torch.distributed import PrefixStore, rendezvous

    return PrefixStore("xfr", next(iter(rendezvous("env://")))[0])


def draw(items: Sequence) -> Iterator:
    """All items; under torchrun, each of them in one process only. Processes take the next one
    from a shared counter, so none idles while another has a long tail."""
    if processes()[1] == 1:
        yield from items
        return
    while (index := store().add("next", 1) - 1) < len(items):
        yield items[index]


def gather(name: str, value) -> list:
    """What all processes pass (anything that JSON holds), in rank 0, once all have; nothing in
    the others."""
    rank, world = processes()
    if world == 1:
        return [value]
    store().set(f"{name}{rank}", json.dumps(value))
    if rank:
        return []
    names = [f"{name}{other}" for other in range(world)]
    store().wait(names, timedelta(days=365))  # a process may have much left to do
    return [json.loads(store().get(name)) for name in names]
