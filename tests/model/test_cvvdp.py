import io

import numpy as np
import pytest
import torch
from helpers import colour
from PIL import Image, ImageFilter
from torch import Tensor

from model.cvvdp import cvvdp_terms, sensitivity_tables


def cvvdp_distance(x_hat: Tensor, x: Tensor) -> Tensor:
    return cvvdp_terms(x_hat, x)[0]


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    """Shapes on a gradient, uint8 [H, W, 3]; fine textures, grey below, of colour on the right."""
    rng = np.random.default_rng(2)
    image = colour(height, width, seed=1) + np.zeros(3)
    image[height // 2 :] += rng.normal(0, 12, (height, width, 1))[height // 2 :]
    image[:, width // 2 :] += rng.normal(0, 12, image.shape)[:, width // 2 :]
    return image.clip(0, 255).round().astype(np.uint8)


def jpeg(image: np.ndarray, quality: int = 30) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.BoxBlur(1)))


def noisy(image: np.ndarray, sigma: float = 8) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, image.shape)
    return (image + noise).clip(0, 255).round().astype(np.uint8)


def reddish(image: np.ndarray) -> np.ndarray:
    return (image * [1, 0.9, 0.8]).round().astype(np.uint8)


def swelling(image: np.ndarray, phases: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    """Slow waves on it, in each channel from its own phase."""
    waves = 8 * np.sin(np.arange(image.shape[1])[:, None] / 12 + phases)
    return (image + waves).clip(0, 255).round().astype(np.uint8)


def tinted(image: np.ndarray) -> np.ndarray:
    return swelling(image, (0, 2, 4))


def faint(image: np.ndarray) -> np.ndarray:
    return noisy(image, 0.6)


DISTORTIONS = jpeg, blurred, noisy, reddish, swelling, tinted, faint
SIZES = (77, 100), (256, 264), (64, 64), (192, 192), (61, 83), (64, 75)
# Distances by version 0.5.7 of the package, at the first two sizes. JPEG has none, as its decoders
# differ.
DISTANCES = {
    blurred: (1.0645, 1.0766),
    noisy: (1.065, 1.3497),
    reddish: (0.5749, 0.5411),
    swelling: (0.1967, 1.216),
    tinted: (0.8993, 0.9374),
    faint: (0.0083, 0.014),
}


def as_batch(*images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def gradient(x_hat: Tensor, x: Tensor) -> Tensor:
    x_hat = x_hat.clone().requires_grad_()
    cvvdp_distance(x_hat, x).sum().backward()
    return x_hat.grad


@pytest.fixture(scope="module")
def package():
    """The reference's own loss, of pictures [1, 3, H, W]."""
    reason = "compares with the package cvvdp, which is not installed"
    package = pytest.importorskip("pycvvdp", reason=reason)
    cvvdp = package.cvvdp("standard_fhd", quiet=True, device=torch.device("cpu"))
    return lambda x_hat, x: cvvdp.loss(x_hat, x, dim_order="BCHW")


# The measure


@pytest.mark.parametrize("distortion", DISTORTIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_distances_and_the_direction_of_gradients_are_those_of_the_package(
    package, size, distortion
):
    image = picture(*size)
    x, x_hat = as_batch(image), as_batch(distortion(image)).requires_grad_()
    expected = package(x_hat, x)
    expected.backward()
    assert cvvdp_distance(x_hat, x).item() == pytest.approx(expected.item(), abs=0.003)
    ours, theirs = (grad.double().flatten() for grad in (gradient(x_hat.detach(), x), x_hat.grad))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.999
    assert ours.norm() == pytest.approx(theirs.norm(), rel=0.02)


@pytest.mark.parametrize("distortion", DISTANCES)
def test_distances_are_those_that_the_package_once_gave(distortion):
    for size, expected in zip(SIZES, DISTANCES[distortion]):
        image = picture(*size)
        distance = cvvdp_distance(as_batch(distortion(image)), as_batch(image))
        assert distance.item() == pytest.approx(expected, abs=0.002)


# Levels of the original, the deviation of its noise, and the distance by version 0.5.7.
DARK_AND_BRIGHT = {
    "nearly black": (lambda x: x // 64, 1.5, 0.0805),
    "dark": (lambda x: x // 16, 3, 0.2719),
    "bright": (lambda x: x // 8 + 220, 8, 1.3293),
}


@pytest.mark.parametrize("name", DARK_AND_BRIGHT)
def test_noise_in_the_dark_and_in_the_light_is_seen_as_by_the_package(name):
    levels, sigma, expected = DARK_AND_BRIGHT[name]
    image = levels(picture(*SIZES[0]))
    distance = cvvdp_distance(as_batch(noisy(image, sigma)), as_batch(image))
    assert distance.item() == pytest.approx(expected, abs=0.002)


def test_the_eye_sees_the_more_the_brighter_it_is_and_without_a_jump():
    """Thousandths of the decimal logarithm, of each band and colour."""
    curves = 1000 / np.log(10) * sensitivity_tables()
    assert np.diff(curves).min() > 0
    assert abs(np.diff(curves, n=3)).max() < 8


def test_a_picture_equals_itself_at_distance_zero():
    x = as_batch(picture(), 255 - picture())
    assert cvvdp_distance(x, x).tolist() == [0, 0]


def test_more_distortion_is_more_distance():
    image = picture()
    versions = as_batch(*(jpeg(image, quality) for quality in (95, 75, 50, 25, 5)))
    assert cvvdp_distance(versions, as_batch(image).expand_as(versions)).diff().min() > 0


def test_texture_hides_noise():
    smooth, rough = colour(64, 64), noisy(colour(64, 64), 20)
    noise = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) / 50
    seen, hidden = (cvvdp_distance(as_batch(x) + noise, as_batch(x)) for x in (smooth, rough))
    assert hidden < 0.5 * seen


def test_a_picture_does_not_depend_on_its_batch_nor_on_the_order_in_memory():
    images = [picture(), 255 - picture(), np.roll(picture(), 1, axis=2)]
    x, x_hat = as_batch(*images), as_batch(*(jpeg(image) for image in images))
    together = cvvdp_distance(x_hat.contiguous(), x.contiguous())
    last = torch.channels_last
    other = cvvdp_distance(x_hat.contiguous(memory_format=last), x.contiguous(memory_format=last))
    torch.testing.assert_close(other, together)
    alone = torch.cat([cvvdp_distance(x_hat[i : i + 1], x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert together.unique().numel() == 3


@pytest.mark.parametrize("height, width", [(8, 8), (8, 200), (17, 15), (61, 83), (129, 64)])
def test_sizes_of_all_kinds_have_a_distance_and_a_gradient(height, width):
    image = picture(height, width)
    x, x_hat = as_batch(image), as_batch(noisy(image))
    assert 0.1 < cvvdp_distance(x_hat, x) < 5
    assert gradient(x_hat, x).isfinite().all() and gradient(x_hat, x).any()


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="needs 8 pixels a side, not 7"):
        cvvdp_distance(torch.rand(1, 3, 7, 30), torch.rand(1, 3, 7, 30))


# The worst spots


def spots(x_hat: np.ndarray, x: np.ndarray) -> float:
    return cvvdp_terms(as_batch(x_hat), as_batch(x))[1].item()


def test_an_error_weighs_more_in_one_spot_than_everywhere():
    image, waves = colour(128, 128, seed=1), np.sin(np.arange(128) * np.pi / 4)
    everywhere = 4 * np.multiply.outer(waves, waves)[..., None]
    spot = np.zeros_like(everywhere)
    spot[48:80, 48:80] = 4 * everywhere[48:80, 48:80]
    assert np.square(spot).sum() == pytest.approx(np.square(everywhere).sum(), rel=0.01)
    assert spots(image + spot, image) > 1.8 * spots(image + everywhere, image)


def test_texture_hides_no_spot():
    smooth, rough = colour(64, 64), noisy(colour(64, 64), 20)
    noise = np.random.default_rng(0).normal(0, 5, (64, 64, 3))
    seen, hidden = (spots(x + noise, x) for x in (smooth, rough))
    assert hidden > 0.8 * seen


# The gradient


def test_the_gradient_is_that_of_finite_differences():
    x = as_batch(picture(64, 80)).double()
    x_hat = (0.8 * x + 0.1 + torch.randn_like(x) / 30).clamp(0.01, 0.99).requires_grad_()
    assert torch.autograd.gradcheck(lambda x_hat: cvvdp_distance(x_hat, x), x_hat, fast_mode=True)


def test_equal_pictures_have_a_gradient_of_zero():
    x = as_batch(picture(), np.zeros_like(picture()), np.full_like(picture(), 255))
    assert not gradient(x, x).any()


def test_gradients_are_finite_wherever_a_network_may_begin():
    x = as_batch(picture())
    flat, black, white = torch.full_like(x, 0.3), torch.zeros_like(x), torch.ones_like(x)
    far = 1000 * torch.randn_like(x)
    for original in (x, flat, black, white):
        for x_hat in (original, x, flat, black, white, far, -far, original + 1e-7):
            assert gradient(x_hat, original).isfinite().all()
            assert cvvdp_distance(x_hat, original).isfinite().all()


def test_a_picture_out_of_range_counts_as_its_clamped_one_and_is_led_back():
    x = 0.2 + 0.6 * as_batch(picture())
    x_hat = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) / 2
    assert x_hat.min() < 0 and x_hat.max() > 1
    assert cvvdp_distance(x_hat, x) == cvvdp_distance(x_hat.clamp(0, 1), x)
    grad = gradient(x_hat, x)
    assert (grad[x_hat > 1] >= 0).all() and (grad[x_hat < 0] <= 0).all()
    assert (grad[x_hat > 1] > 0).any() and (grad[x_hat < 0] < 0).any()


def test_descending_it_brings_a_picture_nearer():
    x, x_hat = as_batch(picture()), as_batch(jpeg(picture()))
    grad = gradient(x_hat, x)
    step = 1e-3 * grad / grad.abs().max()
    assert cvvdp_distance(x_hat - step, x) < cvvdp_distance(x_hat, x)


def test_it_stays_in_float32_where_the_networks_do_not():
    x, x_hat = as_batch(picture()), as_batch(jpeg(picture())).bfloat16()
    expected = cvvdp_distance(x_hat.float(), x)
    with torch.autocast("cpu", torch.bfloat16):
        distance = cvvdp_distance(x_hat, x)
    assert distance.dtype == torch.float32 and distance.tolist() == expected.tolist()


def test_training_may_follow_an_inference():
    x = torch.rand(1, 3, 23, 29)  # of sizes that no other test has
    with torch.inference_mode():
        cvvdp_distance(x + 0.1, x)
    assert gradient(x + 0.1, x).isfinite().all()
