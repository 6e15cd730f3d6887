"""Every kept encoding decodes to what it always did: each quality, target, effort, tile layout.

golden/decoded/latents.txt has a line for each file of golden/encoded/ that a codec decodes: the
SHA-256 of its latent as little-endian int32. The latents are exact on every machine, and so are the
hyperprior codec's pixels; those of the binary one may differ by 1 of 255. The pictures are those of
the checkpoints in golden/.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from golden_encodings import HIGH, QUALITIES, SHAPE, WIDE
from helpers import GOLDEN, full_latent
from PIL import Image

from model import load_codec
from model.checkpoint import load_checkpoint
from xfr.file import unpack

LATENTS = dict(
    line.split() for line in (GOLDEN / "decoded/latents.txt").read_text("utf-8").splitlines()
)
PICTURES = sorted((GOLDEN / "decoded").glob("*.png"))
SHAPES = {"wide": WIDE, "high": HIGH}  # the others are of SHAPE


@pytest.fixture(scope="module")
def codecs() -> dict:
    """Codecs by the first word of an encoding's name; visual differs from hyperprior in encoding
    only."""
    codecs = {
        arch: load_codec(load_checkpoint(GOLDEN / f"{arch}.tar"))
        for arch in ("binary", "hyperprior")
    }
    return codecs | {"visual": codecs["hyperprior"]}


def coded(name: str) -> tuple[bytes, int, int, int] | None:
    """The payload of an encoding with its height, width and quality; None of a graphic, and of a
    message instead of a file."""
    data = (GOLDEN / f"encoded/{name}.bin").read_bytes()
    _, kind, *_ = name.split("-")
    if kind == "file":
        xfr = unpack(data) if data.startswith(b"XFR") else None
        return None if xfr is None or xfr.graphic else (xfr.payload, *xfr.shape, xfr.quality)
    if kind.startswith("quality"):
        return data, *SHAPE, int(kind.removeprefix("quality"))
    quality = 50 if "effort" in name else 40
    return data, *SHAPES.get(kind, SHAPE), quality


def digest(codec, name: str) -> str:
    """The SHA-256 of a latent."""
    latent = full_latent(codec, *coded(name))
    return hashlib.sha256(latent.numpy().astype("<i4").tobytes()).hexdigest()


def test_every_learned_encoding_has_a_latent_and_every_quality_of_a_codec_a_picture():
    names = {path.stem for path in (GOLDEN / "encoded").glob("*.bin")}
    assert {name for name in names if coded(name)} == set(LATENTS)
    pictures = {f"{arch}-quality{q}" for arch in ("binary", "hyperprior") for q in QUALITIES}
    assert pictures <= {path.stem for path in PICTURES}


@pytest.mark.parametrize("name", LATENTS)
def test_an_encoding_decodes_to_the_same_latent(codecs, name):
    assert digest(codecs[name.partition("-")[0]], name) == LATENTS[name]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_an_encoding_decodes_to_the_same_picture(codecs, path: Path):
    arch = path.stem.partition("-")[0]
    found = codecs[arch].decompress(*coded(path.stem))
    apart = np.abs(found - np.asarray(Image.open(path)).astype(int)).max()
    assert apart <= (arch == "binary")
