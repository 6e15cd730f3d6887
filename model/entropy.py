"""Entropy model and coder of the latents: Gaussians on a grid of scales, and an escape."""

import math

import constriction
import numpy as np
import torch
from torch import Tensor, nn

from model.payload import Reader, pack_number

SCALES = 64  # number of scales that there is a table for
MIN_SCALE, MAX_SCALE = 0.11, 256.0  # geometric between them
MIN_LIKELIHOOD = 2.0**-20
MAX_REACH = 511  # symbols beyond +-this are always escaped
MAX_SYMBOL = 2**24  # far beyond what any picture gives; a latent of it still fits into int32
TABLE_BITS = 20  # the counts of a table sum up to 2^TABLE_BITS
PRIOR = 3000  # symbols that the Gaussian stands for, beside those that a table is measured on


def scale_of(index: Tensor) -> Tensor:
    """Standard deviation of a (real-valued) ``index`` in 0 to SCALES - 1."""
    return MIN_SCALE * torch.exp(index * (math.log(MAX_SCALE / MIN_SCALE) / (SCALES - 1)))


class LowerBound(torch.autograd.Function):
    """max(x, bound), with a gradient that can still push x up from below the bound."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x >= bound)
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (above,) = ctx.saved_tensors
        return grad * (above | (grad < 0)), None


def gaussian_likelihood(residual: Tensor, index: Tensor) -> Tensor:
    """Probability of ``residual`` (value minus mean, any shape) under a zero-mean Gaussian of
    the scale ``index``, convolved with a unit box (Ballé et al. 2018, equation 29)."""
    inverse = math.sqrt(0.5) / scale_of(index)
    magnitude = residual.abs()
    upper = torch.special.erfc((magnitude - 0.5) * inverse)
    lower = torch.special.erfc((magnitude + 0.5) * inverse)
    return 0.5 * (upper - lower)


def gaussian_bits(residual: Tensor, index: Tensor) -> Tensor:
    """Bits to code ``residual``, any shape, differentiable in both arguments."""
    return -LowerBound.apply(gaussian_likelihood(residual, index), MIN_LIKELIHOOD).log2()


class SymbolCoder(nn.Module):
    """Codes whole numbers of any size, each under the table that its scale index names.

    A table holds integer counts of the symbols -reach to reach, then of the escape, after
    which the number itself follows in a section of its own. Tables begin as Gaussians, for which
    the networks are trained; those of a trained codec are measured. They are part of the
    checkpoint: what ``erfc`` gives on the machine at hand does not matter after training.
    The coder is the asymmetric numeral system (Duda 2013) of the constriction library, with
    symbols grouped by table, which makes it some ten times faster than one at a time.

    >>> coder = SymbolCoder()
    >>> symbols, index = np.array([0, -3, 70_000]), np.array([5, 20, 5], dtype=np.uint8)
    >>> decoder = coder.decoder(coder.encode([(symbols, index)]))
    >>> decoder.decode(index).tolist()
    [0, -3, 70000]
    >>> decoder.finish()
    """

    def __init__(self):
        super().__init__()
        index = torch.arange(SCALES, dtype=torch.float64, device="cpu")
        reach = (6 * scale_of(index)).ceil().clamp(max=MAX_REACH).int()
        self.register_buffer("reach", reach)
        self.register_buffer("counts", torch.zeros_like(reach).repeat_interleave(2 * reach + 2))
        self.fit(self.histogram([]))

    def histogram(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """How often ``parts``, as ``encode`` takes them, have each magnitude under each scale
        index, int64 [SCALES, MAX_REACH + 2]; those of escapes at their table's reach + 1."""
        reach = self.reach.cpu().numpy()
        columns = MAX_REACH + 2
        total = np.zeros(SCALES * columns, np.int64)
        for values, index in parts:
            magnitudes = np.minimum(abs(values), reach[index] + 1)
            total += np.bincount((columns * index.astype(np.int64) + magnitudes).ravel(),
                                 minlength=len(total))  # fmt: skip
        return total.reshape(SCALES, columns)

    def fit(self, histogram: np.ndarray) -> None:
        """Make the tables: what ``histogram`` has, added to PRIOR symbols of the Gaussian."""
        scales = torch.arange(SCALES, dtype=torch.float64, device="cpu")
        tables = []
        for i, reach, magnitudes in zip(scales, self.reach.tolist(), histogram):
            symbols = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu")
            inside = gaussian_likelihood(symbols, i)
            gaussian = torch.cat([inside, (1 - inside.sum()).clamp(min=0)[None]])
            seen = torch.from_numpy(magnitudes[[*range(reach, 0, -1), *range(reach + 2)]] / 2)
            seen[[reach, -1]] *= 2  # zero has no sign, and the escape tells it later
            likelihood = (seen + PRIOR * gaussian) / (magnitudes.sum() + PRIOR)
            tables.append((likelihood * 2**TABLE_BITS).round().clamp(min=1).int())
        self.counts.copy_(torch.cat(tables))
        self.models = None  # made anew from these tables

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self.models = None  # made anew from the tables that have been loaded
        reach, counts = self.reach.long(), self.counts.long()
        sizes = 2 * reach + 2
        if reach.min() < 0 or reach.max() > MAX_REACH or sizes.sum() != len(counts):
            raise ValueError("the checkpoint's probability tables have not the size they say")
        totals = [table.sum().item() for table in counts.split(sizes.tolist())]
        if counts.min() < 1 or max(totals) >= 2**24:
            raise ValueError("the checkpoint's probability tables have counts out of range")

    def prepare(self) -> tuple[np.ndarray, list]:
        """The reaches, and the library's model for each table; made at first use."""
        if self.models is None:
            reach = self.reach.cpu().numpy()
            ends = np.cumsum(2 * reach + 2)
            tables = np.split(self.counts.cpu().numpy().astype(np.float64), ends[:-1])
            categorical = constriction.stream.model.Categorical
            models = [categorical(table / table.sum(), perfect=False) for table in tables]
            self.models = reach, models  # at once: threads share a codec
        return self.models

    def encode(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> bytes:
        """Parts of (whole numbers up to MAX_SYMBOL, scale index as uint8), each of one shape,
        to bytes."""
        reach, models = self.prepare()
        runs, escapes = [], bytearray()
        for values, index in parts:
            order, ends = grouped(index)
            values = values.ravel()[order].astype(np.int32)
            limit = reach[index.ravel()[order]]
            symbols = values + limit
            beyond = np.flatnonzero(np.abs(values) > limit)
            for value, r in zip(values[beyond].tolist(), limit[beyond].tolist()):
                escapes += pack_number(2 * (abs(value) - r - 1) + (value < 0))
            symbols[beyond] = 2 * limit[beyond] + 1
            runs += [(run, k) for k, run in enumerate(np.split(symbols, ends)) if len(run)]
        coder = constriction.stream.stack.AnsCoder()
        for run, k in reversed(runs):
            coder.encode_reverse(run, models[k])
        words = coder.get_compressed().astype("<u4").tobytes()
        return pack_number(len(escapes)) + escapes + words

    def decoder(self, chunk: bytes) -> "SymbolDecoder":
        return SymbolDecoder(chunk, *self.prepare())


class SymbolDecoder:
    """Decodes, part after part, what ``SymbolCoder.encode`` made. ValueError if it cannot be."""

    def __init__(self, chunk: bytes, reach: np.ndarray, models: list):
        self.reach, self.models = reach, models
        reader = Reader(chunk)
        self.escapes = Reader(reader.bytes(reader.number()))
        words = reader.rest()
        if len(words) % 4 or words[-4:] == b"\0\0\0\0":
            raise ValueError("damaged payload: not a sequence of coded words")
        self.coder = constriction.stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype("u4"))

    def decode(self, index: np.ndarray) -> np.ndarray:
        """The whole numbers, int32, of scale indices ``index`` (uint8), in its shape."""
        order, ends = grouped(index)
        values = np.empty(index.size, np.int32)
        for k, run in enumerate(np.split(values, ends)):
            if len(run):
                reach = self.reach[k]
                np.subtract(self.coder.decode(self.models[k], len(run)), reach, out=run)
                if run.max() > reach:
                    self.read_escapes(run, reach)
        out = np.empty_like(values)
        out[order] = values
        return out.reshape(index.shape)

    def read_escapes(self, run: np.ndarray, reach: int) -> None:
        """Replace the escapes among ``run`` by the numbers that they stand for."""
        for position in np.flatnonzero(run > reach):
            number = self.escapes.number()
            magnitude = number // 2 + int(reach) + 1
            if magnitude > MAX_SYMBOL:
                raise ValueError("damaged payload: a symbol is too large")
            run[position] = -magnitude if number % 2 else magnitude

    def finish(self) -> None:
        self.escapes.finish()
        if not self.coder.is_empty():
            raise ValueError("damaged payload: symbols are left over")


def grouped(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A stable order of the elements by scale index, and where each index but the last ends."""
    flat = index.ravel()
    ends = np.cumsum(np.bincount(flat, minlength=SCALES))[:-1]
    return np.argsort(flat, kind="stable"), ends
