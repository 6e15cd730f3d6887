"""Growing a codec: a larger one that computes the same function, to be trained on.

Chen, Goodfellow, Shlens 2016, "Net2Net: Accelerating learning via knowledge transfer",
https://arxiv.org/abs/1511.05641. Old weights are copied. New channels are random, but old outputs
ignore them: the weights between are zero, with a gradient. New blocks begin by adding nothing.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model import codec_class
from model.checkpoint import load_checkpoint
from model.codec import Codec
from model.layers import ResidualBlock
from model.limits import DEFAULT_QUALITY, MAX_QUALITY, MIN_QUALITY
from utils.configuration import DEFAULT_ARCHITECTURE, changed

GROWTH_TOLERANCE = 3e-4  # mean difference of the two functions, relative to values of about 1


def codec_to_train(path: Path | None, arch: str | None, settings: dict[str, Any]) -> tuple:
    """The codec that a run begins with, and the checkpoint at ``path`` that it is from. Without a
    path the codec is new, and there is no checkpoint. Where ``settings`` of its configuration ask
    for more than the checkpoint has, the codec is grown.

    FileNotFoundError or ValueError if the checkpoint cannot be used, or does not fit the rest.
    """
    checkpoint = load_checkpoint(path) if path else None
    arch = arch or (checkpoint["arch"] if checkpoint else DEFAULT_ARCHITECTURE)
    codec_type = codec_class(arch)
    if checkpoint is None:
        return codec_type(changed(codec_type.Config(), arch, settings)), None
    if checkpoint["arch"] != arch:
        raise ValueError(f"{path} holds a {checkpoint['arch']} codec, not {arch}")
    codec = codec_type.from_checkpoint(checkpoint)
    codec.check_distortion()
    codec.become_trainable()
    config = changed(codec.config, arch, settings)
    if config == codec_type.checked_config(checkpoint["config"]):
        return codec, checkpoint
    if "optimizer" in checkpoint:
        raise ValueError(f"{path} is a training state: grow its best.tar instead")
    return codec if config == codec.config else grow(codec, config), checkpoint


@torch.no_grad()
def grow(codec: Codec, config: Any) -> Codec:
    """A codec of the configuration ``config`` that does what ``codec`` does, on the CPU. ValueError
    if there is none: if something would shrink, or if what grows would change the latents."""
    grown = type(codec)(config).to(memory_format=torch.channels_last)
    grown.distortion = codec.distortion
    old = codec.state_dict()
    expanded = set()  # the layers whose outputs are two halves
    for name, module in grown.named_modules():
        if isinstance(module, ResidualBlock):
            expanded.add(f"{name}.expand")
            if f"{name}.project.weight" not in old:
                nn.init.zeros_(module.project.weight)
    learned = {name for name, _ in grown.named_parameters()}
    for name, weight in grown.state_dict().items():
        if name in old:
            parts = 2 if name.rpartition(".")[0] in expanded else 1
            try:
                embed(weight, old[name], parts, unseen=name in learned)
            except (RuntimeError, IndexError):
                raise ValueError(
                    f"--config: {name} cannot shrink from {list(old[name].shape)} to "
                    f"{list(weight.shape)}"
                ) from None
    if missing := set(old) - set(grown.state_dict()):
        raise ValueError(f"--config: {min(missing)} is missing in the larger network")
    check_equal(codec, grown)
    for part, module in grown.named_children():
        # The first batch chooses the steps of new channels.
        if hasattr(module, "calibrated") and sizes(module) != sizes(getattr(codec, part)):
            module.calibrated.zero_()
    return grown


def sizes(module: nn.Module) -> list[torch.Size]:
    return [weight.shape for weight in module.state_dict().values()]


def embed(new: Tensor, old: Tensor, parts: int, unseen: bool) -> None:
    """Copy ``old`` to the first places of ``new`` in every dimension. The outputs, dimension 0,
    consist of equal ``parts``. ``unseen``: old outputs ignore new inputs, by weights of zero."""
    new, old = (tensor.view(parts, -1, *tensor.shape[1:]) for tensor in (new, old))
    corner = new[tuple(slice(size) for size in old.shape)]
    if unseen:
        new[:, : old.shape[1]] = 0
    corner.copy_(old)


def check_equal(codec: Codec, grown: Codec) -> None:
    """ValueError unless both compute the same picture and the same rate from noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 2 * codec.STRIDE, codec.STRIDE, generator=generator)
    quality = torch.tensor([MIN_QUALITY, DEFAULT_QUALITY, MAX_QUALITY], dtype=torch.float32)
    results = [model.eval()(x, quality) for model in (codec, grown)]
    for first, second in zip(*results):
        # The mean: a last bit may decide on the rounding of a latent.
        if (first - second).abs().mean() > GROWTH_TOLERANCE * (1 + first.abs().mean()):
            raise ValueError("--config: a codec grown like this does not do what the old one does")
