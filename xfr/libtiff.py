"""libtiff, which Pillow brings along: its errors are raised instead of written to the terminal.

Pillow decodes some damaged files to the end, and leaves their errors to libtiff, which writes them
to standard error. Where the library is not found, as in builds that link it statically, that stays.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import Image


class Errors(threading.local):
    """The parts of libtiff that had an error in this thread."""

    def __init__(self) -> None:
        self.modules: list[str] = []


ERRORS = Errors()


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
def record(module: bytes | None, message: bytes, arguments: int) -> None:
    """libtiff's TIFFErrorHandler."""
    ERRORS.modules.append((module or b"libtiff").decode("latin-1"))


with suppress(OSError, AttributeError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(record)


@contextmanager
def raise_errors() -> Iterator[None]:
    """OSError at the end if libtiff had an error meanwhile, in this thread."""
    ERRORS.modules.clear()
    yield
    if ERRORS.modules:
        raise OSError("a damaged TIFF file")
