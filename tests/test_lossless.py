"""Pictures that are stored without loss, where that takes no more bytes."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, SMALL, colour, grey, noise, save_png
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.bytestream import Reader, pack_chunk, pack_number
from utils import lossless
from utils.bitstream import needs_checkpoint, unpack
from utils.coding import Decoder, Encoder, EncodingSettings
from utils.images import Picture, read_picture
from utils.metadata import Metadata

NOISE = noise(200, 300)


def drawing(height: int = 150, width: int = 200) -> np.ndarray:
    """uint8 [H, W, 3]: hard-edged stripes and a rectangle, as in a screenshot."""
    rng = np.random.default_rng(1)
    pixels = np.repeat(rng.integers(0, 256, (1, -(-width // 4), 3)), 4, axis=1)[:, :width].repeat(
        height, 0
    )
    pixels[height // 3 : height // 2, width // 5 : width // 2] = 255, 0, 80
    return pixels.astype(np.uint8)


# Payloads


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (61, 67), (128, 300), (4, 5000), (5000, 3)])
def test_pictures_of_any_size_come_back_exactly(shape):
    for pixels in (colour(*shape), grey(*shape), np.resize(NOISE, (*shape, 3))):
        found = lossless.decompress(lossless.compress(pixels), *shape)
        assert found.shape == (*shape, 3) and np.array_equal(found, Picture(pixels).rgb)


def test_large_pictures_are_stored_in_tiles(monkeypatch):
    monkeypatch.setattr(lossless, "TILE", 32)
    payload = lossless.compress(drawing(70, 100))
    reader, chunks = Reader(payload, "payload"), 0
    while reader.remaining:
        chunks += bool(reader.chunk())
    assert chunks == 12
    assert np.array_equal(lossless.decompress(payload, 70, 100), drawing(70, 100))


def test_a_payload_is_the_bitstream_that_pillow_writes_without_its_header():
    stream = io.BytesIO()
    Image.fromarray(drawing()).save(stream, "WEBP", lossless=True)
    payload = lossless.compress(drawing())
    assert len(payload) <= len(stream.getvalue()) - 20
    assert Reader(payload, "payload").chunk() in stream.getvalue()


def test_a_limit_is_kept_to_the_byte(monkeypatch):
    for tile in (lossless.TILE, 64):
        monkeypatch.setattr(lossless, "TILE", tile)
        payload = lossless.compress(drawing())
        assert lossless.compress(drawing(), len(payload)) == payload
        assert lossless.compress(drawing(), len(payload) - 1) is None


def test_a_sample_tells_photographs_from_what_may_be_smaller_without_loss():
    photograph = read_picture(ROOT / "out/original/chelsea.png").pixels
    for pixels in (photograph, photograph[:, :, 0], photograph[:50], NOISE):
        size = len(lossless.compress(pixels))
        assert not lossless.may_fit(pixels, size / 4) and lossless.may_fit(pixels, size)
    for pixels in (drawing(), drawing(40, 2000), drawing(3, 8), np.full((500, 500), 7, np.uint8)):
        assert lossless.may_fit(pixels, len(lossless.compress(pixels)))
        assert not lossless.may_fit(pixels, -1)


# Damaged payloads


def refused_or_right(payload: bytes, height: int, width: int) -> None:
    try:
        assert lossless.decompress(payload, height, width).shape == (height, width, 3)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1


@given(st.binary(max_size=200), st.integers(1, 40), st.integers(1, 40))
def test_any_bytes_are_refused_or_a_picture_of_the_declared_size(data, height, width):
    refused_or_right(data, height, width)
    refused_or_right(pack_chunk(data), height, width)


@given(st.data())
def test_a_changed_payload_is_refused_or_a_picture_of_the_declared_size(data):
    chunk = bytearray(Reader(lossless.compress(drawing(20, 30)), "payload").chunk())
    for _ in range(data.draw(st.integers(1, 5))):
        chunk[data.draw(st.integers(0, len(chunk) - 1))] = data.draw(st.integers(0, 255))
    refused_or_right(pack_chunk(bytes(chunk)), 20, 30)
    refused_or_right(pack_chunk(bytes(chunk)), data.draw(st.integers(1, 99)), 30)


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_truncated_payload_is_refused(length):
    chunk = Reader(lossless.compress(drawing()), "payload").chunk()
    for payload in (pack_chunk(chunk[:length]), pack_number(len(chunk)) + chunk[:length], b""):
        with pytest.raises(ValueError, match=r"(damaged|truncated) payload"):
            lossless.decompress(payload, 150, 200)
    with pytest.raises(ValueError, match="damaged payload: 3 trailing bytes"):
        lossless.decompress(pack_chunk(chunk) + b"abc", 150, 200)


@pytest.mark.parametrize(
    ("name", "options"),
    [("WEBP", {"quality": 50}), ("WEBP", {"lossless": True}), ("PNG", {}), ("JPEG", {})],
    ids=["lossy_webp", "whole_webp", "png", "jpeg"],
)
def test_nothing_but_the_bitstream_of_lossless_webp_is_decoded(name, options):
    stream = io.BytesIO()
    Image.fromarray(drawing()).save(stream, name, **options)
    for data in (stream.getvalue(), stream.getvalue()[20:]):
        with pytest.raises(
            ValueError, match="damaged payload: its lossless WebP cannot be decoded"
        ):
            lossless.decompress(pack_chunk(data), 150, 200)


def test_all_tiles_must_be_there_before_memory_is_taken_for_them(monkeypatch):
    monkeypatch.setattr(np, "empty", None)
    tile = pack_chunk(b"tile")
    with pytest.raises(ValueError, match="truncated payload"):
        lossless.decompress(3 * tile, 10**4, 10**4)


# Files


@pytest.fixture(params=SMALL)
def encoder(request, checkpoints) -> Encoder:
    return Encoder(checkpoints[request.param])


def encoded(encoder, pixels, **settings):
    """The content of the file of a picture, and its length."""
    data = encoder.encode(Picture(pixels), EncodingSettings(**settings))
    return unpack(data), len(data)


@pytest.fixture
def learned(monkeypatch):
    """Give every learned payload this length, so that a test knows what is smaller."""

    def run(encoder: Encoder, length: int) -> None:
        monkeypatch.setattr(encoder.codec, "compress", lambda *args: bytes(length))

    return run


@pytest.mark.parametrize("pixels", [drawing(), drawing()[:, :, 0]], ids=["colour", "grey"])
def test_the_smaller_file_is_kept_and_without_loss_if_they_are_equal(encoder, learned, pixels):
    payload = lossless.compress(pixels)
    for length, is_lossless in ((-1, False), (0, False), (1, True), (100, True)):
        learned(encoder, len(payload) + length)
        xfr, _ = encoded(encoder, pixels, quality=20)
        assert xfr.lossless == is_lossless and xfr.quality == 20
        assert xfr.payload == (payload if is_lossless else bytes(len(payload) + length))


def test_a_photograph_is_not_even_tried(encoder, monkeypatch):
    monkeypatch.setattr(lossless, "compress", None)
    photograph = read_picture(ROOT / "out/original/chelsea.png").pixels
    for settings in ({"quality": 100}, {"target": ("max_bytes", 50_000)}):
        xfr, _ = encoded(encoder, photograph, **settings)
        assert not xfr.lossless


def test_everything_comes_back_exactly_without_a_checkpoint(encoder, learned):
    learned(encoder, 10**5)
    alpha = np.arange(150 * 200).astype(np.uint8).reshape(150, 200)
    for pixels in (drawing(), drawing()[:, :, 0]):
        picture = Picture(pixels, alpha, Metadata(exif=b"EXIF", dpi=(72, 72)))
        xfr = unpack(encoder.encode(picture, EncodingSettings()))
        found = Decoder(None).decode(xfr)
        assert xfr.lossless and np.array_equal(found.pixels, pixels)
        assert np.array_equal(found.alpha, alpha) and found.metadata == picture.metadata


def test_a_learned_file_needs_a_checkpoint(encoder):
    xfr, _ = encoded(encoder, NOISE)
    assert not xfr.lossless
    with pytest.raises(ValueError, match="made by checkpoint"):
        Decoder(None).decode(xfr)


# Targets


@pytest.mark.parametrize("target", ["max_bytes", "target_bpp"])
def test_without_loss_is_the_best_there_is_within_a_size(encoder, learned, target):
    learned(encoder, 100)
    scale = 1 if target == "max_bytes" else 8 / (150 * 200)
    xfr, size = encoded(encoder, drawing(), target=(target, 50_000 * scale))
    assert xfr.lossless and xfr.target == (target, pytest.approx(50_000 * scale))
    xfr, again = encoded(encoder, drawing(), target=(target, size * scale + 1e-9))
    assert xfr.lossless and again == size
    xfr, _ = encoded(encoder, drawing(), target=(target, (size - 1) * scale))
    assert not xfr.lossless and xfr.payload == bytes(100)


def test_a_size_that_only_the_picture_without_loss_meets_is_met(encoder, learned):
    learned(encoder, 10**5)
    size = len(lossless.compress(drawing())) + 50
    xfr, found = encoded(encoder, drawing(), target=("max_bytes", size))
    assert xfr.lossless and found <= size


def test_a_psnr_is_met_without_loss_where_that_is_smaller(encoder, learned):
    encoder.codec.decompress = lambda *args: drawing() // 2
    for length, is_lossless in ((100, False), (10**5, True)):
        learned(encoder, length)
        xfr, _ = encoded(encoder, drawing(), target=("target_psnr", 1))
        assert xfr.lossless == is_lossless
    xfr, _ = encoded(encoder, drawing(), target=("target_psnr", 99))  # out of the codec's reach
    assert xfr.lossless
    learned(encoder, 100)
    hint = "; the hyperprior codec" if encoder.codec.arch == "binary" else "$"
    with pytest.raises(ValueError, match="the highest quality reaches .*, less than 99" + hint):
        encoded(encoder, drawing(), target=("target_psnr", 99))


# The scripts


@pytest.fixture
def project(workplace, checkpoints) -> Path:
    """The current folder, with out/main.tar, and two pictures of which one is without detail."""
    (workplace / "out").mkdir()
    shutil.copy(checkpoints["binary"], "out/main.tar")
    save_png(workplace / "out/original/flat.png", np.full((300, 300, 3), 77, np.uint8))
    save_png(workplace / "out/original/noise.png", NOISE)
    return workplace


def test_the_scripts_take_files_of_both_kinds(script, project):
    assert script("encode", "--quality", 100).code == 0
    kinds = {path.stem: needs_checkpoint(path) for path in Path("out/compressed").iterdir()}
    assert kinds == {"flat": False, "noise": True}
    assert "2 skipped" in script("encode", "--quality", 100, "--skip_existing").out
    assert "2 encoded" in script("encode", "--quality", 99, "--skip_existing").out
    assert "2 verified" in script("decode", "--verify").out
    assert script("decode").code == script("test").code == 0
    flat = read_picture(project / "out/reconstructed/flat.bmp").pixels
    assert np.array_equal(flat, np.full((300, 300, 3), 77))


def test_no_checkpoint_is_needed_where_all_files_are_without_loss(script, project):
    script("encode", "--quality", 100)
    Path("out/main.tar").unlink()
    missing = ["--model", "out/none.tar"]
    assert "no such checkpoint" in script("decode", *missing).err
    Path("out/compressed/noise.xfr").unlink()
    assert "1 verified" in script("decode", "--verify", *missing).out
    assert "1 decoded" in script("decode", *missing).out


def test_what_is_no_file_of_ours_needs_no_checkpoint(tmp_path):
    for content in (b"", b"XFR", b"\x89PNG", b"XFR\x02" + bytes(20), b"XFR\x01" + b"\xff" * 20):
        (tmp_path / "file").write_bytes(content)
        assert not needs_checkpoint(tmp_path / "file")
    assert not needs_checkpoint(tmp_path / "none")
