"""Old formats: every layout that Pillow opens is right, or refused by name."""

import io
import struct

import numpy as np
import pytest
from helpers import colour, grey
from PIL import Image
from raw_files import PILLOW, packed, png, rounded

from xfr.formats import readable_extensions
from xfr.images import writable_format

RNG = np.random.default_rng(0)
SHAPE = HEIGHT, WIDTH = 6, 8
PIXELS = RNG.integers(0, 256, (*SHAPE, 4)).astype(np.uint8)
LEVELS = PIXELS[..., 0]
WORDS = RNG.integers(0, 2**16, SHAPE)
BITS = RNG.integers(0, 2, SHAPE)


def channels(words: np.ndarray, *parts: tuple[int, int]) -> np.ndarray:
    """The channels of words [H, W]: the lowest bit and the number of bits of each."""
    return np.dstack([rounded(words >> low & 2**count - 1, 2**count - 1) for low, count in parts])


def bmp(bits: int, data: np.ndarray, masks=(), header: int = 40) -> bytes:
    rows = [row.tobytes() for row in data[::-1]]
    pixels = b"".join(row + bytes(-len(row) % 4) for row in rows)
    masks = struct.pack(f"<{len(masks)}I", *masks)
    sizes = header, WIDTH, HEIGHT, 1, bits, 3 if masks else 0, len(pixels), 0, 0, 0, 0
    head = (struct.pack("<IiiHHIIiiII", *sizes) + masks).ljust(max(header, 40 + len(masks)), b"\0")
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + pixels


def tga(bits: int, kind: int, data: np.ndarray, descriptor: int, palette=b"", width=0) -> bytes:
    colours = 8 * len(palette) // width if width else 0
    sizes = WIDTH, HEIGHT, bits, descriptor
    head = struct.pack("<BBBHHB4xHHBB", 0, bool(palette), kind, 0, colours, width, *sizes)
    return head + palette + data.tobytes()


def dds(bits: int, masks: tuple, data: np.ndarray, surfaces: int = 0) -> bytes:
    layout = struct.pack("<8I", 32, 0x41 if masks[3] else 0x40, 0, bits, *masks)
    return dds_file(layout, data.tobytes(), surfaces)


def dds_file(layout: bytes, data: bytes, surfaces: int = 0) -> bytes:
    head = struct.pack("<7I44x", 124, 0x1007, HEIGHT, WIDTH, 0, 0, 0)
    return b"DDS " + head + layout + struct.pack("<5I", 0x1000, surfaces, 0, 0, 0) + data


def dds_extended(count: int, alpha: int) -> bytes:
    """Pictures of 8 bits in a file with the longer header."""
    layout = struct.pack("<II4s20x", 32, 4, b"DX10")
    return dds_file(layout, struct.pack("<5I", 28, 3, 0, count, alpha) + count * PIXELS.tobytes())


def psd(
    mode: int, bits: int, data: bytes, count: int = 1, layers: int = 0, compressed: bool = False
) -> bytes:
    head = struct.pack(">H6xHIIHH", 1, count, HEIGHT, WIDTH, bits, mode)
    layer = struct.pack(">16xH8s4xI", 0, b"8BIMnorm", 0)  # empty
    section = struct.pack(">Ih", 2 + len(layer), layers) + layer if layers else b""
    parts = struct.pack(">III", 0, 0, len(section)) + section + struct.pack(">H", compressed)
    return b"8BPS" + head + parts + data


def packed_rows(planes: np.ndarray) -> bytes:
    """Planes [C, H, W] of Photoshop's compression: the lengths of all rows, then all rows."""
    rows = [bytes([WIDTH - 1]) + row.tobytes() for plane in planes for row in plane]
    return b"".join(struct.pack(">H", len(row)) for row in rows) + b"".join(rows)


