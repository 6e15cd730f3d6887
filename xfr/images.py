"""Pictures: any that Pillow reads as 8-bit pixels, and back to any format that it writes."""

import io
import math
import shutil
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from model.limits import MAX_PIXELS
from xfr.colour import check_profile, fits, is_srgb, to_srgb
from xfr.formats import FORMATS, normalize_extension, open_with_pillow
from xfr.libtiff import raise_errors
from xfr.metadata import (
    COMMENT_FORMATS,
    LABELS,
    NO_METADATA,
    ORIENTATION,
    Metadata,
    beginning,
    only_comment,
    read_metadata,
    save_options,
    without_orientation,
)
from xfr.samples import REDUCED_TO_8_BITS, is_deep, load_samples, strips
from xfr.sources import open_picture

MIN_SIDE = 64  # the networks pad smaller pictures to it
BLOCK_BYTES = 2**26  # of Pillow's memory

# The turn that brings each orientation of EXIF upright.
ORIENTATION_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# Lossy formats are written at the highest quality that still gives files of a sensible size.
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},  # optimized, those of noise exceed Pillow's buffer
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {"optimize": False},
    "BMP": {"dpi": (0, 0)},  # unknown; Pillow's default is 96
    "QOI": {"colorspace": "sRGB"},
}
SAVE_OPTIONS["DIB"] = SAVE_OPTIONS["BMP"]
SAVE_OPTIONS["MPO"] = SAVE_OPTIONS["JPEG"]
QUALITY_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {}, "MPO": {}, "WEBP": {"lossless": False}, "AVIF": {},
}  # fmt: skip
# Pixels of the longest side that a format holds, or that Pillow reads back.
MAX_SIDES = {
    "JPEG": 65500, "MPO": 65500, "WEBP": 16383, "AVIF": 32768,
    "PCX": 65534, **dict.fromkeys(("GIF", "TGA", "SGI"), 65535),
}  # fmt: skip
# Formats whose encoders in Pillow write to the stream themselves, and do not end when it takes no
# more.
WRITTEN_TO_MEMORY = {"JPEG2000"}
# Samples that show how much a format can hold: all shades of grey and of transparency.
PROBE = Image.frombytes("LA", (16, 16), bytes(value for value in range(256) for _ in "LA"))


@dataclass
class Picture:
    """A picture in memory. ``pixels``: uint8, [H, W, 3] for colour, [H, W] for grey. ``alpha``:
    uint8 [H, W] or None. ``notices``: what was lost when it was read, for the user."""

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    metadata: Metadata = NO_METADATA
    notices: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[:2]

    @property
    def nbytes(self) -> int:
        """Bytes of pixels and transparency."""
        return self.pixels.nbytes + (0 if self.alpha is None else self.alpha.nbytes)

    @property
    def rgb(self) -> np.ndarray:
        """uint8 [H, W, 3], grey repeated."""
        if self.pixels.ndim == 3:
            return self.pixels
        return np.repeat(self.pixels[:, :, None], 3, axis=2)


def set_up_pillow(max_pixels: int = MAX_PIXELS) -> None:
    """Settings of Pillow that a whole process shares: for scripts, as a library leaves them to the
    program that uses it.

    A picture within a file, as in an icon, is refused before it is decoded if it has more than
    ``max_pixels``. There are no warnings of half as many, nor of damaged EXIF. Memory is allocated
    in blocks so large that malloc returns them to the system when they are freed, instead of
    keeping them (see xfr/memory.py).
    """
    limit: Any = max_pixels / 2  # Pillow refuses more than twice as many
    Image.MAX_IMAGE_PIXELS = limit
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")
    Image.core.set_block_size(BLOCK_BYTES)


def to_picture(
    rgb: np.ndarray, grey: bool, alpha: np.ndarray | None = None, metadata: Metadata = NO_METADATA
) -> Picture:
    """A decoded uint8 array [H, W, 3] as a picture that is grey if the original was."""
    if grey:
        # The channels have independent errors: their mean is closer to the original than each is.
        rgb = (rgb.sum(axis=2, dtype=np.uint16) + 1) // 3
    return Picture(rgb.astype(np.uint8, copy=False), alpha, metadata)


def writable_format(extension: str) -> str:
    """Pillow's name of a format. ValueError if Pillow cannot write and read back any size in it."""
    wanted = normalize_extension(extension)
    if wanted in ("pbm", "pfm"):
        raise ValueError(f"Pillow writes a ppm under the extension {wanted}: choose ppm or another")
    extensions = Image.registered_extensions()  # loads all plugins
    writable = set(Image.SAVE) - {"XFR"}  # for pictures that come out of .xfr files
    for registered, name in extensions.items():
        if normalize_extension(registered) == wanted and name in writable:
            if name not in (*FORMATS, "MPO") or not keeps_size(name):
                raise ValueError(
                    f"Pillow cannot write pictures of any size as {wanted} and read them back: "
                    "choose another format, such as png"
                )
            return name
    raise ValueError(f"Pillow cannot write files with the extension '{wanted}'")


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """A picture of any mode as 8-bit grey or RGB, alpha and profile. Raises as ``read_opened``."""
    with path.open("rb") as stream:
        return read_opened(stream, max_pixels)


