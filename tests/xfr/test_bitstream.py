import math
import os
import struct
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.bytestream import lzma_compress, pack_chunk, pack_number
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import (
    ALPHA,
    BYTES_BESIDE_PIXELS,
    BYTES_PER_PIXEL,
    DPI,
    EFFORT,
    EXIF,
    ICC,
    MAX_STREAM,
    TARGET,
    TARGETS,
    XMP,
    Xfr,
    checksum,
    pack,
    peek,
    read_file,
    unpack,
)
from xfr.metadata import Metadata

PLAIN = Xfr(1, 0x0123456789ABCDEF, 768, 512, False, 50, bytes(range(256)) * 100)
SMALL = Xfr(
    2, 2**63, 3, 2, True, 7, b"payload", np.arange(6, dtype=np.uint8).reshape(2, 3),
    Metadata(b"profile", b"exif", b"xmp", (300, 72.5)), ("target_bpp", 0.25),
)  # fmt: skip


def sealed(content: bytes) -> bytes:
    """The content with its CRC."""
    return content + struct.pack(">I", zlib.crc32(content))


def handmade(flags: int = 0, quality: int = 50, width: int = 5, height: int = 5, rest=b"") -> bytes:
    """A file of an empty payload, of whatever values; ``rest`` is what the flags ask for."""
    head = b"XFR" + struct.pack(">BBQ", 1, 1, 0) + pack_number(flags) + bytes([quality])
    return sealed(head + pack_number(width) + pack_number(height) + pack_number(0) + rest)


def stream_of(data: bytes) -> bytes:
    return pack_chunk(lzma_compress(data))


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
    streams = [draw(st.none() | st.binary(max_size=300)) for _ in range(3)]
    inches = st.floats(2.0**-100, 2.0**100, width=32)
    dpi = st.tuples(inches, inches) | st.integers(1, 10**9).map(lambda dpi: (np.float32(dpi),) * 2)
    metadata = Metadata(*streams, draw(st.none() | dpi))
    names = st.sampled_from(TARGETS)
    return Xfr(
        draw(st.integers(0, 255)),
        draw(st.integers(0, 2**64 - 1)),
        width,
        height,
        draw(st.booleans()),
        draw(st.integers(1, 100)),
        draw(st.binary(max_size=300)),
        alpha,
        metadata,
        draw(st.none() | st.tuples(names, st.floats(0, 2.0**100, width=32))),
        draw(st.booleans()),
        draw(st.integers(0, 9)),
        draw(st.none() | st.integers(0, 2**32 - 1)),
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


def test_the_source_takes_five_bytes_and_only_where_it_is_known():
    data = pack(replace(PLAIN, source=0xCBF43926))
    assert len(data) == len(pack(PLAIN)) + 5 and unpack(pack(PLAIN)).source is None
    assert bytes.fromhex("cbf43926") in data and unpack(data).source == 0xCBF43926


def test_a_checksum_is_that_of_all_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"123456789")
    assert checksum(path) == 0xCBF43926  # the check value of CRC-32/ISO-HDLC
    data = bytes(range(251)) * 10_000
    path.write_bytes(data)
    assert checksum(path) == zlib.crc32(data)


def test_room_is_kept_for_decoded_channels_and_transparency():
    assert PLAIN.pixel_bytes == 3 * 768 * 512 and SMALL.pixel_bytes == 4 * 3 * 2


def test_a_common_resolution_takes_a_byte():
    described = replace(PLAIN, metadata=Metadata(dpi=(72, 72)))
    assert len(pack(described)) == len(pack(PLAIN)) + 1


def test_every_truncation_is_refused():
    data = pack(SMALL)
    for length in range(len(data)):
        with pytest.raises(ValueError):
            unpack(data[:length])


def test_a_truncation_says_how_much_is_missing():
    with pytest.raises(ValueError, match="truncated file: 1000 or more bytes are missing"):
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
    with pytest.raises(ValueError, match="an .xfr file of version 2; this program reads 1"):
        unpack(bytes(data))


def test_a_wrong_crc_is_named():
    data = bytearray(pack(PLAIN))
    data[1000] ^= 16
    with pytest.raises(ValueError, match="CRC"):
        unpack(bytes(data))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flags": 4096}, "unknown flags"),
        ({"flags": EFFORT, "rest": b"\0"}, "effort 0 is out of range"),
        ({"flags": EFFORT, "rest": b"\x0a"}, "effort 10 is out of range"),
        ({"quality": 0}, "quality 0"),
        ({"quality": 101}, "quality 101"),
        ({"width": 0}, "a picture of 0x5 pixels"),
        ({"height": 0}, "a picture of 5x0 pixels"),
        ({"flags": TARGET, "rest": struct.pack(">Bf", 5, 1)}, "unknown target 5"),
        (
            {"flags": ICC, "rest": pack_number(2**30) + stream_of(b"")},
            "1073741824 bytes of colour profile",
        ),
        (
            {"flags": ICC, "rest": pack_number(4) + pack_chunk(b"\xff" * 3)},
            "damaged colour profile",
        ),
        ({"flags": EXIF, "rest": pack_number(2**25) + stream_of(b"")}, "33554432 bytes of EXIF"),
        ({"flags": XMP, "rest": pack_number(4) + pack_chunk(b"\xff" * 3)}, "damaged XMP"),
        (
            {"flags": DPI, "rest": b"\0" + struct.pack(">ff", 72, 0)},
            "a resolution of 72 by 0 pixels",
        ),
        (
            {"flags": DPI, "rest": b"\0" + struct.pack(">ff", math.nan, 72)},
            "a resolution of nan by 72",
        ),
        (
            {"flags": DPI, "rest": b"\0" + struct.pack(">ff", math.inf, 72)},
            "a resolution of inf by 72",
        ),
        ({"flags": ALPHA, "rest": pack_chunk(b"\xff" * 3)}, "damaged alpha channel"),
    ],
)
def test_a_field_out_of_its_range_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        unpack(handmade(**fields))


