"""Training data: random crops of the pictures of a folder, each decoded once."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

from utils.files import find_files, image_extensions
from utils.images import read_picture
from utils.jobs import printable

MIN_SCALE = 0.5  # crops are taken from pictures reduced to between this and their own size
AREA_SHARE = 4  # a picture gives a crop for each so many crops that it has room for, one at least
PURE_SHARE = 1 / 256  # of the crops that are reduced to pure colours
CACHE_BYTES = 4 * 2**30  # decoded pictures kept in memory, in each loading process


def split(paths: list[Path], root: Path, fraction: float) -> tuple[list[Path], list[Path]]:
    """Training and validation pictures. Each file's own name decides, so the split is the same
    on every machine and stays when pictures are added."""
    train, validation = [], []
    for path in paths:
        name = path.relative_to(root).as_posix().encode("utf-8", "surrogateescape")
        draw = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64
        (validation if draw < fraction else train).append(path)
    return train, validation


def crops_in(path: Path, crop_size: int) -> int:
    """How many crops an epoch takes from a picture. Small pictures are often reduced and compressed
    ones: if each gave as many as a large one, the codec would learn more of JPEG than of nature."""
    if not crop_size:
        return 1
    try:
        with Image.open(path) as image:
            area = image.width * image.height
    except Exception:  # as when it is read: then it is named
        return 1
    return max(area // (AREA_SHARE * crop_size**2), 1)


class PictureDataset(Dataset):
    """Items are (x [3, H, W] in 0 to 1, quality) for keys (epoch, index).

    All that is random about an item follows from seed, epoch and index alone, so a resumed
    run sees what an uninterrupted one would have. Training: rescale by 0.5 to 1, crop to
    ``crop_size`` (0: the whole picture), flip, quality at random. Validation: central crops,
    qualities spread evenly. Pictures that cannot be read are None, and named once.
    """

    def __init__(self, paths: list[Path], crop_size: int, stride: int, seed: int, training: bool):
        self.paths = paths
        self.crop_size = crop_size
        self.stride = stride
        self.seed = seed
        self.training = training
        self.cache: dict[Path, Tensor] = {}
        self.cached_bytes = 0
        self.unreadable: set[Path] = set()

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> Tensor | None:
        """uint8 [3, H, W]."""
        path = self.paths[index]
        if path in self.cache:
            return self.cache[path]
        if path in self.unreadable:
            return None
        try:
            rgb = read_picture(path).rgb
        except Exception as error:  # Pillow's readers raise nearly anything on damaged files
            tqdm.write(printable(f"skipped: {path}: {error}"), file=sys.stderr)
            self.unreadable.add(path)
            return None
        image = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
        if self.cached_bytes + image.nbytes <= CACHE_BYTES:
            self.cache[path] = image
            self.cached_bytes += image.nbytes
        return image

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        epoch, index = key
        image = self.picture(index)
        if image is None and self.training:
            # The next readable one instead, so that all processes of a run take equal steps.
            others = ((index + step) % len(self) for step in range(1, len(self)))
            image = next(filter(lambda x: x is not None, map(self.picture, others)), None)
        if image is None:
            return None
        generator = torch.Generator().manual_seed(hash((self.seed, epoch, index)))
        if self.training:
            image = self.random_crop(image, generator)
            quality = 1 + 99 * torch.rand((), generator=generator)
        else:
            image = self.whole(image) if not self.crop_size else self.central_crop(image)
            quality = torch.tensor(1 + 99 * (index % 8 + 0.5) / 8)
        return image.float() / 255, quality

    def random_crop(self, image: Tensor, generator: torch.Generator) -> Tensor:
        scale, top, left, flip = torch.rand(4, generator=generator).tolist()
        if flip < 0.5:
            image = image.flip(2)
        if not self.crop_size:
            return self.whole(image)
        height, width = image.shape[1:]
        side = self.crop_size / (MIN_SCALE + (1 - MIN_SCALE) * scale)
        side = min(round(side), height, width)
        top, left = int(top * (height - side + 1)), int(left * (width - side + 1))
        size = [self.crop_size, self.crop_size]
        image = transforms.resized_crop(
            image, top, left, side, side, size, InterpolationMode.BICUBIC, antialias=True
        )
        rare = torch.rand((), generator=generator) < PURE_SHARE
        return pure_colours(image, generator) if rare else image

    def central_crop(self, image: Tensor) -> Tensor:
        side = min(*image.shape[1:], self.crop_size)
        image = transforms.center_crop(image, [side, side])
        if side < self.crop_size:
            image = transforms.resize(image, [self.crop_size] * 2, antialias=True)
        return image

    def whole(self, image: Tensor) -> Tensor:
        """The whole picture, its edge repeated up to a multiple of the stride."""
        height, width = image.shape[1:]
        right, bottom = -width % self.stride, -height % self.stride
        return transforms.pad(image, [0, 0, right, bottom], padding_mode="edge")


def pure_colours(image: Tensor, generator: torch.Generator) -> Tensor:
    """Each channel of the uint8 image [3, H, W] as 0 or 255, with some noise before: the hardest
    edges there are, as in drawings and on screens, which photographs do not show."""
    noise = (
        128
        * torch.rand((), generator=generator)
        * torch.randn(image.shape[1:], generator=generator)
    )
    threshold = 255 * torch.rand(3, 1, 1, generator=generator)
    return (image + noise > threshold).byte() * 255


class EpochSampler(Sampler):
    """Keys (epoch, index) of this process's share, shuffled anew and alike in every epoch."""

    def __init__(self, length: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1):
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world = rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return self.length // self.world if self.shuffle else self.length

    def __iter__(self):
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)))
        order = range(self.length)
        if self.shuffle:
            # All ranks take equally many, or the last would wait for ever.
            order = torch.randperm(self.length, generator=generator).tolist()
            order = order[self.rank : len(self) * self.world : self.world]
        return iter([(self.epoch, index) for index in order])


