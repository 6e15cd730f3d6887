"""Metadata: what a file says about a picture beside its pixels."""

import io
import math
import re
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from xfr.text import (
    COMMENT,
    MAX_CHUNK,
    MAX_TEXTS,
    PHOTOSHOP_PREFIX,
    RAW_PROFILE,
    pack_raw_profile,
    pack_texts,
    photoshop_iptc,
    unpack_texts,
)
from xfr.tiff import IPTC, XMP, Directory, read_directory

COMMENT_FORMATS = {"JPEG", "MPO", "GIF", "JPEG2000"}  # formats with a place for comments
EXIF_PREFIX = b"Exif\0\0"  # stands before EXIF in some formats
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
BEGINNINGS = {order: beginning for beginning, order in BYTE_ORDERS.items()}
BYTE, SHORT, LONG, UNDEFINED = 1, 3, 4, 7  # types of tags
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
NUMBER_CODES = {1: "B", 3: "H", 4: "I"}
NUMBER_BYTES = TYPE_BYTES | {5: 4, 10: 4, 13: 4}  # rationals are pairs of numbers
MAX_TAGS = 4096
MAX_KEYWORD = 79  # characters, in PNG
ORIENTATION, EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x112, 0x8769, 0x8825, 0xA005
DIRECTORIES = (EXIF_IFD, GPS_IFD, INTEROP_IFD)  # tags that point to one
THUMBNAILS = ((0x201, 0x202), (0x111, 0x117))  # offset and length: as JPEG, as pixels
# The tags that describe the picture, and not how a TIFF file stores it: title, camera, software,
# date, artist, computer, rating, copyright, and those of Windows.
DESCRIPTIVE = {269, 270, 271, 272, 285, 305, 306, 315, 316, 0x4746, 0x4749, 33432}
DESCRIPTIVE |= {EXIF_IFD, GPS_IFD, *range(0x9C9B, 0x9CA0)}
XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))([0-9])")
QUARTER_TURNED = range(5, 9)
# Pairs of tags that change places when a picture is turned by 90 degrees: width and height,
# resolution; in the second directory the same, of the picture and of the sensor.
TURNED_TAGS = {0x100: 0x101, 0x11A: 0x11B, 0xA002: 0xA003, 0xA20E: 0xA20F}
LABELS = {
    "icc": "colour profile", "exif": "EXIF", "xmp": "XMP", "dpi": "resolution", "iptc": "IPTC",
    "texts": "texts",
}  # fmt: skip


