"""Boxes of JPEG 2000, AVIF and HEIC files, for what Pillow leaves out of them.

The standards: ISO 14496-12, 15444-1.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image

from xfr.colour import coded_profile
from xfr.text import COMMENT, iptc_of

CONTAINERS = {b"jp2h", b"meta", b"iprp", b"ipco"}
FULL_BOXES = {b"meta"}  # a version and flags come first
MAX_BOX, MAX_BOXES = 1 << 24, 10_000
EXIF_ID = b"JpgTiffExif->JP2"
XMP_ID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
IPTC_ID = bytes.fromhex("33c7a4d2b81d4723a0baf1a3e097ad38")
CIELAB_CODE = 14
SRGB_CODES = (12, 15, 16, 17, 18, 0)  # enumerated spaces that Pillow or no profile is right for
DEFAULT_COMMENT = b"Created by OpenJPEG"
SIZE_MARKER = b"\xff\x4f\xff\x51"  # begins a codestream of JPEG 2000


def component_bits(stream: BinaryIO) -> tuple[int, ...]:
    """Bits of each component of a JPEG 2000 file. OSError if it has no codestream."""
    stream.seek(0)
    head = stream.read(MAX_BOX)
    start = head.find(SIZE_MARKER)
    if start < 0 or len(head) < start + 42:
        raise OSError("a damaged JPEG 2000 file")
    (count,) = struct.unpack_from(">H", head, start + 40)
    return tuple((value & 0x7F) + 1 for value in head[start + 42 : start + 42 + 3 * count : 3])


def check_components(image: Image.Image, bits: tuple[int, ...]) -> None:
    """ValueError for samples of JPEG 2000 that Pillow misreads: colour of more than 8 bits, whose
    white it makes black, and anything of less."""
    is_grey = image.mode == "I;16" and len(bits) == 1 and 8 < bits[0] <= 16
    if not is_grey and set(bits) != {8}:
        raise ValueError(
            f"JPEG 2000 files of {len(bits)} channels of {max(bits)} bits are not read"
        )


def walk_boxes(stream: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box between two positions, and the begin and end of its content, which may be
    beyond ``stop``. The stream is then where the content begins. A damaged box is the end."""
    for _ in range(MAX_BOXES):
        stream.seek(start)
        head = stream.read(8)
        if len(head) < 8 or start + 8 > stop:
            return
        size, kind = struct.unpack(">I4s", head)
        begin = start + 8
        if size == 1:
            size = int.from_bytes(stream.read(8), "big")
            begin += 8
        end = stop if size == 0 else start + size
        if end < begin:
            return
        yield kind, begin, end
        start = end


def read_boxes(stream: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the boxes between two positions, and of the boxes within CONTAINERS. Long
    boxes, such as pixels, are left out. A damaged box is the end."""
    for kind, begin, end in walk_boxes(stream, start, stop):
        if end > stop:
            return
        if kind in CONTAINERS:
            yield from read_boxes(stream, begin + 4 * (kind in FULL_BOXES), end)
        elif end - begin <= MAX_BOX and kind not in (b"mdat", b"jp2c"):
            yield kind, stream.read(end - begin)


def add_boxes(image: Image.Image, stream: BinaryIO, notices: list[str]) -> None:
    """Colours and metadata of an opened file that only its boxes tell; see ``open_picture``."""
    stream.seek(0, 2)
    length = stream.tell()
    grey = image.mode in ("L", "LA", "I;16", "1")
    bits = 8 if image.mode.startswith("I") else image.info.get("bit_depth", 8)  # of HEIC
    for kind, data in read_boxes(stream, 0, length):
        if kind == b"colr" and not image.info.get("icc_profile"):
            add_colours(image, data, grey, notices)
        elif kind == b"av1C" and len(data) > 2 and data[2] & 0x40:
            bits = 12 if data[2] & 0x20 else 10
        elif kind == b"uuid":
            add_identified(image, data, notices)
        elif kind in (b"cdef", b"cmap") and image.format == "JPEG2000":
            check_channels(kind, data)
        elif kind == b"pclr" and image.format == "JPEG2000":
            check_palette(data)
        elif kind == b"xml " and image.format == "JPEG2000":
            notices.append("its XML is not kept")
    if bits > 8:
        notices.append(f"{bits} bits per channel are reduced to 8")
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and not comment.startswith(DEFAULT_COMMENT):
        image.info["texts"] = [(COMMENT, comment.decode("latin-1"))]


def add_colours(image: Image.Image, data: bytes, grey: bool, notices: list[str]) -> None:
    """The colours that a box says: a profile, or numbers."""
    icc = None
    if data[:4] == b"nclx" and len(data) >= 11:
        primaries, transfer = struct.unpack_from(">HH", data, 4)
        try:  # the range is that of the coded picture, which Pillow has extended
            icc = coded_profile(primaries, transfer, True, grey)
        except ValueError as error:
            notices.append(str(error))
    elif data[:4] in (b"prof", b"rICC"):
        icc = data[4:]
    elif image.format == "JPEG2000" and data[:1] in (b"\2", b"\3"):
        icc = data[3:]
    elif image.format == "JPEG2000" and data[:1] == b"\1" and len(data) >= 7:
        (code,) = struct.unpack_from(">I", data, 3)
        if code == CIELAB_CODE:
            raise ValueError("JPEG 2000 files of CIELab are not read")
        if code not in SRGB_CODES:
            notices.append(f"its colour space (JPEG 2000's {code}) is not kept")
    if icc is not None:
        image.info["icc_profile"] = icc


def check_palette(data: bytes) -> None:
    """ValueError unless the entries of a JPEG 2000 palette have 3 or 4 columns of 8 bits: Pillow
    takes the numbers of others for samples."""
    columns = data[2:3]
    if columns not in (b"\3", b"\4") or data[3 : 3 + columns[0]] != columns[0] * b"\7":
        raise ValueError(
            "JPEG 2000 files with a palette of grey or of other than 8 bits are not read"
        )


def check_channels(kind: bytes, data: bytes) -> None:
    """ValueError unless the channels of JPEG 2000 are colours in their order and then alpha, or the
    columns of a palette in theirs: Pillow reads neither box."""
    if kind == b"cmap":
        columns = [column for mapped, column in zip(data[2::4], data[3::4]) if mapped]
        is_usual = columns == sorted(columns)
    else:
        entries = sorted(struct.iter_unpack(">HHH", data[2:]))
        colours = [(number, 0, number + 1) for number in range(len(entries))]
        is_usual = entries in (colours, [*colours[:-1], (len(entries) - 1, 1, 0)])
    if not is_usual:
        raise ValueError("JPEG 2000 files of reordered or premultiplied channels are not read")


def add_identified(image: Image.Image, data: bytes, notices: list[str]) -> None:
    """Metadata in a box that bears an identifier."""
    identifier, content = data[:16], data[16:]
    if identifier == EXIF_ID:
        image.info["exif"] = content
    elif identifier == XMP_ID:
        image.info["xmp"] = content
    elif identifier == IPTC_ID:
        image.info["iptc"] = iptc_of(content)
    else:
        notices.append("its UUID box is not kept")