@pytest.mark.parametrize("size", [0, 24, 26])
def test_alpha_of_another_size_than_the_picture_is_refused(size):
    with pytest.raises(ValueError, match="damaged alpha channel"):
        unpack(handmade(flags=ALPHA, rest=stream_of(bytes(size))))


@pytest.mark.parametrize("size", [0, 24, 26])
@pytest.mark.parametrize(("flags", "name"), [(ICC, "colour profile"), (EXIF, "EXIF"), (XMP, "XMP")])
def test_metadata_of_another_size_than_declared_are_refused(size, flags, name):
    with pytest.raises(ValueError, match=f"damaged {name}"):
        unpack(handmade(flags=flags, rest=pack_number(25) + stream_of(bytes(size))))


@pytest.mark.parametrize(
    ("flags", "head"),
    [(ALPHA, b""), *((flag, pack_number(25)) for flag in (ICC, EXIF, XMP))],
    ids=["alpha", "profile", "exif", "xmp"],
)
def test_a_stream_that_holds_more_than_declared_is_not_unpacked(peak, flags, head):
    bomb = handmade(flags=flags, rest=head + stream_of(bytes(1 << 24)))
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with pytest.raises(ValueError, match="damaged"):
        unpack(bomb)
    assert peak() - before < 4 << 20


def test_a_file_is_recognised_if_it_was_made_with_at_least_as_much_effort(has_encoded):
    assert has_encoded(EncodingSettings(50, effort=4), effort=4)
    assert has_encoded(EncodingSettings(50, effort=4), effort=9)
    assert has_encoded(EncodingSettings(50), effort=1)
    assert not has_encoded(EncodingSettings(50, effort=4), effort=3)
    assert not has_encoded(EncodingSettings(50, effort=1))


@pytest.mark.parametrize(("width", "height"), [(2**34, 2**34), (2**20, 2**20), (13378, 13378)])
def test_an_absurd_size_is_refused_before_anything_is_allocated(peak, width, height):
    data = handmade(flags=ALPHA, width=width, height=height, rest=stream_of(bytes(1000)))
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with pytest.raises(ValueError, match=f"{width}x{height} pixels are more than the limit"):
        unpack(data)
    assert peak() - before < 1 << 20


def test_an_absurd_length_is_refused_before_anything_is_allocated(peak):
    head = b"XFR" + struct.pack(">BBQBB", 1, 1, 0, 0, 50) + pack_number(5) + pack_number(5)
    with pytest.raises(ValueError, match="truncated file"):
        unpack(sealed(head + pack_number(2**34)))
    with pytest.raises(ValueError, match="damaged file: a number of more than 35 bits"):
        unpack(sealed(head + b"\xff" * 40))
    assert peak() < 1 << 20


def test_a_large_profile_comes_back():
    profile = np.random.default_rng(0).bytes(2 << 20)
    assert (
        unpack(pack(Xfr(1, 0, 5, 5, False, 50, b"", metadata=Metadata(icc=profile)))).metadata.icc
        == profile
    )


@pytest.mark.parametrize(
    ("name", "message"), [("icc", "its colour profile"), ("exif", "its EXIF"), ("xmp", "its XMP")]
)
def test_metadata_that_unpack_would_refuse_are_not_packed(name, message):
    def described(data: bytes) -> Xfr:
        return Xfr(1, 0, 5, 5, False, 50, b"", metadata=Metadata(**{name: data}))

    data = bytes(MAX_STREAM + 1)
    with pytest.raises(ValueError, match=f"{message} has {MAX_STREAM + 1} bytes, more than"):
        pack(described(data))
    assert getattr(unpack(pack(described(data[1:]))).metadata, name) == data[1:]


# Reading


def sparse(path: Path, start: bytes, size: int) -> Path:
    """A file of ``size`` bytes that begins with ``start`` and takes no room on the disk."""
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(size)
    return path


def test_a_file_is_read_entirely(tmp_path):
    for data in (pack(PLAIN), pack(SMALL), handmade()):
        (tmp_path / "a.xfr").write_bytes(data)
        assert read_file(tmp_path / "a.xfr") == data


