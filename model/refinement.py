"""Rate-distortion optimised quantization (RDOQ): symbols that are not the nearest ones, where those
cost less in sum. The decoder does not notice.

Video encoders have used it for long: Karczewicz, Ye, Chong 2008, "Rate distortion optimized
quantization", VCEG-AH21. Learned codecs have gradients to guide it: Yang, Bamler, Mandt 2020,
"Improving inference for neural image compression", https://arxiv.org/abs/2006.04240.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.context import merge_latent, scale_index, split_latent
from model.entropy import gaussian_bits
from model.quantizers import round_straight_through

if TYPE_CHECKING:
    from model.hyperprior import HyperpriorCodec

# The second derivative c of the distortion (in bits) by a symbol, in a codec whose steps are well
# chosen. With a step s, a symbol costs -log2(s) bits of rate and c/2 * s^2/12 of distortion (s^2/12
# is the variance of uniform noise). This is least at s = 1, the unit of symbols, if c = 12 / ln 2.
CURVATURE = 12 / math.log(2)
SHARE = 0.5  # of the changes that pay, made in one round: they are not independent of each other


def refine(
    codec: "HyperpriorCodec", x: Tensor, y: Tensor, z: Tensor, quality: Tensor, rounds: int
) -> Tensor:
    """y [1, M, h, w] of x [1, 3, H, W], moved to where the cost ``bits + lmbda * pixels * MSE`` is
    lower; z [1, Z, h/4, w/4] stays.

    Each round considers the next smaller and the next larger number for all symbols at once. What
    such a change costs in bits of the symbol itself is computed; what it does to the picture, and
    to the probabilities of the symbols coded later, is estimated from the gradient and CURVATURE.
    A random choice of the changes that pay is made.
    """
    generator = torch.Generator().manual_seed(0)
    weight = codec.lmbda(quality) * x[0, 0].numel()
    with torch.no_grad():
        features = codec.hyper_synthesis(z, quality)
    for _ in range(rounds):
        y.requires_grad_()
        y_hat, means, scales = codec.context(features, y)
        index = scale_index(scales)
        split = split_latent(y.detach())
        symbols = round_straight_through(split - means)
        bits = gaussian_bits(symbols, index)
        mse = (255 * (codec.synthesis(y_hat, quality) - x)).square().mean()
        (gradient,) = torch.autograd.grad(bits.sum() + weight * mse, y)

        with torch.no_grad():
            gradient = split_latent(gradient)
            lowest, change = torch.zeros_like(split), torch.zeros_like(split)
            for step in (-1, 1):
                more_bits = gaussian_bits(symbols + step, index) - bits
                cost = more_bits + step * gradient + CURVATURE / 2
                change = torch.where(cost < lowest, step, change)
                lowest = torch.minimum(cost, lowest)
            chosen = torch.rand(change.shape, generator=generator).to(change.device) < SHARE
            split = torch.where(chosen & (change != 0), means + symbols + change, split)
            y = merge_latent(split)
    return y
