"""Weights of a checkpoint of xfr 0.9, to train on."""

import pytest
import torch
from helpers import older_contents, tiny_codec

from model import load_codec
from utils.upgrade import upgraded


def test_an_older_codec_has_the_same_weights_and_chooses_its_steps_in_training():
    codec = tiny_codec("hyperprior")
    newer = load_codec(upgraded(older_contents(codec)))
    for (name, found), expected in zip(newer.named_parameters(), codec.parameters()):
        assert found.equal(expected), name
    newer.requires_grad_().train()(torch.rand(2, 3, 64, 64), torch.tensor([20.0, 80.0]))
    assert newer.synthesis.calibrated
    assert newer.context.passes[0].hidden.rounding.largest.max() > 1


@pytest.mark.parametrize("missing", [True, False])
def test_a_checkpoint_of_another_kind_is_refused(missing):
    checkpoint = older_contents(tiny_codec("hyperprior"))
    name, weight = checkpoint["weights"].popitem()
    if not missing:
        checkpoint["weights"] |= {name: weight, "other.weight": weight}
    with pytest.raises(ValueError, match="not of xfr 0.9: .*(z_scale|other)"):
        upgraded(checkpoint)