@pytest.mark.parametrize(
    ("masks", "header", "colours", "alpha"),
    [
        ((), 40, ((10, 5), (5, 5), (0, 5)), None),
        ((0xF800, 0x7E0, 0x1F), 40, ((11, 5), (5, 6), (0, 5)), None),
        ((0x7C00, 0x3E0, 0x1F, 0), 108, ((10, 5), (5, 5), (0, 5)), None),
        ((0x7C00, 0x3E0, 0x1F, 0x8000), 108, ((10, 5), (5, 5), (0, 5)), (15, 1)),
        ((0x7C00, 0x3E0, 0x1F, 0x8000), 56, ((10, 5), (5, 5), (0, 5)), (15, 1)),
    ],
)
def test_bmp_of_16_bits_is_rounded_and_keeps_its_alpha(read, masks, header, colours, alpha):
    picture = read(bmp(16, WORDS.astype("<u2"), masks, header), "picture.bmp")
    assert np.array_equal(picture.pixels, channels(WORDS, *colours))
    assert (picture.alpha is None) == (alpha is None)
    assert alpha is None or np.array_equal(picture.alpha, channels(WORDS, alpha)[..., 0])


@pytest.mark.parametrize("bits", [4, 8])
def test_bmp_with_a_palette_of_black_and_white_is_right(read, bits):
    indices = BITS.astype(np.uint8) if bits == 8 else BITS[:, ::2] * 16 + BITS[:, 1::2]
    data = bytearray(bmp(bits, indices.astype(np.uint8)))
    palette = b"\0\0\0\0\xff\xff\xff\0"
    start = 14 + 40 + len(palette)
    data[10:14], data[46:50] = struct.pack("<I", start), struct.pack("<I", 2)
    data[54:54] = palette
    picture = read(bytes(data), "picture.bmp")
    assert np.array_equal(picture.pixels, np.repeat(255 * BITS[..., None], 3, 2))


@pytest.mark.parametrize(
    ("masks", "order"),
    [
        ((0xFF0000, 0xFF00, 0xFF, 0xFF000000), [2, 1, 0, 3]),
        ((0xFF, 0xFF00, 0xFF0000, 0xFF000000), [0, 1, 2, 3]),
        ((0xFF000000, 0xFF0000, 0xFF00, 0xFF), [3, 2, 1, 0]),
        ((0xFF000000, 0xFF0000, 0xFF00, 0), [3, 2, 1]),
    ],
)
def test_bmp_of_32_bits_has_the_channels_of_its_masks(read, masks, order):
    picture = read(bmp(32, PIXELS, masks, 108), "picture.bmp")
    assert np.array_equal(picture.pixels, PIXELS[..., order[:3]])
    assert (picture.alpha is None) == (len(order) == 3)
    assert len(order) == 3 or np.array_equal(picture.alpha, PIXELS[..., order[3]])


@pytest.mark.parametrize("descriptor", [0x00, 0x10, 0x20, 0x30])
def test_tga_is_turned_as_it_says(read, descriptor):
    picture = read(tga(24, 2, PIXELS[..., :3], descriptor), "picture.tga")
    rows = slice(None) if descriptor & 0x20 else slice(None, None, -1)
    columns = slice(None, None, -1) if descriptor & 0x10 else slice(None)
    assert np.array_equal(picture.pixels, PIXELS[rows, columns, 2::-1])


def test_tga_of_16_bits_without_alpha_is_opaque_whatever_the_top_bit_is(read):
    picture = read(tga(16, 2, WORDS.astype("<u2"), 0x20), "picture.tga")
    assert np.array_equal(picture.pixels, channels(WORDS, (10, 5), (5, 5), (0, 5)))
    assert picture.alpha is None
    with pytest.raises(ValueError, match="16 bits with alpha"):
        read(tga(16, 2, WORDS.astype("<u2"), 0x21), "picture.tga")


def test_tga_of_true_colour_is_read_without_a_palette_that_it_does_not_use(read):
    data = tga(24, 2, PIXELS[..., :3], 0x20, bytes(30), 24)
    assert np.array_equal(read(data, "picture.tga").pixels, PIXELS[..., 2::-1])


@pytest.mark.parametrize("descriptor", [0x60, 0xA0])
def test_interleaved_tga_is_refused(read, descriptor):
    with pytest.raises(ValueError, match="TGA files of interleaved rows"):
        read(tga(24, 2, PIXELS[..., :3], descriptor), "picture.tga")


def with_extension(data: bytes, alpha: int, gamma: tuple[int, int] = (0, 0)) -> bytes:
    """A TGA file of version 2."""
    extension = struct.pack("<H476xHH12xB", 495, *gamma, alpha)
    return data + extension + struct.pack("<II", len(data), 0) + b"TRUEVISION-XFILE.\0"


