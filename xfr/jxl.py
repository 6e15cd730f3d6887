"""JPEG XL files: size and depth, read here before the plugin decodes the entire picture.

The plugin, pillow-jxl-plugin, decodes a file when it opens it. The standard: ISO 18181-1, annex D,
and 18181-2 for the boxes.
"""

from typing import Any, BinaryIO, NamedTuple

from xfr.boxes import read_boxes, walk_boxes
from xfr.metadata import read_exif, read_xmp
from xfr.samples import REDUCED_TO_8_BITS

CODESTREAM_START = b"\xff\x0a"  # begins a codestream
# Boxes that hold a codestream or a part of one, and the bytes before it.
CODESTREAMS = {b"jxlc": 0, b"jxlp": 4}
HEAD_BYTES = 64  # of a codestream: size and depth take no more
# Ways in which numbers are stored: the least, and the bits of what is added to it. Where there are
# several ways, two bits before the number tell which.
Choices = tuple[tuple[int, int], ...]
SIDE: Choices = ((1, 9), (1, 13), (1, 18), (1, 30))
SIDE_BY_8: Choices = ((1, 5),)
PREVIEW_SIDE: Choices = ((1, 6), (65, 8), (321, 10), (1345, 12))
PREVIEW_SIDE_BY_8: Choices = ((16, 0), (32, 0), (1, 5), (33, 9))
TICKS: Choices = ((100, 0), (1000, 0), (1, 10), (1, 30))
TICKS_BY: Choices = ((1, 0), (1001, 0), (1, 8), (1, 10))
LOOPS: Choices = ((0, 0), (0, 3), (0, 16), (0, 32))
DEPTH: Choices = ((8, 0), (10, 0), (12, 0), (1, 6))
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


class JxlHeader(NamedTuple):
    """Size, bits of a sample (0: floating point), and whether there are several frames."""

    width: int
    height: int
    bits: int
    is_animated: bool
    orientation: int = 1


class BitReader:
    """Numbers of some bits each, the lowest first."""

    def __init__(self, data: bytes):
        self.bits, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def number(self, count: int = 1) -> int:
        """A number of so many bits. OSError at the end."""
        self.left -= count
        if self.left < 0:
            raise OSError("a damaged JPEG XL file")
        found = self.bits & ((1 << count) - 1)
        self.bits >>= count
        return found

    def choice(self, choices: Choices) -> int:
        """A number that is stored in one of these ways."""
        least, count = choices[self.number(2) if len(choices) > 1 else 0]
        return least + self.number(count)

    def size(self, by_1: Choices, by_8: Choices) -> tuple[int, int]:
        """Width and height: sides as they are, or divided by 8; the width may be a ratio."""
        unit, choices = (8, by_8) if self.number() else (1, by_1)
        height, ratio = unit * self.choice(choices), self.number(3)
        if not ratio:
            return unit * self.choice(choices), height
        across, down = RATIOS[ratio - 1]
        return height * across // down, height


def read_jxl_header(stream: BinaryIO) -> JxlHeader:
    """The header of a JPEG XL file, wherever the stream is. OSError if it is damaged."""
    stream.seek(0)
    start = 0 if stream.read(2) == CODESTREAM_START else codestream(stream)
    stream.seek(start + len(CODESTREAM_START))
    reader = BitReader(stream.read(HEAD_BYTES))
    width, height = reader.size(SIDE, SIDE_BY_8)
    if reader.number():  # all else is the default
        return JxlHeader(width, height, 8, False)
    is_animated, orientation = 0, 1
    if reader.number():  # fields beyond depth and colours
        orientation = 1 + reader.number(3)
        if reader.number():
            reader.size(SIDE, SIDE_BY_8)  # at which it is to be shown
        if reader.number():
            reader.size(PREVIEW_SIDE, PREVIEW_SIDE_BY_8)
        is_animated = reader.number()
        if is_animated:
            for choices in (TICKS, TICKS_BY, LOOPS):
                reader.choice(choices)
            reader.number()  # time codes
    is_float = reader.number()
    bits = 0 if is_float else reader.choice(DEPTH)
    return JxlHeader(width, height, bits, bool(is_animated), orientation)


def codestream(stream: BinaryIO) -> int:
    """The position of the codestream in a file of boxes. OSError if it has none."""
    for kind, begin, _ in walk_boxes(stream, 0, stream.seek(0, 2)):
        if kind in CODESTREAMS:
            return begin + CODESTREAMS[kind]
    raise OSError("a damaged JPEG XL file")


def add_jxl(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """XMP of an opened file, and what is not kept of it. ValueError for what the plugin misreads:
    grey with alpha of more than 8 bits stays at 16 bits, and of an animation comes the last frame.
    """
    header = read_jxl_header(stream)
    if image.mode == "LA" and header.bits != 8:
        raise ValueError("JPEG XL files of grey with alpha of more than 8 bits are not read")
    if header.bits > 8 and not image.mode.startswith("I"):
        notices.append(REDUCED_TO_8_BITS)
    if header.is_animated:
        raise ValueError("animations in JPEG XL are not read: the plugin decodes their last frame")
    for kind, data in read_boxes(stream, 0, stream.seek(0, 2)):
        if kind == b"xml ":
            image.info["xmp"] = data
        elif kind == b"jumb":
            notices.append("its JUMBF box, such as Content Credentials, is not kept")
        elif kind == b"brob" and data[:4] != b"jbrd":
            notices.append("its compressed metadata are not kept")
    if header.orientation > 1 and not image.jpeg:  # libjxl has turned the pixels
        image.info["exif"], _ = read_exif(image.info.get("exif"), notices)
        image.info["xmp"], _ = read_xmp(image.info.get("xmp"))
