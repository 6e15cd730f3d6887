"""Files of version 1 that were made once and must decode for ever, from the first release on.

The tiny codecs that made them are frozen beside them. What is between the bytes and the latent
is exact; a pixel may differ by 1 of 255 from machine to machine.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from helpers import full_latent
from PIL import Image

from utils.bitstream import unpack
from utils.checkpoints import fingerprint, load_checkpoint
from utils.coding import Decoder

GOLDEN = Path(__file__).parent / "golden"
# Of the latent as little-endian int32.
LATENTS = {
    "binary": "039244f6638b8ae72a090f6aaa99b497f04ba8eabf0ae03cbdde5d712c5544a3",
    "hyperprior": "a261f80eeb0bfbf80138fb0898eb43c07f2fd49af028da4add8ab3eb7d0e7118",
}


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
    assert np.abs(decoder.decode(xfr).pixels - expected).max() <= 1


def test_fingerprints_stay():
    names = {arch: fingerprint(load_checkpoint(GOLDEN / f"{arch}.tar")) for arch in LATENTS}
    assert names == {"binary": 0x21B8C2E00F495F77, "hyperprior": 0xA219C2B0F33748D4}
