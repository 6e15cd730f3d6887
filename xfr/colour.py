"""ICC profiles for colour spaces that files name in another way.

A colour space that a file names by numbers (gAMA, cHRM and cICP of PNG, nclx of AVIF and HEIC)
becomes an ICC profile of the same meaning. Pixels stay as they are: conversion to sRGB would clip
colours beyond it, and each further conversion rounds. sRGB itself needs no profile.

Profiles: ICC.1:2022. Numbers: ITU-T H.273, tables 2 and 3.
"""

import io
import struct
from collections.abc import Iterable
from functools import cache
from typing import cast

import numpy as np
from PIL import Image, ImageCms

Chromaticity = tuple[float, float]
Primaries = tuple[Chromaticity, Chromaticity, Chromaticity, Chromaticity]  # white, red, green, blue
Curve = tuple[float, ...]  # one gamma, or g, a, b, c, d of (a x + b)^g from d on, and c x below

D65: Chromaticity = (0.3127, 0.329)
D50 = np.array([0.9642, 1.0, 0.8249])  # XYZ
SRGB_PRIMARIES: Primaries = (D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
PRIMARIES: dict[int, Primaries] = {
    1: SRGB_PRIMARIES,
    4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),  # NTSC of 1953
    5: (D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),  # PAL
    6: (D65, (0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),  # SMPTE 170M
    7: (D65, (0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    9: (D65, (0.708, 0.292), (0.17, 0.797), (0.131, 0.046)),  # BT.2020
    11: ((0.314, 0.351), (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),  # DCI-P3
    12: (D65, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),  # Display P3
}
SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
VIDEO_CURVE: Curve = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)  # BT.709 and BT.2020
CURVES: dict[int, Curve] = {
    1: VIDEO_CURVE, 4: (2.2,), 5: (2.8,), 6: VIDEO_CURVE, 8: (1.0,), 13: SRGB_CURVE,
    14: VIDEO_CURVE, 15: VIDEO_CURVE,
}  # fmt: skip
HDR_CURVES = {16: "PQ", 18: "HLG"}
UNSPECIFIED = 2
SRGB_TOLERANCE = 2  # levels; versions of the profile differ by one
SRGB_GAMMA = 1 / 0.45455  # PNG files of sRGB say so beside or instead of their sRGB chunk
GAMMA_TOLERANCE, CHROMATICITY_TOLERANCE = 0.02, 0.001
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
PROFILE_VERSION, PROFILE_SIGNATURE = 0x04300000, b"acsp"
PROFILE_DATE = (2000, 1, 1, 0, 0, 0)  # of all profiles: the same bytes for the same colours


def fits(icc: bytes, mode: str) -> bool:
    """Whether a profile is for pixels of ``mode``: L, LA, RGB or RGBA."""
    return icc[16:20] == (b"GRAY" if mode in ("L", "LA") else b"RGB ")


def is_whole(icc: bytes) -> bool:
    """Whether bytes are an ICC profile that is not cut short."""
    (size,) = struct.unpack(">I", icc[:4].ljust(4, b"\0"))
    return icc[36:40] == PROFILE_SIGNATURE and 128 <= size <= len(icc)


def check_profile(icc: bytes, mode: str) -> None:
    """ValueError, with a notice, for a profile that is damaged or not for pixels of ``mode``."""
    if not is_whole(icc):
        raise ValueError("its colour profile is damaged: dropped")
    if not fits(icc, mode):
        raise ValueError("its colour profile does not fit its pixels: dropped")


def coded_profile(primaries: int, transfer: int, full_range: bool, grey: bool) -> bytes | None:
    """The profile of colours that are named by numbers of H.273; None for sRGB. ValueError, with a
    notice, if no profile says what they mean."""
    known_primaries = SRGB_PRIMARIES if primaries == UNSPECIFIED else PRIMARIES.get(primaries)
    curve = SRGB_CURVE if transfer == UNSPECIFIED else CURVES.get(transfer)
    if known_primaries is None or curve is None or not full_range:
        name = HDR_CURVES.get(transfer, f"cICP {primaries}, {transfer}, {int(full_range)}")
        raise ValueError(f"no profile says what its colours mean ({name}): left as they are")
    return profile(known_primaries, curve, grey)


def profile(primaries: Primaries, curve: Curve, grey: bool) -> bytes | None:
    """The ICC profile of these colours; None for what is sRGB, or as good as that. ValueError if
    there are no such colours."""
    is_srgb_curve = curve == SRGB_CURVE or (
        len(curve) == 1 and abs(curve[0] - SRGB_GAMMA) < GAMMA_TOLERANCE
    )
    difference = np.abs(np.subtract(primaries, SRGB_PRIMARIES)).max()
    if is_srgb_curve and (grey or difference < CHROMATICITY_TOLERANCE):
        return None
    return build_profile(primaries, curve, grey)


@cache
def build_profile(primaries: Primaries, curve: Curve, grey: bool) -> bytes:
    """An ICC profile, version 4, of matrix and curve; of a curve alone for grey. ValueError if the
    primaries span no colours."""
    if not (all(np.isfinite(curve)) and 0 < curve[0] < 100):
        raise ValueError("no such curve")
    tags = {b"desc": text_tag("xfr"), b"cprt": text_tag("CC0"), b"wtpt": xyz_tag(D50)}
    function = struct.pack(">4s4xHxx", b"para", 0 if len(curve) == 1 else 3) + fixed(curve)
    if grey:
        tags[b"kTRC"] = function
    else:
        white, *colours = (xyz(point) for point in primaries)
        adaptation = adapt(white)
        basis = np.array(colours).T
        if abs(np.linalg.det(basis)) < 1e-6:
            raise ValueError("the primaries are on one line")
        columns = (adaptation @ (basis * np.linalg.solve(basis, white))).T
        if np.abs(columns).max() > 100:
            raise ValueError("no such primaries")
        tags[b"chad"] = struct.pack(">4s4x", b"sf32") + fixed(adaptation.ravel())
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns):
            tags[name] = xyz_tag(column)
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), function)
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        at = body.find(content)  # curves are stored once
        if at < 0:
            at, body = len(body), body + content
        table += struct.pack(">4sII", name, start + at, len(content))
    space = b"GRAY" if grey else b"RGB "
    kinds = b"mntr", space, b"XYZ "
    header = struct.pack(">I4xI4s4s4s6H", start + len(body), PROFILE_VERSION, *kinds, *PROFILE_DATE)
    header += PROFILE_SIGNATURE + bytes(28) + fixed(D50) + bytes(48)
    return header + table + body


