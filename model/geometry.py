"""The check that the tiles of a codec fit its networks."""

from copy import deepcopy

import torch
from torch import Tensor

from model.codec import Codec
from model.limits import DEFAULT_QUALITY
from model.tiles import padded


@torch.inference_mode()
def check_geometry(codec: Codec) -> None:
    """ValueError unless STRIDE, TILE and MARGIN of a codec on the CPU fit each other and its
    transforms: with a MARGIN smaller than their receptive field, the borders of tiles would show.

    The transforms are run on a strip of noise that begins and ends with STRIDE pixels of NaN.
    Numbers that depend on one of these become NaN too, whatever the weights are.
    """
    stride, margin = codec.STRIDE, codec.MARGIN
    at_latent = stride // codec.LATENT_STRIDE  # positions of the latent
    for name, of in (("STRIDE", "LATENT_STRIDE"), ("TILE", "STRIDE"), ("MARGIN", "STRIDE")):
        value, unit = getattr(codec, name), getattr(codec, of)
        if value % unit:
            multiple = f"not a multiple of its {of}, {unit}"
            raise ValueError(f"the {codec.arch} codec's {name}, {value}, is {multiple}")
    codec = deepcopy(codec).eval()  # networks may keep what they compute from their weights
    quality = codec.quality_tensor(DEFAULT_QUALITY)  # at high ones the encoder may look further
    length = 2 * margin + 7 * stride
    noise = torch.rand(1, 3, stride, length, generator=torch.Generator().manual_seed(0))
    for x in (noise, noise.mT):
        height, width = x.shape[2:]
        chunk = codec.tile_coder(width, quality).encode(codec.analyse(x, quality))
        latent = codec.tile_coder(width, quality).decode(chunk, height, width).float()
        outputs = {
            "analysis": codec.analyse(between_nan(x, stride), quality),
            "synthesis": [codec.synthesise(between_nan(latent, at_latent), quality)],
        }
        for transform, tensors in outputs.items():
            reach = max(reach_of(tensor, stride, length) for tensor in tensors)
            if reach > margin:
                raise ValueError(
                    f"the {codec.arch} codec's MARGIN, {margin}, is smaller than the receptive "
                    f"field of its {transform} beyond a tile: at least {padded(reach, stride)}"
                )


def between_nan(x: Tensor, count: int) -> Tensor:
    """A strip x [1, C, h, w] with NaN instead of the first and the last ``count`` positions of its
    longer side."""
    x = x.clone()
    along = 3 if x.shape[3] > x.shape[2] else 2
    for start in (0, x.shape[along] - count):
        x.narrow(along, start, count).fill_(torch.nan)
    return x


def reach_of(output: Tensor, border: int, length: int) -> int:
    """The number of pixels that NaN spread into a strip of ``length`` pixels, beyond the ``border``
    on either side that was NaN. ``output``: [1, C, h, w]."""
    along = 3 if output.shape[3] > output.shape[2] else 2
    bad = output.isnan().movedim(along, 0).flatten(1).any(1).tolist()
    stride, middle = length // len(bad), len(bad) // 2
    first = max((i + 1 for i in range(middle) if bad[i]), default=0)
    last = min((i for i in range(middle, len(bad)) if bad[i]), default=len(bad))
    return max(stride * first - border, length - border - stride * last)
