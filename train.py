"""Train a codec on a folder of pictures.

examples:
  python train.py --dataset_path ./dataset/
  python train.py --arch hyperprior --num_of_epochs 200 --save_at ./out/hyperprior/
  python train.py --arch hyperprior --config channels16=192 synthesis_blocks=4,2
  python train.py --checkpoint_path ./out/last.tar --num_of_epochs 300
  torchrun --nproc_per_node 4 train.py --dataset_path ./dataset/

Two files are saved after every epoch: last.tar, from which --checkpoint_path resumes the run
exactly, and best.tar, the codec at its lowest validation loss so far, which is small enough to be
shipped. Copy it to out/main.tar to make it the default of the other scripts, and keep the old one
beside it, under any name, for the files that it has made.
"""

import sys
from argparse import Namespace
from pathlib import Path

from model import ARCHITECTURES
from model.limits import DISTORTIONS
from utils.configuration import default_settings, setting
from utils.console import make_parser, number, run


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add(
        "--dataset_path",
        type=Path,
        default=Path("./dataset/"),
        help="root directory of training images, searched recursively",
    )
    add(
        "--checkpoint_path",
        type=Path,
        help="resume from this checkpoint; one without optimiser state is fine-tuned",
    )
    add("--save_at", type=Path, default=Path("./out/"), help="directory for last.tar and best.tar")
    add("--file_format", help="only train on images with this extension (default: all readable)")
    add(
        "--num_of_epochs",
        type=number(int, 1),
        default=100,
        help="epoch to stop training at, by which the learning rate has fallen to zero",
    )
    add("--batch_size", type=number(int, 1), default=8, help="pictures per batch, in each process")
    add(
        "--validation_split",
        type=number(float, 0, 1, open_end=True),
        default=0.05,
        help="fraction of the pictures held out for validation",
    )
    add("--lr_rate", type=number(float, 0), default=2.5e-3, help="peak learning rate")
    add(
        "--arch",
        choices=ARCHITECTURES,
        help="architecture (default: that of the checkpoint, or binary without one)",
    )
    add(
        "--config",
        type=setting,
        nargs="+",
        metavar="NAME=VALUE",
        help="fields of the architecture's configuration, where they differ from the checkpoint's "
        "or from the defaults, which are, "
        + "; ".join(f"{arch}: {default_settings(arch)}" for arch in ARCHITECTURES),
    )
    add(
        "--distortion",
        choices=DISTORTIONS,
        help="what to train for: squared error or SSIMULACRA 2, which is closer to what people see "
        "(default: that of the checkpoint, or mse without one)",
    )
    add(
        "--crop_size",
        type=number(int, 0),
        default=256,
        help="side of the random crops in pixels; 0 trains on entire pictures",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--workers", type=number(int, 0), default=1, help="processes that load pictures")
    add("--seed", type=int, default=0, help="seed of all random numbers")
    return parser.parse_args()


def main(args: Namespace) -> int:
    from dataclasses import fields

    import torch

    from model import codec_class
    from model.checkpoint import load_checkpoint
    from model.geometry import check_geometry
    from utils.configuration import changed
    from utils.devices import data_parallel, pick_device
    from utils.processes import processes
    from utils.training import (
        DivergedError,
        Trainer,
        TrainingSettings,
        check_place,
        training_loaders,
    )

    names = [field.name for field in fields(TrainingSettings)]
    settings = TrainingSettings(**{name: getattr(args, name) for name in names})
    checkpoint = load_checkpoint(args.checkpoint_path) if args.checkpoint_path else None
    arch = args.arch or (checkpoint["arch"] if checkpoint else "binary")
    if checkpoint and checkpoint["arch"] != arch:
        raise ValueError(f"{args.checkpoint_path} holds a {checkpoint['arch']} codec, not {arch}")
    torch.manual_seed(args.seed)
    codec_type = codec_class(arch)
    codec = codec_type.from_checkpoint(checkpoint) if checkpoint else None
    config = changed(codec.config if codec else codec_type.Config(), arch, dict(args.config or []))
    if codec and config != codec.config:
        raise ValueError(f"{args.checkpoint_path} holds a codec of another configuration")
    codec = codec or codec_type(config)
    codec.distortion = args.distortion or codec.distortion
    check_geometry(codec)
    if args.crop_size % codec.STRIDE:
        raise ValueError(f"--crop_size must be a multiple of {codec.STRIDE} for {arch}")

    check_place(args.save_at, args.checkpoint_path)
    device = pick_device(args.device)
    rank, world = processes()
    train_loader, validation_loader = training_loaders(settings, codec.STRIDE, rank, world)
    codec = codec.to(device, memory_format=torch.channels_last)
    with data_parallel(codec, device) as model:
        trainer = Trainer(codec, model, device, settings, args.save_at)
        trainer.resume(checkpoint)
        if rank == 0:
            print(trainer.description(train_loader, validation_loader))
        try:
            while trainer.epoch < args.num_of_epochs:
                trainer.train_epoch(train_loader)
                line = trainer.finish_epoch(trainer.validate(validation_loader))
                if rank == 0:
                    print(line, flush=True)
                    trainer.save(validation_loader)
        except DivergedError as error:
            print(f"train.py: error: {error}; {trainer.kept()}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            if rank == 0:
                print(f"\nstopped; {trainer.kept()}", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    run(main, parse_args())
