"""The pictures in .xfr files."""

from contextlib import nullcontext
from pathlib import Path
from threading import Lock

import torch

from model import load_codec
from model.checkpoint import fingerprint, load_checkpoint
from model.codec import Codec
from model.precision import fast_precision
from xfr.file import Xfr
from xfr.graphics import decompress
from xfr.images import Picture, to_picture
from xfr.memory import return_freed_memory

LARGE = 2**26  # values of a picture after which freed memory is returned to the system


class Decoder:
    """Decodes files, each with the checkpoint that made it: that at ``model``, or another .tar file
    in the same folder. Threads may share it.

    ``model`` None: files of graphics only, which need none. ``fast``: run the networks in bfloat16
    where that is faster, which changes pixels slightly.
    """

    def __init__(self, model: Path | None, device: torch.device | str = "cpu", fast: bool = False):
        self.model, self.device, self.fast = model, torch.device(device), fast
        self.fingerprint = 0
        self.codecs: dict[int, Codec] = {}
        self.broken: dict[int, str] = {}  # checkpoints that hold no working codec, and the reason
        self.unread: list[Path] = []
        self.lock = Lock()
        if model is not None:
            checkpoint = load_checkpoint(model)
            self.fingerprint = fingerprint(checkpoint)
            self.codecs[self.fingerprint] = load_codec(checkpoint, device)
            self.unread += sorted(set(model.parent.glob("*.tar")) - {model})

    def decode(self, xfr: Xfr) -> Picture:
        """The picture in a file. ValueError if its checkpoint is missing or its payload damaged."""
        if xfr.graphic:
            rgb = decompress(xfr.payload, *xfr.shape)
            return to_picture(rgb, xfr.grey, xfr.alpha, xfr.metadata)
        codec = self.codec(xfr.fingerprint)
        if xfr.arch != codec.FILE_NUMBER:
            raise ValueError(f"damaged file: its checkpoint is not of architecture {xfr.arch}")
        with fast_precision(self.device) if self.fast else nullcontext():
            rgb = codec.decompress(xfr.payload, xfr.height, xfr.width, xfr.quality)
        if rgb.size > LARGE:
            return_freed_memory()
        return to_picture(rgb, xfr.grey, xfr.alpha, xfr.metadata)

    def codec(self, wanted: int) -> Codec:
        """The codec of the checkpoint with the fingerprint ``wanted``; ValueError if there is none.
        Checkpoints are read when they are needed, and once."""
        with self.lock:
            while wanted not in self.codecs and self.unread:
                try:
                    checkpoint = load_checkpoint(self.unread.pop(0))
                except (OSError, ValueError):
                    continue  # some other kind of .tar file
                found = fingerprint(checkpoint)
                if found == wanted:
                    try:
                        self.codecs[found] = load_codec(checkpoint, self.device)
                    except ValueError as error:
                        self.broken[found] = str(error)
        if wanted in self.broken:
            raise ValueError(self.broken[wanted])
        if wanted not in self.codecs:
            error = ValueError(f"made by checkpoint {wanted:016x}, which is not here")
            error.add_note(
                f"give --model the checkpoint that made it: it is neither {self.model} "
                f"({self.fingerprint:016x}) nor another .tar file in its folder"
            )
            raise error
        return self.codecs[wanted]
