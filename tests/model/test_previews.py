"""Previews and crops: pixels of a part of a picture, or of fewer, without synthesising all."""

import numpy as np
import pytest
import torch
from helpers import ARCHS, ROOT, TINY, colour, noise, tiny_codec

from model import codec_class, load_codec
from model.checkpoint import load_checkpoint
from model.limits import PREVIEW_SCALES
from model.tiles import Extract, RowBuffer, Tile, reduced, shared
from utils.measures import psnr
from xfr.images import read_picture

HEIGHT, WIDTH = 200, 300


@pytest.fixture(params=ARCHS)
def codec(request, monkeypatch):
    """A codec with tiles of 128 pixels."""
    codec = tiny_codec(request.param)
    monkeypatch.setattr(codec, "TILE", 128)
    return codec


def box_means(image: np.ndarray, scale: int) -> np.ndarray:
    """float [H / scale, W / scale, 3], rounded up, of fewer pixels at the right and bottom."""
    rows, columns = (range(0, length, scale) for length in image.shape[:2])
    boxes = [[image[r : r + scale, c : c + scale] for c in columns] for r in rows]
    return np.array([[box.mean((0, 1)) for box in row] for row in boxes])


def decoded(codec, image: np.ndarray, *extracts: Extract, quality: int = 50) -> list[np.ndarray]:
    """The picture that ``image`` is decoded to, and the extracts of it."""
    payload, shape = codec.compress(image, quality), image.shape[:2]
    return [
        codec.decompress(payload, *shape, quality, extract=extract)
        for extract in (Extract(), *extracts)
    ]


@pytest.mark.parametrize("scale", PREVIEW_SCALES)
def test_means_are_those_of_boxes_of_any_number_of_pixels(scale):
    for height, width in ((33, 50), (1, 1), (16, 32)):
        image = noise(height, width)
        found = reduced(shared(image), scale).numpy()
        assert np.allclose(found, box_means(image, scale), atol=1e-3)


