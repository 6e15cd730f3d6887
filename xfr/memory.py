"""Memory that glibc keeps after it was freed."""

import ctypes
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def glibc(name: str) -> Callable[..., int] | None:
    """A function of the C library, where that is glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def keep_freed_memory() -> None:
    """Let glibc keep up to 256 MiB of freed memory for the next picture: returning it to the system
    and faulting it in again would take a fifth of the coding time. All threads share one arena: one
    for each thread would keep half a gigabyte more after a large picture."""
    mallopt = glibc("mallopt")
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, 2**28)
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Return freed memory that glibc has kept to the system: several hundred MiB, in pieces, after
    a large picture has been decoded. Writing the picture takes as much memory again."""
    trim = glibc("malloc_trim")
    if trim:
        trim(0)
