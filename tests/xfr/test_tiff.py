"""TIFF files: samples of every kind that Pillow opens are right, or refused by name."""

import io
import struct

import numpy as np
import PIL
import pytest
import tifffile
from helpers import SRGB, colour, grey
from PIL import Image
from raw_files import PILLOW, packed, rounded, tiff, upright

RNG = np.random.default_rng(0)
ORDERS, COMPRESSED = ["<", ">"], [False, True]
SHAPE = (9, 13)
REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def random(bits: int, channels: int = 1) -> np.ndarray:
    samples = RNG.integers(0, 2**bits, (*SHAPE, channels))
    samples[0, 0], samples[0, 1] = 0, 2**bits - 1
    return samples


# Grey and palettes


@pytest.mark.parametrize("compressed", COMPRESSED)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white_is_zero", "black_is_zero"])
def test_grey_of_any_width_is_right_or_refused_by_name(read, photometric, bits, order, compressed):
    samples, top = random(bits), 2**bits - 1
    try:
        picture = read(tiff(samples, bits, photometric, order, compressed))
    except ValueError as error:
        assert bits > 8 and f"of {bits} bits are not read" in str(error)
        assert order == ">" or photometric == 0
        return
    expected = rounded(samples if photometric else top - samples, top)
    assert np.array_equal(picture.pixels, expected[:, :, 0])
    assert picture.notices == ["16 bits per channel are reduced to 8"] * (bits > 8)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_order_of_bits_in_a_byte_is_heeded(read, bits):
    samples = random(bits)
    data = packed(samples, bits).translate(REVERSED)
    picture = read(tiff(samples, bits, 1, data=data, t266=[2]))
    assert np.array_equal(picture.pixels, rounded(samples, 2**bits - 1)[:, :, 0])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_planes_of_reversed_bytes_are_right_or_refused_by_name(read, channels, order):
    samples = random(8, channels)
    data = np.moveaxis(samples, 2, 0).astype(np.uint8).tobytes().translate(REVERSED)
    page = tiff(samples, 8, 1 if channels == 1 else 2, order, data=data, t266=[2], t284=[2])
    if channels == 1:
        assert np.array_equal(read(page).pixels, samples[:, :, 0])
    else:
        with pytest.raises(ValueError, match="RGB of 8 bits in the reverse order is not read"):
            read(page)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_of_reversed_bits_is_refused_by_name(read, bits):
    with pytest.raises(ValueError, match=f"a palette of {bits} bits in the reverse order"):
        read(tiff(random(bits), bits, 3, t266=[2], t320=[0] * 3 * 2**bits))


