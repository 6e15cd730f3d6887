"""Work on many files: in order or not, failures stay with their file, and memory is bounded."""

import errno
import os
import random
import re
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


@pytest.mark.parametrize(("size", "most"), [(1, IN_FLIGHT), (100, 3), (149, 2), (151, 1), (900, 1)])
def test_pictures_are_computed_together_only_within_a_number_of_bytes(monkeypatch, size, most):
    monkeypatch.setattr("utils.jobs.PIXEL_BYTES_IN_FLIGHT", 300)
    lock, at_work, seen = threading.Lock(), [], []

    def compute(path: Path, loaded: int) -> int:
        with lock:
            at_work.append(path)
            seen.append(len(at_work))
        time.sleep(0.003)
        return loaded

    def save(path: Path, loaded: int) -> None:
        time.sleep(0.001)
        with lock:
            at_work.remove(path)

    tally, computers = Tally("done"), ThreadPoolExecutor(IN_FLIGHT)
    run_job(PATHS, tally, lambda path: size, compute, save, computers, lambda loaded: loaded)
    assert not tally.failed and len(seen) == len(PATHS)
    assert max(seen) == most or (size == 1 and 2 < max(seen) <= most)


def test_one_more_picture_than_has_room_is_read(monkeypatch):
    monkeypatch.setattr("utils.jobs.PIXEL_BYTES_IN_FLIGHT", 300)
    stages, tally = Stages("compute"), Tally("done")
    work = stages.load, stages.compute, stages.save
    run_job(PATHS, tally, *work, ThreadPoolExecutor(3), lambda loaded: 200)
    assert stages.order == PATHS and stages.most == 2


def test_small_pictures_do_not_wait_for_room_that_a_failed_one_had(monkeypatch, capsys):
    monkeypatch.setattr("utils.jobs.PIXEL_BYTES_IN_FLIGHT", 300)
    stages, tally = Stages(""), Tally("done")

    def fail_first(path: Path, loaded: str) -> str:
        if path == PATHS[0]:
            raise ValueError("this one")
        return stages.compute(path, loaded)

    computers = ThreadPoolExecutor(1)
    run_job(PATHS, tally, stages.load, fail_first, stages.save, computers, lambda loaded: 300)
    assert tally.failed == 1 and stages.order == PATHS[1:]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_job_with_one_message(number, capsys):
    stages, tally = Stages(""), Tally("done")

    def full(path: Path, computed: str) -> None:
        if path == PATHS[3]:
            raise OSError(number, os.strerror(number), "out/3.xfr")
        stages.save(path, computed)

    with pytest.raises(OSError, match="; finished files are kept: 'out/3.xfr'") as caught:
        run_job(PATHS, tally, stages.load, stages.compute, full, ThreadPoolExecutor(1))
    assert caught.value.errno == number and tally.at_work.stopped.is_set()
    assert stages.order[:3] == PATHS[:3] and PATHS[3] not in stages.order
    assert len(stages.order) < 3 + IN_FLIGHT and capsys.readouterr().err == ""


def test_a_log_file_has_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr("utils.jobs.LOG_SECONDS", 0.1)
    monkeypatch.setattr("utils.progress.LOG_SECONDS", 0.1)
    tally = Tally("done")

    def compute(path: Path, loaded: Path) -> Path:
        with tally.at_work.progress(path) as report:
            report(0.25)
            time.sleep(0.25 if path == PATHS[1] else 0)
        return loaded

    run_job(PATHS[:3], tally, Path, compute, lambda *_: None, ThreadPoolExecutor(1))
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3
    assert re.fullmatch(r"1 of 3 pictures, 00:00, about 00:00 left; 1.png 25%", lines[0])


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


@pytest.mark.parametrize(
    ("megapixels", "begun", "computed"), [(0.1, 6, 6), (25, 5, 4), (25.1, 4, 3)]
)
def test_six_pictures_are_in_memory_or_as_many_as_have_300_megabytes_of_pixels(
    megapixels, begun, computed
):
    """Beside those that are computed, one more may have been read."""
    release, loading, computing = threading.Event(), [], []

    def compute(path: Path, loaded: None) -> None:
        computing.append(path)
        assert release.wait(20)

    stages = loading.append, compute, lambda *_: None
    pixel_bytes = round(3e6 * megapixels)
    pools = ThreadPoolExecutor(8), lambda loaded: pixel_bytes
    job = threading.Thread(target=run_job, args=(PATHS, Tally("done"), *stages, *pools))
    job.start()
    deadline = time.monotonic() + 20
    while (len(loading), len(computing)) < (begun, computed) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # for more than these
    found = len(loading), len(computing)
    release.set()
    job.join()
    assert found == (begun, computed)
