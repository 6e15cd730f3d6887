"""The work of rd.py: the codecs and pictures that were asked for, and what their files score."""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from benchmarks.measures import Measure
from benchmarks.peers import Codec, Ours, Stored, chosen_models, make_peers, stored_codecs
from benchmarks.results import Results, Row
from utils.devices import pick_device
from utils.files import find_files, image_extensions
from utils.tally import Tally
from xfr.images import Picture, read_picture

Complete = dict[str, list[str]]  # folders, and the names in the CSV of their pictures


def choose_codecs(args: Namespace) -> list[Codec]:
    """The codecs to measure, ours first. Those that are not available are named on stderr."""
    chosen: list[Codec] = []
    if "ours" in args.codecs:
        models = chosen_models(args)
        device = pick_device(args.device)
        for model in models:
            ours = Ours(model, args.qualities, device)
            for effort in dict.fromkeys(args.effort):
                if not effort:
                    chosen.append(ours)
                elif ours.has_effort:
                    chosen.append(ours.at_effort(effort))
    for peer in make_peers():
        if peer.name in args.codecs:
            if peer.available:
                peer.settings = peer.settings[:: args.every]
                chosen.append(peer)
            else:
                remedy = f": pip install {peer.package}" if peer.package else ""
                print(f"note: {peer.name}: not available in this Pillow{remedy}", file=sys.stderr)
    if not chosen:
        raise ValueError("there is no codec to measure")
    return distinct(chosen)


def choose_stored(args: Namespace, results: Results) -> list[Stored]:
    """The codecs of a CSV that were asked for, ours first."""
    models = [model.stem for model in args.model or []]
    chosen = []
    for codec in stored_codecs(results):
        if codec.kind == "peer" and codec.name in args.codecs:
            chosen.append(codec)
        elif codec.kind == "ours" and "ours" in args.codecs and codec.effort in args.effort:
            stem = codec.name.removesuffix(f"-effort-{codec.effort}")
            chosen += [codec] if not models or stem in models else []
    if not chosen:
        raise ValueError(f"{results.path} has none of these codecs")
    return distinct(chosen)


def distinct(codecs: list) -> list:
    """The codecs, ours with their keys as names where two checkpoints have the same name."""
    if len({codec.name for codec in codecs}) < len(codecs):
        for codec in codecs:
            if codec.kind == "ours":
                codec.name = codec.label = codec.key
    return codecs


def stored_pictures(sources: list[Path], results: Results) -> Complete:
    """The pictures of a CSV by folder: those that ``sources`` name, or belong to, or else all."""
    folders: Complete = {}
    for name in dict.fromkeys(picture for _, _, picture, _ in results.rows):
        folder = Path(name).parent
        if not sources or folder in sources or Path(name) in sources:
            folders.setdefault(str(folder), []).append(name)
    if not folders:
        raise ValueError(f"{results.path} has none of these pictures")
    return folders


def pictures_by_folder(sources: list[Path]) -> dict[str, dict[str, Path]]:
    """The pictures by the names of their folders, then by their names in the CSV. ValueError if
    there are none, or if two would have the same name."""
    folders: dict[str, dict[str, Path]] = {}
    for source in sources:
        for path in find_files(source, image_extensions(None), recursive=False):
            folder = path.parent.resolve()
            known = folders.setdefault(folder.name, {})
            other = known.setdefault(f"{folder.name}/{path.name}", path)
            if other.parent.resolve() != folder:
                raise ValueError(f"{other} and {path} would have the same name in the CSV")
    if not folders:
        places = ", ".join(map(str, sources))
        raise ValueError(f"no pictures in {places}; sub-folders are not searched")
    return folders


def score(
    codec: Codec, setting: int, name: str, picture: Picture, path: Path, measures: list[Measure]
) -> Iterator[Row]:
    """The rows of one picture, which ``codec`` writes to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec.write(picture, setting, path)
    decoded, size = codec.read(path), path.stat().st_size
    height, width = picture.shape
    for one in measures:
        value = one.score(picture.rgb, decoded)
        yield Row(codec.key, setting, name, size, 8 * size / (height * width), one.name, value)


def measure_folders(
    folders: dict[str, dict[str, Path]],
    codecs: list[Codec],
    measures: list[Measure],
    results: Results,
    keep: Path | None,
) -> tuple[Complete, bool]:
    """Measure what ``results`` lacks. Returns the pictures that all codecs could code, and whether
    any failed. ``keep``: a folder for the files. ValueError if all pictures of a folder failed."""
    paths = {name: path for pictures in folders.values() for name, path in pictures.items()}
    with nullcontext(keep) if keep else TemporaryDirectory() as files:
        tally = measure_all(codecs, measures, paths, results, Path(files), bool(keep))
    print(f"{tally.done} files measured, {tally.skipped} were in {results.path} already")
    wanted = [(codec.key, setting) for codec in codecs for setting in codec.settings]
    complete = {}
    for folder, pictures in folders.items():
        complete[folder] = [
            name for name in pictures
            if not any(results.lacking(*pair, name, measures) for pair in wanted)
        ]  # fmt: skip
        if not complete[folder]:
            raise ValueError(f"no picture in {folder} was coded by all codecs")
        if failed := len(pictures) - len(complete[folder]):
            print(f"note: left out of all averages, since they failed: {failed}")
    return complete, bool(tally.failed)


def measure_all(
    codecs: list[Codec],
    measures: list[Measure],
    paths: dict[str, Path],
    results: Results,
    files: Path,
    keep: bool,
) -> Tally:
    """Measure what ``results`` lacks. ``paths``: the pictures by their names in the CSV."""
    tally = Tally("measured")
    wanted = [(codec, setting) for codec in codecs for setting in codec.settings]
    missing: dict[str, list] = {name: [] for name in paths}
    for name, tasks in missing.items():
        for codec, setting in wanted:
            if lacking := results.lacking(codec.key, setting, name, measures):
                tasks.append((codec, setting, lacking))
    total = sum(map(len, missing.values()))
    tally.skipped = len(paths) * len(wanted) - total
    with tqdm(total=total, unit="file", disable=not total) as bar:
        for name, tasks in missing.items():
            try:
                picture = read_picture(paths[name]) if tasks else None
            except Exception as error:  # a reader of foreign files may raise nearly anything
                tally.fail(paths[name], error)
                bar.update(len(tasks))
                continue
            for codec, setting, lacking in tasks:
                bar.set_postfix_str(f"{codec.label} {setting}", refresh=False)
                file = files / codec.key / str(setting) / f"{name}.{codec.extension}"
                try:
                    for row in score(codec, setting, name, picture, file, lacking):
                        results.add(row)
                except (OSError, ValueError) as error:
                    tally.fail(paths[name], f"{codec.label} at {setting}: {error}")
                else:
                    tally.done += 1
                if not keep:
                    file.unlink(missing_ok=True)
                bar.update()
    return tally
