"""The codecs that are compared, behind one interface: ours, and those of other libraries.

Each has a ``name`` for the command line, a ``label`` to show, a ``key`` for the CSV (ours includes
the checkpoint's fingerprint), its ``kind`` (ours or peer), its ``settings``, the ``extension`` of
its files, ``write(picture, setting, path)``, ``write_within(picture, max_bytes, path)``, which
takes the highest quality of 1 to 100 whose file is not larger, and ``read(path)``, which returns
uint8 RGB [H, W, 3]. Alpha and ICC profile are left out everywhere: bytes are those of the pixels
and the header. A Stored codec has only the names and the settings of its rows in a CSV.
"""

import re
import zlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from benchmarks.results import Results
from model.limits import DEFAULT_QUALITY
from xfr.checkpoints import SHIPPED
from xfr.decoder import Decoder
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import unpack
from xfr.images import Picture, read_picture, round_trip
from xfr.targets import highest_quality_within

MODELS = tuple(Path(f"./out/{name}.tar") for name in SHIPPED)
OURS_KEY = re.compile(r"(?P<name>.+)-[0-9a-f]{16}(?:-effort-(?P<effort>\d+))?")


def add_model_argument(parser: ArgumentParser) -> None:
    """Add --model, the checkpoints to measure."""
    shipped = ", ".join(map(str, MODELS))
    text = f"checkpoint of our codecs, may be repeated (default: those that exist of {shipped})"
    parser.add_argument("--model", type=Path, action="append", help=text)


def chosen_models(args: Namespace) -> list[Path]:
    """The checkpoints that --model names, or those that are shipped. ValueError if there are
    none."""
    models = list(dict.fromkeys(args.model or [model for model in MODELS if model.is_file()]))
    if not models:
        raise ValueError("no checkpoint was found, see --model")
    return models


def our_label(name: str, effort: int = 0) -> str:
    return f"{name} (ours), --effort {effort}" if effort else f"{name} (ours)"


class Ours:
    """A checkpoint of this project, which encodes and decodes as encode.py and decode.py do."""

    extension, kind = "xfr", "ours"

    def __init__(self, model: Path, qualities: list[int], device: torch.device):
        self.encoder, self.decoder = Encoder(model, device), Decoder(model, device)
        self.name, self.label, self.effort = model.stem, our_label(model.stem), 0
        self.key = f"{model.stem}-{self.encoder.fingerprint:016x}"
        self.settings = sorted({*qualities, DEFAULT_QUALITY})
        self.has_effort = self.encoder.codec.SEARCHES  # whether ``at_effort`` makes a difference

    def at_effort(self, effort: int) -> "Ours":
        other = copy(self)
        other.effort = effort
        other.name, other.key = (f"{name}-effort-{effort}" for name in (self.name, self.key))
        other.label = our_label(self.name, effort)
        return other

    def write(self, picture: Picture, quality: int, path: Path) -> None:
        self.encode(picture, EncodingSettings(quality, effort=self.effort), path)

    def write_within(self, picture: Picture, max_bytes: int, path: Path) -> None:
        target = "max_bytes", max_bytes
        self.encode(picture, EncodingSettings(target=target, effort=self.effort), path)

    def encode(self, picture: Picture, settings: EncodingSettings, path: Path) -> None:
        # A checksum of the source is in the files of encode.py: five bytes of their rate.
        source = zlib.crc32(picture.pixels.tobytes())
        path.write_bytes(self.encoder.encode(Picture(picture.pixels), settings, source=source))

    def read(self, path: Path) -> np.ndarray:
        return self.decoder.decode(unpack(path.read_bytes())).rgb


@dataclass
class Peer:
    """A codec of Pillow's. ``format``: Pillow's name of it; ``options``: a setting to the keyword
    arguments of Pillow's ``save``; ``package``: what adds the format to Pillow."""

    name: str
    label: str
    format: str
    extension: str
    settings: list[int]
    options: Callable[[int], dict]
    package: str | None = None
    kind: ClassVar[str] = "peer"

    def write(self, picture: Picture, setting: int, path: Path) -> None:
        Image.fromarray(picture.rgb).save(path, self.format, **self.options(setting))

    def write_within(self, picture: Picture, max_bytes: int, path: Path) -> None:
        def size(quality: int) -> int:
            self.write(picture, quality, path)
            return path.stat().st_size

        self.write(picture, highest_quality_within(max_bytes, "bytes", size), path)

    def read(self, path: Path) -> np.ndarray:
        return read_picture(path).rgb

    @property
    def key(self) -> str:
        return self.name

    @property
    def available(self) -> bool:
        """Whether this Pillow writes it and reads it back."""
        options = self.options(self.settings[-1])
        return round_trip(self.format, Image.new("RGB", (16, 16)), **options) is not None