@pytest.mark.parametrize(("kind", "has_alpha"), [(0, False), (1, False), (2, False), (3, True)])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_fourth_byte_of_tga_is_alpha_only_where_the_file_says_so(
    read, kind, has_alpha, compressed
):
    stored, tga_kind = PIXELS[..., [2, 1, 0, 3]], 2
    if compressed:  # a packet of WIDTH pixels in each row
        rows = stored.reshape(HEIGHT, -1)
        stored = np.hstack([np.full((HEIGHT, 1), WIDTH - 1, np.uint8), rows])
        tga_kind = 10
    picture = read(with_extension(tga(32, tga_kind, stored, 0x28), kind), "picture.tga")
    assert np.array_equal(picture.pixels, PIXELS[..., :3])
    assert (picture.alpha is not None) == has_alpha


def test_tga_of_colours_multiplied_with_alpha_is_refused(read):
    data = tga(32, 2, PIXELS, 0x28)
    assert np.array_equal(read(with_extension(data, 3), "picture.tga").alpha, PIXELS[..., 3])
    with pytest.raises(ValueError, match="TGA files of colours multiplied with alpha"):
        read(with_extension(data, 4), "picture.tga")


@pytest.mark.parametrize(("gamma", "is_told"), [((0, 0), False), ((1, 1), False), ((22, 10), True)])
def test_the_gamma_of_tga_is_told(read, gamma, is_told):
    data = with_extension(tga(24, 2, PIXELS[..., :3], 0x20), 0, gamma)
    assert read(data, "picture.tga").notices == ["its gamma is not kept"] * is_told


@pytest.mark.skipif(PILLOW < 13, reason="Pillow reads it since version 13")
def test_a_palette_of_tga_keeps_its_alpha(read):
    palette = RNG.integers(0, 256, (256, 4)).astype(np.uint8)
    picture = read(tga(8, 1, LEVELS, 0x28, palette.tobytes(), 32), "picture.tga")
    assert np.array_equal(picture.pixels, palette[LEVELS][..., 2::-1])
    assert np.array_equal(picture.alpha, palette[LEVELS][..., 3])
    with pytest.raises(ValueError, match="palettes of 16 bits"):
        read(tga(8, 1, LEVELS, 0x20, bytes(512), 16), "picture.tga")


@pytest.mark.parametrize(
    "masks", [(0xF800, 0x7E0, 0x1F, 0), (0xF00, 0xF0, 0xF, 0xF000), (0x7C00, 0x3E0, 0x1F, 0x8000)]
)
def test_dds_of_fewer_than_8_bits_per_channel_is_refused(read, masks):
    with pytest.raises(ValueError, match="other than 8 bits"):
        read(dds(16, masks, WORDS.astype("<u2")), "picture.dds")


def test_dds_of_8_bits_per_channel_is_right(read):
    picture = read(dds(32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000), PIXELS), "picture.dds")
    assert np.array_equal(np.dstack([picture.pixels, picture.alpha]), PIXELS)


def test_only_the_first_of_several_dds_pictures_is_kept_with_a_notice(read):
    masks = 0xFF, 0xFF00, 0xFF0000, 0xFF000000
    cube, volume = (dds(32, masks, PIXELS, surfaces) for surfaces in (0xFE00, 0x200000))
    for data in (cube, volume, dds_extended(3, 0)):
        picture = read(data, "picture.dds")
        assert picture.notices == ["only the first picture is kept"]
        assert np.array_equal(picture.pixels, PIXELS[..., :3])
    assert read(dds_extended(1, 1), "picture.dds").notices == []


def test_dds_of_colours_multiplied_with_alpha_is_refused(read):
    with pytest.raises(ValueError, match="DDS files of colours multiplied with alpha"):
        read(dds_extended(1, 2), "picture.dds")


@pytest.mark.parametrize(
    "layout",
    [struct.pack("<8I", 32, 2, 0, 8, 0, 0, 0, 0xFF), struct.pack("<II4s20x", 32, 4, b"DXT2")],
    ids=["alpha alone", "DXT2"],
)
def test_dds_of_a_pixel_format_that_pillow_does_not_know_is_named(read, layout):
    with pytest.raises(OSError, match="^DDS files of this pixel format are not read$"):
        read(dds_file(layout, bytes(1000)), "picture.dds")


def test_the_black_of_photoshops_bits_is_1(read):
    picture = read(psd(0, 1, packed(BITS, 1)), "picture.psd")
    assert np.array_equal(picture.pixels, 255 * (1 - BITS))


