"""Score decoded images against their originals: PSNR, SSIM, MS-SSIM, bits per pixel.

examples:
  python test.py
  python test.py --report
  python test.py --file_format png --out_file_name png.csv
  python test.py --folder_path_original ./photos/ --folder_path_compressed ./packed/ \\
      --folder_path_reconstructed ./unpacked/ --recursive
"""

from argparse import Namespace
from pathlib import Path

from utils.console import add_shared_arguments, make_parser, run

SCORES = Path("./out/scores/")


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--folder_path_original", type=Path, default=Path("./out/original/"), help="original images"
    )
    add("--folder_path_compressed", type=Path, default=Path("./out/compressed/"), help=".xfr files")
    add(
        "--folder_path_reconstructed",
        type=Path,
        default=Path("./out/reconstructed/"),
        help="decoded images",
    )
    add(
        "--out_file_name",
        default="scores.csv",
        help=f"path of the CSV; a name without a folder is put into {SCORES}/",
    )
    add(
        "--file_format",
        help="extension of the decoded images (default: that of the one that "
        "--folder_path_reconstructed names, or bmp)",
    )
    add(
        "--ssimulacra2",
        action="store_true",
        help="also score SSIMULACRA 2, a perceptual measure, 100 at best; takes about 1 s per "
        "megapixel",
    )
    add(
        "--report",
        action="store_true",
        help="also write an HTML page next to the CSV, to compare the pictures by eye",
    )
    add_shared_arguments(parser)
    return parser.parse_args()


def main(args: Namespace) -> int:
    from utils.files import check_folder, output_format
    from utils.jobs import Tally, run_job
    from utils.matching import match_results
    from utils.processes import processes

    table = Path(args.out_file_name)
    if table.name == args.out_file_name:
        table = SCORES / table
    page = table.with_suffix(".html")
    if args.report and table.suffix.lower() == ".html":
        raise ValueError("--report would overwrite the CSV: give --out_file_name another extension")
    check_folder(table.parent)
    tally = Tally("scored")
    root, unpacked = args.folder_path_original, args.folder_path_reconstructed
    extension = output_format(args.file_format, unpacked)
    results = match_results(
        root, args.folder_path_compressed, unpacked, extension, args.recursive, tally
    )

    # These load torch, which takes a second: what can be refused without it has been.
    from utils.devices import compute_pool, pick_device
    from utils.report import write_report
    from utils.scores import Score, average_line, gather_scores, score_picture, write_scores

    device = pick_device(args.device)
    pictures: list[tuple[Score, Path, Path]] = []

    def compute(path: Path, _: None) -> Score:
        name = path.relative_to(root).as_posix() if path != root else path.name
        return score_picture(name, path, *results[path], args.max_pixels, device, args.ssimulacra2)

    def save(path: Path, score: Score) -> None:
        pictures.append((score, path, results[path][1]))
        tally.add(score.original_bytes, score.compressed_bytes, score.width * score.height)

    computers = compute_pool(device, len(results))
    run_job(results, tally, lambda path: None, compute, save, computers)
    code = tally.finish()
    pictures = gather_scores(pictures)
    if processes()[0] > 0:
        return code
    if not pictures:
        raise ValueError("nothing to score: encode and decode first, or see --file_format")
    scores = [score for score, *_ in pictures]
    write_scores(table, scores, args.ssimulacra2)
    print(average_line(scores), "->", table)
    if args.report:
        write_report(page, pictures, args.max_pixels)
        print("report ->", page)
    return code


if __name__ == "__main__":
    run(main, parse_args())
