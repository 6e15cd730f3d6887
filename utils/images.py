"""Pixels: reading any picture that Pillow reads, writing any that it writes."""

import io
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

MAX_PIXELS = 178_956_970  # Pillow's own error level
STRIP = 512  # rows that are taken over from Pillow at a time
MIN_SIDE = 64  # what the networks pad a picture to, at least
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # at half of the limit
# Pillow takes memory in blocks. Those of large pictures shall be so large that malloc returns them
# to the system once they are free, instead of keeping them for later (utils/devices.py).
Image.core.set_block_size(2**26)

# Lossy formats at the best quality that is still of sensible size; others need no options.
SAVE_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": 0, "optimize": True},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {"optimize": False},
}
ALIASES = {"jpeg": "jpg", "tif": "tiff"}


@dataclass
class Picture:
    """A picture as the codecs see it.

    ``pixels``: uint8, [H, W, 3] for colour, [H, W] for grey. ``alpha``: uint8 [H, W] or None.
    ``icc``: the ICC profile that the pixels are in, or None. ``notices``: what was changed
    while reading, in words.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[:2]

    @property
    def rgb(self) -> np.ndarray:
        """uint8 [H, W, 3], grey repeated."""
        if self.pixels.ndim == 3:
            return self.pixels
        return np.repeat(self.pixels[:, :, None], 3, axis=2)


def to_picture(
    rgb: np.ndarray, grey: bool, alpha: np.ndarray | None = None, icc: bytes | None = None
) -> Picture:
    """A decoded uint8 [H, W, 3] array as the kind of picture that was encoded."""
    if grey:
        # The three channels are as many noisy views of one: their mean is the best of them.
        rgb = (rgb.sum(axis=2, dtype=np.uint16) + 1) // 3
    return Picture(rgb.astype(np.uint8, copy=False), alpha, icc)


def normalize_extension(extension: str) -> str:
    """``.JPEG`` to ``jpg``: without dot and case, one spelling for each format."""
    extension = extension.lower().lstrip(".")
    return ALIASES.get(extension, extension)


def readable_extensions() -> set[str]:
    return {
        normalize_extension(extension)
        for extension, name in Image.registered_extensions().items()
        if name in Image.OPEN
    }


def writable_format(extension: str) -> str:
    """Pillow's name of the format that ``extension`` stands for; ValueError if it writes none."""
    wanted = normalize_extension(extension)
    for known, name in Image.registered_extensions().items():
        if normalize_extension(known) == wanted and name in Image.SAVE:
            return name
    raise ValueError(f"Pillow writes no format with the extension '{wanted}'")