@pytest.mark.parametrize("compressed", COMPRESSED)
@pytest.mark.parametrize("photometric", [0, 1], ids=["white_is_zero", "black_is_zero"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_one_plane_is_grey_as_any_other(read, bits, photometric, compressed):
    if bits == 12 and photometric == 0:
        pytest.skip("grey of 12 bits where 0 is white is not read")
    samples, top = random(bits), 2**bits - 1
    picture = read(tiff(samples, bits, photometric, compressed=compressed, t284=[2]))
    expected = rounded(samples if photometric else top - samples, top)
    assert np.array_equal(picture.pixels, expected[:, :, 0])


@pytest.mark.parametrize(
    ("number", "name"), [(34712, "JPEG 2000"), (34887, "LERC"), (50001, "WebP"), (999, "999")]
)
def test_a_compression_that_is_not_read_is_named(read, number, name):
    with pytest.raises(ValueError, match=f"TIFF files of compression {name} are not read"):
        read(tiff(random(8, 3), 8, 2, t259=[number]))


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("scale", ["16_bits", "shifted", "8_bits"])
def test_the_colours_of_a_palette_are_rounded_whatever_their_range(read, bits, scale):
    samples = random(bits)
    levels = RNG.integers(0, 256, (3, 2**bits))
    stored = {
        "16_bits": RNG.integers(0, 65536, (3, 2**bits)),
        "shifted": levels * 256,
        "8_bits": levels,
    }[scale]
    expected = rounded(stored, 65535) if scale == "16_bits" else levels
    picture = read(tiff(samples, bits, 3, t320=stored.ravel().tolist()))
    assert np.array_equal(picture.pixels, expected.T[samples[:, :, 0]])


@pytest.mark.parametrize(("code", "name"), [(2, "signed"), (3, "floating-point"), (4, "undefined")])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("order", ORDERS)
def test_samples_of_no_agreed_range_are_refused_by_name(read, bits, order, code, name):
    with pytest.raises(ValueError, match=f"{name}.* no agreed range"):
        read(tiff(random(bits), bits, 1, order, t339=[code]))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_32_bit_integers_are_refused_by_name(read, order, channels):
    with pytest.raises(ValueError, match="32-bit integers have no agreed range"):
        read(tiff(random(32, channels), 32, 1 if channels == 1 else 2, order, t339=[1] * channels))


# Channels


CHANNELS = [
    (photometric, extra)
    for photometric in ("miniswhite", "minisblack", "rgb")
    for extra in ((), (0,), (1,), (2,), (0, 0), (1, 0), (2, 0))
]


@pytest.mark.parametrize(("photometric", "extra"), CHANNELS)
@pytest.mark.parametrize("dtype", ["<u1", "<u2", ">u2"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize(
    "stored",
    [{}, {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}],
    ids=["plain", "zlib", "tiles"],
)
def test_channels_in_any_layout_are_right_or_refused(
    read, photometric, extra, dtype, planes, stored
):
    """Written by another library: alpha associated (1), unassociated (2), or unspecified (0)."""
    colours = 3 if photometric == "rgb" else 1
    top = 2 ** (8 * np.dtype(dtype).itemsize) - 1
    samples = RNG.integers(0, top + 1, (20, 37, colours + len(extra)))
    if extra[:1] == (1,):
        samples[::5, :, colours] = 0
        samples[..., :colours] = samples[..., :colours] * samples[..., colours : colours + 1] // top
    stream = io.BytesIO()
    laid_out = samples if planes == "contig" else np.moveaxis(samples, 2, 0)
    if colours + len(extra) == 1:
        laid_out, planes = samples[:, :, 0], None
    tifffile.imwrite(
        stream, laid_out.astype(dtype), photometric=photometric, extrasamples=extra or None,
        planarconfig=planes, byteorder=dtype[0], metadata=None, **stored,
    )  # fmt: skip
    try:
        picture = read(stream.getvalue())
    except (OSError, ValueError) as error:
        assert "not read" in str(error) or (planes == "separate" and PILLOW < 13)
        # Layouts that cameras, scanners and painting programs write are read.
        assert photometric != "rgb" or len(extra) == 2 or planes == "separate"
        return
    visible, alpha = samples[..., :colours], None
    if extra[:1] in ((1,), (2,)):
        alpha = samples[..., colours]
    if extra[:1] == (1,):
        whole = np.maximum(alpha, 1)[..., None]
        visible = np.where(alpha[..., None] > 0, (visible * top + whole // 2) // whole, 0)
    visible = top - visible if photometric == "miniswhite" else visible
    assert np.array_equal(picture.pixels, rounded(visible, top).squeeze())
    assert (picture.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(picture.alpha, rounded(alpha, top))
    unkept = "its channels beyond colour and alpha are not kept"
    assert (unkept in picture.notices) == (len(extra) == 2 or extra == (0,)) or planes == "separate"


XMP = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>'


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("told", ["tag", "xmp", "both"])
@pytest.mark.parametrize(("maker", "compressed"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(
    ("photometric", "bits", "channels"),
    [(0, 1, 1), (1, 16, 1), (2, 8, 3), (2, 8, 4), (2, 16, 4), (5, 8, 4)],
)
def test_pixels_are_turned_whatever_else_a_file_tells(
    read, orientation, told, maker, compressed, photometric, bits, channels
):
    """A tag of the orientation counts more than XMP does."""
    tags = {"t338": [2]} if photometric == 2 and channels == 4 else {}
    samples = random(bits, channels)
    stored = tiff(samples, bits, photometric, compressed=compressed, **tags)
    tags |= {"t271": b"maker\0"} if maker else {}
    tags |= {"t274": [orientation]} if told == "tag" else {"t700": XMP % orientation}
    tags |= {"t274": [1]} if told == "both" else {}
    plain, turned = (
        read(stored),
        read(tiff(samples, bits, photometric, compressed=compressed, **tags)),
    )
    orientation = 1 if told == "both" else orientation
    assert np.array_equal(turned.pixels, upright(plain.pixels, orientation))
    assert (plain.alpha is None) == (turned.alpha is None)
    if plain.alpha is not None:
        assert np.array_equal(turned.alpha, upright(plain.alpha, orientation))


@pytest.mark.parametrize("quoted", [XMP, XMP.replace(b'"', b"'")])
@pytest.mark.parametrize("tags", [{}, {"t274": [0]}])
def test_both_halves_of_16_bits_are_turned_alike(read, quoted, tags):
    samples = random(16, 3)
    picture = read(tiff(samples, 16, 2, t700=quoted % 6, **tags))
    assert np.array_equal(picture.pixels, upright(rounded(samples, 65535), 6))


def test_an_orientation_of_one_byte_is_heeded(read):
    samples = random(8, 3)
    data = bytearray(tiff(samples, 8, 2, t274=[6]))
    place = data.index(struct.pack("<HHI", 274, 3, 1))
    data[place + 2 : place + 4] = struct.pack("<H", 1)
    assert np.array_equal(read(bytes(data)).pixels, upright(samples, 6))


@pytest.mark.parametrize("order", ORDERS)
def test_a_version_number_in_the_other_byte_order_is_read_alike(read, order):
    data = tiff(random(16), 16, 1, order, t270=b"title\0")
    swapped = data[:2] + data[3:1:-1] + data[4:]
    picture, expected = read(swapped), read(data)
    assert np.array_equal(picture.pixels, expected.pixels)
    assert picture.metadata == expected.metadata


@pytest.mark.parametrize("compressed", COMPRESSED)
def test_planes_whose_fourth_is_not_named_are_refused(read, compressed):
    with pytest.raises(ValueError, match="separate planes of .* are not read"):
        read(tiff(random(8, 4), 8, 2, compressed=compressed, t284=[2]))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ORDERS)
def test_cmyk_is_rounded_before_it_is_converted(read, bits, order):
    samples = random(bits, 4)
    inks = rounded(samples, 2**bits - 1).astype(np.uint8)
    expected = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    assert np.array_equal(read(tiff(samples, bits, 5, order)).pixels, expected)


def test_inks_other_than_cmyk_are_refused(read):
    with pytest.raises(ValueError, match="inks other than CMYK"):
        read(tiff(random(8, 4), 8, 5, t332=[2]))


# YCbCr and others


STUDIO = [(15, 1), (235, 1), (128, 1), (240, 1), (128, 1), (240, 1)]
FULL = [(0, 1), (255, 1), (128, 1), (255, 1), (128, 1), (255, 1)]


@pytest.mark.skipif(PILLOW < 13, reason="Pillow reads it since version 13")
def test_ycbcr_without_subsampling_is_right(read):
    samples = random(8, 3).astype(np.uint8)
    expected = np.asarray(Image.fromarray(samples, "YCbCr").convert("RGB"))
    assert np.array_equal(read(tiff(samples, 8, 6, t530=[1, 1], t532=FULL)).pixels, expected)


def test_compressed_ycbcr_with_subsampling_is_right(read):
    luma = RNG.integers(0, 256, (8, 12)).astype(np.uint8)
    chroma = RNG.integers(0, 256, (4, 6, 2)).astype(np.uint8)
    full = np.dstack([luma, chroma.repeat(2, 0).repeat(2, 1)])
    blocks = [
        np.concatenate([luma[y : y + 2, x : x + 2].ravel(), chroma[y // 2, x // 2]])
        for y in range(0, 8, 2)
        for x in range(0, 12, 2)
    ]
    data = np.concatenate(blocks).tobytes()
    expected = np.asarray(Image.fromarray(full, "YCbCr").convert("RGB")).astype(int)
    found = read(tiff(full, 8, 6, compressed=True, data=data)).pixels
    assert np.abs(found - expected).max() <= 2
    with pytest.raises(ValueError, match="subsampled chroma"):
        read(tiff(full, 8, 6, data=data))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"t530": [2, 2]}, "subsampled"),
        ({"t530": [1, 1], "t532": STUDIO}, "black and white"),
        ({"t530": [1, 1], "t529": [(2126, 10000), (7152, 10000), (722, 10000)]}, "coefficients"),
        ({"t530": [1, 1], "t529": [(30, 100), (59, 100), (11, 100)]}, "coefficients"),  # NTSC's
    ],
)
def test_ycbcr_that_would_be_misread_is_refused(read, tags, message):
    with pytest.raises(ValueError, match=message):
        read(tiff(random(8, 3), 8, 6, **tags))


def test_rgb_of_another_black_and_white_is_refused(read):
    with pytest.raises(ValueError, match="black and white"):
        read(tiff(random(8, 3), 8, 2, t532=[(16, 1), (235, 1)] * 3))


@pytest.mark.parametrize(
    ("photometric", "name"),
    [
        (4, "masks"),
        (9, "ICCLab"),
        (10, "ITULab"),
        (32803, "raw"),
        (32844, "LogL"),
        (32845, "LogLuv"),
    ],
)
def test_other_colours_are_refused_by_name(read, photometric, name):
    with pytest.raises(ValueError, match="mask alone" if photometric == 4 else name):
        read(tiff(random(8, 1), 8, photometric))


@pytest.mark.parametrize("channels", [(0, 128, 128), (255, 128, 128)], ids=["black", "white"])
def test_cielab_is_converted(read, channels):
    samples = np.tile(np.array(channels) ^ (0, 128, 128), (4, 4, 1))  # a and b are signed
    picture = read(tiff(samples, 8, 8))
    assert np.abs(picture.pixels.astype(int) - channels[0]).max() <= 3


# Pages


def test_the_first_page_that_is_no_thumbnail_is_the_picture(read):
    thumbnail = np.zeros((2, 2, 3), int)
    picture = read(tiff(thumbnail, 8, 2, t254=[1], pages=[{}]))
    assert picture.shape == (1, 1) and picture.notices == []


@pytest.mark.parametrize(
    ("pages", "notices"),
    [
        ([{254: [1]}, {255: [2]}], []),
        ([{254: [2]}], ["only the first frame is kept"]),
        (
            [{254: [4], 262: [4], 258: [1]}],
            ["its transparency mask, a page of its own, is not kept"],
        ),
        ([{258: [64]}], ["only the first frame is kept"]),
    ],
    ids=["smaller_ones", "another_page", "a_mask", "a_page_that_is_not_read"],
)
def test_further_pages_are_told_unless_they_are_smaller_ones_of_the_same(read, pages, notices):
    pixels = colour(20, 30)
    picture = read(tiff(pixels, 8, 2, pages=pages))
    assert np.array_equal(picture.pixels, pixels) and picture.notices == notices


def test_a_thumbnail_alone_is_no_picture(read):
    with pytest.raises(ValueError, match="a thumbnail or mask alone"):
        read(tiff(random(8, 3), 8, 2, t254=[1]))
    with pytest.raises(ValueError, match="DNG.*rawpy"):
        read(tiff(random(8, 3), 8, 2, t254=[1], t50706=bytes([1, 4, 0, 0])))


def test_pages_that_follow_each_other_in_a_ring_end(read):
    data = bytearray(tiff(grey(4, 4), 8, 1))
    (count,) = struct.unpack_from("<H", data, 8)
    struct.pack_into("<I", data, 10 + 12 * count, 8)
    assert read(bytes(data)).shape == (4, 4)


# Metadata


def test_iptc_is_kept_wherever_it_is(read):
    iptc = b"\x1c\x02\x50\0\x05ALICE"
    resource = b"8BIM\4\4\0\0" + struct.pack(">I", len(iptc)) + iptc
    assert read(tiff(grey(4, 4), 8, 1, t33723=iptc)).metadata.iptc == iptc
    assert read(tiff(grey(4, 4), 8, 1, t34377=resource)).metadata.iptc == iptc


def test_tags_that_are_not_kept_are_named(read):
    picture = read(
        tiff(
            grey(4, 4),
            8,
            1,
            t34735=[1, 1, 0, 1],
            t318=[(31, 100), (33, 100)],
            t290=[3],
            t291=[0] * 256,
        )
    )
    assert picture.notices == [
        "its TIFF tags of primaries and transfer function are not kept",
        "its TIFF tags 290, 291, 34735 are not kept",
    ]


def test_a_profile_that_is_cut_short_is_dropped_with_a_notice(read):
    notice = "its colour profile is damaged: dropped"
    assert read(tiff(grey(4, 4), 8, 1, t34675=SRGB[:-100])).notices == [notice]
    behind = tiff(grey(4, 4), 8, 1, t34675=SRGB)
    at = behind.find(struct.pack("<HHI", 34675, 7, len(SRGB))) + 8
    beyond = behind[:at] + struct.pack("<I", len(behind)) + behind[at + 4 :]
    assert read(beyond).notices == [notice]


@pytest.mark.parametrize("kind", [1, 2, 4])
def test_a_profile_and_xmp_are_read_whatever_their_type(read, kind):
    profile, xmp = SRGB + bytes(-len(SRGB) % 4), b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>   "
    data = tiff(colour(4, 4), 8, 2, t34675=profile, t700=xmp)
    for tag, content in ((34675, profile), (700, xmp)):
        count = len(content) // (4 if kind == 4 else 1)
        entry = struct.pack("<HHI", tag, 7, len(content))
        data = data.replace(entry, struct.pack("<HHI", tag, kind, count))
    picture = read(data)
    assert (picture.metadata.icc, picture.metadata.xmp) == (profile, xmp)
    assert picture.notices == []


def test_metadata_too_long_for_a_file_of_ours_are_dropped_with_a_notice(read):
    picture = read(tiff(grey(4, 4), 8, 1, t700=b"<x>" + bytes(1 << 24)))
    assert picture.metadata.xmp is None
    assert picture.notices == [f"its XMP: more than {1 << 24} bytes, dropped"]


def test_big_files_are_read_or_refused_by_name(read):
    for order in "<>":
        stream = io.BytesIO()
        options = {"bigtiff": True, "byteorder": order, "metadata": None, "photometric": "rgb"}
        tifffile.imwrite(stream, colour(20, 30), **options)
        if order == "<":
            assert np.array_equal(read(stream.getvalue()).pixels, colour(20, 30))
        else:
            with pytest.raises(ValueError, match="BigTIFF"):
                read(stream.getvalue())


@pytest.mark.filterwarnings("ignore:Tag offset too large")
@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 12, reason="older Pillow refuses the file")
def test_a_text_beyond_any_file_costs_a_notice(read):
    stream = io.BytesIO()
    options = {"bigtiff": True, "metadata": None, "photometric": "rgb"}
    tifffile.imwrite(stream, colour(20, 30), description="a long title", **options)
    data = stream.getvalue()
    at = data.index(struct.pack("<HHQ", 270, 2, 13)) + 12
    picture = read(data[:at] + struct.pack("<Q", 2**63) + data[at + 8 :])
    assert picture.notices == ["a part of its EXIF is damaged or too long: dropped"]
    assert np.array_equal(picture.pixels, colour(20, 30))


@pytest.mark.parametrize("compression", ["group3", "group4", "packbits", "tiff_lzw"])
def test_bits_are_read_in_any_compression(read, compression):
    bits = grey(20, 30) > 100
    stream = io.BytesIO()
    Image.fromarray(bits).save(stream, "TIFF", compression=compression)
    assert np.array_equal(read(stream.getvalue()).pixels, 255 * bits)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_a_damaged_file_is_refused_and_libtiff_does_not_write_to_the_terminal(
    read, capfd, compression
):
    stream = io.BytesIO()
    generator = np.random.default_rng(0)  # libtiff reads some others in spite of the damage
    noise = generator.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(stream, "TIFF", compression=compression)
    data = bytearray(stream.getvalue())
    data[200:2000:7] = bytes(value ^ 0x55 for value in data[200:2000:7])
    with pytest.raises(OSError):
        read(bytes(data))
    assert capfd.readouterr().err == ""
