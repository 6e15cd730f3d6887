"""Take the weights of a hyperprior checkpoint of xfr 0.9 over, to train on in integers.

examples:
  python -m utils.upgrade out/older.tar out/start.tar --dataset_path photos/
  python train.py --checkpoint_path out/start.tar --teacher out/older.tar --save_at out/newer/

Before version 1, networks were trained in floating point. The new checkpoint has their weights; its
synthesis is fitted, layer by layer, to what the older one computes from crops of pictures. With
--teacher, training goes on from there.
"""

from argparse import Namespace
from itertools import islice
from pathlib import Path

import torch

from model.checkpoint import load_checkpoint, save_checkpoint
from model.codec import Sample
from model.hyperprior.network import HyperpriorCodec
from utils.batches import samples, training_data
from utils.configuration import TrainingSettings
from utils.console import make_parser, number, run
from utils.files import atomic_write
from utils.fitting import fit

# Parts of the names of numbers that have no older form.
NEW_PARTS = "synthesis.calibrated", ".steps.", ".rounding."


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("older", metavar="OLDER", type=Path, help="checkpoint of xfr 0.9")
    parser.add_argument("newer", metavar="NEWER", type=Path, help="checkpoint to write")
    parser.add_argument(
        "--dataset_path",
        type=Path,
        default=Path("./dataset/"),
        help="root directory of pictures to fit the synthesis to, searched recursively",
    )
    parser.add_argument(
        "--crops", type=number(int, 8), default=192, help="of 256x256 pixels: 3 seconds each"
    )
    return parser.parse_args()


def main(args: Namespace) -> int:
    checkpoint = load_checkpoint(args.older)
    if checkpoint["arch"] != HyperpriorCodec.arch:
        raise ValueError(f"{args.older} holds a {checkpoint['arch']} codec, which has not changed")
    if args.newer.exists():
        raise ValueError(f"{args.newer} exists: choose another name")
    contents = upgraded(checkpoint)
    codec = HyperpriorCodec.from_checkpoint(contents)
    fit(codec, crops(args.dataset_path, args.crops, codec.STRIDE))
    with atomic_write(args.newer) as stream:
        save_checkpoint(stream, {**contents, "weights": codec.state_dict()})
    return 0


def crops(root: Path, count: int, stride: int) -> list[Sample]:
    """About ``count`` crops of pictures, as an epoch of training begins with, and their qualities.
    Raises what ``training_data`` does."""
    settings = TrainingSettings(
        dataset_path=root,
        num_of_epochs=1,
        batch_size=8,
        validation_split=0,
        lr_rate=0,
        crop_size=256,
        crops="cpu",
    )
    batches, _ = training_data(settings, stride, torch.device("cpu"))
    return list(islice(samples(batches.after(0)), count))


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
