"""The pictures in .xfr files."""

from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from model import load_codec
from model.checkpoint import load_checkpoint
from model.codec import Codec, Report
from model.tiles import WHOLE, Extract
from xfr.checkpoints import describe, remedy
from xfr.file import Xfr
from xfr.graphics import decompress, reduced
from xfr.images import Picture, to_picture
from xfr.memory import return_freed_memory
from xfr.metadata import Metadata

LARGE_PICTURE = 2**26  # values of a picture after which freed memory is returned to the system


class Decoder:
    """Decodes files, each with the checkpoint that made it: the one at ``model``, or another .tar
    file in the same folder. Threads may share it. ``model`` None: files of graphics only, which
    need none."""

    def __init__(self, model: Path | None, device: torch.device | str = "cpu"):
        self.model, self.device = model, torch.device(device)
        self.fingerprint = 0
        self.codecs: dict[int, Codec] = {}
        self.broken: dict[int, str] = {}  # checkpoints that hold no working codec, and the reason
        self.unread: list[Path] = []
        self.unused: dict[int, Path] = {}  # checkpoints that were read when another was wanted
        self.lock = Lock()
        if model is not None:
            checkpoint = load_checkpoint(model)
            self.fingerprint = checkpoint["fingerprint"]
            self.codecs[self.fingerprint] = load_codec(checkpoint, device)
            self.unread += sorted(set(model.parent.glob("*.tar")) - {model})

    def decode(
        self, xfr: Xfr, report: Report = lambda _: None, extract: Extract = WHOLE
    ) -> Picture:
        """The picture in a file, or the ``extract`` of it. ValueError if its checkpoint is missing,
        its payload damaged, or the extract not within it. ``report`` is called with the share that
        is done, 0 to 1; what it raises ends the work."""
        region = extract.region(*xfr.shape)
        if xfr.graphic:
            rgb = decompress(xfr.payload, *xfr.shape, extract)
        else:
            rgb = self.decode_learned(xfr, report, extract)
        alpha = None if xfr.alpha is None else reduced(xfr.alpha[region.place], extract.scale)
        return to_picture(rgb, xfr.grey, alpha, at_scale(xfr.metadata, extract.scale))

    def decode_learned(self, xfr: Xfr, report: Report, extract: Extract) -> np.ndarray:
        """The uint8 pixels [H, W, 3] of the ``extract`` of a learned payload."""
        codec = self.codec(xfr.fingerprint)
        if xfr.arch != codec.FILE_NUMBER:
            raise ValueError(f"damaged file: its checkpoint is not of architecture {xfr.arch}")
        rgb = codec.decompress(xfr.payload, *xfr.shape, xfr.quality, report, extract)
        if rgb.size > LARGE_PICTURE:
            return_freed_memory()
        return rgb

    def codec(self, wanted: int) -> Codec:
        """The codec of the checkpoint with the fingerprint ``wanted``; ValueError if there is none.
        Checkpoints are read when they are needed, and codecs are kept."""
        with self.lock:
            if wanted in self.unused:
                self.read(self.unused.pop(wanted), wanted)
            while wanted not in self.codecs and self.unread:
                self.read(self.unread.pop(0), wanted)
        if wanted in self.broken:
            raise ValueError(self.broken[wanted])
        if wanted not in self.codecs:
            missing = ValueError(f"made by checkpoint {describe(wanted)}, which is not here")
            missing.add_note(
                f"give --model the checkpoint that made it: it is neither {self.model} "
                f"({self.fingerprint:016x}) nor another .tar file in its folder"
            )
            if remedy(wanted):
                missing.add_note(remedy(wanted))
            raise missing
        return self.codecs[wanted]

    def read(self, path: Path, wanted: int) -> None:
        """Read the checkpoint at ``path``, and load its codec if its fingerprint is ``wanted``."""
        try:
            checkpoint = load_checkpoint(path)
        except (OSError, ValueError):
            return  # some other kind of .tar file
        found = checkpoint["fingerprint"]
        if found != wanted:
            self.unused[found] = path
            return
        try:
            self.codecs[found] = load_codec(checkpoint, self.device)
        except ValueError as error:
            self.broken[found] = f"{path}: {error}"


def at_scale(metadata: Metadata, scale: int) -> Metadata:
    """The metadata of a preview, which measures as many inches as the picture."""
    if metadata.dpi is None:
        return metadata
    across, down = metadata.dpi
    return replace(metadata, dpi=(across / scale, down / scale))
