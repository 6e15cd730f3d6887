"""SSIMULACRA 2 as a differentiable distortion, to train for what people see.

J. Sneyers 2022, of the JPEG XL project (github.com/cloudinary/ssimulacra2): in the XYB colour
space, at several scales, maps of the loss of structure and of two kinds of errors at edges; their
means and 4-norms, in a weighted sum that was fitted to the opinions of many viewers.

Constants and borders are taken from the Python package ``ssimulacra2``. Its scores and these agree
to 0.01 points, down to 225 pixels of a side. In smaller pictures, fewer than six scales fit: there
the package gives the remaining maps the weights of others, while here every map keeps its own.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from model.constants import constant
from model.perception import SMALLEST_SIDE, Beyond, checked_pair, gaussian_matrix

WINDOW_SIGMA, WINDOW_RADIUS = 1.5, 5  # pixels of the Gaussian window
STRUCTURE_C2 = 0.0009  # keeps the structural term calm in flat areas

# Linear RGB to the responses of the eye's cones: long, medium and short wavelengths.
RGB_TO_CONES = (
    (0.3, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.5518098665095536),
)
CONE_BIAS = 0.0037930732552754493  # response to no light
# Cube roots of the responses to X (red to green), Y (luma) and B (blue to yellow), and constants
# that make these positive. Only at black borders do the constants matter; elsewhere they cancel.
XYB = ((7.0, -7.0, 0.0), (0.5, 0.5, 0.0), (-0.5, -0.5, 1.0))
XYB_OFFSETS = (0.42, 0.01 - CONE_BIAS ** (1 / 3), 0.55)
X, Y, B = range(3)

# For each scale, from the full resolution down, and for its channels: the weights of the means of
# the maps (lost structure, artifacts, lost detail), then of their 4-norms. The reference has 108
# weights. Here the ones below 0.01 are left out: together they move a score by about 0.001 points,
# for two thirds of the work at full resolution and a sixth scale.
MAP_WEIGHTS: tuple[dict[int, tuple[float, ...]], ...] = (
    {
        Y: (0, 0, 0, 7.466890328078848, 0, 17.445833984131262),
    },
    {
        X: (0, 0, 0, 1.1041726426657346, 0, 0),
        Y: (0, 0, 0, 6.683678146179332, 0, 1.027889937768264),
    },
    {
        X: (0, 0, 0, 1.8422455520539298, 11.441172603757666, 0),
        Y: (225.20515300849274, 0, 0, 19.213238186143016, 0, 0),
    },
    {
        X: (0, 0, 0, 1.8787594979546387, 10.94906990605142, 0),
        Y: (176.39317598450694, 0, 0, 24.43300999870476, 0.28520802612117757, 0),
        B: (0, 0, 0, 8.826982764996862, 23.19243343998926, 0),
    },
    {
        X: (0, 0.9677937080626833, 0, 0, 0.9981766977854967, 0),
        Y: (0, 0, 0, 34.77906344483772, 44.835625328877896, 0),
        B: (
            *(95.1080498811086, 0.9863978034400682, 0.9834382792465353),
            *(0, 171.2667255897307, 0.9807858872435379),
        ),
    },
)

# The distance is this cubic polynomial of SUM_SCALE times the weighted sum.
SUM_SCALE = 0.9562382616834844
SUM_LINEAR, SUM_SQUARE, SUM_CUBIC = 2.326765642916932, -0.020884521182843837, 6.248496625763138e-05
SCORE_EXPONENT = 0.6276336467831387


def ssimulacra2_distance(x_hat: Tensor, x: Tensor, mirror: bool = False) -> Tensor:
    """Distance [B] of the pictures x_hat from the originals x, both [B, 3, H, W], sRGB in 0 to 1.

    The distance is the measure before its final power: 0 for equal pictures, 1 where a difference
    begins to be seen, 6 at high, 13 at medium and 22 at low quality, without an upper bound; see
    ``ssimulacra2_score``. It is differentiable in x_hat, which may leave its range: a value beyond
    counts as the end of the range, and its gradient can only lead back.

    The reference continues a picture to the left and right with black, which hides errors at these
    borders. With ``mirror`` the picture is continued by its mirror image, which suits crops. Crops
    of 192x192 pixels are then on average 2 % above their entire picture; without, 9 % below it.
    Computed in float32 (float64 if x_hat is) even under autocast. ValueError below 8 pixels of a
    side.
    """
    x_hat, x = checked_pair(x_hat, x, "SSIMULACRA 2")
    with torch.autocast(x.device.type, enabled=False):
        x, x_hat = linear_light(x), linear_light(x_hat)
        total = x.new_zeros(len(x))
        for scale, weights in enumerate(MAP_WEIGHTS):
            if scale:
                x, x_hat = halve(x), halve(x_hat)
            if min(x.shape[2:]) < SMALLEST_SIDE:
                break
            channels = list(weights)
            norms = pooled_errors(xyb(x_hat, channels), xyb(x, channels), mirror)
            scale_weights = constant(tuple(weights.values()), x.device, x.dtype)
            total = total + (norms * scale_weights).sum((1, 2))
        total = SUM_SCALE * total
        return ((SUM_CUBIC * total + SUM_SQUARE) * total + SUM_LINEAR) * total


def ssimulacra2_score(distance: Tensor) -> Tensor:
    """Score of a distance: 100 is no difference, 90 none that is seen, 70 high quality, 50 medium,
    30 low.

    >>> ssimulacra2_score(torch.tensor([0.0, 1.0, 13.0])).round().tolist()
    [100.0, 90.0, 50.0]
    """
    return 100 - 10 * distance.clamp(min=0) ** SCORE_EXPONENT


def linear_light(x: Tensor) -> Tensor:
    """Intensity of sRGB values, both in 0 to 1."""
    return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def halve(x: Tensor) -> Tensor:
    """Means of 2x2 pixels, or of fewer where an odd side ends."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def xyb(rgb: Tensor, channels: list[int]) -> Tensor:
    """Linear RGB [B, 3, H, W] to the given XYB ``channels``, [B, C, H, W]."""

    def rows(values: tuple) -> Tensor:
        return constant(tuple(values[channel] for channel in channels), rgb.device, rgb.dtype)

    cones = constant(RGB_TO_CONES, rgb.device, rgb.dtype) @ rgb.flatten(2)
    opponents = rows(XYB) @ (cones + CONE_BIAS) ** (1 / 3)
    return (opponents + rows(XYB_OFFSETS)[:, None]).unflatten(2, rgb.shape[2:])


