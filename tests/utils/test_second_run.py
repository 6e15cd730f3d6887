"""The rate of another codec's files, beside ours in the scores."""

import os

import pytest
from helpers import colour, save_png
from PIL import Image

from utils import scores
from utils.matching import PictureFiles
from utils.measures import MEASURES
from utils.scores import score_picture


@pytest.fixture
def files(tmp_path) -> PictureFiles:
    """An original, 100 bytes of an .xfr file, and its reconstruction."""
    original = save_png(tmp_path / "original.png", colour(40, 60))
    (tmp_path / "a.xfr").write_bytes(bytes(100))
    return PictureFiles(original, tmp_path / "a.xfr", save_png(tmp_path / "a.png", colour(40, 60)))


@pytest.mark.parametrize(("older", "scored"), [(0, True), (-(10**9), True), (10**6, False)])
def test_a_reconstruction_is_scored_unless_it_is_older_than_its_file(files, older, scored):
    """Nanoseconds. Where a file system counts in seconds, both may have one date."""
    made = files.compressed.stat().st_mtime_ns
    os.utime(files.reconstructed, ns=(made, made - older))
    if scored:
        with files.opened() as opened:
            assert opened.compressed.read() == bytes(100)
    else:
        with pytest.raises(ValueError, match="a.png is older than .*a.xfr"), files.opened():
            pass


def test_a_file_that_is_replaced_while_it_is_scored_is_the_one_that_was_opened(files, monkeypatch):
    """Otherwise the bytes of a new .xfr file would stand beside the picture of the one before."""
    read = scores.read_opened

    def read_while_all_are_replaced(stream, max_pixels):
        for path, content in (
            (files.compressed, bytes(999)),
            (files.original, b""),
            (files.reconstructed, b""),
        ):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)
        return read(stream, max_pixels)

    size = files.original.stat().st_size
    monkeypatch.setattr(scores, "read_opened", read_while_all_are_replaced)
    score = score_picture("a", files, 10**6, [MEASURES["psnr"]]).score
    assert (score.original_bytes, score.compressed_bytes) == (size, 100)
    assert score.measures["psnr"] == float("inf")


def second_score(files: PictureFiles, extension: str, **options):
    path = files.original.with_name(f"second.{extension}")
    try:
        Image.fromarray(colour(40, 60)).save(path, **options)
    except (KeyError, OSError, ValueError):
        pytest.skip(f"this Pillow does not write {extension}")
    result = score_picture("a", files._replace(second=path), 10**6, [MEASURES["psnr"]])
    return result, path.stat().st_size


@pytest.mark.parametrize("extension", ["avif", "jpg", "jpeg", "webp", "jp2", "j2k", "jxl"])
def test_the_size_of_a_compressed_picture_is_a_rate(files, extension):
    result, size = second_score(files, extension)
    second = result.second_score
    assert second.compressed_bytes == size and second.bpp == pytest.approx(8 * size / 2400)
    assert second.compression_ratio == files.original.stat().st_size / size
    assert result.score.compressed_bytes == 100 and result.score.bpp == pytest.approx(1 / 3)


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "ppm"])
def test_the_size_of_a_decoded_picture_is_none(files, extension):
    second = second_score(files, extension)[0].second_score
    assert (second.compressed_bytes, second.compression_ratio, second.bpp) == (None, None, None)
    assert second.measures["psnr"] == float("inf")
