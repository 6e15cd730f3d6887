"""Rate-distortion optimised quantization: other symbols than the nearest, where these cost less.

The decoder does not know. Long used in video encoders (Karczewicz, Ye, Chong 2008, "Rate
distortion optimized quantization", VCEG-AH21); for learned codecs, which have gradients, see
Yang, Bamler, Mandt 2020, "Improving inference for neural image compression",
https://arxiv.org/abs/2006.04240.
"""

import math

import torch
from torch import Tensor

from model.context import merge_phases, scale_index, split_phases
from model.entropy import gaussian_bits
from model.quantizers import round_straight_through

# Second derivative of the distortion by a symbol, in bits. Where rate and distortion balance, a
# step s of the quantizer costs -log2(s) bits and s^2 / 12 of squared error for each symbol: their
# sum is least at s = 1 if the squared error weighs 6 / ln 2. Trained codecs come close to it.
CURVATURE = 12 / math.log(2)
SHARE = 0.5  # of the changes that pay are made at once: they are not independent of each other


def refine(codec, x: Tensor, y: Tensor, z: Tensor, quality: Tensor, rounds: int) -> Tensor:
    """y [1, M, h, w], of x [1, 3, H, W] and with z [1, Z, h/4, w/4], moved to where the Lagrangian
    of the hyperprior codec ``codec`` is lower.

    Each round looks for all symbols at once at the next smaller and the next larger number: what
    it costs itself is known, what it does to the picture and to the probabilities of later symbols
    is estimated by the gradient. Of the changes that pay, some are made, drawn by lot.
    """
    lot = torch.Generator().manual_seed(0)
    weight = codec.lmbda(quality) * x[0, 0].numel()
    with torch.no_grad():
        features = codec.hyper_synthesis(z, quality)
    for _ in range(rounds):
        y.requires_grad_()
        y_hat, means, scales = codec.context(features, y)
        index = scale_index(scales)
        now = split_phases(y.detach()).unflatten(2, means.shape[2:4])
        symbols = round_straight_through(now - means)
        bits = gaussian_bits(symbols, index)
        mse = (255 * (codec.synthesis(y_hat, quality) - x)).square().mean()
        (slope,) = torch.autograd.grad(bits.sum() + weight * mse, y)

        with torch.no_grad():
            slope = split_phases(slope).view_as(now)
            best, change = torch.zeros_like(now), torch.zeros_like(now)
            for step in (-1, 1):
                own = gaussian_bits(symbols + step, index) - bits
                cost = own + step * slope + CURVATURE / 2
                change = torch.where(cost < best, step, change)
                best = torch.minimum(cost, best)
            drawn = torch.rand(change.shape, generator=lot).to(change.device) < SHARE
            now = torch.where(drawn & (change != 0), means + symbols + change, now)
            y = merge_phases(now.flatten(2, 3))
    return y
