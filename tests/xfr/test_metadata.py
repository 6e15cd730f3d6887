"""EXIF, XMP and resolution: what is kept, where it is written, and what a hostile one can do."""

import io
import struct
import tracemalloc

import pytest
from helpers import SRGB, WIDE, colour, grey
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from raw_files import tiff

from xfr.file import Xfr, pack, unpack
from xfr.images import Picture, read_picture, write_picture
from xfr.metadata import Metadata, is_well_formed, upright, without_orientation
from xfr.text import pack_texts, unpack_texts

pytestmark = [
    pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data larger than file"),
]
XMP = b"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
MAKER_NOTE = b"Maker\0" + bytes(range(100))
WHOLE_EXIF = ("jpg", "png", "webp", "avif")
HOLDS = {
    "bmp": {"dpi"}, "gif": set(), "jp2": set(), "ppm": set(),
    "webp": {"icc", "exif", "xmp"}, "avif": {"icc", "exif", "xmp"},
    **dict.fromkeys(("jpg", "png", "tiff"), {"icc", "exif", "xmp", "dpi"}),
}  # fmt: skip
LABELS = {"icc": "colour profile", "exif": "EXIF", "xmp": "XMP", "dpi": "resolution"}


def exif_bytes(orientation: int | None = None) -> bytes:
    """EXIF as a camera writes it, with a maker's note and a place."""
    exif = Image.Exif()
    exif[0x10F], exif[0x8298] = "A maker", "Someone"
    exif.get_ifd(0x8769).update({0x9003: "2020:02:02 02:02:02", 0x927C: MAKER_NOTE})
    exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 22.0, 0.5)})
    if orientation:
        exif[0x112] = orientation
    return exif.tobytes()[6:]


def with_thumbnail(exif: bytes, thumbnail: bytes, tags=(0x201, 0x202), offset=None) -> bytes:
    """``exif``, big-endian or not, with a second directory and a thumbnail behind everything."""
    order = "<" if exif.startswith(b"II") else ">"
    (first,) = struct.unpack_from(order + "I", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, first)
    out = bytearray(exif)
    struct.pack_into(order + "I", out, first + 2 + 12 * count, len(exif))
    start = len(exif) + 30 if offset is None else offset
    entries = ((tag, 4, 1, value) for tag, value in zip(tags, (start, len(thumbnail))))
    out += struct.pack(order + "H", 2)
    out += b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    return bytes(out + bytes(4) + thumbnail)


def parsed(exif: bytes) -> dict:
    """All tags of the first directory, the camera's and the place's, as Pillow reads them."""
    read = Image.Exif()
    read.load(exif)
    # In TIFF files of Pillow, the offsets of sub-directories are tags like any other.
    main = {tag: value for tag, value in read.items() if tag not in (0x8769, 0x8825)}
    return main | {"exif": dict(read.get_ifd(0x8769)), "gps": dict(read.get_ifd(0x8825))}


CAMERA = {  # type and bytes, little-endian, of tags that Pillow would write in another type
    0x829A: (5, struct.pack("<II", 0, 0)),
    0x9000: (7, b"0232"),
    0x9101: (7, bytes([1, 2, 3, 0])),
    0x9201: (10, struct.pack("<ii", 1, 0)),
    0x927C: (7, MAKER_NOTE),
    0x9286: (7, b"UNICODE\0\xe9\0\xe5\x65"),
    0xA002: (4, struct.pack("<I", 7)),
    0xA434: (2, "Objektiv é\0".encode()),
}
PLACE = {1: (2, b"N\0"), 2: (5, struct.pack("<6I", 48, 1, 8, 1, 123457, 10000)), 5: (1, b"\0")}
TITLES = {0x10E: (2, "café 日本\0".encode()), 0x13B: (2, "André\0".encode("latin-1"))}
NUMBERS = {3: 2, 4: 4, 5: 4, 10: 4}  # bytes of a number, by type
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8}


