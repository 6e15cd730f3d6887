"""Decompress .xfr files to images.

examples:
  python decode.py
  python decode.py packed/ --file_format png --out_folder unpacked/
  python decode.py photo.xfr --out_folder photo-decoded.png
  python decode.py --file_format jpg --output_quality 85
  python decode.py packed/ more/photo.xfr --verify
  python decode.py packed/ --scale 8 --file_format jpg --out_folder previews/
  python decode.py photo.xfr --crop 1200 800 300 200 --out_folder part.png

A file is decoded with the checkpoint that made it: --model, or another .tar file in its folder.
"""

import os
from argparse import Namespace
from pathlib import Path

from model.limits import PREVIEW_SCALES
from utils import console

COMPRESSED = Path("./out/compressed/")
RECONSTRUCTED = Path("./out/reconstructed/")  # pictures in there are this script's to replace


def parse_args() -> Namespace:
    parser = console.make_parser(__doc__)
    # fmt: off
    console.add_inputs(parser, "--compressed_folder", COMPRESSED, ".xfr files")
    add = parser.add_argument
    add("--model", type=Path, default=Path("./out/main.tar"), help="checkpoint")
    add("--out_folder", type=Path, default=RECONSTRUCTED,
        help="directory for the decoded images; for one .xfr file, the image")
    add("--file_format",
        help="format to write: bmp, png, jpg, webp, tiff, ppm, ... anything Pillow writes "
        "(default: that of the image that --out_folder names, or bmp)")
    add("--output_quality", type=console.number(int, 1, 100),
        help="of jpg, mpo, webp and avif, 1 to 100 (default: 95, and webp without loss)")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--scale", type=int, choices=(1, *PREVIEW_SCALES), default=1,
        help="write previews of 1/SCALE of the width and height; 8 and 16 are fast")
    add("--crop", type=console.number(int, 0), nargs=4, metavar=("X", "Y", "WIDTH", "HEIGHT"),
        help="write only this part, in pixels from the left and from the top")
    add("--verify", action="store_true",
        help="write nothing; report which files are good, damaged, or of an unknown checkpoint")
    add = parser.add_argument
    add("--overwrite", action="store_true",
        help=f"replace pictures that exist, whoever made them; always done in {RECONSTRUCTED}/")
    # fmt: on
    console.add_shared_arguments(parser)
    console.add_skip_existing(
        parser, "intact pictures of the right size, no older than their .xfr files"
    )
    return console.parse_with_inputs(parser, "--compressed_folder", COMPRESSED)


def main(args: Namespace) -> int:
    from utils import files
    from utils.jobs import Skip, compute_pool, run_job
    from utils.tally import Tally
    from xfr.file import Xfr, needs_checkpoint, read_file, unpack
    from xfr.images import Picture, check_quality, is_intact, write_picture

    if args.crop and args.skip_existing:
        raise ValueError("--skip_existing cannot tell one --crop from another: use --overwrite")
    out, quality = args.out_folder, args.output_quality
    extension = files.output_format(args.file_format, out)
    check_quality(extension, quality)  # a format that cannot be written fails here, not later
    tally = Tally("verified", decodes=True) if args.verify else Tally("decoded", True, out)
    names = files.find_all(
        args.inputs, {"xfr"}, args.recursive, tally, args.input_option, files.leave_folders
    )
    model = files.find_checkpoint(args.model) if any(map(needs_checkpoint, names)) else None
    if args.verify:
        outputs = dict.fromkeys(names)
    else:
        outputs = files.plan_outputs(names, args.inputs, out, extension, tally)
        files.check_output(out)

    # Loading torch takes a second: all that can be refused without it has been.
    from model.tiles import Extract
    from utils.devices import pick_device
    from xfr.decoder import Decoder

    extract = Extract(args.scale, args.crop)
    device = pick_device(args.device)
    decoder = Decoder(model, device)
    own = out.resolve().is_relative_to(RECONSTRUCTED.resolve())
    replace = args.overwrite or own

    def load(path: Path) -> tuple[Xfr, int]:
        data = read_file(path, args.max_pixels)
        xfr = unpack(data, args.max_pixels)
        shape = extract.shape(*xfr.shape)
        if args.skip_existing and not args.verify and is_intact(outputs[path], path, shape):
            raise Skip
        if not replace and not args.verify and outputs[path].exists():
            raise FileExistsError(f"{outputs[path]} exists: see --overwrite and --skip_existing")
        return xfr, len(data)

    def compute(path: Path, loaded: tuple[Xfr, int]) -> tuple[Picture, Xfr, int]:
        xfr, bytes_in = loaded
        with tally.at_work.progress(path) as report:
            return decoder.decode(xfr, report, extract), xfr, bytes_in

    def save(path: Path, result: tuple[Picture, Xfr, int]) -> None:
        picture, xfr, bytes_in = result
        bytes_out = 0
        if args.verify:
            tally.report(path, "good")
        else:
            with files.atomic_write(outputs[path]) as stream:
                for notice in write_picture(picture, stream, extension, quality):
                    tally.notice(path, notice)
                bytes_out = stream.seek(0, os.SEEK_END)  # some formats end elsewhere
        tally.add(bytes_in, bytes_out, xfr.height * xfr.width)
        tally.made_by(xfr.fingerprint, xfr.quality, xfr.graphic)

    computers = compute_pool(device, len(outputs))
    run_job(outputs, tally, load, compute, save, computers, lambda loaded: loaded[0].pixel_bytes)
    return tally.finish()


if __name__ == "__main__":
    console.run(main, parse_args())