def pooled_errors(x_hat: Tensor, x: Tensor, mirror: bool) -> Tensor:
    """The norms [B, C, 6] of XYB channels [B, C, H, W], in the order of MAP_WEIGHTS."""
    mean, mean_hat = blur(x, mirror), blur(x_hat, mirror)
    variances = blur(x.square() + x_hat.square(), mirror) - mean.square() - mean_hat.square()
    # 1 - (1 - shift) (2 covariance + c2) / (variances + c2), but exact where it is near zero
    shift = (mean_hat - mean).square()
    unlike = (blur((x_hat - x).square(), mirror) - shift) / (variances + STRUCTURE_C2)
    structure = unlike + shift * (1 - unlike)
    edges = (1 + (x_hat - mean_hat).abs()) / (1 + (x - mean).abs()) - 1
    maps = torch.stack((structure, edges.relu(), (-edges).relu()), dim=2).flatten(3)
    # vector_norm, as it has a gradient at zero
    norms = torch.linalg.vector_norm(maps, 4, dim=3) / maps.shape[3] ** 0.25
    return torch.cat((maps.mean(3), norms), dim=2)


def blur(x: Tensor, mirror: bool) -> Tensor:
    """``x`` [B, C, H, W] under the Gaussian window. Two matrix products take a fraction of the time
    of convolutions with a single channel."""
    rows = window_matrix(x.shape[2], True, x.dtype, x.device)
    columns = window_matrix(x.shape[3], mirror, x.dtype, x.device)
    return rows @ (x @ columns.T)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # constants made in inference mode could not be used in training
def window_matrix(length: int, mirror: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The window at each position of a line, [length, length]. Beyond its ends, the line goes on
    mirrored or else as zeros."""
    beyond: Beyond = "symmetric" if mirror else "constant"
    matrix = gaussian_matrix(length, WINDOW_SIGMA, WINDOW_RADIUS, beyond)
    return torch.as_tensor(matrix, dtype=dtype, device=device)
