"""Damage .xfr files in every way, and check that each is decoded, or refused in one line.

examples:
  python -m tests.fuzz
  python -m tests.fuzz --model out/hyperprior.tar --count 10000 --seed 1
  python -m tests.fuzz --model out/main.tar --seed 1 --first 1234 --count 1 --keep found/

Small pictures are encoded with the checkpoint; the files are mutated and decoded as by decode.py. A
mutant must end in a ValueError of one line or in a picture of the declared shape, in bounded time
and memory. Any other exception, a warning, a crash, a hang or a large allocation is printed with
the flags that repeat it, and makes the exit code 1.
"""

import io
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from utils.console import make_parser, number, run

MANY = 20  # failures, after which a run ends early
PATIENCE = 10  # seconds by the clock for one of processor time: the machine may be busy
START_SECONDS = 600  # to load the checkpoint and make the files, or the largest of them


def parse_args():
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, default=Path("./out/main.tar"), help="checkpoint")
    add("--count", type=number(int, 1), default=10_000, help="number of mutants")
    add("--seed", type=number(int, 0), default=0, help="seed of the files and all mutations")
    add("--first", type=number(int, 0), default=0, help="index of the first mutant")
    add(
        "--max_pixels",
        type=number(int, 1 << 13),
        default=1 << 16,
        help="limit that files are decoded with; the largest pictures within it are tried too",
    )
    add(
        "--seconds",
        type=number(float, 0),
        default=30.0,
        help="processor time that a mutant may take; ten times that by the clock",
    )
    add(
        "--megabytes",
        type=number(int, 1),
        default=512,
        help="memory that a mutant may allocate beyond what good files need (on Linux only)",
    )
    add("--keep", type=Path, metavar="FOLDER", help="write the mutants that fail to this directory")
    return parser.parse_args()


@dataclass
class Result:
    """Counts of mutants refused, decoded and failed, by kind; the failures in words."""

    counts: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[str] = field(default_factory=list)

    def table(self) -> str:
        columns = ("refused", "decoded", "failed")
        rows = {kind: self.counts[kind] for kind in sorted(self.counts)}
        rows["all"] = sum(rows.values(), Counter())
        width = max(map(len, rows))
        lines = [f"{'mutation':{width}}" + "".join(f"  {name:>8}" for name in columns)]
        for kind, counts in rows.items():
            lines.append(f"{kind:{width}}" + "".join(f"  {counts[name]:8,}" for name in columns))
        return "\n".join(lines)


# In the process that decodes


def decode(decoder, data: bytes, max_pixels: int):
    """The content of a file, and its picture, as decode.py reads them. The picture is also written,
    as TIFF: only there is EXIF taken apart."""
    from xfr.file import unpack
    from xfr.images import write_picture

    xfr = unpack(data, max_pixels)
    picture = decoder.decode(xfr)
    write_picture(picture, io.BytesIO(), "tiff")
    return xfr, picture


def virtual_bytes() -> int | None:
    """The size of this process's address space; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    import resource

    return pages * resource.getpagesize()


@contextmanager
def time_bound(seconds: float) -> Iterator[None]:
    """A context in which SIGPROF kills this process after ``seconds`` of processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def memory_bound(megabytes: int) -> Iterator[None]:
    """A context in which allocations beyond ``megabytes`` more than at its start fail."""
    size = virtual_bytes()
    if size is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(decode: Callable, megabytes: int) -> str:
    """``refused``, ``decoded``, or else what is wrong, in one line."""
    import traceback

    try:
        with memory_bound(megabytes):
            xfr, picture = decode()
    except ValueError as error:
        if len(str(error).splitlines()) == 1:
            return "refused"
        return f"a ValueError whose message is not one line: {str(error)!r}"
    except Exception as error:  # a defect that fuzzing has found
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())[:200]
        return f"{type(error).__name__} ({reason}) in {Path(frame.filename).name}:{frame.lineno}"
    shape = xfr.shape if xfr.grey else (*xfr.shape, 3)
    if picture.pixels.shape != shape or picture.pixels.dtype != "uint8":
        return f"a picture {picture.pixels.shape} of {picture.pixels.dtype}, declared {shape}"
    if picture.alpha is not None and picture.alpha.shape != shape[:2]:
        return f"alpha {picture.alpha.shape} of a picture {shape}"
    return "decoded"