def collate(items: list) -> list[Tensor] | None:
    """A batch of the readable items, None if there are none. ValueError on mixed sizes."""
    items = [item for item in items if item is not None]
    sizes = {tuple(image.shape[1:]) for image, _ in items}
    if len(sizes) > 1:
        (h1, w1), (h2, w2) = sorted(sizes)[:2]
        raise ValueError(
            f"a batch of whole pictures needs one size, found {w1}x{h1} and {w2}x{h2}: "
            "use --batch_size 1 or a --crop_size"
        )
    return default_collate(items) if items else None


def loader(dataset: PictureDataset, batch_size: int, sampler: EpochSampler, workers: int):
    """Batches (x [B, 3, H, W], quality [B]); with workers, pictures load beside the training."""
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        drop_last=dataset.training,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )


def batches(loader: DataLoader) -> Iterator[list[Tensor] | None]:
    """What ``loader`` loads; its workers' ValueErrors come without their tracebacks."""
    try:
        yield from loader
    except ValueError as error:
        raise ValueError(str(error).splitlines()[-1].removeprefix("ValueError: ")) from None


def training_loaders(args, stride: int, rank: int, world: int) -> tuple[DataLoader, DataLoader]:
    """Loaders of the training and validation pictures that a training run's flags name.

    Raises ValueError where there is nothing to train on.
    """
    root = args.dataset_path
    paths = find_files(root, image_extensions(args.file_format), recursive=True)
    if not paths:
        raise ValueError(f"no readable pictures in {root}: put some there, or see --dataset_path")
    train, validation = split(paths, root, args.validation_split)
    if len(train) < args.batch_size * world:
        raise ValueError(
            f"{len(train)} of {len(paths)} pictures are left to train on, fewer than one batch of "
            f"{args.batch_size * world}: lower --validation_split or --batch_size"
        )
    train = [path for path in train for _ in range(crops_in(path, args.crop_size))]
    loaders = []
    for files, training in ((train, True), (validation, False)):
        dataset = PictureDataset(files, args.crop_size, stride, args.seed, training)
        share = (rank, world) if training else (0, 1)
        sampler = EpochSampler(len(files), args.seed, training, *share)
        batch_size = args.batch_size if training or args.crop_size else 1
        loaders.append(loader(dataset, batch_size, sampler, args.workers if training else 0))
    return tuple(loaders)
