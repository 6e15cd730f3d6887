"""Rate-distortion curves of our codecs and of Pillow's: a CSV, tables, two plots.

examples:
  python -m benchmarks.rd out/original/
  python -m benchmarks.rd kodak/ --published benchmarks/published_kodak.csv --anchor jpeg avif
  python -m benchmarks.rd kodak/ --model new/best.tar --codecs ours jpeg --qualities 10 50 90
  python -m benchmarks.rd kodak/ --codecs ours jpeg --effort 0 8
  python -m benchmarks.rd kodak/ --out out/scores/kodak/ --keep out/compressed/kodak/

Every picture is written to a file, read back and decoded; rates count whole files. What is in
OUT/rd.csv already is not measured again, so an interrupted run continues where it stopped. Remove
that file to measure everything again, for example after an update of Pillow.
"""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from model.limits import MAX_EFFORT, MAX_QUALITY, MIN_QUALITY
from utils.console import make_parser, number, run

if TYPE_CHECKING:
    from benchmarks.curves import Series
    from benchmarks.peers import Ours, Peer
    from benchmarks.results import Results, Row
    from utils.images import Picture
    from utils.jobs import Tally

CODECS = ["ours", "jpeg", "webp", "avif", "jpeg2000", "jpegxl"]
MODELS = Path("./out/main.tar"), Path("./out/hyperprior.tar")


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="pictures; sub-folders are ignored")
    add(
        "--model",
        type=Path,
        action="append",
        help="checkpoint of our codecs, may be repeated (default: those that exist of "
        f"{' and '.join(map(str, MODELS))})",
    )
    add(
        "--codecs",
        nargs="+",
        choices=CODECS,
        default=CODECS,
        metavar="CODEC",
        help="codecs to measure",
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
        nargs=2,
        type=float,
        default=[26.0, 36.0],
        metavar=("LOW", "HIGH"),
        help="range of PSNR, in dB, that BD-rates are averaged over",
    )
    add(
        "--published",
        type=Path,
        metavar="CSV",
        help="also draw the curves of a CSV with the columns codec, bpp, psnr, source; they are "
        "comparable only if FOLDER holds the same pictures",
    )
    add("--out", type=Path, default=Path("./out/scores/rd/"), help="directory for the results")
    add("--keep", type=Path, metavar="FOLDER", help="keep the compressed files in this directory")
    add("--device", default="auto", help="where our networks run: auto, cpu, cuda, cuda:1, mps")
    return parser.parse_args()


def choose_codecs(args: Namespace) -> "list[Ours | Peer]":
    """The codecs to measure, ours first. Those that are not available are named on stderr."""
    from benchmarks.peers import Ours, make_peers
    from utils.devices import pick_device

    chosen = []
    if "ours" in args.codecs:
        models = dict.fromkeys(args.model or [model for model in MODELS if model.is_file()])
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
                chosen.append(peer)
            else:
                print(f"note: {peer.name}: not available in this Pillow", file=sys.stderr)
    if not chosen:
        raise ValueError("there is no codec to measure")
    if len({codec.name for codec in chosen}) < len(chosen):  # two checkpoints of one name
        for codec in chosen:
            if isinstance(codec, Ours):
                codec.name = codec.label = codec.key
    return chosen


def measure(codec: "Ours | Peer", setting: int, name: str, picture: "Picture", path: Path) -> "Row":
    """The row of one picture, which ``codec`` writes to ``path``."""
    from benchmarks.results import Row
    from utils.metrics import ms_ssim, psnr, ssim

    path.parent.mkdir(parents=True, exist_ok=True)
    codec.write(picture, setting, path)
    decoded, size = codec.read(path), path.stat().st_size
    scores = (score(picture.rgb, decoded) for score in (psnr, ssim, ms_ssim))
    height, width = picture.shape
    return Row(codec.key, setting, name, size, 8 * size / (height * width), *scores)


def measure_all(
    codecs: "list[Ours | Peer]", paths: dict[str, Path], results: "Results", files: Path, keep: bool
) -> "Tally":
    """Measure what ``results`` lacks. ``paths``: the pictures by their names in the CSV."""
    from tqdm import tqdm

    from utils.images import read_picture
    from utils.jobs import Tally

    tally = Tally("measured")
    wanted = [(codec, setting) for codec in codecs for setting in codec.settings]
    missing = {
        name: [pair for pair in wanted if (pair[0].key, pair[1], name) not in results.rows]
        for name in paths
    }
    total = sum(map(len, missing.values()))
    tally.skipped = len(paths) * len(wanted) - total
    with tqdm(total=total, unit="file", disable=not total) as bar:
        for name, pairs in missing.items():
            try:
                picture = read_picture(paths[name]) if pairs else None
            except Exception as error:  # a reader of foreign files may raise nearly anything
                tally.fail(paths[name], error)
                bar.update(len(pairs))
                continue
            for codec, setting in pairs:
                bar.set_postfix_str(f"{codec.label} {setting}", refresh=False)
                file = files / codec.key / str(setting)
                file /= f"{paths[name].name}.{codec.extension}"
                try:
                    row = measure(codec, setting, name, picture, file)
                except (OSError, ValueError) as error:
                    tally.fail(paths[name], f"{codec.label} at {setting}: {error}")
                else:
                    results.add(row)
                    tally.done += 1
                if not keep:
                    file.unlink(missing_ok=True)
                bar.update()
    return tally


