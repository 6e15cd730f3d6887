"""Batches of a training run: cut by processes that load pictures, or on the device itself."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from model.codec import Sample
from utils.configuration import TrainingSettings
from utils.data import EpochSampler, PictureDataset, batches, crops_in, make_loader, split
from utils.device_crops import DeviceBatches, fits
from utils.files import pictures_below
from utils.processes import processes


class LoadedBatches:
    """Batches that a DataLoader cuts on the CPU, epoch after epoch, each of them shuffled.
    ``pictures``, ``crops``: the number of pictures, and of crops in an epoch of all processes;
    ``source``: the place where crops are cut, in words."""

    def __init__(self, loader: DataLoader, device: torch.device):
        self.loader, self.device = loader, device
        self.pictures, self.crops = len(set(loader.dataset.paths)), len(loader.dataset)
        self.source = "cut on the CPU"

    def __len__(self) -> int:
        return len(self.loader)

    def after(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (x [B, 3, H, W] in 0 to 1, quality [B]) on the device, from number ``step`` on,
        without an end. ValueError if no picture can be read."""
        sampler = self.loader.sampler
        while True:
            sampler.epoch, done = divmod(step, len(self))
            sampler.start = done * self.loader.batch_size
            for batch in batches(self.loader):
                step += 1
                x, quality = (tensor.to(self.device, non_blocking=True) for tensor in batch)
                yield x.contiguous(memory_format=torch.channels_last), quality


Batches = LoadedBatches | DeviceBatches


def training_data(
    settings: TrainingSettings, stride: int, device: torch.device
) -> tuple[Batches, DataLoader]:
    """The training batches of this process, and a loader of the validation pictures.

    ``stride``: heights and widths of entire pictures are padded to multiples of it. Raises
    FileNotFoundError if there are no pictures, ValueError if there are too few to train on, or if
    crops of entire pictures are to be cut on the device.
    """
    rank, world = processes()
    paths = pictures_below(settings.dataset_path, settings.file_format, "--dataset_path")
    train, validation = split(paths, settings.validation_split)
    if len(train) < settings.batch_size * world:
        raise ValueError(
            f"{len(train)} of {len(paths)} pictures are left to train on, fewer than one batch of "
            f"{settings.batch_size * world}: lower --validation_split or --batch_size"
        )
    train = [path for path in train for _ in range(crops_in(path, settings.crop_size))]
    train_set = PictureDataset(train, settings.crop_size, stride, settings.seed, True)
    validation_set = PictureDataset(validation, settings.crop_size, stride, settings.seed, False)
    batch_size = settings.batch_size if settings.crop_size else 1  # entire pictures differ in size
    sampler = EpochSampler(len(validation), settings.seed, shuffle=False)
    validation_loader = make_loader(validation_set, batch_size, sampler, workers=0)
    if cut_on_device(settings, train, device):
        batches = DeviceBatches(train_set, settings.batch_size, device, rank, world)
    else:
        sampler = EpochSampler(len(train), settings.seed, shuffle=True, rank=rank, world=world)
        loader = make_loader(train_set, settings.batch_size, sampler, settings.workers)
        batches = LoadedBatches(loader, device)
    return batches, validation_loader


def samples(batches: Iterable[list[Tensor]]) -> Iterator[Sample]:
    """The crops of batches one by one, and their qualities in whole numbers."""
    for batch in batches:
        for x, quality in zip(*batch):
            pixels = (255 * x).round().byte().permute(1, 2, 0)
            yield pixels.numpy(), round(quality.item())


def cut_on_device(settings: TrainingSettings, paths: list[Path], device: torch.device) -> bool:
    """Whether crops are cut on the device; ValueError if they cannot be, but are to."""
    if settings.crops == "device" and not settings.crop_size:
        raise ValueError("--crops device needs a --crop_size")
    if settings.crops == "auto" and settings.crop_size and device.type == "cuda":
        return fits(paths, device)
    return settings.crops == "device"
