"""Picture formats: which are read, which are written, and what would read the others."""

import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from xfr.jxl import read_jxl_header

# Pillow's names of the formats that are read. Left out are those that start a program (EPS), that
# open a file within in any format (IPTC, FPX, MIC), that hold no pixels Pillow decodes (WMF, MPEG,
# BUFR, GRIB, HDF5), that hold measurements (FITS, MCIDAS, SPIDER), and old ones that Pillow
# misreads or reads in part (BLP, CUR, FLI, FTEX, IM, IMT, PCD, SUN, XBM, XPM, XVTHUMB). The first
# that accepts a file opens it: those with a signature go first.
FORMATS = [
    "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF", "HEIF", "JXL", "JPEG2000",
    "DCX", "DDS", "DIB", "GBR", "ICNS", "ICO", "MSP", "PCX", "PIXAR", "PSD", "QOI", "SGI", "TGA",
]  # fmt: skip
ALIASES = {"jpeg": "jpg", "tif": "tiff"}
JPEG_EXTENSIONS = {"mpo"}  # that Pillow does not list as readable
# Formats that a package adds to Pillow: its module, its name, and the extensions.
PACKAGES = {
    "HEIF": ("pillow_heif", "pillow-heif", ("heic", "heif", "heics", "heifs", "hif")),
    "JXL": ("pillow_jxl", "pillow-jxl-plugin", ("jxl",)),
}
RAW_EXTENSIONS = set(
    "3fr ari arw bay cap cr2 cr3 crw cs1 dcr dng dcs drf eip erf fff iiq k25 kdc mdc mef mos mrw "
    "nef nrw orf pef ptx pxn r3d raf raw rw2 rwl rwz sr2 srf srw x3f".split()
)
VECTOR_GRAPHICS = "vector graphics: export a png"
VIDEO_THUMBNAIL = "thm"  # a JPEG file that cameras put beside a video
RENAMING_NEEDED = "a picture without a picture's extension: rename it"
EXPORT_NEEDED = "not a format that is read: export a png"
UNREAD_EXTENSIONS = {
    **dict.fromkeys("eps ps ai svg svgz wmf emf cdr".split(), VECTOR_GRAPHICS),
    **dict.fromkeys("exr hdr pfs".split(), "high dynamic range: export a png"),
    **dict.fromkeys("xcf kra psb afphoto clip".split(), EXPORT_NEEDED),
    **dict.fromkeys("jxr wdp hdp flif bpg djvu fpx mic pam".split(), EXPORT_NEEDED),
    **dict.fromkeys("blp cur fits fli flc ftc ftu im pcd ras xbm xpm".split(), EXPORT_NEEDED),
}
# Pillow logs some of the errors that it raises; without a handler, Python would print them.
logging.getLogger("PIL").addHandler(logging.NullHandler())
HEAD_BYTES = 64  # enough to tell a format
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
JXL_BEGINNINGS = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
RAW_BEGINNINGS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")
CANON_CR2, CANON_CR3 = b"CR\2", b"ftypcrx "
PSD_BEGINNING, PSB_BEGINNING = b"8BPS", b"8BPS\0\2"
JPEG_BEGINNING = b"\xff\xd8\xff"
# Beginnings that pictures alone have. Those of BMP, PPM and others are too short for that.
PICTURE_BEGINNINGS = (
    b"\x89PNG", JPEG_BEGINNING, b"GIF8", b"II*\0", b"MM\0*", b"qoif", b"DDS ", PSD_BEGINNING,
)  # fmt: skip
PICTURE_BRANDS = (b"WEBP", b"avif", b"\r\n\x87\n")  # 8 bytes later; the last of JPEG 2000
POSTSCRIPT_BEGINNINGS = (b"%!PS", b"\xc5\xd0\xd3\xc6")


def normalize_extension(extension: str) -> str:
    """``.JPEG`` to ``jpg``: without dot and case, one spelling for each format."""
    extension = extension.lower().lstrip(".")
    return ALIASES.get(extension, extension)


