"""Files that belong together: an original, its .xfr file and its reconstructions."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from utils.files import find_all, find_files, output_name, plan_outputs
from utils.processes import processes
from utils.tally import Tally
from xfr.formats import readable_extensions

DECODE_AGAIN = "decode again, or name the extension of the new pictures (--file_format)"


class PictureFiles(NamedTuple):
    """The files of one picture. ``second``: its reconstruction in another run, if there is one."""

    original: Path
    compressed: Path
    reconstructed: Path
    second: Path | None = None

    @contextmanager
    def opened(self) -> Iterator["OpenFiles"]:
        """The files, opened: one that is replaced meanwhile stays as it was. OSError or ValueError
        if a file is missing, empty, or older than what it is made from."""
        for path in (self.compressed, self.reconstructed):
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing")
        with ExitStack() as stack:
            files = OpenFiles(*(path and stack.enter_context(path.open("rb")) for path in self))
            for stream in (files.compressed, files.reconstructed):
                if not status(stream).st_size:
                    raise ValueError(f"{stream.name} is empty")
            if status(files.reconstructed).st_mtime_ns < status(files.compressed).st_mtime_ns:
                error = ValueError(f"{self.reconstructed} is older than {self.compressed}")
                error.add_note(DECODE_AGAIN)
                raise error
            yield files


class OpenFiles(NamedTuple):
    """``PictureFiles``, open for reading."""

    original: BinaryIO
    compressed: BinaryIO
    reconstructed: BinaryIO
    second: BinaryIO | None


def status(stream: BinaryIO) -> os.stat_result:
    """Size and date of an open file."""
    return os.fstat(stream.fileno())


def match_files(
    folders: PictureFiles, extension: str, recursive: bool, tally: Tally, keep_extension: bool
) -> dict[Path, PictureFiles]:
    """The PictureFiles of each original in ``folders``, which may be single files too.

    ``extension``: that of the reconstructions; those of a second run may have any.
    ``keep_extension``: that of an original is part of the names of its results. Results that are
    missing are listed nevertheless; those without an original are noted, once. An original for
    which the second run has several pictures counts as failed and is left out. FileNotFoundError if
    one of the folders has no results at all.
    """
    kinds, root = readable_extensions(), folders.original
    names = find_all([root], kinds, recursive, tally, "--folder_path_original")
    packed = plan_outputs(names, [root], folders.compressed, "xfr", tally, keep_extension)
    results = {path: output_name(names[path], "xfr", keep_extension) for path in packed}
    unpacked = plan_outputs(results, [root], folders.reconstructed, extension, tally)
    option = "--folder_path_compressed"
    found = {*find_all([folders.compressed], {"xfr"}, recursive, tally, option)}
    option = "--folder_path_reconstructed, --file_format"
    found |= {*find_all([folders.reconstructed], {extension}, recursive, tally, option)}
    strays = sorted(found - {*packed.values(), *unpacked.values()})
    if strays and root.is_dir() and processes()[0] == 0:
        more = f", and {len(strays) - 1} more" if len(strays) > 1 else ""
        tally.notice(strays[0], f"it has no original: left out{more}")
    second: dict[Path, Path | None] = dict.fromkeys(unpacked)
    if folders.second is not None:
        results = {path: results[path] for path in unpacked}
        second = match_second(results, root, folders.second, recursive, tally)
    return {
        path: PictureFiles(path, packed[path], unpacked[path], other)
        for path, other in second.items()
    }


def match_second(
    results: Mapping[Path, Path], root: Path, second: Path, recursive: bool, tally: Tally
) -> dict[Path, Path | None]:
    """The reconstruction of each original of the folder ``root`` in the second run, None where that
    has none. ``results``: the names of the .xfr files. FileNotFoundError if the second run has no
    reconstruction at all.

    Originals that have several count as failed and are left out: the one that is meant is not
    known.
    """
    found = find_all([second], readable_extensions(), recursive, tally, "--folder_path_second")
    if second.is_file():
        if not root.is_file():
            raise ValueError(f"{second} is a file, but {root} is a folder")
        return dict.fromkeys(results, second)
    by_name = group_by_name(found)
    matches: dict[Path, Path | None] = {}
    for path, result in results.items():
        candidates = by_name.get(second / result.with_suffix(""), [])
        if len(candidates) > 1:
            names = " and ".join(candidate.name for candidate in candidates)
            tally.fail_for_all(path, f"{second} (--folder_path_second) has {names}: keep one")
        else:
            matches[path] = candidates[0] if candidates else None
    if matches and not any(matches.values()):
        raise FileNotFoundError(f"no picture in {second} (--folder_path_second) has an original")
    return matches


def note_others(
    files: Collection[PictureFiles], folder: Path, recursive: bool, tally: Tally
) -> None:
    """Note, once, that a reconstruction has others of its name beside it, which may be meant."""
    by_name: dict[Path, list[Path]] = {}
    with suppress(OSError):  # a folder that cannot be listed
        by_name = group_by_name(find_files(folder, readable_extensions(), recursive))
    doubtful = [one for one in files if len(by_name.get(one.reconstructed.with_suffix(""), [])) > 1]
    if doubtful and processes()[0] == 0:
        path = doubtful[0].reconstructed
        others = [other.name for other in by_name[path.with_suffix("")] if other != path]
        more = f", and {len(doubtful) - 1} more of this kind" if len(doubtful) > 1 else ""
        tally.notice(path, f"scored, and not {' or '.join(others)}{more}: see --file_format")


def group_by_name(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    groups: dict[Path, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.with_suffix(""), []).append(path)
    return groups
