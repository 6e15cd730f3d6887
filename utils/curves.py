"""Rate-distortion curves of validation pictures: the codec's, epoch after epoch, and JPEG's."""

import io
from collections.abc import Callable, Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.codec import Codec
from model.distortion import RECORDS
from model.precision import fast_precision
from model.ssimulacra2 import ssimulacra2_distance, ssimulacra2_score

QUALITIES = (10, 30, 50, 70, 90)  # settings of the codec, and of JPEG
CURVE_PICTURES = 32  # at most

MeasureFunctions = dict[str, Callable[[Tensor, Tensor], Tensor]]  # of x_hat and x, by name


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """PSNR in dB, [B], of x_hat and x, both [B, 3, H, W] in 0 to 1; 78 dB at most."""
    mse = (255 * (x_hat - x)).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / mse.clamp(min=1e-3))


def ssimulacra2(x_hat: Tensor, x: Tensor) -> Tensor:
    """SSIMULACRA 2, [B], 100 at best, of x_hat and x, both [B, 3, H, W] in 0 to 1."""
    return ssimulacra2_score(ssimulacra2_distance(x_hat, x))


MEASURES: MeasureFunctions = {"psnr": psnr, "ssimulacra2": ssimulacra2}


def measures_of(distortion: str) -> MeasureFunctions:
    """The measures of a curve of a codec that is trained for ``distortion``."""
    return {name: MEASURES[name] for name in RECORDS[distortion].measures}


def curve(
    code: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    batches: Iterable[Tensor],
    measures: MeasureFunctions,
) -> dict[str, float]:
    """The mean rate and measures at QUALITIES of batches [B, 3, H, W] in 0 to 1, by names such as
    psnr_50. ``code`` takes a batch and a quality, and returns x_hat, which is rounded to 8 bits
    here, and the rate in bpp, [B]."""
    totals: dict[str, list[Tensor]] = {}
    for x in batches:
        for quality in QUALITIES:
            x_hat, bpp = code(x, quality)
            x_hat = (255 * x_hat.clamp(0, 1)).round() / 255
            found = {"bpp": bpp} | {name: score(x_hat, x) for name, score in measures.items()}
            for name, values in found.items():
                totals.setdefault(f"{name}_{quality}", []).append(values.float())
    return {name: torch.cat(values).mean().item() for name, values in totals.items()}


@torch.no_grad()
def codec_curve(codec: Codec, batches: Iterable[Tensor]) -> dict[str, float]:
    """The curve of ``codec``; {} without batches."""

    def code(x: Tensor, quality: int) -> tuple[Tensor, Tensor]:
        with fast_precision(x.device):
            return codec(x, torch.full((len(x),), float(quality), device=x.device))

    return curve(code, batches, measures_of(codec.distortion))


def jpeg_curve(batches: Iterable[Tensor], distortion: str) -> dict[str, float]:
    """The curve of JPEG. A batch is one file, so that its header counts once."""

    def code(x: Tensor, quality: int) -> tuple[Tensor, Tensor]:
        pixels = (255 * x).round().byte().permute(0, 2, 3, 1).flatten(0, 1)
        stream = io.BytesIO()
        Image.fromarray(pixels.cpu().numpy()).save(stream, "JPEG", quality=quality, optimize=True)
        x_hat = torch.from_numpy(np.array(Image.open(stream))).unflatten(0, (len(x), -1)) / 255
        bpp = 8 * len(stream.getvalue()) / pixels[..., 0].numel()
        return x_hat.permute(0, 3, 1, 2).to(x.device), torch.full((len(x),), bpp)

    return curve(code, batches, measures_of(distortion))
