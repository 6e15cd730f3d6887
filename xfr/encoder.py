"""Pictures to .xfr files: the learned payload, or a graphic where that costs less."""

import math
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from model import codec_class, load_codec
from model.bytestream import pack_number
from model.checkpoint import load_checkpoint
from model.codec import AbsurdWeights, Report
from model.limits import DEFAULT_QUALITY, MAX_EFFORT, MAX_PIXELS, MAX_QUALITY, MIN_QUALITY
from model.precision import fast_precision
from xfr.candidates import Graphic
from xfr.checkpoints import SHIPPED, shipped_name
from xfr.file import Xfr, checksum, pack, read_file, unpack
from xfr.graphics import decompress
from xfr.images import Picture, to_picture
from xfr.targets import (
    TARGETS,
    OutOfReach,
    Score,
    Size,
    highest_quality_within,
    lowest_quality_reaching,
    search_quality,
)

# Pixels of a picture that is decoded to be compared with a graphic. That takes too much memory for
# larger ones: these become graphics only without loss, if that takes no more bytes.
MAX_COMPARED_PIXELS = 2**25
MAX_TARGET = 1e15  # of any unit


@dataclass(frozen=True)
class EncodingSettings:
    """The way to encode a picture.

    ``target``: the name of one of the TARGETS and its value, which replace ``quality``. ``effort``:
    of the search for latents that cost less, 0 (none) to MAX_EFFORT; above 0 only for a codec that
    SEARCHES. ``strip_metadata``: keep no metadata but the colour profile. ValueError if one of them
    is out of its range.
    """

    quality: int = DEFAULT_QUALITY
    target: tuple[str, float] | None = None
    effort: int = 0
    strip_metadata: bool = False

    def __post_init__(self):
        check_whole("quality", self.quality, MIN_QUALITY, MAX_QUALITY)
        check_whole("effort", self.effort, 0, MAX_EFFORT)
        if self.target is None:
            return
        name, value = self.target
        if name not in TARGETS:
            raise ValueError(f"{name!r:.40} is none of the targets, {', '.join(TARGETS)}")
        if not isinstance(value, Real) or not abs(value) <= MAX_TARGET:
            raise ValueError(f"{name} {value!r:.40} is not a number within {MAX_TARGET:g} of 0")

    def __str__(self) -> str:
        """The quality or the target, and the effort, for messages."""
        chosen = "{} {:.7g}".format(*self.target) if self.target else f"quality {self.quality}"
        return f"{chosen}, effort {self.effort}" if self.effort else chosen

    def match(self, xfr: Xfr) -> bool:
        """Whether a file was encoded so, or with more effort, as far as its fields tell."""
        if xfr.effort < self.effort:
            return False
        if self.strip_metadata and xfr.metadata != xfr.metadata.stripped():
            return False
        if self.target is None or xfr.target is None:
            return self.target == xfr.target and self.quality == xfr.quality
        (name, value), (stored_name, stored_value) = self.target, xfr.target
        return name == stored_name and np.float32(value) == np.float32(stored_value)


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """ValueError unless ``value`` is a whole number in low to high."""
    if not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ValueError(f"{name} {value!r:.40} is not a whole number in {low} to {high}")


