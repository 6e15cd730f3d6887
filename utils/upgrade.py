"""Take the weights of a hyperprior checkpoint of xfr 0.9 over, to train on in integers.

examples:
  python -m utils.upgrade out/older.tar out/start.tar
  python train.py --checkpoint_path out/start.tar --teacher out/older.tar --save_at out/newer/

Before version 1, networks were trained in floating point. The new checkpoint has their weights. The
steps in which activations are rounded are chosen by the first batches of training. With --teacher,
the synthesis in integers learns the pixels of the older one.
"""

from argparse import Namespace
from pathlib import Path

import torch

from model.checkpoint import load_checkpoint, save_checkpoint
from model.hyperprior.network import HyperpriorCodec
from utils.console import make_parser, run
from utils.files import atomic_write

# Parts of the names of numbers that have no older form.
NEW_PARTS = "synthesis.calibrated", ".steps.", ".rounding."


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("older", metavar="OLDER", type=Path, help="checkpoint of xfr 0.9")
    parser.add_argument("newer", metavar="NEWER", type=Path, help="checkpoint to write")
    return parser.parse_args()


def main(args: Namespace) -> int:
    checkpoint = load_checkpoint(args.older)
    if checkpoint["arch"] != HyperpriorCodec.arch:
        raise ValueError(f"{args.older} holds a {checkpoint['arch']} codec, which has not changed")
    if args.newer.exists():
        raise ValueError(f"{args.newer} exists: choose another name")
    with atomic_write(args.newer) as stream:
        save_checkpoint(stream, upgraded(checkpoint))
    return 0


def upgraded(checkpoint: dict) -> dict:
    """The contents of a checkpoint of this version, from one of 0.9. ValueError for another."""
    codec = HyperpriorCodec(HyperpriorCodec.checked_config(checkpoint["config"]))
    old, weights = dict(checkpoint["weights"]), codec.state_dict()
    for name, weight in weights.items():
        if any(part in name for part in NEW_PARTS):
            continue
        kinds = ("means", "scales") if ".heads." in name else ("heads",)
        parts = [old.pop(name.replace(".heads.", f".{kind}."), None) for kind in kinds]
        if any(part is None or len(parts) * part.numel() != weight.numel() for part in parts):
            raise ValueError(f"the checkpoint is not of xfr 0.9: {name}")
        # Heads interleave the outputs: the first of each part, then the second.
        weight.copy_(torch.stack(parts, dim=1).view_as(weight))
    if old:
        raise ValueError(f"the checkpoint is not of xfr 0.9: {min(old)!r:.80}")
    kept = ("arch", "distortion", "history")  # the oldest have no distortion
    identity = {name: checkpoint[name] for name in kept if name in checkpoint}
    return {**identity, "config": codec.config_dict(), "weights": weights}


if __name__ == "__main__":
    run(main, parse_args())
