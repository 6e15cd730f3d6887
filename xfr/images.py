"""Pixels: reading any picture that Pillow reads, writing any that it writes."""

import io
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from model.limits import MAX_PIXELS
from xfr.metadata import LABELS, NO_METADATA, Metadata, read_metadata, save_options

STRIP = 512  # rows that are copied from Pillow at a time
MIN_SIDE = 64  # the networks pad smaller pictures to it
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # above half of the limit
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # about damaged EXIF
# Pillow allocates memory in blocks. Those of large pictures are made so large that malloc returns
# them to the system when they are freed, instead of keeping them (see utils/devices.py).
Image.core.set_block_size(2**26)

# Lossy formats are written at the highest quality that still gives files of a sensible size.
SAVE_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0, "optimize": True},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {"optimize": False},
}
# What shows what a format can hold: all shades of grey and of transparency.
PROBE = Image.frombytes("LA", (16, 16), bytes(value for value in range(256) for _ in "LA"))
ALIASES = {"jpeg": "jpg", "tif": "tiff"}


@dataclass
class Picture:
    """A picture in memory.

    ``pixels``: uint8, [H, W, 3] for colour, [H, W] for grey. ``alpha``: uint8 [H, W] or None.
    ``notices``: what was lost when it was read, for the user.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    metadata: Metadata = NO_METADATA
    notices: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[:2]

    @property
    def rgb(self) -> np.ndarray:
        """uint8 [H, W, 3], grey repeated."""
        if self.pixels.ndim == 3:
            return self.pixels
        return np.repeat(self.pixels[:, :, None], 3, axis=2)


def to_picture(
    rgb: np.ndarray,
    grey: bool,
    alpha: np.ndarray | None = None,
    metadata: Metadata = NO_METADATA,
) -> Picture:
    """A decoded uint8 array [H, W, 3] as a picture that is grey if the original was."""
    if grey:
        # The channels have independent errors: their mean is closer to the original than each is.
        rgb = (rgb.sum(axis=2, dtype=np.uint16) + 1) // 3
    return Picture(rgb.astype(np.uint8, copy=False), alpha, metadata)


def normalize_extension(extension: str) -> str:
    """``.JPEG`` to ``jpg``: without dot and case, one spelling for each format."""
    extension = extension.lower().lstrip(".")
    return ALIASES.get(extension, extension)


def readable_extensions() -> set[str]:
    """The normalized extensions of all formats that Pillow reads."""
    return {
        normalize_extension(extension)
        for extension, name in Image.registered_extensions().items()
        if name in Image.OPEN
    }


def writable_format(extension: str) -> str:
    """Pillow's name of the format with this extension; ValueError if it cannot write it, or cannot
    read pictures of any size back from it."""
    wanted = normalize_extension(extension)
    for registered, name in Image.registered_extensions().items():
        if normalize_extension(registered) == wanted and name in Image.SAVE:
            if not keeps_size(name):
                raise ValueError(
                    f"Pillow cannot write pictures of any size as {wanted} and read them back: "
                    "choose another format, such as png"
                )
            return name
    raise ValueError(f"Pillow cannot write files with the extension '{wanted}'")


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture of any mode as 8-bit grey or RGB, with its alpha channel and its profile.

    Raises OSError or ValueError if the file cannot be read as a picture, ValueError if it has more
    than ``max_pixels`` pixels.
    """
    # Some files contain a picture of another size, which only Pillow sees before it is decoded.
    Image.MAX_IMAGE_PIXELS = max_pixels / 2  # Pillow refuses more than twice as many
    try:
        return read_any(path, max_pixels)
    except Image.DecompressionBombError:
        raise ValueError(f"more pixels than the limit of {max_pixels} (--max_pixels)") from None
    except (OSError, ValueError):
        raise
    except Exception as error:  # Pillow may raise nearly anything on a damaged file
        raise ValueError(f"not readable as a picture ({type(error).__name__}: {error})") from None


def read_any(path: Path, max_pixels: int) -> Picture:
    with Image.open(path) as image:
        check_shape(image.height, image.width, max_pixels)
        notices = []
        if getattr(image, "n_frames", 1) > 1:
            notices.append("only the first frame is kept")
            image.seek(0)
        if is_16_bit(image):
            notices.append("16 bits per channel are reduced to 8")
        metadata = read_metadata(image, notices)
        check_shape(image.height, image.width, max_pixels)
        ImageOps.exif_transpose(image, in_place=True)  # not in place, it would copy every picture
        icc = metadata.icc
        if image.mode in ("CMYK", "LAB"):
            notices.append(f"{image.mode} is converted to sRGB")
            icc = None
        image = to_8_bit(image)
    alpha = None
    if image.mode in ("LA", "RGBA"):
        alpha = pixels_of(image.getchannel("A"))
        image = image.convert(image.mode[:-1])
    if icc is not None and not fits(icc, image.mode):
        notices.append("its colour profile does not fit its pixels: dropped")
        icc = None
    return Picture(pixels_of(image), alpha, replace(metadata, icc=icc), notices)


def fits(icc: bytes, mode: str) -> bool:
    """Whether a profile is for pixels of ``mode``: L, LA, RGB or RGBA."""
    return icc[16:20] == (b"GRAY" if mode in ("L", "LA") else b"RGB ")


