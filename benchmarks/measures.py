"""The measures that curves, tables and BD-rates are of: those of test.py, and others, which need
packages of their own.

A measure flatters the codecs that were tuned or trained for it. Most of these took no part in any
training: such a judge tells whether a codec that is ahead by its own measure is better indeed.
"""

import io
import re
import subprocess
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache, lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from utils import measures
from utils.measures import Measure, decibels, likeness

if TYPE_CHECKING:  # heavy, and --help needs only the names
    import numpy as np
    from torch import Tensor

DEFAULT_MEASURES = ["psnr", "ms_ssim", "ssimulacra2"]
BUTTERAUGLI = "butteraugli_main"  # the program


def piq_score(name: str, original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    import piq

    return float(getattr(piq, name)(as_batch(reconstruction), as_batch(original)))


def as_batch(image: "np.ndarray") -> "Tensor":
    """A uint8 picture [H, W, 3] as float64 [1, 3, H, W] in 0 to 1."""
    import torch

    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].double() / 255


def cvvdp(original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """ColorVideoVDP (R. K. Mantiuk et al. 2024), by the authors' package: 10 minus the
    just-objectionable differences on a display of 24 inches and 1920x1080 pixels at 0.6 m."""
    jod, _ = cvvdp_model().predict(reconstruction, original, dim_order="HWC")
    return float(jod)


@cache
def cvvdp_model() -> object:
    """The authors' model, on the CPU."""
    import pycvvdp
    import torch

    return pycvvdp.cvvdp("standard_fhd", device=torch.device("cpu"), quiet=True)


def butteraugli(norm: int, original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """Butteraugli (J. Alakuijala et al. 2016), by libjxl's program for 80 cd/m^2: 0 at best, about
    1 where a difference is just seen. ``norm``: 0 for that of the worst spot, or 1 for the 3-norm
    over all pixels. OSError if the program fails."""
    from xfr.targets import as_ppm

    return butteraugli_norms(*map(as_ppm, (original, reconstruction)))[norm]


@lru_cache(maxsize=1)  # both norms are asked for one after the other
def butteraugli_norms(original: bytes, reconstruction: bytes) -> tuple[float, float]:
    """The maximum and the 3-norm of Butteraugli's map, of two files in PPM format."""
    with TemporaryDirectory() as folder:
        paths = Path(folder, "original.ppm"), Path(folder, "reconstruction.ppm")
        for path, data in zip(paths, (original, reconstruction)):
            path.write_bytes(data)
        done = subprocess.run([BUTTERAUGLI, *paths], capture_output=True, text=True)
    found = re.fullmatch(r"([\d.]+)\s+3-norm: ([\d.]+)\s*", done.stdout)
    if done.returncode or not found:
        raise OSError(f"{BUTTERAUGLI}: {done.stderr.strip() or done.stdout.strip()}")
    return float(found[1]), float(found[2])


def flip(original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """FLIP (P. Andersson et al. 2020), by NVIDIA's package: the mean error, 0 at best and 1 at
    worst, of flipping between the pictures at 67 pixels per degree."""
    from flip_evaluator import evaluate

    pair = (image.astype("float32") / 255 for image in (original, reconstruction))
    _, mean, _ = evaluate(*pair, "LDR", applyMagma=False)
    return float(mean)


def psnr_hvs_m(original: "np.ndarray", reconstruction: "np.ndarray") -> float:
    """PSNR-HVS-M (N. Ponomarenko et al. 2007) in dB, of the luma of whole blocks of 8x8 pixels:
    squared error weighted by frequency and hidden by contrast. Infinite for equal pictures."""
    import numpy as np

    with redirect_stdout(io.StringIO()):  # where it says that an optional package is missing
        from psnr_hvsm import bt601ycbcr, hvs_hvsm_mse
    height, width = (side // 8 * 8 for side in original.shape[:2])
    lumas = (bt601ycbcr(image[:height, :width])[0] for image in (original, reconstruction))
    with np.errstate(divide="ignore", invalid="ignore"):  # in flat blocks
        _, mse = hvs_hvsm_mse(*lumas)
    return decibels(float(mse))


def piq_measure(
    label: str, low: float, high: float, level: Callable[[float], float] = likeness
) -> Measure:
    """A measure of piq's. They halve pictures, and their filters have 16 pixels and more."""
    name = label.lower()
    return Measure(
        name, label, partial(piq_score, name), low, high, level, smallest_side=32,
        needs="piq", remedy="pip install piq",
    )  # fmt: skip


def butteraugli_measure(name: str, label: str, norm: int, low: float, high: float) -> Measure:
    """A norm of Butteraugli's map."""
    return Measure(
        name, label, partial(butteraugli, norm), low, high, decibels, smallest_side=8,
        needs=BUTTERAUGLI, remedy="install libjxl's tools (libjxl-devtools)",
    )  # fmt: skip


MEASURES = measures.MEASURES | measures.by_name(
    # L. Zhang, L. Zhang, X. Mou, D. Zhang 2011: phase congruency and gradients
    piq_measure("FSIM", 15, 25),
    # L. Zhang, Y. Shen, H. Li 2014: the same with visual saliency
    piq_measure("VSI", 20, 29),
    # R. Reisenhofer, S. Bosse, G. Kutyniok, T. Wiegand 2018: Haar wavelets
    piq_measure("HaarPSI", 8, 16),
    # H. Z. Nafchi, A. Shahkolaei, R. Hedjam, M. Cheriet 2016: how much the likeness of
    # gradients and colours varies, 0 at best
    piq_measure("MDSI", 5.5, 8, decibels),
    Measure("cvvdp", "CVVDP", cvvdp, 8, 9.7, unit="JOD", form=".2f", smallest_side=8,
            trained=("visual",), needs="pycvvdp", remedy="pip install cvvdp"),
    butteraugli_measure("butteraugli", "Butteraugli 3-norm", 1, -5, 0),
    butteraugli_measure("butteraugli_max", "Butteraugli max-norm", 0, -9, -3),
    Measure("flip", "FLIP", flip, 9.5, 13, decibels,
            needs="flip_evaluator", remedy="pip install flip-evaluator"),
    Measure("psnr_hvs_m", "PSNR-HVS-M", psnr_hvs_m, 33, 48, unit="dB", form=".2f",
            smallest_side=8, needs="psnr_hvsm", remedy="pip install psnr-hvsm"),
)  # fmt: skip
