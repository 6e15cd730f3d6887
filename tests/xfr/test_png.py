"""PNG files: samples of every kind, colours, texts, and chunks of any size."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from helpers import SRGB, WIDE, colour
from PIL import Image, ImageCms
from raw_files import chunk, png, rounded

from xfr import text
from xfr.images import write_picture
from xfr.text import unpack_texts

RNG = np.random.default_rng(0)
RED, P3_RED = (255, 0, 0), (234, 51, 35)  # Display P3's number for the red of sRGB
P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
REC709 = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
KINDS = [
    (colour_type, bits, interlaced)
    for colour_type, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (4, (8, 16)), (6, (8, 16)))
    for bits in depths
    for interlaced in (False, True)
]


def raw_profile(kind: str, data: bytes) -> tuple[bytes, bytes]:
    """A raw profile as ImageMagick writes it."""
    digits = data.hex()
    lines = "\n".join(digits[k : k + 72] for k in range(0, len(digits), 72))
    text = f"\n{kind}\n{len(data):8}\n{lines}\n".encode()
    return b"zTXt", f"Raw profile type {kind}".encode() + b"\0\0" + zlib.compress(text)


def shown(picture, number) -> tuple:
    """The sRGB colour of an 8-bit RGB number of the picture."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(picture.metadata.icc))
    image = Image.new("L" if picture.pixels.ndim == 2 else "RGB", (1, 1), number)
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, source, srgb, outputMode="RGB").getpixel((0, 0))


# Samples


@pytest.mark.parametrize(("colour_type", "bits", "interlaced"), KINDS)
def test_samples_of_every_kind_are_rounded_to_the_nearest_of_8_bits(
    read, colour_type, bits, interlaced
):
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    samples = RNG.integers(0, 2**bits, (13, 11, channels))
    picture = read(png(samples, bits, colour_type, interlaced=interlaced))
    expected = rounded(samples, 2**bits - 1)
    if colour_type in (4, 6):
        assert np.array_equal(picture.alpha, expected[:, :, -1])
        expected = expected[:, :, :-1]
    else:
        assert picture.alpha is None
    assert np.array_equal(picture.pixels, expected.squeeze())
    assert picture.notices == ["16 bits per channel are reduced to 8"] * (bits == 16)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_level_of_grey_is_transparent_and_no_other(read, bits):
    samples = RNG.integers(0, 2**bits, (9, 10))
    samples[0, :2] = 2**bits - 1, 0
    level = 2**bits - 1
    picture = read(png(samples, bits, 0, [(b"tRNS", struct.pack(">H", level))]))
    assert np.array_equal(picture.alpha, np.where(samples == level, 0, 255))
    assert np.array_equal(picture.pixels, rounded(samples, 2**bits - 1))


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_transparent_and_its_neighbour_is_not(read, bits):
    samples = RNG.integers(0, 2**bits, (9, 10, 3))
    samples[2, 3] = samples[4, 5] = samples[0, 0]
    samples[4, 5, 2] ^= 1  # of 16 bits, the same in 8
    transparent = struct.pack(">3H", *samples[0, 0])
    picture = read(png(samples, bits, 2, [(b"tRNS", transparent)]))
    assert np.array_equal(picture.alpha, np.where((samples == samples[0, 0]).all(axis=2), 0, 255))
    assert np.array_equal(picture.pixels, rounded(samples, 2**bits - 1))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_with_transparency_is_read(read, bits):
    size = min(2**bits, 200)
    samples, colours = RNG.integers(0, size, (9, 10)), RNG.integers(0, 256, (size, 3))
    alpha = RNG.integers(0, 256, size // 2)
    chunks = [
        (kind, data.astype(np.uint8).tobytes())
        for kind, data in ((b"PLTE", colours), (b"tRNS", alpha))
    ]
    picture = read(png(samples, bits, 3, chunks))
    assert np.array_equal(picture.pixels, colours[samples])
    assert np.array_equal(
        picture.alpha, np.concatenate([alpha, [255] * (size - len(alpha))])[samples]
    )


# Colours


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", struct.pack(">8I", *REC709))],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))],
        [(b"cICP", bytes([1, 13, 0, 1]))],
    ],
    ids=["gamma", "gamma_and_primaries", "sRGB_goes_first", "cICP"],
)
def test_colours_of_srgb_need_no_profile(read, chunks):
    picture = read(png(colour(6, 7), before=chunks))
    assert picture.metadata.icc is None and not picture.notices


