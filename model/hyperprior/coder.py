"""The hyperprior codec's latents to bytes and back.

Everything here is in fixed point: encoder and decoder compute the same integers on any machine.
"""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from model.bytestream import Reader
from model.entropy import CERTAIN_BELOW, MAX_SYMBOL, SCALES, SymbolCoder, dead_zone, gaussian_bits
from model.fixed_point import ACTIVATION_LIMIT, FRACTION_BITS, QualityBias, activation_bits
from model.hyperprior.context import (
    PASSES,
    ContextModel,
    HyperSynthesis,
    coded_in,
    fixed_scale_index,
    merge_latent,
    split_latent,
)
from model.quantizers import CURVATURE

Y_STRIDE, Z_STRIDE = 16, 64  # pixels per position of y and of z
CHANNEL_STEP = 16  # the number of coded channels of y is a multiple of it
Z_DEPTH = 1  # positions of z that a tile sees of the tiles before it
Y_DEPTH = Z_DEPTH * Z_STRIDE // Y_STRIDE

Segment = tuple[np.ndarray, np.ndarray]  # symbols and their scale indices, as SymbolCoder has them


class HyperpriorLatents(NamedTuple):
    """The latents of a tile, before rounding: y is rounded relative to its means."""

    y: Tensor  # [1, K, H/16, W/16]
    z: Tensor  # [1, Z, H/64, W/64]


class SearchedLatents(HyperpriorLatents):
    """Latents that a search has found: y is rounded to the nearest symbols, without a dead zone."""


def last_used(y: Tensor) -> int:
    """The last channel of y [1, M, h, w] that is not zero everywhere; 0 if there is none."""
    used = y.flatten(2).any(2)[0].nonzero()
    return int(used[-1]) if len(used) else 0