def read_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a picture of any mode as 8-bit grey or RGB, with its alpha and profile beside it.

    Raises OSError or ValueError where the file cannot be read as a picture, ValueError where
    it has more than ``max_pixels`` pixels.
    """
    # Some files have a picture of another size inside, which only Pillow sees before decoding it.
    Image.MAX_IMAGE_PIXELS = max_pixels / 2  # it is an error from twice that on
    try:
        return read_any(path, max_pixels)
    except Image.DecompressionBombError:
        raise ValueError(f"more pixels than the limit of {max_pixels} (--max_pixels)") from None


def read_any(path: Path, max_pixels: int) -> Picture:
    with Image.open(path) as image:
        check_size(*image.size, max_pixels)
        notices = []
        if getattr(image, "n_frames", 1) > 1:
            notices.append("only the first frame is kept")
            image.seek(0)
        if is_16_bit(image):
            notices.append("16 bits per channel are reduced to 8")
        image.load()
        check_size(*image.size, max_pixels)
        ImageOps.exif_transpose(image, in_place=True)  # otherwise it would copy every picture
        icc = image.info.get("icc_profile")
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
    return Picture(pixels_of(image), alpha, icc, notices)


def fits(icc: bytes, mode: str) -> bool:
    """Whether a profile is one for pixels of mode L, LA, RGB or RGBA."""
    return icc[16:20] == (b"GRAY" if mode in ("L", "LA") else b"RGB ")


def pixels_of(image: Image.Image) -> np.ndarray:
    """uint8 [H, W] or [H, W, C]; in strips, for Pillow makes a second copy of what it gives."""
    channels = image.getbands()
    pixels = np.empty((image.height, image.width, len(channels)), np.uint8)
    for top in range(0, image.height, STRIP):
        bottom = min(top + STRIP, image.height)
        strip = np.asarray(image.crop((0, top, image.width, bottom)))
        pixels[top:bottom] = strip.reshape(bottom - top, image.width, len(channels))
    return pixels if len(channels) > 1 else pixels[:, :, 0]


def is_intact(output: Path, source: Path, size: tuple[int, int]) -> bool:
    """Whether ``output`` is a whole picture of that (height, width), newer than ``source``."""
    try:
        if output.stat().st_mtime_ns < source.stat().st_mtime_ns:
            return False
        Image.MAX_IMAGE_PIXELS = max(size[0] * size[1], MAX_PIXELS) / 2  # as in read_picture
        with Image.open(output) as image:
            image.load()
            return (image.height, image.width) == size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def check_size(width: int, height: int, max_pixels: int) -> None:
    """ValueError for more than ``max_pixels``; very thin pictures count with their padding."""
    padded = max(width, MIN_SIDE) * max(height, MIN_SIDE)
    if width * height > max_pixels or padded > max(max_pixels, MAX_PIXELS):
        raise ValueError(
            f"{width}x{height} pixels are more than the limit of {max_pixels} (--max_pixels)"
        )


def is_16_bit(image: Image.Image) -> bool:
    """Whether the file has 16 bits per channel, which Pillow may be about to reduce."""
    decoders = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
    raw_modes = [value for values in decoders for value in values if isinstance(value, str)]
    # RGB;16B and the like; BGR;16 without a byte order is 16 bits for all three channels.
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
    """CMYK or Lab to sRGB, by the picture's own profile where it has a usable one."""
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


def write_picture(picture: Picture, stream, extension: str) -> list[str]:
    """Write into a binary stream in the format that ``extension`` names.

    Returns notices of what the format could not hold. Raises ValueError for a format that
    Pillow does not write, OSError where it cannot write this picture in it.
    """
    name = writable_format(extension)
    notices = []
    image = Image.fromarray(picture.pixels)
    if picture.alpha is not None:
        if keeps_alpha(name):
            image = image.convert("RGB") if not keeps_mode(name, "LA") else image
            image.putalpha(Image.fromarray(picture.alpha))
        else:
            notices.append(f"{normalize_extension(extension)} has no alpha channel: dropped")
    if not keeps_mode(name, image.mode):
        image = image.convert("RGBA" if image.mode == "LA" else "RGB")
    options = dict(SAVE_OPTIONS.get(name, {}))
    if picture.icc is not None and fits(picture.icc, image.mode):
        options["icc_profile"] = picture.icc
    elif picture.icc is not None:
        notices.append(f"{normalize_extension(extension)} has no grey: its profile is dropped")
    image.save(ThroughPython(stream), format=name, **options)
    return notices


class ThroughPython:
    """A stream without its file descriptor: given that, Pillow writes some formats past Python, and
    takes what a full disk has cut short for whole."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name: str):
        if name == "fileno":
            raise AttributeError(name)
        return getattr(self.stream, name)


def round_trip(name: str, probe: Image.Image) -> Image.Image | None:
    """What a format makes of a picture, None if it cannot write it."""
    stream = io.BytesIO()
    try:
        probe.save(stream, format=name, **SAVE_OPTIONS.get(name, {}))
        stream.seek(0)
        return Image.open(stream)
    except (OSError, ValueError, KeyError):
        return None


@cache
def keeps_mode(name: str, mode: str) -> bool:
    """Whether a format comes back in the mode it was written in."""
    read = round_trip(name, Image.new(mode, (16, 16)))
    return read is not None and read.mode == mode


@cache
def keeps_alpha(name: str) -> bool:
    """Whether a half-transparent picture comes back half transparent."""
    read = round_trip(name, Image.new("RGBA", (16, 16), (0, 0, 0, 100)))
    return read is not None and read.mode == "RGBA" and read.getpixel((8, 8))[3] == 100