def test_a_gamma_becomes_a_profile_of_the_same_meaning(read):
    chunks = [(b"gAMA", struct.pack(">I", 100000))]
    picture = read(png(colour(6, 7), before=chunks))
    assert shown(picture, (55, 55, 55)) == (128, 128, 128)
    assert np.array_equal(picture.pixels, colour(6, 7)) and not picture.notices
    grey = read(png(colour(6, 7)[:, :, 0], 8, 0, chunks))
    assert grey.metadata.icc[16:20] == b"GRAY" and shown(grey, 55) == (128, 128, 128)


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"cHRM", struct.pack(">8I", *P3)), (b"gAMA", struct.pack(">I", 45455))],
        [(b"cICP", bytes([12, 13, 0, 1])), (b"iCCP", b"x\0\0" + zlib.compress(SRGB))],
    ],
    ids=["cHRM", "cICP_goes_before_a_profile"],
)
def test_primaries_become_a_profile_of_the_same_meaning(read, chunks):
    picture = read(png(colour(6, 7), before=chunks))
    assert np.abs(np.subtract(shown(picture, P3_RED), RED)).max() <= 2
    stream = io.BytesIO()
    write_picture(picture, stream, "jpg")
    assert Image.open(stream).info["icc_profile"] == picture.metadata.icc


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_colours_of_a_high_dynamic_range_are_told(read, transfer, name):
    picture = read(png(colour(6, 7), before=[(b"cICP", bytes([9, transfer, 0, 1]))]))
    assert picture.metadata.icc is None
    assert picture.notices == [f"no profile says what its colours mean ({name}): left as they are"]


def test_wide_colours_of_video_become_a_profile(read):
    picture = read(png(colour(6, 7), before=[(b"cICP", bytes([9, 1, 0, 1]))]))
    assert picture.metadata.icc[16:20] == b"RGB " and not picture.notices


def test_unspecified_colours_are_those_that_other_chunks_say(read):
    chunks = [(b"cICP", bytes([2, 2, 0, 1])), (b"iCCP", b"x\0\0" + zlib.compress(SRGB))]
    assert read(png(colour(6, 7), before=chunks)).metadata.icc == SRGB


@pytest.mark.parametrize("numbers", [(0,) * 8, (31270, 32900) * 4], ids=["zero", "one_point"])
def test_primaries_that_span_no_colours_are_told(read, numbers):
    picture = read(png(colour(6, 7), before=[(b"cHRM", struct.pack(">8I", *numbers))]))
    assert picture.notices == ["its gAMA and cHRM chunks mean nothing: dropped"]


def test_a_grey_profile_is_kept_with_16_bits_and_alpha(read):
    profile = SRGB[:16] + b"GRAY" + SRGB[20:]
    chunks = [(b"iCCP", b"x\0\0" + zlib.compress(profile))]
    picture = read(png(RNG.integers(0, 65536, (6, 7, 2)), 16, 4, chunks))
    assert picture.pixels.ndim == 2 and picture.metadata.icc == profile


@pytest.mark.parametrize(
    "stored",
    [b"x\0\0" + zlib.compress(SRGB)[:-20], b"x\0\1junk", b"x"],
    ids=["cut short", "no zlib stream", "a name alone"],  # profiles hold the time of their making
)
def test_a_profile_that_cannot_be_read_whole_is_told(read, stored):
    picture = read(png(colour(6, 7), before=[(b"iCCP", stored)]))
    assert picture.metadata.icc is None
    assert picture.notices == ["its colour profile is damaged: dropped"]


