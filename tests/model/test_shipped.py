"""The checkpoints that ship do what the README says of them."""

import numpy as np
import pytest
import torch
from helpers import ROOT

from model import ARCHITECTURES, load_codec
from model.checkpoint import load_checkpoint
from utils.measures import psnr
from xfr.images import read_picture

SHIPPED = {"main": "binary", "hyperprior": "hyperprior", "visual": "hyperprior"}
LARGEST = {"main": 4e6, "hyperprior": 20e6, "visual": 20e6}  # bytes


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_checkpoint_is_small_and_trained(name):
    path = ROOT / f"out/{name}.tar"
    assert path.stat().st_size < LARGEST[name]
    checkpoint = load_checkpoint(path)
    assert checkpoint["arch"] == SHIPPED[name] in ARCHITECTURES
    described = {"distortion", "command", "version", "fingerprint"}
    assert set(checkpoint) - described == {"format", "arch", "config", "history", "weights"}
    assert {weight.dtype for weight in checkpoint["weights"].values()} <= {
        torch.float16, torch.float32, torch.int8, torch.int32,
    }  # fmt: skip

    codec = load_codec(checkpoint)
    image = read_picture(ROOT / "out/original/chelsea.png").rgb
    sizes, qualities = [], []
    for quality in (1, 50, 100):
        payload = codec.compress(image, quality)
        decoded = codec.decompress(payload, *image.shape[:2], quality)
        sizes.append(len(payload))
        qualities.append(psnr(image, decoded))
    assert sizes == sorted(sizes) and qualities == sorted(qualities)
    assert qualities[0] > 24 and sizes[0] < 0.2 / 8 * image[..., 0].size


# PSNR of qualities 1, 50 and 100. A card of the mean grey has 6.5 dB of the stripes, and 6.0 dB of
# the noise: the lowest quality has no bits for more, the others have.
HARD, FLAT = (5.9, 8.5, 8.5), (25, 35, 45)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_picture_unlike_any_photograph_is_coded_sensibly(name):
    codec = load_codec(load_checkpoint(ROOT / f"out/{name}.tar"))
    column = np.arange(128)[:, None]
    stripes = np.broadcast_to(255 * (column % 3 > 0), (128, 128, 3))
    noise = 255 * np.random.default_rng(0).integers(0, 2, (128, 128, 3))
    pictures = (stripes, HARD), (noise, HARD), (0 * noise, FLAT), (0 * noise + 255, FLAT)
    for pixels, least in pictures:
        image = pixels.astype(np.uint8)
        for quality, decibels in zip((1, 50, 100), least, strict=True):
            payload = codec.compress(image, quality)
            assert len(payload) < 2 * image.size  # steps are chosen for photographs
            decoded = codec.decompress(payload, 128, 128, quality)
            assert psnr(image, decoded) > decibels


def test_effort_gives_more_for_fewer_bytes():
    codec = load_codec(load_checkpoint(ROOT / "out/hyperprior.tar"))
    image = read_picture(ROOT / "out/original/chelsea.png").rgb

    def lagrangian(quality: int, effort: int) -> float:
        """The Lagrangian in bits per pixel, of the payload and of the decoded picture."""
        payload = codec.compress(image, quality, effort)
        decoded = codec.decompress(payload, *image.shape[:2], quality)
        mse = 255**2 / 10 ** (psnr(image, decoded) / 10)
        weight = codec.lmbda(codec.quality_tensor(quality)).item()
        return 8 * len(payload) / image[..., 0].size + weight * mse

    for quality in (35, 80):
        plain, some, more = (lagrangian(quality, effort) for effort in (0, 1, 4))
        assert more < some < plain
        assert more < 0.996 * plain