def turned(kind: int, data: bytes) -> bytes:
    """Little-endian values as big-endian ones, or the other way round."""
    step = NUMBERS.get(kind, 1)
    return b"".join(data[at : at + step][::-1] for at in range(0, len(data), step))


def packed(tags: dict, start: int, order: str) -> bytes:
    """A directory at ``start``, of types and little-endian bytes, and its values."""
    table, values = struct.pack(order + "H", len(tags)), b""
    behind = start + 2 + 12 * len(tags) + 4
    for tag, (kind, data) in sorted(tags.items()):
        count, data = len(data) // SIZES[kind], data if order == "<" else turned(kind, data)
        place = struct.pack(order + "I", behind + len(values))
        table += struct.pack(order + "HHI", tag, kind, count)
        table += data.ljust(4, b"\0") if len(data) <= 4 else place
        values += data + bytes(len(data) % 2) if len(data) > 4 else b""
    return table + bytes(4) + values


def any_exif(order: str) -> bytes:
    """EXIF with values of every type."""
    exif = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    pointers = {0x8769: (4, bytes(4)), 0x8825: (4, bytes(4))}
    camera = 8 + len(packed(TITLES | pointers, 8, order))
    place = camera + len(packed(CAMERA, camera, order))
    for tag, position in ((0x8769, camera), (0x8825, place)):
        pointers[tag] = 4, struct.pack("<I", position)
    exif += packed(TITLES | pointers, 8, order)
    return exif + packed(CAMERA, camera, order) + packed(PLACE, place, order)


def tags_of(data: bytes, start: int | None = None) -> dict:
    """Type and little-endian bytes of all tags in a TIFF structure, those of the camera and the
    place in dictionaries of their own."""
    order = "<" if data.startswith(b"II") else ">"
    start = struct.unpack_from(order + "I", data, 4)[0] if start is None else start
    found: dict = {}
    for at in range(
        start + 2, start + 2 + 12 * struct.unpack_from(order + "H", data, start)[0], 12
    ):
        tag, kind, count, place = struct.unpack_from(order + "HHII", data, at)
        size = SIZES[kind] * count
        value = data[place : place + size] if size > 4 else data[at + 8 : at + 8 + size]
        value = value if order == "<" else turned(kind, value)
        found[tag] = tags_of(data, place) if tag in (0x8769, 0x8825) else (kind, value)
    return found


@pytest.fixture
def reread(tmp_path):
    """Save a Pillow image and read it as a Picture."""

    def run(extension: str, image: Image.Image | None = None, **options) -> Picture:
        image = image or Image.fromarray(colour(20, 30))
        image.save(tmp_path / f"picture.{extension}", **options)
        return read_picture(tmp_path / f"picture.{extension}")

    return run


def written(picture: Picture, extension: str) -> tuple[bytes, list[str]]:
    stream = io.BytesIO()
    notices = write_picture(picture, stream, extension)
    return stream.getvalue(), notices


# Reading


@pytest.mark.parametrize("extension", WHOLE_EXIF)
def test_exif_is_read_byte_for_byte(reread, extension):
    exif = exif_bytes()
    for prefix in (b"Exif\0\0", b"Exif\0\0Exif\0\0") if extension == "jpg" else (b"Exif\0\0",):
        assert reread(extension, exif=prefix + exif).metadata.exif == exif


def test_exif_of_a_tiff_file_is_read_without_how_it_stores_its_pixels(reread):
    picture = reread("tiff", exif=b"Exif\0\0" + exif_bytes())
    assert parsed(picture.metadata.exif) == parsed(exif_bytes())


@pytest.mark.parametrize("order", ["<", ">"])
def test_types_and_bytes_of_exif_stay_in_tiff_files(tmp_path, order):
    expected = TITLES | {0x8769: CAMERA, 0x8825: PLACE}
    data, notices = written(Picture(colour(6, 7), metadata=Metadata(exif=any_exif(order))), "tiff")
    assert {tag: tags_of(data)[tag] for tag in expected} == expected and not notices
    (tmp_path / "picture").write_bytes(data)
    picture = read_picture(tmp_path / "picture")
    assert tags_of(picture.metadata.exif) == expected and not picture.notices