@pytest.mark.parametrize(
    ("profile", "notice"),
    [
        (SRGB[:-100], "its colour profile is damaged: dropped"),
        (SRGB[:16] + b"GRAY" + SRGB[20:], "its colour profile does not fit its pixels: dropped"),
    ],
    ids=["cut_short", "of_grey"],
)
def test_a_gamma_stands_in_for_a_profile_that_is_dropped(read, profile, notice):
    chunks = [(b"iCCP", b"x\0\0" + zlib.compress(profile)), (b"gAMA", struct.pack(">I", 100000))]
    picture = read(png(colour(6, 7), before=chunks))
    assert picture.notices == [notice] and shown(picture, (55, 55, 55)) == (128, 128, 128)


# Texts


def test_texts_are_kept_and_written_again(read):
    texts = [("parameters", "a robot, steps 20"), ("Title", "Grüße"), ("Comment", "日本")]
    chunks = [
        (b"tEXt", b"parameters\0a robot, steps 20"),
        (b"zTXt", b"Title\0\0" + zlib.compress("Grüße".encode("latin-1"))),
    ]
    after = [(b"iTXt", b"Comment\0\1\0ja\0\0" + zlib.compress("日本".encode()))]
    picture = read(png(colour(6, 7), before=chunks, after=after))
    assert unpack_texts(picture.metadata.texts) == texts and not picture.notices
    stream = io.BytesIO()
    assert write_picture(picture, stream, "png") == []
    assert list(Image.open(stream).text.items()) == texts
    stream = io.BytesIO()
    assert write_picture(picture, stream, "jpg") == [
        "jpg cannot hold its texts but for a comment: dropped"
    ]
    assert Image.open(stream).info["comment"] == "日本".encode()


def test_metadata_that_imagemagick_wrote_as_text_are_read(read):
    exif = Image.Exif()
    exif[0x112], exif[0x8298] = 6, "(c) me"
    iptc = b"\x1c\x02\x50\0\x05ALICE"
    resource = b"8BIM\4\4\0\0" + struct.pack(">I", len(iptc)) + iptc
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>hi</x:xmpmeta>"
    profiles = {"exif": exif.tobytes(), "iptc": resource, "xmp": xmp, "icm": SRGB}
    chunks = [raw_profile(kind, data) for kind, data in profiles.items()]
    picture = read(png(colour(20, 30), after=chunks))
    metadata = picture.metadata
    assert picture.shape == (30, 20) and not picture.notices
    assert b"(c) me" in metadata.exif and (metadata.iptc, metadata.xmp) == (iptc, xmp)
    assert metadata.icc == SRGB


@pytest.mark.parametrize("text", [b"exif\n5\n00", b"no digits", b"\nexif\n 2\nabcd\n", b""])
def test_damaged_exif_in_a_text_is_dropped_with_a_notice(read, text):
    picture = read(png(colour(6, 7), after=[(b"tEXt", b"Raw profile type exif\0" + text)]))
    assert np.array_equal(picture.pixels, colour(6, 7))
    assert picture.notices == ["its EXIF is damaged: dropped"]


def test_other_metadata_in_a_text_are_told(read):
    picture = read(png(colour(6, 7), after=[raw_profile("generic", b"hello")]))
    assert picture.notices == ["its text of generic is not kept"]


# Chunks


LONG = zlib.compress(bytes(50_000_000))


