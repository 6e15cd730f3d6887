"""Rate-distortion curves of our codecs and of Pillow's: a CSV, tables of BD-rates, plots.

examples:
  python -m benchmarks.rd out/original/
  python -m benchmarks.rd kodak/ --published benchmarks/results/published_kodak.csv \\
      --anchor jpeg avif
  python -m benchmarks.rd --from out/scores/kodak/rd.csv --anchor avif jpegxl
  python -m benchmarks.rd kodak/kodim0[1-8].png --qualities 10 20 35 50 70 --every 2
  python -m benchmarks.rd photos/ screens/ --codecs ours avif-psnr webp --anchor avif-psnr webp
  python -m benchmarks.rd kodak/ --model a.tar --model b.tar --codecs ours avif --anchor avif \\
      --measures ssimulacra2 fsim vsi haarpsi mdsi --at_bpp 0.15 0.3 0.6
  python -m benchmarks.rd kodak/ --codecs ours avif avif-ssimulacra2 --anchor avif \\
      --measures cvvdp butteraugli butteraugli_max flip psnr_hvs_m

Every picture is written to a file, read back and decoded; rates count whole files. The pictures of
each folder have their own tables and plots. What is in OUT/rd.csv already is not measured again, so
an interrupted run continues where it stopped, and a later run may add codecs, qualities, measures
and pictures. Remove that file to measure everything again, for example after an update of Pillow.
From it, or from a copy, --from prints all tables and draws all plots again, without the pictures.

All rows of a table are compared over one range: that of --range, or what all curves reach.
AVIF is measured as Pillow writes it, which newer versions tune for the eye (tune=iq), and tuned for
PSNR (avif-psnr) and for SSIMULACRA 2 (avif-ssimulacra2). JPEG XL, and measures beyond those of
test.py, need: pip install -r benchmarks/requirements.txt; butteraugli and butteraugli_max
need libjxl's program butteraugli_main (libjxl-devtools). What is not installed is left out, with a
note.
"""

import sys
from argparse import Namespace
from pathlib import Path

from benchmarks import measuring
from benchmarks.curves import Series, make_series, read_published
from benchmarks.measures import DEFAULT_MEASURES, MEASURES
from benchmarks.peers import Compared, add_model_argument
from benchmarks.plots import plot
from benchmarks.results import Results
from benchmarks.tables import Measures, folder_report, preamble, report
from model.limits import MAX_EFFORT, MAX_QUALITY, MIN_QUALITY
from utils.console import DEVICE_HELP, make_parser, number, printable, run
from utils.files import atomic_write

CODECS = ["ours", "jpeg", "webp", "avif", "avif-psnr", "avif-ssimulacra2", "jpeg2000", "jpegxl"]


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("pictures", metavar="FOLDER", nargs="*", type=Path,
        help="folders of pictures, whose sub-folders are ignored, or pictures; with --from, their "
        "names in the CSV (default: all)")
    add("--from", dest="stored", type=Path, metavar="CSV",
        help="measure nothing: take the curves of an earlier run's rd.csv, of which --codecs, "
        "--model and --effort choose")
    add_model_argument(parser)
    add("--codecs", nargs="+", choices=CODECS, default=CODECS, metavar="CODEC",
        help="codecs to measure")
    add("--measures", nargs="+", choices=list(MEASURES), default=DEFAULT_MEASURES,
        metavar="MEASURE", help=f"of {', '.join(MEASURES)}; ssimulacra2 takes most of the time")
    add("--qualities", nargs="+", type=number(int, MIN_QUALITY, MAX_QUALITY),
        default=[1, *range(10, 101, 10)], metavar="QUALITY",
        help="qualities of our codecs; their default quality is measured as well")
    add("--every", type=number(int, 1), default=1, metavar="N",
        help="measure only every Nth setting of the other codecs")
    add("--effort", nargs="+", type=number(int, 0, MAX_EFFORT), default=[0], metavar="EFFORT",
        help="efforts of our codecs, as for encode.py; each is a separate curve")
    add("--anchor", nargs="+", action="extend", metavar="CODEC",
        help="what BD-rates are relative to: codecs, checkpoints or published curves, by their "
        "names (default: jpeg, or else the first codec that is not ours)")
    add("--range", nargs=3, action="append", metavar=("MEASURE", "LOW", "HIGH"),
        help="range that BD-rates are averaged over, may be repeated (default: what all curves "
        f"reach of {default_ranges()})")
    add("--at_bpp", nargs="+", type=number(float, 0.001), metavar="BPP",
        help="also print what all measures give at these rates")
    add("--published", type=Path, metavar="CSV",
        help="also draw the curves of a CSV with the columns codec, bpp, psnr, source, or other "
        "measures; they are comparable only if FOLDER holds the same pictures")
    add("--out", type=Path, default=Path("./out/scores/rd/"), help="directory for the results")
    add("--keep", type=Path, metavar="FOLDER", help="keep the compressed files in this directory")
    add("--device", default="auto", help=DEVICE_HELP)
    # fmt: on
    return parser.parse_args()