@dataclass
class Stored:
    """A codec that was measured by an earlier run. ``effort``: that of ours."""

    key: str
    settings: list[int]
    name: str
    label: str
    kind: str
    effort: int = 0


Codec = Ours | Peer
Compared = Codec | Stored


def stored_codecs(results: Results) -> list[Stored]:
    """The codecs that have rows in ``results``, ours first."""
    settings: dict[str, set[int]] = {}
    for key, setting, *_ in results.rows:
        settings.setdefault(key, set()).add(setting)
    labels = {peer.name: peer.label for peer in make_peers()}
    ours, peers = [], []
    for key, found in settings.items():
        if match := OURS_KEY.fullmatch(key):
            name, effort = match["name"], int(match["effort"] or 0)
            full = f"{name}-effort-{effort}" if effort else name
            ours.append(Stored(key, sorted(found), full, our_label(name, effort), "ours", effort))
        else:
            peers.append(Stored(key, sorted(found), key, labels.get(key, key), "peer"))
    return ours + peers


class MbtMean:
    """CompressAI's mbt2018-mean at quality 3, with random weights, to be timed: Minnen, Ballé,
    Toderici 2018, https://arxiv.org/abs/1809.02736. ImportError without CompressAI."""

    label, extension, setting = "mbt2018-mean (CompressAI)", "mbt", 3

    def __init__(self):
        from compressai.zoo import mbt2018_mean

        self.network = mbt2018_mean(quality=self.setting, pretrained=False).eval()
        self.network.update()

    @torch.inference_mode()
    def write(self, picture: Picture, _: int, path: Path) -> None:
        x = torch.from_numpy(picture.rgb).permute(2, 0, 1)[None] / 255
        bottom, right = -x.shape[2] % 64, -x.shape[3] % 64
        x = torch.nn.functional.pad(x, (0, right, 0, bottom), mode="replicate")
        self.coded = self.network.compress(x)
        path.write_bytes(b"".join(strings[0] for strings in self.coded["strings"]))

    @torch.inference_mode()
    def read(self, path: Path) -> np.ndarray:
        x_hat = self.network.decompress(**self.coded)["x_hat"][0]
        return x_hat.permute(1, 2, 0).mul(255).round().byte().numpy()


def make_peers(threads: int | None = None) -> list[Peer]:
    """Pillow's codecs, available or not. ``threads``: of each whose threads can be chosen."""
    try:
        import_module("pillow_jxl")  # adds JPEG XL to Pillow's formats
    except ImportError:
        pass
    qualities = [5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95]
    # JPEG and WebP subsample the chroma (4:2:0), as they do by default.
    # JPEG 2000 is given a compression ratio, relative to 24 bits per pixel, which is the same for
    # every picture. That flatters its averages a little: the others spend most bits on difficult
    # pictures, where bits improve PSNR least.
    ratios = [240, 160, 120, 80, 60, 48, 40, 32, 24, 20, 16, 12, 8]
    # Newer versions of Pillow tune AVIF for the eye, unless they are told another aim.
    avif, jxl = ({name: threads} if threads else {} for name in ("max_threads", "num_threads"))
    avif |= {"subsampling": "4:4:4", "speed": 6}
    return [
        Peer("jpeg", "JPEG", "JPEG", "jpg", qualities,
             lambda q: {"quality": q, "optimize": True, "progressive": True}),
        Peer("webp", "WebP", "WEBP", "webp", [0, 1, *qualities],
             lambda q: {"quality": q, "method": 6}),
        Peer("avif", "AVIF 4:4:4", "AVIF", "avif", [1, *qualities],
             lambda q: {"quality": q, **avif}),
        Peer("avif-psnr", "AVIF 4:4:4, tune=psnr", "AVIF", "avif", [1, *qualities],
             lambda q: {"quality": q, **avif, "advanced": {"tune": "psnr"}}),
        Peer("avif-ssimulacra2", "AVIF 4:4:4, tune=ssimulacra2", "AVIF", "avif", [1, *qualities],
             lambda q: {"quality": q, **avif, "advanced": {"tune": "ssimulacra2"}}),
        Peer("jpeg2000", "JPEG 2000", "JPEG2000", "jp2", ratios,
             lambda r: {"irreversible": True, "quality_mode": "rates", "quality_layers": [r]}),
        Peer("jpegxl", "JPEG XL", "JXL", "jxl", [1, *qualities],
             lambda q: {"quality": q, "effort": 7, **jxl}, "pillow-jxl-plugin"),
    ]  # fmt: skip
