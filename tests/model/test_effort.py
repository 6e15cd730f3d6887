"""The encoder's search: --effort."""

import os
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers import ROOT, colour, full_latent, run_process, tiny_codec

from model.bytestream import pack_chunk
from model.distortion import RECORDS
from model.hyperprior import search
from model.hyperprior.coder import CHANNEL_STEP, HyperpriorLatents, SearchedLatents
from model.hyperprior.search import (
    Adam,
    BandSearch,
    Objective,
    Point,
    nearest,
    plan,
    sampled,
)
from model.limits import MAX_EFFORT
from model.tiles import Tile, View
from utils.jobs import run_job
from utils.tally import Tally

QUALITY = 50
SETTINGS = [record.search for record in RECORDS.values()]
STEEP = 6  # from here on all searches anneal


def objective_of(codec, height: int = 64, width: int = 128, tile: Tile | None = None) -> Objective:
    """The objective of a picture, or of a tile of it."""
    around = Tile(0, height, 0, width)
    x = torch.from_numpy(colour(height, width)).permute(2, 0, 1)[None] / 255
    quality = codec.quality_tensor(QUALITY)
    view = View(tile or around, around, x)
    return Objective(codec, view, codec.analyse(x, quality), quality)


def band_search(objective: Objective, effort: int) -> BandSearch:
    return BandSearch(objective, effort, lambda _: None)


@pytest.fixture(scope="module")
def codec():
    return tiny_codec("hyperprior")


@pytest.mark.parametrize("effort", range(1, MAX_EFFORT))
@pytest.mark.parametrize("settings", SETTINGS)
def test_an_effort_takes_two_to_three_times_as_long_as_the_one_below(effort, settings):
    assert 2 <= sum(plan(effort + 1, settings)) / sum(plan(effort, settings)) <= 3


@pytest.mark.parametrize("settings", SETTINGS)
def test_high_efforts_anneal_and_low_ones_only_where_rdoq_finds_nothing(settings):
    plans = [plan(effort, settings) for effort in range(1, MAX_EFFORT + 1)]
    annealing = [one.annealing > 0 for one in plans]
    assert annealing == sorted(annealing) and annealing[STEEP - 1]
    assert annealing[0] == (not any(one.rdoq for one in plans))


@pytest.mark.parametrize("effort", [1, STEEP])
@pytest.mark.parametrize("distortion", RECORDS)
def test_a_search_finds_what_costs_less(codec, monkeypatch, effort, distortion):
    """The cost is that of the file and of the picture that a decoder makes of it."""
    monkeypatch.setattr(codec, "distortion", distortion)
    picture, costs = colour(64, 128), []
    for chosen in (0, effort):
        payload = codec.compress(picture, QUALITY, chosen)
        decoded = codec.decompress(payload, 64, 128, QUALITY)
        costs.append(8 * len(payload) + codec.picture_distortion(decoded, picture, QUALITY))
    assert costs[1] < costs[0]


def test_annealing_finds_more_than_its_start(codec):
    """The latent is made as small as in trained codecs: a tiny codec's symbols are too large."""
    objective = objective_of(codec)
    objective.start = start = Point(
        [0.02 * part for part in objective.start.parts], objective.start.z
    )
    found = band_search(objective, STEEP).anneal(start, 60)
    assert objective.cost(found) < 0.999 * objective.cost(start)


def test_annealing_moves_z_and_then_rounds_it(codec, monkeypatch):
    monkeypatch.setattr(search, "Z_LEARNING_RATE", 0.5)
    objective = objective_of(codec)
    found = band_search(objective, STEEP).anneal(objective.start, 20)
    assert found.z.equal(found.z.round()) and not found.z.equal(objective.start.z.round())


