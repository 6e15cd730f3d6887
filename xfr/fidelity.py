"""Measures of how close a decoded picture is to its original, which an encoder may aim at."""

import io
import math

TYPE_CHECKING = False  # as typing.TYPE_CHECKING; numpy is heavy, and --help needs only the names
if TYPE_CHECKING:
    import numpy as np

SSIMULACRA2_SIDE = 8  # pixels of the shortest side that SSIMULACRA 2 is defined for


def psnr(original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """Peak signal-to-noise ratio in dB of two uint8 arrays of the same shape, from the mean squared
    error over all channels; infinite if they are equal."""
    import numpy as np

    difference = original.astype(np.int32) - reconstruction
    mse = np.mean(np.square(difference), dtype=np.float64)
    return math.inf if mse == 0 else 10 * math.log10(255**2 / mse)


def ssimulacra2(original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """SSIMULACRA 2 (J. Sneyers 2022, JPEG XL project) of two uint8 arrays, [H, W, 3] or grey [H, W]
    of at least SSIMULACRA2_SIDE pixels on each side: 100 means no difference, 90 no visible one, 70
    high quality, 50 medium, 30 low; below 0 for large differences."""
    from ssimulacra2 import compute_ssimulacra2

    pair = (original, reconstruction)
    return float(compute_ssimulacra2(*(io.BytesIO(as_ppm(image)) for image in pair)))


def as_ppm(image: "np.ndarray") -> bytes:
    """A uint8 picture, [H, W, 3] or grey [H, W], as a file, for packages and programs that read
    nothing else."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "ppm")
    return file.getvalue()
