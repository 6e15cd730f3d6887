"""Pictures to .xfr files: the learned payload, or a graphic where that costs less."""

import math
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from model import ARCHITECTURES, codec_class, load_codec
from model.checkpoint import fingerprint, load_checkpoint
from model.codec import Report
from model.limits import DEFAULT_QUALITY, DISTORTIONS, MAX_PIXELS, MAX_QUALITY, MIN_QUALITY
from model.precision import fast_precision
from xfr.file import Xfr, pack, unpack
from xfr.graphics import Graphic, decompress
from xfr.images import Picture, to_picture
from xfr.targets import (
    highest_quality_within,
    lowest_quality_reaching,
    psnr,
    search_quality,
)

ROOT = Path(__file__).resolve().parent.parent  # where the shipped checkpoints are
# Pixels of a picture that is decoded to be compared with a graphic. That takes too much memory for
# larger ones: these become graphics only without loss, if that takes no more bytes.
MAX_COMPARED = 2**25


@dataclass(frozen=True)
class EncodingSettings:
    """How to encode. ``target``, one of bitstream.TARGETS and its value, replaces ``quality``: the
    highest quality within a size (target_bpp, max_bytes), or the lowest that reaches a PSNR in dB
    (target_psnr). ``effort``: of the search for latents that cost less, 0 to MAX_EFFORT; above 0
    for a codec that SEARCHES. ``strip_metadata``: leave out EXIF, XMP and resolution."""

    quality: int = DEFAULT_QUALITY
    target: tuple[str, float] | None = None
    effort: int = 0
    strip_metadata: bool = False

    def match(self, xfr: Xfr) -> bool:
        """Whether a file was encoded with these settings, or with more effort, as far as it tells:
        not whether there were metadata to strip."""
        if xfr.effort < self.effort:
            return False
        if self.strip_metadata and xfr.metadata != xfr.metadata.stripped():
            return False
        if self.target is None or xfr.target is None:
            return self.target == xfr.target and self.quality == xfr.quality
        (name, value), (stored_name, stored_value) = self.target, xfr.target
        return name == stored_name and np.float32(value) == np.float32(stored_value)