def test_adam_steps_as_that_of_torch_does():
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(50, generator=generator)
    theirs = ours.clone().requires_grad_()
    adam, reference = Adam(ours), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(20):
        theirs.grad = torch.randn(50, generator=generator)
        reference.step()
        adam.step(ours, theirs.grad, 0.01)
    assert ours.allclose(theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("effort", [1, STEEP])
def test_a_search_that_finds_nothing_changes_nothing(codec, monkeypatch, effort):
    def worse(self, point, steps):
        return Point([part + 3 for part in point.parts], point.z)

    monkeypatch.setattr(BandSearch, "rdoq", worse)
    monkeypatch.setattr(BandSearch, "anneal", worse)
    objective = objective_of(codec)
    found, start = band_search(objective, effort).run(), objective.start
    assert torch.equal(found.y, objective.merge(start.parts)) and torch.equal(found.z, start.z)


@pytest.mark.parametrize("distortion", RECORDS)
def test_the_cost_is_that_of_the_file_and_its_picture(codec, monkeypatch, distortion):
    monkeypatch.setattr(codec, "distortion", distortion)
    objective = objective_of(codec)
    payload = codec.compress(colour(64, 128), QUALITY)
    decoded = codec.decompress(payload, 64, 128, QUALITY)
    cost = 8 * len(payload) + codec.picture_distortion(decoded, colour(64, 128), QUALITY)
    length = 8 * len(pack_chunk(b""))  # that the payload has before its tile
    assert objective.cost(objective.start) == pytest.approx(cost - length, abs=16)


def test_the_search_makes_small_what_training_does(codec):
    objective = objective_of(codec)
    trial = objective(objective.start, nearest)
    x_hat, bpp = codec(objective.x, objective.quality)
    distortion = codec.weighted_distortion(x_hat, objective.x, objective.quality)
    pixels = objective.x[0, 0].numel()
    assert trial.cost.item() == pytest.approx(pixels * (bpp + distortion).item(), rel=5e-3)
    y_bits = sum(coding.bits.sum().item() for coding in trial.passes)
    assert 0 < y_bits < pixels * bpp.item()  # z has bits too


def test_only_the_tile_is_searched_and_only_its_bits_count(codec):
    tile = Tile(64, 128, 0, 64)
    objective = objective_of(codec, 128, 128, tile)
    y, z = band_search(objective, 3).run()
    assert y.shape[2:] == (4, 4) and z.shape[2:] == (1, 1)
    start = objective.latents(objective.start).y
    assert start.allclose(objective.y[:, :, 2:6, 0:4], rtol=0, atol=0.5)  # of a symbol
    trial = objective(objective.start, nearest)
    objective.y[:, :, 0:2] += 3  # changes the picture, not the bits
    changed = objective(objective.start, nearest)
    for before, after in zip(trial.passes, changed.passes, strict=True):
        assert before.bits.equal(after.bits)
    assert trial.cost != changed.cost


@pytest.mark.parametrize("distortion", RECORDS)
def test_a_search_begins_with_the_symbols_that_are_coded_without_one(
    codec, monkeypatch, distortion
):
    monkeypatch.setattr(codec, "distortion", distortion)
    objective = objective_of(codec)
    y, z = objective.latents(objective.start)
    quality = objective.quality
    plain = codec.tile_coder(128, quality).encode(codec.analyse(objective.x, quality))
    assert codec.tile_coder(128, quality).encode(SearchedLatents(y, z)) == plain


def test_a_search_may_use_channels_that_were_not_worth_coding(monkeypatch):
    codec = tiny_codec("hyperprior")
    assert codec.config.latent > CHANNEL_STEP
    few = HyperpriorLatents(
        torch.zeros(1, CHANNEL_STEP, 4, 8), torch.zeros(1, codec.config.hyper, 1, 2)
    )
    picture, whole = colour(64, 128), Tile(0, 64, 0, 128)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255

    def found(effort):
        view, quality = View(whole, whole, x), codec.quality_tensor(QUALITY)
        return codec.search(view, few, quality, effort, lambda _: None).y.shape[1]

    assert found(STEEP) > CHANNEL_STEP
    monkeypatch.setattr(
        BandSearch, "run", lambda self: self.objective.latents(self.objective.start)
    )
    assert found(STEEP) == CHANNEL_STEP


@pytest.mark.parametrize(
    ("tile", "pixels", "heights"),
    [
        (Tile(0, 1024, 0, 1024), 2**19, [512, 512]),
        (Tile(1024, 1792, 64, 576), 2**19, [768]),
        (Tile(0, 576, 1024, 2048), 2**19, [320, 256]),
        (Tile(64, 256, 0, 1024), 1, [64, 64, 64]),
    ],
)
def test_bands_make_up_the_tile(tile, pixels, heights):
    bands = tile.bands(pixels, 64)
    assert [band.shape for band in bands] == [(height, tile.shape[1]) for height in heights]
    tops = [tile.top, *(band.bottom for band in bands)]
    assert [band.top for band in bands] + [tile.bottom] == tops
    assert {(band.left, band.right) for band in bands} == {(tile.left, tile.right)}


@pytest.mark.parametrize("effort", [2, STEEP])
def test_each_band_is_searched_beside_what_the_one_above_became(codec, monkeypatch, effort):
    monkeypatch.setattr(search, "BAND_PIXELS", 64 * 64)
    found, above, run = [], [], BandSearch.run

    def keep(self):
        above.append(self.objective.y.clone())
        found.append(run(self))
        return found[-1]

    monkeypatch.setattr(BandSearch, "run", keep)
    picture, quality = colour(128, 64), codec.quality_tensor(QUALITY)
    (latents,) = codec.tile_latents(picture, quality, effort)
    upper, lower = found
    assert latents.y.equal(torch.cat([upper.y, lower.y], 2))
    assert latents.z.equal(torch.cat([upper.z, lower.z], 2))
    assert above[1][:, :, :2].equal(upper.y[:, :, 2:])  # NEAR_PIXELS
    assert not above[0][:, :, 2:4].equal(upper.y[:, :, 2:])


@pytest.mark.parametrize("effort", [2, STEEP])
def test_pictures_of_several_tiles_decode(codec, monkeypatch, effort):
    monkeypatch.setattr(codec, "TILE", 64)
    payload = codec.compress(colour(60, 100), QUALITY, effort)
    assert full_latent(codec, payload, 60, 100, QUALITY).shape[2:] == (4, 8)
    assert payload != codec.compress(colour(60, 100), QUALITY)


def test_the_temperature_falls_from_its_first_value_to_its_last(codec, monkeypatch):
    temperatures = []

    def spy(part, mean, temperature, noise, generator):
        temperatures.append(temperature)
        return sampled(part, mean, temperature, noise, generator)

    monkeypatch.setattr(search, "sampled", spy)
    objective = objective_of(codec, 64, 64)
    band_search(objective, STEEP).anneal(objective.start, 30)
    first, last = search.TEMPERATURES
    assert temperatures == sorted(temperatures, reverse=True)
    assert temperatures[0] == first and last < temperatures[-1] < last + 0.05


@pytest.mark.parametrize("temperature", [0.5, 0.05])
def test_symbols_are_more_certain_at_low_temperatures(temperature):
    part = torch.rand(10_000, generator=torch.Generator().manual_seed(1)) * 10 - 5
    generator = torch.Generator().manual_seed(0)
    symbols, _ = sampled(part, torch.zeros(()), temperature, 1.0, generator)
    assert ((symbols - part).abs() <= 1).all()
    between = ((symbols - symbols.round()).abs() > 0.1).float().mean()
    assert between > 0.1 if temperature == 0.5 else between < 0.02
    nearest_one = (symbols.round() == part.round()).float().mean()
    assert nearest_one > (0.7 if temperature == 0.5 else 0.97)


LOADED = """
import sys
sys.path.append("tests")
from helpers import colour, tiny_codec
codec = tiny_codec("hyperprior")
for effort in (0, 1):
    codec.compress(colour(20, 20), 50, effort)
    print("model.hyperprior.search" in sys.modules)
"""


def test_only_encoding_with_effort_loads_the_search():
    result = run_process([sys.executable, "-c", LOADED], ROOT)
    assert result.out.split() == ["False", "True"], result.err


@pytest.mark.parametrize("effort", [0, 2, STEEP])
def test_progress_goes_from_tile_to_tile_up_to_all(codec, monkeypatch, effort):
    monkeypatch.setattr(codec, "TILE", 64)
    shares = []
    codec.compress(colour(64, 128), QUALITY, effort, shares.append)
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert any(share == pytest.approx(0.5) for share in shares)
    assert len(shares) == 2 * max(1, sum(plan(effort, SETTINGS[0])) if effort else 0)


def test_a_search_ends_when_its_report_raises(codec):
    def stop(share: float) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        codec.compress(colour(64, 64), QUALITY, MAX_EFFORT, stop)


def test_ctrl_c_does_not_wait_for_a_search():
    tally, ended = Tally("encoded"), []

    def compute(path, loaded):
        with tally.at_work.progress(path) as report:
            deadline = time.monotonic() + 20
            try:
                while time.monotonic() < deadline:
                    report(0.5)
                    time.sleep(0.01)
            except CancelledError:
                ended.append(path)
                raise

    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run_job([Path("a.png")], tally, Path, compute, Path, ThreadPoolExecutor(1))
    assert ended == [Path("a.png")]
