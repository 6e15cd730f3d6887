"""Files of pictures: opened with Pillow, and read here where Pillow leaves something out.

``open_picture`` puts what each format says beside the pixels under the same names into the image's
``info``: icc_profile, exif, xmp and iptc in bytes, texts in pairs of keyword and text, and dpi.
"""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import PurePath
from typing import Any, BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from xfr import tiff
from xfr.boxes import add_boxes, check_components, component_bits
from xfr.colour import (
    SRGB_CURVE,
    SRGB_PRIMARIES,
    UNSPECIFIED,
    check_profile,
    coded_profile,
    profile,
)
from xfr.formats import normalize_extension, open_with_pillow
from xfr.jxl import add_jxl
from xfr.layouts import CHECKS, ppm_bits
from xfr.metadata import DESCRIPTIVE, EXIF_PREFIX, tiff_exif
from xfr.png import PALETTE_TYPE, PngFile, Spans, is_png, read_png
from xfr.samples import Samples
from xfr.text import COMMENT, IPTC_RESOURCE, PHOTOSHOP_PREFIX, RAW_PROFILE, iptc_of, raw_profile

XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
LONG_XMP_PREFIX = b"http://ns.adobe.com/xmp/extension/"
# Segments of JPEG files that are read, or say how the pixels are stored.
JPEG_SEGMENTS = (
    ("APP0", b"JFIF"), ("APP0", b"JFXX"), ("APP1", EXIF_PREFIX), ("APP1", XMP_PREFIX),
    ("APP2", b"ICC_PROFILE\0"), ("APP2", b"MPF\0"), ("APP13", PHOTOSHOP_PREFIX),
    ("APP14", b"Adobe"), ("APP12", b"Ducky"), ("COM", b""),
)  # fmt: skip
PSD_RESOURCES = {1058: "exif", 1060: "xmp", IPTC_RESOURCE: "iptc"}
PSD_RESOLUTION, PSD_TRANSPARENT = 1005, 1047
PSD_DUOTONE = 8
MAX_BLOCK = 1 << 24  # bytes of metadata
JPEG_END = b"\xff\xd9"
GIF_XMP, GIF_XMP_END = b"\x21\xff\x0bXMP DataXMP", b"\x01\xff\xfe"
GIF_COMMENT, GIF_ICC = 0xFE, b"ICCRGBG1012"
JFIF_INCHES, JFIF_CENTIMETRES = 1, 2
UNKEPT_TIFF = {tiff.PRIMARIES, tiff.WHITE, tiff.TRANSFER}  # colours: noted of their own


def open_picture(stream: BinaryIO, name: str, notices: list[str]) -> tuple[Image.Image, Samples]:
    """Open a seekable stream; its pixels are not loaded. What is not kept is added to ``notices``.
    ``name`` of the file: its extension matters where the content does not tell the format. Raises
    OSError or ValueError if the file cannot be read."""
    if is_png(stream):
        return open_png(stream, notices)
    if tiff.is_tiff(stream):
        return open_tiff(stream, notices)
    image = open_with_pillow(stream, normalize_extension(PurePath(name).suffix))
    if image.format == "ICO":
        inner = largest_in_icon(image, stream)
        if is_png(inner):
            return open_png(inner, notices)
    shown = image.tell()
    if image.format != "PSD" and getattr(image, "n_frames", 1) > 1:
        kept = "its primary picture" if shown else "the first frame"  # of HEIC
        notices.append(f"only {kept} is kept")
        image.seek(shown)
    readers: dict[str, Callable[[Image.Image, BinaryIO, list[str]], None]] = {
        "JPEG": add_jpeg, "MPO": add_jpeg, "GIF": add_gif, "PSD": add_psd, "BMP": add_bmp,
        "AVIF": add_boxes, "HEIF": add_boxes, "JPEG2000": add_boxes, "JXL": add_jxl, "QOI": add_qoi,
    }  # fmt: skip
    bits = 0
    position = stream.tell()
    if image.format == "JPEG2000":
        components = component_bits(stream)
        check_components(image, components)
        bits = max(components)
    if image.format == "PPM":
        bits = ppm_bits(image)
    if image.format in CHECKS:
        CHECKS[image.format](image, stream, notices)
    if image.format in readers:
        readers[image.format](image, stream, notices)
    stream.seek(position)
    return image, Samples(bits)


