"""Colours that files name by numbers, as ICC profiles: the numbers of ITU-T H.273 and of PNG."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from xfr.colour import (
    D65,
    SRGB_CURVE,
    SRGB_PRIMARIES,
    adapt,
    build_profile,
    coded_profile,
    is_srgb,
    profile,
    xyz,
)

# H.273, table 2: white, red, green, blue.
WHITE = (0.3127, 0.329)
PRIMARIES = {
    4: ((0.310, 0.316), (0.67, 0.33), (0.21, 0.71), (0.14, 0.08)),
    5: (WHITE, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (WHITE, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: (WHITE, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: (WHITE, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (WHITE, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


def video(v: np.ndarray) -> np.ndarray:
    """Light of BT.709 and BT.2020."""
    return np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45))


# H.273, table 3: levels to light.
CURVES = {
    1: video, 6: video, 14: video, 15: video,
    4: lambda v: v**2.2, 5: lambda v: v**2.8, 8: lambda v: v,
    13: lambda v: np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4),
}  # fmt: skip


def opened(icc: bytes) -> ImageCms.core.CmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile


def chromaticity(found: np.ndarray) -> list[float]:
    return (found / found.sum())[:2].tolist()


@pytest.mark.parametrize("code", PRIMARIES)
def test_primaries_have_the_chromaticities_of_the_standard(code):
    found = opened(coded_profile(code, 13, True, grey=False))
    to_d50 = np.array(found.chromatic_adaptation[0])
    colours = [found.red_colorant, found.green_colorant, found.blue_colorant]
    colours = [np.linalg.solve(to_d50, np.array(colour[0])) for colour in colours]
    for colour, expected in zip([sum(colours), *colours], PRIMARIES[code]):
        assert chromaticity(colour) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("code", CURVES)
def test_levels_have_the_lightness_of_the_standard(code, grey):
    icc = coded_profile(9, code, True, grey)
    if grey and code in (4, 13):
        assert icc is None  # sRGB, or as good as that
        return
    levels = np.arange(256, dtype=np.uint8)[None]
    image = Image.fromarray(levels) if grey else Image.fromarray(np.stack([levels] * 3, axis=2))
    to = ImageCms.createProfile("LAB")
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    exact = ImageCms.Flags.NOOPTIMIZE  # not by a coarse table
    lab = ImageCms.profileToProfile(image, source, to, outputMode="LAB", flags=exact)
    light = CURVES[code](levels / 255)
    lightness = np.where(light > 216 / 24389, 116 * np.cbrt(light) - 16, light * 24389 / 27)
    assert abs(np.asarray(lab)[..., 0] - 2.55 * lightness).max() < 1


def test_white_is_adapted_as_the_bradford_matrix_does():
    """The matrix from D65 by B. Lindbloom's table (brucelindbloom.com, Chromatic Adaptation), whose
    D65 is a little another one."""
    expected = [
        [1.0478112, 0.0228866, -0.0501270],
        [0.0295424, 0.9904844, -0.0170491],
        [-0.0092345, 0.0150436, 0.7521316],
    ]
    np.testing.assert_allclose(adapt(xyz(D65)), expected, atol=6e-4)


@pytest.mark.parametrize(
    ("gamma", "is_none"), [(2.2, True), (2.21, True), (2.15, False), (2.0, False), (2.4, False)]
)
def test_a_gamma_of_2_2_is_that_of_srgb_and_no_other(gamma, is_none):
    assert (profile(SRGB_PRIMARIES, (gamma,), grey=False) is None) == is_none


@pytest.mark.parametrize(("shift", "is_none"), [(0.0005, True), (0.005, False)])
def test_primaries_of_srgb_may_be_rounded_and_no_others_are(shift, is_none):
    white, (x, y), *others = SRGB_PRIMARIES
    primaries = white, (x + shift, y), *others
    assert (profile(primaries, SRGB_CURVE, grey=False) is None) == is_none


def test_a_profile_is_that_of_srgb_if_it_changes_colours_by_two_levels_at_most():
    assert is_srgb(build_profile(SRGB_PRIMARIES, SRGB_CURVE, grey=False))
    for gamma in (2.3, 2.1):
        assert not is_srgb(build_profile(SRGB_PRIMARIES, (gamma,), grey=False))