def test_photoshops_pictures_that_are_not_read_are_named(read):
    with pytest.raises(OSError, match="Photoshop's pictures of 16 bits"):
        read(psd(3, 16, bytes(6 * LEVELS.size), 3), "picture.psd")
    with pytest.raises(ValueError, match="multichannel"):
        read(psd(7, 8, bytes(LEVELS.size)), "picture.psd")
    large = b"8BPS\0\2" + psd(3, 8, bytes(3 * LEVELS.size), 3)[6:]
    with pytest.raises(OSError, match="large documents"):
        read(large, "picture.psd")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layers", [0, 1, -1])
def test_the_fourth_channel_of_photoshop_is_alpha_only_where_there_is_transparency(
    read, layers, compressed
):
    planes = PIXELS.transpose(2, 0, 1)
    data = packed_rows(planes) if compressed else planes.tobytes()
    picture = read(psd(3, 8, data, 4, layers, compressed), "picture.psd")
    assert np.array_equal(picture.pixels, PIXELS[..., :3])
    if layers < 0:
        assert np.array_equal(picture.alpha, PIXELS[..., 3]) and not lost_channels(picture.notices)
    else:
        assert picture.alpha is None
        assert lost_channels(picture.notices) == ["its channels beyond colour and alpha"]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layers", [0, -1])
@pytest.mark.parametrize(("mode", "count", "read_count"), [(1, 2, 1), (3, 5, 3)])
def test_channels_of_photoshop_that_are_not_read_are_told_by_what_they_are(
    read, mode, count, read_count, layers, compressed
):
    planes = RNG.integers(0, 256, (count, *SHAPE)).astype(np.uint8)
    data = packed_rows(planes) if compressed else planes.tobytes()
    picture = read(psd(mode, 8, data, count, layers, compressed), "picture.psd")
    assert np.array_equal(picture.pixels, planes[:read_count].transpose(1, 2, 0).squeeze())
    lost = "its transparency" if layers else "its channels beyond colour and alpha"
    assert lost_channels(picture.notices) == [lost]


def lost_channels(notices: list[str]) -> list[str]:
    """The channels that notices name."""
    names = "its transparency", "its channels beyond colour and alpha"
    return [name for notice in notices for name in names if notice.startswith(name)]


@pytest.mark.parametrize("top", [1, 3, 254, 255, 256, 1023, 4095, 65534, 65535])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("plain", [False, True])
def test_ppm_is_scaled_by_its_largest_level_and_more_than_8_bits_are_told(read, top, count, plain):
    samples = RNG.integers(0, top + 1, (*SHAPE, count))
    samples[0, 0] = top
    kind = {(1, True): 2, (3, True): 3, (1, False): 5, (3, False): 6}[count, plain]
    content = samples.astype(">u2" if top > 255 else "u1").tobytes()
    if plain:
        content = " ".join(map(str, samples.ravel())).encode()
    picture = read(b"P%d %d %d %d\n" % (kind, WIDTH, HEIGHT, top) + content, "picture.ppm")
    assert np.array_equal(picture.pixels, rounded(samples, top).squeeze())
    assert picture.notices == ["16 bits per channel are reduced to 8"] * (top > 255)


@pytest.mark.parametrize("kind", ["1", "L", "RGB", "I;16"])
def test_pnm_pictures_behind_the_first_are_told(read, kind):
    stream = io.BytesIO()
    values = WORDS.astype(np.uint16) if kind == "I;16" else colour(*SHAPE)
    image = Image.fromarray(values)
    (image if kind == "I;16" else image.convert(kind)).save(stream, "PPM")
    one = stream.getvalue()
    told = "only the first picture is kept"
    assert told not in read(one, "picture.pnm").notices
    assert told in read(one + one, "picture.pnm").notices


def test_a_gif_whose_first_frame_leaves_a_border_is_refused(read):
    stream = io.BytesIO()
    Image.fromarray(grey(*SHAPE)).save(stream, "GIF")
    data = bytearray(stream.getvalue())
    assert np.array_equal(read(bytes(data), "picture.gif").rgb[..., 0], grey(*SHAPE))
    struct.pack_into("<HH", data, 6, WIDTH + 4, HEIGHT + 3)
    with pytest.raises(ValueError, match="does not fill"):
        read(bytes(data), "picture.gif")


