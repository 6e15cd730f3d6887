"""Files and folders: finding inputs, naming outputs, writing atomically."""

import errno
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.console import SCRIPTS, printable
from utils.tally import Tally
from xfr.formats import normalize_extension, readable_extensions

DEFAULT_FORMAT = "bmp"  # of decoded pictures
SAME_RESULT = "rename one, or encode each format on its own (--file_format, --out_folder)"


@contextmanager
def atomic_write(path: Path) -> Iterator:
    """A binary stream whose content appears at ``path`` complete, or not at all.

    A temporary file in the same folder is written, synced, and renamed to ``path``. On any
    exception, Ctrl-C included, the temporary file is removed and ``path`` stays as it was; a killed
    process leaves the temporary file, hidden, as .<digits>.part. An OSError names ``path``.
    """
    with suppress(FileExistsError):  # a folder; if it is a file, the next step says so
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
        # The error names no file, or the temporary one, which means nothing to a user.
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def check_replaceable(path: Path, beginning: bytes) -> None:
    """FileExistsError if ``path`` is a file of the user's: one that does not begin with
    ``beginning``, as all files do that this project writes there."""
    if not path.is_file():
        return
    with path.open("rb") as stream:
        head = stream.read(len(beginning))
    if head and head != beginning:  # an empty file has nothing to lose
        raise FileExistsError(f"{path} exists, and is no result of this program: move it away")


def check_folder(folder: Path) -> None:
    """OSError if no file can be written to ``folder``, or to where it would have to be made."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


def find_checkpoint(path: Path) -> Path:
    """``path``, or else the same path beside the scripts, so that the checkpoints that come with
    them are found from any folder. FileNotFoundError if it is in neither place."""
    for candidate in (path, SCRIPTS / path):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no such checkpoint: {path} (--model)")


def find_files(
    source: Path, extensions: set[str], recursive: bool, tally: Tally | None = None
) -> list[Path]:
    """The files in the folder ``source`` that have one of the (normalized) ``extensions``, sorted;
    or ``source`` itself, if it is a file.

    Raises FileNotFoundError if there is no such folder or file. Folders that cannot be listed,
    pipes and devices count as failed in ``tally``; without a tally they are an OSError. Symbolic
    links to folders are not followed, so that a loop of them does no harm; hidden files are
    ignored.
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
            if path.exists() and not path.is_file():  # reading a pipe would wait forever
                unusable(OSError(errno.EINVAL, "not a regular file", str(path)))
            else:
                found.append(path)
    return sorted(found)


def find_inputs(
    source: Path, extensions: set[str], recursive: bool, tally: Tally | None, option: str
) -> list[Path]:
    """The files of ``find_files``, for a script that has nothing to do without any: then
    FileNotFoundError says what was looked for, and what would help. ``option`` names ``source`` on
    the command line."""
    if not source.exists():
        raise FileNotFoundError(f"no such file or folder: {source} ({option})")
    found = find_files(source, extensions, recursive, tally)
    if found or (tally and tally.failed):
        return found
    wanted = f".{min(extensions)} files" if len(extensions) == 1 else "pictures that Pillow reads"
    deeper: list[Path] = []
    with suppress(OSError):  # a folder that cannot be listed
        deeper = find_files(source, extensions, recursive=True)
    names = [path.name for path in source.iterdir() if path.is_file()]
    kinds = sorted({printable(Path(name).suffix or name) for name in names if name[0] != "."})
    if deeper:
        reason = f"its sub-folders hold {len(deeper)}, see --recursive"
    elif kinds:
        reason = f"it holds only {', '.join(kinds[:5])}{', ...' if len(kinds) > 5 else ''}"
    else:
        reason = "it holds no files"
    raise FileNotFoundError(f"no {wanted} in {source} ({option}): {reason}")


def image_extensions(file_format: str | None) -> set[str]:
    """The normalized extensions to look for: of one format, or of all readable ones."""
    return {normalize_extension(file_format)} if file_format else readable_extensions()


def names_file(out: Path) -> bool:
    """Whether ``out`` is to be a file: it is no folder yet, and has the extension of a picture or
    of a compressed one."""
    extension = normalize_extension(out.suffix)
    return not out.is_dir() and extension in {"xfr", *readable_extensions()}


def check_output(out: Path) -> None:
    """OSError if nothing can be written to the folder or file ``out``."""
    check_folder(out.parent if names_file(out) else out)


def output_format(file_format: str | None, out: Path) -> str:
    """The normalized extension of pictures to be written to ``out``: ``file_format`` if given, else
    the extension of ``out`` if it names a file, else DEFAULT_FORMAT."""
    named = out.suffix if names_file(out) else DEFAULT_FORMAT
    return normalize_extension(file_format or named)


def relative_name(path: Path, source: Path) -> Path:
    """The path of a file within the folder ``source``; its name, if it is ``source`` itself."""
    return path.relative_to(source) if path != source else Path(path.name)


def plan_outputs(
    paths: Iterable[Path], source: Path, out: Path, extension: str, tally: Tally
) -> dict[Path, Path]:
    """The output of each file: ``out/sub/photo.<extension>`` for ``source/sub/photo.png``; ``out``
    itself, if it names a file, as ``source`` does then. ValueError if only one of them does.

    Files that have the same output all count as failed: the one that is meant is not known.
    """
    if names_file(out):
        if not source.is_file():
            raise ValueError(f"{out} is the name of a file, but {source} is a folder")
        if normalize_extension(out.suffix) != extension:
            raise ValueError(f"the name of {out} should end in .{extension}")
        return dict.fromkeys(paths, out)
    sources: dict[Path, list[Path]] = {}
    for path in paths:
        output = out / relative_name(path, source).with_suffix(f".{extension}")
        sources.setdefault(output, []).append(path)
    planned = {}
    for output, alike in sources.items():
        if len(alike) == 1:
            planned[alike[0]] = output
            continue
        names = " and ".join(path.name for path in alike)
        error = ValueError(f"{names} have the same result, {output.name}")
        error.add_note(SAME_RESULT)
        for path in alike:
            tally.fail_for_all(path, error)
    return planned
