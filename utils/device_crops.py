"""Training crops that are cut on the device, from pictures that stay in its memory.

All crops of a batch are resampled in two products with matrices, whose rows are the bicubic filter
of each output pixel: a GPU cuts 64 of them in about a millisecond, at any scale. Random
numbers are drawn on the CPU, for a whole epoch, so that crops are the same on every device.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from utils.data import PURE_SHARE, SMALLEST_RESCALE, PictureDataset, area, pure_colours, quality_at

MAX_BYTES = 32 * 2**30  # decoded pictures, which are in host memory, too, while they are read
CUBIC = -0.5  # the parameter of the bicubic filter, that of Pillow and torchvision


def bicubic(distance: Tensor) -> Tensor:
    """The bicubic filter at these distances (Keys 1981, "Cubic convolution interpolation for
    digital image processing")."""
    t = distance.abs()
    near = ((CUBIC + 2) * t - (CUBIC + 3)) * t * t + 1
    far = CUBIC * (((t - 5) * t + 8) * t - 4)
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


def resampling(side: Tensor, reach: int, size: int) -> Tensor:
    """Matrices [B, size, reach] that resample the first ``side`` [B] of ``reach`` pixels to
    ``size``: the bicubic filter, widened where pixels become fewer, so that nothing aliases."""
    pixels = torch.arange(reach, device=side.device)
    scale = (side / size)[:, None, None]
    centre = scale * (torch.arange(size, device=side.device)[:, None] + 0.5)
    weights = bicubic((pixels + 0.5 - centre) / scale.clamp(min=1))
    weights = weights * (pixels < side[:, None, None])
    return weights / weights.sum(2, keepdim=True)


class DeviceBatches:
    """Batches of the training items of ``dataset``, whose pictures are all decoded at once and kept
    on ``device``; for process ``rank`` of ``world``. ValueError if no picture can be read. The
    attributes and methods of ``LoadedBatches`` are here, too."""

    def __init__(
        self,
        dataset: PictureDataset,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ):
        self.batch_size, self.device, self.seed = batch_size, device, dataset.seed
        self.rank, self.world, self.size = rank, world, dataset.crop_size
        self.reach = round(self.size / SMALLEST_RESCALE)
        self.source = "cut on the device"
        first: dict[Path, int] = {}
        for index, path in enumerate(dataset.paths):  # a path for each crop
            first.setdefault(path, index)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            decoded = threads.map(dataset.picture, first.values())
            pictures = {path: image for path, image in zip(first, decoded) if image is not None}
        dataset.cache.clear()
        if not pictures:
            raise ValueError("none of the training pictures can be read")
        counts = [image[0].numel() for image in pictures.values()]
        self.pixels = torch.empty(sum(counts), 3, dtype=torch.uint8, device=device)
        places = {}
        for (path, image), part in zip(pictures.items(), self.pixels.split(counts)):
            part.copy_(image.flatten(1).T)
            places[path] = part.storage_offset() // 3, *image.shape[1:]
        # For each crop of an epoch: the first pixel, the height and the width of its picture.
        self.places = torch.tensor([places[path] for path in dataset.paths if path in places])
        self.pictures, self.crops = len(pictures), len(self.places)
        if not len(self):
            raise ValueError(
                f"{self.crops} crops of readable pictures are fewer than one batch of "
                f"{batch_size * world}: lower --batch_size"
            )

    def __len__(self) -> int:
        return self.crops // self.world // self.batch_size

    def plan(self, epoch: int) -> tuple[Tensor, Tensor]:
        """The crops of an epoch in this process, in their order, and their qualities [N], on the
        device. A crop is a row [5]: the number of its first pixel, the width of its picture, its
        side in pixels, whether it is mirrored, and whether it is of pure colours."""
        generator = torch.Generator().manual_seed(hash((self.seed, epoch)))
        order = torch.randperm(self.crops, generator=generator)
        draws = torch.rand(self.crops, 6, generator=generator, dtype=torch.float64)
        mine = slice(self.rank, len(self) * self.batch_size * self.world, self.world)
        start, height, width = self.places[order[mine]].unbind(1)
        scale, down, right, flip, pure, quality = draws[mine].unbind(1)
        side = (self.size / (SMALLEST_RESCALE + (1 - SMALLEST_RESCALE) * scale)).round().long()
        side = torch.minimum(side, torch.minimum(height, width))
        top, left = (down * (height - side + 1)).long(), (right * (width - side + 1)).long()
        first = start + top * width + left
        plan = torch.stack([first, width, side, flip < 0.5, pure < PURE_SHARE], dim=1)
        return plan.to(self.device), quality_at(quality.float()).to(self.device)

    def cut(self, plan: Tensor, generator: torch.Generator) -> Tensor:
        """The crops of rows of a plan, [B, 3, size, size] in 0 to 1."""
        first, width, side, flip, pure = plan.unbind(1)
        inside = torch.arange(self.reach, device=self.device).minimum(side[:, None] - 1)
        index = (first[:, None] + inside * width[:, None])[:, :, None] + inside[:, None]
        window = self.pixels[index].float()  # [B, reach, reach, 3]
        rows = resampling(side, self.reach, self.size)
        columns = torch.where(flip[:, None, None].bool(), rows.flip(1), rows)
        x = (rows @ window.flatten(2)).unflatten(2, (self.reach, 3))  # [B, size, reach, 3]
        x = torch.einsum("bjc,bicd->bdij", columns, x).round().clamp(0, 255)
        x = torch.where(pure[:, None, None, None].bool(), pure_colours(x, generator), x)
        return (x / 255).contiguous(memory_format=torch.channels_last)

    def after(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (x [B, 3, H, W] in 0 to 1, quality [B]) on the device, from number ``step`` on,
        without an end."""
        generator = torch.Generator(self.device)
        while True:
            epoch, done = divmod(step, len(self))
            batches = zip(*(part.split(self.batch_size) for part in self.plan(epoch)))
            for plan, quality in list(batches)[done:]:
                generator.manual_seed(hash((self.seed, step, self.rank)))
                step += 1
                yield self.cut(plan, generator), quality


def fits(paths: list[Path], device: torch.device) -> bool:
    """Whether pictures fit on a GPU, decoded: into MAX_BYTES, and into half of its free memory."""
    free, _ = torch.cuda.mem_get_info(device)
    return 3 * sum(map(area, set(paths))) <= min(MAX_BYTES, free // 2)
