"""The codecs. A new architecture is one new file here and one line in ARCHITECTURES."""

from importlib import import_module

ARCHITECTURES = {
    "binary": "model.binary:BinaryCodec",
    "hyperprior": "model.hyperprior:HyperpriorCodec",
}


def codec_class(arch: str):
    """The codec class of an architecture; ValueError if there is none of that name."""
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture '{arch}', expected one of {list(ARCHITECTURES)}")
    module, name = ARCHITECTURES[arch].split(":")
    return getattr(import_module(module), name)