def report(
    args: Namespace,
    codecs: "list[Ours | Peer]",
    published: "dict[str, Series]",
    anchors: list[str],
    results: "Results",
    pictures: list[str],
) -> None:
    """Write and print the tables, and draw the plots, of ``pictures``, whose rows are complete."""
    import PIL

    from benchmarks.curves import Series, average, bd_rate_table, default_line, quality_table
    from benchmarks.plots import ms_ssim_db, plot, psnr
    from utils.files import atomic_write
    from utils.jobs import printable

    measured = {}
    for codec in codecs:
        points = average(results, codec.key, codec.settings, pictures)
        default = getattr(codec, "default", None)
        kind = "peer" if default is None else "ours"
        measured[codec.name] = Series(codec.label, kind, points, default)
    named = published | measured
    series = [*measured.values(), *published.values()]
    ours = [one for one in series if one.kind == "ours" and "jpeg" in measured]
    folder = pictures[0].split("/")[0]
    title = printable(f"{len(pictures)} pictures of {folder}" if len(pictures) > 1 else pictures[0])
    low, high = args.range
    lines = [
        f"# Rate and distortion, {title}", "",
        f"BD-rate over {low:g} to {high:g} dB (RGB PSNR), or as far as both curves reach, on "
        f"averages over the pictures at each setting. Pillow {PIL.__version__}.", "",
        bd_rate_table(series, [named[name] for name in anchors], low, high), "",
        *(f"- {default_line(one, measured['jpeg'])}" for one in ours),
    ]  # fmt: skip
    if mine := [one for one in measured.values() if one.kind == "ours"]:
        lines += ["", quality_table(mine)]
    if published:
        lines += ["", f"Published curves are those of {args.published.name}. They are comparable "
                  "only if they were measured on the same pictures."]  # fmt: skip
    text = "\n".join(lines).rstrip() + "\n"
    with atomic_write(args.out / "rd.md") as stream:
        stream.write(text.encode())
    plot(args.out / "rd-psnr.png", series, psnr, "PSNR, RGB (dB)", title)
    plot(args.out / "rd-ms-ssim.png", series, ms_ssim_db, "-10 log10(1 - MS-SSIM) (dB)", title)
    print(f"\n{text}\n-> {args.out / 'rd.csv'}, rd.md, rd-psnr.png, rd-ms-ssim.png")


def main(args: Namespace) -> int:
    from contextlib import nullcontext
    from tempfile import TemporaryDirectory

    from benchmarks.curves import read_published
    from benchmarks.results import Results
    from utils.files import find_files, image_extensions

    if args.range[0] >= args.range[1]:
        raise ValueError("--range takes the lower PSNR first")
    published = read_published(args.published) if args.published else {}
    codecs = choose_codecs(args)
    names, anchors = [*(codec.name for codec in codecs), *published], args.anchor or ["jpeg"]
    for anchor in anchors:
        if anchor not in names:
            raise ValueError(f"--anchor {anchor} is not one of {', '.join(names)}")
    found = find_files(args.folder, image_extensions(None), recursive=False)
    paths = {f"{path.parent.resolve().name}/{path.name}": path for path in found}
    results = Results(args.out / "rd.csv")
    with nullcontext(args.keep) if args.keep else TemporaryDirectory() as files:
        tally = measure_all(codecs, paths, results, Path(files), bool(args.keep))
    print(f"{tally.done} files measured, {tally.skipped} were in {results.path} already")
    wanted = [(codec.key, setting) for codec in codecs for setting in codec.settings]
    complete = [name for name in paths if all((*pair, name) in results.rows for pair in wanted)]
    if not complete:
        raise ValueError(f"no picture in {args.folder} was coded by all codecs")
    if len(complete) < len(paths):
        print(f"note: left out of all averages, since they failed: {len(paths) - len(complete)}")
    report(args, codecs, published, anchors, results, complete)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    run(main, parse_args())