def work(
    connection, model: Path, seed: int, max_pixels: int, seconds: float, megabytes: int
) -> None:
    """Answer each index with the kind and the bytes of that mutant, then with its outcome."""
    import warnings

    import torch

    from tests.mutants import Mutants
    from xfr.decoder import Decoder
    from xfr.encoder import Encoder

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    try:
        encoder, decoder = Encoder(model), Decoder(model)
    except (OSError, ValueError) as error:
        connection.send(error)
        return
    mutants = Mutants(encoder, seed, max_pixels)
    for data in mutants.packed:  # so that everything that is made at first use is there
        decode(decoder, data, max_pixels)
    warnings.simplefilter("error")
    connection.send(None)
    for index in iter(connection.recv, None):
        kind, data = mutants.mutant(index)
        connection.send((kind, data))
        with time_bound(seconds):
            end = outcome(lambda data=data: decode(decoder, data, max_pixels), megabytes)
        connection.send(end)


# In the main process


class Worker:
    """A process that runs ``target``; it is replaced when it has crashed or hangs."""

    def __init__(self, target: Callable, *args):
        self.target, self.args = target, args
        self.process = None

    def start(self) -> None:
        from multiprocessing import get_context

        context = get_context("spawn")  # threads of torch do not survive a fork
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=self.target, args=(theirs, *self.args), daemon=True)
        self.process.start()
        theirs.close()
        try:
            error = self.receive(START_SECONDS)
        except EOFError:
            error = ChildProcessError("the process that decodes has died at its start")
        if error is not None:
            raise error

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None

    def receive(self, seconds: float):
        if not self.connection.poll(seconds):
            raise TimeoutError(f"no answer after {seconds:g} s")
        return self.connection.recv()

    def run(self, index: int, seconds: float) -> tuple[str, bytes, str]:
        """Kind, bytes and outcome of a mutant."""
        if self.process is None:
            self.start()
        kind, data = "unknown", b""
        try:
            self.connection.send(index)
            kind, data = self.receive(START_SECONDS)
            return kind, data, self.receive(PATIENCE * seconds)
        except TimeoutError as error:
            self.stop()
            return kind, data, f"hangs: {error}"
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            self.stop()
            if code == -signal.SIGPROF:
                return kind, data, f"hangs: more than {seconds:g} s of processor time"
            return kind, data, f"the process has died with exit code {code}"


def fuzz(
    worker: Worker, indices: range, flags: str, seconds: float = 30.0, keep: Path | None = None
) -> Result:
    """Try the mutants of these indices. ``flags`` are those that repeat the run."""
    from tqdm import tqdm

    result = Result()
    try:
        with tqdm(indices, unit="mutant") as bar:
            for index in bar:
                kind, data, end = worker.run(index, seconds)
                passed = end in ("refused", "decoded")
                result.counts[kind][end if passed else "failed"] += 1
                if passed:
                    continue
                result.failures.append(f"{kind}: {end} [{flags} --first {index} --count 1]")
                tqdm.write(f"failed: {result.failures[-1]}", file=sys.stderr)
                bar.set_postfix(failed=len(result.failures))
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{index}.xfr").write_bytes(data)
                if len(result.failures) == MANY:
                    tqdm.write(f"{MANY} failures are enough", file=sys.stderr)
                    break
    finally:
        worker.stop()
    return result


def main(args) -> int:
    start = time.perf_counter()
    bounds = args.max_pixels, args.seconds, args.megabytes
    worker = Worker(work, args.model, args.seed, *bounds)
    flags = f"--model {args.model} --seed {args.seed} --max_pixels {args.max_pixels}"
    indices = range(args.first, args.first + args.count)
    result = fuzz(worker, indices, flags, args.seconds, args.keep)
    print(result.table())
    count = sum(sum(counts.values()) for counts in result.counts.values())
    print(f"{count} mutants in {time.perf_counter() - start:.0f} s, {len(result.failures)} failed")
    return 1 if result.failures else 0


if __name__ == "__main__":
    run(main, parse_args())
