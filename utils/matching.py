"""Which files belong together: an original, its .xfr file and its reconstructions."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from utils.files import find_inputs, plan_outputs, relative_name
from utils.processes import processes
from utils.tally import Tally
from xfr.formats import readable_extensions


class PictureFiles(NamedTuple):
    """The files of one picture. ``second``: its reconstruction in another run, if there is one."""

    original: Path
    compressed: Path
    reconstructed: Path
    second: Path | None = None


def match_files(
    folders: PictureFiles, extension: str, recursive: bool, tally: Tally
) -> dict[Path, PictureFiles]:
    """The PictureFiles of each original in ``folders``, which may be single files too.

    ``extension``: that of the reconstructions; those of a second run may have any. Results that are
    missing are listed nevertheless; those without an original are noted, once. FileNotFoundError if
    there are none at all in one of the folders.
    """
    kinds, root = readable_extensions(), folders.original
    paths = find_inputs(root, kinds, recursive, tally, "--folder_path_original")
    packed = plan_outputs(paths, root, folders.compressed, "xfr", tally)
    unpacked = plan_outputs(packed, root, folders.reconstructed, extension, tally)
    option = "--folder_path_compressed"
    found = find_inputs(folders.compressed, {"xfr"}, recursive, tally, option)
    option = "--folder_path_reconstructed, --file_format"
    found += find_inputs(folders.reconstructed, {extension}, recursive, tally, option)
    strays = sorted({*found} - {*packed.values(), *unpacked.values()})
    if strays and root.is_dir() and processes()[0] == 0:
        more = f", and {len(strays) - 1} more" if len(strays) > 1 else ""
        tally.notice(strays[0], f"it has no original: left out{more}")
    second = match_second(unpacked, folders, recursive, tally) if folders.second else {}
    return {
        path: PictureFiles(path, packed[path], unpacked[path], second.get(path))
        for path in unpacked
    }


def match_second(
    originals: Iterable[Path], folders: PictureFiles, recursive: bool, tally: Tally
) -> dict[Path, Path]:
    """The reconstruction of each original in the second run, where it has one. FileNotFoundError if
    none has."""
    root, second = folders.original, folders.second
    found = find_inputs(second, readable_extensions(), recursive, tally, "--folder_path_second")
    if second.is_file():
        if not root.is_file():
            raise ValueError(f"{second} is a file, but {root} is a folder")
        return dict.fromkeys(originals, second)
    by_name = {path.relative_to(second).with_suffix(""): path for path in found}
    names = {path: relative_name(path, root).with_suffix("") for path in originals}
    matches = {path: by_name[name] for path, name in names.items() if name in by_name}
    if names and not matches:
        raise FileNotFoundError(f"no picture in {second} (--folder_path_second) has an original")
    return matches
