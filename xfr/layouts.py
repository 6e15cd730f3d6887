"""Layouts of BMP, DDS, GIF, ICO, PPM, PSD, SGI, TGA and WebP files that Pillow misreads: set right,
or refused by name with a ValueError.

Each function takes a picture that Pillow has opened and not loaded, its stream, and notices, to
which it adds what is not kept.
"""

import struct
from typing import Any, BinaryIO

from PIL import ImagePalette

from xfr.samples import set_raw_mode

BLACK_WHITE_MODES = {4: "P;4", 8: "P"}  # raw modes of BMP by the bits of a pixel
BMP_ALPHA_SIZES = (56, 108, 124)  # of headers that have a mask of alpha
TOP_BIT = 0x8000
PSD_BITMAP, PSD_MULTICHANNEL = 0, 7
DDS_MISREAD = {"BC5S", "BC6H", "BC6HS"}  # signed samples, and samples in floating point
DDS_SEVERAL, DDS_PREMULTIPLIED = 0x200200, 2  # faces of a cube, or slices of a volume
TGA_COLOURS = (2, 10)  # kinds of pictures without a palette or grey
TGA_PALETTE, TGA_INTERLEAVED = 1, 0xC0
TGA_NO_ALPHA, TGA_PREMULTIPLIED = (0, 1, 2), 4  # kinds of alpha
TGA_2_END = b"TRUEVISION-XFILE.\0"
WEBP_CHUNKS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP "}
MAX_CHUNKS = 10_000
ONLY_THE_FIRST = "only the first picture is kept"