def test_a_text_of_a_tiff_file_stays_byte_for_byte(tmp_path):
    text = "café 日本".encode() + b"\0"
    data = tiff(grey(4, 4), 8, 1, t270=text, t315=b"Andr\xe9\0")
    (tmp_path / "picture").write_bytes(data)
    exif = read_picture(tmp_path / "picture").metadata.exif
    assert tags_of(exif) == {0x10E: (7, text), 0x13B: (7, b"Andr\xe9\0")}


@pytest.mark.parametrize("position", [0, 8, 60000])
def test_a_damaged_directory_in_a_tiff_file_is_dropped_and_the_rest_stays(tmp_path, position):
    data = tiff(grey(4, 4), 8, 1, t270=b"a title\0", t34665=[position], t34853=[position])
    (tmp_path / "picture").write_bytes(data)
    picture = read_picture(tmp_path / "picture")
    assert b"a title\0" in picture.metadata.exif
    is_ring = position == 8  # a directory that is its own
    notice = "a part of its EXIF is damaged or too long: dropped"
    assert picture.notices == [notice] * (not is_ring)


def test_tags_of_a_tiff_file_that_share_a_value_are_read_within_bounded_memory(tmp_path):
    """Each of 2000 tags claims the same megabyte."""
    shared = b"".join(struct.pack("<HHII", 0xA100 + k, 7, 1 << 20, 8) for k in range(2000))
    data = tiff(grey(1000, 1100), 8, 1, t34665=[0])
    at = data.index(struct.pack("<HHI", 34665, 3, 1))
    data = data[: at + 2] + struct.pack("<HII", 4, 1, len(data)) + data[at + 12 :]
    (tmp_path / "picture").write_bytes(data + struct.pack("<H", 2000) + shared + bytes(4))
    tracemalloc.start()
    picture = read_picture(tmp_path / "picture")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000_000
    assert "a part of its EXIF is damaged or too long: dropped" in picture.notices


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "avif", "tiff"])
def test_the_orientation_is_applied_once(reread, extension):
    picture = reread(extension, exif=b"Exif\0\0" + exif_bytes(6))
    assert picture.shape == (30, 20)
    assert parsed(picture.metadata.exif).get(0x112, 1) == 1
    for target in HOLDS:
        data, _ = written(picture, target)
        again = reread(target, Image.open(io.BytesIO(data)))
        assert again.shape == (30, 20)


def test_an_orientation_that_only_xmp_knows_is_applied_once(reread):
    for attribute in (b"tiff:Orientation='6'", b'tiff:Orientation="6"'):
        xmp = XMP.replace(b"xmpmeta ", b"xmpmeta " + attribute + b" ")
        metadata = reread("jpg", xmp=xmp).metadata
        assert metadata.xmp == xmp.replace(attribute, attribute.replace(b"6", b"1"))
    element = XMP.replace(b"/>", b"><tiff:Orientation>8</tiff:Orientation></x:xmpmeta>")
    picture = reread("webp", xmp=element)
    assert picture.shape == (30, 20) and b"Orientation>1</" in picture.metadata.xmp


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "avif", "tiff"])
def test_xmp_is_read_byte_for_byte(reread, extension):
    options = {"xmp": XMP}
    if extension == "png":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    if extension == "tiff":
        options["tiffinfo"] = {700: XMP}
    assert reread(extension, **options).metadata.xmp == XMP


@pytest.mark.parametrize(
    ("extension", "expected"), [("jpg", 300), ("png", 299.9994), ("tiff", 300), ("bmp", 299.9992)]
)
def test_the_resolution_is_read(reread, extension, expected):
    assert reread(extension, dpi=(300, 72)).metadata.dpi[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "tiff"])
