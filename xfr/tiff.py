"""TIFF files: which page is the picture, and whether Pillow reads its samples right.

Pillow opens some layouts that it misreads, and takes the first page for the picture, which may be a
thumbnail. The directories are therefore read here, too. The standard: TIFF 6.0, and its supplements
of Adobe; libtiff's BigTIFF.
"""

import struct
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import BinaryIO

BYTE_ORDERS = {b"II": "<", b"MM": ">"}
TIFF, SWAPPED_TIFF, BIG_TIFF = 42, 42 << 8, 43  # Pillow reads the second as the first
RATIONAL = 5
# Type: bytes and struct's code of a value; no code for signed numbers and floating point, which say
# nothing that is read here. A rational is two numbers.
TYPES = {
    1: (1, "B"), 3: (2, "H"), 4: (4, "I"), RATIONAL: (8, "II"), 13: (4, "I"), 16: (8, "Q"),
    18: (8, "Q"), 8: (2, ""), 9: (4, ""), 10: (8, ""), 11: (4, ""), 12: (8, ""),
}  # fmt: skip
MAX_PAGES, MAX_TAGS, MAX_VALUES = 1000, 4096, 4096

SUBFILE_TYPE, OLD_SUBFILE_TYPE, WIDTH, LENGTH, BITS, COMPRESSION = 254, 255, 256, 257, 258, 259
PHOTOMETRIC, FILL_ORDER, SAMPLES, BYTE_COUNTS, PLANAR = 262, 266, 277, 279, 284
TRANSFER, WHITE, PRIMARIES, COLOUR_MAP, INK_SET = 301, 318, 319, 320, 332
EXTRA_SAMPLES, SAMPLE_FORMAT, COEFFICIENTS, SUBSAMPLING, BLACK_WHITE = 338, 339, 529, 530, 532
DNG_VERSION, XMP, IPTC, PHOTOSHOP, PROFILE = 50706, 700, 33723, 34377, 34675
# Tags that say how the pixels are stored, not what they show. Photoshop's resources and the like of
# other programs are not among them.
STRUCTURAL = {*range(254, 302), *range(317, 348), *range(512, 533), 559, XMP, IPTC, PROFILE}

REDUCED, MASK = 1, 4  # bits of SUBFILE_TYPE
OLD_REDUCED = 2
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, TRANSPARENCY, CMYK, YCBCR, LAB = 0, 1, 2, 3, 4, 5, 6, 8
KIND_NAMES = {
    WHITE_IS_ZERO: "grey where 0 is white", BLACK_IS_ZERO: "grey", RGB: "RGB", PALETTE: "a palette",
    CMYK: "CMYK", YCBCR: "YCbCr", LAB: "CIELab", TRANSPARENCY: "transparency masks", 9: "ICCLab",
    10: "ITULab", 32844: "LogL", 32845: "LogLuv", 51177: "depth maps",
    32803: "a camera's raw samples", 34892: "a camera's raw samples",
}  # fmt: skip
READ_KINDS = {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB}
UNCOMPRESSED, OLD_JPEG, JPEG = 1, 6, 7
READ_COMPRESSIONS = {*range(1, 9), 32771, 32773, 32809, 32946, 34925, 50000}
COMPRESSION_NAMES = {34712: "JPEG 2000", 34887: "LERC", 50001: "WebP", 50002: "JPEG XL"}
ASSOCIATED = 1
SIGNED, FLOAT = 2, 3
LUMA = (Fraction(299, 1000), Fraction(587, 1000), Fraction(114, 1000))