def test_a_preview_that_is_synthesised_is_the_mean_of_pixels(codec):
    scales = [scale for scale in PREVIEW_SCALES if scale not in codec.PREVIEWED]
    image, *previews = decoded(codec, colour(HEIGHT, WIDTH), *map(Extract, scales))
    for scale, preview in zip(scales, previews, strict=True):
        assert np.abs(preview - box_means(image, scale)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("scale", PREVIEW_SCALES)
def test_a_preview_has_its_size_rounded_up(codec, scale):
    for height, width in ((1, 1), (129, 257), (128, 16)):
        _, preview = decoded(codec, colour(height, width), Extract(scale))
        assert preview.shape == (-(-height // scale), -(-width // scale), 3)
        assert preview.dtype == np.uint8


@pytest.mark.parametrize(
    "crop", [(0, 0, WIDTH, HEIGHT), (150, 100, 150, 100), (127, 127, 2, 2), (299, 199, 1, 1)]
)
def test_a_crop_is_a_part_of_the_picture_to_the_bit(codec, crop):
    image, part = decoded(codec, noise(HEIGHT, WIDTH), Extract(crop=crop))
    x, y, width, height = crop
    assert np.array_equal(part, image[y : y + height, x : x + width])


@pytest.mark.parametrize(("crop", "tiles"), [((0, 0, 5, 5), 1), ((120, 120, 20, 20), 4)])
def test_only_the_tiles_of_a_crop_are_synthesised(codec, monkeypatch, crop, tiles):
    synthesised, shares, pixels = [], [], codec.pixels
    monkeypatch.setattr(codec, "pixels", lambda *args: synthesised.append(args[3]) or pixels(*args))
    payload = codec.compress(colour(HEIGHT, WIDTH), 50)
    codec.decompress(payload, HEIGHT, WIDTH, 50, shares.append, Extract(crop=crop))
    assert len(synthesised) == tiles and shares == [n / tiles for n in range(1, tiles + 1)]


@pytest.mark.parametrize(
    "crop", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 5, -5), (296, 0, 5, 5), (0, 200, 5, 1)]
)
def test_a_crop_that_is_not_within_the_picture_is_named(codec, crop):
    payload = codec.compress(colour(HEIGHT, WIDTH), 50)
    with pytest.raises(ValueError, match=r"a crop of .* is not within the picture of 300x200"):
        codec.decompress(payload, HEIGHT, WIDTH, 50, extract=Extract(crop=crop))


@pytest.mark.parametrize("scale", [0, 3, 32])
def test_other_scales_are_refused(scale):
    with pytest.raises(ValueError, match=f"a scale of {scale} is not one of"):
        Extract(scale)


def test_a_crop_with_a_scale_is_refused():
    with pytest.raises(ValueError, match="choose a crop or a scale"):
        Extract(8, (0, 0, 16, 16))


def test_rows_above_all_that_is_wanted_are_passed_over():
    rows = [torch.full((1, 2, 4, 6), float(number)) for number in range(5)]
    buffer = RowBuffer(iter(rows), stride=1)
    part = buffer.part(Tile(9, 15, 0, 6))
    assert part[0, 0, :, 0].tolist() == [2, 2, 2, 3, 3, 3]
    assert len(buffer.held) == 2


# The hyperprior codec, whose previews have a way of their own


@pytest.fixture
def hyperprior():
    torch.manual_seed(0)
    codec = codec_class("hyperprior")(TINY["hyperprior"])
    with torch.no_grad():
        for weight in codec.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    codec.eval().calibrate(lambda: [(colour(90, 150), quality) for quality in (5, 50, 95)])
    return codec.requires_grad_(False)


def flat_latent(codec, positions: int) -> torch.Tensor:
    """A decoded latent that is the same at each of positions x positions."""
    y = torch.randn(codec.config.latent, generator=torch.Generator().manual_seed(1))
    return (64 * y).round()[None, :, None, None].expand(-1, -1, positions, positions).contiguous()


@pytest.mark.parametrize("scale", [8, 16])
def test_a_preview_is_exact_where_the_latent_does_not_change(hyperprior, scale):
    latent, quality = flat_latent(hyperprior, 24), hyperprior.quality_tensor(50)
    whole = Tile(0, 384, 0, 384)
    condensed = hyperprior.condensed(latent, quality, scale)
    found = hyperprior.preview(condensed, quality, whole, whole, scale)
    expected = reduced(hyperprior.pixels(latent, quality, whole, whole), scale)
    middle = slice(160 // scale, 224 // scale)  # far from the borders
    assert expected[middle, middle].std() > 1
    assert (found - expected)[middle, middle].abs().max() < 1


def test_tiles_do_not_show_in_a_preview(hyperprior, monkeypatch):
    image = colour(HEIGHT, WIDTH)
    payload, q = hyperprior.compress(image, 50), hyperprior.quality_tensor(50)
    (latent,) = hyperprior.latent_rows(payload, 256, 320, 50)
    condensed = hyperprior.condensed(latent, q, 8)
    monkeypatch.setattr(hyperprior, "latent_rows", lambda *_: iter(condensed.split(8, dim=2)))
    previews = []
    for side in (1024, 128):
        monkeypatch.setattr(hyperprior, "TILE", side)
        previews.append(hyperprior.decompress(b"", HEIGHT, WIDTH, 50, extract=Extract(8)))
    assert np.abs(previews[0].astype(int) - previews[1]).max() <= 2


def test_a_preview_synthesises_no_pixels_of_the_picture(hyperprior, monkeypatch):
    sizes, pixels = [], hyperprior.pixels

    def counted(latent, *args):
        sizes.append(latent[0, 0].numel())
        return pixels(latent, *args)

    monkeypatch.setattr(hyperprior, "pixels", counted)
    decoded(hyperprior, colour(HEIGHT, WIDTH), Extract(8))
    assert sizes == [16 * 20, 4 * 5]


@pytest.mark.parametrize("name", ["hyperprior", "visual"])
def test_a_preview_of_a_photograph_is_close_to_the_reduced_picture(name):
    codec = load_codec(load_checkpoint(ROOT / f"out/{name}.tar"))
    image = read_picture(ROOT / "out/original/chelsea.png").rgb
    full, *previews = decoded(codec, image, Extract(8), Extract(16))
    for scale, preview in zip((8, 16), previews, strict=True):
        assert psnr(box_means(full, scale).round().astype(np.uint8), preview) > 34
    payload = codec.compress(image, 50)
    with torch.autocast("cpu", torch.bfloat16):
        fast = codec.decompress(payload, *image.shape[:2], 50, extract=Extract(8))
    assert psnr(fast, previews[0]) > 45
