"""Work on many files: reading, computing and writing overlap; failures stay with their file."""

import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from utils.processes import draw, processes
from utils.tally import Tally

if TYPE_CHECKING:  # slow to load
    import torch

# The most pictures that are in memory: being read, computed or written, or waiting for the next of
# these. Two of them are left for what is read and written while the others are computed.
IN_FLIGHT = 6


class Skip(Exception):
    """Raised by ``load`` for a file whose result exists already."""


def compute_pool(device: "torch.device", pictures: int) -> ThreadPoolExecutor:
    """The threads that encode or decode so many ``pictures``, on the CPU several at a time.

    Two pictures with one thread each take less time than one after the other with two threads,
    since not all of the work can be shared among threads.
    """
    import torch

    if device.type != "cpu":
        return ThreadPoolExecutor(1)
    threads = torch.get_num_threads()
    workers = max(1, min(threads, pictures, IN_FLIGHT - 2))
    return ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(threads // workers,)
    )


class Pipeline:
    """The files in flight, each with the future of the stage that it is in.

    ``stages``: an executor and a function each. The first takes a path; the others also take the
    result of the stage before.
    """

    def __init__(self, stages: list[tuple[Executor, Callable]], tally: Tally, bar: tqdm):
        self.stages, self.tally, self.bar = stages, tally, bar
        self.in_flight: dict[Future, tuple[Path, int]] = {}

    def submit(self, path: Path, stage: int, *loaded: object) -> None:
        """Put a file into a stage."""
        executor, function = self.stages[stage]
        self.in_flight[executor.submit(function, path, *loaded)] = path, stage

    def advance(self) -> None:
        """Wait until stages are done with files, and put these into the next ones. A file that is
        quick overtakes a very large picture."""
        wait(self.in_flight, return_when=FIRST_COMPLETED)
        for future in [future for future in self.in_flight if future.done()]:
            path, stage = self.in_flight.pop(future)
            try:
                result = future.result()
            except Skip:
                self.tally.skipped += 1
            except Exception as error:
                self.tally.fail(path, error)
            else:
                if stage + 1 < len(self.stages):
                    self.submit(path, stage + 1, result)
                    continue
            self.bar.update()


def run_job(
    paths: Collection[Path],
    tally: Tally,
    load: Callable,
    compute: Callable,
    save: Callable,
    computers: Executor,
) -> None:
    """``save(path, compute(path, load(path)))`` for every path, on a terminal with a progress bar.

    ``compute`` runs in the threads of ``computers``; ``load`` and ``save`` each run in a thread of
    their own. Where one of them raises an exception, that file has failed, and the others go on. At
    most IN_FLIGHT files are begun and not finished. On Ctrl-C, what is being read or written is
    finished, and all else is dropped.
    """
    start = time.perf_counter()
    rank, world = processes()
    # None: only on a terminal. In a log file, it would be thousands of carriage returns.
    hidden = rank > 0 or not paths or None
    bar = tqdm(total=len(paths) // world, unit="picture", disable=hidden)
    readers, writers = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    stages = [(readers, load), (computers, compute), (writers, save)]
    pipeline = Pipeline(stages, tally, bar)
    try:
        for path in draw(list(paths)):
            pipeline.submit(path, 0)
            while len(pipeline.in_flight) == IN_FLIGHT:
                pipeline.advance()
        while pipeline.in_flight:
            pipeline.advance()
    except BaseException:
        tally.stopped.set()
        raise
    finally:
        for pool in (readers, computers, writers):
            pool.shutdown(cancel_futures=True)
        bar.close()
        tally.seconds = time.perf_counter() - start
