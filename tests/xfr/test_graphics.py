"""Graphics: pictures that cost less as lossless WebP, exactly or with fewer colours."""

import gc
import io
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, SMALL, as_tensor, colour, drawing, grey, noise, save_png
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from model.bytestream import Reader, pack_chunk, pack_number
from model.tiles import Tile
from xfr import candidates, graphics, palette
from xfr import encoder as encoding
from xfr.candidates import Graphic
from xfr.decoder import Decoder
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import needs_checkpoint, unpack
from xfr.images import Picture, read_picture
from xfr.metadata import Metadata
from xfr.palette import Colours

NOISE = noise(200, 300)


DRAWING = drawing()

# Payloads


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (61, 67), (128, 300), (4, 5000), (5000, 3)])
def test_pictures_of_any_size_come_back_exactly(shape):
    for pixels in (colour(*shape), grey(*shape), np.resize(NOISE, (*shape, 3))):
        found = graphics.decompress(graphics.compress(pixels), *shape)
        assert found.shape == (*shape, 3) and np.array_equal(found, Picture(pixels).rgb)


def test_large_pictures_are_stored_in_tiles(monkeypatch):
    monkeypatch.setattr(graphics, "TILE_SIDE", 32)
    payload = graphics.compress(drawing(70, 100))
    reader, chunks = Reader(payload, "payload"), 0
    while reader.remaining:
        chunks += bool(reader.chunk())
    assert chunks == 12
    assert np.array_equal(graphics.decompress(payload, 70, 100), drawing(70, 100))


@pytest.mark.parametrize("shape", [(2, 2050), (2050, 2)])
def test_a_tile_of_a_file_has_2048_pixels_each_way(shape):
    """Every file of version 1 has these tiles."""
    pixels = drawing(*shape)
    parts = pixels[:2048, :2048], pixels[2048:] if shape[0] > 2048 else pixels[:, 2048:]
    payload = b"".join(pack_chunk(graphics.compress_tile(part)) for part in parts)
    assert graphics.compress(pixels) == payload
    assert np.array_equal(graphics.decompress(payload, *shape), pixels)


def test_a_payload_is_the_bitstream_that_pillow_writes_without_its_header():
    stream = io.BytesIO()
    Image.fromarray(drawing()).save(stream, "WEBP", lossless=True)
    payload = graphics.compress(drawing())
    assert len(payload) <= len(stream.getvalue()) - 20
    assert Reader(payload, "payload").chunk() in stream.getvalue()


def test_a_limit_is_kept_to_the_byte():
    payload = graphics.compress(drawing())
    graphic = Graphic(Picture(drawing()))
    assert graphic.exact(len(payload)) == payload
    assert graphic.exact(len(payload) - 1) is None


