"""A larger codec that does what a smaller one does."""

from dataclasses import replace

import pytest
import torch
from helpers import TINY, as_tensor, colour, noise, tiny_codec

from utils.growth import check_equal, grow
from utils.step import TrainingStep

QUALITY = torch.tensor([10.0, 50.0, 95.0])
X = torch.stack([as_tensor(pixels(128, 64)) for pixels in (colour, noise, colour)]) / 255


@pytest.mark.parametrize(
    "changes",
    [
        {"channels8": 24},
        {"channels16": 40},
        {"context": 24},
        {"analysis_blocks": (2, 3)},
        {"synthesis_blocks": (3, 2)},
        {"channels8": 24, "channels16": 32, "context": 20, "synthesis_blocks": (2, 1)},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_a_grown_codec_does_the_same_and_learns_with_its_new_weights(changes):
    codec = tiny_codec("hyperprior")
    grown = grow(codec, replace(codec.config, **changes))
    for model in (codec, grown):
        model.eval()
    for first, second in zip(codec(X, QUALITY), grown(X, QUALITY)):
        assert (first - second).abs().mean() < 1e-4 * (1 + first.abs().mean())
    old, before = codec.state_dict(), {k: v.clone() for k, v in grown.named_parameters()}
    step = TrainingStep(grown.train(), grown, 1e-3)
    for index in range(4):
        step(X, QUALITY, index, 1e-3)
    for name, weight in grown.named_parameters():
        new = torch.ones_like(weight, dtype=torch.bool)
        if name in old:
            new[tuple(slice(size) for size in old[name].shape)] = False
        moved = weight[new] != before[name][new]
        assert moved.float().mean() > 0.3 or not new.any(), name  # some are dead behind a ReLU


def test_what_is_grown_keeps_what_it_was_trained_for():
    codec = tiny_codec("hyperprior")
    codec.distortion = "ssimulacra2"
    assert grow(codec, replace(codec.config, channels8=24)).distortion == "ssimulacra2"


@pytest.mark.parametrize(
    ("changes", "calibrated"), [({"analysis_blocks": (2, 3)}, 1), ({"channels16": 40}, 0)]
)
def test_steps_are_chosen_anew_only_where_the_synthesis_has_grown(changes, calibrated):
    codec = tiny_codec("hyperprior")
    codec.synthesis.calibrated.fill_(1)
    assert grow(codec, replace(codec.config, **changes)).synthesis.calibrated == calibrated


@pytest.mark.parametrize(
    ("arch", "changes", "error"),
    [
        ("hyperprior", {"channels8": 8}, "cannot shrink"),
        ("hyperprior", {"synthesis_blocks": (1, 0)}, "missing in the larger"),
        ("hyperprior", {"latent": 64}, "does not do what the old one does"),
        ("binary", {"latent": 32}, "cannot|does not"),
    ],
)
def test_what_cannot_grow_is_refused(arch, changes, error):
    codec = tiny_codec(arch)
    with pytest.raises(ValueError, match=error):
        grow(codec, replace(TINY[arch], **changes))


@pytest.mark.parametrize("arch", TINY)
def test_a_codec_that_does_nearly_the_same_is_not_the_same(arch):
    codec, other = tiny_codec(arch), tiny_codec(arch)
    check_equal(codec, other)
    last = [weight for name, weight in other.named_parameters() if name.startswith("synthesis")][-1]
    last.add_(1e-3)
    with pytest.raises(ValueError, match="does not do what the old one does"):
        check_equal(codec, other)
