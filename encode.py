"""Compress images to .xfr files.

examples:
  python encode.py
  python encode.py --image_folder ./photos/ --out_folder ./packed/ --recursive --quality 70
  python encode.py --model ./out/hyperprior.tar --target_bpp 0.25
  python encode.py --model ./out/visual.tar --effort 6
  python encode.py --image_folder ./photo.png --out_folder ./photo.xfr --max_bytes 20k
"""

from argparse import Namespace
from pathlib import Path

from model.limits import DEFAULT_QUALITY, MAX_EFFORT, MAX_QUALITY, MIN_QUALITY
from utils.console import add_shared_arguments, add_skip_existing, make_parser, number, run, size


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--model", type=Path, default=Path("./out/main.tar"), help="checkpoint")
    add(
        "--image_folder",
        type=Path,
        default=Path("./out/original/"),
        help="directory of images to compress, or one image",
    )
    add(
        "--out_folder",
        type=Path,
        default=Path("./out/compressed/"),
        help="directory for the .xfr files; for one image, its .xfr file",
    )
    add("--file_format", help="only encode images with this extension (default: all readable)")
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--quality",
        type=number(int, MIN_QUALITY, MAX_QUALITY),
        help=f"{MIN_QUALITY} (smallest files) to {MAX_QUALITY} (best pictures) (default: "
        f"{DEFAULT_QUALITY}, unless there is a target)",
    )
    target.add_argument(
        "--target_bpp",
        type=number(float, 0, 1e6),
        help="highest quality whose file stays within this many bits per pixel",
    )
    target.add_argument(
        "--max_bytes",
        type=number(size, 1, 10**12),
        help="highest quality whose file stays within this many bytes, such as 20000, 20k or 1.5M, "
        "for each picture",
    )
    target.add_argument(
        "--target_psnr",
        type=number(float, 0, 1e3),
        help="lowest quality whose decoded picture reaches this PSNR, in dB; else without loss",
    )
    add(
        "--effort",
        type=number(int, 0, MAX_EFFORT),
        default=0,
        help=f"search for symbols that cost less, 0 (none) to {MAX_EFFORT} (some minutes for "
        "half a megapixel); each effort takes two to three times as long as the one below: smaller "
        "files of the same quality, equally fast decoding; only with hyperprior.tar, visual.tar or "
        "another checkpoint of that architecture",
    )
    add(
        "--strip_metadata",
        action="store_true",
        help="leave out EXIF, XMP and resolution, which may say who took the picture, and where",
    )
    add_shared_arguments(parser)
    add_skip_existing(
        parser,
        "intact files of the same checkpoint, quality and target, made with at least this effort",
    )
    return parser.parse_args()


def main(args: Namespace) -> int:
    from utils.files import (
        atomic_write,
        check_output,
        check_replaceable,
        find_checkpoint,
        find_inputs,
        image_extensions,
        plan_outputs,
    )
    from utils.jobs import Skip, compute_pool, run_job
    from utils.tally import Tally
    from xfr.file import MAGIC, TARGETS
    from xfr.images import Picture, read_picture

    model, tally = find_checkpoint(args.model), Tally("encoded")
    extensions = image_extensions(args.file_format)
    paths = find_inputs(args.image_folder, extensions, args.recursive, tally, "--image_folder")
    outputs = plan_outputs(paths, args.image_folder, args.out_folder, "xfr", tally)
    check_output(args.out_folder)

    # These load torch, which takes a second: what can be refused without it has been.
    from utils.devices import pick_device
    from xfr.encoder import Encoder, EncodingSettings

    device = pick_device(args.device)
    encoder = Encoder(model, device)
    targets = ((name, getattr(args, name)) for name in TARGETS)
    target = next((target for target in targets if target[1] is not None), None)
    quality = args.quality or DEFAULT_QUALITY
    settings = EncodingSettings(quality, target, args.effort, args.strip_metadata)
    encoder.check(settings)

    def load(path: Path) -> Picture:
        if args.skip_existing and encoder.has_encoded(
            path, outputs[path], settings, args.max_pixels
        ):
            raise Skip
        check_replaceable(outputs[path], MAGIC)
        picture = read_picture(path, args.max_pixels)
        for notice in picture.notices:
            tally.notice(path, notice)
        return picture

    def compute(path: Path, picture: Picture) -> tuple[bytes, Picture]:
        with tally.progress(path) as report:
            return encoder.encode(picture, settings, report), picture

    def save(path: Path, result: tuple[bytes, Picture]) -> None:
        data, picture = result
        with atomic_write(outputs[path]) as stream:
            stream.write(data)
        height, width = picture.shape
        original = path.stat().st_size
        tally.add(original, len(data), height * width)
        if len(data) > original:
            tally.larger += 1
            sizes = f"from {original} to {len(data)} bytes"
            tally.notice(path, f"grows {sizes}: try a lower quality or target")

    run_job(outputs, tally, load, compute, save, compute_pool(device, len(outputs)))
    return tally.finish()


if __name__ == "__main__":
    run(main, parse_args())
