"""The encodings whose bytes are kept in golden/encoded/, and the program that makes them.

    python tests/golden_encodings.py FOLDER

The encoder computes in floating point, so its symbols may differ between processors. The program
therefore restricts itself to instructions that all of them have: what it writes is the same
everywhere.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden"
PLAIN = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"}
QUALITIES = 1, 30, 55, 100
SHAPE = 70, 90
WIDE, HIGH = (8, 1030), (1100, 9)  # two tiles each


def encodings(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of each encoding. ``folder`` takes a checkpoint that is made here."""
    from helpers import drawing, grey, textured, write_checkpoint

    from model.checkpoint import load_checkpoint
    from xfr.encoder import Encoder, EncodingSettings
    from xfr.images import Picture
    from xfr.metadata import Metadata

    checkpoint = load_checkpoint(GOLDEN / "hyperprior.tar")
    del checkpoint["format"]
    visual = folder / "visual.tar"
    write_checkpoint(visual, {**checkpoint, "distortion": "ssimulacra2"})
    photo, wide, high = (Picture(textured(*shape)) for shape in (SHAPE, WIDE, HIGH))
    for name, path in (
        ("binary", GOLDEN / "binary.tar"),
        ("hyperprior", GOLDEN / "hyperprior.tar"),
        ("visual", visual),
    ):
        encoder = Encoder(path)
        codec = encoder.codec
        for quality in QUALITIES:
            yield f"{name}-quality{quality}", codec.compress(photo.pixels, quality)
        yield f"{name}-wide", codec.compress(wide.pixels, 40)
        yield f"{name}-high", codec.compress(high.pixels, 40)
        if codec.SEARCHES:
            for effort in (1, 4):
                yield f"{name}-effort{effort}", codec.compress(photo.pixels, 50, effort)
            yield f"{name}-wide-effort", codec.compress(wide.pixels, 50, 2)

        settings = EncodingSettings()
        alpha = grey(*SHAPE, 2)
        metadata = Metadata(exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=b"<x/>", dpi=(300.0, 72.5))
        for case, picture, chosen in (
            ("photo", photo, settings),
            ("grey", Picture(photo.pixels[:, :, 0].copy(), alpha, metadata), settings),
            ("stripped", replace(photo, metadata=metadata), replace(settings, strip_metadata=True)),
            ("drawing", Picture(drawing(90, 120)), settings),
            ("few-bytes", photo, replace(settings, target=("max_bytes", 700))),
            ("more-bytes", photo, replace(settings, target=("max_bytes", 9000))),
            ("exact", Picture(drawing(90, 120)), replace(settings, target=("max_bytes", 4000))),
            ("bpp", photo, replace(settings, target=("target_bpp", 2.5))),
            ("psnr", photo, replace(settings, target=("target_psnr", 14.0))),
            ("psnr-exact", Picture(drawing(*SHAPE)), replace(settings, target=("target_psnr", 60))),
        ):
            try:
                yield f"{name}-file-{case}", encoder.encode(picture, chosen)
            except ValueError as error:
                yield f"{name}-file-{case}", str(error).encode()
        if codec.SEARCHES:
            for case, picture, target in (
                ("photo", photo, None),
                ("drawing", Picture(drawing(90, 120)), None),
                ("bytes", photo, ("max_bytes", 1500)),
            ):
                chosen = EncodingSettings(effort=2, target=target)
                yield f"{name}-file-effort-{case}", encoder.encode(picture, chosen)


def main(folder: Path) -> None:
    """Write all encodings to ``folder``."""
    import torch

    torch.backends.mkldnn.enabled = False
    for name, data in encodings(folder):
        (folder / f"{name}.bin").write_bytes(data)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in PLAIN.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | PLAIN)
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    main(Path(sys.argv[1]))
