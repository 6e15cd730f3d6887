"""The pictures trained on and held out, and the crops each gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import as_tensor, colour, save_png
from PIL import Image

from utils.data import area, crops_in, pure_colours, split


def paths(count: int, folder: str = "") -> list[Path]:
    return [Path(folder, f"{index}.png") for index in range(count)]


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
def test_about_a_fraction_of_the_pictures_is_held_out(fraction):
    train, validation = split(paths(5000), fraction)
    assert len(validation) / 5000 == pytest.approx(fraction, rel=0.1)
    assert sorted(train + validation) == sorted(paths(5000))


def test_the_same_pictures_are_held_out_for_ever_wherever_they_are():
    """Otherwise a resumed run would be validated on its training pictures."""
    for listed in (paths(20), paths(20, "sub/folder"), paths(20)[::-1]):
        _, validation = split(listed, 0.3)
        assert {path.stem for path in validation} == {"0", "2", "6", "7", "8", "14", "16", "18"}


def test_more_is_held_out_of_the_same_pictures_by_a_larger_fraction():
    few, many = (set(split(paths(200), fraction)[1]) for fraction in (0.1, 0.3))
    assert few < many


def test_a_picture_is_held_out_where_chance_holds_out_none_unless_none_is_wanted():
    assert len(split(paths(2)[1:] * 2, 1e-9)[1]) == 1
    assert split(paths(5), 0)[1] == []
    assert split(paths(1), 1e-9)[1] == []


@pytest.mark.parametrize(
    ("shape", "count"),
    [((31, 31), 1), ((64, 64), 1), ((64, 127), 1), ((64, 128), 2), ((160, 96), 3)],
)
def test_a_picture_gives_a_crop_for_every_four_that_fit_into_it(tmp_path, shape, count):
    path = save_png(tmp_path / "a.png", np.zeros((*shape, 3), np.uint8))
    assert crops_in(path, 32) == count and crops_in(path, 0) == 1


def test_a_file_that_a_program_would_have_to_show_is_not_opened_for_its_area(tmp_path):
    """PostScript, which Pillow leaves to Ghostscript, says here that it is large."""
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1000 1000\n%%EndComments\n")
    assert Image.open(path).size == (1000, 1000)
    assert area(path) == 0 and crops_in(path, 32) == 1


def test_pure_colours_are_just_that_and_repeat():
    x = torch.stack([as_tensor(colour(64, 64, seed)) for seed in (0, 0)])
    first, second = (pure_colours(x, torch.Generator().manual_seed(seed)) for seed in (1, 1))
    assert first.shape == x.shape and first.unique().tolist() == [0, 255]
    assert torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_pure_colours_have_noise_of_any_strength_up_to_half_of_the_range():
    """On a ramp, a channel changes once without noise, and often with much."""
    ramp = torch.linspace(0, 255, 64).expand(400, 3, 64, 64)
    pure = pure_colours(ramp, torch.Generator().manual_seed(0))
    changes = (pure.diff(dim=3) != 0).float().sum(3).mean((1, 2))
    assert changes.min() < 1.1 and changes.max() > 15
    bright = [(pure[..., columns] > 0).float().mean().item() for columns in (0, 32, 63)]
    assert bright == pytest.approx([0.1, 0.5, 0.9], abs=0.03)