class Encoder:
    """Encodes pictures with the checkpoint at ``model``; threads may share it. ``name`` of the
    checkpoint, for messages: main, hyperprior, visual or its path, and its fingerprint."""

    def __init__(self, model: Path, device: torch.device | str = "cpu"):
        checkpoint = load_checkpoint(model)
        self.codec = load_codec(checkpoint, device)
        self.codec.check_distortion()
        self.fingerprint: int = checkpoint["fingerprint"]
        self.name = f"{shipped_name(self.fingerprint) or model} ({self.fingerprint:016x})"

    def check(self, settings: EncodingSettings) -> None:
        """ValueError if the codec has no search, for which the settings ask."""
        if settings.effort and not self.codec.SEARCHES:
            able = [name for name, shipped in SHIPPED.items() if codec_class(shipped.arch).SEARCHES]
            name = shipped_name(self.fingerprint) or f"the {self.codec.arch} codec"
            raise ValueError(
                f"--effort: {name} cannot use it, but {' and '.join(able)} can "
                f"(--model out/{able[-1]}.tar)"
            )

    def encode(
        self,
        picture: Picture,
        settings: EncodingSettings,
        report: Report = lambda _: None,
        source: int | None = None,
    ) -> bytes:
        """The bytes of the .xfr file. ValueError if the target is a size that no quality keeps,
        or a score that the picture is too small for.

        The file holds a graphic where that costs less than the learned payload, in bits and
        distortion. ``report`` is called with the share that is done, 0 to 1; what it raises ends
        the work. With a target it starts again for every quality that is tried. ``source``: the
        checksum of the picture's own file, for ``has_encoded``.
        """
        encoding = Encoding(self, picture, settings, report, source)
        if settings.target is None:
            return encoding.file_at(settings.quality, settings.effort)
        name, value = settings.target
        target = TARGETS[name]
        if isinstance(target, Score):
            return encoding.reach(target, value)
        return encoding.fit(target, value)

    def has_encoded(
        self, source: Path, output: Path, settings: EncodingSettings, max_pixels: int = MAX_PIXELS
    ) -> bool:
        """Whether ``output`` is an intact .xfr file of the picture in the file ``source``, of this
        checkpoint and these settings. A file that does not say what it was made from has to be no
        older than the picture."""
        try:
            xfr = unpack(read_file(output, max_pixels), max_pixels)
            made_by = xfr.arch, xfr.fingerprint
            if made_by != (self.codec.FILE_NUMBER, self.fingerprint) or not settings.match(xfr):
                return False
            if xfr.source is None:
                return output.stat().st_mtime_ns >= source.stat().st_mtime_ns
            return xfr.source == checksum(source)
        except (OSError, ValueError):
            return False


class Content(NamedTuple):
    """The payload of a file, and whether it is a graphic or the codec's."""

    payload: bytes
    graphic: bool


