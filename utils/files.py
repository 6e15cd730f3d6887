"""Files and folders: finding inputs, naming outputs, writing atomically."""

import csv
import errno
import io
import os
import secrets
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from utils.console import SCRIPTS, printable
from utils.tally import Tally, listed
from xfr.formats import normalize_extension, readable_extensions, unreadable_reason

DEFAULT_FORMAT = "bmp"  # format of decoded pictures
MAX_KINDS = 5  # kinds of files that a message names
RENAME = "rename one of them"
KEEP_EXTENSION = (
    "rename one, or keep both with --keep_extension, in encode.py and test.py, which names all "
    "results as in photo.jpg.xfr"
)


@contextmanager
def atomic_write(path: Path) -> Iterator:
    """A binary stream whose content appears at ``path`` complete, or not at all.

    A temporary file in the same folder is written, synced, and renamed to ``path``; then the folder
    is synced. A file that is replaced hands its mode on. On any exception, Ctrl-C included, the
    temporary file is removed and ``path`` stays as it was; a killed process leaves the temporary
    file, hidden, as .<digits>.part. An OSError names ``path``.
    """
    with suppress(FileExistsError):  # a folder; if it is a file, the next step says so
        path.parent.mkdir(parents=True)
    temporary = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        with temporary.open("x+b") as stream:
            with suppress(OSError):  # there is no such file, or the system has no modes
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        # The error names no file, or the temporary one, which means nothing to a user.
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def csv_bytes(rows: Iterable[Iterable]) -> bytes:
    """The lines of a CSV in UTF-8. File names that are not valid UTF-8 keep their bytes."""
    lines = []
    for row in rows:
        # Python before 3.13 quotes a carriage return only where lines end in one; outside of
        # quotes, the rest of a name would be a row of its own.
        text = io.StringIO(newline="")
        csv.writer(text).writerow(row)
        lines.append(text.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder last through a power failure, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_replaceable(path: Path, beginning: bytes) -> None:
    """FileExistsError for a file of the user's: it does not begin as files of this project do."""
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
    source: Path,
    extensions: set[str],
    recursive: bool,
    tally: Tally | None = None,
    others: list[Path] | None = None,
) -> list[Path]:
    """The files in the folder ``source`` that have one of the (normalized) ``extensions``, sorted;
    or ``source`` itself, if it is a file. Files of other extensions, and folders that are not gone
    into, are added to ``others``.

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

    found, left = [], []
    for folder, folders, names in os.walk(source, onerror=unusable):
        shown = [Path(folder, name) for name in folders if not name.startswith(".")]
        left += [path for path in shown if not recursive or path.is_symlink()]
        folders[:] = sorted(folders) if recursive else []
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if normalize_extension(path.suffix) not in extensions:
                left.append(path)
            elif path.exists() and not path.is_file():  # reading a pipe would wait forever
                unusable(OSError(errno.EINVAL, "not a regular file", str(path)))
            else:
                found.append(path)
    if others is not None:
        others += sorted(left)
    return sorted(found)


def nothing_found(source: Path, extensions: set[str], recursive: bool, label: str) -> str:
    """A message: what was looked for in ``source``, called ``label``, and what would help."""
    wanted = f".{min(extensions)} files" if len(extensions) == 1 else "pictures that Pillow reads"
    others: list[Path] = []
    try:
        find_files(source, extensions, recursive, others=others)
        deeper = find_files(source, extensions, recursive=True)
    except OSError as error:
        return f"no {wanted} in {label}: {error.strerror}"
    kinds = sorted({printable(path.suffix or path.name) for path in others if path.is_file()})
    if deeper:
        reason = f"its sub-folders hold {len(deeper)}, see --recursive"
    elif kinds:
        more = ", ..." if len(kinds) > MAX_KINDS else ""
        reason = f"it holds only {', '.join(kinds[:MAX_KINDS])}{more}"
    else:
        reason = "it holds no files"
    return f"no {wanted} in {label}: {reason}"


def find_all(
    sources: Sequence[Path],
    extensions: set[str],
    recursive: bool,
    tally: Tally | None,
    option: str,
    leave: Callable[[list[Path], Tally], bool] = lambda others, tally: False,
) -> dict[Path, Path]:
    """The files of ``find_files`` in several sources, each with its path within the folder.

    ``leave`` takes all other files, and says whether one of them has failed. ``option``: the flag
    of the sources, for messages, or "". FileNotFoundError, which says what would help, if a source
    does not exist, or if nothing is found in any. A notice tells of each of several empty ones.
    """
    label = f" ({option})" if option else ""
    for source in sources:
        if not source.exists():
            raise FileNotFoundError(f"no such file or folder: {source}{label}")
    names: dict[Path, Path] = {}
    others: list[Path] = []
    empty = []
    for source in sources:
        found = find_files(source, extensions, recursive, tally, others)
        for path in found:
            names.setdefault(path, relative_name(path, source))
        empty += [] if found else [source]
    taken = {*names, *sources}
    failed = leave([path for path in dict.fromkeys(others) if path not in taken], tally)
    if empty and not names and not failed and not (tally and tally.failed):
        raise FileNotFoundError(
            nothing_found(empty[0], extensions, recursive, f"{empty[0]}{label}")
        )
    if tally and len(sources) > 1:
        for source in empty:
            tally.notice(source, nothing_found(source, extensions, recursive, f"it{label}"))
    return names


def pictures_below(folder: Path, file_format: str | None = None, option: str = "") -> list[Path]:
    """The pictures in a folder and below it, of one format if given. Raises as ``find_all``."""
    return list(find_all([folder], image_extensions(file_format), True, None, option))


def find_pictures(
    sources: Sequence[Path], file_format: str | None, recursive: bool, tally: Tally, option: str
) -> dict[Path, Path]:
    """The pictures among the files of ``find_all``, of one format if given. Others are counted."""
    leave = partial(leave_others, file_format=file_format)
    return find_all(sources, image_extensions(file_format), recursive, tally, option, leave)


def leave_others(others: list[Path], tally: Tally, file_format: str | None) -> bool:
    """Count files that ``find_files`` has not found, but for .xfr files. Pictures of known kinds
    that are not read have failed, unless one ``file_format`` is looked for; all else is left alone.
    Returns whether one has failed."""
    failed: dict[str, list[Path]] = {}
    kinds: Counter[str] = Counter()
    for path in others:
        reason = None
        if path.is_file() and file_format is None:  # a pipe would be waited for
            reason = unreadable_reason(path)
        if reason is not None:
            failed.setdefault(reason, []).append(path)
        elif not path.is_dir() and normalize_extension(path.suffix) != "xfr":
            kinds[printable(path.suffix.lower() or path.name)] += 1
    for reason, paths in failed.items():
        tally.fail_alike(paths, reason)
    leave_folders(others, tally)
    if kinds:
        reason = f"not .{normalize_extension(file_format)}" if file_format else "no pictures"
        counts = [f"{count} {kind}" for kind, count in kinds.most_common(MAX_KINDS)]
        more = len(kinds) - MAX_KINDS
        counts += [f"{more} more kinds"] if more > 0 else []
        tally.leave(kinds.total(), f"{', '.join(counts)}: {reason}")
    return bool(failed)


def leave_folders(others: list[Path], tally: Tally) -> bool:
    """Count the folders that ``find_files`` has not gone into. That is no failure: False."""
    folders: dict[str, list[Path]] = {}
    for path in others:
        if path.is_dir():
            kind = "links to folders" if path.is_symlink() else "sub-folders, see --recursive"
            folders.setdefault(kind, []).append(path)
    for reason, paths in folders.items():
        tally.leave(len(paths), f"{listed(paths)}: {reason}")
    return False


def image_extensions(file_format: str | None) -> set[str]:
    """The normalized extensions to look for: of one format, or of all readable ones."""
    return {normalize_extension(file_format)} if file_format else readable_extensions()


def names_file(out: Path) -> bool:
    """Whether ``out`` is no folder, and has the extension of a picture or a compressed one."""
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


def output_name(name: Path, extension: str, keep_extension: bool = False) -> Path:
    """The name of the result of a file ``name``.

    >>> output_name(Path("a/b.jpg"), "xfr").as_posix(), output_name(Path("b.jpg"), "xfr", True).name
    ('a/b.xfr', 'b.jpg.xfr')
    """
    if keep_extension:
        return name.with_name(f"{name.name}.{extension}")
    return name.with_suffix(f".{extension}")


def plan_outputs(
    names: Mapping[Path, Path],
    sources: Sequence[Path],
    out: Path,
    extension: str,
    tally: Tally,
    keep_extension: bool = False,
) -> dict[Path, Path]:
    """The output of each file by its name within ``sources``: ``out/sub/photo.<extension>`` for
    sub/photo.png; ``out`` itself, if it names a file, as the only source does then. ValueError if
    only one of them does.

    Files that have the same output all count as failed: the one that is meant is not known.
    """
    if names_file(out):
        if len(sources) > 1 or not sources[0].is_file():
            many = "there are several inputs" if len(sources) > 1 else f"{sources[0]} is a folder"
            raise ValueError(f"{out} is the name of a file, but {many}")
        if normalize_extension(out.suffix) != extension:
            raise ValueError(f"the name of {out} should end in .{extension}")
        return dict.fromkeys(names, out)
    alike: dict[Path, list[Path]] = {}
    for path, name in names.items():
        alike.setdefault(out / output_name(name, extension, keep_extension), []).append(path)
    planned = {}
    for output, paths in alike.items():
        if len(paths) == 1:
            planned[paths[0]] = output
            continue
        differ = len({path.name for path in paths}) == len(paths)
        shown = [path.name if differ else str(path) for path in paths]
        error = ValueError(f"{' and '.join(shown)} have the same result, {output.name}")
        error.add_note(KEEP_EXTENSION if differ and extension == "xfr" else RENAME)
        for path in paths:
            tally.fail_for_all(path, error)
    return planned
