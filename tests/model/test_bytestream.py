"""Streams of lzma look back as far as those of earlier files, and no further."""

import lzma

import numpy as np

from model.bytestream import lzma_compress, lzma_decompress

MEGABYTE = 2**20
REPEATED = 20_000


def repeating(distance: int) -> bytes:
    """Noise, whose first REPEATED bytes come again at a distance."""
    data = np.random.default_rng(0).bytes(distance)
    return data + data[:REPEATED]


def test_a_stream_that_repeats_what_was_nearly_a_megabyte_before_is_read():
    data = repeating(MEGABYTE - 100)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": MEGABYTE}]
    stream = lzma.compress(data, lzma.FORMAT_RAW, filters=filters)
    assert len(stream) < MEGABYTE + 2000
    assert lzma_decompress(stream, len(data), "example") == data


def test_no_stream_repeats_what_was_more_than_a_megabyte_before():
    """Decoders have no memory for it."""
    sizes = [len(lzma_compress(repeating(MEGABYTE + more), preset=0)) for more in (-100, 100)]
    assert sizes[0] < MEGABYTE + 2000 and sizes[1] > MEGABYTE + REPEATED
