"""Compress images to .xfr files.

examples:
  python encode.py
  python encode.py photos/ more/photo.jpg --out_folder packed/ --recursive --quality 70
  python encode.py --model ./out/hyperprior.tar --target_bpp 0.25
  python encode.py --model ./out/visual.tar --effort 6
  python encode.py photo.png --out_folder photo.xfr --max_bytes 20kB
"""

from argparse import Namespace
from pathlib import Path

from model.limits import DEFAULT_QUALITY, MAX_EFFORT, MAX_QUALITY, MIN_QUALITY
from utils import console


def parse_args() -> Namespace:
    parser = console.make_parser(__doc__)
    # fmt: off
    samples = console.sample_pictures()
    console.add_inputs(parser, "--image_folder", samples, "images to compress")
    add = parser.add_argument
    add("--model", type=Path, default=Path("./out/main.tar"),
        help="checkpoint; for photographs, ./out/visual.tar needs far fewer bytes")
    add("--out_folder", type=Path, default=Path("./out/compressed/"),
        help="directory for the .xfr files; for one image, its .xfr file")
    add("--file_format", help="only encode images with this extension (default: all readable)")
    target = parser.add_mutually_exclusive_group()
    add = target.add_argument
    add("--quality", type=console.number(int, MIN_QUALITY, MAX_QUALITY),
        help=f"{MIN_QUALITY} (smallest files) to {MAX_QUALITY} (best pictures) (default: "
        f"{DEFAULT_QUALITY}, unless there is a target)")
    add("--target_bpp", type=console.number(float, 0, 1e6),
        help="highest quality whose file stays within this many bits per pixel")
    add("--max_bytes", type=console.number(console.size, 1, 10**12),
        help="highest quality whose file stays within this many bytes, such as 20000 or 20kB, for "
        "each picture")
    add("--target_psnr", type=console.number(float, 0, 1e3),
        help="lowest quality whose decoded picture reaches this PSNR, in dB; else without loss")
    add("--target_ssimulacra2", type=console.number(float, 0, 100),
        help="lowest quality whose decoded picture reaches this SSIMULACRA 2, a score of what "
        "people see: 90 for no visible difference, 70 for high quality, 50 for medium; else "
        "without loss; takes some 10 s and 0.5 GB of memory per megapixel")
    add = parser.add_argument
    add("--effort", type=console.number(int, 0, MAX_EFFORT), default=0,
        help=f"search for symbols that cost less, 0 (none) to {MAX_EFFORT} (some minutes for "
        "half a megapixel); each above 1 takes up to three times as long as the one below: smaller "
        "files of the same quality, equally fast decoding; only with hyperprior.tar, visual.tar or "
        "another checkpoint of that architecture")
    add("--strip_metadata", action="store_true",
        help="leave out EXIF, XMP, IPTC, texts and resolution, which may say who took the picture, "
        "and where")
    # fmt: on
    console.add_keep_extension(parser)
    console.add_shared_arguments(parser)
    kept = "intact files of the same picture, checkpoint, quality and target, made with at least "
    console.add_skip_existing(parser, kept + "this effort")
    return console.parse_with_inputs(parser, "--image_folder", samples)


def main(args: Namespace) -> int:
    from utils import files
    from utils.jobs import Skip, compute_pool, run_job
    from utils.tally import Tally
    from xfr.file import MAGIC, TARGETS, checksum_of, peek_source
    from xfr.images import Picture, read_opened

    model, out = files.find_checkpoint(args.model), args.out_folder
    tally = Tally("encoded", place=out)
    names = files.find_pictures(
        args.inputs, args.file_format, args.recursive, tally, args.input_option
    )
    outputs = files.plan_outputs(names, args.inputs, out, "xfr", tally, args.keep_extension)
    files.check_output(out)

    # Loading torch takes a second: all that can be refused without it has been.
    from utils.devices import pick_device
    from xfr.encoder import Encoder, EncodingSettings

    device = pick_device(args.device)
    encoder = Encoder(model, device)
    targets = ((name, getattr(args, name)) for name in TARGETS)
    target = next((target for target in targets if target[1] is not None), None)
    quality = args.quality or DEFAULT_QUALITY
    settings = EncodingSettings(quality, target, args.effort, args.strip_metadata)
    encoder.check(settings)
    tally.models, tally.settings = {encoder.name}, [str(settings)]

    def load(path: Path) -> tuple[Picture, int, int]:
        output = outputs[path]
        if args.skip_existing and encoder.has_encoded(path, output, settings, args.max_pixels):
            raise Skip
        files.check_replaceable(output, MAGIC)
        with path.open("rb") as stream:  # one that is replaced or removed meanwhile stays as it was
            picture, crc = read_opened(stream, args.max_pixels), checksum_of(stream)
            length = stream.tell()
        for notice in picture.notices:
            tally.notice(path, notice)
        return picture, length, crc

    def compute(path: Path, loaded: tuple[Picture, int, int]) -> tuple[bytes, Picture, int, int]:
        picture, _, crc = loaded
        with tally.at_work.progress(path) as report:
            return encoder.encode(picture, settings, report, crc), *loaded

    def save(path: Path, result: tuple[bytes, Picture, int, int]) -> None:
        data, picture, length, crc = result
        if peek_source(outputs[path]) not in (None, crc):
            tally.notice(path, "its .xfr file replaces that of another picture")
        with files.atomic_write(outputs[path]) as stream:
            stream.write(data)
        height, width = picture.shape
        tally.add(length, len(data), height * width)
        if len(data) > length:
            tally.larger += 1
            tally.notice(path, "its .xfr file is larger: try a lower quality or target")

    computers = compute_pool(device, len(outputs))
    run_job(outputs, tally, load, compute, save, computers, lambda loaded: loaded[0].nbytes)
    return tally.finish()


if __name__ == "__main__":
    console.run(main, parse_args())
