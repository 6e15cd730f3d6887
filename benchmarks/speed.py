"""Time and memory of our codecs beside those of others, in one run on the same pictures.

examples:
  python benchmarks/speed.py out/original/
  python benchmarks/speed.py kodak/ --pictures 4 --threads 2
  python benchmarks/speed.py photos/ --throughput 200
  python benchmarks/speed.py kodak/ --pictures 4 --sizes 0.1 0.5 2 10 25 100

Times are of this machine and load; what can be compared with another run is the ratios. Coding
goes from pixels in memory to a file and back, files are in the page cache. CompressAI's
mbt2018-mean is measured where that package is installed, with random weights: its networks cost the
same with any, its coder a little less.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository, wherever we run

from benchmarks.rd import MODELS
from utils.console import make_parser, number, run


def parse_args():
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="pictures; sub-folders are searched too")
    add(
        "--model",
        type=Path,
        action="append",
        help=f"checkpoint of ours, may be repeated; without it {' and '.join(map(str, MODELS))}, "
        "as far as they exist",
    )
    add("--pictures", type=number(int, 1), default=8, help="how many to time, the first ones")
    add("--repeat", type=number(int, 1), default=5, help="times that each is coded; medians count")
    add("--threads", type=number(int, 1), default=2, help="threads of each codec")
    add(
        "--throughput",
        type=number(int, 1),
        metavar="COUNT",
        help="also: pictures a second of encode.py and decode.py on so many pictures",
    )
    add(
        "--sizes",
        nargs="+",
        type=number(float, 0),
        default=[],
        metavar="MEGAPIXELS",
        help="also: time and memory for pictures of these sizes",
    )
    add("--out", type=Path, default=Path("./out/scores/speed.md"), help="file for the tables")
    return parser.parse_args()


def main(args) -> int:
    import os

    # Before the libraries start their threads; the scripts that are started inherit it.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)

    import tempfile

    import torch

    from benchmarks import timing
    from utils.files import atomic_write, find_files, image_extensions

    torch.set_num_threads(args.threads)
    paths = find_files(args.folder, image_extensions(None), recursive=True)
    if not paths:
        raise ValueError(f"no readable pictures in {args.folder}")
    models = list(dict.fromkeys(args.model or [model for model in MODELS if model.is_file()]))
    first = paths[: args.pictures]
    report = [f"# Speed, {len(first)} pictures of {args.folder.name}, {args.threads} threads"]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        report += ["## A picture, in a process that runs already"]
        report += [timing.codecs(models, first, args.repeat, args.threads, folder)]
        report += ["## A picture, as a process of its own"]
        report += [timing.scripts(models, first[0], args.repeat, folder)]
        for model in models:
            report += [f"## Where {model.stem} spends its time"]
            report += [timing.stages(model, first, args.repeat, folder)]
        if args.throughput:
            report += [f"## A folder of {len(paths[: args.throughput])} pictures"]
            report += [timing.throughput(models, paths[: args.throughput], folder)]
        if args.sizes:
            report += ["## Growth with the picture"]
            report += [timing.growth(models, first, sorted(args.sizes), folder)]
    text = "\n\n".join(report) + "\n"
    print(text)
    with atomic_write(args.out) as stream:
        stream.write(text.encode())
    return 0


if __name__ == "__main__":
    run(main, parse_args())
