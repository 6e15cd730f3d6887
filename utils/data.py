"""Training data: random crops of pictures, which are decoded once and kept in memory."""

import hashlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms
from tqdm import tqdm

from model.limits import MAX_QUALITY, MIN_QUALITY
from utils.console import printable
from xfr.formats import normalize_extension, open_with_pillow
from xfr.images import read_picture

SMALLEST_RESCALE = 0.5  # before a crop, a picture is scaled by a random factor between this and 1
AREA_PER_CROP = 4  # a picture gives one crop per epoch for every 4 that fit into it, at least one
PURE_SHARE = 1 / 256  # crops whose colours are replaced by pure ones, of all crops
VALIDATION_QUALITIES = 8
CACHE_BYTES = 4 * 2**30  # of decoded pictures, in each loading process


def split(paths: list[Path], fraction: float) -> tuple[list[Path], list[Path]]:
    """Training and validation pictures. A hash of each picture's name decides, so the split is the
    same on every machine, and stays the same when pictures are added or sorted into sub-folders.
    At least one picture is held out, unless ``fraction`` is 0."""
    train, validation = [], []
    for path in paths:
        name = path.name.encode("utf-8", "surrogateescape")
        draw = int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64
        (validation if draw < fraction else train).append(path)
    if fraction and not validation and len(train) > 1:
        validation.append(train.pop())
    return train, validation


def area(path: Path) -> int:
    """The pixels of a picture; 0 if its header cannot be read."""
    try:
        with path.open("rb") as stream:
            image = open_with_pillow(stream, normalize_extension(path.suffix))
            return image.width * image.height
    except Exception:  # Pillow may raise nearly anything; it is reported when the picture is read
        return 0