def trimmed(y: Tensor) -> Tensor:
    """y [1, M, h, w] without its last channels, in steps of CHANNEL_STEP, if they are zero
    everywhere."""
    return y[:, : (last_used(y) // CHANNEL_STEP + 1) * CHANNEL_STEP]


class Border:
    """The values of a latent to the left of a tile and above it, ``depth`` positions wide.

    Without them, the entropy networks would predict less well at the border of a tile, and a step
    of the reconstruction would show between two tiles of a smooth sky.

    Tiles of a picture come row by row, on a grid; the picture's latent has ``width`` positions in a
    row. Channels that a tile lacks are zero. Memory is taken for decoded tiles alone.
    """

    def __init__(self, width: int, depth: int):
        self.depth, self.width, self.column = depth, width, 0
        # The lowest rows of tiles, [1, C, depth, w] each: those of the last row, and of this row
        self.above: list[Tensor] = []
        self.row: list[Tensor] = []
        self.left: Tensor | None = None  # [1, C, h, depth]

    def window(self, channels: int, height: int, width: int) -> tuple[Tensor, int, int]:
        """Room for the next tile, beside the values known above it and to its left:
        [1, channels, top + height, left + width], top and left."""
        top = self.depth if self.above else 0
        left = 0 if self.left is None else self.depth
        values = torch.zeros(1, channels, top + height, left + width)
        if self.above:
            fill(values[:, :, :top, left:], self.above[len(self.row)])
        if self.above and left:
            fill(values[:, :, :top, :left], self.above[len(self.row) - 1][..., -left:])
        if self.left is not None:
            fill(values[:, :, top:, :left], self.left)
        return values, top, left

    def add(self, tile: Tensor) -> None:
        """Go on after ``tile``, [1, channels, height, width]."""
        self.row.append(tile[:, :, -self.depth :].clone())
        self.left = tile[..., -self.depth :].clone()
        self.column += tile.shape[3]
        if self.column == self.width:
            self.above, self.row = self.row, []
            self.left, self.column = None, 0


def fill(place: Tensor, values: Tensor) -> None:
    """Copy ``values`` [1, C, h, w] to ``place`` [1, K, h, w], as far as both have channels."""
    count = min(place.shape[1], values.shape[1])
    place[:, :count] = values[:, :count]


class TilePasses:
    """The context model's passes over a tile, the same for encoder and decoder. ``y`` [1, K, top +
    h, left + w] has room for the tile's y, beside known values of earlier tiles, and ``features``
    covers both: the tile is coded as if the picture had no tiles."""

    def __init__(
        self, context: ContextModel, bits: int, features: Tensor, y: Tensor, top: int, left: int
    ):
        self.context, self.bits, self.features = context, bits, features
        self.y = split_latent(y)
        self.top, self.left = top // 2, left // 2  # in a phase
        self.state: Tensor | None = None

    def inner(self, x: Tensor) -> Tensor:
        """The tile's part of x [..., h, w], which also covers known values of earlier tiles."""
        return x[..., self.top :, self.left :]

    def predict(self, step: int) -> tuple[Tensor, Tensor]:
        """Means, in multiples of 2^-FRACTION_BITS, and scale indices of the symbols of pass
        ``step``, [1, 4, K/4, h/2, w/2] each."""
        count = self.y.shape[3]
        mean, logits = self.context.passes[step](self.features, self.state, count, self.bits)
        return self.inner(mean), fixed_scale_index(self.inner(logits))

    def update(self, step: int, y_hat: Tensor) -> None:
        """Go on after pass ``step``, which has coded y_hat."""
        self.inner(self.y)[coded_in(step)] = y_hat
        self.state = self.context.update(self.state, self.y[coded_in(step)], step, self.bits)

    def decoded(self) -> Tensor:
        """The tile's y, [1, K, h, w], after all passes."""
        return merge_latent(self.inner(self.y))


class EntropyModel(Protocol):
    """The part of the codec that its coder works with."""

    hyper_synthesis: HyperSynthesis
    context: ContextModel
    z_scale: QualityBias
    coder: SymbolCoder

    def zone_share(self, quality: Tensor) -> Tensor: ...


class HyperpriorTileCoder:
    """Codes the tiles of a picture of ``width`` pixels: of each tile z, then y in four passes. The
    bytes of a tile are the number of y's channels, in steps of CHANNEL_STEP; the scale index below
    which symbols are taken as zero; and the bytes of the symbol coder."""

    def __init__(self, model: EntropyModel, width: int, quality: Tensor):
        self.model, self.quality = model, quality
        self.bits = activation_bits(round(quality.item()))
        self.channels, self.z_channels = model.context.latent_channels, model.z_scale.channels
        self.y_border = Border(width // Y_STRIDE, Y_DEPTH)
        self.z_border = Border(width // Z_STRIDE, Z_DEPTH)

    def encode(self, latents: HyperpriorLatents) -> bytes:
        """The bytes of the next tile: y [1, K, H/16, W/16], K a multiple of CHANNEL_STEP, and
        z [1, Z, H/64, W/64]."""
        segments, certain = self.symbols(latents)
        count = latents.y.shape[1] // CHANNEL_STEP
        return bytes([count, certain]) + self.model.coder.encode(segments)

    def decode(self, chunk: bytes, height: int, width: int) -> Tensor:
        """The next tile's y in multiples of 2^-FRACTION_BITS, float32 [1, K, h, w]."""
        reader = Reader(chunk, "payload")
        count, certain = reader.unpack(">BB")
        if not 0 < count <= self.channels // CHANNEL_STEP or certain > SCALES:
            raise ValueError("damaged payload: a number of channels or scales is out of range")
        decoder = self.model.coder.decoder(reader.take(reader.remaining))
        z_index = self.z_index(height // Z_STRIDE, width // Z_STRIDE)
        z = torch.from_numpy(decoder.decode(z_index)).float()
        passes = self.passes(z, count * CHANNEL_STEP, height // Y_STRIDE, width // Y_STRIDE)
        for step in range(PASSES):
            mean, tensor = passes.predict(step)
            index = tensor.numpy().astype(np.uint8)
            coded = index >= certain
            symbols = np.zeros(index.shape, np.float32)
            symbols[coded] = decoder.decode(index[coded])
            passes.update(step, torch.from_numpy(symbols) * 2**FRACTION_BITS + mean)
        decoder.finish()
        return self.finished(z, passes)

    def symbols(self, latents: HyperpriorLatents) -> tuple[list[Segment], int]:
        """The next tile's symbols, in the order of coding, without those that are taken as zero,
        and the scale index below which they are: CERTAIN_BELOW, or 0 if too much would be lost."""
        z = latents.z.round().clamp(-ACTIVATION_LIMIT, ACTIVATION_LIMIT).float().cpu()
        y = split_latent(latents.y.float().cpu())
        z_segment = z.int().numpy(), self.z_index(*z.shape[2:])
        searched = isinstance(latents, SearchedLatents)
        share = torch.zeros(1) if searched else self.model.zone_share(self.quality).cpu()
        for certain in (CERTAIN_BELOW, 0):
            passes = self.passes(z, *latents.y.shape[1:])
            y_segments, lost = coded_in_passes(y, passes, certain, share)
            if lost <= 0:
                break
        self.finished(z, passes)
        return [z_segment, *y_segments], certain

    def passes(self, z: Tensor, channels: int, height: int, width: int) -> TilePasses:
        """The passes over the next tile, whose z is [1, Z, h/64, w/64] and whose y has this
        shape."""
        z_window, top, left = self.z_border.window(*z.shape[1:])
        z_window[:, :, top:, left:] = z
        features = self.model.hyper_synthesis(z_window, self.quality.cpu(), self.bits)
        y_window = self.y_border.window(channels, height, width)
        return TilePasses(self.model.context, self.bits, features, *y_window)

    def finished(self, z: Tensor, passes: TilePasses) -> Tensor:
        """The y of a tile that is coded, which the next tiles then see."""
        y = passes.decoded()
        self.y_border.add(y)
        self.z_border.add(z)
        return y

    def z_index(self, height: int, width: int) -> np.ndarray:
        """The scale index of each element of z, uint8 [1, Z, height, width]."""
        zeros = torch.zeros(1, self.z_channels, height, width)
        logits = self.model.z_scale(zeros, self.quality.cpu(), FRACTION_BITS)
        return fixed_scale_index(logits).numpy().astype(np.uint8)


def coded_in_passes(
    y: Tensor, passes: TilePasses, certain: int, share: Tensor
) -> tuple[list[Segment], float]:
    """The symbols of a split y [1, 4, 4, K/4, h/2, w/2], pass by pass, as far as their scale index
    is at least ``certain``; and the bits that are lost by taking the others as zero. ``share`` [1]:
    see ``dead_zone``."""
    segments, lost = [], 0.0
    for step in range(PASSES):
        mean, index = passes.predict(step)
        residual = y[coded_in(step)] - mean / 2**FRACTION_BITS
        symbols = residual.round().clamp_(-MAX_SYMBOL, MAX_SYMBOL)
        symbols *= residual.abs() >= dead_zone(index, share)
        coded = index >= certain
        outliers = ~coded & (symbols != 0)
        if outliers.any():
            lost += net_worth(residual[outliers], index[outliers])
        symbols *= coded
        passes.update(step, symbols * 2**FRACTION_BITS + mean)
        chosen = coded.numpy()  # numpy selects in less than half of torch's time
        values = symbols.numpy()[chosen].astype(np.int32)
        segments.append((values, index.numpy()[chosen].astype(np.uint8)))
    return segments, lost


def net_worth(residual: Tensor, index: Tensor) -> float:
    """The distortion, in bits, that is saved by coding ``residual``, less the bits it takes."""
    symbols = residual.round()
    saved = CURVATURE / 2 * (residual.square() - (residual - symbols).square())
    return (saved - gaussian_bits(symbols, index)).sum().item()