def fixed(values: Iterable[float]) -> bytes:
    """Numbers as s15Fixed16."""
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def xyz_tag(values: Iterable[float]) -> bytes:
    return struct.pack(">4s4x", b"XYZ ") + fixed(values)


def text_tag(text: str) -> bytes:
    content = text.encode("utf-16-be")
    return struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", len(content), 28) + content


def xyz(point: Chromaticity) -> np.ndarray:
    """XYZ of luminance 1. ValueError if the chromaticity has none."""
    x, y = point
    if y <= 0:
        raise ValueError("a chromaticity without luminance")
    return np.array([x / y, 1.0, (1 - x - y) / y])


def adapt(white: np.ndarray) -> np.ndarray:
    """The Bradford matrix from ``white`` to the D50 of profiles."""
    cones = BRADFORD @ D50 / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD


def is_srgb(icc: bytes) -> bool:
    """Whether a profile of RGB or grey changes no colour by more than SRGB_TOLERANCE levels from
    sRGB. A file without a profile is taken as sRGB."""
    levels = np.arange(0, 256, 51, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 36, 3)
    colours = Image.fromarray(cube)
    try:
        grey = ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile.xcolor_space.strip() == "GRAY"
        image = Image.fromarray(levels[None]) if grey else colours
        found = np.asarray(to_srgb(image, icc), dtype=int)
    except (OSError, ValueError, ImageCms.PyCMSError):
        return False
    return bool(np.abs(found - np.asarray(image.convert("RGB"), dtype=int)).max() <= SRGB_TOLERANCE)


def to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """CMYK or Lab to sRGB, CMYK through the picture's own profile if it has one. ValueError, with a
    notice, if that cannot be used."""
    try:
        source: ImageCms.core.CmsProfile | ImageCms.ImageCmsProfile
        if image.mode == "LAB":
            source = ImageCms.createProfile("LAB")
        elif not icc:
            return image.convert("RGB")
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        return cast(Image.Image, converted)  # None is for conversions in place
    except (OSError, ImageCms.PyCMSError):
        raise ValueError("its colour profile is damaged or not for its pixels: dropped") from None
