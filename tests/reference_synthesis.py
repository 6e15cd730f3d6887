"""The synthesis in integers, written a second time: in numpy, with sums in int64."""

import numpy as np

from model.fixed_point import FRACTION_BITS
from model.gains import gains
from model.hyperprior.integer_synthesis import IntegerSynthesis, latent_bits
from model.integer_layers import WIDE_LIMIT, IntegerPointwise, IntegerResidualBlock
from model.integer_products import DEPTHWISE_LIMIT, EXACT_UP_TO, FINE_LIMIT

F32 = np.float32


def whole(tensor) -> np.ndarray:
    return tensor.numpy().astype(np.int64)


def to_int8(x: np.ndarray) -> np.ndarray:
    return np.rint(x.clip(-127, 127)).astype(np.int64)


def to_stream(x: np.ndarray) -> np.ndarray:
    return np.rint(x).clip(-DEPTHWISE_LIMIT, DEPTHWISE_LIMIT).astype(np.int64)


def pointwise(layer: IntegerPointwise, x: np.ndarray) -> np.ndarray:
    """x int64 [..., K] to float32 [..., D]."""
    total = x @ whole(layer.weight).T + whole(layer.bias)
    assert abs(total).max() < EXACT_UP_TO
    return total.astype(F32) * layer.scale.numpy()


def depthwise(block: IntegerResidualBlock, x: np.ndarray) -> np.ndarray:
    """x int64 [H, W, C] to float32, of weights in whole multiples of a power of two."""
    weight, bias = block.weight[:, 0].double().numpy(), block.bias.double().numpy()
    numbers = np.concatenate([weight.reshape(len(bias), 9), bias[:, None]], axis=1)
    unit = np.ones(len(bias))
    for _ in range(40):
        unit = np.where((numbers % unit[:, None] == 0).all(1), unit, unit / 2)
    weight, bias = weight / unit[:, None, None], bias / unit
    assert (weight == np.rint(weight)).all() and (bias == np.rint(bias)).all()
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    total = np.broadcast_to(bias.astype(np.int64), x.shape).copy()
    for i in range(3):
        for j in range(3):
            total += padded[i : i + height, j : j + width] * weight[:, i, j].astype(np.int64)
    assert abs(total).max() < EXACT_UP_TO
    return (total * unit).astype(F32)


def residual(block: IntegerResidualBlock, x: np.ndarray) -> np.ndarray:
    a, b = np.split(pointwise(block.expand, to_int8(depthwise(block, x))), 2, axis=2)
    gated = (a + F32(3)).clip(F32(0), F32(6)) * a * b
    change = np.rint(pointwise(block.project, to_int8(gated)))
    return (x.astype(F32) + change).clip(-DEPTHWISE_LIMIT, DEPTHWISE_LIMIT).astype(np.int64)


def upsampled(x: np.ndarray, side: int) -> np.ndarray:
    """[H, W, side * side * C] to [side * H, side * W, C]."""
    height, width, _ = x.shape
    x = x.reshape(height, width, side, side, -1).transpose(0, 2, 1, 3, 4)
    return x.reshape(side * height, side * width, -1)


def pixels(synthesis: IntegerSynthesis, y: np.ndarray, quality) -> np.ndarray:
    """y integers [K, h, w] and quality, a tensor [1], to uint8 [16 h, 16 w, 3]."""
    bits, count, c16 = latent_bits(quality).item(), len(y), len(synthesis.into8)
    gain = gains(synthesis.gain, quality)[0].numpy() / synthesis.ranges.numpy()
    steps = gain[:count] * F32(2.0 ** (bits - FRACTION_BITS))
    x = np.rint(y.transpose(1, 2, 0).astype(F32) * steps).clip(-WIDE_LIMIT, WIDE_LIMIT)
    x = x.astype(np.int64)
    coarse, fine = (whole(w)[:, :count] for w in (synthesis.first.coarse, synthesis.first.fine))
    total = x @ coarse.T + ((x + 64) // 128) @ fine.T
    assert abs(total).max() < 2**31
    first = total.astype(F32) * (synthesis.first.scale.numpy() * F32(2.0**-bits))
    first = first + synthesis.first_bias.numpy()
    stream = to_stream(first[..., :c16])
    for block in synthesis.blocks16:
        stream = residual(block, stream)
    into8 = synthesis.into8.numpy() * gains(synthesis.gain16, quality)[0].numpy()
    stream = to_stream(pointwise(synthesis.up8, to_int8(stream.astype(F32) * into8)))
    stream = upsampled(stream, 2)
    for block in synthesis.blocks8:
        stream = residual(block, stream)
    fine = np.rint(stream / 8).clip(-FINE_LIMIT, FINE_LIMIT).astype(np.int64)
    deep = pointwise(synthesis.up1, fine)
    image = deep + upsampled(first[..., c16:], 2)
    return upsampled(np.rint(image.clip(0, 255)), 8).astype(np.uint8)