def test_the_resolution_turns_with_the_picture(reread, extension, orientation):
    options = {"exif": exif_bytes(orientation)}
    if extension == "tiff":
        options = {"tiffinfo": {0x112: orientation}}
    if extension == "jpg":
        options["exif"] = b"Exif\0\0" + options["exif"]
    picture = reread(extension, dpi=(300, 150), **options)
    turned = orientation >= 5
    assert picture.shape == ((30, 20) if turned else (20, 30))
    assert picture.metadata.dpi == pytest.approx((150, 300) if turned else (300, 150), abs=0.02)


@pytest.mark.parametrize("orientation", [3, 6])
def test_width_height_and_resolution_in_exif_turn_with_the_picture(orientation):
    exif = Image.Exif()
    exif[0x112], exif[0x11A], exif[0x11B] = orientation, 300.0, 150.0
    camera = {0xA002: 4000, 0xA003: 3000, 0xA20E: 5000.0, 0xA20F: 2500.0}  # and of the sensor
    exif.get_ifd(0x8769).update(camera)
    found = Image.Exif()
    found.load(upright(exif.tobytes()[6:]))
    order = slice(None, None, -1) if orientation == 6 else slice(None)
    assert (found[0x11A], found[0x11B]) == (300, 150)[order]
    camera = found.get_ifd(0x8769)
    assert (camera[0xA002], camera[0xA003]) == (4000, 3000)[order]
    assert (camera[0xA20E], camera[0xA20F]) == (5000, 2500)[order]


def test_metadata_of_every_kind_come_back_from_an_xfr_file():
    texts = pack_texts([("Title", "Grüße"), ("Comment", "")])
    metadata = Metadata(SRGB, exif_bytes(), XMP, (300, 150), b"\x1c\x02\x50\0\x05ALICE", texts)
    xfr = Xfr(1, 2, 30, 20, False, 50, b"payload", metadata=metadata)
    assert unpack(pack(xfr)).metadata == metadata
    assert unpack_texts(texts) == [("Title", "Grüße"), ("Comment", "")]
    assert metadata.stripped() == Metadata(icc=SRGB)


@given(st.binary(max_size=100))
def test_any_bytes_at_all_are_texts(data):
    assert all(len(text) == 2 for text in unpack_texts(data))


def test_of_a_million_texts_in_a_small_file_the_first_are_read():
    assert unpack_texts(b"a\0b\0" * 10**6) == [("a", "b")] * 1024


def test_texts_beyond_the_limit_are_told(tmp_path):
    image, info = Image.fromarray(colour(20, 30)), PngImagePlugin.PngInfo()
    for number in range(1030):
        info.add_text(f"k{number}", "text")
    image.save(tmp_path / "a.png", pnginfo=info)
    picture = read_picture(tmp_path / "a.png")
    assert picture.notices == ["its texts beyond the first 1024: dropped"]
    assert unpack_texts(picture.metadata.texts)[-1] == ("k1023", "text")


@pytest.mark.parametrize("dpi", [(0, 0), (72, 0)])
def test_a_resolution_of_nothing_is_none(reread, dpi):
    assert reread("bmp", dpi=dpi).metadata.dpi is None


@pytest.mark.parametrize("exif", [b"II*\0", b"II*\0\xff\0\0\0", b"no EXIF", b"II*\0\x08\0\0\0\xff"])
def test_damaged_exif_is_dropped_with_a_notice(reread, exif):
    picture = reread("png", exif=b"Exif\0\0" + exif)
    assert picture.metadata.exif is None and picture.notices == ["its EXIF is damaged: dropped"]


def test_a_picture_without_metadata_has_none(reread):
    for extension in ("png", "jpg", "webp", "tiff", "ppm"):
        assert reread(extension).metadata == Metadata()


# EXIF


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("tags", [(0x201, 0x202), (0x111, 0x117)], ids=["jpeg", "pixels"])
def test_the_thumbnail_is_dropped_and_all_else_stays_where_it_is(order, tags):
    exif = exif_bytes()
    if order == "MM":  # one value of each kind, at the offsets that it says
        exif = struct.pack(">2sHIHHHII4x", b"MM", 42, 8, 1, 0x10F, 2, 8, 26) + b"A maker\0"
    found = upright(with_thumbnail(exif, b"\xff\xd8" + b"thumb" * 1000, tags))
    assert len(found) == len(exif) + 30 and b"thumb" not in found
    assert found[: len(exif)] == exif
    assert parsed(found) == parsed(exif)


