"""Work on many files: in order or not, failures stay with their file, and memory is bounded."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from utils.jobs import IN_FLIGHT, Skip, compute_pool, run_job
from utils.tally import Tally

PATHS = [Path(f"{index}.png") for index in range(40)]


class Stages:
    """Stages that take some time, and count the files that are begun and not finished."""

    def __init__(self, slow: str):
        self.slow, self.random = slow, random.Random(slow)
        self.lock, self.open, self.most = threading.Lock(), 0, 0
        self.order: list[Path] = []

    def count(self, change: int) -> None:
        with self.lock:
            self.open += change
            self.most = max(self.most, self.open)

    def pause(self, stage: str) -> None:
        time.sleep(self.random.random() * (0.01 if stage == self.slow else 0.001))

    def load(self, path: Path) -> str:
        self.count(1)
        self.pause("load")
        return f"loaded {path}"

    def compute(self, path: Path, loaded: str) -> str:
        assert loaded == f"loaded {path}"
        self.pause("compute")
        return f"computed {path}"

    def save(self, path: Path, computed: str) -> None:
        assert computed == f"computed {path}"
        self.pause("save")
        self.order.append(path)
        self.count(-1)


def run(stages: Stages, tally: Tally, paths: list[Path] = PATHS, threads: int = 3) -> None:
    run_job(paths, tally, stages.load, stages.compute, stages.save, ThreadPoolExecutor(threads))


@pytest.mark.parametrize("slow", ["load", "compute", "save"])
def test_no_more_than_in_flight_pictures_are_in_memory_whichever_stage_is_slow(slow):
    stages, tally = Stages(slow), Tally("done")
    run(stages, tally)
    assert sorted(stages.order) == sorted(PATHS) and not tally.failed
    assert 2 < stages.most <= IN_FLIGHT


@pytest.mark.parametrize("stuck", ["load", "compute", "save"])
def test_no_more_than_in_flight_pictures_are_begun_behind_one_that_is_stuck(stuck):
    stages, tally = Stages(""), Tally("done")
    release, work = threading.Event(), getattr(stages, stuck)

    def first_waits(path: Path, *loaded: str) -> object:
        if path == PATHS[0]:
            assert release.wait(20)
        return work(path, *loaded)

    setattr(stages, stuck, first_waits)
    job = threading.Thread(target=run, args=(stages, tally))
    job.start()
    time.sleep(0.5)
    begun = stages.open
    release.set()
    job.join()
    assert begun <= IN_FLIGHT and stages.most <= IN_FLIGHT and len(stages.order) == len(PATHS)


def test_a_quick_picture_overtakes_a_slow_one():
    stages, tally, last = Stages(""), Tally("done"), threading.Event()
    compute, save = stages.compute, stages.save

    def slow_first(path: Path, loaded: str) -> str:
        if path == PATHS[0]:
            assert last.wait(20)
        return compute(path, loaded)

    def save_and_tell(path: Path, computed: str) -> None:
        save(path, computed)
        if path == PATHS[-1]:
            last.set()

    stages.compute, stages.save = slow_first, save_and_tell
    run(stages, tally)
    assert not tally.failed and stages.order[-1] == PATHS[0]


@pytest.mark.parametrize("stage", ["load", "compute", "save"])
def test_a_failure_stays_with_its_file_and_a_skip_is_none(stage, capsys):
    stages, tally = Stages(""), Tally("done")
    work = getattr(stages, stage)

    def some_fail(path: Path, *loaded: str) -> object:
        if path == PATHS[3]:
            raise ValueError("this one")
        if path == PATHS[5]:
            raise Skip
        return work(path, *loaded)

    setattr(stages, stage, some_fail)
    run(stages, tally)
    assert (tally.failed, tally.skipped) == (1, 1)
    assert sorted(stages.order) == sorted(set(PATHS) - {PATHS[3], PATHS[5]})
    assert capsys.readouterr().err.splitlines() == ["failed: 3.png: this one"]


def test_one_thread_after_the_other_keeps_the_order():
    stages = Stages("")
    run(stages, Tally("done"), threads=1)
    assert stages.order == PATHS


def test_threads_are_shared_among_the_pictures():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(8)
        for pictures, workers in ((1, 1), (3, 3), (100, IN_FLIGHT - 2)):
            with compute_pool(torch.device("cpu"), pictures) as pool:
                assert pool._max_workers == workers
                assert pool.submit(torch.get_num_threads).result() == 8 // workers
    finally:
        torch.set_num_threads(before)
