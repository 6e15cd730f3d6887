"""Samples of any width as 8-bit ones, each rounded to the nearest."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

STRIP_ROWS = 512  # rows at a time
# Pillow reads the first byte of each sample of two in one raw mode, and the second in the other.
FIRST_BYTES, SECOND_BYTES = ";16B", ";16L"
REDUCED_TO_8_BITS = "16 bits per channel are reduced to 8"  # a notice
RGB_BITS = {"BGR;15": (5, 5, 5), "BGR;16": (5, 6, 5), "BGRA;15": (5, 5, 5), "BGRA;15Z": (5, 5, 5)}


@dataclass
class Samples:
    """The way an opened file stores its samples, as far as Pillow does not tell.

    ``bits`` of each, 0 if unknown. ``transparent``: the transparent grey level, or the three levels
    of the transparent colour. ``is_inverted``: whether 0 is white, for more than 8 bits.
    ``is_associated``: whether colours are multiplied with alpha. ``palette``: 8-bit RGB, if not
    Pillow's. ``reopen``: opens the file again, for a second look at its samples.
    """

    bits: int = 0
    transparent: tuple[int, ...] | None = None
    is_inverted: bool = False
    is_associated: bool = False
    palette: bytes | None = None
    reopen: Callable[[], Image.Image] | None = None


def raw_modes(image: Any) -> list[str]:
    """Pillow's names of how the file, whose pixels are not loaded yet, stores them. Before Pillow
    13, the compression of TIFF files follows."""
    decoders = [tile[3] if isinstance(tile[3], tuple) else (tile[3],) for tile in image.tile]
    return [value for values in decoders for value in values if isinstance(value, str)]


def is_deep(image: Image.Image, samples: Samples) -> bool:
    """Whether a file has more than 8 bits per channel, which Pillow may reduce when it loads it."""
    # Channels of 16 bits have a byte order in their raw mode, such as RGB;16B. In BGR;16, which has
    # none, 16 bits hold all channels.
    deep = any(mode.endswith((";16B", ";16L", ";16N")) for mode in raw_modes(image))
    return image.mode.startswith("I") or deep or samples.bits > 8


def reduce(values: np.ndarray, top: int) -> np.ndarray:
    """uint8, of whole numbers from 0 to ``top``."""
    return ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def load_samples(image: Image.Image, samples: Samples) -> Image.Image:
    """Pixels in mode L, LA, RGB, RGBA, CMYK or LAB. ValueError for samples of no agreed range."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if image.mode.startswith("I"):
        return load_grey(image, samples)
    names = set(raw_modes(image))
    wide = sorted(mode for mode in names if mode.endswith((FIRST_BYTES, SECOND_BYTES, ";16N")))
    if wide:
        return load_wide(image, wide[0], samples)
    if samples.is_associated and image.mode == "RGBA":
        set_raw_mode(image, "RGBA", raw_modes(image)[0].replace("a", "A"))
    image.load()
    if samples.palette is not None:
        image.putpalette(samples.palette)
    narrow = names & RGB_BITS.keys()
    if image.mode in ("L", "1", "RGB") and samples.transparent is not None:
        return with_transparent(image.convert("L") if image.mode == "1" else image, samples)
    if image.mode == "La" or (samples.is_associated and image.mode == "RGBA"):
        return divided(image)
    image = to_plain_mode(image)
    if narrow:
        image = rescaled(image, RGB_BITS[narrow.pop()])
    return image


def to_plain_mode(image: Image.Image) -> Image.Image:
    """The picture in mode L, LA, RGB, RGBA, CMYK or LAB, as Pillow converts it."""
    if image.mode in ("CMYK", "LAB"):
        return image
    colour = "L" if image.mode in ("1", "L", "La", "LA") else "RGB"
    mode = colour + "A" * image.has_transparency_data
    return image if image.mode == mode else image.convert(mode)


def load_grey(image: Image.Image, samples: Samples) -> Image.Image:
    """Grey of more than 8 bits, with alpha if a level is transparent."""
    if image.mode == "I" and image.format != "PPM":
        raise ValueError("samples of this width have no agreed range in this format")
    image.load()
    top = 2 ** (samples.bits or 16) - 1
    grey = np.empty((image.height, image.width), np.uint8)
    alpha = np.empty_like(grey)
    for rows, values in strips(image):
        if image.format == "JPEG2000":  # Pillow has shifted them to 16 bits
            values = values >> (16 - samples.bits)
        values = values.clip(0, top)
        grey[rows] = reduce(top - values if samples.is_inverted else values, top)
        if samples.transparent is not None:
            alpha[rows] = 255 * (values != samples.transparent[0]).astype(np.uint8)
    found = Image.fromarray(grey)
    if samples.transparent is not None:
        found.putalpha(Image.fromarray(alpha))
    return found


