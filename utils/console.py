"""The command lines of the scripts. Nothing heavy is imported, so that --help answers at once."""

import argparse
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from model.limits import MAX_PIXELS

SIZE_FORMAT = re.compile(r"(?P<number>[\d_ ]*\.?\d+) *(?P<unit>|[kmg]i?)b?")
SIZE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
SCRIPTS = Path(__file__).resolve().parent.parent  # the folder that they are in
SAMPLES = SCRIPTS / "out/original"  # the pictures that come with them
DEVICE_HELP = "where the networks run: auto, cpu, cuda, cuda:1, mps"


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of options that have one, and keeps the line breaks of the examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Version(argparse.Action):
    """Prints the version, which is imported only then, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from xfr import __version__

        print(f"xfr {__version__}")
        parser.exit()


def make_parser(docstring: str) -> argparse.ArgumentParser:
    """A parser whose help is the script's own docstring, examples included."""
    parser = argparse.ArgumentParser(description=docstring, formatter_class=Formatter)
    parser.add_argument("--version", action=Version, nargs=0, help="print the version")
    return parser


def number(kind: type, low: float, high: float = float("inf"), open_end: bool = False) -> Callable:
    """An argparse type: a number from ``low`` to ``high``, without ``high`` if ``open_end``."""

    def parse(text: str) -> float:
        value = kind(text)
        if not (low <= value <= high) or (open_end and value == high):
            raise argparse.ArgumentTypeError(
                f"{text} is not in {low} to {high}{' (excluded)' if open_end else ''}"
            )
        return value

    parse.__name__ = kind.__name__  # argparse names the type in its own message for 'abc'
    return parse


def size(text: str) -> int:
    """An argparse type: a number of bytes, such as 20000, 20 000, 20k, 1.5 MB or 64KiB, where k is
    1,000, M a million and Ki 1,024; in any case."""
    match = SIZE_FORMAT.fullmatch(text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes, such as 20000 or 20kB")
    value = Decimal(match["number"].replace(" ", "")) * SIZE_UNITS[match["unit"]]
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is no whole number of bytes")
    return int(value)


def add_shared_arguments(parser: argparse.ArgumentParser, device: str = DEVICE_HELP) -> None:
    """Add the options that encode.py, decode.py and test.py have in common. ``device``: the help of
    --device."""
    add = parser.add_argument
    add("--recursive", action="store_true", help="include sub-folders, mirrored in the output")
    add("--device", default="auto", help=device)
    add(
        "--max_pixels",
        type=number(int, 1),
        default=MAX_PIXELS,
        help="refuse larger pictures, which might exhaust the memory",
    )


def add_skip_existing(parser: argparse.ArgumentParser, kept: str) -> None:
    """Add --skip_existing; ``kept`` says which results it keeps."""
    parser.add_argument(
        "--skip_existing", action="store_true", help=f"keep {kept}, and make only the others"
    )


def add_keep_extension(parser: argparse.ArgumentParser) -> None:
    """Add --keep_extension, of the scripts that go from originals to .xfr files."""
    parser.add_argument(
        "--keep_extension",
        action="store_true",
        help="a.jpg becomes a.jpg.xfr instead of a.xfr, and a.tif beside it a.tif.xfr",
    )


def sample_pictures() -> Path:
    """The folder of sample pictures in this folder or, if it has none, beside the scripts."""
    here = Path("./out/original/")
    return here if here.exists() else SAMPLES


def add_inputs(parser: argparse.ArgumentParser, option: str, default: Path, kind: str) -> None:
    """Add the inputs: any number of files of a ``kind`` and folders, or one behind ``option``."""
    text = f"{kind}, and directories of them; -- stands before names that begin with a dash"
    parser.add_argument("inputs", type=Path, nargs="*", help=text)
    parser.add_argument(option, type=Path, help=f"one of these (default, if none: {default}/)")


def parse_with_inputs(
    parser: argparse.ArgumentParser, option: str, default: Path
) -> argparse.Namespace:
    """The parsed arguments. ``inputs``: the files and folders that were named, or else the
    ``default``; all words behind ``--`` are. ``input_option``: the option, "" where inputs were
    named without it."""
    words = with_units(sys.argv[1:])
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_intermixed_args(words[:end])
    args.inputs += map(Path, words[end + 1 :])
    named = getattr(args, option.removeprefix("--"))
    args.input_option = "" if args.inputs else option
    args.inputs += [] if named is None else [named]
    args.inputs = args.inputs or [default]
    return args


def with_units(words: list[str]) -> list[str]:
    """The words of a command, where a size and its unit are one word.

    >>> with_units(["--max_bytes", "20", "kB", "a.png"])
    ['--max_bytes', '20 kB', 'a.png']
    """
    joined = []
    for word in words:
        together = f"{joined[-1]} {word}" if joined[-2:-1] == ["--max_bytes"] else ""
        if word[:1].isalpha() and SIZE_FORMAT.fullmatch(together.lower()):
            joined[-1] = together
        else:
            joined.append(word)
    return joined


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch, the system or a library says that memory was short."""
    short = ("out of memory", "not enough memory", "allocate memory", "failed to map segment")
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, ImportError, OSError))
        and any(words in text for words in short)
    )


def printable(text: Path | str) -> str:
    """A path, or a text with one, on one line, with escapes for all that is not printable."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block. For the main thread alone."""
    received = []
    handlers = {
        number: signal.signal(number, lambda *_: received.append(True))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup and the shell's & ignore SIGINT
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def run(main: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> None:
    """Run a script's ``main`` and exit: 0 if all was done, 1 if something failed, 130 if it was
    interrupted by Ctrl-C or SIGTERM, with which clusters and ``timeout`` end a process. An error in
    the input is one line on stderr; only a defect of the program shows a traceback."""
    from xfr.images import set_up_pillow  # not for --help

    name = Path(sys.argv[0]).name
    set_up_pillow(getattr(args, "max_pixels", MAX_PIXELS))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.stdout.reconfigure(errors="backslashreplace")  # any file name can be printed
    try:
        sys.exit(main(args))
    except (MemoryError, RuntimeError, ImportError, OSError, ValueError) as error:
        if is_out_of_memory(error):
            sys.exit(f"{name}: error: not enough memory")
        if not isinstance(error, (OSError, ValueError)):
            raise
        sys.exit(f"{name}: error: {error}")
    except KeyboardInterrupt:
        start = "\n" if sys.stderr.isatty() else ""  # below the ^C of a terminal
        print(f"{start}{name}: interrupted; finished files are kept", file=sys.stderr)
        sys.exit(130)
