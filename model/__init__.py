"""The codecs. A new architecture is one new file here and one line in ARCHITECTURES."""

from importlib import import_module

# Name, the number that stands for it in files, and where it lives. From the first release on, what
# a number stands for stays as it is.
ARCHITECTURES = {
    "binary": (1, "model.binary:BinaryCodec"),
    "hyperprior": (2, "model.hyperprior:HyperpriorCodec"),
}


def codec_class(arch: str):
    """The codec class of an architecture; ValueError if there is none of that name."""
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {arch!r:.40}, not one of {list(ARCHITECTURES)}")
    module, name = ARCHITECTURES[arch][1].split(":")
    return getattr(import_module(module), name)


def load_codec(checkpoint: dict, device="cpu"):
    """The codec that a checkpoint holds, ready to code; ValueError if its parts do not fit."""
    import torch

    codec = codec_class(checkpoint["arch"]).from_checkpoint(checkpoint)
    return codec.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