def pixels_of(image: Image.Image) -> np.ndarray:
    """uint8 [H, W] or [H, W, C]; in strips, since Pillow makes a second copy of what it returns."""
    channels = image.getbands()
    pixels = np.empty((image.height, image.width, len(channels)), np.uint8)
    for top in range(0, image.height, STRIP):
        bottom = min(top + STRIP, image.height)
        strip = np.asarray(image.crop((0, top, image.width, bottom)))
        pixels[top:bottom] = strip.reshape(bottom - top, image.width, len(channels))
    return pixels if len(channels) > 1 else pixels[:, :, 0]


def is_intact(output: Path, source: Path, shape: tuple[int, int]) -> bool:
    """Whether ``output`` is an intact picture of this (height, width), no older than ``source``."""
    try:
        if output.stat().st_mtime_ns < source.stat().st_mtime_ns:
            return False
        Image.MAX_IMAGE_PIXELS = max(shape[0] * shape[1], MAX_PIXELS) / 2  # as in read_picture
        with Image.open(output) as image:
            image.load()
            return (image.height, image.width) == shape
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def check_shape(height: int, width: int, max_pixels: int) -> None:
    """ValueError for more than ``max_pixels``; very thin pictures count with their padding."""
    padded = max(width, MIN_SIDE) * max(height, MIN_SIDE)
    if width * height > max_pixels or padded > max(max_pixels, MAX_PIXELS):
        raise ValueError(
            f"{width}x{height} pixels are more than the limit of {max_pixels} (--max_pixels)"
        )


def is_16_bit(image: Image.Image) -> bool:
    """Whether the file, whose pixels are not loaded yet, has 16 bits per channel. Pillow may reduce
    them when it loads them."""
    decoders = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
    raw_modes = [value for values in decoders for value in values if isinstance(value, str)]
    # As in RGB;16B; without a byte order, as in BGR;16, all channels together have 16 bits.
    deep = any(mode.endswith((";16B", ";16L", ";16N")) for mode in raw_modes)
    return image.mode.startswith("I") or deep


def to_8_bit(image: Image.Image) -> Image.Image:
    """The picture in mode L, LA, RGB or RGBA."""
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    has_alpha = "transparency" in image.info or image.mode in ("La", "PA", "RGBa")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        grey = Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))
        if has_alpha:
            opaque = values != image.info["transparency"]
            grey.putalpha(Image.fromarray(255 * opaque.astype(np.uint8)))
        return grey
    if image.mode in ("CMYK", "LAB"):
        return through_profile(image)
    if image.mode in ("1", "L", "La"):
        return image.convert("LA" if has_alpha else "L")
    return image.convert("RGBA" if has_alpha else "RGB")


def through_profile(image: Image.Image) -> Image.Image:
    """CMYK or Lab to sRGB, through the picture's own profile if it has a usable one."""
    profile = image.info.get("icc_profile")
    if image.mode == "CMYK" and profile is None:
        return image.convert("RGB")
    try:
        if image.mode == "LAB":
            source = ImageCms.createProfile("LAB")
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (OSError, ImageCms.PyCMSError):  # the profile is damaged, or is not one for CMYK
        return image.convert("RGB")


def write_picture(picture: Picture, stream: BinaryIO, extension: str) -> list[str]:
    """Write to a binary stream, in the format that ``extension`` names.

    Returns notices of what the format cannot hold, for the user. Raises ValueError if Pillow cannot
    write the format, OSError if it cannot write this picture in it.
    """
    name, extension = writable_format(extension), normalize_extension(extension)
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
    if image.mode == "RGB" and not keeps_mode(name, "RGB"):
        notices.append(f"{extension} has no more than 256 colours: reduced")
    kept = {}
    for kind, value in asdict(picture.metadata).items():
        if kind == "icc" and value is not None and not fits(value, image.mode):
            notices.append(f"{extension} has no grey: its profile is dropped")
        elif value is not None and keeps_metadata(name, image.mode, kind, value):
            kept[kind] = value
        elif value is not None:
            notices.append(f"{extension} cannot hold its {LABELS[kind]}: dropped")
    options = SAVE_OPTIONS.get(name, {}) | save_options(name, Metadata(**kept))
    image.save(ThroughPython(stream), format=name, **options)
    return notices


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
    """``probe`` written in a format, with these options, and read back; None if Pillow cannot do
    that."""
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
    return read is not None and read.mode == "RGBA" and read.getpixel((8, 8))[3] == 100


def keeps_metadata(name: str, mode: str, kind: str, value: bytes | tuple[float, float]) -> bool:
    """Whether a picture of ``mode`` with this metadata is read back with it. Asked for every value:
    a format may have room for short ones alone."""
    with suppress(Exception):  # Pillow may raise nearly anything on odd metadata
        options = save_options(name, Metadata(**{kind: value}))
        read = round_trip(name, PROBE.convert(mode), **options)
        found = getattr(read_metadata(read, []), kind)
        if kind == "dpi":
            return all(abs(a - b) < 1 for a, b in zip(found, value))  # JPEG rounds it
        # TIFF files hold EXIF as tags of their own, in another order.
        return found == value or (kind == "exif" and found is not None)
    return False
