"""Score decoded images against their originals: PSNR, SSIM, MS-SSIM, bits per pixel.

examples:
  python test.py
  python test.py --report
  python test.py --folder_path_second ./avif/
  python test.py --file_format png --out_file_name png.csv
  python test.py --folder_path_original ./photos/ --folder_path_compressed ./packed/ \\
      --folder_path_reconstructed ./unpacked/ --recursive
"""

from argparse import Namespace
from pathlib import Path

from utils import console
from utils.measures import MEASURES

SCORES = Path("./out/scores/")
# The first bytes of a table and a page of this script: no other files are replaced.
TABLE, PAGE = b"file,width,height,", b"<!DOCTYPE html>\n<!-- test.py --report -->"


def parse_args() -> Namespace:
    parser = console.make_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--folder_path_original", type=Path, default=console.sample_pictures(),
        help="original images")
    add("--folder_path_compressed", type=Path, default=Path("./out/compressed/"), help=".xfr files")
    add("--folder_path_reconstructed", type=Path, default=Path("./out/reconstructed/"),
        help="decoded images")
    add("--out_file_name", default="scores.csv",
        help=f"path of the CSV; a name without a folder is put into {SCORES}/")
    add("--file_format",
        help="extension of the decoded images (default: that of the one that "
        "--folder_path_reconstructed names, or bmp)")
    for measure in MEASURES.values():
        if measure.help:
            add(f"--{measure.name}", action="store_true", help=measure.help)
    add("--report", action="store_true",
        help="also write an HTML page next to the CSV, to compare the pictures by eye")
    add("--folder_path_second", type=Path,
        help="decoded images of another run, or another codec's files, such as AVIF: with them, a "
        "report is written that lays both beside each other")
    console.add_keep_extension(parser)
    console.add_shared_arguments(parser, device="ignored: all measures are computed on the CPU")
    # fmt: on
    return parser.parse_args()


def main(args: Namespace) -> int:
    from utils.files import check_folder, check_replaceable, output_format, relative_name
    from utils.jobs import compute_pool, run_job
    from utils.matching import PictureFiles, match_files, note_others
    from utils.processes import processes
    from utils.tally import Tally
    from xfr.file import peek

    table = Path(args.out_file_name)
    if table.name == args.out_file_name:
        table = SCORES / table
    page = table.with_suffix(".html")
    report = args.report or args.folder_path_second is not None
    if report and table.suffix.lower() == ".html":
        raise ValueError("--report would overwrite the CSV: give --out_file_name another extension")
    check_folder(table.parent)
    check_replaceable(table, TABLE)
    if report:
        check_replaceable(page, PAGE)
    tally = Tally("scored")
    root, unpacked = args.folder_path_original, args.folder_path_reconstructed
    folders = PictureFiles(root, args.folder_path_compressed, unpacked, args.folder_path_second)
    extension = output_format(args.file_format, unpacked)
    files = match_files(folders, extension, args.recursive, tally, args.keep_extension)
    if args.file_format is None:
        note_others(files.values(), unpacked, args.recursive, tally)

    # Loading torch takes a second: all that can be refused without it has been.
    from utils.devices import pick_device
    from utils.report.page import write_report
    from utils.scores import Result, average_line, gather_results, score_picture, write_scores

    wanted = [one for one in MEASURES.values() if not one.help or getattr(args, one.name)]
    computers = compute_pool(pick_device("cpu"), len(files))
    results: list[Result] = []

    def load(path: Path) -> int:
        header = peek(files[path].compressed)
        return 0 if header is None else 3 * header.width * header.height

    def compute(path: Path, _: int) -> Result:
        name = relative_name(path, root).as_posix()
        return score_picture(name, files[path], args.max_pixels, wanted)

    def save(path: Path, result: Result) -> None:
        results.append(result)
        score = result.score
        tally.add(score.original_bytes, score.compressed_bytes, score.width * score.height)
        if result.origin is not None:
            tally.made_by(*result.origin[:3])
        if result.doubt:
            tally.notice(files[path].compressed, f"scored, but {result.doubt}")

    run_job(files, tally, load, compute, save, computers, lambda pixel_bytes: 2 * pixel_bytes)
    code = tally.finish()
    results = gather_results(results)
    if processes()[0] > 0:
        return code
    if not results and tally.failed:
        return code
    if not results:
        raise ValueError("nothing to score: encode and decode first, or see --file_format")
    write_scores(table, results)
    print(average_line(results), "->", table)
    if report:
        write_report(page, results, args.max_pixels, args.folder_path_second)
        print("report ->", page)
    if root.resolve() == console.SAMPLES:
        print("for photographs of your own: python encode.py photos/ --model ./out/visual.tar")
    return code


if __name__ == "__main__":
    console.run(main, parse_args())
