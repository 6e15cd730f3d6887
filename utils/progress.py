"""Progress of a job: bars on a terminal, and elsewhere, as in a log file, a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from tqdm import tqdm

from utils.console import printable
from utils.processes import processes

BAR_AFTER_SECONDS = 3.0  # seconds that a picture takes before it has a progress bar of its own
LOG_SECONDS = 10.0  # between two lines


class AtWork:
    """The pictures being computed, and how far. ``stopped``: set when the job ends early."""

    def __init__(self) -> None:
        self.stopped = Event()
        self.shares: dict[Path, float] = {}  # part of the computing that is done, 0 to 1

    @contextmanager
    def progress(self, path: Path) -> Iterator[Callable[[float], None]]:
        """A function to call with the share of ``path``'s computing that is done, 0 to 1, for a bar
        on a terminal. It raises CancelledError, which ends the computing, when the job ends
        early."""
        hidden = processes()[0] > 0 or None
        layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        with tqdm(
            total=1, desc=printable(path.name), bar_format=layout, disable=hidden, leave=False,
            delay=BAR_AFTER_SECONDS, miniters=0,
        ) as bar:  # fmt: skip

            def report(share: float) -> None:
                if self.stopped.is_set():
                    raise CancelledError
                self.shares[path] = share
                bar.update(share - bar.n)

            try:
                yield report
            finally:
                self.shares.pop(path, None)


class Progress:
    """The bar of a job of so many ``pictures``, or its lines in a log file. Under torchrun the
    number is an estimate: processes take pictures as they get ready."""

    def __init__(self, pictures: int, at_work: AtWork):
        self.pictures, self.at_work, self.done = pictures, at_work, 0
        hidden = processes()[0] > 0 or not pictures
        self.logs = not hidden and not sys.stderr.isatty()
        self.start = self.logged = time.monotonic()
        # tqdm shows the bar on a terminal alone if ``disable`` is None. In a log file, it would be
        # thousands of carriage returns.
        self.bar = tqdm(total=pictures, unit="picture", disable=hidden or None)

    def advance(self) -> None:
        self.done += 1
        self.bar.update()

    def log(self) -> None:
        """Write a line if none was written for LOG_SECONDS, and there is no terminal."""
        now = time.monotonic()
        if self.logs and now - self.logged >= LOG_SECONDS:
            self.logged = now
            print(self.line(now - self.start), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """The state after so many ``seconds``."""
        pictures = max(self.pictures, self.done)
        text = f"{self.done} of {pictures} pictures, {tqdm.format_interval(seconds)}"
        if self.done:
            left = seconds / self.done * (pictures - self.done)
            text += f", about {tqdm.format_interval(left)} left"
        at_work = sorted(self.at_work.shares.copy().items())
        shares = [f"{printable(path.name)} {share:.0%}" for path, share in at_work]
        return "; ".join([text, ", ".join(shares)]) if shares else text

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()