@dataclass(frozen=True)
class Metadata:
    """``icc``: the profile of the pixels. ``exif``: a TIFF structure, without the prefix that some
    formats put before it. ``xmp``: XML. ``dpi``: pixels per inch across and down, of float32
    precision. ``iptc``: IPTC-IIM records. ``texts``: keywords and texts, as in xfr/text.py."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    iptc: bytes | None = None
    texts: bytes | None = None

    def stripped(self) -> "Metadata":
        """The profile alone, which the colours need."""
        return Metadata(icc=self.icc)


NO_METADATA = Metadata()


def read_metadata(image: Image.Image, notices: list[str]) -> tuple[Metadata, int]:
    """The metadata of a picture that xfr/sources.py has opened, of its pixels turned upright; and
    the orientation, 1 to 8, that they have before. What is dropped is added to ``notices``."""
    info = image.info
    xmp, by_xmp = read_xmp(info.get("xmp"))
    if image.format == "AVIF":  # Pillow makes EXIF of the orientation that counts
        by_xmp = None
    by_tag: Any = None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        by_tag = image.tag_v2.get(ORIENTATION)
        if isinstance(by_tag, bytes):  # of type BYTE
            by_tag = int.from_bytes(by_tag)
    exif, by_exif = read_exif(info.get("exif"), notices, by_tag or by_xmp)
    orientation: Any = by_tag or by_exif or by_xmp
    if orientation not in range(1, 9):
        orientation = 1
    dpi, texts = read_resolution(info), info.get("texts", [])
    if dpi and orientation in QUARTER_TURNED:
        dpi = dpi[::-1]
    if len(texts) > MAX_TEXTS:
        notices.append(f"its texts beyond the first {MAX_TEXTS}: dropped")
    kept: dict[str, Any] = {
        "icc": info.get("icc_profile"), "exif": exif, "xmp": xmp, "dpi": dpi,
        "iptc": info.get("iptc"), "texts": pack_texts(texts),
    }  # fmt: skip
    for kind, value in kept.items():
        if value and len(value) > MAX_CHUNK:
            notices.append(f"its {LABELS[kind]}: more than {MAX_CHUNK} bytes, dropped")
            kept[kind] = None
    return Metadata(**{kind: value or None for kind, value in kept.items()}), orientation


def read_exif(
    exif: bytes | None, notices: list[str], otherwise: int | None = None
) -> tuple[bytes | None, int | None]:
    """EXIF of pixels turned upright, and the orientation that it tells; where it tells none, pixels
    are turned as ``otherwise`` says."""
    if not exif:
        return None, None
    orientation = None
    try:
        exif = re.sub(b"^(%b)+" % EXIF_PREFIX, b"", exif)
        orientation = orientation_of(exif)
        return upright(exif, otherwise), orientation
    except ValueError:
        notices.append("its EXIF is damaged: dropped")
        return None, orientation


def read_xmp(xmp: Any) -> tuple[bytes | None, int | None]:
    """XMP of pixels turned upright, and the orientation that it tells."""
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    if not isinstance(xmp, bytes):
        return None, None
    said = XMP_ORIENTATION.search(xmp)
    return XMP_ORIENTATION.sub(rb"\g<1>1", xmp), int(said[2]) if said else None


def read_resolution(info: dict) -> tuple[float, float] | None:
    """Pixels per inch, across and down; None if there are none, or something else."""
    with suppress(KeyError, TypeError, ValueError, ArithmeticError, struct.error):
        dpi = struct.unpack(">ff", struct.pack(">ff", *info["dpi"]))
        if dpi != (1, 1) and is_resolution(dpi):  # Pillow has 1 where a TIFF has none
            return dpi
    return None


def is_resolution(dpi: tuple[float, float]) -> bool:
    """Whether these may be pixels per inch."""
    return all(math.isfinite(value) and value > 0 for value in dpi)


# EXIF


def directory(exif: bytes, order: str, start: int) -> tuple[list[tuple[int, int]], int]:
    """The tags of a TIFF directory, each with the position in ``exif`` of its twelve bytes; and the
    position behind them, of the link to the next directory. struct.error if they are cut short."""
    (count,) = struct.unpack_from(order + "H", exif, start)
    end = start + 2 + 12 * count
    positions = range(start + 2, end, 12)
    return [(*struct.unpack_from(order + "H10x", exif, p), p) for p in positions], end


def byte_order(exif: bytes) -> str:
    """The byte order of EXIF, as struct writes it. ValueError if EXIF does not begin with one."""
    order = BYTE_ORDERS.get(exif[:4])
    if order is None:
        raise ValueError("damaged EXIF: it does not begin with a byte order")
    return order


def orientation_of(exif: bytes) -> int | None:
    """The orientation that EXIF says; None if it says none. ValueError if it is damaged."""
    order, found = byte_order(exif), None
    try:
        entries, _ = directory(exif, order, struct.unpack_from(order + "I", exif, 4)[0])
        for tag, position in entries:
            (kind,) = struct.unpack_from(order + "H", exif, position + 2)
            if tag == ORIENTATION and kind in NUMBER_CODES:
                (found,) = struct.unpack_from(order + NUMBER_CODES[kind], exif, position + 8)
    except struct.error:
        raise ValueError("damaged EXIF: it is cut short") from None
    return found


def turn_tags(out: bytearray, entries: list[tuple[int, int]]) -> None:
    """Exchange the values of tags that a quarter turn exchanges, where both are there."""
    positions = dict(entries)
    for tag, other in TURNED_TAGS.items():
        if tag in positions and other in positions:
            a, b = positions[tag] + 2, positions[other] + 2
            out[a : a + 10], out[b : b + 10] = out[b : b + 10], out[a : a + 10]


def upright(exif: bytes, otherwise: int | None = None) -> bytes:
    """EXIF of a picture that was turned as it says, or as ``otherwise`` says where it tells no
    orientation: with orientation 1, and without its thumbnail. Everything else stays byte for byte
    where it is: makers' notes contain offsets that would otherwise be wrong. ValueError if the EXIF
    is damaged."""
    order, out = byte_order(exif), bytearray(exif)
    orientation = orientation_of(exif) or otherwise
    try:
        (first,) = struct.unpack_from(order + "I", exif, 4)
        entries, end = directory(exif, order, first)
        for tag, position in entries:
            if tag == ORIENTATION:
                struct.pack_into(order + "HHIHH", out, position, ORIENTATION, 3, 1, 1, 0)
        if orientation in QUARTER_TURNED:
            turn_tags(out, entries)
            with suppress(struct.error, KeyError):  # without a second directory, or a damaged one
                (start,) = struct.unpack_from(order + "I", exif, dict(entries)[EXIF_IFD] + 8)
                turn_tags(out, directory(exif, order, start)[0])
        link = exif[end : end + 4]
        if not any(link):
            return bytes(out)
        out[end : end + 4] = bytes(len(link))
        (second,) = struct.unpack(order + "I", link)
        entries, end = directory(exif, order, second)
        values = {tag: struct.unpack_from(order + "I", exif, p + 8)[0] for tag, p in entries}
    except struct.error:
        raise ValueError("damaged EXIF: it is cut short") from None
    for offset, length in THUMBNAILS:
        if offset in values and length in values:
            start, stop = values[offset], values[offset] + values[length]
            # An offset to elsewhere than behind the directory is not to be trusted.
            if end <= start < stop <= len(out):
                out[start:stop] = bytes(stop - start)
                out = out if any(out[start:]) else out[:start]
    return bytes(out)


def is_well_formed(exif: bytes) -> bool:
    """Whether all values are there, together take no more bytes than the EXIF has, and are at most
    MAX_TAGS. In a hostile one, thousands of tags may share one long value, and Pillow would copy it
    for each; or directories of 65,535 tags may follow each other."""
    order = BYTE_ORDERS.get(exif[:4])
    if order is None:
        return False
    taken = tags = 0
    try:
        starts = [struct.unpack_from(order + "I", exif, 4)[0]]
        for start in starts:
            entries, _ = directory(exif, order, start)
            tags += len(entries)
            if tags > MAX_TAGS:
                return False
            for tag, position in entries:
                kind, count, value = struct.unpack_from(order + "2xHII", exif, position)
                size = TYPE_BYTES.get(kind, 1) * count
                taken += max(size, 4)
                if taken > len(exif) or (size > 4 and value + size > len(exif)):
                    return False
                if tag in DIRECTORIES:
                    starts.append(value)
    except struct.error:
        return False
    return True


def tiff_exif(page: Directory, notices: list[str]) -> bytes | None:
    """The EXIF of a page of a TIFF file, which is spread over its own tags."""
    lost: list[int] = []
    packed = pack_directory(page, DESCRIPTIVE & page.tags.keys(), page.order, 8, lost)
    if lost:
        notices.append("a part of its EXIF is damaged or too long: dropped")
    return BEGINNINGS[page.order] + struct.pack(page.order + "I", 8) + packed if packed else None


def pack_directory(
    source: Directory, tags: Iterable[int], order: str, start: int, lost: list[int]
) -> bytes:
    """Some tags of a directory, and all directories within it, as they stand from ``start`` on in a
    TIFF structure of this byte order. Values stay byte for byte, but for the order. Damaged tags
    are left out and added to ``lost``. b"" if no tag is left."""
    found = directories_and_bytes(source, tags, lost)
    table, values = struct.pack(order + "H", len(found)), b""
    behind = start + 2 + 12 * len(found) + 4
    for tag, value in found.items():
        kind, count, _ = source.tags[tag]
        place = struct.pack(order + "I", behind + len(values))
        if isinstance(value, Directory):
            kind, count, data = LONG, 1, place
            # A directory lies within one of a smaller tag alone: so there are no rings.
            inner = [one for one in value.tags if one not in DIRECTORIES or one > tag]
            values += pack_directory(value, inner, order, behind + len(values), lost)
        elif order == source.order:
            data = value
        else:
            data = np.frombuffer(value, f"u{NUMBER_BYTES.get(kind, 1)}").byteswap().tobytes()
        if len(data) > 4:
            values += data + bytes(len(data) % 2)
            data = place
        table += struct.pack(order + "HHI", tag, kind, count) + data.ljust(4, b"\0")
    return table + bytes(4) + values if found else b""


def directories_and_bytes(
    source: Directory, tags: Iterable[int], lost: list[int]
) -> dict[int, Directory | bytes]:
    """The directories that tags point to and the bytes of the others, in order, of at most
    MAX_CHUNK bytes. ``lost``: tags that are cut short, or too long."""
    found: dict[int, Directory | bytes] = {}
    room = MAX_CHUNK
    for tag in sorted(tags):
        value: Directory | bytes | None = None
        size = source.size(tag)
        if tag in DIRECTORIES:
            value = source.within(tag)
        elif size <= room:
            room -= size
            value = source.content(tag, size)
        if value is None or (isinstance(value, bytes) and len(value) < size):
            lost.append(tag)
        else:
            found[tag] = value
    return found


# Writing


def without_orientation(exif: bytes) -> bytes:
    """EXIF without its first tag of the orientation; all values stay where they are. struct.error
    or ValueError if it is damaged."""
    order, out = byte_order(exif), bytearray(exif)
    (first,) = struct.unpack_from(order + "I", exif, 4)
    entries, end = directory(exif, order, first)
    position = next((position for tag, position in entries if tag == ORIENTATION), None)
    if position is None:
        return exif
    out[position : end + 4] = exif[position + 12 : end + 4] + bytes(12)
    struct.pack_into(order + "H", out, first, len(entries) - 1)
    return bytes(out)


def save_options(name: str, metadata: Metadata) -> dict:
    """The options of Pillow's ``save`` that write metadata in the format ``name``, behind its
    ``beginning``. Formats ignore what they have no place for; ValueError, or another exception of
    Pillow, if they do not take what they get."""
    options: dict[str, Any] = {
        "icc_profile": metadata.icc,
        "dpi": metadata.dpi,
        "xmp": metadata.xmp,
    }
    texts = unpack_texts(metadata.texts or b"")
    if name in COMMENT_FORMATS:
        options["comment"] = comment_of(texts)
    if metadata.exif is not None and name != "TIFF":
        # Pillow would write other bytes into AVIF where EXIF tells the orientation.
        exif = without_orientation(metadata.exif) if name == "AVIF" else metadata.exif
        options["exif"] = EXIF_PREFIX + exif
    if name in ("JPEG", "MPO") and metadata.iptc is not None:
        content = PHOTOSHOP_PREFIX + photoshop_iptc(metadata.iptc)
        options["extra"] = struct.pack(">BBH", 0xFF, 0xED, len(content) + 2) + content
    if name == "PNG":
        options["pnginfo"] = png_info(metadata, texts)
    if name == "TIFF":
        _, options["tiffinfo"] = tiff_beginning(metadata.exif or b"")
        if metadata.xmp is not None:
            options["tiffinfo"][XMP] = metadata.xmp
        if metadata.iptc is not None:
            options["tiffinfo"][IPTC] = metadata.iptc
    return {key: value for key, value in options.items() if value is not None}


def beginning(name: str, metadata: Metadata) -> bytes:
    """The bytes of a file in the format ``name`` that go before all that Pillow writes."""
    return tiff_beginning(metadata.exif or b"")[0] if name == "TIFF" else b""


def tiff_beginning(exif: bytes) -> tuple[bytes, TiffImagePlugin.ImageFileDirectory_v2]:
    """The beginning of a TIFF file up to its page, with the directories within EXIF, whose types
    and texts Pillow would change; b"" if there are none. And the tags of EXIF for the page."""
    if not is_well_formed(exif):
        return b"", TiffImagePlugin.ImageFileDirectory_v2()
    order = byte_order(exif)
    source, _ = read_directory(
        io.BytesIO(exif), struct.unpack_from(order + "I", exif, 4)[0], order, is_big=False
    )
    packed = b""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag in sorted(DESCRIPTIVE & source.tags.keys()):
        kind, inner = source.tags[tag][0], source.within(tag) if tag in DIRECTORIES else None
        if inner is not None:
            tags[tag] = 8 + len(packed)
            packed += pack_directory(inner, inner.tags, "<", 8 + len(packed), [])
        elif tag in DIRECTORIES:
            continue  # an empty one
        elif kind in (SHORT, LONG):
            tags[tag] = source.values(tag)
        elif kind in (BYTE, UNDEFINED):
            tags.tagtype[tag] = kind
            tags[tag] = source.content(tag, MAX_CHUNK)
        else:
            tags[tag] = source.content(tag, MAX_CHUNK).removesuffix(b"\0")
    header = BEGINNINGS["<"] + struct.pack("<I", 8 + len(packed))
    return (header + packed if packed else b""), tags


def comment_of(texts: list[tuple[str, str]]) -> bytes | None:
    """Comments among texts, as one in UTF-8; None if there are none."""
    return "\n".join(text for keyword, text in texts if keyword == COMMENT).encode() or None


def only_comment(texts: bytes) -> bytes | None:
    """``comment_of`` packed texts, packed again."""
    comment = comment_of(unpack_texts(texts))
    return pack_texts([(COMMENT, comment.decode())]) if comment else None


def png_info(metadata: Metadata, texts: list[tuple[str, str]]) -> PngImagePlugin.PngInfo | None:
    """The text chunks of a PNG file; None if there are none."""
    info = PngImagePlugin.PngInfo()
    if metadata.xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
    if metadata.iptc is not None:
        info.add_text(f"{RAW_PROFILE}iptc", pack_raw_profile("iptc", metadata.iptc), zip=True)
    for keyword, text in texts:
        if not 1 <= len(keyword) <= MAX_KEYWORD:
            raise ValueError("a keyword that PNG does not allow")
        info.add_text(keyword, text)
    return info if info.chunks else None