def default_ranges() -> str:
    """The range of each measure, for --help."""
    ranges = (f"{m.name} {m.low:g} {m.high:g} {m.level_unit}" for m in MEASURES.values())
    return ", ".join(map(str.rstrip, ranges))


def choose_measures(args: Namespace) -> Measures:
    """The installed measures with their ranges; others are noted. ValueError if there is none."""
    chosen: Measures = {}
    for one in (MEASURES[name] for name in args.measures):
        if one.available or args.stored:
            chosen[one] = None
        else:
            print(f"note: {one.name}: not installed: {one.remedy}", file=sys.stderr)
    if not chosen:
        raise ValueError("there is no measure to score by")
    for name, *limits in args.range or []:
        if name not in args.measures:
            raise ValueError(f"--range {name} is not one of {', '.join(args.measures)}")
        try:
            low, high = map(float, limits)
        except ValueError:
            raise ValueError(f"--range {name}: {' and '.join(limits)} are no numbers") from None
        if not low < high:
            raise ValueError(f"--range {name} takes the lower value first")
        if MEASURES[name] in chosen:
            chosen[MEASURES[name]] = low, high
    return chosen


def main(args: Namespace) -> int:
    if not (args.pictures or args.stored):
        raise ValueError("what is to be measured? Name a folder of pictures, or see --from")
    measures = choose_measures(args)
    published = read_published(args.published) if args.published else {}
    if args.stored and not args.stored.is_file():
        raise FileNotFoundError(f"no such file: {args.stored} (--from)")
    results = Results(args.stored, extend=False) if args.stored else None
    codecs = measuring.choose_stored(args, results) if results else measuring.choose_codecs(args)
    names = [*(codec.name for codec in codecs), *published]
    peers = [codec.name for codec in codecs if codec.kind == "peer"]
    args.anchor = args.anchor or (["jpeg"] if "jpeg" in peers else [*peers, names[0]][:1])
    for anchor in args.anchor:
        if anchor not in names:
            raise ValueError(f"--anchor {anchor} is not one of {', '.join(names)}")
    if results:
        folders, failed = measuring.stored_pictures(args.pictures, results), False
        known = {measure for *_, measure in results.rows}
        measures = {one: limits for one, limits in measures.items() if one.name in known}
        if not measures:
            raise ValueError(f"{results.path} has none of these measures")
    else:
        paths = measuring.pictures_by_folder(args.pictures)
        results = Results(args.out / "rd.csv")
        folders, failed = measuring.measure_folders(
            paths, codecs, list(measures), results, args.keep
        )
    write_report(args, codecs, measures, results, folders, published)
    return 1 if failed else 0


def write_report(
    args: Namespace,
    codecs: list[Compared],
    measures: Measures,
    results: Results,
    folders: dict[str, list[str]],
    published: dict[str, Series],
) -> None:
    """Print the tables of the pictures in ``folders``, and write them and the plots to --out."""
    parts, series = [preamble(args.stored, args.published)], {}
    for folder, names in folders.items():
        title = printable(f"{len(names)} pictures of {folder}" if len(names) > 1 else names[0])
        measured = {codec.name: make_series(results, codec, names, measures) for codec in codecs}
        series[title] = measured | published
        parts.append(report(title, series[title], args.anchor, measures, args.at_bpp or []))
        for one in measures:
            plot(args.out / f"{folder}-{one.name}.png", series[title].values(), one, title)
    if len(folders) > 1:
        parts.append(folder_report(series, args.anchor, measures))
    text = "\n\n".join(parts) + "\n"
    with atomic_write(args.out / "rd.md") as stream:
        stream.write(text.encode())
    written = "rd.md and plots" if args.stored else "rd.csv, rd.md and plots"
    print(f"\n{text}\n-> {args.out}: {written}")


if __name__ == "__main__":
    run(main, parse_args())