@pytest.mark.parametrize(
    ("kind", "data", "label"),
    [
        (b"zTXt", b"Note\0\0" + LONG, "text 'Note'"),
        (b"iTXt", b"Note\0\1\0\0\0" + LONG, "text 'Note'"),
        (b"iCCP", b"x\0\0" + LONG, "colour profile"),
    ],
)
def test_a_chunk_of_any_size_is_dropped_with_a_notice_within_bounded_memory(
    read, kind, data, label
):
    data = png(colour(6, 7), before=[(kind, data)] * 3)
    tracemalloc.start()
    picture = read(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(picture.pixels, colour(6, 7))
    more = [] if kind == b"iCCP" else ["2 more of its texts are dropped"]
    assert picture.notices == [f"its {label} has more than {1 << 24} bytes: dropped", *more]
    assert peak < 50_000_000


def test_texts_beyond_the_limit_are_inflated_once_and_told_once(read, monkeypatch):
    inflate, limits = text.inflate, []

    def recorded(data, label, limit):
        limits.append(limit)
        return inflate(data, label, limit)

    monkeypatch.setattr(text, "inflate", recorded)
    picture = read(png(colour(6, 7), before=[(b"zTXt", b"Note\0\0" + LONG)] * 200))
    assert limits == [1 << 24] + [0] * 199
    assert picture.notices[1:] == ["199 more of its texts are dropped"]


def test_texts_of_more_than_a_megabyte_are_kept(read):
    chunks = [(b"zTXt", b"Note\0\0" + zlib.compress(b"x" * 1_100_000))]
    picture = read(png(colour(6, 7), before=chunks))
    assert unpack_texts(picture.metadata.texts) == [("Note", "x" * 1_100_000)]
    stream = io.BytesIO()
    write_picture(picture, stream, "png")
    assert Image.open(stream).size == (7, 6)


def test_a_profile_too_long_for_other_programs_is_not_written_to_png(read):
    profile = struct.pack(">I", len(WIDE) + 1_100_000) + WIDE[4:] + bytes(1_100_000)
    picture = read(png(colour(6, 7), before=[(b"iCCP", b"x\0\0" + zlib.compress(profile))]))
    assert picture.metadata.icc == profile
    stream = io.BytesIO()
    assert write_picture(picture, stream, "png") == ["png cannot hold its colour profile: dropped"]
    assert Image.open(stream).size == (7, 6)


def test_a_chunk_with_a_wrong_crc_is_dropped_with_a_notice(read):
    text = chunk(b"tEXt", b"Note\0hello")
    data = png(colour(6, 7), before=[(b"tEXt", b"Note\0hello")]).replace(text, text[:-1] + b"?")
    picture = read(data)
    assert picture.notices == ["its tEXt chunk is damaged: dropped"]
    assert np.array_equal(picture.pixels, colour(6, 7))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"tRNS", bytes(2)),
        (b"gAMA", bytes(2)),
        (b"gAMA", bytes(4)),  # a gamma of 0
        (b"cHRM", bytes(10)),
        (b"cICP", bytes(2)),
        (b"pHYs", bytes(8)),
    ],
)
def test_a_chunk_too_short_to_mean_anything_is_dropped_with_a_notice(read, kind, data):
    picture = read(png(colour(6, 7), before=[(kind, data)]))
    assert picture.notices == [f"its {kind.decode()} chunk is damaged: dropped"]
    assert picture.alpha is None and picture.metadata.icc is None
    assert np.array_equal(picture.pixels, colour(6, 7))


def test_unknown_chunks_are_named_and_immaterial_ones_are_not(read):
    before = [(b"bKGD", bytes(6)), (b"tIME", bytes(7)), (b"caBX", b"credentials")]
    picture = read(png(colour(6, 7), before=before))
    assert picture.notices == ["its chunks caBX are not kept"]


def test_a_file_is_refused_by_name_of_its_damage(read):
    whole, most = png(colour(6, 7), before=[(b"tEXt", b"Note\0hi")]), b"\xff\xff\xff\xff"
    for at, numbers in ((29, bytes(4)), (33, most)):  # a CRC, and a length
        damaged = whole[:at] + numbers + whole[at + 4 :]
        with pytest.raises(OSError, match="a damaged PNG file"):
            read(damaged)
    with pytest.raises(OSError, match="it has no palette"):
        read(png(colour(6, 7)[:, :, 0], 8, 3))
    with pytest.raises(OSError, match="an empty file"):
        read(b"")


@pytest.mark.parametrize("length", range(0, 400, 7))
def test_a_file_cut_short_is_refused(read, length):
    data = png(RNG.integers(0, 256, (12, 12, 3)))
    with pytest.raises((OSError, ValueError)):
        read(data[: min(length, len(data) - 30)])


def test_pixels_that_are_not_square_are_told(read):
    picture = read(png(colour(6, 7), before=[(b"pHYs", struct.pack(">IIB", 2, 1, 0))]))
    assert picture.notices == ["its pixels are not square (2:1), which is not kept"]
