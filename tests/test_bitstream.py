import lzma
import os
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.bitstream import ALPHA, FILTERS, ICC, MAX_ICC, Xfr, intact, number, pack, unpack

PLAIN = Xfr(1, 0x0123456789ABCDEF, 768, 512, False, 50, bytes(range(256)) * 100)
SMALL = Xfr(
    2, 2**63, 3, 2, True, 7, b"payload", np.arange(6, dtype=np.uint8).reshape(2, 3), b"profile",
    ("target_bpp", 0.25),
)  # fmt: skip


def sealed(content: bytes) -> bytes:
    """With a CRC that fits."""
    return content + struct.pack(">I", zlib.crc32(content))


def handmade(flags: int = 0, quality: int = 50, width: int = 5, height: int = 5, rest=b"") -> bytes:
    """A file of an empty payload, of whatever values; ``rest`` is what the flags ask for."""
    head = b"XFR" + struct.pack(">BBQBB", 1, 1, 0, flags, quality)
    return sealed(head + number(width) + number(height) + number(0) + rest)


def stream_of(data: bytes) -> bytes:
    stream = lzma.compress(data, lzma.FORMAT_RAW, filters=FILTERS)
    return number(len(stream)) + stream


@pytest.fixture
def peak():
    """Bytes that were allocated at most since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@st.composite
def files(draw) -> Xfr:
    width, height = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    alpha = None
    if draw(st.booleans()):
        data = draw(st.binary(min_size=width * height, max_size=width * height))
        alpha = np.frombuffer(data, np.uint8).reshape(height, width)
    names = st.sampled_from(["target_bpp", "max_bytes", "target_psnr"])
    return Xfr(
        draw(st.integers(0, 255)),
        draw(st.integers(0, 2**64 - 1)),
        width,
        height,
        draw(st.booleans()),
        draw(st.integers(1, 100)),
        draw(st.binary(max_size=300)),
        alpha,
        draw(st.none() | st.binary(max_size=300)),
        draw(st.none() | st.tuples(names, st.floats(0, 2.0**100, width=32))),
    )


@given(files())
def test_every_field_comes_back(xfr):
    found, expected = vars(unpack(pack(xfr))), dict(vars(xfr))
    alpha = found.pop("alpha"), expected.pop("alpha")
    assert found == expected
    assert (alpha[0] is None and alpha[1] is None) or np.array_equal(*alpha)


@given(st.integers(1, 2**34), st.integers(1, 2**34))
def test_every_size_comes_back(width, height):
    xfr = unpack(pack(Xfr(1, 0, width, height, False, 50, b"")), max_pixels=2**70)
    assert (xfr.width, xfr.height) == (width, height)


def test_an_ordinary_picture_has_at_most_32_bytes_around_its_payload():
    assert len(pack(PLAIN)) - len(PLAIN.payload) <= 32


def test_every_truncation_is_refused():
    data = pack(SMALL)
    for length in range(len(data)):
        with pytest.raises(ValueError):
            unpack(data[:length])


def test_a_truncation_says_how_much_is_missing():
    with pytest.raises(ValueError, match="truncated: at least 1000 bytes are missing"):
        unpack(pack(PLAIN)[:-1004])


def test_every_flipped_bit_is_refused():
    data = pack(SMALL)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            unpack(bytes(flipped))


@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_refused_or_read(data):
    for content in (data, b"XFR\x01" + data, sealed(b"XFR\x01" + data)):
        try:
            unpack(content)
        except ValueError:
            pass


def test_a_file_of_another_kind_is_named():
    with pytest.raises(ValueError, match="not an .xfr file"):
        unpack(b"\x89PNG\r\n\x1a\n" + bytes(50))


def test_trailing_bytes_are_named():
    with pytest.raises(ValueError, match="3 trailing bytes"):
        unpack(pack(SMALL) + b"abc")


def test_a_newer_version_is_named():
    data = bytearray(pack(SMALL))
    data[3] = 2
    with pytest.raises(ValueError, match="version 2 of .xfr, this program reads version 1"):
        unpack(bytes(data))


def test_a_wrong_crc_is_named():
    data = bytearray(pack(PLAIN))
    data[1000] ^= 16
    with pytest.raises(ValueError, match="CRC"):
        unpack(bytes(data))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flags": 16}, "unknown flags"),
        ({"quality": 0}, "quality 0"),
        ({"quality": 101}, "quality 101"),
        ({"width": 0}, "0x5 is no size"),
        ({"height": 0}, "5x0 is no size"),
        ({"flags": 8, "rest": struct.pack(">Bf", 4, 1)}, "unknown request 4"),
        ({"flags": ICC, "rest": number(2**30) + stream_of(b"")}, "ICC profile of 1073741824 bytes"),
        ({"flags": ICC, "rest": number(4) + number(3) + b"\xff\xff\xff"}, "damaged ICC profile"),
        ({"flags": ALPHA, "rest": number(3) + b"\xff\xff\xff"}, "damaged alpha"),
    ],
)
def test_a_field_out_of_its_range_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        unpack(handmade(**fields))


@pytest.mark.parametrize("size", [0, 24, 26])
def test_alpha_of_another_size_than_the_picture_is_refused(size):
    with pytest.raises(ValueError, match="damaged alpha"):
        unpack(handmade(flags=ALPHA, rest=stream_of(bytes(size))))


@pytest.mark.parametrize("size", [0, 24, 26])
def test_a_profile_of_another_size_than_declared_is_refused(size):
    with pytest.raises(ValueError, match="damaged ICC profile"):
        unpack(handmade(flags=ICC, rest=number(25) + stream_of(bytes(size))))


@pytest.mark.parametrize(
    ("flags", "head"), [(ALPHA, b""), (ICC, number(25))], ids=["alpha", "profile"]
)
def test_a_stream_that_holds_more_than_declared_is_not_unpacked(peak, flags, head):
    bomb = handmade(flags=flags, rest=head + stream_of(bytes(1 << 24)))
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with pytest.raises(ValueError, match="damaged"):
        unpack(bomb)
    assert peak() - before < 4 << 20


@pytest.mark.parametrize(("width", "height"), [(2**34, 2**34), (2**20, 2**20), (13378, 13378)])
def test_an_absurd_size_is_refused_before_anything_is_allocated(peak, width, height):
    data = handmade(flags=ALPHA, width=width, height=height, rest=stream_of(bytes(1000)))
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with pytest.raises(ValueError, match=f"{width}x{height} pixels are more than the limit"):
        unpack(data)
    assert peak() - before < 1 << 20


def test_an_absurd_length_is_refused_before_anything_is_allocated(peak):
    head = b"XFR" + struct.pack(">BBQBB", 1, 1, 0, 0, 50) + number(5) + number(5)
    with pytest.raises(ValueError, match="truncated"):
        unpack(sealed(head + number(2**34)))
    with pytest.raises(ValueError, match="number without end"):
        unpack(sealed(head + b"\xff" * 40))
    assert peak() < 1 << 20


def test_a_large_profile_comes_back():
    profile = np.random.default_rng(0).bytes(2 << 20)
    assert unpack(pack(Xfr(1, 0, 5, 5, False, 50, b"", icc=profile))).icc == profile


def test_a_profile_that_unpack_would_refuse_is_not_packed():
    profile = bytes(MAX_ICC + 1)
    with pytest.raises(ValueError, match=f"an ICC profile of {MAX_ICC + 1} bytes is longer than"):
        pack(Xfr(1, 0, 5, 5, False, 50, b"", icc=profile))
    assert unpack(pack(Xfr(1, 0, 5, 5, False, 50, b"", icc=profile[1:]))).icc == profile[1:]


def test_a_file_is_intact_only_if_whole_and_of_the_same_settings(tmp_path):
    path, settings = tmp_path / "a.xfr", (1, 9, 50)
    assert not intact(path, path, settings)
    path.write_bytes(pack(Xfr(1, 9, 3, 2, False, 50, b"payload")))
    assert intact(path, path, settings)
    others = [
        (2, 9, 50), (1, 8, 50), (1, 9, 51), (1, 9, ("max_bytes", 50)),
    ]  # fmt: skip
    assert not any(intact(path, path, other) for other in others)
    path.write_bytes(path.read_bytes()[:-1])
    assert not intact(path, path, settings)


def test_a_file_made_for_a_target_is_intact_for_that_target_alone(tmp_path):
    path = tmp_path / "a.xfr"
    path.write_bytes(pack(Xfr(1, 9, 3, 2, False, 50, b"", request=("target_bpp", 0.3))))
    assert intact(path, path, (1, 9, ("target_bpp", 0.3)))
    assert not intact(path, path, (1, 9, ("target_bpp", 0.4)))
    assert not intact(path, path, (1, 9, 50))


def test_an_absurd_size_is_not_intact(tmp_path):
    (tmp_path / "a.xfr").write_bytes(
        handmade(flags=ALPHA, width=sys.maxsize >> 30, height=2**30, rest=stream_of(b""))
    )
    assert not intact(*[tmp_path / "a.xfr"] * 2, (1, 0, 50))


def test_a_file_older_than_its_picture_is_not_intact(tmp_path):
    path, source, settings = tmp_path / "a.xfr", tmp_path / "a.png", (1, 9, 50)
    path.write_bytes(pack(Xfr(1, 9, 3, 2, False, 50, b"payload")))
    source.write_bytes(b"")
    os.utime(source, ns=(path.stat().st_mtime_ns,) * 2)
    assert intact(path, source, settings)
    os.utime(source, ns=(path.stat().st_mtime_ns + 10**9,) * 2)
    assert not intact(path, source, settings)
