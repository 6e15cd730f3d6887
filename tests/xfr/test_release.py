"""The promise of version 1: its files decode to the same pixels for ever.

Nothing here may change: neither the files in golden/1.0/, nor their list, nor the constants below.
A later release adds a folder of its own.
"""

import csv
import hashlib

import numpy as np
import pytest
from helpers import GOLDEN, ROOT
from PIL import Image
from release import LIST, metadata_digest, pixels_digest

from model.checkpoint import fingerprint, load_checkpoint
from xfr.decoder import Decoder
from xfr.file import unpack

FOLDER = GOLDEN / "1.0"
LIST_SHA256 = "f37e69841dc3d1c64c51c87ce5e8c9387f0d8cdd22c70da396484458a505f757"
FINGERPRINTS = {
    "main": 0x99C643C5FC9ECB31,
    "hyperprior": 0x55F76E97E01D0DC3,
    "visual": 0x6A760324E029D70A,
}
ROWS = list(csv.DictReader((FOLDER / LIST).open(newline="")))


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(ROOT / "out/main.tar")


def test_the_list_is_that_of_the_release():
    assert hashlib.sha256((FOLDER / LIST).read_bytes()).hexdigest() == LIST_SHA256
    assert {row["file"] for row in ROWS} == {path.name for path in FOLDER.glob("*.xfr")}


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_checkpoint_is_that_of_the_release(name):
    assert fingerprint(load_checkpoint(ROOT / f"out/{name}.tar")) == FINGERPRINTS[name]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["file"])
def test_a_file_of_the_release_decodes_to_the_same_pixels(decoder, row):
    data = (FOLDER / row["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == row["bytes_sha256"]
    picture = decoder.decode(unpack(data))
    assert metadata_digest(picture.metadata) == row["metadata_sha256"]
    if row["checkpoint"] == "main":  # whose synthesis computes in floating point
        expected = np.asarray(Image.open(FOLDER / row["file"].replace(".xfr", ".png")))
        assert expected.shape[:2] == picture.shape
        found = (
            picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
        )
        assert np.abs(found.astype(int) - expected).max() <= 1
    else:
        assert pixels_digest(picture) == row["pixels_sha256"]
