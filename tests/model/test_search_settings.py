"""The settings of the encoder's search: steps, temperatures, noise, rates, and what pays."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import TINY, as_tensor, colour, tiny_codec

from model.distortion import RECORDS
from model.hyperprior import search
from model.hyperprior.coder import HyperpriorLatents
from model.hyperprior.network import HyperpriorCodec
from model.hyperprior.search import (
    Adam,
    BandSearch,
    Coding,
    Objective,
    Point,
    Trial,
    plan,
    sampled,
)
from model.tiles import Tile, View

MSE, VISUAL = (RECORDS[name].search for name in ("mse", "ssimulacra2"))


@pytest.mark.parametrize(
    ("effort", "mse", "visual"),
    [
        (1, (2, 0), (0, 2)),
        (2, (5, 0), (0, 5)),
        (3, (10, 0), (0, 10)),
        (4, (20, 0), (0, 20)),
        (5, (6, 42), (0, 48)),
        (6, (12, 103), (0, 115)),
        (9, (12, 1089), (0, 1101)),
    ],
)
def test_the_steps_of_an_effort_are_divided_as_they_were_tuned(effort, mse, visual):
    assert (plan(effort, MSE), plan(effort, VISUAL)) == (mse, visual)


class Bowl:
    """A stand-in for an objective: the sum of the squares of all symbols."""

    def __init__(self, distortion: str):
        self.codec = SimpleNamespace(trained_for=RECORDS[distortion])
        self.start = Point([torch.full((1, 4, 1, 1, 1), 0.4)], torch.full((1, 2, 1, 1), 0.4))

    def __call__(self, point: Point, quantize) -> Trial:
        values = [*point.parts, point.z]
        return Trial(sum(quantize(x, torch.zeros(()))[0].square().sum() for x in values), [])


@pytest.fixture
def annealed(monkeypatch):
    """The noise, temperatures and rates of y and z of an annealing of so many steps."""

    def run(steps: int, distortion: str = "mse") -> SimpleNamespace:
        found = SimpleNamespace(noise=set(), temperatures=[], y_rates=[], z_rates=[])

        def spy(part, mean, temperature, noise, generator):
            found.noise.add(noise)
            found.temperatures.append(temperature)
            return sampled(part, mean, temperature, noise, generator)

        def step(self, x, gradient, rate):
            (found.z_rates if x.shape[1] == 2 else found.y_rates).append(rate)

        monkeypatch.setattr(search, "sampled", spy)
        monkeypatch.setattr(Adam, "step", step)
        bowl = Bowl(distortion)
        BandSearch(bowl, 9, lambda _: None).anneal(bowl.start, steps)
        found.temperatures = found.temperatures[::2]  # of y and z each
        return found

    return run


def test_the_temperature_is_0_7_for_a_third_and_then_falls_linearly_towards_0_3(annealed):
    found = annealed(300).temperatures
    assert found[:101] == pytest.approx([0.7] * 101)
    assert [found[150], found[200], found[299]] == pytest.approx([0.6, 0.5, 0.302])


def test_noise_grows_with_the_root_of_the_steps_between_its_bounds(annealed):
    noise = [annealed(steps).noise for steps in (9, 64, 100, 144, 400)]
    assert [one.pop() for one in noise] == pytest.approx([0.6, 0.6, 0.75, 0.9, 1])
    assert not any(noise)


@pytest.mark.parametrize(("distortion", "rate"), [("mse", 0.013), ("ssimulacra2", 0.025)])
def test_y_moves_at_its_rate_for_half_of_the_steps_and_then_ever_less(annealed, distortion, rate):
    found = annealed(100, distortion).y_rates
    assert len(found) == 100 and found[:51] == pytest.approx([rate] * 51)
    assert [found[75], found[90]] == pytest.approx([rate / 2, rate / 5])


def test_z_moves_only_in_the_first_third(annealed):
    assert annealed(90).z_rates == [0.007] * 30


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_without_noise_a_value_leans_towards_its_nearer_integer(temperature):
    """The lean is a sigmoid of 4/3 of the fraction's logit, over the temperature twice."""
    part = torch.tensor([2.25, -1.5, 0.9, 7.0])
    found, _ = sampled(part, torch.zeros(()), temperature, 0.0, torch.Generator())
    logits = [math.log(odds) / temperature**2 for odds in (1 / 3, 1, 9, 1 / 99)]
    share = [1 / (1 + math.exp(-4 / 3 * logit)) for logit in logits]
    expected = [low + one for low, one in zip((2, -2, 0, 7), share)]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("value", "odds"), [(0.25, 3), (0.02, 49)])
def test_with_all_noise_a_value_is_rounded_up_with_the_probability_that_it_leans_so(value, odds):
    generator = torch.Generator().manual_seed(0)
    found, _ = sampled(torch.full((40_000,), value), torch.zeros(()), 1.0, 1.0, generator)
    share = 1 / (1 + odds ** (4 / 3))
    assert (found > 0.5).float().mean().item() == pytest.approx(share, rel=0.2)