def read_opened(stream: BinaryIO, max_pixels: int = MAX_PIXELS) -> Picture:
    """``read_picture``, of an open file. Raises OSError or ValueError if the file cannot be read as
    a picture, ValueError if it has more than ``max_pixels`` pixels, or more than Pillow allows in
    this process."""
    try:
        return read_any(stream, max_pixels)
    except Image.DecompressionBombError:
        limit = int(2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise ValueError(f"more pixels than the limit of {limit} (--max_pixels)") from None
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # Pillow may raise nearly anything on a damaged file
        raise ValueError(f"not readable as a picture ({type(error).__name__}: {error})") from None


def read_any(stream: BinaryIO, max_pixels: int) -> Picture:
    """``read_opened``, with all exceptions of Pillow."""
    notices: list[str] = []
    image, samples = open_picture(stream, stream.name, notices)
    check_shape(image.height, image.width, max_pixels)
    if is_deep(image, samples):
        notices.append(REDUCED_TO_8_BITS)
    metadata, orientation = read_metadata(image, notices)
    is_upright = image.format == "TIFF"  # Pillow turns these itself
    if is_upright:  # by EXIF: that which is made of tags does not tell the orientation
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image.info["exif"] = exif.tobytes()
    icc = image.info.get("icc_profile")
    with raise_errors():
        image = load_samples(image, samples)
    check_shape(image.height, image.width, max_pixels)
    if orientation > 1 and not is_upright:
        image = image.transpose(ORIENTATION_TURNS[orientation])
    return converted(image, icc, metadata, notices)


def converted(
    image: Image.Image, icc: bytes | None, metadata: Metadata, notices: list[str]
) -> Picture:
    """The picture of 8-bit samples in a mode of ``load_samples``, whose profile is ``icc``."""
    if image.mode in ("CMYK", "LAB"):
        notices.append(f"{image.mode} is converted to sRGB")
        try:
            image = to_srgb(image, icc)
        except ValueError as error:
            notices.append(str(error))
            image = to_srgb(image, None)
        metadata = replace(metadata, icc=None)
    alpha = None
    if image.mode in ("LA", "RGBA"):
        alpha = pixels_of(image.getchannel("A"))
        image = image.convert(image.mode[:-1])
    if metadata.icc is not None:
        try:
            check_profile(metadata.icc, image.mode)
        except ValueError as error:
            notices.append(str(error))
            metadata = replace(metadata, icc=None)
    return Picture(pixels_of(image), alpha, metadata, notices)


def pixels_of(image: Image.Image) -> np.ndarray:
    """uint8 [H, W] or [H, W, C]."""
    channels = image.getbands()
    pixels = np.empty((image.height, image.width, len(channels)), np.uint8)
    for rows, strip in strips(image):
        pixels[rows] = strip.reshape(-1, image.width, len(channels))
    return pixels if len(channels) > 1 else pixels[:, :, 0]


def is_intact(output: Path, source: Path, shape: tuple[int, int]) -> bool:
    """Whether ``output`` is an intact picture of this (height, width), no older than ``source``."""
    try:
        if output.stat().st_mtime_ns < source.stat().st_mtime_ns:
            return False
        with output.open("rb") as stream:
            image = open_with_pillow(stream)
            image.load()
            return (image.height, image.width) == shape
    except Exception:  # Pillow may raise nearly anything on a damaged file
        return False


def check_shape(height: int, width: int, max_pixels: int) -> None:
    """ValueError for more than ``max_pixels``; very thin pictures count with their padding."""
    padded = max(width, MIN_SIDE) * max(height, MIN_SIDE)
    if width * height > max_pixels or padded > max(max_pixels, MAX_PIXELS):
        raise ValueError(
            f"{width}x{height} pixels are more than the limit of {max_pixels} (--max_pixels)"
        )


def check_quality(extension: str, quality: int | None) -> None:
    """ValueError unless Pillow writes this format, and at this ``quality``, if that is not None."""
    name = writable_format(extension)
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"an output quality of {quality} is not within 1 to 100")
    if quality is not None and name not in QUALITY_OPTIONS:
        kind = normalize_extension(extension)
        raise ValueError(f"{kind} has no quality: only jpg, mpo, webp and avif have")


def write_picture(
    picture: Picture, stream: BinaryIO, extension: str, quality: int | None = None
) -> list[str]:
    """Write to a binary stream, in the format that ``extension`` names.

    ``quality`` of jpg, mpo, webp and avif, 1 to 100; None for the default of SAVE_OPTIONS. Returns
    notices of what the format cannot hold, for the user. Raises ValueError if Pillow cannot write
    the format or this picture in it, OSError if the stream does not take it.
    """
    name, extension = writable_format(extension), normalize_extension(extension)
    check_quality(extension, quality)
    height, width = picture.shape
    most = MAX_SIDES.get(name, math.inf)
    if max(height, width) > most:
        raise ValueError(f"{width}x{height}: {extension} holds at most {most} pixels a side")
    image, notices = storable(picture, name, extension)
    metadata, lost = holdable(picture.metadata, name, extension, image.mode)
    options = SAVE_OPTIONS.get(name, {}) | save_options(name, metadata)
    if quality is not None:
        options |= QUALITY_OPTIONS[name] | {"quality": quality}
    if name in WRITTEN_TO_MEMORY:
        memory = io.BytesIO()
        image.save(memory, format=name, **options)
        memory.seek(0)
        shutil.copyfileobj(memory, stream)
    else:
        stream.write(beginning(name, metadata))
        image.save(ThroughPython(stream), format=name, **options)
    return notices + lost


