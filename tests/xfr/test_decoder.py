"""A decoder alone, and the checkpoints that it finds."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    GOLDEN,
    ROOT,
    colour,
    drawing,
    grey,
    noise,
    run_process,
    save_tiny,
    write_checkpoint,
)

from model import codec_class
from model.checkpoint import load_checkpoint
from model.tiles import Extract
from xfr.checkpoints import SHIPPED
from xfr.decoder import Decoder
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import Xfr, unpack
from xfr.graphics import compress
from xfr.images import Picture
from xfr.metadata import Metadata

# Decodes a learned file and a graphic, then lists the modules that were loaded.
DECODE_ALONE = f"""
import sys
from dataclasses import replace
from pathlib import Path
from pathlib import Path
sys.path[0] = {str(ROOT)!r}
from model import codec_class
from model.tiles import Extract
from xfr.decoder import Decoder
from xfr.file import unpack
golden = Path({str(GOLDEN)!r})
for model, file in (("hyperprior", "hyperprior"), ("binary", "binary"), ("binary", "lossless")):
    decoder = Decoder(golden / f"{{model}}.tar")
    xfr = unpack((golden / f"{{file}}.xfr").read_bytes())
    decoder.decode(xfr)
    decoder.decode(xfr, extract=Extract(8))
print(*sys.modules, sep="\\n")
"""
# Modules that only encoding, training or scoring needs.
NEEDLESS = [
    "xfr.encoder", "xfr.candidates", "xfr.palette", "xfr.targets",
    "utils", "matplotlib", "skimage", "ssimulacra2",
]  # fmt: skip
IMPORTED_BY_THE_CODEC = [
    "model.hyperprior.search", "model.distortion", "model.ssimulacra2", "model.cvvdp",
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that a process has loaded that only decodes."""
    result = run_process([sys.executable, "-c", DECODE_ALONE])
    assert result.code == 0, result.err
    return set(result.out.split())


@pytest.mark.parametrize("name", NEEDLESS)
def test_a_decoder_loads_nothing_that_only_the_encoder_needs(loaded, name):
    assert "model.hyperprior.network" in loaded and name not in loaded


@pytest.mark.parametrize("name", IMPORTED_BY_THE_CODEC)
def test_a_decoder_loads_no_search_and_no_training_loss(loaded, name):
    assert name not in loaded


def test_a_decoder_reports_each_tile_that_is_done_and_ends_when_the_report_raises(tmp_path):
    model = save_tiny(tmp_path / "tiny.tar")
    height, width = 70, 2 * codec_class("binary").TILE + 1
    data = Encoder(model).encode(Picture(noise(height, width)), EncodingSettings(1))
    xfr, shares = unpack(data), []
    assert not xfr.graphic
    decoder = Decoder(model)
    picture = decoder.decode(xfr, shares.append)
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    assert np.array_equal(picture.pixels, decoder.decode(xfr).pixels)

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoder.decode(xfr, stop)


def graphic(pixels: np.ndarray, **fields) -> Xfr:
    """A file that holds ``pixels`` without loss."""
    height, width = pixels.shape[:2]
    is_grey, payload = pixels.ndim == 2, compress(pixels)
    return Xfr(1, 0, width, height, is_grey, 50, payload, graphic=True, **fields)


def test_a_graphic_is_reduced_and_cropped_across_its_tiles(monkeypatch):
    monkeypatch.setattr("xfr.graphics.TILE_SIDE", 64)
    pixels = drawing(150, 200)
    xfr, decoder = graphic(pixels), Decoder(None)
    crop = decoder.decode(xfr, extract=Extract(crop=(50, 60, 100, 9)))
    assert np.array_equal(crop.pixels, pixels[60:69, 50:150])
    preview = decoder.decode(xfr, extract=Extract(8)).pixels
    assert preview.shape == (19, 25, 3)
    assert np.abs(preview[4, 5] - pixels[32:40, 40:48].mean((0, 1))).max() <= 0.5
    assert np.abs(preview[18, 24] - pixels[144:, 192:].mean((0, 1))).max() <= 0.5
    with pytest.raises(ValueError, match="a crop of 10x10 pixels at 195, 0 is not within"):
        decoder.decode(xfr, extract=Extract(crop=(195, 0, 10, 10)))


