"""Layouts of BMP, DDS, GIF, ICO, PPM, PSD, SGI and TGA files that Pillow misreads: set right, or
refused by name with a ValueError.

Each function takes a picture that Pillow has opened and not loaded, and its stream.
"""

import struct
from typing import Any, BinaryIO

from xfr.samples import set_raw_mode

BMP_ALPHA_SIZES = (56, 108, 124)  # of headers that have a mask of alpha
TOP_BIT = 0x8000
PSD_BITMAP, PSD_MULTICHANNEL = 0, 7
DDS_MISREAD = {"BC5S", "BC6H", "BC6HS"}  # signed samples, and samples in floating point
TGA_COLOURS = (2, 10)  # kinds of pictures without a palette or grey


def check_bmp(image: Any, stream: BinaryIO) -> None:
    """Read the top bit of 16-bit pixels as alpha, which Pillow leaves out."""
    stream.seek(14)
    head = stream.read(56).ljust(56, b"\0")
    size, bits, compression, alpha = struct.unpack("<I10xHI32xI", head)
    if size in BMP_ALPHA_SIZES and bits == 16 and compression == 3 and alpha == TOP_BIT:
        set_raw_mode(image, "RGBA", "BGRA;15")


def check_dds(image: Any, stream: BinaryIO) -> None:
    """Refuse channels of other than 8 bits: Pillow cuts them where they are to be rounded."""
    decoder, _, _, arguments = image.tile[0]
    narrow = decoder == "dds_rgb" and any(mask.bit_count() not in (0, 8) for mask in arguments[1])
    if narrow or (decoder == "bcn" and arguments[1] in DDS_MISREAD):
        raise ValueError("DDS files of other than 8 bits per channel are not read")


def check_gif(image: Any, stream: BinaryIO) -> None:
    """Refuse a first frame smaller than the picture: Pillow surrounds it by any of its colours."""
    if image.tile and image.tile[0].extents != (0, 0, *image.size):
        raise ValueError("GIF files whose first frame does not fill the picture are not read")


def check_ico(image: Any, stream: BinaryIO) -> None:
    """Refuse pixels of 16 bits: Pillow cuts them where they are to be rounded."""
    if any(entry.bpp == 16 for entry in image.ico.entry):
        raise ValueError("icons of 16 bits per pixel are not read")


def check_psd(image: Any, stream: BinaryIO) -> None:
    """Refuse channels of no agreed colour; read a set bit as black."""
    stream.seek(24)
    (kind,) = struct.unpack(">H", stream.read(2))
    if kind == PSD_MULTICHANNEL:
        raise ValueError("Photoshop's multichannel pictures are not read")
    if kind == PSD_BITMAP:
        set_raw_mode(image, "1", "1;I")


def check_sgi(image: Any, stream: BinaryIO) -> None:
    """Refuse samples of two bytes: Pillow would cut the second off."""
    stream.seek(3)
    if stream.read(1) == b"\2":
        raise ValueError("16-bit samples of SGI files are not read")


def check_tga(image: Any, stream: BinaryIO) -> None:
    """Refuse palettes of 16 bits, and pixels of 16 bits with alpha: readers do not agree whether
    the top bit is alpha. Read other pixels of 16 bits without their top bit."""
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


def ppm_bits(image: Any) -> int:
    """16 for samples of more than one byte, else 8: Pillow scales them to these."""
    decoder, _, _, arguments = image.tile[0]
    is_scaled = decoder in ("ppm", "ppm_plain") and isinstance(arguments, tuple)
    return 16 if image.mode == "I" or (is_scaled and arguments[-1] > 255) else 8


CHECKS = {
    "BMP": check_bmp, "DDS": check_dds, "GIF": check_gif, "ICO": check_ico,
    "PSD": check_psd, "SGI": check_sgi, "TGA": check_tga,
}  # fmt: skip
