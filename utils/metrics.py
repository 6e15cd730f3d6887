"""Measures of how close a reconstruction is to its original."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from xfr.targets import psnr

__all__ = ["ms_ssim", "psnr", "ssim", "ssimulacra2"]
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
MIN_SSIM_SIDE = 7
MIN_MS_SSIM_SIDE = (WINDOW - 1) * 2 ** (len(MS_SSIM_WEIGHTS) - 1) + 1
MIN_SSIMULACRA2_SIDE = 8


def ssim(original: np.ndarray, reconstruction: np.ndarray) -> float | None:
    """Structural similarity, 1 at best, of two uint8 arrays [H, W, 3], the mean over channels; None
    if a side is shorter than 7 pixels. Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality
    assessment: from error visibility to structural similarity": a Gaussian window of 11x11 pixels
    and sigma 1.5; below 11 pixels, a uniform one of 7x7."""
    from skimage.metrics import structural_similarity  # slow to load, unlike PSNR

    if min(original.shape[:2]) < MIN_SSIM_SIDE:
        return None
    options = {"gaussian_weights": True, "sigma": SIGMA, "use_sample_covariance": False}
    if min(original.shape[:2]) < WINDOW:
        options = {"win_size": MIN_SSIM_SIDE}
    return float(
        structural_similarity(original, reconstruction, channel_axis=2, data_range=255, **options)
    )


@torch.inference_mode()
def ms_ssim(
    original: np.ndarray, reconstruction: np.ndarray, device: torch.device | str = "cpu"
) -> float | None:
    """Multi-scale structural similarity, 1 at best, of two uint8 arrays [H, W, 3], the mean over
    channels; None if a side is shorter than 161 pixels. Wang, Simoncelli, Bovik 2003, "Multi-scale
    structural similarity for image quality assessment": five scales, with 2x2 averages between
    them."""
    if min(original.shape[:2]) < MIN_MS_SSIM_SIDE:
        return None
    x, y = (
        torch.from_numpy(image.copy()).to(device).permute(2, 0, 1)[:, None].float()
        for image in (original, reconstruction)
    )
    offsets = torch.arange(WINDOW, device=device) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window /= window.sum()
    result = torch.ones(len(x), device=device)
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        if scale:
            x, y = (F.avg_pool2d(image, 2) for image in (x, y))
        luminance, structure = ssim_terms(x, y, window)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        term = luminance * structure if last else structure
        result *= term.mean((1, 2, 3)).clamp(min=0) ** weight
    return float(result.mean())


def ssim_terms(x: Tensor, y: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """The luminance term, and the product of the contrast and structure terms, at each position of
    x and y [C, 1, H, W]."""

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, window[None, None, None]), window[None, None, :, None])

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def ssimulacra2(original: np.ndarray, reconstruction: np.ndarray) -> float | None:
    """SSIMULACRA 2 (J. Sneyers 2022, JPEG XL project) of two uint8 arrays [H, W, 3]: 100 means no
    difference, 90 no visible one, 70 high quality, 50 medium, 30 low. None if a side is shorter
    than 8 pixels."""
    from ssimulacra2 import compute_ssimulacra2

    if min(original.shape[:2]) < MIN_SSIMULACRA2_SIDE:
        return None
    files = [io.BytesIO(), io.BytesIO()]  # the package only reads files
    for image, file in zip((original, reconstruction), files):
        Image.fromarray(image).save(file, "ppm")
    return float(compute_ssimulacra2(*files))
