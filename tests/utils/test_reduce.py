"""A reduced copy of a folder of pictures."""

import io
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from helpers import colour, drawing, noise, save_png
from PIL import Image

from utils.reduce import main, reduced


@pytest.fixture
def photos(workplace) -> Path:
    for index in range(6):
        save_png(workplace / f"photos/sub{index % 2}/{index}.png", noise(120, 160, index))
    save_png(workplace / "photos/small.png", colour(40, 50))
    save_png(workplace / "photos/screen.png", drawing(300, 400))
    return workplace / "photos"


def reduce(source: Path, out: Path, max_bytes: int) -> int:
    return main(Namespace(source=source, out=out, max_bytes=max_bytes))


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_copy_is_within_its_size_keeps_sub_folders_and_is_the_same_again(photos, capsys):
    out = photos.parent / "out"
    assert reduce(photos, out, 60_000) == 0
    assert capsys.readouterr().out.startswith("8 pictures of at most 0.0")
    found = contents(out)
    assert 53_000 < sum(map(len, found.values())) <= 60_000
    jpegs = {f"sub{index % 2}/{index}.jpg" for index in range(6)}
    assert set(found) == {*jpegs, "small.png", "screen.webp"}
    assert found["small.png"] == (photos / "small.png").read_bytes()
    width, height = Image.open(out / "sub0/0.jpg").size
    assert width / height == pytest.approx(160 / 120, rel=0.03) and width < 160
    again = photos.parent / "again"
    assert reduce(photos, again, 60_000) == 0 and contents(again) == found


def test_a_folder_that_is_small_enough_is_copied(photos):
    assert reduce(photos, photos.parent / "out", 10**7) == 0
    assert contents(photos.parent / "out") == contents(photos)


def test_pictures_of_one_name_have_copies_of_two(photos):
    for suffix in (".png", ".bmp"):
        Image.fromarray(noise(90, 90)).save(photos / f"twin{suffix}")
    assert reduce(photos, photos.parent / "out", 60_000) == 0
    assert {"twin.jpg", "twin.png.jpg"} <= set(contents(photos.parent / "out"))


def test_a_damaged_picture_is_named_and_left_out(photos, capsys):
    (photos / "bad.png").write_bytes(b"damaged")
    assert reduce(photos, photos.parent / "out", 60_000) == 1
    assert capsys.readouterr().err.count("skipped: ") == 1
    assert len(contents(photos.parent / "out")) == 8


def test_what_cannot_be_is_refused(photos):
    with pytest.raises(FileExistsError, match="is not empty"):
        reduce(photos, photos, 60_000)
    with pytest.raises(ValueError, match="cannot have 100 bytes"):
        reduce(photos, photos.parent / "out", 100)


def test_stripes_too_fine_for_a_copy_become_grey_and_no_other_stripes(tmp_path):
    stripes = np.zeros((120, 160, 3), np.uint8)
    stripes[:, ::2] = 255
    copy = reduced(save_png(tmp_path / "stripes.png", stripes), 4000)
    levels = np.asarray(Image.open(io.BytesIO(copy.content)).convert("L")).astype(int)
    assert 3500 < levels.size <= 4100 and abs(levels[:, 4:-4] - 128).max() < 30
