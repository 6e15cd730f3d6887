"""The codecs. A new architecture is one new file or folder here, and one line below."""

from importlib import import_module

TYPE_CHECKING = False  # typing.TYPE_CHECKING without the time of importing typing
if TYPE_CHECKING:
    import torch

    from model.codec import Codec

# The place of each architecture's class, which is imported when it is needed.
ARCHITECTURES = {
    "binary": "model.binary.network:BinaryCodec",
    "hyperprior": "model.hyperprior.network:HyperpriorCodec",
}


def codec_class(arch: str) -> "type[Codec]":
    """The class of an architecture; ValueError if there is none of that name."""
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {arch!r:.40}, not one of {list(ARCHITECTURES)}")
    module, name = ARCHITECTURES[arch].split(":")
    return getattr(import_module(module), name)


def load_codec(checkpoint: dict, device: "torch.device | str" = "cpu") -> "Codec":
    """The codec of a checkpoint (see model/checkpoint.py), ready to encode and decode. ValueError
    if the checkpoint's architecture, configuration and weights do not fit each other."""
    import torch

    codec = codec_class(checkpoint["arch"]).from_checkpoint(checkpoint)
    codec = codec.to(device).to(memory_format=torch.channels_last)
    return codec.eval().requires_grad_(False)