def load_wide(image: Image.Image, raw_mode: str, samples: Samples) -> Image.Image:
    """Several channels of 16 bits, of which Pillow would cut the lower bytes off."""
    if samples.reopen is None:
        raise ValueError(f"16-bit samples of {image.format} files are not read")
    name, _, order = raw_mode.partition(";")
    if name == "LA":  # grey with alpha has four bytes: those of a picture with four channels
        set_raw_mode(image, "RGBA", "RGBA")
        image.load()
        first, second = image, image
        channels: tuple[list[int], list[int]] = ([0, 2], [1, 3])
        mode = "LA"
    else:
        mode = {"RGBX": "RGB", "RGBa": "RGBA"}.get(name, name)
        first, second = image, samples.reopen()
        second.info = dict(first.info)  # by whose orientation Pillow turns both
        for half, suffix in ((first, FIRST_BYTES), (second, SECOND_BYTES)):
            set_raw_mode(half, mode, name.replace("a", "A") + suffix)
            half.load()
        channels = ([*range(len(mode))],) * 2
    is_big = order == "16B" or (order == "16N" and sys.byteorder == "big")
    high, low = (first, second) if is_big else (second, first)
    pixels = np.empty((high.height, high.width, len(mode)), np.uint8)
    alpha = np.empty(pixels.shape[:2], np.uint8)
    for (rows, upper), (_, lower) in zip(strips(high), strips(low)):
        values = 256 * upper[:, :, channels[0]].astype(np.uint32) + lower[:, :, channels[1]]
        if samples.is_associated:
            values = divide(values, 65535)
        pixels[rows] = reduce(values, 65535)
        if samples.transparent is not None:
            alpha[rows] = 255 * (values != samples.transparent).any(axis=2).astype(np.uint8)
    found = Image.fromarray(pixels, mode)
    if samples.transparent is not None:
        found.putalpha(Image.fromarray(alpha))
    return found


def set_raw_mode(image: Any, mode: str, raw_mode: str) -> None:
    """Let Pillow load the pixels of an opened file into ``mode`` as if stored as ``raw_mode``."""
    image._mode = mode
    image.tile = [
        tile._replace(args=(raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode)
        for tile in image.tile
    ]


def strips(image: Image.Image) -> Iterator[tuple[slice, np.ndarray]]:
    """STRIP_ROWS rows of an image and their samples at a time: Pillow copies all it returns."""
    for top in range(0, image.height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, image.height)
        yield slice(top, bottom), np.asarray(image.crop((0, top, image.width, bottom)))


def divide(values: np.ndarray, top: int) -> np.ndarray:
    """Samples [H, W, C], 0 to ``top``, divided by alpha, the last channel; 0 where alpha is."""
    alpha = values[:, :, -1:].astype(np.uint64)
    colours = (values[:, :, :-1] * np.uint64(top) + alpha // 2) // np.maximum(alpha, 1)
    return np.concatenate([np.where(alpha > 0, colours.clip(0, top), 0), alpha], axis=2)


def divided(image: Image.Image) -> Image.Image:
    """8-bit La or RGBa as LA or RGBA."""
    mode = "LA" if image.mode == "La" else "RGBA"
    pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
    for rows, strip in strips(image):
        pixels[rows] = divide(strip, 255)
    return Image.fromarray(pixels, mode)


def with_transparent(image: Image.Image, samples: Samples) -> Image.Image:
    """L or RGB of at most 8 bits with the alpha channel of a transparent level or colour."""
    scale = 255 // (2**samples.bits - 1)
    levels = [level * scale for level in samples.transparent or ()]
    alpha = np.empty((image.height, image.width), np.uint8)
    for rows, strip in strips(image):
        strip = strip.reshape(*strip.shape[:2], len(levels))
        alpha[rows] = 255 * (strip != levels).any(axis=2).astype(np.uint8)
    image = image.copy()
    image.putalpha(Image.fromarray(alpha))
    return image


def rescaled(image: Image.Image, bits: tuple[int, ...]) -> Image.Image:
    """RGB of fewer than 8 bits, which Pillow scales and rounds down, rounded to the nearest."""
    table: list[int] = []
    for channel in image.getbands():
        count = dict(zip("RGB", bits)).get(channel, 8)
        top = 2**count - 1
        scaled = list(range(256))
        for level in range(top + 1):
            scaled[level * 255 // top] = (level * 255 + top // 2) // top
        table += scaled
    return image.point(table)