def test_a_sample_tells_photographs_from_what_may_be_smaller_as_a_graphic():
    photograph = read_picture(ROOT / "out/original/chelsea.png").pixels
    for pixels in (photograph, photograph[:, :, 0], photograph[:50], NOISE):
        size = len(graphics.compress(pixels))
        assert not Graphic(Picture(pixels)).may_pay(size // 4)
        assert Graphic(Picture(pixels)).may_pay(size)
    for pixels in (drawing(), drawing(40, 2000), drawing(3, 8), np.full((500, 500), 7, np.uint8)):
        assert Graphic(Picture(pixels)).may_pay(len(graphics.compress(pixels)))
    assert Graphic(Picture(drawing())).may_pay(0)  # with fewer colours


# Palettes


def shaded(height: int = 150, width: int = 200) -> np.ndarray:
    """uint8 [H, W, 3]: discs and lines with smooth edges, as text on a screen has."""
    rng = np.random.default_rng(2)
    image = Image.new("RGB", (4 * width, 4 * height), "white")
    draw = ImageDraw.Draw(image)
    for shape, shade in zip(rng.integers(0, 4 * width, (60, 4)), rng.integers(0, 9, (60, 3))):
        left, top, length, thickness = map(int, shape)
        fill = tuple(map(int, 25 * shade))
        draw.line((left, top, left + length // 4, top + thickness // 9), fill, 9)
        draw.ellipse((left, top, left + length // 9, top + length // 9), fill)
    return np.asarray(image.reduce(4))


def squared_error(pixels: np.ndarray, other: np.ndarray) -> float:
    return np.square(pixels.astype(float) - other).mean()


@pytest.mark.parametrize("side", [64, 1024])
def test_each_pixel_gets_the_nearest_colour_of_a_palette(monkeypatch, side):
    monkeypatch.setattr(palette, "PART_SIDE", side)
    pixels = shaded()
    colours = Colours(pixels)
    assert len(colours.numbers) == len(np.unique(pixels.reshape(-1, 3), axis=0))
    errors = []
    for count, found in zip(palette.PALETTE_SIZES, colours.palettes, strict=False):
        assert count / 2 < len(found.colours) <= count
        reduced = colours.reduced(found)
        distances = np.linalg.norm(pixels[:, :, None].astype(float) - found.colours, axis=3)
        chosen = np.linalg.norm(pixels.astype(float) - reduced, axis=2)
        assert np.allclose(chosen, distances.min(2))
        errors.append(squared_error(pixels, reduced))
    assert len(errors) > 5 and errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * errors[0]


def test_palettes_are_at_least_as_good_as_those_of_pillow():
    pixels = shaded()
    colours = Colours(pixels)
    for found in colours.palettes[2:]:
        theirs = Image.fromarray(pixels).quantize(
            len(found.colours), Image.Quantize.MEDIANCUT, 1, dither=Image.Dither.NONE
        )
        ours = squared_error(pixels, colours.reduced(found))
        assert ours < 1.1 * squared_error(pixels, np.asarray(theirs.convert("RGB")))


def test_a_few_colours_are_those_of_the_picture():
    pixels = np.repeat(np.repeat(NOISE[:2, :2], 20, axis=0), 30, axis=1)
    (two,) = Colours(pixels).palettes
    assert len(two.colours) == 2
    assert Colours(pixels[:20, :30]).palettes == []  # a single one: there is nothing to leave out


def test_photographs_have_too_many_colours_for_a_palette():
    assert Colours(noise(300, 300)).palettes == []
    assert len(Colours(noise(100, 100)).palettes) == len(palette.PALETTE_SIZES)


# The cheapest version


@pytest.mark.parametrize("weight", [0.0001, 0.001, 0.01, 0.1, 10])
def test_the_number_of_colours_that_costs_least_is_found(weight):
    pixels = shaded()
    graphic = Graphic(Picture(pixels))

    def distortion(rgb: np.ndarray) -> float:
        return weight * pixels.size * squared_error(pixels, rgb)

    found = graphic.cheapest(distortion, 1e9)
    costs = {}
    for step in [*range(len(graphic.colours.palettes)), None]:
        payload = graphic.payload(step)
        assert np.array_equal(graphics.decompress(payload, *pixels.shape[:2]), graphic.pixels(step))
        costs[payload] = 8 * len(payload) + distortion(graphic.pixels(step))
    assert costs[found] == min(costs.values())
    assert graphic.cheapest(distortion, costs[found]) == found
    assert graphic.cheapest(distortion, costs[found] - 1) is None


def test_what_takes_far_too_many_bytes_is_not_looked_at():
    def distortion(rgb: np.ndarray) -> float:
        raise AssertionError

    graphic = Graphic(Picture(shaded()))
    assert graphic.cheapest(distortion, len(graphic.payload(candidates.FIRST_PALETTE))) is None


# Damaged payloads


def refused_or_right(payload: bytes, height: int, width: int) -> None:
    try:
        assert graphics.decompress(payload, height, width).shape == (height, width, 3)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1


@given(st.binary(max_size=200), st.integers(1, 40), st.integers(1, 40))
def test_any_bytes_are_refused_or_a_picture_of_the_declared_size(data, height, width):
    refused_or_right(data, height, width)
    refused_or_right(pack_chunk(data), height, width)


@given(st.data())
def test_a_changed_payload_is_refused_or_a_picture_of_the_declared_size(data):
    chunk = bytearray(Reader(graphics.compress(drawing(20, 30)), "payload").chunk())
    for _ in range(data.draw(st.integers(1, 5))):
        chunk[data.draw(st.integers(0, len(chunk) - 1))] = data.draw(st.integers(0, 255))
    refused_or_right(pack_chunk(bytes(chunk)), 20, 30)
    refused_or_right(pack_chunk(bytes(chunk)), data.draw(st.integers(1, 99)), 30)


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_truncated_payload_is_refused(length):
    chunk = Reader(graphics.compress(drawing()), "payload").chunk()
    for payload in (pack_chunk(chunk[:length]), pack_number(len(chunk)) + chunk[:length], b""):
        with pytest.raises(ValueError, match=r"(damaged|truncated) payload"):
            graphics.decompress(payload, 150, 200)
    with pytest.raises(ValueError, match="damaged payload: 3 trailing bytes"):
        graphics.decompress(pack_chunk(chunk) + b"abc", 150, 200)


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
            graphics.decompress(pack_chunk(data), 150, 200)


def test_all_tiles_must_be_there_before_memory_is_taken_for_them(monkeypatch):
    monkeypatch.setattr(np, "empty", None)
    tile = pack_chunk(b"tile")
    with pytest.raises(ValueError, match="truncated payload"):
        graphics.decompress(3 * tile, 10**4, 10**4)


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
    """Give every learned payload this length, and decode it to these pixels."""

    def run(encoder: Encoder, length: int, rgb: np.ndarray = DRAWING) -> None:
        monkeypatch.setattr(encoder.codec, "compress", lambda *args: bytes(length))
        tile = Tile(0, rgb.shape[0], 0, rgb.shape[1]), torch.tensor(rgb)
        monkeypatch.setattr(encoder.codec, "decoded_tiles", lambda *args: iter([tile]))

    return run


@pytest.mark.parametrize("pixels", [drawing(), drawing()[:, :, 0]], ids=["colour", "grey"])
def test_the_smaller_file_is_kept_and_the_graphic_if_they_are_equal(encoder, learned, pixels):
    payload, exact = graphics.compress(pixels), Picture(pixels).rgb
    for length, is_graphic in ((-1, False), (0, True), (100, True)):
        learned(encoder, len(payload) + length, exact)
        xfr, _ = encoded(encoder, pixels, quality=90)
        assert xfr.graphic == is_graphic and xfr.quality == 90
        assert xfr.payload == (payload if is_graphic else bytes(len(payload) + length))


def test_what_the_learned_file_loses_counts(encoder, learned):
    length = len(graphics.compress(drawing())) // 2
    for rgb, is_graphic in ((drawing(), False), (drawing() // 2, True)):
        learned(encoder, length, rgb)
        assert encoded(encoder, drawing(), quality=90)[0].graphic == is_graphic


@pytest.mark.parametrize("target", ["max_bytes", "target_bpp"])
def test_a_size_is_met_by_what_is_learned_where_no_graphic_fits(encoder, learned, target):
    smallest = min(len(Graphic(Picture(shaded())).payload(version)) for version in range(3))
    learned(encoder, smallest // 2)
    scale = 1 if target == "max_bytes" else 8 / shaded()[:, :, 0].size
    assert encoded(encoder, shaded(), quality=50)[0].graphic
    xfr, size = encoded(encoder, shaded(), target=(target, 0.8 * smallest * scale))
    assert not xfr.graphic and size <= 0.8 * smallest
    xfr, size = encoded(encoder, shaded(), target=(target, 1.5 * smallest * scale))
    assert xfr.graphic and size <= 1.5 * smallest


def test_a_picture_is_let_go_of_when_it_is_encoded(encoder):
    gc.disable()
    try:
        picture = Picture(shaded())
        encoder.encode(picture, EncodingSettings())
        alive = weakref.ref(picture)
        del picture
        assert alive() is None
    finally:
        gc.enable()


def test_large_pictures_are_graphics_only_without_loss_and_if_smaller(
    encoder, learned, monkeypatch
):
    monkeypatch.setattr(encoding, "MAX_COMPARED_PIXELS", 100 * 100)
    monkeypatch.setattr(encoder.codec, "picture_distortion", None)
    payload = graphics.compress(shaded())
    for length, is_graphic in ((len(payload) - 1, False), (len(payload), True)):
        learned(encoder, length)
        xfr, _ = encoded(encoder, shaded(), quality=10)
        assert xfr.graphic == is_graphic
        assert xfr.payload == (payload if is_graphic else bytes(length))


@pytest.mark.parametrize(("width", "tried"), [(4096, "fewer colours"), (4097, "without loss")])
def test_pictures_of_up_to_33_megapixels_may_become_graphics_of_fewer_colours(
    encoder, monkeypatch, width, tried
):
    """Larger ones would take too much memory. The pixels of these take none: they are one."""
    ways = []
    monkeypatch.setattr(encoder.codec, "compress", lambda *args: bytes(1000))
    monkeypatch.setattr(encoding.Encoding, "learned_cost", lambda *args: 0.0)
    monkeypatch.setattr(Graphic, "cheapest", lambda *args: ways.append("fewer colours"))
    monkeypatch.setattr(Graphic, "exact", lambda *args: ways.append("without loss"))
    pixels = np.broadcast_to(np.uint8(9), (8192, width, 3))
    assert not encoded(encoder, pixels)[0].graphic
    assert ways == [tried]


def test_a_drawing_is_not_searched(checkpoints, monkeypatch):
    encoder = Encoder(checkpoints["hyperprior"])
    compress, efforts = encoder.codec.compress, []

    def recorded(rgb, quality, effort, report):
        efforts.append(effort)
        return compress(rgb, quality, effort and 1, report)

    monkeypatch.setattr(encoder.codec, "compress", recorded)
    for pixels, tried in ((shaded(), [0]), (noise(64, 64), [9])):
        efforts.clear()
        xfr, _ = encoded(encoder, pixels, effort=9)
        assert efforts == tried and xfr.effort == 9


def test_a_graphic_has_fewer_colours_at_lower_qualities(encoder, learned):
    learned(encoder, 10**5)
    counts = []
    for quality in (1, 35, 70, 100):
        xfr, size = encoded(encoder, shaded(), quality=quality)
        decoded = Decoder(None).decode(xfr).pixels
        counts.append((len(Colours(decoded).numbers), size))
    assert counts == sorted(counts) and len(set(counts)) > 2
    assert squared_error(shaded(), decoded) < 2


def test_the_distortion_of_a_picture_is_that_of_its_tiles(encoder, monkeypatch):
    codec, pixels = encoder.codec, noise(96, 128)
    x_hat, x = (as_tensor(p)[None] / 255 for p in (drawing(96, 128), pixels))
    whole = 96 * 128 * codec.weighted_distortion(x_hat, x, codec.quality_tensor(60)).item()
    for tile in (codec.TILE, 64):
        monkeypatch.setattr(codec, "TILE", tile)
        found = codec.picture_distortion(drawing(96, 128), pixels, 60)
        padding = -(-96 // codec.STRIDE) * codec.STRIDE / 96
        assert found == pytest.approx(whole, rel=1e-6 if padding == 1 else 0.05)


def test_a_photograph_is_not_even_tried(encoder, monkeypatch):
    monkeypatch.setattr(candidates, "compress", None)
    photograph = read_picture(ROOT / "out/original/chelsea.png").pixels
    for settings in ({"quality": 100}, {"target": ("max_bytes", 50_000)}):
        xfr, _ = encoded(encoder, photograph, **settings)
        assert not xfr.graphic


def test_everything_comes_back_exactly_without_a_checkpoint(encoder, learned):
    learned(encoder, 10**5)
    alpha = np.arange(150 * 200).astype(np.uint8).reshape(150, 200)
    for pixels in (drawing(), drawing()[:, :, 0]):
        picture = Picture(pixels, alpha, Metadata(exif=b"EXIF", dpi=(72, 72)))
        xfr = unpack(encoder.encode(picture, EncodingSettings()))
        found = Decoder(None).decode(xfr)
        assert xfr.graphic and np.array_equal(found.pixels, pixels)
        assert np.array_equal(found.alpha, alpha) and found.metadata == picture.metadata


def test_a_learned_file_needs_a_checkpoint(encoder):
    xfr, _ = encoded(encoder, NOISE)
    assert not xfr.graphic
    with pytest.raises(ValueError, match="made by checkpoint"):
        Decoder(None).decode(xfr)


# Targets


@pytest.mark.parametrize("target", ["max_bytes", "target_bpp"])
def test_without_loss_is_the_best_there_is_within_a_size(encoder, learned, target):
    learned(encoder, 100)
    scale = 1 if target == "max_bytes" else 8 / (150 * 200)
    xfr, size = encoded(encoder, drawing(), target=(target, 50_000 * scale))
    assert xfr.graphic and xfr.target == (target, pytest.approx(50_000 * scale))
    xfr, again = encoded(encoder, drawing(), target=(target, size * scale + 1e-9))
    assert xfr.graphic and again == size
    xfr, _ = encoded(encoder, drawing(), target=(target, (size - 1) * scale))
    assert not xfr.graphic and xfr.payload == bytes(100)


def test_a_size_that_only_the_picture_without_loss_meets_is_met(encoder, learned):
    learned(encoder, 10**5)
    size = len(graphics.compress(drawing())) + 50
    xfr, found = encoded(encoder, drawing(), target=("max_bytes", size))
    assert xfr.graphic and found <= size


def test_a_psnr_is_met_without_loss_where_that_is_smaller(encoder, learned):
    near = drawing() ^ 1
    for length, is_graphic in ((100, False), (10**5, True)):
        learned(encoder, length, near)
        xfr, _ = encoded(encoder, drawing(), target=("target_psnr", 1))
        assert xfr.graphic == is_graphic
    xfr, _ = encoded(encoder, drawing(), target=("target_psnr", 99))  # out of the codec's reach
    assert xfr.graphic


def test_a_psnr_that_no_quality_reaches_is_met_without_loss_whatever_that_takes(encoder, learned):
    learned(encoder, 100, NOISE ^ 1)
    xfr, size = encoded(encoder, NOISE, target=("target_psnr", 99))
    assert xfr.graphic and size > NOISE.size
    assert np.array_equal(Decoder(None).decode(xfr).pixels, NOISE)


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
