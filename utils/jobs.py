"""Work on many files: reading, computing and writing overlap; failures stay with their file."""

import time
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from utils.processes import draw, processes
from utils.tally import Tally

if TYPE_CHECKING:  # slow to load
    import torch

IN_FLIGHT = 4  # the most files that are read ahead, that are computed, and that are written


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
    workers = max(1, min(threads, pictures, IN_FLIGHT))
    return ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(threads // workers,)
    )


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
    their own. At most IN_FLIGHT files are in each of the three stages, so that memory is bounded.
    Where one of them raises an exception, that file has failed, and the others go on.
    """
    start = time.perf_counter()
    rank, world = processes()
    # None: only on a terminal. In a log file, it would be thousands of carriage returns.
    hidden = rank > 0 or not paths or None
    bar = tqdm(total=len(paths) // world, unit="picture", disable=hidden)
    queue = draw(list(paths))
    loading: deque[tuple[Path, Future]] = deque()
    computing: dict[Future, Path] = {}
    saving: deque[tuple[Path, Future]] = deque()
    readers, writers = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def result_of(path: Path, future: Future) -> tuple | None:
        """(result,), or None where the file has failed or is skipped."""
        try:
            return (future.result(),)
        except Skip:
            tally.skipped += 1
        except Exception as error:
            tally.fail(path, error)
        bar.update()
        return None

    def settle(limit: int) -> None:
        """Wait until at most ``limit`` files are being computed, and as many being written."""
        while len(computing) > limit:
            # In the order of completion: others need not wait for a very large picture.
            for future in wait(computing, return_when=FIRST_COMPLETED).done:
                path = computing.pop(future)
                if computed := result_of(path, future):
                    saving.append((path, writers.submit(save, path, *computed)))
        while len(saving) > limit:
            if result_of(*saving.popleft()):
                bar.update()

    try:
        while True:
            for path in islice(queue, IN_FLIGHT - len(loading)):
                loading.append((path, readers.submit(load, path)))
            if not loading:
                break
            path, future = loading.popleft()
            if loaded := result_of(path, future):
                computing[computers.submit(compute, path, *loaded)] = path
            settle(IN_FLIGHT - 1)
        settle(0)
    except BaseException:
        tally.stopped.set()
        raise
    finally:
        # On Ctrl-C, what is being read or written is finished, and all else is dropped.
        for pool in (readers, computers, writers):
            pool.shutdown(cancel_futures=True)
        bar.close()
        tally.seconds = time.perf_counter() - start
