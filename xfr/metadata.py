"""What a file says about a picture: colour profile, EXIF, XMP and resolution."""

import math
import re
import struct
from dataclasses import dataclass

from PIL import Image, PngImagePlugin

PREFIX = b"Exif\0\0"  # stands before EXIF in some formats
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
ORIENTATION, EXIF_IFD, GPS_IFD, INTEROP_IFD, XMP_TAG = 0x112, 0x8769, 0x8825, 0xA005, 700
THUMBNAILS = ((0x201, 0x202), (0x111, 0x117))  # offset and length: as JPEG, as pixels
# The tags that describe the picture, and not how a TIFF file stores it: title, camera, software,
# date, artist, computer, rating, copyright, and those of Windows.
DESCRIPTIVE = {269, 270, 271, 272, 285, 305, 306, 315, 316, 0x4746, 0x4749, 33432}
DESCRIPTIVE |= {EXIF_IFD, GPS_IFD, *range(0x9C9B, 0x9CA0)}
XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:=[\"']|>))[0-9]")
LABELS = {"icc": "colour profile", "exif": "EXIF", "xmp": "XMP", "dpi": "resolution"}


@dataclass(frozen=True)
class Metadata:
    """``icc``: the profile of the pixels. ``exif``: a TIFF structure, without the prefix that some
    formats put before it. ``xmp``: XML. ``dpi``: pixels per inch across and down, of float32
    precision."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None

    def stripped(self) -> "Metadata":
        """Only what the colours need: no EXIF, XMP and resolution."""
        return Metadata(icc=self.icc)


NO_METADATA = Metadata()


def read_metadata(image: Image.Image, notices: list[str]) -> Metadata:
    """The metadata of a picture that is opened, but not loaded: this loads it, since a file may
    hold them behind the pixels. What is dropped is added to ``notices``.

    EXIF and XMP are those of a picture that has been turned as they say.
    """
    rebuilt = tiff_exif(image) if image.format == "TIFF" else None
    image.load()
    exif, xmp, dpi = rebuilt or image.info.get("exif"), image.info.get("xmp"), None
    if exif:
        try:
            exif = upright(re.sub(b"^(%b)+" % PREFIX, b"", exif))
        except ValueError:
            notices.append("its EXIF is damaged: dropped")
            exif = image.info["exif"] = None
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    xmp = XMP_ORIENTATION.sub(rb"\g<1>1", xmp) if isinstance(xmp, bytes) else None
    try:
        dpi = struct.unpack(">ff", struct.pack(">ff", *image.info["dpi"]))
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError, struct.error):
        pass  # there is none, or what is there is none
    if dpi and (dpi == (1, 1) or not is_resolution(dpi)):  # Pillow has 1 where a TIFF has none
        dpi = None
    return Metadata(image.info.get("icc_profile") or None, exif or None, xmp or None, dpi)


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


def upright(exif: bytes) -> bytes:
    """EXIF of a picture that was turned as it says: with orientation 1, and without its thumbnail.

    Everything else stays byte for byte where it is: makers' notes contain offsets that would
    otherwise be wrong. ValueError if the EXIF is damaged.
    """
    order = BYTE_ORDERS.get(exif[:4])
    if order is None:
        raise ValueError("damaged EXIF: it does not begin with a byte order")
    out = bytearray(exif)
    try:
        (first,) = struct.unpack_from(order + "I", exif, 4)
        entries, end = directory(exif, order, first)
        for tag, position in entries:
            if tag == ORIENTATION:
                struct.pack_into(order + "HHIHH", out, position, ORIENTATION, 3, 1, 1, 0)
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
    """Whether all values are there and together take no more bytes than the EXIF has. In a hostile
    one, thousands of tags may share one long value, and Pillow would copy it for each."""
    order = BYTE_ORDERS.get(exif[:4])
    if order is None:
        return False
    taken = 0
    try:
        starts = [struct.unpack_from(order + "I", exif, 4)[0]]
        for start in starts:
            for tag, position in directory(exif, order, start)[0]:
                kind, count, value = struct.unpack_from(order + "2xHII", exif, position)
                size = TYPE_BYTES.get(kind, 1) * count
                taken += max(size, 4)
                if taken > len(exif) or (size > 4 and value + size > len(exif)):
                    return False
                if tag in (EXIF_IFD, GPS_IFD, INTEROP_IFD):
                    starts.append(value)
    except struct.error:
        return False
    return True


def descriptive(exif: bytes) -> Image.Exif:
    """EXIF without what says how a file stores its pixels."""
    parsed = Image.Exif()
    parsed.load(exif)
    for tag in set(parsed) - DESCRIPTIVE:
        del parsed[tag]
    return parsed


def tiff_exif(image: Image.Image) -> bytes | None:
    """The EXIF of a TIFF file, which is spread over its own tags."""
    try:
        parsed = descriptive(image.getexif().tobytes())
        return parsed.tobytes() if len(parsed) else None
    except Exception:  # Pillow may raise nearly anything on a damaged one
        return PREFIX


# Writing


def save_options(name: str, metadata: Metadata) -> dict:
    """The options of Pillow's ``save`` that write metadata in the format ``name``. Formats ignore
    what they have no place for; ValueError, or another exception of Pillow, if they do not take
    what they get."""
    options = {"icc_profile": metadata.icc, "dpi": metadata.dpi, "xmp": metadata.xmp}
    if metadata.exif is not None:
        options["exif"] = PREFIX + metadata.exif
    if name == "PNG" and metadata.xmp is not None:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
    if name == "TIFF":
        usable = metadata.exif is not None and is_well_formed(metadata.exif)
        options["exif"] = descriptive(PREFIX + metadata.exif) if usable else Image.Exif()
        if metadata.xmp is not None:
            options["exif"][XMP_TAG] = metadata.xmp
    return {key: value for key, value in options.items() if value is not None}