class Encoder:
    """Encodes pictures with the checkpoint at ``model``; threads may share it."""

    def __init__(self, model: Path, device: torch.device | str = "cpu"):
        checkpoint = load_checkpoint(model)
        self.codec = load_codec(checkpoint, device)
        self.fingerprint = fingerprint(checkpoint)

    def check(self, settings: EncodingSettings) -> None:
        """ValueError if the codec has nothing that the settings ask for."""
        if settings.effort and not self.codec.SEARCHES:
            able = " and ".join(named(a) for a in ARCHITECTURES if codec_class(a).SEARCHES)
            raise ValueError(f"--effort: the {self.codec.arch} codec cannot use it, but {able} can")

    def finer(self) -> str:
        """What reaches more where this codec's highest quality is not enough, in words."""
        finest = max(ARCHITECTURES, key=lambda arch: codec_class(arch).LMBDA[-1])
        if (self.codec.arch, self.codec.distortion) == (finest, DISTORTIONS[0]):
            return ""
        return f"; {named(finest)} reaches more"

    def encode(
        self, picture: Picture, settings: EncodingSettings, report: Report = lambda _: None
    ) -> bytes:
        """The bytes of the .xfr file. ValueError if no quality meets the target.

        Where the picture costs less as a graphic, in bits and distortion, that is what the file
        holds; where it fits without loss into the size that is the target, nothing else is tried.

        ``report`` is called with the share that is done, 0 to 1; what it raises ends the work. With
        a target it starts again for every quality that is tried.
        """
        height, width = picture.shape
        grey = picture.pixels.ndim == 2
        metadata = picture.metadata.stripped() if settings.strip_metadata else picture.metadata
        graphic = Graphic(picture)
        name, value = settings.target or ("quality", settings.quality)
        unit, scale = ("bytes", 1) if name == "max_bytes" else ("bpp", height * width / 8)
        limit = value * scale if name in ("max_bytes", "target_bpp") else math.inf

        @cache  # a search returns a quality that it has tried
        def learned(quality: int, effort: int) -> bytes:
            with fast_precision(self.codec.device):
                try:
                    return self.codec.compress(picture.rgb, quality, effort, report)
                except ValueError as error:  # a codec takes any picture: this is a defect of it
                    raise RuntimeError(str(error)) from error

        @cache
        def cheapest(quality: int, effort: int) -> tuple[bytes, bool]:
            """The payload that costs least, and whether it is a graphic."""
            payload = learned(quality, effort)
            if not graphic.may_pay(len(payload)):
                return payload, False
            if height * width > MAX_COMPARED:
                exact = graphic.exact(min(len(payload), room))
                return (payload, False) if exact is None else (exact, True)
            original = picture.rgb

            def distortion(pixels: np.ndarray) -> float:
                return self.codec.picture_distortion(Picture(pixels).rgb, original, quality)

            # Tile by tile, so that there are never two entire pictures beside the original.
            cost = 8 * len(payload)
            for tile, pixels in self.codec.decoded_tiles(payload, height, width, quality):
                rgb = to_picture(pixels.byte().cpu().numpy(), grey).rgb
                cost += self.codec.picture_distortion(rgb, original[tile.place], quality)
            found = graphic.cheapest(distortion, cost, room)
            return (payload, False) if found is None else (found, True)

        def content(quality: int, effort: int) -> tuple[bytes, bool]:
            """``cheapest``, but what is a graphic without a search is not searched."""
            if effort and graphic.is_drawing and cheapest(quality, 0)[1]:
                return cheapest(quality, 0)
            return cheapest(quality, effort)

        def file(quality: int, payload: bytes, is_graphic: bool) -> bytes:
            header = self.codec.FILE_NUMBER, self.fingerprint, width, height, grey, quality
            extras = picture.alpha, metadata, settings.target, is_graphic, settings.effort
            return pack(Xfr(*header, payload, *extras))

        # The bytes that are left for the payload.
        room = limit - len(file(MAX_QUALITY, b"", True)) if limit < math.inf else limit

        def file_at(quality: int, effort: int = settings.effort) -> bytes:
            return file(quality, *content(quality, effort))

        def decoded_psnr(quality: int, effort: int) -> float:
            payload, is_graphic = content(quality, effort)
            if is_graphic:
                rgb = decompress(payload, height, width)
            else:
                rgb = self.codec.decompress(payload, height, width, quality)
            return psnr(picture.pixels, to_picture(rgb, grey).pixels)

        if name == "quality":
            return file_at(value)
        if name == "target_psnr":
            lowest = partial(lowest_quality_reaching, value, "dB")
            try:
                return file_at(search_quality(lowest, MAX_QUALITY, decoded_psnr, settings.effort))
            except ValueError as error:
                exact = graphic.exact(len(learned(MAX_QUALITY, settings.effort)))
                if exact is None:
                    raise ValueError(f"{error}{self.finer()}") from None
                return file(MAX_QUALITY, exact, True)
        exact = graphic.exact(room)
        if exact is not None:
            data = file(MAX_QUALITY, exact, True)
            if len(data) <= limit:
                return data
        highest = partial(highest_quality_within, value, unit)

        def size(quality: int, effort: int) -> float:
            return len(file_at(quality, effort)) / scale

        return file_at(search_quality(highest, MIN_QUALITY, size, settings.effort))

    def has_encoded(
        self,
        source: Path,
        output: Path,
        settings: EncodingSettings,
        max_pixels: int = MAX_PIXELS,
    ) -> bool:
        """Whether ``output`` is an intact .xfr file, no older than the picture ``source``, of this
        checkpoint and these settings."""
        try:
            if output.stat().st_mtime_ns < source.stat().st_mtime_ns:
                return False
            xfr = unpack(output.read_bytes(), max_pixels)
        except (OSError, ValueError):
            return False
        made_by = xfr.arch, xfr.fingerprint
        return made_by == (self.codec.FILE_NUMBER, self.fingerprint) and settings.match(xfr)


def named(arch: str) -> str:
    """An architecture for messages, with the checkpoint of it that comes with the scripts."""
    path = Path("out", f"{arch}.tar")
    return f"the {arch} codec" + f" (--model {path})" * (ROOT / path).is_file()