@dataclass
class Directory:
    """One directory. ``tags``: type, number of values, and position of the values of each.
    ``is_big``: of a BigTIFF file."""

    stream: BinaryIO
    order: str
    tags: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    is_big: bool = False

    def values(self, tag: int, default: tuple = ()) -> tuple:
        """The numbers of a tag, at most MAX_VALUES; ``default`` if it has none."""
        kind, count, position = self.tags.get(tag, (0, 0, 0))
        size, code = TYPES.get(kind, (1, ""))
        if not code:
            return default
        self.stream.seek(position)
        data = self.stream.read(size * min(count, MAX_VALUES))
        found = struct.iter_unpack(self.order + code, data[: len(data) // size * size])
        if kind == RATIONAL:
            return tuple(Fraction(a, b) if b else Fraction(0) for a, b in found) or default
        return tuple(number for (number,) in found) or default

    def value(self, tag: int, default: int) -> int:
        """The first number of a tag."""
        return self.values(tag, (default,))[0]

    def size(self, tag: int) -> int:
        """The number of bytes that a tag says its values take."""
        kind, count, _ = self.tags.get(tag, (0, 0, 0))
        return TYPES.get(kind, (1, ""))[0] * count

    def content(self, tag: int, limit: int) -> bytes:
        """The bytes of a tag in the file, whatever its type; no more than ``limit``."""
        with suppress(KeyError, OSError, OverflowError, ValueError):  # none, or beyond any file
            self.stream.seek(self.tags[tag][2])
            return self.stream.read(min(self.size(tag), limit))
        return b""

    def within(self, tag: int) -> "Directory | None":
        """The directory that a tag points to; None if it is damaged or has no tags."""
        with suppress(struct.error, OSError, OverflowError, ValueError):
            position = self.value(tag, 0)
            return read_directory(self.stream, position, self.order, self.is_big)[0]
        return None

    @property
    def is_reduced(self) -> bool:
        """Whether its picture is a smaller one of another."""
        if SUBFILE_TYPE in self.tags:
            return bool(self.value(SUBFILE_TYPE, 0) & REDUCED)
        return self.value(OLD_SUBFILE_TYPE, 0) == OLD_REDUCED

    @property
    def is_mask(self) -> bool:
        """Whether its picture is the transparency of another."""
        is_marked = bool(self.value(SUBFILE_TYPE, 0) & MASK)
        return is_marked or self.value(PHOTOMETRIC, WHITE_IS_ZERO) == TRANSPARENCY

    @property
    def bits(self) -> tuple[int, ...]:
        samples = self.value(SAMPLES, 1)
        bits = self.values(BITS, (1,))
        return bits * min(samples, MAX_VALUES) if len(bits) == 1 else bits[:samples]

    @property
    def kind(self) -> str:
        """Name of its pixels, for messages."""
        photometric = self.value(PHOTOMETRIC, WHITE_IS_ZERO)
        name = KIND_NAMES.get(photometric, f"photometric kind {photometric}")
        extra = len(self.values(EXTRA_SAMPLES))
        more = f" with {extra} more channel{'s'[: extra > 1]}" if extra else ""
        return f"{name}{more} of {max(self.bits, default=1)} bits"

    @property
    def is_associated(self) -> bool:
        """Whether colours are multiplied with the alpha channel."""
        return self.values(EXTRA_SAMPLES)[:1] == (ASSOCIATED,)


def is_tiff(stream: BinaryIO) -> bool:
    """Whether a stream begins as a TIFF file; it is left at its beginning."""
    head = stream.read(4)
    stream.seek(0)
    order = BYTE_ORDERS.get(head[:2])
    if order is None or len(head) < 4:
        return False
    return struct.unpack(order + "H", head[2:])[0] in (TIFF, SWAPPED_TIFF, BIG_TIFF)


def read_directories(stream: BinaryIO) -> list[Directory]:
    """At most MAX_PAGES directories, up to a damaged one. ValueError for big-endian BigTIFF."""
    stream.seek(0)
    order = BYTE_ORDERS[stream.read(2)]
    (version,) = struct.unpack(order + "H", stream.read(2))
    is_big = version == BIG_TIFF
    if is_big and order == ">":
        raise ValueError("big-endian BigTIFF files are not read")
    found: list[Directory] = []
    visited = set()
    with suppress(struct.error, OSError, OverflowError, ValueError):  # cut short
        stream.seek(8 if is_big else 4)
        position = read_number(stream, order + "IQ"[is_big])
        while position and position not in visited and len(found) < MAX_PAGES:
            visited.add(position)
            directory, position = read_directory(stream, position, order, is_big)
            found.append(directory)
    return found


def read_directory(
    stream: BinaryIO, position: int, order: str, is_big: bool
) -> tuple[Directory, int]:
    """The directory at a position, its first MAX_TAGS tags, and the position of the next.
    struct.error, OSError, OverflowError or ValueError if it is cut short or has no tags."""
    count_code, code, size = ("Q", "Q", 20) if is_big else ("H", "I", 12)
    inline = struct.calcsize(order + code)  # bytes of values that need no place of their own
    stream.seek(position)
    count = read_number(stream, order + count_code)
    start = stream.tell()
    entries = stream.read(size * min(count, MAX_TAGS))
    tags = {}
    for at in range(0, len(entries) // size * size, size):
        tag, kind, number, place = struct.unpack_from(f"{order}HH{code}{code}", entries, at)
        width, _ = TYPES.get(kind, (1, ""))
        tags[tag] = kind, number, place if width * number > inline else start + at + size - inline
    if not tags:
        raise ValueError("a directory without tags")
    stream.seek(start + size * count)
    return Directory(stream, order, tags, is_big), read_number(stream, order + code)


def read_number(stream: BinaryIO, code: str) -> int:
    """A number, packed as ``code``. struct.error at the end of the stream."""
    return struct.unpack(code, stream.read(struct.calcsize(code)))[0]


def choose_page(pages: list[Directory], notices: list[str]) -> int:
    """The number of the first page that is no thumbnail and no mask. ValueError if there is none,
    as in cameras' raw files; OSError if there is no page at all."""
    if not pages:
        raise OSError("a damaged TIFF file")
    if DNG_VERSION in pages[0].tags:
        raise ValueError("a camera's raw file (DNG): develop it first, as with the package rawpy")
    whole = [n for n, page in enumerate(pages) if not page.is_reduced and not page.is_mask]
    if not whole:
        raise ValueError("a TIFF file of a thumbnail or mask alone")
    if len(whole) > 1:
        notices.append("only the first frame is kept")
    if any(page.is_mask for page in pages):
        notices.append("its transparency mask, a page of its own, is not kept")
    return whole[0]


def check_layout(page: Directory) -> None:
    """ValueError, naming what it is, for pixels that Pillow would misread."""
    photometric, bits = page.value(PHOTOMETRIC, WHITE_IS_ZERO), page.bits
    compression = page.value(COMPRESSION, UNCOMPRESSED)
    formats = set(page.values(SAMPLE_FORMAT, (1,)))
    if FLOAT in formats:
        raise ValueError("floating-point pixels have no agreed range")
    if formats != {1}:
        kind = "signed" if SIGNED in formats else "complex or undefined"
        raise ValueError(f"{kind} samples have no agreed range")
    if max(bits, default=1) > 16:
        raise ValueError(f"{max(bits)}-bit integers have no agreed range")
    if photometric not in READ_KINDS:
        raise ValueError(f"{page.kind} is not read")
    if compression not in READ_COMPRESSIONS:
        name = COMPRESSION_NAMES.get(compression, compression)
        raise ValueError(f"TIFF files of compression {name} are not read")
    if photometric == CMYK and page.value(INK_SET, 1) != 1:
        raise ValueError("inks other than CMYK are not read")
    is_reversed = page.value(FILL_ORDER, 1) == 2 and compression == UNCOMPRESSED
    has_planes = page.value(PLANAR, 1) == 2 and len(bits) > 1
    misread = {WHITE_IS_ZERO: [(8,)], PALETTE: [(1,), (2,), (4,)]}
    if is_reversed and (has_planes or bits in misread.get(photometric, [])):
        raise ValueError(f"{page.kind} in the reverse order is not read")
    check_planes(page, photometric, bits)
    if photometric == YCBCR:
        check_ycbcr(page, bits)
    if photometric in (RGB, YCBCR) and BLACK_WHITE in page.tags:
        top = 2 ** bits[0] - 1
        middle = 2 ** (bits[0] - 1) if photometric == YCBCR else 0
        if page.values(BLACK_WHITE) != (0, top, middle, top, middle, top):
            raise ValueError("black and white other than 0 and the largest are not read")


def check_planes(page: Directory, photometric: int, bits: tuple[int, ...]) -> None:
    """ValueError for channels one after the other in a layout that Pillow would misread."""
    if page.value(PLANAR, 1) != 2 or len(bits) == 1:
        return
    has_alpha = any(page.values(EXTRA_SAMPLES))
    plain = photometric in (RGB, CMYK) or (photometric == BLACK_IS_ZERO and not has_alpha)
    has_more = has_alpha and len(page.values(EXTRA_SAMPLES)) > 1
    usual = {RGB: 3, CMYK: 4}.get(photometric, 1) + len(page.values(EXTRA_SAMPLES))
    if not plain or list(bits) != usual * [8] or page.is_associated or has_more:
        raise ValueError(f"separate planes of {page.kind} are not read")


def check_ycbcr(page: Directory, bits: tuple[int, ...]) -> None:
    """ValueError for luma and chroma that Pillow would misread: it takes uncompressed ones for as
    many of each, and knows the coefficients of JPEG only."""
    compression = page.value(COMPRESSION, UNCOMPRESSED)
    luma = page.values(COEFFICIENTS, LUMA)
    usual = len(luma) == 3 and all(abs(a - b) < 0.001 for a, b in zip(luma, LUMA))
    if compression in (UNCOMPRESSED, OLD_JPEG, JPEG) and not usual:
        raise ValueError("YCbCr of other coefficients than JPEG's is not read")
    if compression == UNCOMPRESSED and len(bits) > 1:
        pixels = page.value(WIDTH, 0) * page.value(LENGTH, 0)
        whole = sum(page.values(BYTE_COUNTS)) >= 3 * pixels and BYTE_COUNTS in page.tags
        if page.values(SUBSAMPLING, (2, 2)) != (1, 1) and not (
            SUBSAMPLING not in page.tags and whole
        ):
            raise ValueError("uncompressed YCbCr with subsampled chroma is not read")


def palette(page: Directory) -> bytes | None:
    """The colours of a palette, 8-bit RGB; None if it has none, or an odd number."""
    levels = page.values(COLOUR_MAP)
    size = len(levels) // 3
    if not levels or len(levels) % 3:
        return None
    if max(levels) < 256:  # 8 bits, as old programs wrote
        scaled = list(levels)
    elif not any(level & 255 for level in levels):  # 8 bits, shifted
        scaled = [level >> 8 for level in levels]
    else:
        scaled = [(level * 255 + 32767) // 65535 for level in levels]
    return bytes(scaled[n + size * channel] for n in range(size) for channel in range(3))
