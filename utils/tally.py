"""The outcome of a job on many files: counts, failures and notices, summary and exit code."""

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from utils.console import SCRIPTS, is_out_of_memory, printable
from utils.processes import gather, processes
from utils.progress import AtWork
from xfr.checkpoints import describe

COUNTS = ("done", "skipped", "failed", "left_alone", "bytes_in", "bytes_out", "pixels", "larger")
NAMED_FILES = 3  # files that a message names, of those that share a reason


@dataclass
class Tally:
    """The outcome of a job: counts for its summary, failures for its exit code. ``decodes``: .xfr
    files come in, not out. ``place``: where results are written."""

    verb: str
    decodes: bool = False
    place: Path | None = None
    done: int = 0
    skipped: int = 0
    failed: int = 0
    left_alone: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    pixels: int = 0
    larger: int = 0  # .xfr files that are larger than their pictures
    models: set[str] = field(default_factory=set)  # checkpoints of the .xfr files, for messages
    qualities: set[int] = field(default_factory=set)  # of the .xfr files
    settings: list[str] = field(default_factory=list)  # other settings of the .xfr files
    # Files that share each notice, but for the first, which has been told with it.
    notices: dict[str, list[Path]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # lines before the summary
    seconds: float = 0.0  # seconds of the job
    at_work: AtWork = field(default_factory=AtWork)

    def fail(self, path: Path, error: BaseException | str) -> None:
        """Count ``path`` as failed, say why on stderr, and report the exception's notes once."""
        self.failed += 1
        tell(f"failed: {printable(path)}: {reason_of(error)}")
        for note in getattr(error, "__notes__", ()):
            if note not in self.notices:
                self.notice(path, note)

    def fail_for_all(self, path: Path, reason: BaseException | str) -> None:
        """Count ``path`` as failed once, where every process of a job finds the same failure."""
        if processes()[0] == 0:
            self.fail(path, reason)

    def fail_alike(self, paths: Sequence[Path], reason: str) -> None:
        """Count files that fail for one reason in every process, and report them in one line."""
        if processes()[0] == 0:
            self.failed += len(paths)
            tell(f"failed: {listed(paths)}: {reason}")

    def leave(self, count: int, what: str) -> None:
        """Count files left alone in every process: no failure, but a line before the summary."""
        if processes()[0] == 0:
            self.left_alone += count
            self.remarks.append(f"left alone: {what}")

    def notice(self, path: Path, notice: str) -> None:
        """Report ``notice`` on stderr with the first file that it is about, with all others when
        the job is done."""
        if notice in self.notices:
            self.notices[notice].append(path)
        else:
            self.notices[notice] = []
            tell(f"note: {printable(path)}: {notice}")

    def report(self, path: Path, verdict: str) -> None:
        tqdm.write(f"{verdict}: {printable(path)}")

    def add(self, bytes_in: int, bytes_out: int, pixels: int) -> None:
        """Count a file as done."""
        self.done += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self.pixels += pixels

    def made_by(self, fingerprint: int, quality: int, graphic: bool) -> None:
        """Note how an .xfr file was made, for the summary."""
        self.models |= set() if graphic else {describe(fingerprint)}
        self.qualities.add(quality)

    def finish(self) -> int:
        """Print the summary of all processes of the job, and return the exit code. With several
        processes, rank 0 prints it once all are done, and all of them return 0, since torchrun
        would take any other code for a crash, stop the rest and print a long traceback."""
        for notice, paths in self.notices.items():
            if paths:
                tell(f"note: {listed(paths)}: {notice}")
        gathered = gather("tally", [self.seconds, *(getattr(self, name) for name in COUNTS)])
        made = gather("made", [sorted(self.models), sorted(self.qualities)])
        if not gathered:
            return 0
        seconds, *counts = zip(*gathered)
        self.seconds = max(seconds)
        for name, values in zip(COUNTS, counts):
            setattr(self, name, sum(values))
        self.models = {model for models, _ in made for model in models}
        self.qualities = {quality for _, qualities in made for quality in qualities}
        for remark in self.remarks:
            print(remark, file=sys.stderr)
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
        counts += [f"{self.left_alone} left alone"] if self.left_alone else []
        if not self.done:
            return ", ".join(counts)
        compressed = self.bytes_in if self.decodes else self.bytes_out
        ratio = "" if self.decodes else f"ratio {self.bytes_in / compressed:.2f}, "
        larger = f", {self.larger} larger than the original" if self.larger else ""
        place = "" if self.place is None else f" -> {printable(self.place)}"
        return (
            f"{', '.join(counts)}: {self.bytes_in:,} bytes in, {self.bytes_out:,} out, {ratio}"
            f"bpp {8 * compressed / self.pixels:.3f}, "
            f"{self.seconds / self.done:.2f} s per picture, {self.seconds:.1f} s{larger}"
            f"{self.made_with()}{place}"
        )

    def made_with(self) -> str:
        """The checkpoints, qualities and other settings of the .xfr files."""
        made = [" and ".join(sorted(self.models))] if self.models else []
        if self.qualities:
            low, high = min(self.qualities), max(self.qualities)
            made.append(f"quality {low}" if low == high else f"qualities {low} to {high}")
        made += self.settings
        return f", with {', '.join(made)}" if made else ""


def tell(line: str) -> None:
    """Print a line on stderr, above the bars of a terminal."""
    tqdm.write(line, file=sys.stderr)


def listed(paths: Sequence[Path]) -> str:
    """Files by name up to NAMED_FILES, and by number beyond."""
    names = ", ".join(printable(path) for path in paths[:NAMED_FILES])
    more = len(paths) - NAMED_FILES
    return f"{names} and {more:,} more" if more > 0 else names


def reason_of(error: BaseException | str) -> str:
    """The reason of a failure, in one line."""
    if isinstance(error, BaseException) and is_out_of_memory(error):
        return "not enough memory for this picture"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, Exception) and not isinstance(error, (OSError, ValueError)):
        reason = f"{defect(error)}: {reason}"
    return printable(reason)


def defect(error: BaseException) -> str:
    """The type of an exception that is a defect, and its place in the program's own files."""
    error = error.__cause__ or error
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_own(Path(frame.filename))]
    place = (own or frames)[-1]
    return f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"


def is_own(path: Path) -> bool:
    if not path.is_relative_to(SCRIPTS):
        return False
    first, *others = path.relative_to(SCRIPTS).parts
    return not others or first in ("utils", "xfr", "model")