def largest_in_icon(image: Any, stream: BinaryIO) -> BinaryIO:
    """Open the largest picture of an icon, of several the one with the most bits: ``image`` and the
    stream that is returned are that one."""
    entries = image.ico.entry
    best = max(entries, key=lambda entry: (entry.square, entry.color_depth))
    if best is not entries[0]:
        entries.insert(0, entries.pop(entries.index(best)))
        image._im = None
        image.load()
    return io.BufferedReader(Spans(stream, [(best.offset, best.offset + best.size)]))


# PNG


def open_png(stream: BinaryIO, notices: list[str]) -> tuple[Image.Image, Samples]:
    """A PNG file; see ``open_picture``."""
    png = read_png(stream, notices)

    def open_pixels() -> Image.Image:
        try:
            return Image.open(png.pixels(), formats=["PNG"])
        except UnidentifiedImageError:
            raise OSError("a damaged PNG file") from None

    image = open_pixels()
    if png.colour_type == PALETTE_TYPE and image.palette is None:
        raise OSError("a damaged PNG file: it has no palette")
    if png.frames > 1:
        notices.append("only the first frame is kept")
    image.info |= png_texts(png, notices)
    grey = png.colour_type in (0, 4)
    icc = png_profile(png, grey, notices)
    if icc is not None:
        image.info["icc_profile"] = icc
    if b"eXIf" in png.chunks:
        image.info["exif"] = png.chunks[b"eXIf"]
    across, down, unit = png.pixels_per_unit
    if unit == 1:
        image.info["dpi"] = across * 0.0254, down * 0.0254
    elif across != down:
        notices.append(f"its pixels are not square ({across}:{down}), which is not kept")
    return image, Samples(png.bits, png.transparent, reopen=open_pixels)


def png_profile(png: PngFile, grey: bool, notices: list[str]) -> bytes | None:
    """The profile of a PNG file's colours: the first of cICP, iCCP, sRGB, gAMA and cHRM."""
    icc = None
    try:
        icc = png.profile
        if icc is not None:
            check_profile(icc, "L" if grey else "RGB")
    except ValueError as error:
        icc = None
        notices.append(str(error))
    code = png.chunks.get(b"cICP", b"")
    if len(code) >= 4 and code[:2] != bytes([UNSPECIFIED, UNSPECIFIED]):
        try:
            return coded_profile(code[0], code[1], code[3] == 1, grey)
        except ValueError as error:
            notices.append(str(error))
    if icc or b"sRGB" in png.chunks:
        return icc
    gamma, numbers = png.number(b"gAMA", ">I", 0), png.chromaticities
    if b"gAMA" in png.chunks and not gamma:
        notices.append("its gAMA chunk is damaged: dropped")
    if not gamma and numbers is None:
        return None
    curve = (100_000 / gamma,) if gamma else SRGB_CURVE
    try:
        return profile(numbers or SRGB_PRIMARIES, curve, grey)
    except ValueError:
        notices.append("its gAMA and cHRM chunks mean nothing: dropped")
        return None


def png_texts(png: PngFile, notices: list[str]) -> dict[Any, Any]:
    """The ``info`` of the texts of a PNG file."""
    info: dict[Any, Any] = {}
    texts = []
    for keyword, text in png.texts:
        if keyword == "XML:com.adobe.xmp":
            info["xmp"] = text.encode()
        elif keyword.startswith(RAW_PROFILE):
            kind = keyword.removeprefix(RAW_PROFILE).lower()
            label = {"exif": "EXIF", "app1": "EXIF", "xmp": "XMP", "iptc": "IPTC"}.get(kind, kind)
            try:
                if not add_raw_profile(info, kind, raw_profile(text)):
                    notices.append(f"its text of {label[:20]} is not kept")
            except ValueError:
                notices.append(f"its {label[:20]} is damaged: dropped")
        else:
            texts.append((keyword, text))
    if texts:
        info["texts"] = texts
    return info


def add_raw_profile(info: dict[Any, Any], kind: str, data: bytes) -> bool:
    """Add metadata that ImageMagick wrote as text; False for a kind that is not kept."""
    if kind == "app1":
        kind = "xmp" if data.startswith(XMP_PREFIX) else "exif"
    name = {"xmp": "xmp", "exif": "exif", "icc": "icc_profile", "icm": "icc_profile"}.get(kind)
    if name is not None:
        info[name] = data.removeprefix(XMP_PREFIX)
    elif kind in ("iptc", "8bim") and iptc_of(data):
        info["iptc"] = iptc_of(data)
    else:
        return False
    return True


# TIFF


