"""Helpers of ``xfr.encode`` and ``xfr.decode``: images, arrays, and checkpoints loaded once."""

import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from model.limits import DEFAULT_QUALITY, MAX_PIXELS
from xfr.checkpoints import checkpoint_path, shipped_name
from xfr.file import Xfr, read_file
from xfr.images import Picture, check_shape, converted, read_picture
from xfr.metadata import EXIF_PREFIX, Metadata, comment_of
from xfr.samples import to_plain_mode
from xfr.text import IPTC_RESOURCE, unpack_texts

Coder = TypeVar("Coder")
LOADING_LOCK = Lock()
# Modes of Pillow's that 8-bit grey or RGB, with alpha or without, holds.
ENCODED_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "HSV")


def shared(kind: Callable[[Path, Any], Coder], checkpoint: str | Path, device: str) -> Coder:
    """The Encoder or Decoder of a checkpoint, by name or path, which is loaded once."""
    with LOADING_LOCK:
        return load(kind, checkpoint_path(checkpoint).resolve(), device)


@cache
def load(kind: Callable[[Path, Any], Coder], path: Path, device: str) -> Coder:
    from xfr.devices import usable_device  # load torch

    return kind(path, usable_device(device))


def encoded(
    picture: Picture,
    checkpoint: str | Path,
    quality: int | None = None,
    effort: int = 0,
    strip_metadata: bool = False,
    device: str = "cpu",
    **target: float,
) -> bytes:
    """The bytes of the .xfr file of a picture; see ``xfr.encode``."""
    from xfr.encoder import Encoder, EncodingSettings  # load torch

    if len(target) + (quality is not None) > 1:
        raise ValueError(f"of a quality and the targets, {', '.join(target)}, only one can be met")
    chosen = next(iter(target.items()), None)
    quality = DEFAULT_QUALITY if quality is None else quality
    settings = EncodingSettings(quality, chosen, effort, strip_metadata)
    encoder = shared(Encoder, checkpoint, device)
    encoder.check(settings)
    return encoder.encode(picture, settings)


def decoded(
    xfr: Xfr,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    scale: int = 1,
    crop: tuple[int, int, int, int] | None = None,
) -> Image.Image:
    """The picture in an .xfr file; see ``xfr.decode``."""
    from model.tiles import Extract  # loads torch
    from xfr.decoder import Decoder

    made_by = checkpoint or shipped_name(xfr.fingerprint) or "visual"
    decoder = Decoder(None) if xfr.graphic else shared(Decoder, made_by, device)
    return as_image(decoder.decode(xfr, extract=Extract(scale, crop)))


def as_picture(source: Image.Image | np.ndarray | str | Path) -> Picture:
    """The picture at a path, in an image of Pillow, or in a uint8 array, [H, W, 3] or [H, W].
    TypeError if it is something else; ValueError if it is no picture, or has more than MAX_PIXELS;
    OSError if it cannot be read. Warns of what is not kept of a file."""
    if isinstance(source, str | Path):
        picture = read_picture(Path(source))
        for notice in picture.notices:
            warnings.warn(f"{source}: {notice}", stacklevel=3)
        return picture
    if isinstance(source, Image.Image):
        if not source.width * source.height:
            raise ValueError("an image without any pixel")
        check_shape(source.height, source.width, MAX_PIXELS)
        return from_pillow(source)
    if not isinstance(source, np.ndarray):
        raise TypeError(f"{type(source).__name__} is no path, no image of Pillow and no array")
    shape = source.shape
    if source.dtype != np.uint8 or not (len(shape) == 2 or shape[2:] == (3,)) or not source.size:
        raise ValueError(f"an array {source.dtype} {list(shape)}, not uint8 [H, W, 3] or [H, W]")
    check_shape(shape[0], shape[1], MAX_PIXELS)
    return Picture(np.ascontiguousarray(source))


def from_pillow(image: Image.Image) -> Picture:
    """Pixels, turned upright, transparency and profile. ValueError for another mode than
    ENCODED_MODES."""
    if image.mode not in ENCODED_MODES:
        raise ValueError(f"an image of mode {image.mode}: convert it to L, LA, RGB or RGBA")
    icc = image.info.get("icc_profile") or None
    with suppress(SyntaxError, ValueError, OSError, struct.error):  # where its EXIF is damaged
        image = ImageOps.exif_transpose(image)
    return converted(to_plain_mode(image), icc, Metadata(icc=icc), notices=[])


def as_bytes(source: bytes | str | Path, max_pixels: int) -> bytes:
    """The bytes of the .xfr file at a path, or those that are given. TypeError if it is something
    else; ValueError if the file is none, or too large; OSError if it cannot be read."""
    if isinstance(source, str | Path):
        return read_file(Path(source), max_pixels)
    if not isinstance(source, bytes | bytearray | memoryview):
        raise TypeError(f"{type(source).__name__} is no path and no bytes")
    return bytes(source)


def as_image(picture: Picture) -> Image.Image:
    """An image of mode L, LA, RGB or RGBA, with the metadata of the picture in ``info``."""
    image = Image.fromarray(picture.pixels)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    image.info.update(info_of(picture.metadata))
    return image


def info_of(metadata: Metadata) -> dict[str, Any]:
    """The metadata that images of Pillow hold in ``info``, as they name them: IPTC and comments as
    those of JPEG files. ``texts``: pairs of keyword and text, since Pillow could take a keyword for
    one of its own names."""
    texts = unpack_texts(metadata.texts or b"")
    info = {
        "icc_profile": metadata.icc,
        "exif": None if metadata.exif is None else EXIF_PREFIX + metadata.exif,
        "xmp": metadata.xmp,
        "dpi": metadata.dpi,
        "photoshop": None if metadata.iptc is None else {IPTC_RESOURCE: metadata.iptc},
        "comment": comment_of(texts),
        "texts": texts or None,
    }
    return {name: value for name, value in info.items() if value is not None}