@pytest.mark.parametrize("offset", [0, 8, 10**6, 2**32 - 1])
def test_a_thumbnail_at_an_impossible_place_wipes_nothing(offset):
    exif = exif_bytes()
    found = upright(with_thumbnail(exif, b"thumbnail", offset=offset))
    assert found[: len(exif)] == exif


def test_only_the_orientation_changes_in_exif_that_was_turned():
    before, after = exif_bytes(8), upright(exif_bytes(8))
    assert parsed(after) == parsed(before) | {0x112: 1}
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_exif_whose_tags_share_a_value_is_not_well_formed():
    """Each of 1000 tags claims the same 10,000 bytes: Pillow would copy them 1000 times."""
    shared = b"".join(struct.pack("<HHII", 0xA000 + i, 7, 10_000, 8) for i in range(1000))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 1000) + shared + bytes(4)
    assert is_well_formed(exif_bytes()) and is_well_formed(upright(exif_bytes(3)))
    assert not is_well_formed(exif)
    assert not is_well_formed(exif_bytes()[:-20])
    same_tag = exif.replace(struct.pack("<H", 0xA001), struct.pack("<H", 0xA000))
    assert not is_well_formed(same_tag)


# Writing


def full(pixels) -> Picture:
    return Picture(pixels, metadata=Metadata(WIDE, exif_bytes(), XMP, (300, 150)))


@pytest.mark.parametrize("extension", HOLDS)
def test_all_that_a_format_has_a_place_for_is_written_and_the_rest_is_noted(tmp_path, extension):
    data, notices = written(full(colour(20, 30)), extension)
    (tmp_path / "picture").write_bytes(data)
    found = read_picture(tmp_path / "picture").metadata
    held = HOLDS[extension]
    assert {name for name in LABELS if getattr(found, name) is not None} == held
    expected = [
        f"{extension} cannot hold its {LABELS[k]}: dropped" for k in LABELS if k not in held
    ]
    assert [notice for notice in notices if "dropped" in notice] == expected
    if "exif" in held:
        assert parsed(found.exif) == parsed(exif_bytes())
        assert found.exif == exif_bytes() or extension == "tiff"
    assert found.xmp in (None, XMP) and found.icc in (None, WIDE)
    assert found.dpi is None or found.dpi == pytest.approx((300, 150), abs=0.02)


def test_what_is_too_long_for_a_format_is_dropped_with_a_notice():
    long = exif_bytes() + bytes(70_000)
    picture = Picture(grey(20, 30), metadata=Metadata(exif=long, xmp=XMP, dpi=(1e6, 1e6)))
    data, notices = written(picture, "jpg")
    info = Image.open(io.BytesIO(data)).info
    assert info["xmp"] == XMP and "exif" not in info
    assert notices == [f"jpg cannot hold its {name}: dropped" for name in ("EXIF", "resolution")]
    assert Image.open(io.BytesIO(written(picture, "png")[0])).info["exif"] == b"Exif\0\0" + long


@given(
    st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: b"II*\0\x08\0\0\0" + data),
    st.binary(max_size=50),
    st.binary(max_size=150).map(lambda data: SRGB[:20] + data),
    st.tuples(*[st.floats(2.0**-100, 2.0**100, width=32)] * 2),
)
@pytest.mark.parametrize("extension", ["jpg", "png", "tiff", "webp"])
def test_any_metadata_at_all_leave_an_intact_picture(extension, exif, xmp, icc, dpi):
    data, _ = written(Picture(grey(8, 9), metadata=Metadata(icc, exif, xmp, dpi)), extension)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.size == (9, 8)


