"""A decoder alone, and the checkpoints that it finds."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import GOLDEN, ROOT, noise, run_process, save_tiny

from model import codec_class
from xfr.decoder import Decoder
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import Xfr, unpack
from xfr.images import Picture

# Decodes a learned file and a graphic, then lists the modules that were loaded.
DECODE_ALONE = f"""
import sys
from dataclasses import replace
from pathlib import Path
from pathlib import Path
sys.path[0] = {str(ROOT)!r}
from model import codec_class
from xfr.decoder import Decoder
from xfr.file import unpack
golden = Path({str(GOLDEN)!r})
for model, file in (("hyperprior", "hyperprior"), ("binary", "binary"), ("binary", "lossless")):
    decoder = Decoder(golden / f"{{model}}.tar")
    decoder.decode(unpack((golden / f"{{file}}.xfr").read_bytes()))
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
    shipped = 0xC233B4BD1C4EEECB
    for fingerprint, name in ((shipped, f"visual ({shipped:016x})"), (5, f"{5:016x}")):
        with pytest.raises(ValueError) as refused:
            Decoder(paths[0]).decode(replace(xfr, fingerprint=fingerprint))
        assert str(refused.value) == f"made by checkpoint {name}, which is not here"


def test_a_missing_checkpoint_of_an_earlier_version_is_named_with_the_way_to_get_it(files):
    paths, (xfr, *_) = files
    with pytest.raises(ValueError, match=r"visual of 72f439e \(51893cca3b95ed4b\)") as refused:
        Decoder(paths[0]).decode(replace(xfr, fingerprint=0x51893CCA3B95ED4B))
    assert any("`git show 72f439e:out/visual.tar >" in note for note in refused.value.__notes__)
