"""Files and folders: what to work on, where results go, and that they appear whole."""

import errno
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.images import normalize_extension, readable_extensions
from utils.jobs import Tally


@contextmanager
def atomic_write(path: Path) -> Iterator:
    """A binary stream whose content appears at ``path`` whole, or not at all.

    Written beside the target, synced, then renamed over it; on any exception, Ctrl-C
    included, the half-written file is removed and ``path`` stays as it was. A killed process
    leaves it, hidden, as .<digits>.part. What the system refuses is an OSError that names ``path``.
    """
    with suppress(FileExistsError):  # a folder, or else the next step says what is wrong
        path.parent.mkdir(parents=True)
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        with temporary.open("x+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        # Writing names no file, and the rest the temporary one, of which nobody knows.
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def check_folder(folder: Path) -> None:
    """Make ``folder`` where it is missing. OSError if no file can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def find_files(
    source: Path, extensions: set[str], recursive: bool, tally: Tally | None = None
) -> list[Path]:
    """Files of these extensions (normalized) in a folder, sorted; or ``source`` itself, a file.

    Raises FileNotFoundError where there is no such folder or file. A folder that cannot be listed
    and a pipe or device have failed in ``tally``, by name; without a tally they are an OSError.
    Symbolic links to folders are not followed, so a loop of them does no harm; hidden files are
    left alone.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"no such file or folder: {source}")

    def unusable(error: OSError) -> None:
        if tally is None:
            raise error
        tally.fail_for_all(Path(error.filename), error.strerror)

    found = []
    for folder, folders, names in os.walk(source, onerror=unusable):
        folders[:] = sorted(folders) if recursive else []
        for name in names:
            path = Path(folder, name)
            if normalize_extension(path.suffix) not in extensions or name.startswith("."):
                continue
            if path.exists() and not path.is_file():  # reading a pipe would wait for ever
                unusable(OSError(errno.EINVAL, "not a regular file", str(path)))
            else:
                found.append(path)
    return sorted(found)


def image_extensions(file_format: str | None) -> set[str]:
    """The extensions to look for: one format's, or those of every readable image."""
    return {normalize_extension(file_format)} if file_format else readable_extensions()


def plan_outputs(
    paths: Iterable[Path], source: Path, out_folder: Path, extension: str, tally: Tally
) -> dict[Path, Path]:
    """Where each file's result goes: ``source/sub/photo.png`` to
    ``out_folder/sub/photo.<extension>``. A file whose result would overwrite another one's
    of the same run has failed, by name."""
    outputs: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for path in paths:
        relative = path.relative_to(source) if path != source else Path(path.name)
        output = out_folder / relative.with_suffix(f".{extension}")
        if output in taken:
            tally.fail_for_all(path, f"its result would overwrite that of {taken[output].name}")
        else:
            outputs[path] = output
            taken[output] = path
    return outputs