@pytest.mark.parametrize("alpha", [False, True])
def test_a_webp_animation_whose_first_frame_leaves_a_black_border_is_refused(read, alpha):
    stream = io.BytesIO()
    frames = [Image.fromarray(colour(*SHAPE, seed)) for seed in (0, 1)]
    frames[0].save(stream, "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    data = bytearray(stream.getvalue())
    assert np.array_equal(read(bytes(data), "picture.webp").pixels, colour(*SHAPE))
    data[20] = 2 + 16 * alpha  # flags
    data[24] += 4  # width
    if alpha:
        assert not read(bytes(data), "picture.webp").alpha[:, WIDTH:].any()
    else:
        with pytest.raises(ValueError, match="WebP files whose first frame does not fill"):
            read(bytes(data), "picture.webp")


def test_chunks_of_webp_that_are_not_kept_are_named(read):
    stream = io.BytesIO()
    Image.fromarray(colour(*SHAPE)).save(stream, "WEBP", lossless=True, xmp=b"<x/>")
    data = stream.getvalue() + b"C2PA" + struct.pack("<I", 3) + b"abc\0"
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    assert read(stream.getvalue(), "picture.webp").notices == []
    assert read(data, "picture.webp").notices == ["its chunks C2PA are not kept"]


def icon(*entries: tuple[int, bytes]) -> bytes:
    """Pictures of WIDTH x HEIGHT pixels, each behind the bits that the list tells of it."""
    out, place = struct.pack("<HHH", 0, 1, len(entries)), 6 + 16 * len(entries)
    for bits, data in entries:
        out += struct.pack("<BBBBHHII", WIDTH, HEIGHT, 0, 0, 1, bits, len(data), place)
        place += len(data)
    return out + b"".join(data for _, data in entries)


def icon_bitmap(bits: int, pixels: np.ndarray, palette: bytes = b"") -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, WIDTH, 2 * HEIGHT, 1, bits, 0, 0, 0, 0, 0, 0)
    return head + palette + pixels[::-1].tobytes() + bytes(4 * HEIGHT)


@pytest.mark.parametrize("order", [1, -1])
def test_of_the_largest_pictures_in_an_icon_the_deepest_is_read(read, order):
    shallow = icon_bitmap(8, LEVELS, bytes(1024))
    deep = icon_bitmap(32, PIXELS[..., [2, 1, 0, 3]])
    picture = read(icon(*[(8, shallow), (32, deep)][::order]), "picture.ico")
    assert np.array_equal(picture.pixels, PIXELS[..., :3])
    assert np.array_equal(picture.alpha, PIXELS[..., 3])


def test_a_png_file_in_an_icon_keeps_its_transparency_and_its_texts(read):
    palette = np.arange(48, dtype=np.uint8)
    before = (b"PLTE", palette.tobytes()), (b"tRNS", bytes(range(0, 256, 16)))
    indices = np.arange(WIDTH * HEIGHT).reshape(*SHAPE, 1) % 16
    inner = png(indices, 4, 3, (*before, (b"tEXt", b"Title\0a b")))
    picture = read(icon((32, inner)), "picture.ico")
    assert np.array_equal(picture.pixels, palette.reshape(16, 3)[indices[..., 0]])
    assert np.array_equal(picture.alpha, 16 * indices[..., 0])
    assert picture.metadata.texts == b"Title\0a b"


@pytest.mark.parametrize("told", [0, 15, 16, 24])
def test_icons_of_16_bits_are_refused_whatever_their_list_tells(read, told):
    head = struct.pack("<IiiHHIIiiII", 40, 16, 32, 1, 16, 0, 0, 0, 0, 0, 0)
    body = head + bytes(2 * 16 * 16) + bytes(4 * 16)
    entry = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, told, len(body), 22)
    with pytest.raises(ValueError, match="icons of 16 bits"):
        read(entry + body, "icon.ico")


@pytest.mark.parametrize("extension", "xbm xpm ras cur fli blp fits pcd im".split())
def test_formats_that_pillow_misreads_are_neither_read_nor_written(tmp_path, extension):
    assert extension not in readable_extensions()
    with pytest.raises(ValueError):
        writable_format(extension)


def test_a_file_of_a_format_that_is_not_read_is_refused_by_name(read):
    stream = io.BytesIO()
    Image.fromarray(colour(*SHAPE)).save(stream, "IM")
    with pytest.raises(OSError, match="export a png"):
        read(stream.getvalue(), "picture.im")
