"""Makes the files of a release that every later version decodes, once, when its checkpoints are
final, and the list of what they decode to.

    python tests/release.py tests/golden/1.0

tests/xfr/test_release.py decodes them.
"""

import csv
import hashlib
import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
LIST = "list.csv"
COLUMNS = ("file", "checkpoint", "bytes_sha256", "pixels_sha256", "metadata_sha256")
SHIPPED = "main", "hyperprior", "visual"
QUALITIES = 1, 15, 35, 50, 70, 90, 100


def digest(*parts: bytes) -> str:
    """SHA-256 of byte strings and their lengths."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def pixels_digest(picture) -> str:
    """The digest of the pixels and the transparency of a Picture, and of their shapes."""
    planes = [plane for plane in (picture.pixels, picture.alpha) if plane is not None]
    return digest(*(part for p in planes for part in (repr(p.shape).encode(), p.tobytes())))


def metadata_digest(metadata) -> str:
    """The digest of everything that a file says beside its pixels."""
    fields = metadata.icc, metadata.exif, metadata.xmp, metadata.dpi, metadata.iptc, metadata.texts
    return digest(*(repr(field).encode() for field in fields))


def files() -> Iterator[tuple[str, str, bytes]]:
    """The name of each file, that of the encoder's checkpoint, and its bytes."""
    from helpers import SRGB, WIDE, drawing, grey

    from xfr.encoder import Encoder, EncodingSettings
    from xfr.images import Picture, read_picture
    from xfr.metadata import Metadata
    from xfr.text import pack_texts

    def sample(name: str, top: int, left: int, height: int, width: int) -> np.ndarray:
        pixels = read_picture(ROOT / "out/original" / name).pixels
        return np.ascontiguousarray(pixels[top : top + height, left : left + width])

    cat = sample("chelsea.png", 60, 120, 131, 170)
    metadata = Metadata(
        icc=WIDE,
        exif=b"MM\0*\0\0\0\x08\0\x01\x01\x0e\x00\x02\0\0\0\x04cat\0\0\0\0\0",
        xmp=b"<x:xmpmeta/>",
        dpi=(300.0, 72.5),
        iptc=b"\x1c\x02\x78\0\x03cat",
        texts=pack_texts([("Comment", "a cat")]),
    )
    alpha = grey(131, 170, 3)
    wide, high = (cat[:20, np.arange(1100) % 170], cat[np.arange(1050) % 131, :17])
    for name in SHIPPED:
        encoder = Encoder(ROOT / f"out/{name}.tar")
        plain = EncodingSettings()
        cases = [(f"quality-{q}", Picture(cat), EncodingSettings(q)) for q in QUALITIES]
        cases += [
            ("grey-alpha", Picture(cat[:, :, 1].copy(), alpha), plain),
            ("metadata", Picture(cat[:64, :64].copy(), metadata=metadata), plain),
            ("wide", Picture(wide.copy()), EncodingSettings(25)),
            ("high", Picture(high.copy()), EncodingSettings(80)),
            ("pixel", Picture(cat[:1, :1].copy()), plain),
            ("row", Picture(cat[:1, :37].copy()), plain),
            ("column", Picture(cat[:65, :1].copy()), plain),
            ("bytes", Picture(cat), EncodingSettings(target=("max_bytes", 1500))),
            ("decibels", Picture(cat), EncodingSettings(target=("target_psnr", 33.0))),
        ]
        if encoder.codec.SEARCHES:
            cases += [("effort", Picture(cat), EncodingSettings(40, effort=3))]
        for case, picture, settings in cases:
            yield f"{name}-{case}.xfr", name, encoder.encode(picture, settings)
    encoder = Encoder(ROOT / "out/main.tar")
    drawn, profile = drawing(90, 120), Metadata(icc=SRGB)
    for case, picture, settings in (
        ("exact", Picture(drawn, metadata=profile), EncodingSettings(100)),
        ("palette", Picture(drawn), EncodingSettings(10)),
        ("grey-alpha", Picture(drawn[:, :, 1].copy(), grey(90, 120)), EncodingSettings(50)),
    ):
        yield f"graphic-{case}.xfr", "main", encoder.encode(picture, settings)


def main(folder: Path) -> None:
    """Write all files and their list to a new ``folder``."""
    from xfr.decoder import Decoder
    from xfr.file import unpack
    from xfr.library import as_image
    from xfr.metadata import NO_METADATA

    folder.mkdir(parents=True)
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    decoder = Decoder(ROOT / "out/main.tar")
    for name, checkpoint, data in files():
        xfr = unpack(data)
        checkpoint = "" if xfr.graphic else checkpoint
        (folder / name).write_bytes(data)
        picture = decoder.decode(xfr)
        if checkpoint == "main":  # its pixels may differ by a level from machine to machine
            as_image(replace(picture, metadata=NO_METADATA)).save(
                folder / name.replace(".xfr", ".png")
            )
        found = pixels_digest(picture), metadata_digest(picture.metadata)
        rows.writerow([name, checkpoint, hashlib.sha256(data).hexdigest(), *found])
    (folder / LIST).write_text(text.getvalue())


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    main(Path(sys.argv[1]))