@given(st.data())
def test_exif_with_any_bytes_changed_is_refused_or_cleaned(data):
    exif = bytearray(with_thumbnail(exif_bytes(6), b"thumbnail"))
    for _ in range(data.draw(st.integers(1, 8))):
        exif[data.draw(st.integers(0, len(exif) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert len(upright(bytes(exif))) <= len(exif)
    except ValueError:
        pass
    picture = Picture(grey(8, 9), metadata=Metadata(exif=bytes(exif)))
    with Image.open(io.BytesIO(written(picture, "tiff")[0])) as image:
        image.load()
        assert image.size == (9, 8)


@pytest.mark.parametrize(("length", "kept"), [(1, True), (79, True), (80, False)])
def test_a_keyword_has_up_to_79_characters_in_png(length, kept):
    texts = pack_texts([("k" * length, "some text")])
    stream = io.BytesIO()
    notices = write_picture(Picture(colour(20, 30), metadata=Metadata(texts=texts)), stream, "png")
    assert notices == ([] if kept else ["png cannot hold its texts: dropped"])
    assert (b"some text" in stream.getvalue()) == kept


@pytest.mark.parametrize(
    ("unit", "options", "expected"),
    [
        (0, {}, None),
        (0, {0x11A: 300.0, 0x11B: 150.0}, (300, 150)),
        (0, {0x11A: 100.0, 0x11B: 50.0, 0x128: 3}, (254, 127)),
        (0, {0x11A: 300.0, 0x11B: 150.0, 0x128: 1}, None),
        (1, {0x11A: 300.0, 0x11B: 150.0}, (72, 72)),
    ],
)
def test_the_resolution_of_jpeg_is_that_of_jfif_or_else_of_exif(reread, unit, options, expected):
    exif = Image.Exif()
    exif[0x10F] = "maker"
    for tag, value in options.items():
        exif[tag] = value
    dpi = {"dpi": (72, 72)} if unit else {}
    picture = reread("jpg", Image.fromarray(colour(20, 30)), exif=exif, **dpi)
    assert picture.metadata.dpi == expected


@pytest.mark.parametrize("extension", ["bmp", "dib", "qoi", "jpg", "png", "tiff", "tga"])
def test_neither_resolution_nor_profile_is_invented(tmp_path, extension):
    path = tmp_path / f"picture.{extension}"
    for metadata in (Metadata(), Metadata(exif=exif_bytes(1))):
        with path.open("wb") as stream:
            write_picture(Picture(colour(20, 30), None, metadata), stream, extension)
        assert read_picture(path).metadata.dpi is None and read_picture(path).metadata.icc is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_is_the_same_in_avif_but_for_its_orientation(tmp_path, order):
    entries = ((0x10E, 2, 5, 38), (0x112, 3, 1, 1 << 16 * (order == ">")))
    table = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    start = {"<": b"II*\0\x08\0\0\0\2\0", ">": b"MM\0*\0\0\0\x08\0\2"}[order]
    exif = start + table + bytes(4) + "Téx".encode() + bytes(2)
    path = tmp_path / "picture.avif"
    with path.open("wb") as stream:
        assert (
            write_picture(Picture(colour(20, 30), None, Metadata(exif=exif)), stream, "avif") == []
        )
    found = read_picture(path).metadata.exif
    assert found == without_orientation(exif) and len(found) == len(exif)
    assert parsed(found) == {tag: value for tag, value in parsed(exif).items() if tag != 0x112}


def test_bytes_in_tags_of_tiff_stay_and_an_empty_directory_is_left_out(tmp_path):
    """EXIF with a title as Windows has it, and a directory of the place without any tag."""
    title = "abc\0".encode("utf-16-le")
    tags = struct.pack("<HHII", 0x8825, 4, 1, 50) + struct.pack("<HHII", 0x9C9B, 1, 8, 38)
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + tags + bytes(4) + title + bytes(4) + bytes(8)
    path = tmp_path / "picture.tiff"
    with path.open("wb") as stream:
        write_picture(Picture(colour(20, 30), None, Metadata(exif=exif)), stream, "tiff")
    found = Image.open(path).tag_v2
    assert found[0x9C9B] == title and 0x8825 not in found
