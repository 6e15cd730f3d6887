"""Which files belong together: an original, its .xfr file and its reconstruction."""

from pathlib import Path

from utils.files import find_inputs, plan_outputs
from utils.images import readable_extensions
from utils.jobs import Tally
from utils.processes import processes


def match_results(
    originals: Path,
    compressed: Path,
    reconstructed: Path,
    extension: str,
    recursive: bool,
    tally: Tally,
) -> dict[Path, tuple[Path, Path]]:
    """The .xfr file and the reconstruction of each original, which need not exist.

    The three are folders, or one file each; ``extension`` is that of the reconstructions. Results
    without an original are noted, once. FileNotFoundError if one of the folders has no such files.
    """
    kinds = readable_extensions()
    paths = find_inputs(originals, kinds, recursive, tally, "--folder_path_original")
    packed = plan_outputs(paths, originals, compressed, "xfr", tally)
    unpacked = plan_outputs(packed, originals, reconstructed, extension, tally)
    found = find_inputs(compressed, {"xfr"}, recursive, tally, "--folder_path_compressed")
    option = "--folder_path_reconstructed, --file_format"
    found += find_inputs(reconstructed, {extension}, recursive, tally, option)
    strays = sorted({*found} - {*packed.values(), *unpacked.values()})
    if strays and originals.is_dir() and processes()[0] == 0:
        more = f", and {len(strays) - 1} more" if len(strays) > 1 else ""
        tally.notice(strays[0], f"it has no original: left out{more}")
    return {path: (packed[path], unpacked[path]) for path in unpacked}