def open_tiff(stream: BinaryIO, notices: list[str]) -> tuple[Image.Image, Samples]:
    """A TIFF file; see ``open_picture``. Pillow turns its pixels itself."""
    pages = tiff.read_directories(stream)
    number = tiff.choose_page(pages, notices)
    page = pages[number]
    tiff.check_layout(page)

    def open_page() -> Image.Image:
        stream.seek(0)
        try:
            image: Any = Image.open(stream, formats=["TIFF"])
            image.seek(number)
            if len(page.bits) == 1:  # Pillow would look for more planes
                image.tag_v2[tiff.PLANAR] = 1
                image._setup()
        except (UnidentifiedImageError, SyntaxError, EOFError):
            raise ValueError(f"TIFF files of {page.kind} are not read") from None
        return image

    image = open_page()
    colours = tiff.palette(page) if image.mode in ("P", "PA") else None
    resources = page.content(tiff.PHOTOSHOP, MAX_BLOCK)
    image.info |= {
        "icc_profile": page.content(tiff.PROFILE, MAX_BLOCK + 1),
        "exif": tiff_exif(page, notices),
        "xmp": page.content(tiff.XMP, MAX_BLOCK + 1),
        "iptc": page.content(tiff.IPTC, MAX_BLOCK + 1) or iptc_of(resources),
    }
    notices += tiff_losses(image, page)
    inverted = page.value(tiff.PHOTOMETRIC, tiff.WHITE_IS_ZERO) == tiff.WHITE_IS_ZERO
    bits = max(page.bits, default=1)
    return image, Samples(bits, None, inverted, page.is_associated, colours, open_page)


def tiff_losses(image: Image.Image, page: tiff.Directory) -> list[str]:
    """Notices of what is not kept of a page."""
    notices = []
    if len(page.values(tiff.EXTRA_SAMPLES)) > 1 or page.values(tiff.EXTRA_SAMPLES) == (0,):
        notices.append("its channels beyond colour and alpha are not kept")
    if UNKEPT_TIFF & page.tags.keys():
        notices.append("its TIFF tags of primaries and transfer function are not kept")
    if tiff.PROFILE in page.tags and not image.info.get("icc_profile"):
        notices.append("its colour profile is damaged: dropped")
    structural = tiff.STRUCTURAL - {290, 291}  # the curve of grey is not kept
    if other := sorted(page.tags.keys() - structural - DESCRIPTIVE - {tiff.PHOTOSHOP})[:5]:
        notices.append(f"its TIFF tags {', '.join(map(str, other))} are not kept")
    across, down = image.info.get("resolution", (1, 1))
    if across != down and "dpi" not in image.info:
        notices.append("its pixels are not square, which is not kept")
    return notices


# Others