def test_a_tile_is_searched_in_bands_of_less_than_400_000_pixels():
    heights = [band.shape[0] for band in Tile(0, 1024, 0, 1024).bands(search.BAND_PIXELS, 64)]
    assert heights == [384, 384, 256]


def test_a_search_may_use_thirty_two_more_channels_than_are_worth_coding(monkeypatch):
    torch.manual_seed(0)
    codec, counts = HyperpriorCodec(replace(TINY["hyperprior"], latent=96)).eval(), []

    def run(self):
        counts.append(self.objective.y.shape[1])
        return self.objective.latents(self.objective.start)

    monkeypatch.setattr(BandSearch, "run", run)
    whole, quality = Tile(0, 64, 0, 64), torch.tensor([50.0])
    view = View(whole, whole, as_tensor(colour(64, 64))[None] / 255)
    for channels in (16, 48, 80, 96):
        z = torch.zeros(1, codec.config.hyper, 1, 1)
        latents = HyperpriorLatents(torch.ones(1, channels, 4, 4), z)
        codec.search(view, latents, quality, 1, lambda _: None)
    assert counts == [48, 80, 96, 96]


def test_a_search_starts_less_than_half_a_step_from_the_symbols_that_are_coded():
    codec, whole = tiny_codec("hyperprior"), Tile(0, 128, 0, 128)
    x, quality = as_tensor(colour(128, 128))[None] / 255, torch.tensor([90.0])
    latents = codec.analyse(x, quality)
    objective = Objective(codec, View(whole, whole, x), latents, quality)
    _, y_hat = objective.coded(latents)
    start = objective.latents(objective.start).y
    before, after = ((y[:, : y_hat.shape[1]] - y_hat).abs() for y in (latents.y, start))
    assert before.max() > 0.5  # in the dead zone
    torch.testing.assert_close(after, before.clamp(max=0.48), rtol=0, atol=1e-4)


def test_the_distortion_is_that_of_the_band_and_of_32_pixels_around_it():
    codec, around = tiny_codec("hyperprior"), Tile(0, 256, 0, 128)
    x, quality = as_tensor(colour(256, 128))[None] / 255, torch.tensor([50.0])
    view = View(Tile(64, 128, 0, 64), around, x)
    objective = Objective(codec, view, codec.analyse(x, quality), quality)
    assert objective.x.equal(x[:, :, 32:160, :96])


# RDOQ


def bits_of(symbol: int, scale: float) -> float:
    """-log2 of a Gaussian's probability of a symbol."""
    upper, lower = ((symbol + side) / (scale * math.sqrt(2)) for side in (0.5, -0.5))
    return -math.log2((math.erf(upper) - math.erf(lower)) / 2)


def changed(distortion: str, symbol: int, gradient: float, is_coded: bool = True) -> torch.Tensor:
    """Values after a round of RDOQ in which all are this symbol, with this gradient of the cost,
    of about scale 0.5."""
    shape = 1, 4, 1, 1, 2000
    index = 63 * math.log(0.5 / 0.11) / math.log(256 / 0.11)  # of 64 scales from 0.11 to 256
    bits = torch.full(shape, bits_of(symbol, 0.5))
    values = [torch.full(shape, value) for value in (float(symbol), 0.0, index, float(is_coded))]
    part, rate = torch.full(shape, symbol + 0.3), torch.full(shape, gradient)
    coding = Coding(bits, *values[:3], values[3].bool())
    return BandSearch(Bowl(distortion), 1, lambda _: None).cheaper(part, rate, coding)


# Half of the second derivative of the cost by a symbol: 6 / ln 2, and for visual six times that.
@pytest.mark.parametrize(("distortion", "half"), [("mse", 8.656), ("ssimulacra2", 51.937)])
@pytest.mark.parametrize(("symbol", "step"), [(1, -1), (0, 1), (-1, 1)])
def test_a_change_pays_where_gradient_and_bits_outweigh_the_curvature(
    distortion, half, symbol, step
):
    more_bits = bits_of(symbol + step, 0.5) - bits_of(symbol, 0.5)
    just = -step * (half + more_bits)  # the gradient at which it costs nothing
    start = torch.tensor(symbol + 0.3)
    assert changed(distortion, symbol, just + step * 0.05).eq(start).all()
    found = changed(distortion, symbol, just - step * 0.05)
    assert 0.45 < found.ne(start).float().mean() < 0.55  # changes depend on each other
    moved = found[found.ne(start)]
    assert moved.round().eq(symbol + step).all()
    assert ((moved - symbol - step / 2).abs() < 0.03).all()  # so that it is easily undone


def test_symbols_that_are_not_coded_are_not_changed_whatever_it_would_save():
    assert changed("mse", 0, -1000).ne(0.3).any()
    assert changed("mse", 0, -1000, is_coded=False).eq(0.3).all()
