"""Pictures are encoded to the bytes that they always were; see golden_encodings.py."""

import subprocess
import sys

import pytest
from golden_encodings import GOLDEN, ROOT

from xfr.decoder import Decoder
from xfr.file import unpack

ENCODED = sorted((GOLDEN / "encoded").glob("*.bin"))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    subprocess.run([sys.executable, "tests/golden_encodings.py", folder], cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("golden", ENCODED, ids=lambda path: path.stem)
def test_a_picture_becomes_the_same_bytes(golden, encoded):
    found, expected = (encoded / golden.name).read_bytes(), golden.read_bytes()
    if "-file-" in golden.name and expected.startswith(b"XFR") and unpack(expected).graphic:
        # The payload of a graphic is what Pillow's WebP encoder writes, which may change with its
        # version.
        assert unpack(found).graphic and len(found) <= 1.1 * len(expected)
        pictures = [Decoder(None).decode(unpack(data)) for data in (found, expected)]
        assert pictures[0].pixels.tobytes() == pictures[1].pixels.tobytes()
        return
    assert found == expected
