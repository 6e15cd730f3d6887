"""The checkpoints that ship do what the README says of them."""

import numpy as np
import pytest
import torch
from helpers import ROOT

from model import ARCHITECTURES, load_codec
from utils.checkpoints import load_checkpoint
from utils.images import read_picture
from utils.metrics import psnr

SHIPPED = {"main": "binary", "hyperprior": "hyperprior"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_checkpoint_is_small_and_trained(name):
    path = ROOT / f"out/{name}.tar"
    assert path.stat().st_size < 12e6
    checkpoint = load_checkpoint(path)
    assert checkpoint["arch"] == SHIPPED[name] in ARCHITECTURES
    assert set(checkpoint) == {"format", "arch", "config", "history", "weights"}
    assert {weight.dtype for weight in checkpoint["weights"].values()} <= {
        torch.float16, torch.int32,
    }  # fmt: skip

    codec = load_codec(checkpoint)
    image = torch.from_numpy(read_picture(ROOT / "out/original/chelsea.png").rgb.copy())
    image = image.permute(2, 0, 1)
    sizes, qualities = [], []
    for quality in (1, 35, 100):
        payload = codec.compress(image, quality)
        decoded = codec.decompress(payload, *image.shape[1:], quality)
        sizes.append(len(payload))
        qualities.append(psnr(image.numpy(), decoded.numpy()))
    assert sizes == sorted(sizes) and qualities == sorted(qualities)
    assert qualities[0] > 24 and sizes[0] < 0.2 / 8 * image[0].numel()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_picture_unlike_any_photograph_is_coded_sensibly(name):
    codec = load_codec(load_checkpoint(ROOT / f"out/{name}.tar"))
    column = np.arange(128)
    stripes = np.broadcast_to(255 * (column % 3 > 0), (3, 128, 128))
    noise = 255 * np.random.default_rng(0).integers(0, 2, (3, 128, 128))
    for pixels in (stripes, noise, 0 * noise, 255 * (noise >= 0)):
        image = torch.from_numpy(pixels.astype(np.uint8))
        for quality in (1, 50, 100):
            payload = codec.compress(image, quality)
            assert len(payload) < 3 * 128 * 128
            decoded = codec.decompress(payload, 128, 128, quality)
            assert psnr(image.numpy(), decoded.numpy()) > 5


def test_effort_gives_more_for_fewer_bytes():
    codec = load_codec(load_checkpoint(ROOT / "out/hyperprior.tar"))
    image = torch.from_numpy(read_picture(ROOT / "out/original/chelsea.png").rgb.copy())
    image = image.permute(2, 0, 1)

    def lagrangian(quality: int, effort: int) -> float:
        """In bits per pixel, of the payload and of the decoded picture."""
        payload = codec.compress(image, quality, effort)
        decoded = codec.decompress(payload, *image.shape[1:], quality)
        mse = 255**2 / 10 ** (psnr(image.numpy(), decoded.numpy()) / 10)
        weight = codec.lmbda(torch.tensor(quality)).item()
        return 8 * len(payload) / image[0].numel() + weight * mse

    for quality in (35, 80):
        plain, some, more = (lagrangian(quality, effort) for effort in (0, 1, 6))
        assert more < some < plain
        assert more < 0.996 * plain
