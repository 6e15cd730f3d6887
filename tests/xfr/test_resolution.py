"""The resolution of a picture in an .xfr file."""

import struct

import pytest

from xfr.file import Xfr, pack, unpack
from xfr.metadata import Metadata


@pytest.mark.parametrize(
    "dpi",
    [299.9994, 300.0006, 72.5, 0.5, 1.0, 300.0, 2.0**24 + 2, 2.0**31, 1e30],
)
@pytest.mark.parametrize("down", [1, 2])
def test_every_resolution_comes_back_as_it_is(dpi, down):
    """To the precision of float32, whether it is whole or not, the same both ways or not."""
    (dpi,) = struct.unpack("f", struct.pack("f", dpi))
    xfr = Xfr(1, 2, 30, 20, False, 50, b"", metadata=Metadata(dpi=(dpi, down * dpi)))
    assert unpack(pack(xfr)).metadata.dpi == (dpi, down * dpi)
