"""Numbers that codecs were trained and tuned with, where the rest of the tests follow them."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY, tiny_codec

from model import codec_class
from model.entropy import SymbolCoder, gaussian_bits
from model.hyperprior.coder import net_worth
from model.hyperprior.network import used_channels
from model.layers import ResidualBlock, dct_basis, dct_variance

RATES = 0.00025, 0.000623, 0.00156, 0.00388, 0.00967, 0.0241, 0.0601, 0.45


def test_the_distortion_weighs_as_much_as_the_shipped_checkpoints_were_trained_with():
    binary, hyperprior = tiny_codec("binary"), tiny_codec("hyperprior")
    found = binary.lmbda(torch.tensor([1.0, 50.5, 100.0])).tolist()
    assert found == pytest.approx([0.00025, 0.0061237, 0.15], rel=1e-4)
    qualities = torch.tensor([1 + 99 * point / 7 for point in range(8)])
    assert hyperprior.lmbda(qualities).tolist() == pytest.approx(RATES, rel=1e-4)


@pytest.mark.parametrize(
    ("distortion", "expected"), [("mse", [0.2, 0.2, 0.3, 0.6]), ("ssimulacra2", [0.0] * 4)]
)
def test_the_dead_zone_widens_from_quality_40_on(distortion, expected):
    codec = tiny_codec("hyperprior")
    codec.distortion = distortion
    found = codec.zone_share(torch.tensor([1.0, 40.0, 55.0, 100.0]))
    assert found.tolist() == pytest.approx(expected)


def test_residual_blocks_are_bounded_by_what_photographs_need():
    codec = codec_class("hyperprior")()
    bounds = Counter(
        (name.split(".")[0], module.bound)
        for name, module in codec.named_modules()
        if isinstance(module, ResidualBlock)
    )
    assert bounds == {("analysis", 0.25): 6, ("synthesis", 0.35): 10, ("hyper_analysis", 128.0): 2}


def test_quantization_steps_start_in_inverse_proportion_to_the_root_of_lmbda():
    codec = codec_class("hyperprior")(TINY["hyperprior"])
    gains = codec.analysis.gain.points.mean(1)
    assert gains.mean().item() == pytest.approx(2)  # the logarithm
    assert (gains[7] - gains[0]).item() == pytest.approx(math.log(0.45 / 0.00025) / 2, rel=1e-4)
    torch.testing.assert_close(codec.synthesis.gain.points, -codec.analysis.gain.points)


def test_channels_are_in_the_order_of_their_variance_in_photographs():
    """The power of a Markov process of correlation 0.95 at frequency 0 is 1.95 / 0.05 = 39; the two
    colour differences have 6 % and 2 % of the variance of luma."""
    variances, basis = dct_variance(8, 192), dct_basis(8, 192)
    for part, colours in ((1.0, (1, 1, 1)), (0.06, (1, 0, -1)), (0.02, (1, -2, 1))):
        (index,) = (variances - part * 39**2).abs().lt(0.05).nonzero()[:, 0].tolist()
        direction = torch.tensor(colours, dtype=torch.float32)
        direction = direction / direction.norm() / 8
        torch.testing.assert_close(basis[index].view(3, 64).mean(1), direction)


def test_a_measured_table_is_the_mean_of_what_was_counted_and_3000_symbols_of_the_prior():
    coder, index = SymbolCoder(), 40
    scale = 0.11 * (256 / 0.11) ** (index / 63)
    prior = math.erf(0.5 / scale / math.sqrt(2))  # of a zero
    for count, share in ((3000, 1 / 2), (9000, 3 / 4), (0, 0)):
        symbols = np.zeros(count, np.int32), np.full(count, index, np.uint8)
        coder.fit(coder.histogram([symbols]))
        table = coder.counts.split((2 * coder.reach + 2).tolist())[index]
        zero = table[coder.reach[index]].item() / 2**20
        assert zero == pytest.approx(share + (1 - share) * prior, abs=1e-5)


@pytest.mark.parametrize(("value", "channels"), [(0.511, 16), (0.512, 32)])
def test_channels_are_coded_where_they_save_more_than_a_fifth_of_their_bits(value, channels):
    """A one for 0.512 saves (2 * 0.512 - 1) * 6 / ln 2 = 0.208 bits of distortion; its magnitude
    takes one bit without its context."""
    y = torch.full((1, 48, 8, 8), value)
    y[:, :16], y[:, 32:] = 3, 0
    assert used_channels(y).tolist() == [channels]


@pytest.fixture
def flat_analysis():
    """The channels that are computed where these have a value everywhere, and others are zero."""
    codec = codec_class("hyperprior")(replace(TINY["hyperprior"], latent=256)).eval()
    for weight in codec.analysis.parameters():
        weight.data.zero_()

    def used(**values: float) -> int:
        for channel, value in values.items():
            codec.analysis.latent.bias.data[int(channel[1:])] = value
        return codec.analysis.used(torch.rand(1, 3, 64, 64), torch.tensor([50.0])).shape[1]

    with torch.no_grad():
        yield used


def test_channels_are_looked_at_in_parts_of_128_up_to_the_first_without_a_symbol(flat_analysis):
    assert flat_analysis(c3=0.9) == 16
    assert flat_analysis(c200=3) == 16  # the part before has none
    assert flat_analysis(c100=3) == 208
    assert flat_analysis(c200=0) == 112


def test_half_of_the_samples_get_more_channels_in_training_than_they_are_worth():
    torch.manual_seed(0)
    codec = codec_class("hyperprior")(replace(TINY["hyperprior"], latent=96))
    y = torch.zeros(2000, 96, 2, 2)
    y[:, :16] = 3
    assert codec.eval().coded_channels(y).unique().tolist() == [16]
    counts = codec.train().coded_channels(y)
    assert counts.unique().tolist() == [16, 32, 48, 64, 80, 96]
    # Half get none, and of the others a tenth rounds down to none.
    assert (counts == 16).float().mean().item() == pytest.approx(0.55, abs=0.04)


def test_what_was_thought_impossible_is_predicted_to_take_the_bits_of_the_rarest_symbol():
    coder = SymbolCoder()
    rarest = -math.log2(coder.counts.min().item() / 2**20)
    found = gaussian_bits(torch.tensor([60.0, -1e6]), torch.tensor([5.0, 30.0]))
    assert found.tolist() == pytest.approx([rarest] * 2)


def test_symbols_of_five_standard_deviations_are_no_escapes():
    scales = 0.11 * (256 / 0.11) ** (torch.arange(64) / 63)
    assert (SymbolCoder().reach >= (5 * scales).clamp(max=511).int()).all()


def test_magnitudes_below_0_6_are_rounded_to_zero_but_not_those_of_local_means():
    codec = tiny_codec("binary")
    for value, means, others in ((0.45, 0, 0), (0.59, 1, 0), (-0.59, -1, 0), (0.61, 1, 1)):
        rounded = codec.rounded(torch.full((1, TINY["binary"].latent, 2, 2), value))
        assert rounded[:, :3].eq(means).all() and rounded[:, 3:].eq(others).all()


@pytest.mark.parametrize(("residual", "is_worth_it"), [(0.6, False), (-0.9, False), (3.0, True)])
def test_a_certain_symbol_is_worth_coding_if_it_saves_more_than_its_bits(residual, is_worth_it):
    """A one for 0.6 saves (0.6^2 - 0.4^2) * 6 / ln 2 = 1.7 bits, at a scale where it takes 12."""
    assert (net_worth(torch.tensor([residual]), torch.tensor([2.0])) > 0) == is_worth_it
    several = torch.tensor([residual, 0.6]), torch.tensor([2.0, 2.0])
    assert (net_worth(*several) > 0) == is_worth_it


def test_symbols_up_to_2_to_the_24th_come_back_and_no_larger_ones():
    coder, index = SymbolCoder(), np.array([5, 60], np.uint8)
    largest = np.array([2**24, -(2**24)])
    assert (
        coder.decoder(coder.encode([(largest, index)])).decode(index).tolist() == largest.tolist()
    )
    for beyond in (largest + [1, 0], largest - [0, 1]):
        with pytest.raises(ValueError, match="a symbol is too large"):
            coder.decoder(coder.encode([(beyond, index)])).decode(index)
