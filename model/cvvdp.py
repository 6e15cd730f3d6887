"""ColorVideoVDP of still pictures as a differentiable distortion, to train for what people see.

R. K. Mantiuk, P. Hanji, M. Ashraf, Y. Asano and A. Chapiro 2024, "ColorVideoVDP: A visual
difference predictor for image, video and display distortions", ACM Transactions on Graphics 43(4).
Both pictures become light of a display, then contrasts of three opponent colours in the bands of a
Laplacian pyramid. Their differences are weighed by the sensitivity of the eye, hidden by contrast
that both pictures have nearby, and pooled.

The measured parameters are those of the Python package ``cvvdp`` 0.5.7 (MIT licence), for its
display ``standard_fhd``: 24 inches, 1920x1080 pixels, 200 cd/m^2, seen from 0.6 m in an office.
Distances agree with that package's loss to 0.002.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.perception import checked_pair, gaussian_matrix

# Light of the display, in cd/m^2.
DISPLAY_PEAK, DISPLAY_BLACK, DISPLAY_REFLECTED = 200.0, 0.2, 250 / math.pi * 0.005
# Light of the red, green and blue of sRGB to the opponent colours DKL of white D65: achromatic, red
# to green, yellow to violet.
DKL = (
    (0.23320121074479758, 0.7288307890491413, 0.0889958693406463),
    (0.12762077123680748, -0.08706808759459364, -0.036777390616027174),
    (-0.21482250859101307, -0.6262536922063917, 0.8514033269512837),
)
KERNEL = (0.05, 0.25, 0.4, 0.25, 0.05)  # a line of the pyramid's filter: Burt and Adelson 1983
BANDS = 7  # at most, from 18.9 cycles per degree down to 0.19; the rest is the base

# Sensitivity of castleCSF (M. Ashraf et al. 2024), in thousandths of its decimal logarithm, at
# luminances of 10^(DARKEST + k STEP) cd/m^2: of the achromatic colour in each band, from the finest
# down, then the base; of the two others in the finest band. HIGHER_BANDS: the excess of each band.
DARKEST, STEP = -0.4716987058, 0.2032590515
ACHROMATIC = (
    (-37, 156, 344, 524, 697, 860, 1013, 1153, 1279, 1387, 1477, 1549, 1602, 1641, 1667),
    (1211, 1354, 1491, 1622, 1746, 1862, 1969, 2067, 2153, 2228, 2289, 2337, 2374, 2400, 2419),
    (1638, 1751, 1857, 1957, 2051, 2138, 2218, 2289, 2352, 2405, 2449, 2484, 2510, 2529, 2542),
    (1797, 1878, 1954, 2024, 2088, 2146, 2198, 2243, 2282, 2314, 2340, 2361, 2377, 2388, 2396),
    (1724, 1774, 1819, 1859, 1893, 1922, 1946, 1965, 1984, 2000, 2016, 2035, 2050, 2061, 2069),
    (1455, 1474, 1496, 1521, 1552, 1584, 1615, 1645, 1673, 1698, 1721, 1740, 1755, 1766, 1774),
    (1121, 1154, 1187, 1220, 1252, 1284, 1315, 1345, 1373, 1399, 1421, 1440, 1455, 1466, 1474),
    (841, 874, 907, 939, 972, 1004, 1035, 1065, 1093, 1118, 1141, 1160, 1175, 1186, 1194),
)
CHROMATIC = (
    (722, 819, 917, 1013, 1107, 1199, 1287, 1370, 1446, 1512, 1568, 1612, 1645, 1668, 1685),
    (161, 240, 318, 396, 474, 550, 625, 697, 765, 828, 884, 932, 971, 1001, 1023),
)
HIGHER_BANDS = (0, 479, 716, 865, 896, 842, 744, 628), (0, 476, 717, 880, 925, 867, 751, 611)
CORRECTION = -0.2797423303127289  # decibels that are added to the sensitivity

GAINS = 1.0, 1.45, 1.0  # factors of the colours' contrasts, except in the base
DIFFERENCE_POWER, LARGEST_DIFFERENCE = 2.264355182647705, 10**2.5642454624176025
MASK_POWERS = 1.302622675895691, 2.8885908126831055, 3.6807713508605957
MASK_GAIN, MASK_SIGMA, MASK_RADIUS = 10**-0.7954971194267273, 3, 6
MASKING = (  # how much the contrast of each colour, a row, hides differences of each: log2
    (-0.18950104713439941, -5.962151050567627, -4.31834602355957),
    (2.5655593872070312, 0.34406712651252747, -2.719646453857422),
    (3.8118371963500977, -1.0051705837249756, -0.5193376541137695),
)
BASE_WEIGHTS = 0.0036334486212581396, 1.6627724170684814, 4.11874532699585
STILL_WEIGHT = 0.577918291091919  # weight of a still picture beside that of a video
JOD, JOD_POWER, JOD_LINEAR = 0.0439569391310215, 0.9302042722702026, 0.1
SPOT_BANDS = slice(1, 3)  # 6.1 and 3.1 cycles per degree
LINEAR_BELOW = 1e-5  # where roots and powers become linear, so that slopes are finite


def cvvdp_terms(x_hat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Two distances [B] of the pictures x_hat from the originals x, both [B, 3, H, W], sRGB in 0 to
    1: that of CVVDP, and one of the worst spots.

    The first is 10 - JOD, in just-objectionable differences: 0 for equal pictures, 1 where three of
    four viewers prefer the original, without an upper bound. The second is the 4-norm of the
    differences in SPOT_BANDS that the eye would see if no contrast hid any. Both are differentiable
    in x_hat, which may leave its range: a value beyond counts as the end of the range, and its
    gradient can only lead back. Computed in float32 (float64 if x_hat is) even under autocast. The
    matrix products need all digits: let no GPU compute them in TF32. ValueError below 8 pixels of a
    side.
    """
    x_hat, x = checked_pair(x_hat, x, "CVVDP")
    known = constants(*x.shape[2:], x.device, x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        with torch.no_grad():
            reference = weighted_contrasts(x, known)
        pairs = zip(contrasts(x_hat, known), reference, strict=True)
        *bands, base = [(hat * weight, seen) for (hat, _), (seen, weight) in pairs]
        errors = [
            masked(hat, seen, level, known) for (hat, seen), level in zip(bands, known.levels)
        ]
        norms = [root_mean_square(error) for error in errors]
        norms.append(root_mean_square(base[0] - base[1]) * known.base_weights)
        distance = objectionable(STILL_WEIGHT * norm4(norm4(torch.stack(norms, dim=2))))
        unmasked = [(hat - seen).square().square().mean((2, 3)) for hat, seen in bands[SPOT_BANDS]]
        return distance, fourth_root(torch.stack(unmasked, dim=2).sum((1, 2)))


def objectionable(visible: Tensor) -> Tensor:
    """Just-objectionable differences of visible ones: a power, with a line near zero."""
    line = JOD * JOD_LINEAR ** (JOD_POWER - 1) * visible
    curve = JOD * visible.clamp(min=JOD_LINEAR) ** JOD_POWER  # clamped, its slope is finite at 0
    return torch.where(visible < JOD_LINEAR, line, curve)


def weighted_contrasts(x: Tensor, known: "Constants") -> list[tuple[Tensor, Tensor]]:
    """Contrasts of each band, and last the base, times weights; and these weights, [B, 3, h, w],
    which say how well the eye sees a contrast there."""
    bands = list(contrasts(x, known))
    tables = [*(level.table for level in known.levels), known.base_table]
    weights = [interpolated(table, background) for table, (_, background) in zip(tables, bands)]
    return [(contrast * weight, weight) for (contrast, _), weight in zip(bands, weights)]


def contrasts(x: Tensor, known: "Constants") -> Iterator[tuple[Tensor, Tensor]]:
    """Contrasts [B, 3, h, w] in DKL of each band of pictures [B, 3, H, W], and last the base; and
    the luminance [B, 1, h, w] of the background that they are fractions of, in cd/m^2."""
    curve = (((x + 0.055) / 1.055).log() * 2.4).exp()  # sRGB's; ``**`` takes twice the time
    light = (DISPLAY_PEAK - DISPLAY_BLACK) * torch.where(x <= 0.04045, x / 12.92, curve)
    light = light + (DISPLAY_BLACK + DISPLAY_REFLECTED)
    x = (known.dkl @ light.flatten(2)).unflatten(2, x.shape[2:])
    for level in known.levels:
        small = filtered(x, level.halving)
        smooth = filtered(small, level.doubling)
        background = smooth[:, :1]
        yield (x - smooth) * background.reciprocal(), background
        x = small
    background = x[:, :1].mean((2, 3), keepdim=True)
    yield x / background, background


def interpolated(table: Tensor, background: Tensor) -> Tensor:
    """Weights [B, 3, h, w] of contrasts on a background [B, 1, h, w] in cd/m^2, from a table
    [3, luminances] of their logarithms."""
    last = table.shape[1] - 1
    position = ((background.squeeze(1).log10() - DARKEST) / STEP).clamp(0, last)
    index = position.long().clamp(max=last - 1)
    below, above = table[:, index], table[:, index + 1]
    return below.lerp(above, position - index).exp().transpose(0, 1).contiguous()


def masked(x_hat: Tensor, x: Tensor, level: "Level", known: "Constants") -> Tensor:
    """Differences [B, 3, h, w] between weighted contrasts, less where both have contrast nearby."""
    shared = torch.minimum(x_hat.abs(), x.abs())
    if min(x.shape[2:]) > MASK_RADIUS:
        shared = filtered(shared, level.blur)
    masks = known.masking @ power(shared.flatten(2), known.mask_powers)
    errors = power((x_hat - x).abs(), DIFFERENCE_POWER)
    return errors / (1 + masks.unflatten(2, x.shape[2:])).add(errors, alpha=1 / LARGEST_DIFFERENCE)


def power(x: Tensor, exponent: Tensor | float) -> Tensor:
    """``x ** exponent`` of x >= 0, with a finite slope at 0."""
    return ((x + LINEAR_BELOW).log() * exponent).exp()


def root_mean_square(x: Tensor) -> Tensor:
    """[B, C] of [B, C, h, w], with a finite slope at 0."""
    mean = x.square().mean((2, 3))
    return mean / ((mean + LINEAR_BELOW).sqrt() + LINEAR_BELOW**0.5)


def norm4(x: Tensor) -> Tensor:
    """4-norm over the last dimension, with a finite slope at 0."""
    return fourth_root(x.square().square().sum(-1))


def fourth_root(x: Tensor) -> Tensor:
    """Root of x >= 0, with a finite slope at 0."""
    return LINEAR_BELOW**0.25 * (0.25 * (x / LINEAR_BELOW).log1p()).expm1()


def filtered(x: Tensor, matrices: tuple[Tensor, Tensor]) -> Tensor:
    """[B, C, H, W] through a separable filter, by two matrix products: that takes a fraction of the
    time of convolutions with a single channel."""
    rows, columns = matrices
    return rows @ (x @ columns)


class Level(NamedTuple):
    """Constants of a band. A filter is a matrix for each column of a picture and one for each row,
    the latter transposed."""

    table: Tensor  # [3, luminances]: natural logarithms of the weights of contrasts
    blur: tuple[Tensor, Tensor]
    halving: tuple[Tensor, Tensor]
    doubling: tuple[Tensor, Tensor]


class Constants(NamedTuple):
    """Constants for pictures of one size; ``levels``: of each band, from the finest on."""

    dkl: Tensor  # [3, 3]
    mask_powers: Tensor  # [3, 1]
    masking: Tensor  # [3, 3]: how much each colour, a row, is hidden by each
    base_weights: Tensor  # [3]
    base_table: Tensor  # [3, luminances]
    levels: list[Level]


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # constants made in inference mode could not be used in training
def constants(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Constants:
    """Constants for pictures of a size, made once for each of the last sizes."""

    def tensor(array: np.ndarray | tuple) -> Tensor:
        return torch.as_tensor(np.asarray(array)).to(device, dtype)

    masking = 2.0 ** np.transpose(MASKING) * np.power(MASK_GAIN, MASK_POWERS)
    *tables, base_table = map(tensor, sensitivity_tables())
    levels = []
    for table in tables[: min(height, width).bit_length() - 2]:
        odd = height % 2  # for the width as well, as in the package
        blur, halving, doubling = (
            (tensor(matrix(height, odd)), tensor(matrix(width, odd).T))
            for matrix in (blur_matrix, halving_matrix, doubling_matrix)
        )
        levels.append(Level(table, blur, halving, doubling))
        height, width = (height + 1) // 2, (width + 1) // 2
    return Constants(
        dkl=tensor(DKL),
        mask_powers=tensor(MASK_POWERS)[:, None],
        masking=tensor(masking),
        base_weights=tensor(BASE_WEIGHTS),
        base_table=base_table,
        levels=levels,
    )


def sensitivity_tables() -> np.ndarray:
    """Natural logarithms of the weights of contrasts: [BANDS + 1, 3, luminances]."""
    chromatic = [np.add.outer(higher, curve) for higher, curve in zip(HIGHER_BANDS, CHROMATIC)]
    tables = 10 ** (np.stack([ACHROMATIC, *chromatic], axis=1) / 1000 + CORRECTION / 20)
    tables[1:BANDS] *= 2  # as the package's pyramid has them
    tables[:BANDS] *= np.reshape(GAINS, (3, 1))
    return np.log(tables)


def blur_matrix(length: int, _: int) -> np.ndarray:
    """Gaussian window at each position of a line that is mirrored at its ends: [length, length]."""
    return gaussian_matrix(length, MASK_SIGMA, MASK_RADIUS, "reflect")


def halving_matrix(length: int, odd: int) -> np.ndarray:
    """KERNEL at every other position of a line: [half, length]. The line is mirrored, with its ends
    repeated; ``odd`` decides how the last end is, as in the package."""
    line = np.pad(np.eye(length), ((2, 0), (0, 0)), "symmetric")
    line = np.pad(line, ((0, 2), (0, 0)))
    shifted = [weight * line[k : k + length : 2] for k, weight in enumerate(KERNEL)]
    matrix = np.sum(shifted, axis=0)
    for k, weight in enumerate(KERNEL[3:] if odd else KERNEL[4:]):
        matrix[-1, -1 - k] += weight
    return matrix


def doubling_matrix(length: int, _: int) -> np.ndarray:
    """Twice KERNEL over a line of half the length with zeros in between and its ends repeated:
    [length, half]."""
    half = (length + 1) // 2
    line = np.zeros((2 * half + 4, half))
    line[::2] = np.pad(np.eye(half), ((1, 1), (0, 0)), "edge")
    return np.sum([2 * weight * line[k : k + length] for k, weight in enumerate(KERNEL)], axis=0)
