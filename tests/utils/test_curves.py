"""The curves of validation pictures: rates are of files, measures of 8-bit pictures."""

import io

import numpy as np
import pytest
import torch
from helpers import as_tensor, colour, noise, tiny_codec
from PIL import Image

from model.distortion import RECORDS
from utils import curves
from utils.curves import QUALITIES, codec_curve, curve, jpeg_curve
from utils.measures import psnr

PICTURES = [colour(64, 80, 0) // 2 + noise(64, 80, 1) // 4, colour(64, 80, 2)]


def test_the_curve_of_jpeg_is_of_a_file_of_all_pictures_of_a_batch():
    found = jpeg_curve([torch.stack(list(map(as_tensor, PICTURES))) / 255], "mse")
    tall = np.concatenate(PICTURES)
    for quality in QUALITIES:
        stream = io.BytesIO()
        Image.fromarray(tall).save(stream, "JPEG", quality=quality, optimize=True)
        rate = 8 * len(stream.getvalue()) / (2 * 64 * 80)
        decoded = np.split(np.asarray(Image.open(stream)), 2)
        decibels = np.mean([psnr(*pair) for pair in zip(PICTURES, decoded)])
        assert found[f"bpp_{quality}"] == pytest.approx(rate, rel=1e-5)
        assert found[f"psnr_{quality}"] == pytest.approx(decibels, abs=1e-3)


@pytest.mark.parametrize("distortion", RECORDS)
def test_ssimulacra_2_is_measured_where_it_is_all_or_a_part_of_the_distortion(distortion):
    crops = [as_tensor(PICTURES[1])[None] / 255]
    codec = tiny_codec("binary")
    codec.distortion = distortion
    for found in (jpeg_curve(crops, distortion), codec_curve(codec, crops)):
        measured = {name.rpartition("_")[0] for name in found}
        assert measured == {"bpp", "psnr"} | ({"ssimulacra2"} if distortion != "mse" else set())


def test_a_reconstruction_is_compared_as_it_is_shown_rounded_and_within_its_range():
    x = torch.full((1, 3, 16, 16), 250 / 255)
    for shown, level in ((250, 250.4), (251, 250.6), (255, 300.0)):
        shown_at = torch.full_like(x, level / 255), torch.ones(1)
        found = curve(lambda x, quality, coded=shown_at: coded, [x], {"psnr": curves.psnr})
        error = max((shown - 250) ** 2, 1e-3)
        assert found["psnr_50"] == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)


def test_a_curve_is_the_mean_over_pictures_whatever_the_sizes_of_the_batches():
    def code(x, quality):
        return x, x.mean((1, 2, 3)) * quality

    batches = [torch.full((count, 3, 8, 8), value) for count, value in ((3, 0.2), (1, 1.0))]
    found = curve(code, batches, {"psnr": curves.psnr})
    assert [found[f"bpp_{q}"] for q in (10, 90)] == pytest.approx([4, 36])