def storable(picture: Picture, name: str, extension: str) -> tuple[Image.Image, list[str]]:
    """The pixels in a mode that a format has, and notices of what it has not. ValueError for colour
    in pgm, for which Pillow would write a ppm."""
    if extension == "pgm" and picture.pixels.ndim == 3:
        raise ValueError("pgm holds grey alone: choose ppm or another format")
    notices = []
    image = Image.fromarray(picture.pixels)
    if picture.alpha is not None:
        if keeps_alpha(name):
            image = image.convert("RGB") if not keeps_mode(name, "LA") else image
            image.putalpha(Image.fromarray(picture.alpha))
        else:
            notices.append(f"{extension} has no alpha channel: dropped")
    if not keeps_mode(name, image.mode):
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    if image.mode == "RGB" and not keeps_mode(name, "RGB") and image.getcolors(256) is None:
        notices.append(f"{extension} has no more than 256 colours: reduced")
    return image, notices


def holdable(
    metadata: Metadata, name: str, extension: str, mode: str
) -> tuple[Metadata, list[str]]:
    """Metadata that a picture of ``mode`` has a place for in a format, and notices of the rest."""
    kept: dict[str, Any] = {}
    notices = []
    for kind, value in asdict(metadata).items():
        if kind == "texts" and value is not None and name in COMMENT_FORMATS:
            comment = only_comment(value)
            if comment != value:
                notices.append(f"{extension} cannot hold its texts but for a comment: dropped")
            value = comment
        if kind == "icc" and value is not None and not fits(value, mode):
            notices.append(f"{extension} has no grey: its profile is dropped")
        elif value is not None and keeps_metadata(name, mode, kind, value):
            kept[kind] = value
        elif value is not None and not (kind == "icc" and is_srgb(value)):
            notices.append(f"{extension} cannot hold its {LABELS[kind]}: dropped")
    return Metadata(**kept), notices


class ThroughPython:
    """A stream that hides its file descriptor. Pillow would use it to write some formats without
    Python, and would not notice that a full disk has cut the file short."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream

    def __getattr__(self, name: str):
        if name == "fileno":
            raise AttributeError(name)
        return getattr(self.stream, name)


def round_trip(name: str, probe: Image.Image, **options) -> Image.Image | None:
    """``probe`` written in a format and read back; None if Pillow cannot do that."""
    stream = io.BytesIO()
    try:
        probe.save(stream, format=name, **SAVE_OPTIONS.get(name, {}) | options)
        stream.seek(0)
        return Image.open(stream)
    except (OSError, ValueError, KeyError):
        return None


@cache
def keeps_size(name: str) -> bool:
    """Whether a picture that is written in a format is read back in the same size. Icons are not,
    nor is what Pillow only writes, such as PDF."""
    probe = Image.new("RGB", (300, 4))  # small: --max_pixels holds here, too
    read = round_trip(name, probe)
    return read is not None and read.size == probe.size


@cache
def keeps_mode(name: str, mode: str) -> bool:
    """Whether a picture that is written in a format is read back in the same mode."""
    read = round_trip(name, PROBE.convert(mode))
    return read is not None and read.mode == mode


@cache
def keeps_alpha(name: str) -> bool:
    """Whether a half-transparent picture is read back half-transparent."""
    read = round_trip(name, Image.new("RGBA", (16, 16), (0, 0, 0, 100)))
    return read is not None and read.mode == "RGBA" and read.getchannel("A").getpixel((8, 8)) == 100


def keeps_metadata(name: str, mode: str, kind: str, value: Any) -> bool:
    """Whether a picture of ``mode`` with this metadata is read back with it, by Pillow alone, too.
    Every value is tried: some formats have room for short ones alone."""
    with suppress(Exception):  # Pillow may raise nearly anything on odd metadata
        alone: dict[str, Any] = {kind: value}
        options = SAVE_OPTIONS.get(name, {}) | save_options(name, Metadata(**alone))
        stream = io.BytesIO()
        stream.write(beginning(name, Metadata(**alone)))
        PROBE.convert(mode).save(stream, format=name, **options)
        Image.open(stream)
        stream.seek(0)
        image, _ = open_picture(stream, "", [])
        found = getattr(read_metadata(image, [])[0], kind)
        if kind == "dpi":
            return all(abs(a - b) < 1 for a, b in zip(found, value))  # JPEG rounds it
        if kind == "exif" and name == "TIFF":  # as tags of its own, in another order
            return found is not None
        if kind == "exif" and name == "AVIF":
            return found == without_orientation(value)
        return found == value
    return False
