"""What the scripts' command lines share. Imports nothing heavy: --help must answer at once."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults where there are any, and leaves the examples' lines as they are."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def make_parser(docstring: str) -> argparse.ArgumentParser:
    """A parser whose help is the script's own docstring, examples included."""
    return argparse.ArgumentParser(description=docstring, formatter_class=Formatter)


def number(kind: type, low: float, high: float = float("inf"), open_end: bool = False) -> Callable:
    """An argparse type: a number of ``kind`` from ``low`` to ``high`` (excluded if open_end)."""

    def parse(text: str):
        value = kind(text)
        if not (low <= value <= high) or (open_end and value == high):
            raise argparse.ArgumentTypeError(
                f"{text} is not in {low} to {high}{' (excluded)' if open_end else ''}"
            )
        return value

    parse.__name__ = kind.__name__  # argparse's own message for 'abc' names the type
    return parse


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that encode, decode and test have alike."""
    add = parser.add_argument
    add("--recursive", action="store_true", help="go into sub-folders, mirrored in the output")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps: where the networks run")
    add("--max_pixels", type=number(int, 1), default=178_956_970,
        help="refuse larger pictures, which may be bombs")  # fmt: skip


def add_skip_existing(parser: argparse.ArgumentParser, kept: str) -> None:
    parser.add_argument(
        "--skip_existing", action="store_true", help=f"resume: keep {kept}, redo all others"
    )


def run(main: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> None:
    """Run a script's work and exit: 0 done, 1 something failed, 130 interrupted.

    What is wrong with the input is one line on stderr; only our own mistakes show a traceback.
    """
    name = Path(sys.argv[0]).name
    sys.stdout.reconfigure(errors="backslashreplace")  # any file name can be printed, as on stderr
    try:
        sys.exit(main(args))
    except (OSError, ValueError) as error:
        sys.exit(f"{name}: error: {error}")
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; finished files are kept", file=sys.stderr)
        sys.exit(130)
