"""Entropy model and entropy coder: Gaussians on a grid of scales, with an escape for outliers."""

import math
from typing import Any

import constriction
import numpy as np
import torch
from torch import Tensor, nn

from model.bytestream import Reader, pack_chunk, pack_number
from model.quantizers import CURVATURE

SCALES = 64  # number of scales, each with a table of probabilities
SMALLEST_SCALE, LARGEST_SCALE = 0.11, 256.0  # the first and the last; geometric in between
CERTAIN_BELOW = 3  # scale index, below which (scales under 0.15) symbols are taken as zero
MIN_LIKELIHOOD = 2.0**-20
MAX_SUPPORT = 511  # symbols outside of [-MAX_SUPPORT, MAX_SUPPORT] are always escaped
MAX_SYMBOL = 2**24  # more than any picture needs; in steps of 2^-6 it still fits into int32
TABLE_BITS = 20  # the counts of a table sum up to 2^TABLE_BITS
PSEUDO_COUNT = 3000  # symbols of the Gaussian prior that are added to the measured ones


def scale_of(index: Tensor) -> Tensor:
    """The standard deviation of a scale index, a real number in 0 to SCALES - 1."""
    step = math.log(LARGEST_SCALE / SMALLEST_SCALE) / (SCALES - 1)
    return SMALLEST_SCALE * torch.exp(index * step)


class LowerBound(torch.autograd.Function):
    """max(x, bound). Below the bound, only gradients pass whose descent increases x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x >= bound)
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (above,) = ctx.saved_tensors
        return grad * (above | (grad < 0)), None


def gaussian_likelihood(residual: Tensor, index: Tensor) -> Tensor:
    """The probability of ``residual`` (value minus mean, any shape) under a zero-mean Gaussian of
    the scale ``index``, convolved with a unit box. Ballé et al. 2018, "Variational image
    compression with a scale hyperprior", https://arxiv.org/abs/1802.01436, equation 29."""
    inverse = math.sqrt(0.5) / scale_of(index)
    magnitude = residual.abs()
    upper = torch.special.erfc((magnitude - 0.5) * inverse)
    lower = torch.special.erfc((magnitude + 0.5) * inverse)
    return 0.5 * (upper - lower)


def gaussian_bits(residual: Tensor, index: Tensor) -> Tensor:
    """The bits that coding ``residual`` takes, in its shape; differentiable in both arguments."""
    return -LowerBound.apply(gaussian_likelihood(residual, index), MIN_LIKELIHOOD).log2()


def dead_zone(index: Tensor, share: Tensor) -> Tensor:
    """The magnitude below which residuals become zero, for scale indices, integers [B, ...]; in
    their shape.

    To code a residual r as 1 instead of 0 saves a distortion of CURVATURE * (r - 1/2) bits, and
    takes more bits of rate. Only a ``share`` [B] of the additional bits is counted: symbols other
    than zero make the symbols that are coded later cheaper, most of all where there are few.
    """
    scales = torch.arange(SCALES, dtype=torch.float32, device=index.device)
    zero = torch.zeros_like(scales)
    more_bits = gaussian_bits(zero + 1, scales) - gaussian_bits(zero, scales)
    zones = 0.5 + share[:, None] / CURVATURE * more_bits  # [B, SCALES]
    first = SCALES * torch.arange(len(share), dtype=torch.int32, device=index.device)
    index = index.int() + first.view(-1, *[1] * (index.ndim - 1))
    return zones.flatten().index_select(0, index.flatten()).view_as(index)  # faster than zones[...]


