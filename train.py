"""Train a codec on a folder of pictures.

examples:
  python train.py --dataset_path ./dataset/
  python train.py --arch hyperprior --num_of_epochs 200 --save_at ./out/hyperprior/
  python train.py --arch hyperprior --config channels16=192 synthesis_blocks=4,2
  python train.py --checkpoint_path ./out/last.tar --num_of_epochs 300
  python train.py --checkpoint_path ./out/hyperprior.tar --config channels16=512 --save_at ./wide/
  python train.py --arch hyperprior --minutes 11 --batch_size 64 --save_at ./gpu/
  torchrun --nproc_per_node 4 train.py --dataset_path ./dataset/

Two files are saved after every epoch: last.tar, from which --checkpoint_path resumes the run
exactly, and best.tar, the codec at its lowest validation loss so far, which is small enough to be
shipped. To use it, copy it into out/ under a name of its own, and give it as --model; decode.py
finds it there.
"""

import sys
from argparse import Namespace
from pathlib import Path
from time import monotonic

from model import ARCHITECTURES
from model.distortion import RECORDS
from utils.configuration import SOURCES, TrainingSettings, default_settings, setting
from utils.console import DEVICE_HELP, make_parser, number, run


def parse_args() -> Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    # fmt: off
    add("--dataset_path", type=Path, default=Path("./dataset/"),
        help="root directory of training images, searched recursively")
    add("--checkpoint_path", type=Path,
        help="resume from this checkpoint; one without optimiser state is fine-tuned, or grown")
    add("--save_at", type=Path, default=Path("./out/"), help="directory for last.tar and best.tar")
    add("--file_format", help="only train on images with this extension (default: all readable)")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--num_of_epochs", type=number(int, 1), default=100,
        help="epoch to stop training at, by which the learning rate has fallen to zero")
    add("--minutes", type=number(float, 0.01),
        help="time to train in instead, from the start of this program to its last file")
    add = parser.add_argument
    add("--batch_size", type=number(int, 1), default=8, help="pictures per batch, in each process")
    add("--validation_split", type=number(float, 0, 1, open_end=True), default=0.05,
        help="fraction of the pictures held out for validation")
    add("--lr_rate", type=number(float, 0), default=2.5e-3, help="peak learning rate")
    add("--arch", choices=ARCHITECTURES,
        help="architecture (default: that of the checkpoint, or binary without one)")
    add("--config", type=setting, nargs="+", metavar="NAME=VALUE",
        help="fields of the architecture's configuration, where they differ from the checkpoint's "
        "or from the defaults, which are, "
        + "; ".join(f"{arch}: {default_settings(arch)}" for arch in ARCHITECTURES))
    add("--distortion", choices=RECORDS,
        help="what to train for: "
        + "; ".join(f"{name}, {record.meaning}" for name, record in RECORDS.items())
        + " (default: that of the checkpoint, or mse without one)")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--only", nargs="+", metavar="PART",
        help="train only these parts of the codec, such as synthesis; the others stay as they are")
    add("--teacher", type=Path, metavar="OLDER",
        help="train only the synthesis, to the pixels that this checkpoint of xfr 0.9 decodes")
    add = parser.add_argument
    add("--crop_size", type=number(int, 0), default=256,
        help="side of the random crops in pixels; 0 trains on entire pictures")
    add("--crops", choices=SOURCES, default=SOURCES[0],
        help="where crops are cut: on the device, from pictures that stay in its memory, or by "
        "--workers on the CPU; auto is the device if it is a GPU and they fit")
    add("--tensorboard", action="store_true",
        help="write the numbers of epochs for TensorBoard, too")
    add("--device", default="auto", help=DEVICE_HELP)
    add("--workers", type=number(int, 0), default=1, help="processes that load pictures")
    add("--seed", type=int, default=0, help="seed of all random numbers")
    # fmt: on
    return parser.parse_args()


def main(args: Namespace) -> int:
    began = monotonic()
    from dataclasses import fields

    import torch

    from model.geometry import check_geometry
    from utils.batches import training_data
    from utils.devices import data_parallel, pick_device
    from utils.growth import codec_to_train
    from utils.history import open_tensorboard
    from utils.processes import processes
    from utils.schedule import EpochSchedule, TimedSchedule
    from utils.step import train_only
    from utils.teacher import Taught
    from utils.training import Trainer, check_place

    names = [field.name for field in fields(TrainingSettings)]
    settings = TrainingSettings(**{name: getattr(args, name) for name in names})
    torch.manual_seed(args.seed)
    codec, checkpoint = codec_to_train(args.checkpoint_path, args.arch, dict(args.config or []))
    codec.distortion = args.distortion or codec.distortion
    check_geometry(codec)
    train_only(codec, args.only)
    if args.crop_size % codec.STRIDE:
        raise ValueError(f"--crop_size must be a multiple of {codec.STRIDE} for {codec.arch}")

    check_place(args.save_at, args.checkpoint_path)
    board = None
    if args.tensorboard and processes()[0] == 0:
        board = open_tensorboard(args.save_at)
    device = pick_device(args.device)
    codec = codec.to(device, memory_format=torch.channels_last)
    batches, validation = training_data(settings, codec.STRIDE, device)
    learner = Taught(codec, args.teacher).to(device) if args.teacher else codec
    with data_parallel(learner, device) as model:
        trainer = Trainer(codec, model, settings, args.save_at, began)
        trainer.resume(checkpoint)
        trainer.board = board
        if args.minutes:
            schedule = TimedSchedule(args.minutes, trainer.clock)
        else:
            schedule = EpochSchedule(args.num_of_epochs, len(batches))
        if processes()[0] == 0:
            print(trainer.description(batches, validation, schedule), flush=True)
        try:
            trainer.train(batches, validation, schedule)
        except KeyboardInterrupt:
            if processes()[0] == 0:
                print(f"\nstopped; {trainer.kept()}", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    run(main, parse_args())
