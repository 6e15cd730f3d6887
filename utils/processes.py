"""Several processes that torchrun has started for one job: who takes which file, and how results
come together.

The processes share torch's key-value store, which torchrun starts, and nothing else.
"""

import json
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store


def processes() -> tuple[int, int]:
    """The rank of this process and the number of processes, from torchrun; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@cache
def store() -> "Store":
    """The store of this run."""
    from torch.distributed import PrefixStore, rendezvous

    return PrefixStore("xfr", next(iter(rendezvous("env://")))[0])


def draw(items: Sequence) -> Iterator:
    """The items; under torchrun, each of them in one of the processes. A shared counter tells the
    next item, so that no process is idle while another has many left."""
    if processes()[1] == 1:
        yield from items
        return
    while (index := store().add("next", 1) - 1) < len(items):
        yield items[index]


def gather(name: str, value: object) -> list:
    """The values of all processes, passed on as JSON, in rank 0, which waits; [] in the others."""
    rank, world = processes()
    if world == 1:
        return [value]
    store().set(f"{name}{rank}", json.dumps(value))
    if rank:
        return []
    names = [f"{name}{other}" for other in range(world)]
    store().wait(names, timedelta(days=365))  # a process may have much left to do
    return [json.loads(store().get(name)) for name in names]
