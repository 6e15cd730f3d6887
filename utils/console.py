"""The command lines of the scripts. Nothing heavy is imported, so that --help answers at once."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model.limits import MAX_PIXELS

SCRIPTS = Path(__file__).resolve().parent.parent  # the folder that they are in


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of options that have one, and keeps the line breaks of the examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def make_parser(docstring: str) -> argparse.ArgumentParser:
    """A parser whose help is the script's own docstring, examples included."""
    return argparse.ArgumentParser(description=docstring, formatter_class=Formatter)


def number(kind: type, low: float, high: float = float("inf"), open_end: bool = False) -> Callable:
    """An argparse type: a number of type ``kind`` from ``low`` to ``high``, which is excluded if
    ``open_end``."""

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
    """A number of bytes: 20000, 20k or 1.5M, where k is 1,000 and M a million; in any case."""
    factor = {"k": 10**3, "m": 10**6}.get(text[-1:].lower())
    if factor is None:
        return int(text)
    value = round(float(text[:-1]) * factor, 3)
    if not value.is_integer():
        raise ValueError(f"{text} is no whole number of bytes")
    return int(value)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that encode.py, decode.py and test.py have in common."""
    add = parser.add_argument
    add("--recursive", action="store_true", help="include sub-folders, mirrored in the output")
    add("--device", default="auto", help="where the networks run: auto, cpu, cuda, cuda:1, mps")
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


def printable(text: Path | str) -> str:
    """A path, or a text that contains one, for messages: on one line, and with escapes for whatever
    is not valid UTF-8 or would be a command to a terminal."""
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
    interrupted by Ctrl-C or SIGTERM, with which clusters and ``timeout`` end a process.

    An error in the input is one line on stderr; only a defect of the program shows a traceback.
    """
    name = Path(sys.argv[0]).name
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.stdout.reconfigure(errors="backslashreplace")  # any file name can be printed
    try:
        sys.exit(main(args))
    except (OSError, ValueError) as error:
        sys.exit(f"{name}: error: {error}")
    except KeyboardInterrupt:
        start = "\n" if sys.stderr.isatty() else ""  # below the ^C of a terminal
        print(f"{start}{name}: interrupted; finished files are kept", file=sys.stderr)
        sys.exit(130)