def test_only_the_tiles_of_a_crop_of_a_graphic_are_decoded(monkeypatch):
    monkeypatch.setattr("xfr.graphics.TILE_SIDE", 64)
    xfr = graphic(drawing(64, 128))
    xfr.payload = xfr.payload[:-9] + bytes(9)
    with pytest.raises(ValueError, match="damaged payload"):
        Decoder(None).decode(xfr)
    crop = Decoder(None).decode(xfr, extract=Extract(crop=(0, 0, 64, 64)))
    assert np.array_equal(crop.pixels, drawing(64, 128)[:, :64])


@pytest.mark.parametrize("learned", [False, True])
def test_grey_and_transparency_are_reduced_and_cropped_too(tmp_path, learned):
    pixels, alpha = grey(40, 60), grey(40, 60, 1)
    model = save_tiny(tmp_path / "tiny.tar")
    xfr = graphic(pixels, alpha=alpha)
    if learned:
        xfr = unpack(
            Encoder(model).encode(Picture(noise(40, 60)[..., 0], alpha), EncodingSettings())
        )
        assert not xfr.graphic
    decoder = Decoder(model)
    crop = decoder.decode(xfr, extract=Extract(crop=(7, 8, 9, 10)))
    assert crop.pixels.shape == crop.alpha.shape == (10, 9)
    assert np.array_equal(crop.alpha, alpha[8:18, 7:16])
    preview = decoder.decode(xfr, extract=Extract(16))
    assert preview.pixels.shape == preview.alpha.shape == (3, 4)
    assert abs(preview.alpha[0, 0] - alpha[:16, :16].mean()) <= 0.5
    assert abs(preview.alpha[2, 3] - alpha[32:, 48:].mean()) <= 0.5


def test_a_preview_measures_as_many_inches_as_the_picture():
    metadata = Metadata(icc=b"profile", exif=b"exif", dpi=(300, 150))
    xfr = graphic(colour(20, 20), metadata=metadata)
    preview = Decoder(None).decode(xfr, extract=Extract(8))
    assert preview.metadata == replace(metadata, dpi=(37.5, 18.75))
    crop = Decoder(None).decode(xfr, extract=Extract(crop=(0, 0, 5, 5)))
    assert crop.metadata == metadata


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[list[Path], list[Xfr]]:
    """Three checkpoints in one folder, and a file of each."""
    folder = tmp_path_factory.mktemp("three")
    paths = [save_tiny(folder / f"{name}.tar", seed=seed) for seed, name in enumerate("abc")]
    picture = Picture(noise(40, 50))
    data = [Encoder(path).encode(picture, EncodingSettings()) for path in paths]
    return paths, [unpack(file) for file in data]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 1)])
def test_each_file_finds_its_checkpoint_beside_the_model_in_any_order(files, order):
    paths, xfrs = files
    decoder = Decoder(paths[0])
    for place in order:
        found, alone = decoder.decode(xfrs[place]), Decoder(paths[place]).decode(xfrs[place])
        assert np.array_equal(found.pixels, alone.pixels)


def test_a_missing_checkpoint_is_named_if_it_is_a_shipped_one(files):
    paths, (xfr, *_) = files
    shipped = SHIPPED["visual"].fingerprint
    for fingerprint, name in ((shipped, f"visual ({shipped:016x})"), (5, f"{5:016x}")):
        with pytest.raises(ValueError) as refused:
            Decoder(paths[0]).decode(replace(xfr, fingerprint=fingerprint))
        assert str(refused.value) == f"made by checkpoint {name}, which is not here"


def test_a_missing_checkpoint_of_an_earlier_version_is_named_with_the_way_to_get_it(files):
    paths, (xfr, *_) = files
    with pytest.raises(ValueError, match=r"visual of 72f439e \(51893cca3b95ed4b\)") as refused:
        Decoder(paths[0]).decode(replace(xfr, fingerprint=0x51893CCA3B95ED4B))
    assert any("`git show 72f439e:out/visual.tar >" in note for note in refused.value.__notes__)


def test_a_checkpoint_beside_whose_weights_do_not_fit_is_named(tmp_path):
    checkpoint = load_checkpoint(save_tiny(tmp_path / "good.tar"))
    del checkpoint["fingerprint"]
    checkpoint["weights"].popitem()
    write_checkpoint(tmp_path / "other.tar", checkpoint)
    decoder = Decoder(tmp_path / "good.tar")
    with pytest.raises(ValueError, match=r"other\.tar: the checkpoint's weights do not fit"):
        decoder.codec(load_checkpoint(tmp_path / "other.tar")["fingerprint"])
