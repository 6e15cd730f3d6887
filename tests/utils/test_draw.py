"""Pages of text, lines, patterns and marks."""

import random
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

from utils.draw import Page, main


def page(seed: int, side: int = 256) -> np.ndarray:
    return np.asarray(Page(side, random.Random(seed)).draw())


def test_a_seed_draws_the_same_page_and_another_one_another():
    assert np.array_equal(page(1), page(1))
    assert not np.array_equal(page(1), page(2))


def test_pages_have_hard_edges_saturated_colours_and_thin_lines():
    pages = [page(seed).astype(int) for seed in range(12)]
    steps = [np.abs(np.diff(one, axis=1)).max(2) for one in pages]
    assert all((step > 100).mean() > 0.002 for step in steps)
    pure = [((one == 0) | (one == 255)).all(2).any() for one in pages]
    assert np.mean(pure) > 0.5
    alone = [(step[:, :-1] > 60) & (step[:, 1:] > 60) for step in steps]  # one pixel wide
    assert np.mean([one.mean() > 0.001 for one in alone]) > 0.7


def test_every_kind_of_cell_stays_within_its_box():
    """Exceptions: words longer than the box is wide, lines and circles."""
    for kind in ("pattern", "marks"):
        drawn = Page(200, random.Random(3))
        before = np.asarray(drawn.image).copy()
        getattr(drawn, kind)((50, 60, 150, 140))
        changed = (np.asarray(drawn.image) != before).any(2)
        assert changed[60:140, 50:150].any()
        changed[60:140, 50:150] = False
        assert not changed.any(), kind


def test_the_command_writes_pages_and_replaces_none(tmp_path):
    args = Namespace(folder=tmp_path / "drawn", pages=2, side=96, seed=0)
    assert main(args) == 0
    names = sorted(path.name for path in args.folder.iterdir())
    assert names == ["drawn-0-0000.png", "drawn-0-0001.png"]
    assert Image.open(args.folder / names[0]).size == (96, 96)
    with pytest.raises(ValueError, match="exists: choose another folder or --seed"):
        main(args)