class Encoding:
    """One picture on its way into a file. ``payloads`` and ``contents`` hold what has been
    computed, by quality and effort: a search for a quality returns one that it has tried."""

    def __init__(
        self,
        encoder: Encoder,
        picture: Picture,
        settings: EncodingSettings,
        report: Report,
        source: int | None,
    ):
        self.encoder, self.codec = encoder, encoder.codec
        self.picture, self.rgb, self.grey = picture, picture.rgb, picture.pixels.ndim == 2
        self.settings, self.report, self.source = settings, report, source
        self.graphic = Graphic(picture)
        self.room = math.inf  # the most bytes that a graphic may take
        self.payloads: dict[tuple[int, int], bytes] = {}
        self.contents: dict[tuple[int, int], Content] = {}

    # The file of a quality

    def file_at(self, quality: int, effort: int) -> bytes:
        """The bytes of the file."""
        return self.file(quality, self.content(quality, effort))

    def content(self, quality: int, effort: int) -> Content:
        """The payload that costs least: learned or, if that costs no more, a graphic. A drawing
        that is a graphic without the search is not searched."""
        if effort and self.graphic.is_drawing and self.content(quality, 0).graphic:
            return self.content(quality, 0)
        if (quality, effort) not in self.contents:
            learned = self.learned(quality, effort)
            graphic = self.cheaper_graphic(learned, quality)
            content = Content(learned, False) if graphic is None else Content(graphic, True)
            self.contents[quality, effort] = content
        return self.contents[quality, effort]

    def learned(self, quality: int, effort: int) -> bytes:
        """The payload of the codec."""
        if (quality, effort) not in self.payloads:
            with fast_precision(self.codec.device):
                try:
                    payload = self.codec.compress(self.rgb, quality, effort, self.report)
                except AbsurdWeights:
                    raise
                except ValueError as error:  # a codec takes any picture: this is a defect of it
                    raise RuntimeError(str(error)) from error
            self.payloads[quality, effort] = payload
        return self.payloads[quality, effort]

    def cheaper_graphic(self, learned: bytes, quality: int) -> bytes | None:
        """The graphic that costs least, if that is no more than the ``learned`` payload costs."""
        if not self.graphic.may_pay(len(learned)):
            return None
        if self.rgb[..., 0].size > MAX_COMPARED_PIXELS:
            return self.graphic.exact(min(len(learned), self.room))
        distortion = partial(self.distortion, quality=quality)
        return self.graphic.cheapest(distortion, self.learned_cost(learned, quality), self.room)

    def learned_cost(self, payload: bytes, quality: int) -> float:
        """The bits of a learned payload and the distortion that it leaves; found tile by tile, so
        that there are never two entire pictures beside the original."""
        height, width = self.picture.shape
        cost = 8.0 * len(payload)
        for tile, pixels in self.codec.decoded_tiles(payload, height, width, quality):
            rgb = to_picture(pixels.byte().cpu().numpy(), self.grey).rgb
            cost += self.codec.picture_distortion(rgb, self.rgb[tile.place], quality)
        return cost

    def distortion(self, pixels: np.ndarray, quality: int) -> float:
        """The weighted distortion of uint8 pixels, [H, W, 3] or grey [H, W], in bits."""
        return self.codec.picture_distortion(Picture(pixels).rgb, self.rgb, quality)

    def file(self, quality: int, content: Content) -> bytes:
        """The bytes of the file of any payload."""
        height, width = self.picture.shape
        metadata = self.picture.metadata
        return pack(
            Xfr(
                arch=self.codec.FILE_NUMBER,
                fingerprint=self.encoder.fingerprint,
                width=width,
                height=height,
                grey=self.grey,
                quality=quality,
                payload=content.payload,
                alpha=self.picture.alpha,
                metadata=metadata.stripped() if self.settings.strip_metadata else metadata,
                target=self.settings.target,
                graphic=content.graphic,
                effort=self.settings.effort,
                source=self.source,
            )
        )

    # The quality of a target

    def fit(self, target: Size, limit: float) -> bytes:
        """The file within the limit, without loss or of the highest quality; OutOfReach if none."""
        unit = self.rgb[..., 0].size / 8 if target.per_pixel else 1  # in bytes
        room = limit * unit - len(self.file(MAX_QUALITY, Content(b"", True)))
        self.room = room + 1 - len(pack_number(max(int(room), 0)))  # the length may take more bytes
        exact = self.graphic.exact(self.room)
        if exact is not None:
            data = self.file(MAX_QUALITY, Content(exact, True))
            if len(data) <= limit * unit:
                return data
        choose, effort = partial(highest_quality_within, limit, target.unit), self.settings.effort
        size = partial(self.size, unit=unit)
        return self.file_at(search_quality(choose, MIN_QUALITY, size, effort), effort)

    def size(self, quality: int, effort: int, unit: float) -> float:
        """The size of the file, in units of so many bytes."""
        return len(self.file_at(quality, effort)) / unit

    def reach(self, target: Score, limit: float) -> bytes:
        """The file of the lowest quality whose score reaches the limit; the file without loss if
        none does. ValueError for a picture that is too small for the score."""
        target.check(*self.picture.shape)
        choose, effort = partial(lowest_quality_reaching, limit, target.unit), self.settings.effort
        score = partial(self.score, target=target)
        try:
            return self.file_at(search_quality(choose, MAX_QUALITY, score, effort), effort)
        except OutOfReach:
            return self.file(MAX_QUALITY, Content(self.graphic.payload(None), True))

    def score(self, quality: int, effort: int, target: Score) -> float:
        """The score of the decoded picture."""
        content, (height, width) = self.content(quality, effort), self.picture.shape
        if content.graphic:
            rgb = decompress(content.payload, height, width)
        else:
            rgb = self.codec.decompress(content.payload, height, width, quality)
        return target.measure(self.picture.pixels, to_picture(rgb, self.grey).pixels)