def test_the_longest_header_is_seen_at_once(tmp_path):
    path, largest = tmp_path / "a.xfr", 2**35 - 1
    path.write_bytes(
        b"XFR\x01\x01" + bytes(8) + pack_number(largest) + b"\x32" + 3 * pack_number(largest)
    )
    assert peek(path)[2:] == (largest, 50, largest, largest, largest)


@pytest.mark.parametrize(
    ("start", "max_pixels", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", 10**8, "not an .xfr file"),
        (b"XFR\x02", 10**8, "an .xfr file of version 2"),
        (
            handmade(width=20, height=10),
            10**8,
            "damaged file: 4294967296 bytes, too many for 20x10",
        ),
        (handmade(width=2**20, height=2**20), 10**6, "4294967296 bytes, too many for"),
    ],
    ids=["png", "version", "small", "beyond the limit of pixels"],
)
def test_a_huge_file_is_refused_before_it_is_read(tmp_path, peak, start, max_pixels, message):
    path = sparse(tmp_path / "huge.xfr", start, 2**32)
    with pytest.raises(ValueError, match=message):
        read_file(path, max_pixels)
    assert peak() < 1 << 20


@pytest.mark.parametrize("side", [64, 13_000])
def test_a_file_of_noise_without_loss_and_with_all_metadata_is_not_too_large(
    tmp_path, monkeypatch, side
):
    """Four bytes a pixel, a little more for what cannot be compressed, and 16 MB of each stream."""
    data = handmade(width=side, height=side)
    (tmp_path / "a.xfr").write_bytes(data)
    size = round(1.1 * 4 * side**2) + 5 * 16_780_000
    monkeypatch.setattr("xfr.file.os.fstat", lambda _: SimpleNamespace(st_size=size))
    assert read_file(tmp_path / "a.xfr") == data


def test_a_file_as_large_as_its_header_allows_is_read_and_then_refused(tmp_path):
    most = BYTES_BESIDE_PIXELS + BYTES_PER_PIXEL * 64 * 64
    path = sparse(tmp_path / "large.xfr", handmade(), most)
    with pytest.raises(ValueError, match="trailing bytes"):
        unpack(read_file(path))
    with pytest.raises(ValueError, match="too many for 5x5 pixels"):
        read_file(sparse(path, handmade(), most + 1))


@pytest.fixture
def has_encoded(tmp_path, checkpoints):
    """Whether a tiny encoder recognises a file, written with ``changes``, as its own."""
    encoder = Encoder(checkpoints["binary"])
    source, output = tmp_path / "a.png", tmp_path / "a.xfr"

    def run(settings: EncodingSettings, damage=lambda data: data, age: int = 0, **changes) -> bool:
        made_by = {"arch": encoder.codec.FILE_NUMBER, "fingerprint": encoder.fingerprint}
        content = {"width": 3, "height": 2, "grey": False, "quality": 50, "payload": b"payload"}
        output.write_bytes(damage(pack(Xfr(**made_by | content | changes))))
        source.write_bytes(b"")
        os.utime(source, ns=(output.stat().st_mtime_ns + age,) * 2)
        return encoder.has_encoded(source, output, settings)

    return run


def test_a_file_is_recognised_if_it_is_intact_and_of_the_same_checkpoint_and_quality(has_encoded):
    settings = EncodingSettings(50)
    assert has_encoded(settings)
    assert not has_encoded(settings, damage=lambda data: data[:-1])
    assert not has_encoded(settings, arch=2)
    assert not has_encoded(settings, fingerprint=8)
    assert not has_encoded(EncodingSettings(51))
    assert not has_encoded(EncodingSettings(50, ("max_bytes", 50)))


def test_a_file_that_was_made_for_a_target_is_recognised_for_that_target_alone(has_encoded):
    target = ("target_bpp", 0.3)
    assert has_encoded(EncodingSettings(target=target), target=target)
    assert not has_encoded(EncodingSettings(target=("target_bpp", 0.4)), target=target)
    assert not has_encoded(EncodingSettings(target=("target_psnr", 0.3)), target=target)
    assert not has_encoded(EncodingSettings(50), target=target)


def test_an_absurd_size_is_not_recognised(has_encoded):
    assert not has_encoded(EncodingSettings(50), width=sys.maxsize >> 30, height=2**30)


def test_a_file_older_than_its_picture_is_not_recognised(has_encoded):
    assert has_encoded(EncodingSettings(50), age=-1)
    assert not has_encoded(EncodingSettings(50), age=10**9)


def test_a_file_that_says_what_it_was_made_from_is_recognised_by_that_whatever_the_dates(
    has_encoded,
):
    settings, empty = EncodingSettings(50), zlib.crc32(b"")
    assert has_encoded(settings, source=empty, age=-(10**9))
    assert has_encoded(settings, source=empty, age=10**9)
    assert not has_encoded(settings, source=empty + 1, age=-(10**9))
    assert not has_encoded(EncodingSettings(51), source=empty)


def test_a_missing_file_is_not_recognised(checkpoints, tmp_path):
    missing = tmp_path / "a.xfr"
    assert not Encoder(checkpoints["binary"]).has_encoded(missing, missing, EncodingSettings(50))
