"""A synthesis that learns the pixels of an older checkpoint's."""

import pytest
import torch
from helpers import older_contents, tiny_codec, write_checkpoint

from model.hyperprior.network import HyperpriorConfig
from utils.step import TrainingStep
from utils.teacher import Taught, in_floating_point

X = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
QUALITY = torch.tensor([20.0, 80.0])


@pytest.fixture
def taught(tmp_path):
    """A tiny codec whose synthesis has been disturbed, with its former self as the teacher."""
    codec = tiny_codec("hyperprior")
    write_checkpoint(tmp_path / "older.tar", older_contents(codec))
    for weight in codec.synthesis.parameters():
        weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)))
    return Taught(codec.train(), tmp_path / "older.tar")


def distance(taught: Taught) -> float:
    """The squared error between the pixels of student and teacher."""
    with torch.no_grad():
        pixels, bpp = taught(X, QUALITY)
    assert bpp.tolist() == [0, 0]
    return (pixels - X).square().mean().item()


def test_the_synthesis_comes_closer_to_the_teacher_and_nothing_else_moves(taught):
    codec, before = taught.codec, distance(taught)
    frozen = {name: w.clone() for name, w in codec.named_parameters() if not w.requires_grad}
    assert {name.split(".")[0] for name in frozen} >= {"analysis", "context", "hyper_synthesis"}
    step = TrainingStep(codec, taught, 3e-3)
    for number in range(12):
        loss, bpp, _ = step(X, QUALITY, number, 3e-3)
        assert loss.isfinite().all() and bpp.eq(0).all()
    assert distance(taught) < 0.7 * before
    for name, weight in codec.named_parameters():
        assert name not in frozen or weight.equal(frozen[name]), name


def test_the_teacher_computes_what_the_integers_round(tmp_path):
    """silu in floating point, hardswish in integers: the same to a few levels."""
    codec = tiny_codec("hyperprior")
    write_checkpoint(tmp_path / "older.tar", older_contents(codec))
    taught = Taught(codec, tmp_path / "older.tar")
    with torch.no_grad():
        y_hat = codec.quantized(X, QUALITY).y_hat
        expected = codec.eval().synthesis(y_hat, QUALITY)
        found = in_floating_point(taught.teacher, y_hat, QUALITY)
    assert (found - expected).abs().mean() < 0.1 * expected.std()


def test_a_teacher_with_another_configuration_is_refused(tmp_path):
    codec = tiny_codec("hyperprior")
    write_checkpoint(tmp_path / "older.tar", older_contents(codec))
    other = type(codec)(HyperpriorConfig(channels8=16, channels16=24, context=16, latent=64))
    for student in (other, tiny_codec("binary")):
        with pytest.raises(ValueError, match="older.tar has another configuration"):
            Taught(student, tmp_path / "older.tar")
