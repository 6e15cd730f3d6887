import io

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image
from ssimulacra2.ssimulacra2 import weights as reference_weights
from torch import Tensor

from model.ssimulacra2 import MAP_WEIGHTS, ssimulacra2_distance, ssimulacra2_score
from utils.measures import ssimulacra2

SAMPLES = sorted((ROOT / "out/original").iterdir())


def photograph(name: str = "chelsea.png") -> np.ndarray:
    return np.asarray(Image.open(ROOT / "out/original" / name).convert("RGB"))


def lossy(image: np.ndarray, quality: int, file_format: str = "webp") -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, file_format, quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def as_batch(*images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def crops(count: int, side: int = 64) -> Tensor:
    """[count, 3, side, side], of one photograph."""
    image = photograph()
    corners = [(20 * i, 30 * i) for i in range(count)]
    return as_batch(*(image[top : top + side, left : left + side] for top, left in corners))


def noise(x: Tensor, sigma: float) -> Tensor:
    return sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def gradient(x_hat: Tensor, x: Tensor) -> Tensor:
    x_hat = x_hat.clone().requires_grad_()
    ssimulacra2_distance(x_hat, x).sum().backward()
    return x_hat.grad


# The measure


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_scores_are_those_of_the_reference(path):
    image = photograph(path.name)
    versions = [lossy(image, 10, "jpeg"), lossy(image, 60)]
    expected = [ssimulacra2(image, version) for version in versions]
    distance = ssimulacra2_distance(as_batch(*versions), as_batch(image))
    assert ssimulacra2_score(distance).tolist() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("quality", [10, 60])
def test_the_score_of_a_part_of_a_photograph_with_black_in_it_is_that_of_the_reference(quality):
    """225 pixels a side: the smallest of which all scales fit."""
    image = photograph()[40:265, 100:330].copy()
    image[:60, :80] //= 8  # sRGB is linear in the darkest levels
    version = lossy(image, quality)
    found = ssimulacra2_score(ssimulacra2_distance(as_batch(version), as_batch(image)))
    assert found.item() == pytest.approx(ssimulacra2(image, version), abs=0.01)


def test_every_weight_that_matters_is_that_of_the_reference():
    ours = np.zeros((6, 3, 6))
    for scale, channels in enumerate(MAP_WEIGHTS):
        for channel, values in channels.items():
            ours[scale, channel] = values
    theirs = reference_weights.reshape(3, 6, 6).swapaxes(0, 1)
    np.testing.assert_array_equal(ours, np.where(theirs < 0.01, 0, theirs))


@pytest.mark.parametrize(("side", "scales"), [(8, 1), (15, 2), (16, 2), (17, 2), (64, 4)])
def test_scales_of_less_than_8_pixels_do_not_count(monkeypatch, side, scales):
    x = crops(1, side)
    x_hat = x + noise(x, 0.1)
    distance = ssimulacra2_distance(x_hat, x)
    monkeypatch.setattr("model.ssimulacra2.MAP_WEIGHTS", MAP_WEIGHTS[:scales])
    assert ssimulacra2_distance(x_hat, x) == distance
    monkeypatch.setattr("model.ssimulacra2.MAP_WEIGHTS", MAP_WEIGHTS[: scales - 1])
    assert ssimulacra2_distance(x_hat, x) != distance


@pytest.mark.parametrize("mirror", [False, True])
def test_equal_pictures_have_no_distance(mirror):
    x = crops(2)
    distance = ssimulacra2_distance(x, x, mirror)
    assert distance.tolist() == [0, 0] and ssimulacra2_score(distance).tolist() == [100, 100]


def test_more_distortion_is_more_distance():
    image = photograph()
    versions = as_batch(*(lossy(image, quality) for quality in (90, 70, 40, 20, 5)))
    for mirror in (False, True):
        distances = ssimulacra2_distance(versions, as_batch(image), mirror)
        assert distances.diff().min() > 0


def test_a_picture_does_not_depend_on_its_batch():
    x = crops(3)
    x_hat = x + noise(x, 0.05)
    together = ssimulacra2_distance(x_hat, x)
    alone = torch.cat([ssimulacra2_distance(x_hat[i : i + 1], x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert together.unique().numel() == 3


@pytest.mark.parametrize("height, width", [(8, 8), (8, 200), (17, 15), (61, 83), (129, 64)])
def test_sizes_of_all_kinds_have_a_distance(height, width):
    x = as_batch(photograph()[:height, :width])
    assert 0 < ssimulacra2_distance(x + noise(x, 0.1), x) < 1000
    assert 0 < ssimulacra2_distance(x + noise(x, 0.1), x, mirror=True) < 1000


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="needs 8 pixels a side, not 7"):
        ssimulacra2_distance(torch.rand(1, 3, 7, 30), torch.rand(1, 3, 7, 30))


def test_mirrored_borders_let_crops_speak_for_their_picture():
    """Crops agree on average; black borders make errors beside them look smaller than they are."""
    x = as_batch(photograph("astronaut.png")[:384, :384])
    x_hat = as_batch(lossy(photograph("astronaut.png")[:384, :384], 30))
    entire = ssimulacra2_distance(x_hat, x).item()
    tiles = [
        image.unfold(2, 192, 192).unfold(3, 192, 192).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        for image in (x_hat, x)
    ]
    black, mirrored = (ssimulacra2_distance(*tiles, mirror).mean() for mirror in (False, True))
    assert black < mirrored
    assert abs(mirrored / entire - 1) < abs(black / entire - 1)


# The gradient


@pytest.mark.parametrize("mirror", [False, True])
def test_the_gradient_is_that_of_finite_differences(mirror):
    x = crops(1, 128).double()  # a side of which all scales fit
    x_hat = (0.8 * x + 0.1 + noise(x, 0.03)).clamp(0.01, 0.99).requires_grad_()

    def distance(x_hat: Tensor) -> Tensor:
        return ssimulacra2_distance(x_hat, x, mirror)

    assert torch.autograd.gradcheck(distance, x_hat, fast_mode=True)


def test_gradients_are_finite_wherever_a_network_may_begin():
    x = crops(1)
    flat, black, white = torch.full_like(x, 0.3), torch.zeros_like(x), torch.ones_like(x)
    far = 1000 * noise(x, 1)
    for original in (x, flat, black, white):
        for x_hat in (original, x, flat, black, white, far, -far, original + 1e-7):
            grad = gradient(x_hat, original)
            assert grad.isfinite().all()


def test_a_picture_out_of_range_counts_as_its_clamped_one_and_is_led_back():
    x = crops(1).clamp(0.2, 0.8)
    x_hat = x + noise(x, 0.5)
    assert x_hat.min() < 0 and x_hat.max() > 1
    clamped = x_hat.clamp(0, 1)
    assert ssimulacra2_distance(x_hat, x) == ssimulacra2_distance(clamped, x)
    grad = gradient(x_hat, x)
    assert (grad[x_hat > 1] >= 0).all() and (grad[x_hat < 0] <= 0).all()
    assert (grad[x_hat > 1] > 0).any() and (grad[x_hat < 0] < 0).any()


def test_descending_it_brings_a_picture_nearer():
    x = crops(2)
    x_hat = x + noise(x, 0.05)
    grad = gradient(x_hat, x)
    step = 1e-3 * grad / grad.abs().amax((1, 2, 3), keepdim=True)
    assert (ssimulacra2_distance(x_hat - step, x) < ssimulacra2_distance(x_hat, x)).all()


def test_it_stays_in_float32_where_the_networks_do_not():
    x = crops(1)
    x_hat = x + noise(x, 0.02)
    expected = ssimulacra2_distance(x_hat.bfloat16().float(), x)
    with torch.autocast("cpu", torch.bfloat16):
        distance = ssimulacra2_distance(x_hat.bfloat16(), x)
    assert distance.dtype == torch.float32 and distance.tolist() == expected.tolist()


def test_training_may_follow_an_inference():
    x = torch.rand(1, 3, 23, 29)  # of sizes that no other test has
    with torch.inference_mode():
        ssimulacra2_distance(x + 0.1, x)
    assert gradient(x + 0.1, x).isfinite().all()