def add_jpeg(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Comments, IPTC and what is wrong or not kept of a JPEG file."""
    texts = [decoded(data) for kind, data in image.applist if kind == "COM"]
    if texts:
        image.info["texts"] = [(COMMENT, text) for text in texts]
    parts = [data for _, data in image.applist if data.startswith(PHOTOSHOP_PREFIX)]
    iptc = iptc_of(b"".join(data.removeprefix(PHOTOSHOP_PREFIX) for data in parts))
    if iptc:
        image.info["iptc"] = iptc
    elif image.info.get("photoshop", {}).get(IPTC_RESOURCE):
        notices.append("its IPTC is damaged: dropped")
    stream.seek(max(0, stream.seek(0, 2) - MAX_BLOCK))
    if stream.read().rpartition(JPEG_END)[2].strip(b"\0\r\n"):
        notices.append("the data behind its end, such as a video, are not kept")
    if "icc_profile" in image.info and not image.info["icc_profile"]:
        notices.append("its colour profile is damaged: dropped")
    if any(data.startswith(LONG_XMP_PREFIX) for _, data in image.applist):
        notices.append("the second part of its XMP is not kept")
    if b"hdrgm:" in (image.info.get("xmp") or b""):
        notices.append("its gain map (HDR) is not kept")
    unknown = {
        kind for kind, data in image.applist
        if not any(kind == known and data.startswith(start) for known, start in JPEG_SEGMENTS)
        and not data.startswith(LONG_XMP_PREFIX)
    }  # fmt: skip
    if unknown:
        notices.append(f"its segments {', '.join(sorted(unknown))} are not kept")
    if image.info.get("jfif_unit") not in (JFIF_INCHES, JFIF_CENTIMETRES):
        image.info["dpi"] = exif_resolution(image)
    across, down = image.info.get("jfif_density", (1, 1))
    if image.info.get("jfif_unit") == 0 and across != down:
        notices.append(f"its pixels are not square ({across}:{down}), which is not kept")


def exif_resolution(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch, across and down, that EXIF tells; None if it tells none."""
    with suppress(struct.error, KeyError, SyntaxError, TypeError, ValueError, ZeroDivisionError):
        exif, tags = image.getexif(), ExifTags.Base
        inches = {2: 1.0, 3: 2.54}[exif.get(tags.ResolutionUnit, 2)]  # per unit
        return inches * float(exif[tags.XResolution]), inches * float(exif[tags.YResolution])
    return None


def add_gif(image: Image.Image, stream: BinaryIO, notices: list[str]) -> None:
    """Comments, profile and XMP of a GIF file."""
    comments = []
    for label, content in gif_extensions(stream):
        if label == GIF_COMMENT:
            comments.append(content)
        elif content.startswith(GIF_ICC):
            image.info["icc_profile"] = content.removeprefix(GIF_ICC)
    if any(comments):
        image.info["texts"] = [(COMMENT, decoded(b"\n".join(comments)))]
    stream.seek(0)
    data = stream.read(MAX_BLOCK)
    start = data.find(GIF_XMP)
    stop = data.find(GIF_XMP_END, start)
    if 0 <= start < stop:
        image.info["xmp"] = data[start + len(GIF_XMP) : stop]
    if data[12:13] not in (b"\0", b"\x31"):  # 49: 1 to 1
        notices.append("its pixels are not square, which is not kept")


def gif_extensions(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Label and content of each extension of a GIF file. A damaged block is the end."""
    stream.seek(10)
    flags = stream.read(3)[0]
    stream.seek((flags >> 7) * (6 << (flags & 7)), 1)  # a palette
    while (kind := stream.read(1)) in (b"!", b","):
        head = stream.read(1 if kind == b"!" else 9).ljust(9, b"\0")
        if kind == b",":
            stream.seek((head[8] >> 7) * (6 << (head[8] & 7)) + 1, 1)
        content = b"".join(iter(lambda: stream.read(int.from_bytes(stream.read(1), "big")), b""))
        if kind == b"!":
            yield head[0], content


def add_psd(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Metadata and the transparent colour of a palette, among the resources of Photoshop."""
    stream.seek(24)
    if int.from_bytes(stream.read(2), "big") == PSD_DUOTONE:
        notices.append("its duotone inks are not kept, but its grey")
    if image.n_frames:
        notices.append("its layers are not kept, but what they show together")
    for number, _, data in image.resources:
        if number in PSD_RESOURCES:
            image.info[PSD_RESOURCES[number]] = data
        elif number == PSD_RESOLUTION and len(data) >= 12:
            across, down = struct.unpack_from(">I4xI", data)
            image.info["dpi"] = across / 65536, down / 65536
        elif number == PSD_TRANSPARENT and image.mode == "P" and data[:1] == b"\0":
            image.info["transparency"] = int.from_bytes(data[:2], "big")


def add_qoi(image: Image.Image, stream: BinaryIO, notices: list[str]) -> None:
    """A profile of linear colours for a QOI file that says so."""
    stream.seek(13)
    if stream.read(1) == b"\1":
        image.info["icc_profile"] = profile(SRGB_PRIMARIES, (1.0,), False)


def add_bmp(image: Image.Image, stream: BinaryIO, notices: list[str]) -> None:
    """Colours of a BMP file of version 4 or 5."""
    stream.seek(0)
    head = stream.read(14 + 124)
    size = int.from_bytes(head[14:18], "little")
    if size not in (108, 124) or len(head) < 14 + size:
        return
    kind = head[14 + 56 : 14 + 60][::-1]
    if kind == b"MBED" and size == 124:
        start = 14 + int.from_bytes(head[14 + 112 : 14 + 116], "little")
        length = int.from_bytes(head[14 + 116 : 14 + 120], "little")
        stream.seek(start)
        data = stream.read(min(length, MAX_BLOCK))
        if len(data) == length:
            image.info["icc_profile"] = data
    elif kind == b"LINK" or (kind == bytes(4) and any(head[14 + 60 : 14 + 108])):
        notices.append("its colour space is not kept")


def decoded(data: bytes) -> str:
    """A comment, which is UTF-8 or Latin-1."""
    data = data.rstrip(b"\0")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
