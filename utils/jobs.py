"""Work on many files: reading, computing and writing overlap; failures stay with their file."""

import errno
import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.processes import draw, processes
from utils.progress import LOG_SECONDS, Progress
from utils.tally import Tally

if TYPE_CHECKING:  # slow to load
    import torch

# The most pictures that are in memory: being read, computed or written, or waiting for the next of
# these. Two of them are left for what is read and written while the others are computed.
IN_FLIGHT = 6
# Bytes of pixels of the pictures that are computed or written at a time, if these are several: four
# of 24 megapixels. One more picture may have been read.
PIXEL_BYTES_IN_FLIGHT = 300_000_000
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Skip(Exception):
    """Raised by ``load`` for a file whose result exists already."""


def compute_pool(device: "torch.device", pictures: int) -> ThreadPoolExecutor:
    """The threads that encode or decode so many ``pictures``, on the CPU several at a time. Two
    pictures with one thread each take less time than one after the other with two threads, since
    not all of the work can be shared among threads."""
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
    result of the stage before. ``pixel_bytes``: a result of the first stage to the bytes of the
    pixels that it holds or will be decoded to.
    """

    def __init__(
        self,
        stages: list[tuple[Executor, Callable]],
        pixel_bytes: Callable[..., int],
        tally: Tally,
        progress: Progress,
    ):
        self.stages, self.pixel_bytes = stages, pixel_bytes
        self.tally, self.progress = tally, progress
        self.in_flight: dict[Future, tuple[Path, int]] = {}
        self.loaded: tuple[Path, Any] | None = None  # a file behind the first stage, and its result
        self.sizes: dict[Path, int] = {}  # bytes of pixels of the files in the other stages

    @property
    def is_full(self) -> bool:
        """Whether another file has to wait."""
        is_loading = any(stage == 0 for _, stage in self.in_flight.values())
        return self.loaded is not None or is_loading or len(self.in_flight) >= IN_FLIGHT

    def submit(self, path: Path, stage: int, *result: object) -> None:
        """Put a file into a stage, with its result of the stage before."""
        executor, function = self.stages[stage]
        self.in_flight[executor.submit(function, path, *result)] = path, stage

    def advance(self) -> None:
        """Wait for stages, and move files on. A quick one overtakes a very large picture."""
        wait(self.in_flight, LOG_SECONDS, return_when=FIRST_COMPLETED)
        for future in [future for future in self.in_flight if future.done()]:
            path, stage = self.in_flight.pop(future)
            try:
                result = future.result()
            except Skip:
                self.tally.skipped += 1
            except Exception as error:
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    reason = f"{error.strerror}; finished files are kept"
                    raise OSError(error.errno, reason, error.filename) from None
                self.tally.fail(path, error)
            else:
                if stage == 0:
                    self.loaded = path, result
                    continue
                if stage + 1 < len(self.stages):
                    self.submit(path, stage + 1, result)
                    continue
            self.sizes.pop(path, None)
            self.progress.advance()
        self.admit()
        self.progress.log()

    def admit(self) -> None:
        """Move the loaded file on once its pixels have room beside those of the others."""
        if self.loaded is None:
            return
        path, result = self.loaded
        size = self.pixel_bytes(result)
        if not self.sizes or sum(self.sizes.values()) + size <= PIXEL_BYTES_IN_FLIGHT:
            self.sizes[path] = size
            self.submit(path, 1, result)
            self.loaded = None


def run_job(
    paths: Collection[Path],
    tally: Tally,
    load: Callable,
    compute: Callable,
    save: Callable,
    computers: Executor,
    pixel_bytes: Callable[..., int] = lambda loaded: 0,
) -> None:
    """``save(path, compute(path, load(path)))`` for every path, on a terminal with a progress bar,
    elsewhere with a line now and then.

    ``compute`` runs in the threads of ``computers``; ``load`` and ``save`` each run in a thread of
    their own. Where one of them raises an exception, that file has failed, and the others go on;
    but a full disk ends the job with its OSError. At most IN_FLIGHT files are begun and not
    finished, and several are computed at a time only within PIXEL_BYTES_IN_FLIGHT, by the
    ``pixel_bytes`` of what was loaded. On Ctrl-C, what is being read or written is finished, and
    all else is dropped.
    """
    start = time.perf_counter()
    progress = Progress(len(paths) // processes()[1], tally.at_work)
    readers, writers = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    stages = [(readers, load), (computers, compute), (writers, save)]
    pipeline = Pipeline(stages, pixel_bytes, tally, progress)
    try:
        for path in draw(list(paths)):
            pipeline.submit(path, 0)
            while pipeline.is_full:
                pipeline.advance()
        while pipeline.in_flight:
            pipeline.advance()
    except BaseException:
        tally.at_work.stopped.set()
        raise
    finally:
        for pool in (readers, computers, writers):
            pool.shutdown(cancel_futures=True)
        progress.close()
        tally.seconds = time.perf_counter() - start
