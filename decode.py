"""Decompress .xfr files to images.

examples:
  python decode.py
  python decode.py --file_format png --out_folder ./unpacked/
  python decode.py --verify --compressed_folder ./packed/

A file is decoded with the checkpoint that made it: --model, or another .tar beside that one.
"""

from pathlib import Path

from utils.console import add_shared_arguments, add_skip_existing, make_parser, run


def parse_args():
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
        default=Path("./out/reconstructed/"),
        help="directory for the decoded images",
    )
    add(
        "--file_format",
        default="bmp",
        help="format to write: bmp, png, jpg, webp, tiff, ppm, ... anything Pillow writes",
    )
    add(
        "--precision",
        choices=("float32", "fast"),
        default="float32",
        help="float32 gives the same picture on every machine, to one level; fast may not",
    )
    add(
        "--verify",
        action="store_true",
        help="write nothing; say which files are good, damaged, or of another checkpoint",
    )
    add_shared_arguments(parser)
    add_skip_existing(parser, "whole pictures of the right size, newer than their .xfr")
    return parser.parse_args()


def main(args) -> int:
    from contextlib import nullcontext

    from model import ARCHITECTURES, load_codec
    from utils.bitstream import Xfr, unpack
    from utils.checkpoints import Shelf
    from utils.devices import compute_pool, fast_precision, pick_device
    from utils.files import atomic_write, find_files, plan_outputs
    from utils.images import (
        Picture,
        is_intact,
        normalize_extension,
        to_picture,
        writable_format,
        write_picture,
    )
    from utils.jobs import Skip, Tally, run_job

    writable_format(args.file_format)  # a format that cannot be written fails here, not later
    device = pick_device(args.device)
    shelf = Shelf(args.model, lambda checkpoint: load_codec(checkpoint, device))
    tally = Tally("verified" if args.verify else "decoded")
    paths = find_files(args.compressed_folder, {"xfr"}, args.recursive, tally)
    extension = normalize_extension(args.file_format)
    if args.verify:
        outputs = dict.fromkeys(paths)
    else:
        outputs = plan_outputs(paths, args.compressed_folder, args.out_folder, extension, tally)

    def load(path: Path) -> tuple[Xfr, int]:
        data = path.read_bytes()
        xfr = unpack(data, args.max_pixels)
        size = xfr.height, xfr.width
        if args.skip_existing and not args.verify and is_intact(outputs[path], path, size):
            raise Skip
        return xfr, len(data)

    def compute(path: Path, loaded: tuple[Xfr, int]) -> tuple[Picture, int]:
        xfr, size = loaded
        codec = shelf.codec(xfr.fingerprint)
        if xfr.arch != ARCHITECTURES[codec.arch][0]:
            raise ValueError(f"damaged: architecture {xfr.arch} is not that of its checkpoint")
        with fast_precision(device) if args.precision == "fast" else nullcontext():
            image = codec.decompress(xfr.payload, xfr.height, xfr.width, xfr.quality)
        return to_picture(image.permute(1, 2, 0).numpy(), xfr.grey, xfr.alpha, xfr.icc), size

    def save(path: Path, result: tuple[Picture, int]) -> None:
        picture, size = result
        written = 0
        if args.verify:
            tally.tell(path, "good")
        else:
            with atomic_write(outputs[path]) as stream:
                for notice in write_picture(picture, stream, extension):
                    tally.notice(path, notice)
                written = stream.tell()
        height, width = picture.size
        tally.add(size, written, height * width)

    run_job(outputs, tally, load, compute, save, compute_pool(device, len(outputs)))
    return tally.finish(compressed="bytes_in")


if __name__ == "__main__":
    run(main, parse_args())
