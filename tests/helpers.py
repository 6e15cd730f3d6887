"""Pictures and tiny codecs that the tests make for themselves."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image, ImageCms

from model import ARCHITECTURES, codec_class
from model.binary.network import BinaryConfig
from model.checkpoint import save_checkpoint
from model.hyperprior.transforms import HyperpriorConfig
from model.tiles import padded
from xfr.colour import SRGB_CURVE, build_profile

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
ARCHS = tuple(ARCHITECTURES)
SMALL = {  # configurations smaller than the default ones
    "binary": BinaryConfig(filters=(8, 12), latent=24, groups=(8, 12)),
    "hyperprior": HyperpriorConfig(
        channels8=16, channels16=24, latent=32, hyper=8, context=16,
        analysis_blocks=(1, 1), synthesis_blocks=(1, 1),
    ),
}  # fmt: skip
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = (0.3127, 0.329), (0.68, 0.32), (0.265, 0.69), (0.15, 0.06)  # white, red, green, blue
WIDE = build_profile(P3, SRGB_CURVE, grey=False)  # of a wider range of colours than SRGB
TINY = {arch: SMALL.get(arch) or codec_class(arch).Config() for arch in ARCHS}


def tiny_config(arch: str) -> list[str]:
    """The flags of train.py that train a tiny codec."""
    return ["--config", *(f"{name}={value}" for name, value in asdict(TINY[arch]).items())]


def colour(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]: a smooth gradient with a disc and a rectangle on it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    slopes = rng.uniform(40, 120, (3, 2))
    picture = np.stack([60 + a * x + b * y for a, b in slopes], axis=2)
    picture[(x - 0.4) ** 2 + (y - 0.3) ** 2 < 0.04] = rng.uniform(0, 255, 3)
    picture[(abs(x - 0.7) < 0.1) & (abs(y - 0.5) < 0.2)] = rng.uniform(0, 255, 3)
    return picture.clip(0, 255).round().astype(np.uint8)


def grey(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W]."""
    return colour(height, width, seed)[:, :, 0]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]: nothing that is smaller without loss."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def textured(height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3]: ``colour`` with a little noise, as a photograph has."""
    pixels = colour(height, width).astype(int) + noise(height, width, 1) // 8
    return pixels.clip(0, 255).astype(np.uint8)


def drawing(height: int = 150, width: int = 200) -> np.ndarray:
    """uint8 [H, W, 3]: hard-edged stripes and a rectangle, as in a screenshot."""
    rng = np.random.default_rng(1)
    pixels = np.repeat(rng.integers(0, 256, (1, -(-width // 4), 3)), 4, axis=1)[:, :width].repeat(
        height, 0
    )
    pixels[height // 3 : height // 2, width // 5 : width // 2] = 255, 0, 80
    return pixels.astype(np.uint8)


def save_png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] to [3, H, W]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def tiny_codec(arch: str, seed: int = 0):
    """An untrained codec whose rate grows with quality and whose every layer does something."""
    torch.manual_seed(seed)
    codec = codec_class(arch)(TINY[arch])
    with torch.no_grad():
        for weight in codec.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        codec.train()(as_tensor(colour(128, 128))[None] / 255, torch.tensor([60.0]))
    return codec.eval().requires_grad_(False)


@torch.inference_mode()
def full_latent(codec, payload: bytes, height: int, width: int, quality: int) -> torch.Tensor:
    """The latent of an entire picture, padded: [1, C, h, w]."""
    full = (padded(height, codec.STRIDE), padded(width, codec.STRIDE))
    return torch.cat(list(codec.latent_rows(payload, *full, quality)), dim=2)


def save_tiny(path: Path, arch: str = "binary", seed: int = 0) -> Path:
    """A checkpoint to ship: half precision, without optimiser state."""
    codec = tiny_codec(arch, seed)
    weights = codec.shipped_weights()
    contents = {"arch": arch, "config": codec.config_dict(), "weights": weights, "history": {}}
    write_checkpoint(path, contents)
    return path


def write_checkpoint(path: Path, contents: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        save_checkpoint(stream, contents)


def older_contents(codec) -> dict:
    """A hyperprior codec as a checkpoint of xfr 0.9 holds it."""
    weights = {}
    for name, weight in codec.state_dict().items():
        if ".heads." in name:
            for i, kind in enumerate(("means", "scales")):
                weights[name.replace(".heads.", f".{kind}.")] = weight[i::2]
        elif not name.startswith("synthesis.steps.") and name != "synthesis.calibrated":
            weights[name] = weight
    weights = {name: weight for name, weight in weights.items() if ".rounding." not in name}
    identity = {"arch": codec.arch, "config": codec.config_dict(), "distortion": "mse"}
    return {**identity, "history": {}, "weights": weights}


def run_process(command: list, cwd: Path | None = None, seconds: float = 120) -> SimpleNamespace:
    """Exit code, stdout and stderr; too late, it is killed with all that it has started."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(list(map(str, command)), cwd=cwd, start_new_session=True, **pipes)
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return SimpleNamespace(code=process.returncode, out=out, err=err)


def torchrun_command(script: Path, *args) -> list:
    """The command that runs a script in two processes that know of each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2]
    return [*command, "--master_addr", "127.0.0.1", "--master_port", port, script, *args]


def torchrun(script: Path, *args) -> SimpleNamespace:
    return run_process(torchrun_command(script, *args))
