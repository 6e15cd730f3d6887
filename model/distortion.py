"""The distortions that a codec can be trained for, which its encoder then searches by.

Each takes x_hat and x, [B, 3, H, W] in 0 to 1, and lmbda [B], and returns what it adds to the rate,
in bits per pixel: [B].
"""

from torch import Tensor

from model.constants import constant
from model.limits import DISTORTIONS
from model.ssimulacra2 import ssimulacra2_distance

# One unit of the distance costs FACTOR * lmbda^EXPONENT / (1 + KNEE / lmbda) bits per pixel: so
# files of a quality have about as many bytes as those of the codec for the squared error.
FACTOR, EXPONENT, KNEE = 6.2, 1.066, 0.0005
ANCHOR = 0.13  # share of the squared error that keeps colours and flat areas in place
CHROMA = 3  # how much more that of colour counts in it: the measure itself weighs colour little
LUMA = 0.299, 0.587, 0.114  # the share of red, green and blue in the brightness, ITU-R BT.601


def mse(x_hat: Tensor, x: Tensor, lmbda: Tensor) -> Tensor:
    """The mean squared error of 8-bit values, times lmbda."""
    return lmbda * (255 * (x_hat - x)).square().mean((1, 2, 3))


def ssimulacra2(x_hat: Tensor, x: Tensor, lmbda: Tensor) -> Tensor:
    """The distance of SSIMULACRA 2, and a little of the squared error, mostly that of colour."""
    distance = ssimulacra2_distance(x_hat, x, mirror=True)
    weight = FACTOR * lmbda**EXPONENT / (1 + KNEE / lmbda)
    error = x_hat - x
    luma = (error * constant(LUMA, x.device)[:, None, None]).sum(1, keepdim=True)
    colour = mse(error, luma, lmbda)
    return weight * distance + ANCHOR * (mse(x_hat, x, lmbda) + CHROMA * colour)


FUNCTIONS = dict(zip(DISTORTIONS, (mse, ssimulacra2), strict=True))
