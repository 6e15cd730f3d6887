"""Rate-distortion curves of our codecs and of Pillow's: a CSV, tables of BD-rates, plots.

examples:
  python -m benchmarks.rd out/original/
  python -m benchmarks.rd kodak/ --published benchmarks/published_kodak.csv --anchor jpeg avif
  python -m benchmarks.rd kodak/kodim0[1-8].png --qualities 10 20 35 50 70 --every 2
  python -m benchmarks.rd photos/ screens/ --codecs ours avif-psnr webp --anchor avif-psnr webp
  python -m benchmarks.rd kodak/ --model a.tar --model b.tar --codecs ours avif --anchor avif \\
      --measures ssimulacra2 fsim vsi haarpsi mdsi --at_bpp 0.15 0.3 0.6

Every picture is written to a file, read back and decoded; rates count whole files. The pictures of
each folder have their own tables and plots. What is in OUT/rd.csv already is not measured again, so
an interrupted run continues where it stopped, and a later run may add codecs, qualities, measures
and pictures. Remove that file to measure everything again, for example after an update of Pillow.

AVIF is measured as Pillow writes it, which newer versions tune for the eye, and tuned for PSNR
(avif-psnr). JPEG XL and the measures fsim, vsi, haarpsi and mdsi, which no codec here was made for,
need: pip install -r benchmarks/requirements.txt
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measures import DEFAULT_MEASURES, MEASURES, Measure
from benchmarks.models import add_model_argument, chosen_models
from model.limits import MAX_EFFORT, MAX_QUALITY, MIN_QUALITY
from utils.console import make_parser, number, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.peers import Ours, Peer
    from benchmarks.results import Results, Row
    from utils.tally import Tally
    from xfr.images import Picture

CODECS = ["ours", "jpeg", "webp", "avif", "avif-psnr", "jpeg2000", "jpegxl"]


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "pictures",
        metavar="FOLDER",
        nargs="+",
        type=Path,
        help="folders of pictures, whose sub-folders are ignored, or pictures",
    )
    add_model_argument(parser)
    add(
        "--codecs",
        nargs="+",
        choices=CODECS,
        default=CODECS,
        metavar="CODEC",
        help="codecs to measure",
    )
    add(
        "--measures",
        nargs="+",
        choices=list(MEASURES),
        default=DEFAULT_MEASURES,
        metavar="MEASURE",
        help=f"of {', '.join(MEASURES)}; ssimulacra2 takes most of the time",
    )
    add(
        "--qualities",
        nargs="+",
        type=number(int, MIN_QUALITY, MAX_QUALITY),
        default=[1, *range(10, 101, 10)],
        metavar="QUALITY",
        help="qualities of our codecs; their default quality is measured as well",
    )
    add(
        "--every",
        type=number(int, 1),
        default=1,
        metavar="N",
        help="measure only every Nth setting of the other codecs",
    )
    add(
        "--effort",
        nargs="+",
        type=number(int, 0, MAX_EFFORT),
        default=[0],
        metavar="EFFORT",
        help="efforts of our codecs, as for encode.py; each is a separate curve",
    )
    add(
        "--anchor",
        nargs="+",
        action="extend",
        metavar="CODEC",
        help="what BD-rates are relative to: codecs, checkpoints or published curves, by their "
        "names (default: jpeg)",
    )
    add(
        "--range",
        nargs=3,
        action="append",
        metavar=("MEASURE", "LOW", "HIGH"),
        help="range that BD-rates are averaged over, may be repeated (default: "
        f"{', '.join(f'{m.name} {m.low:g} {m.high:g}' for m in MEASURES.values())}); in dB for all "
        "measures but ssimulacra2",
    )
    add(
        "--at_bpp",
        nargs="+",
        type=number(float, 0.001),
        metavar="BPP",
        help="also print what all measures give at these rates",
    )
    add(
        "--published",
        type=Path,
        metavar="CSV",
        help="also draw the curves of a CSV with the columns codec, bpp, psnr, source, or other "
        "measures; they are comparable only if FOLDER holds the same pictures",
    )
    add("--out", type=Path, default=Path("./out/scores/rd/"), help="directory for the results")
    add("--keep", type=Path, metavar="FOLDER", help="keep the compressed files in this directory")
    add("--device", default="auto", help="where our networks run: auto, cpu, cuda, cuda:1, mps")
    return parser.parse_args()


def choose_measures(args: Namespace) -> dict[Measure, tuple[float, float]]:
    """The measures with the ranges of their BD-rates. ValueError if one is not available."""
    chosen = {MEASURES[name]: (MEASURES[name].low, MEASURES[name].high) for name in args.measures}
    for one in chosen:
        if not one.available:
            raise ValueError(f"--measures {one.name} needs a package: pip install {one.package}")
    for name, *limits in args.range or []:
        if name not in args.measures:
            raise ValueError(f"--range {name} is not one of {', '.join(args.measures)}")
        try:
            low, high = map(float, limits)
        except ValueError:
            raise ValueError(f"--range {name}: {' and '.join(limits)} are no numbers") from None
        if not low < high:
            raise ValueError(f"--range {name} takes the lower value first")
        chosen[MEASURES[name]] = low, high
    return chosen


def choose_codecs(args: Namespace) -> "list[Ours | Peer]":
    """The codecs to measure, ours first. Those that are not available are named on stderr."""
    from benchmarks.peers import Ours, make_peers
    from utils.devices import pick_device

    chosen = []
    if "ours" in args.codecs:
        models = dict.fromkeys(chosen_models(args))
        device = pick_device(args.device)
        for model in models:
            ours = Ours(model, args.qualities, device)
            for effort in dict.fromkeys(args.effort):
                if not effort:
                    chosen.append(ours)
                elif ours.has_effort:
                    chosen.append(ours.at_effort(effort))
        if not models:
            print("note: ours: no checkpoint was found, see --model", file=sys.stderr)
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
    if len({codec.name for codec in chosen}) < len(chosen):  # two checkpoints of one name
        for codec in chosen:
            if isinstance(codec, Ours):
                codec.name = codec.label = codec.key
    return chosen


def find_pictures(sources: list[Path]) -> dict[str, dict[str, Path]]:
    """The pictures by the names of their folders, then by their names in the CSV."""
    from utils.files import find_files, image_extensions

    folders: dict[str, dict[str, Path]] = {}
    for source in sources:
        for path in find_files(source, image_extensions(None), recursive=False):
            folder = path.parent.resolve()
            known = folders.setdefault(folder.name, {})
            other = known.setdefault(f"{folder.name}/{path.name}", path)
            if other.parent.resolve() != folder:
                raise ValueError(f"{other} and {path} would have the same name in the CSV")
    return folders


def score(
    codec: "Ours | Peer",
    setting: int,
    name: str,
    picture: "Picture",
    path: Path,
    measures: list[Measure],
) -> "Iterator[Row]":
    """The rows of one picture, which ``codec`` writes to ``path``."""
    from benchmarks.results import Row

    path.parent.mkdir(parents=True, exist_ok=True)
    codec.write(picture, setting, path)
    decoded, size = codec.read(path), path.stat().st_size
    height, width = picture.shape
    for one in measures:
        value = one.score(picture.rgb, decoded)
        yield Row(codec.key, setting, name, size, 8 * size / (height * width), one.name, value)


def measure_all(
    codecs: "list[Ours | Peer]",
    measures: list[Measure],
    paths: dict[str, Path],
    results: "Results",
    files: Path,
    keep: bool,
) -> "Tally":
    """Measure what ``results`` lacks. ``paths``: the pictures by their names in the CSV."""
    from tqdm import tqdm

    from utils.tally import Tally
    from xfr.images import read_picture

    tally = Tally("measured")
    wanted = [(codec, setting) for codec in codecs for setting in codec.settings]
    missing = {
        name: [
            (codec, setting, lacking)
            for codec, setting in wanted
            if (lacking := results.lacking(codec.key, setting, name, measures))
        ]
        for name in paths
    }
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
                file = files / codec.key / str(setting)
                file /= f"{paths[name].name}.{codec.extension}"
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


def main(args: Namespace) -> int:
    from contextlib import nullcontext
    from tempfile import TemporaryDirectory

    from benchmarks.curves import make_series, read_published
    from benchmarks.plots import plot
    from benchmarks.results import Results
    from benchmarks.tables import folder_report, preamble, report
    from utils.console import printable
    from utils.files import atomic_write

    measures = choose_measures(args)
    published = read_published(args.published) if args.published else {}
    codecs = choose_codecs(args)
    names, anchors = [*(codec.name for codec in codecs), *published], args.anchor or ["jpeg"]
    for anchor in anchors:
        if anchor not in names:
            raise ValueError(f"--anchor {anchor} is not one of {', '.join(names)}")
    folders = find_pictures(args.pictures)
    paths = {name: path for pictures in folders.values() for name, path in pictures.items()}
    results = Results(args.out / "rd.csv")
    with nullcontext(args.keep) if args.keep else TemporaryDirectory() as files:
        tally = measure_all(codecs, list(measures), paths, results, Path(files), bool(args.keep))
    print(f"{tally.done} files measured, {tally.skipped} were in {results.path} already")
    wanted = [(codec.key, setting) for codec in codecs for setting in codec.settings]
    parts, series = [preamble(args.published)], {}
    for folder, pictures in folders.items():
        complete = [
            name for name in pictures
            if not any(results.lacking(*pair, name, measures) for pair in wanted)
        ]  # fmt: skip
        if not complete:
            raise ValueError(f"no picture in {folder} was coded by all codecs")
        if len(complete) < len(pictures):
            failed = len(pictures) - len(complete)
            print(f"note: left out of all averages, since they failed: {failed}")
        several = len(complete) > 1
        title = printable(f"{len(complete)} pictures of {folder}" if several else complete[0])
        measured = {codec.name: make_series(results, codec, complete, measures) for codec in codecs}
        series[title] = measured | published
        parts.append(report(title, series[title], anchors, measures, args.at_bpp or []))
        for one in measures:
            plot(args.out / f"{folder}-{one.name}.png", series[title].values(), one, title)
    if len(folders) > 1:
        parts.append(folder_report(series, anchors, measures))
    text = "\n\n".join(parts) + "\n"
    with atomic_write(args.out / "rd.md") as stream:
        stream.write(text.encode())
    print(f"\n{text}\n-> {args.out}: rd.csv, rd.md and plots")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    run(main, parse_args())