def crops_in(path: Path, crop_size: int) -> int:
    """The number of crops that an epoch takes from a picture. It grows with the picture's area:
    small pictures have often been compressed, and the codec should not learn JPEG's artefacts."""
    return max(area(path) // (AREA_PER_CROP * crop_size**2), 1) if crop_size else 1


class PictureDataset(Dataset):
    """Maps keys (epoch, index) to items (x [3, H, W] in 0 to 1, quality).

    Training items are rescaled by 0.5 to 1, cropped to ``crop_size`` (0: the entire picture) and
    flipped, with a random quality. Validation items are central crops, with qualities that are
    spread evenly. Random numbers depend on seed, epoch and index alone, so a resumed run sees the
    same items as an uninterrupted one. A picture that cannot be read is reported once by each
    process that loads. In training, the next readable one takes its place, or ValueError is raised;
    else its item is None.
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
        """uint8 [3, H, W], None if it cannot be read."""
        path = self.paths[index]
        if path in self.cache:
            return self.cache[path]
        if path in self.unreadable:
            return None
        try:
            rgb = read_picture(path).rgb
        except Exception as error:  # Pillow may raise nearly anything on a damaged file
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
            # Another picture, so that all processes take the same number of steps.
            others = ((index + step) % len(self) for step in range(1, len(self)))
            image = next(filter(lambda x: x is not None, map(self.picture, others)), None)
            if image is None:
                raise ValueError("none of the training pictures can be read")
        if image is None:
            return None
        generator = torch.Generator().manual_seed(hash((self.seed, epoch, index)))
        if self.training:
            image = self.random_crop(image, generator)
            position = torch.rand((), generator=generator)
        else:
            image = self.central_crop(image) if self.crop_size else self.padded(image)
            position = torch.tensor((index % VALIDATION_QUALITIES + 0.5) / VALIDATION_QUALITIES)
        return image.float() / 255, quality_at(position)

    def random_crop(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """A crop at a random place, of a random scale, flipped or not."""
        scale, top, left, flip = torch.rand(4, generator=generator).tolist()
        if flip < 0.5:
            image = image.flip(2)
        if not self.crop_size:
            return self.padded(image)
        height, width = image.shape[1:]
        side = self.crop_size / (SMALLEST_RESCALE + (1 - SMALLEST_RESCALE) * scale)
        side = min(round(side), height, width)
        top, left = int(top * (height - side + 1)), int(left * (width - side + 1))
        size = [self.crop_size, self.crop_size]
        image = transforms.resized_crop(
            image, top, left, side, side, size, InterpolationMode.BICUBIC, antialias=True
        )
        rare = torch.rand((), generator=generator) < PURE_SHARE
        return pure_colours(image[None], generator)[0] if rare else image

    def central_crop(self, image: Tensor) -> Tensor:
        """The middle of the picture, enlarged if the picture is smaller than ``crop_size``."""
        side = min(*image.shape[1:], self.crop_size)
        image = transforms.center_crop(image, [side, side])
        if side < self.crop_size:
            image = transforms.resize(image, [self.crop_size] * 2, antialias=True)
        return image

    def padded(self, image: Tensor) -> Tensor:
        """The entire picture, its edges repeated up to multiples of the stride."""
        height, width = image.shape[1:]
        right, bottom = -width % self.stride, -height % self.stride
        return transforms.pad(image, [0, 0, right, bottom], padding_mode="edge")


def quality_at(position: Tensor) -> Tensor:
    """The quality at a position, 0 to 1, of the scale. It is whole, as in files: the synthesis
    takes no other, and its gains would not be the inverse of those of the analysis."""
    return (MIN_QUALITY + (MAX_QUALITY - MIN_QUALITY) * position).round()


def pure_colours(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each channel of x [B, 3, H, W] in 0 to 255 compared with a random threshold, after noise: 0
    or 255. Such edges are in drawings and on screens, not in photographs."""

    def uniform(channels: int) -> Tensor:
        size = len(x), channels, 1, 1
        return torch.rand(size, generator=generator, device=x.device)

    strength = 128 * uniform(1)
    noise = torch.randn(len(x), 1, *x.shape[2:], generator=generator, device=x.device)
    return 255.0 * (x + strength * noise > 255 * uniform(3))


class EpochSampler(Sampler):
    """Keys (epoch, index) of this process, from ``start`` on, shuffled alike in all processes."""

    def __init__(self, length: int, seed: int, shuffle: bool, rank: int = 0, world: int = 1):
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.world = rank, world
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.length // self.world if self.shuffle else self.length

    def __iter__(self):
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch)))
        order = range(self.length)
        if self.shuffle:
            # All ranks take the same number, or the last one would wait forever.
            order = torch.randperm(self.length, generator=generator).tolist()
            order = order[self.rank : len(self) * self.world : self.world]
        return iter([(self.epoch, index) for index in order[self.start :]])


def collate(items: list) -> list[Tensor] | None:
    """A batch of the readable items, None if there are none. ValueError if they differ in size."""
    items = [item for item in items if item is not None]
    shapes = {tuple(image.shape[1:]) for image, _ in items}
    if len(shapes) > 1:
        (h1, w1), (h2, w2) = sorted(shapes)[:2]
        raise ValueError(
            f"a batch of entire pictures needs one size, found {w1}x{h1} and {w2}x{h2}: "
            "use --batch_size 1 or a --crop_size"
        )
    return default_collate(items) if items else None


def interrupt_on_sigterm(worker: int) -> None:
    """Let SIGTERM end a loading process as Ctrl-C does: with torch's own handler, the main process
    would take it for a crash, even while it ends itself."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def make_loader(
    dataset: PictureDataset, batch_size: int, sampler: EpochSampler, workers: int
) -> DataLoader:
    """Batches (x [B, 3, H, W], quality [B]), loaded by as many processes as there are workers."""
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        drop_last=dataset.training,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=interrupt_on_sigterm,
    )


def batches(loader: DataLoader) -> Iterator[list[Tensor]]:
    """The batches of ``loader`` that have readable items; ValueErrors of its workers come without
    their tracebacks."""
    try:
        yield from (batch for batch in loader if batch is not None)
    except ValueError as error:
        raise ValueError(str(error).splitlines()[-1].removeprefix("ValueError: ")) from None
