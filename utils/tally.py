"""The outcome of a job on many files: counts, failures and notices, summary and exit code."""

import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from tqdm import tqdm

from utils.console import SCRIPTS, printable
from utils.processes import gather, processes

COUNTS = ("done", "skipped", "failed", "bytes_in", "bytes_out", "pixels", "larger")
PATIENCE = 3.0  # seconds that a picture takes before it has a progress bar of its own


@dataclass
class Tally:
    """The outcome of a job: counts for its summary, failures for its exit code.

    ``decodes``: the .xfr files come in; otherwise they come out, of originals.
    """

    verb: str
    decodes: bool = False
    done: int = 0
    skipped: int = 0
    failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    pixels: int = 0
    larger: int = 0  # .xfr files that are larger than their pictures
    notices: set[str] = field(default_factory=set)
    seconds: float = 0.0  # that the job took
    stopped: Event = field(default_factory=Event)  # set on Ctrl-C

    def fail(self, path: Path, error: BaseException | str) -> None:
        """Count ``path`` as failed and report why, in one line on stderr. The notes of an exception
        say what to do, and are reported once."""
        self.failed += 1
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, Exception) and not isinstance(error, (OSError, ValueError)):
            reason = f"{defect(error)}: {reason}"
        tqdm.write(f"failed: {printable(path)}: {printable(reason)}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            self.notice(path, note)

    def fail_for_all(self, path: Path, reason: BaseException | str) -> None:
        """Count ``path`` as failed once, where every process of a job finds the same failure."""
        if processes()[0] == 0:
            self.fail(path, reason)

    def notice(self, path: Path, notice: str) -> None:
        """Report ``notice`` on stderr, with the first file that it is about."""
        if notice not in self.notices:
            self.notices.add(notice)
            tqdm.write(f"note: {printable(path)}: {notice} (reported once)", file=sys.stderr)

    def report(self, path: Path, verdict: str) -> None:
        """Print the ``verdict`` on ``path``."""
        tqdm.write(f"{verdict}: {printable(path)}")

    @contextmanager
    def progress(self, path: Path) -> Iterator[Callable[[float], None]]:
        """A function to call with the share of ``path``'s computing that is done, 0 to 1, which a
        terminal shows below the bar of the job. After Ctrl-C the call raises CancelledError, which
        ends the computing."""
        hidden = processes()[0] > 0 or None
        layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        with tqdm(
            total=1, desc=printable(path.name), bar_format=layout, disable=hidden, leave=False,
            delay=PATIENCE, miniters=0,
        ) as bar:  # fmt: skip

            def report(share: float) -> None:
                if self.stopped.is_set():
                    raise CancelledError
                bar.update(share - bar.n)

            yield report

    def add(self, bytes_in: int, bytes_out: int, pixels: int) -> None:
        """Count a file as done."""
        self.done += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self.pixels += pixels

    def finish(self) -> int:
        """Print the summary of all processes of the job, and return the exit code.

        With several processes, rank 0 prints it once all are done, and all of them return 0, since
        torchrun would take any other code for a crash, stop the rest and print a long traceback.
        """
        gathered = gather("tally", [self.seconds, *(getattr(self, name) for name in COUNTS)])
        if not gathered:
            return 0
        seconds, *counts = zip(*gathered)
        self.seconds = max(seconds)
        for name, values in zip(COUNTS, counts):
            setattr(self, name, sum(values))
        print(self.summary())
        if self.failed and len(gathered) > 1:
            print("note: the exit code is 0, as torchrun takes others for crashes", file=sys.stderr)
            return 0
        return 1 if self.failed else 0

    def summary(self) -> str:
        """The counts as one line. Rates are of all pictures together: a mean of rates would be
        decided by the smallest pictures, which are mostly header. The ratio is that of an
        original's bytes to those of its .xfr file, and is not known when decoding."""
        counts = [f"{self.done} {self.verb}"]
        counts += [f"{self.skipped} skipped"] if self.skipped else []
        counts += [f"{self.failed} failed"] if self.failed else []
        if not self.done:
            return ", ".join(counts)
        compressed = self.bytes_in if self.decodes else self.bytes_out
        ratio = "" if self.decodes else f"ratio {self.bytes_in / compressed:.2f}, "
        larger = f", {self.larger} larger than the original" if self.larger else ""
        return (
            f"{', '.join(counts)}: {self.bytes_in:,} bytes in, {self.bytes_out:,} out, {ratio}"
            f"bpp {8 * compressed / self.pixels:.3f}, "
            f"{self.seconds / self.done:.2f} s per picture{larger}"
        )


def defect(error: BaseException) -> str:
    """The type of an exception that the program did not raise on purpose, and the place in the
    program itself, rather than in a library, that it came from."""
    error = error.__cause__ or error
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_own(Path(frame.filename))]
    place = (own or frames)[-1]
    return f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"


def is_own(path: Path) -> bool:
    """Whether ``path`` is one of the program's files."""
    if not path.is_relative_to(SCRIPTS):
        return False
    first, *others = path.relative_to(SCRIPTS).parts
    return not others or first in ("utils", "xfr", "model")