def is_installed(name: str) -> bool:
    """Whether the package that adds the format ``name`` to Pillow is there."""
    return find_spec(PACKAGES[name][0]) is not None


def readable_extensions() -> set[str]:
    """The normalized extensions of all formats that are read."""
    found = {
        normalize_extension(extension)
        for extension, name in Image.registered_extensions().items()
        if name in FORMATS and name in Image.OPEN
    }
    added = (PACKAGES[name][2] for name in PACKAGES if is_installed(name))
    return found.union(JPEG_EXTENSIONS, *added)


def needed_package(head: bytes) -> str | None:
    """The format of PACKAGES that a file is in, by its first bytes."""
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS and b"avif" not in head[16:]:
        return "HEIF"
    return "JXL" if head.startswith(JXL_BEGINNINGS) else None


def unreadable_reason(path: Path) -> str | None:
    """Reason why a picture is left out, and what would read it; None for a file that is read, or is
    no known picture. Both are told by its first bytes, and by its extension."""
    extension = normalize_extension(path.suffix)
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError:
        return None  # reading it says why
    reason = reason_by_content(head, extension)
    is_known = head.startswith(PICTURE_BEGINNINGS) or head[8:12] in PICTURE_BRANDS
    is_named = extension in readable_extensions() or extension == VIDEO_THUMBNAIL
    if reason is None and not is_named and (is_known or needed_package(head)):
        return RENAMING_NEEDED
    return reason


def reason_by_content(head: bytes, extension: str) -> str | None:
    """``unreadable_reason``, from the first HEAD_BYTES bytes of a file."""
    named = (name for name, (_, _, extensions) in PACKAGES.items() if extension in extensions)
    package = needed_package(head) or next(named, None)
    if package is not None:
        needs = f"{package}: needs the package {PACKAGES[package][1]}"
        return None if is_installed(package) else needs
    raw = head.startswith(RAW_BEGINNINGS) or head[8:11] == CANON_CR2 or head[4:12] == CANON_CR3
    if raw or extension in RAW_EXTENSIONS:
        return "a camera's raw file: develop it first, as with the package rawpy"
    if head.startswith(POSTSCRIPT_BEGINNINGS):
        return VECTOR_GRAPHICS
    return UNREAD_EXTENSIONS.get(extension)


def open_with_pillow(stream: BinaryIO, extension: str = "") -> Image.Image:
    """Open a stream, from its beginning, in one of FORMATS. Raises OSError if it is in none."""
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    package = needed_package(head)
    if package is not None and is_installed(package):
        module = import_module(PACKAGES[package][0])  # adds it to Pillow, or brings what does
        if package == "HEIF":
            module.register_heif_opener()
    if package == "JXL":
        check_jxl_size(stream)
    known = [
        name for name in FORMATS
        if name not in PACKAGES or (name == package and name in Image.OPEN)
    ]  # fmt: skip
    try:
        return Image.open(stream, formats=known)
    except NotImplementedError:  # of DDS alone
        raise OSError("DDS files of this pixel format are not read") from None
    except UnidentifiedImageError:
        raise OSError(reason_by_content(head, extension) or unopened_reason(head)) from None


def unopened_reason(head: bytes) -> str:
    """The reason why Pillow does not open a file, from its first HEAD_BYTES bytes."""
    if not head:
        return "an empty file"
    if head.startswith(JPEG_BEGINNING):
        return "a damaged JPEG file"
    if head.startswith(PSB_BEGINNING):
        return "Photoshop's large documents (PSB) are not read: export a png"
    if head.startswith(PSD_BEGINNING):
        return f"Photoshop's pictures of {int.from_bytes(head[22:24], 'big')} bits are not read"
    return "not a picture of a kind that is read"


def check_jxl_size(stream: BinaryIO) -> None:
    """DecompressionBombError for too many pixels: the plugin decodes them before Pillow looks."""
    header, limit = read_jxl_header(stream), Image.MAX_IMAGE_PIXELS
    stream.seek(0)
    if limit is not None and header.width * header.height > 2 * limit:
        raise Image.DecompressionBombError
