"""Files of version 1 that were made once and must decode for ever, from the first release on.

The tiny codecs that made them are frozen beside them. The hyperprior codec's pixels are exact. The
binary codec's may differ by 1 of 255 from machine to machine.
"""

import hashlib

import numpy as np
import pytest
from helpers import GOLDEN, full_latent
from PIL import Image

from model.checkpoint import fingerprint, load_checkpoint
from xfr.decoder import Decoder
from xfr.file import unpack

# Hashes of the latent as little-endian int32.
LATENTS = {
    "binary": "54f042d65d86e4cb8732d414e361947b7556053229e8c61f9b45141fa06c458f",
    "hyperprior": "0b3093e5aa67a23116b0002ae32dfb88053de3b8067685931bf42501f9addab8",
}

# Hashes of the picture and of the EXIF in the file without loss.
PIXELS = "27e75bddb4a6b692c96610831f4a7c56e2cbd0bc868c011ccfa710a414dc96d2"
EXIF = "56bbd77c6380f5459c1fde74dbc355962496382438491e581bd2f0135e6e3e2c"


@pytest.mark.parametrize("arch", LATENTS)
def test_a_file_of_version_1_decodes_to_the_same_latent_and_picture(arch):
    xfr = unpack((GOLDEN / f"{arch}.xfr").read_bytes())
    decoder = Decoder(GOLDEN / f"{arch}.tar")
    assert xfr.shape == (70, 90) and xfr.quality == 80 and not xfr.grey and xfr.target is None
    assert xfr.metadata.icc[16:20] == b"RGB " and xfr.alpha.shape == xfr.shape

    codec = decoder.codec(xfr.fingerprint)
    latent = full_latent(codec, xfr.payload, *xfr.shape, xfr.quality)
    digest = hashlib.sha256(latent.numpy().astype("<i4").tobytes()).hexdigest()
    assert digest == LATENTS[arch]

    expected = np.asarray(Image.open(GOLDEN / f"{arch}.png")).astype(int)
    assert np.abs(decoder.decode(xfr).pixels - expected).max() <= (arch == "binary")


def test_a_file_without_loss_decodes_to_the_same_picture_and_metadata():
    xfr = unpack((GOLDEN / "lossless.xfr").read_bytes())
    assert xfr.graphic and xfr.grey and xfr.target == ("max_bytes", 5000)
    picture = Decoder(None).decode(xfr)
    assert picture.pixels.shape == (70, 90)
    assert hashlib.sha256(picture.pixels.tobytes()).hexdigest() == PIXELS
    assert np.array_equal(picture.alpha, np.arange(70 * 90).astype(np.uint8).reshape(70, 90))
    assert picture.metadata.dpi == (300, 72.5) and picture.metadata.xmp.startswith(b"<?xpacket")
    assert hashlib.sha256(picture.metadata.exif).hexdigest() == EXIF


def test_fingerprints_stay():
    names = {arch: fingerprint(load_checkpoint(GOLDEN / f"{arch}.tar")) for arch in LATENTS}
    assert names == {"binary": 0x4BEB14F4B80D4606, "hyperprior": 0xE00277779A7CDED7}
