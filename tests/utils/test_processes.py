"""Several processes share the work: each item is drawn once, and rank 0 gets all results."""

import pytest
import torch
from torch.distributed import HashStore

from utils import processes
from utils.processes import draw, gather
from utils.schedule import Clock


@pytest.fixture
def as_rank(monkeypatch):
    """Go on as the process of this rank, of two that share a store."""
    shared = HashStore()
    monkeypatch.setattr(processes, "store", lambda: shared)
    monkeypatch.setenv("WORLD_SIZE", "2")
    return lambda rank: monkeypatch.setenv("RANK", str(rank))


def test_a_process_alone_draws_all_items_and_gathers_its_own_value():
    assert list(draw("abc")) == ["a", "b", "c"]
    assert gather("tally", [1, "x"]) == [[1, "x"]]


def test_two_processes_draw_every_item_once_whoever_is_faster(as_rank):
    as_rank(0)
    first, second, taken = draw("abcdefg"), draw("abcdefg"), {0: [], 1: []}
    for rank in (0, 1, 1, 1, 0):
        taken[rank].append(next((first, second)[rank]))
    taken[0] += first
    assert taken == {0: ["a", "e", "f", "g"], 1: ["b", "c", "d"]}
    assert list(second) == []


def test_the_first_process_waits_for_the_values_of_all_in_the_order_of_ranks(as_rank):
    as_rank(1)
    assert gather("tally", {"done": 2}) == []
    as_rank(0)
    assert gather("tally", {"done": 1}) == [{"done": 1}, {"done": 2}]


def test_results_of_different_names_are_kept_apart(as_rank):
    as_rank(1)
    for name in ("tally", "scores"):
        gather(name, name)
    as_rank(0)
    assert gather("scores", "first") == ["first", "scores"]
    assert gather("tally", "first") == ["first", "tally"]


def test_all_processes_read_the_clock_of_the_first(as_rank, monkeypatch):
    sent = []

    def broadcast(tensor: torch.Tensor, source: int) -> None:
        sent.append(source)
        tensor.fill_(123.5)

    as_rank(1)
    monkeypatch.setattr("utils.schedule.dist.broadcast", broadcast)
    assert Clock(0.0, torch.device("cpu")).read() == 123.5 and sent == [0]
