"""The distortions that a codec can be trained for: a record for each, with its loss function.

To add one, write its function and its record here. The functions load what they need, so that
--help, which lists the records, answers at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Prices, in bits per pixel, are such that files of a quality have about as many bytes whatever the
# codec was trained for. They are powers of lmbda, measured on crops of training pictures that were
# coded at 12 qualities by a codec trained for SSIMULACRA 2.
#
# One unit of the distance of SSIMULACRA 2 costs FACTOR * lmbda^EXPONENT / (1 + KNEE / lmbda).
SSIMULACRA2_FACTOR, SSIMULACRA2_EXPONENT, SSIMULACRA2_KNEE = 6.2, 1.066, 0.0005
# A JOD of CVVDP costs as much that its gradient has about the norm of SSIMULACRA 2's.
CVVDP_FACTOR, CVVDP_EXPONENT = 65, 1.05
# One unit of CVVDP's worst spots costs SPOTS_FACTOR * lmbda: 13 % of what SSIMULACRA 2 costs.
SPOTS_FACTOR = 0.2
MSE_SHARE = 0.13  # a little squared error keeps colours and flat areas in place
LUMA = 0.299, 0.587, 0.114  # the share of red, green and blue in the brightness, ITU-R BT.601


@dataclass(frozen=True)
class SearchSettings:
    """The encoder's search for latents that cost less, as it suits a distortion; see
    model/hyperprior/search.py."""

    rdoq_rounds: int  # before annealing, at most
    rdoq_alone: int  # steps up to which RDOQ without annealing finds more
    curvature: float  # of the distortion, see CURVATURE in model/quantizers.py, relative to that
    learning_rate: float  # for annealing


@dataclass(frozen=True)
class Distortion:
    """A distortion, and what suits the encoder of a codec that was trained for it.

    ``meaning``: the distortion in words, for --help. ``measures``: of the curves that training
    draws, by their names in utils/curves.py. ``dead_zone``: the share of a symbol's bits that
    counts when it is rounded, at low and at the highest quality; see ``model.entropy.dead_zone``.

    ``loss`` takes x_hat and x, [B, 3, H, W] in 0 to 1, and lmbda [B], and returns the distortion
    weighted against the rate: in bits per pixel, [B], differentiable in x_hat.
    """

    meaning: str
    measures: tuple[str, ...]
    loss: "Callable[[Tensor, Tensor, Tensor], Tensor]"
    dead_zone: tuple[float, float]
    search: SearchSettings


def mse(x_hat: "Tensor", x: "Tensor", lmbda: "Tensor") -> "Tensor":
    """The mean squared error of 8-bit values, times lmbda."""
    return lmbda * (255 * (x_hat - x)).square().mean((1, 2, 3))


def ssimulacra2(x_hat: "Tensor", x: "Tensor", lmbda: "Tensor") -> "Tensor":
    """The distance of SSIMULACRA 2, and a little of the squared error, mostly that of colour."""
    return ssimulacra2_cost(x_hat, x, lmbda) + anchor(x_hat, x, lmbda, whole=1, colour=3)


def visual(x_hat: "Tensor", x: "Tensor", lmbda: "Tensor") -> "Tensor":
    """SSIMULACRA 2 and CVVDP, two measures of different families with half of the weight each, so
    that the network learns the weaknesses of neither; CVVDP's worst spots; and a little of the
    squared error, mostly that of colour."""
    from model.cvvdp import cvvdp_terms

    distance, spots = cvvdp_terms(x_hat, x)
    cvvdp_cost = CVVDP_FACTOR * lmbda**CVVDP_EXPONENT * distance
    measures = 0.5 * ssimulacra2_cost(x_hat, x, lmbda) + 0.5 * cvvdp_cost
    return measures + SPOTS_FACTOR * lmbda * spots + anchor(x_hat, x, lmbda, whole=0.5, colour=4.5)


def ssimulacra2_cost(x_hat: "Tensor", x: "Tensor", lmbda: "Tensor") -> "Tensor":
    """The distance of SSIMULACRA 2 in bits per pixel, [B]."""
    from model.ssimulacra2 import ssimulacra2_distance

    price = SSIMULACRA2_FACTOR * lmbda**SSIMULACRA2_EXPONENT / (1 + SSIMULACRA2_KNEE / lmbda)
    return price * ssimulacra2_distance(x_hat, x, mirror=True)


def anchor(x_hat: "Tensor", x: "Tensor", lmbda: "Tensor", whole: float, colour: float) -> "Tensor":
    """A little of the squared error in bits per pixel, [B]. ``whole``, ``colour``: the weights of
    all of it, and of colour, which SSIMULACRA 2 hardly weighs."""
    from model.constants import constant

    error = x_hat - x
    luma = (error * constant(LUMA, x.device)[:, None, None]).sum(1, keepdim=True)
    squares = whole * mse(x_hat, x, lmbda) + colour * mse(error, luma, lmbda)
    return MSE_SHARE * squares


# SSIMULACRA 2 and CVVDP weigh an error by what is around it. So no dead zone suits all symbols, and
# the curvature differs from place to place: RDOQ finds nothing.
perceptual = partial(
    Distortion,
    measures=("psnr", "ssimulacra2"),
    dead_zone=(0.0, 0.0),
    search=SearchSettings(
        rdoq_rounds=0,
        rdoq_alone=0,
        curvature=6,
        learning_rate=0.025,
    ),
)
RECORDS = {
    "mse": Distortion(
        meaning="squared error",
        measures=("psnr",),
        loss=mse,
        dead_zone=(0.2, 0.6),
        search=SearchSettings(
            rdoq_rounds=12,
            rdoq_alone=30,
            curvature=1,
            learning_rate=0.013,
        ),
    ),
    "ssimulacra2": perceptual(
        meaning="SSIMULACRA 2, which is closer to what people see", loss=ssimulacra2
    ),
    "visual": perceptual(meaning="a mixture of SSIMULACRA 2 and CVVDP", loss=visual),
}
