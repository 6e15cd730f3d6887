"""Compress images to .xfr files.

examples:
  python encode.py
  python encode.py --image_folder ./photos/ --out_folder ./packed/ --recursive --quality 70
  python encode.py --model ./out/hyperprior.tar --target_bpp 0.25
  python encode.py --model ./out/hyperprior.tar --effort 8
  python encode.py --image_folder ./photo.png --model ./out/hyperprior.tar --max_bytes 20000
"""

from pathlib import Path

from utils.console import add_shared_arguments, add_skip_existing, make_parser, number, run
from utils.targets import DEFAULT_QUALITY, MAX_QUALITY, MIN_QUALITY


def parse_args():
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
        help="directory for the .xfr files",
    )
    add("--file_format", help="only encode images with this extension (default: all readable)")
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--quality",
        type=number(int, MIN_QUALITY, MAX_QUALITY),
        help=f"1 (smallest) to 100 (best); {DEFAULT_QUALITY} without any of these four",
    )
    target.add_argument(
        "--target_bpp",
        type=number(float, 0, 1e6),
        help="instead: the best quality of at most so many bits per pixel",
    )
    target.add_argument(
        "--max_bytes",
        type=number(int, 1, 10**12),
        help="instead: the best quality of at most so many bytes for each picture",
    )
    target.add_argument(
        "--target_psnr",
        type=number(float, 0, 1e3),
        help="instead: the lowest quality of at least so many dB",
    )
    add(
        "--effort",
        type=number(int, 0, 100),
        default=0,
        help="rounds of searching better symbols, for smaller files of the same quality; only for "
        "hyperprior codecs, does not slow the decoder, and is not noted in the file",
    )
    add_shared_arguments(parser)
    add_skip_existing(parser, "intact files of the same checkpoint and settings")
    return parser.parse_args()


def main(args) -> int:
    from functools import cache

    import torch

    from model import ARCHITECTURES, load_codec
    from utils.bitstream import REQUESTS, Xfr, intact, pack
    from utils.checkpoints import fingerprint, load_checkpoint
    from utils.devices import compute_pool, fast_precision, pick_device
    from utils.files import atomic_write, find_files, image_extensions, plan_outputs
    from utils.images import Picture, read_picture, to_picture
    from utils.jobs import Skip, Tally, run_job
    from utils.metrics import psnr
    from utils.targets import choose_quality

    checkpoint = load_checkpoint(args.model)
    device = pick_device(args.device)
    codec = load_codec(checkpoint, device)
    if args.effort and not codec.REFINES:
        raise ValueError(f"--effort: {args.model} is a {codec.arch} codec, which has none to spend")
    made_by = ARCHITECTURES[checkpoint["arch"]][0], fingerprint(checkpoint)
    quality = args.quality or DEFAULT_QUALITY
    given = [(name, getattr(args, name)) for name in REQUESTS]
    request = next((pair for pair in given if pair[1] is not None), None)
    settings = (*made_by, request or quality)
    tally = Tally("encoded")
    paths = find_files(args.image_folder, image_extensions(args.file_format), args.recursive, tally)
    outputs = plan_outputs(paths, args.image_folder, args.out_folder, "xfr", tally)

    def load(path: Path) -> Picture:
        if args.skip_existing and intact(outputs[path], path, settings, args.max_pixels):
            raise Skip
        picture = read_picture(path, args.max_pixels)
        for notice in picture.notices:
            tally.notice(path, notice)
        return picture

    def compute(path: Path, picture: Picture) -> tuple[bytes, Picture]:
        image = torch.from_numpy(picture.rgb).permute(2, 0, 1)
        height, width = picture.size
        grey = picture.pixels.ndim == 2

        @cache  # the search for a target ends at a quality that it has tried
        def compress(quality: int) -> bytes:
            with fast_precision(device):
                return codec.compress(image, quality, args.effort)

        def encode(quality: int) -> bytes:
            extras = (compress(quality), picture.alpha, picture.icc, request)
            return pack(Xfr(*made_by, width, height, grey, quality, *extras))

        def decoded_psnr(quality: int) -> float:
            decoded = codec.decompress(compress(quality), height, width, quality)
            rgb = decoded.permute(1, 2, 0).numpy()
            return psnr(picture.pixels, to_picture(rgb, grey).pixels)

        if request is None:
            return encode(quality), picture
        size = lambda quality: len(encode(quality))  # noqa: E731
        return encode(choose_quality(request, height * width, size, decoded_psnr)), picture

    def save(path: Path, result: tuple[bytes, Picture]) -> None:
        data, picture = result
        with atomic_write(outputs[path]) as stream:
            stream.write(data)
        height, width = picture.size
        tally.add(path.stat().st_size, len(data), height * width)

    run_job(outputs, tally, load, compute, save, compute_pool(device, len(outputs)))
    return tally.finish(compressed="bytes_out")


if __name__ == "__main__":
    run(main, parse_args())