def check_bmp(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Read the top bit of 16-bit pixels as alpha, which Pillow leaves out."""
    stream.seek(14)
    head = stream.read(56).ljust(56, b"\0")
    size, bits, compression, alpha = struct.unpack("<I10xHI32xI", head)
    if image.mode == "1" and bits in BLACK_WHITE_MODES and image.tile[0].codec_name == "raw":
        # Pillow takes each byte for eight bits where the palette is black and white.
        set_raw_mode(image, "P", BLACK_WHITE_MODES[bits])
        image.palette = ImagePalette.raw("RGB", bytes(3) + b"\xff" * 3)
    if size in BMP_ALPHA_SIZES and bits == 16 and compression == 3 and alpha == TOP_BIT:
        set_raw_mode(image, "RGBA", "BGRA;15")


def check_dds(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Refuse channels of other than 8 bits, which Pillow cuts where they are to be rounded, and
    colours multiplied with alpha."""
    decoder, _, _, arguments = image.tile[0]
    narrow = decoder == "dds_rgb" and any(mask.bit_count() not in (0, 8) for mask in arguments[1])
    if narrow or (decoder == "bcn" and arguments[1] in DDS_MISREAD):
        raise ValueError("DDS files of other than 8 bits per channel are not read")
    stream.seek(0)
    head = stream.read(148).ljust(148, b"\0")
    code, surfaces, count, alpha = struct.unpack("<84x4s24xI24xII", head)
    if code == b"DX10" and alpha & 7 == DDS_PREMULTIPLIED:
        raise ValueError("DDS files of colours multiplied with alpha are not read")
    if surfaces & DDS_SEVERAL or (code == b"DX10" and count > 1):
        notices.append(ONLY_THE_FIRST)


def check_gif(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Refuse a first frame smaller than the picture: Pillow surrounds it by any of its colours."""
    if image.tile and image.tile[0].extents != (0, 0, *image.size):
        raise ValueError("GIF files whose first frame does not fill the picture are not read")


def check_ico(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Refuse pixels of 16 bits: Pillow cuts them where they are to be rounded."""
    for entry in image.ico.entry:
        stream.seek(entry.offset + 14)  # the bitmap's own bits, which the list may tell wrongly
        if entry.bpp == 16 or stream.read(2) == b"\x10\0":
            raise ValueError("icons of 16 bits per pixel are not read")


def check_ppm(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Tell of further pictures behind the first."""
    bits = 1 if image.mode == "1" else ppm_bits(image)
    row = -(-image.width * len(image.getbands()) * bits // 8)
    stream.seek(image.tile[0].offset + row * image.height)
    if stream.read(2) in (b"P4", b"P5", b"P6"):
        notices.append(ONLY_THE_FIRST)


def check_psd(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Refuse channels of no agreed colour. Read a set bit as black, a fourth channel as alpha only
    if there is transparency, and the right rows of compressed pictures with further channels."""
    stream.seek(12)
    channels, kind = struct.unpack(">H10xH", stream.read(14))
    if kind == PSD_MULTICHANNEL:
        raise ValueError("Photoshop's multichannel pictures are not read")
    if kind == PSD_BITMAP:
        set_raw_mode(image, "1", "1;I")
    if image.tile and image.tile[0].codec_name == "packbits":  # lengths of all rows come first
        unread = 2 * image.height * (channels - len(image.tile))
        image.tile = [tile._replace(offset=tile.offset + unread) for tile in image.tile]
    is_transparent = is_transparent_psd(stream)
    if image.mode == "RGBA" and not is_transparent:
        image._mode, image.tile = "RGB", image.tile[:3]
    if channels > len(image.tile):
        lost = "transparency is" if is_transparent else "channels beyond colour and alpha are"
        notices.append(f"its {lost} not kept")


def is_transparent_psd(stream: BinaryIO) -> bool:
    """Whether the channel behind the colours is alpha, and no saved selection: the number of its
    layers is negative."""
    stream.seek(26)
    for _ in range(2):  # palette and resources
        stream.seek(int.from_bytes(stream.read(4), "big"), 1)
    size, layers_size, count = struct.unpack(">IIh", stream.read(10).ljust(10, b"\0"))
    return bool(size and layers_size) and count < 0


def check_sgi(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Refuse samples of two bytes, of which Pillow would cut the second off, and colour maps."""
    stream.seek(0)
    head = stream.read(108)
    if head[3] == 2:
        raise ValueError("16-bit samples of SGI files are not read")
    if any(head[104:]):
        raise ValueError("SGI files with a colour map are not read")


def check_tga(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Refuse palettes of 16 bits, and pixels of 16 bits with alpha: readers do not agree whether
    the top bit is alpha. Read other pixels of 16 bits without their top bit. Refuse interleaved
    rows and colours multiplied with alpha. Leave a palette out that is not used, and a fourth
    byte that the file says is no alpha."""
    stream.seek(0)
    head = stream.read(18)
    has_palette, kind, palette_bits, bits = head[1], head[2], head[7], head[16]
    alpha_bits = head[17] & 15
    if has_palette and palette_bits == 16:
        raise ValueError("TGA files with palettes of 16 bits are not read")
    if kind in TGA_COLOURS and bits == 16:
        if alpha_bits:
            raise ValueError("TGA files of 16 bits with alpha are not read")
        set_raw_mode(image, "RGB", "BGR;15")
    if head[17] & TGA_INTERLEAVED:
        raise ValueError("TGA files of interleaved rows are not read")
    if kind & 7 != TGA_PALETTE:
        image.palette = None
    stream.seek(max(0, stream.seek(0, 2) - 26))
    footer = stream.read(26)
    start = int.from_bytes(footer[:4], "little")
    if not start or not footer.endswith(TGA_2_END):
        return  # version 1, or no extension
    stream.seek(start + 478)
    numerator, denominator, alpha = struct.unpack("<HH12xB", stream.read(17).ljust(17, b"\0"))
    if alpha == TGA_PREMULTIPLIED:
        raise ValueError("TGA files of colours multiplied with alpha are not read")
    if alpha in TGA_NO_ALPHA and image.mode == "RGBA":
        set_raw_mode(image, "RGB", "BGRX")
    if denominator and numerator != denominator:
        notices.append("its gamma is not kept")


def check_webp(image: Any, stream: BinaryIO, notices: list[str]) -> None:
    """Refuse a first frame smaller than an opaque picture: Pillow surrounds it by black."""
    chunks: dict[bytes, bytes] = {}  # kinds, and the sides of the first of each, were it a frame
    position, whole = 12, b"".join((side - 1).to_bytes(3, "little") for side in image.size)
    for _ in range(MAX_CHUNKS):
        stream.seek(position)
        kind, size, sides = struct.unpack("<4sI6x6s", stream.read(20).ljust(20, b"\0"))
        if kind == bytes(4):
            break
        chunks.setdefault(kind, sides)
        position += 8 + size + size % 2
    if image.mode == "RGB" and chunks.get(b"ANMF", whole) != whole:
        raise ValueError("WebP files whose first frame does not fill the picture are not read")
    if unknown := sorted(kind.decode("latin-1") for kind in chunks.keys() - WEBP_CHUNKS)[:5]:
        notices.append(f"its chunks {', '.join(unknown)} are not kept")


def ppm_bits(image: Any) -> int:
    """16 for samples of more than one byte, else 8: Pillow scales them to these."""
    decoder, _, _, arguments = image.tile[0]
    is_scaled = decoder in ("ppm", "ppm_plain") and isinstance(arguments, tuple)
    return 16 if image.mode == "I" or (is_scaled and arguments[-1] > 255) else 8


CHECKS = {
    "BMP": check_bmp, "DDS": check_dds, "GIF": check_gif, "ICO": check_ico,
    "PPM": check_ppm, "PSD": check_psd, "SGI": check_sgi, "TGA": check_tga, "WEBP": check_webp,
}  # fmt: skip
