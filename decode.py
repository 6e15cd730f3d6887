"""Decompress .xfr files to images.

examples:
  python decode.py
  python decode.py --file_format png --out_folder ./unpacked/
  python decode.py --compressed_folder ./photo.xfr --out_folder ./photo-decoded.png
  python decode.py --verify --compressed_folder ./packed/

A file is decoded with the checkpoint that made it: --model, or another .tar file in its folder.
"""

import os
from argparse import Namespace
from pathlib import Path

from utils.console import add_shared_arguments, add_skip_existing, make_parser, run

RECONSTRUCTED = Path("./out/reconstructed/")  # pictures in there are this script's to replace


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, default=Path("./out/main.tar"), help="checkpoint")
    add(
        "--compressed_folder",
        type=Path,
        default=Path("./out/compressed/"),
        help="directory of .xfr files, or one file",
    )
    add(
        "--out_folder",
        type=Path,
        default=RECONSTRUCTED,
        help="directory for the decoded images; for one .xfr file, the image",
    )
    add(
        "--file_format",
        help="format to write: bmp, png, jpg, webp, tiff, ppm, ... anything Pillow writes "
        "(default: that of the image that --out_folder names, or bmp)",
    )
    add(
        "--precision",
        choices=("float32", "fast"),
        default="float32",
        help="float32 gives the same picture on every machine, to within 1 of 255; fast may not",
    )
    add(
        "--verify",
        action="store_true",
        help="write nothing; report which files are good, damaged, or of an unknown checkpoint",
    )
    add(
        "--overwrite",
        action="store_true",
        help=f"replace pictures that exist, whoever made them; always done in {RECONSTRUCTED}/",
    )
    add_shared_arguments(parser)
    add_skip_existing(parser, "intact pictures of the right size, no older than their .xfr files")
    return parser.parse_args()


def main(args: Namespace) -> int:
    from utils.files import (
        atomic_write,
        check_output,
        find_checkpoint,
        find_inputs,
        output_format,
        plan_outputs,
    )
    from utils.jobs import Skip, compute_pool, run_job
    from utils.tally import Tally
    from xfr.file import Xfr, needs_checkpoint, read_file, unpack
    from xfr.images import Picture, is_intact, writable_format, write_picture

    extension = output_format(args.file_format, args.out_folder)
    writable_format(extension)  # a format that cannot be written fails here, not later
    tally = Tally("verified" if args.verify else "decoded", decodes=True)
    source = args.compressed_folder
    paths = find_inputs(source, {"xfr"}, args.recursive, tally, "--compressed_folder")
    model = find_checkpoint(args.model) if any(map(needs_checkpoint, paths)) else None
    if args.verify:
        outputs = dict.fromkeys(paths)
    else:
        outputs = plan_outputs(paths, source, args.out_folder, extension, tally)
        check_output(args.out_folder)

    # These load torch, which takes a second: what can be refused without it has been.
    from utils.devices import pick_device
    from xfr.decoder import Decoder

    device = pick_device(args.device)
    decoder = Decoder(model, device, fast=args.precision == "fast")
    own = args.out_folder.resolve().is_relative_to(RECONSTRUCTED.resolve())
    replace = args.overwrite or own

    def load(path: Path) -> tuple[Xfr, int]:
        data = read_file(path, args.max_pixels)
        xfr = unpack(data, args.max_pixels)
        if args.skip_existing and not args.verify and is_intact(outputs[path], path, xfr.shape):
            raise Skip
        if not replace and not args.verify and outputs[path].exists():
            raise FileExistsError(f"{outputs[path]} exists: see --overwrite and --skip_existing")
        return xfr, len(data)

    def compute(path: Path, loaded: tuple[Xfr, int]) -> tuple[Picture, int]:
        xfr, bytes_in = loaded
        return decoder.decode(xfr), bytes_in

    def save(path: Path, result: tuple[Picture, int]) -> None:
        picture, bytes_in = result
        bytes_out = 0
        if args.verify:
            tally.report(path, "good")
        else:
            with atomic_write(outputs[path]) as stream:
                for notice in write_picture(picture, stream, extension):
                    tally.notice(path, notice)
                bytes_out = stream.seek(0, os.SEEK_END)  # some formats end elsewhere
        height, width = picture.shape
        tally.add(bytes_in, bytes_out, height * width)

    run_job(outputs, tally, load, compute, save, compute_pool(device, len(outputs)))
    return tally.finish()


if __name__ == "__main__":
    run(main, parse_args())
