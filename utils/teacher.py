"""Training by a teacher: the synthesis in integers learns the pixels of an older one in floating
point.

Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural network",
https://arxiv.org/abs/1503.02531. Two syntheses of one latent can become equal; a picture and its
reconstruction cannot. So gradients are smaller and far less noisy, and small batches suffice.
"""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from model.checkpoint import load_checkpoint
from model.codec import Codec
from model.hyperprior.network import HyperpriorCodec
from model.hyperprior.trained_synthesis import TrainedSynthesis
from model.hyperprior.transforms import BLOCK_SIDE
from utils.step import train_only
from utils.upgrade import upgraded


class Taught(nn.Module):
    """``codec`` for a training step: its x_hat is x plus the difference of its pixels from the
    teacher's, and its rate is zero. Everything but the synthesis is frozen.

    ``older``: a checkpoint of xfr 0.9, from which the codec's other weights are. ValueError if it
    is none, or if its configuration is another.
    """

    def __init__(self, codec: Codec, older: Path):
        super().__init__()
        teacher = HyperpriorCodec.from_checkpoint(upgraded(load_checkpoint(older)))
        if not isinstance(codec, HyperpriorCodec) or codec.config != teacher.config:
            raise ValueError(f"--teacher: {older} has another configuration")
        train_only(codec, ["synthesis"])
        self.codec = codec
        self.teacher = cast(TrainedSynthesis, teacher.synthesis.requires_grad_(False))

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            y_hat = self.codec.quantized(x, quality).y_hat
            with torch.autocast(x.device.type, enabled=False):
                goal = in_floating_point(self.teacher, y_hat.float(), quality)
        return x + self.codec.synthesis(y_hat, quality) - goal, quality.new_zeros(len(x))


def in_floating_point(synthesis: TrainedSynthesis, y_hat: Tensor, quality: Tensor) -> Tensor:
    """y_hat [B, K, H/16, W/16] and quality [B] to x_hat [B, 3, H, W], as xfr 0.9 computed it."""
    y = y_hat * synthesis.gain(quality)[:, : y_hat.shape[1]].exp()
    deep = synthesis.blocks16(synthesis.latent(y)) * synthesis.gain16(quality).exp()
    deep = synthesis.up1(synthesis.blocks8(synthesis.up8(deep)))
    return synthesis.linear(y / BLOCK_SIDE) + deep + 0.5