class SymbolCoder(nn.Module):
    """Codes integers of any magnitude, each with the probability table of its scale index.

    The support of a table is the symbols -s to s; it holds an integer count for each of them, and
    one for the escape, which stands for all other numbers. An escaped number itself is written to a
    section of its own. The tables start as Gaussians, which the networks are trained for; the
    tables of a trained codec are measured. They are stored in the checkpoint, so that a decoder
    does not depend on the ``erfc`` of its machine.

    The coder is the asymmetric numeral system (Duda 2013, https://arxiv.org/abs/1311.2540) of the
    constriction library. Symbols are grouped by table: that is about ten times faster than coding
    them one at a time.

    >>> coder = SymbolCoder()
    >>> symbols, index = np.array([0, -3, 70_000]), np.array([5, 20, 5], dtype=np.uint8)
    >>> decoder = coder.decoder(coder.encode([(symbols, index)]))
    >>> decoder.decode(index).tolist()
    [0, -3, 70000]
    >>> decoder.finish()
    """

    reach: Tensor  # the support of each table, int32 [SCALES]
    counts: Tensor  # the tables, one after the other, int32

    def __init__(self):
        super().__init__()
        self.models: tuple[np.ndarray, list] | None = None  # see ``prepare``
        index = torch.arange(SCALES, dtype=torch.float64, device="cpu")
        support = (6 * scale_of(index)).ceil().clamp(max=MAX_SUPPORT).int()
        self.register_buffer("reach", support)
        self.register_buffer("counts", torch.zeros_like(support).repeat_interleave(2 * support + 2))
        self.fit(self.histogram([]))

    def histogram(self, segments: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """The number of symbols of each magnitude with each scale index in ``segments``, as for
        ``encode``: int64 [SCALES, MAX_SUPPORT + 2]. Escapes count as the magnitude s + 1."""
        support = self.reach.cpu().numpy()
        columns = MAX_SUPPORT + 2
        total = np.zeros(SCALES * columns, np.int64)
        for values, index in segments:
            magnitudes = np.minimum(abs(values), support[index] + 1)
            cells = columns * index.astype(np.int64) + magnitudes
            total += np.bincount(cells.ravel(), minlength=len(total))
        return total.reshape(SCALES, columns)

    def fit(self, histogram: np.ndarray) -> None:
        """Make the tables from ``histogram`` and PSEUDO_COUNT symbols of the Gaussian prior."""
        scales = torch.arange(SCALES, dtype=torch.float64, device="cpu")
        tables = []
        for scale, s, magnitudes in zip(scales, self.reach.tolist(), histogram):
            symbols = torch.arange(-s, s + 1, dtype=torch.float64, device="cpu")
            inside = gaussian_likelihood(symbols, scale)
            prior = torch.cat([inside, (1 - inside.sum()).clamp(min=0)[None]])
            measured = torch.from_numpy(magnitudes[[*range(s, 0, -1), *range(s + 2)]] / 2)
            measured[[s, -1]] *= 2  # zero has no sign, and an escape has it in its number
            likelihood = (measured + PSEUDO_COUNT * prior) / (magnitudes.sum() + PSEUDO_COUNT)
            tables.append((likelihood * 2**TABLE_BITS).round().clamp(min=1).int())
        self.counts.copy_(torch.cat(tables))
        self.models = None  # to be made from these tables

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.models = None  # to be made from the tables that have been loaded
        support, counts = self.reach.long(), self.counts.long()
        sizes = 2 * support + 2
        if support.min() < 0 or support.max() > MAX_SUPPORT or sizes.sum() != len(counts):
            raise ValueError("the checkpoint's probability tables do not have the declared sizes")
        totals = [table.sum().item() for table in counts.split(sizes.tolist())]
        if counts.min() < 1 or max(totals) >= 2**24:
            raise ValueError("the checkpoint's probability tables have counts out of range")

    def prepare(self) -> tuple[np.ndarray, list]:
        """The support s of each table and the library's model of it; made at first use."""
        if self.models is None:
            support = self.reach.cpu().numpy()
            ends = np.cumsum(2 * support + 2)
            tables = np.split(self.counts.cpu().numpy().astype(np.float64), ends[:-1])
            categorical = constriction.stream.model.Categorical
            models = [categorical(table / table.sum(), perfect=False) for table in tables]
            self.models = support, models  # in one assignment, since threads share a codec
        return self.models

    def encode(self, segments: list[tuple[np.ndarray, np.ndarray]]) -> bytes:
        """Encode ``segments`` in their order. Each is an array of integers up to MAX_SYMBOL in
        magnitude, and an array of their scale indices, uint8, of the same shape."""
        support, models = self.prepare()
        runs, escapes = [], bytearray()
        for values, index in segments:
            order, ends = group_by_index(index)
            values = values.ravel()[order].astype(np.int32)
            s = support[index.ravel()[order]]
            symbols = values + s
            escaped = np.flatnonzero(np.abs(values) > s)
            for value, limit in zip(values[escaped].tolist(), s[escaped].tolist()):
                escapes += pack_number(2 * (abs(value) - limit - 1) + (value < 0))
            symbols[escaped] = 2 * s[escaped] + 1
            runs += [(run, i) for i, run in enumerate(np.split(symbols, ends)) if len(run)]
        coder = constriction.stream.stack.AnsCoder()
        for run, i in reversed(runs):  # a stack decodes first the last to be encoded
            coder.encode_reverse(run, models[i])
        words = coder.get_compressed().astype("<u4").tobytes()
        return pack_chunk(bytes(escapes)) + words

    def decoder(self, data: bytes) -> "SymbolDecoder":
        """A decoder of the bytes that ``encode`` returned; ValueError if they are damaged."""
        return SymbolDecoder(data, *self.prepare())


class SymbolDecoder:
    """Decodes the bytes of ``SymbolCoder.encode``, segment by segment. ValueError if they are
    damaged."""

    def __init__(self, data: bytes, support: np.ndarray, models: list):
        self.support, self.models = support, models
        reader = Reader(data, "payload")
        self.escapes = Reader(reader.chunk(), "payload")
        words = reader.take(reader.remaining)
        if len(words) % 4 or words[-4:] == b"\0\0\0\0":
            raise ValueError("damaged payload: its coded words are not what an encoder writes")
        self.coder = constriction.stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype("u4"))

    def decode(self, index: np.ndarray) -> np.ndarray:
        """The integers, int32, of the next segment, whose scale indices are ``index``, uint8
        of any shape; in the same shape."""
        order, ends = group_by_index(index)
        values = np.empty(index.size, np.int32)
        for i, run in enumerate(np.split(values, ends)):
            if len(run):
                s = self.support[i]
                np.subtract(self.coder.decode(self.models[i], len(run)), s, out=run)
                if run.max() > s:
                    self.read_escapes(run, s)
        out = np.empty_like(values)
        out[order] = values
        return out.reshape(index.shape)

    def read_escapes(self, run: np.ndarray, s: int) -> None:
        """Replace each escape in ``run`` by its number."""
        for position in np.flatnonzero(run > s):
            number = self.escapes.number()
            magnitude = number // 2 + int(s) + 1
            if magnitude > MAX_SYMBOL:
                raise ValueError("damaged payload: a symbol is too large")
            run[position] = -magnitude if number % 2 else magnitude

    def finish(self) -> None:
        """ValueError unless everything has been decoded."""
        self.escapes.finish()
        if not self.coder.is_empty():
            raise ValueError("damaged payload: symbols are left over")


def group_by_index(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A stable order of the elements by their scale index, and where in this order each index but
    the last one ends."""
    flat = index.ravel()
    ends = np.cumsum(np.bincount(flat, minlength=SCALES))[:-1]
    return np.argsort(flat, kind="stable"), ends
