"""Sums of integers, exact on every machine: matrix products and depthwise convolutions.

A sum of integers below 2^24 in magnitude is exact in float32 and in int32, in any order of
addition. Not every library keeps what it promises, so each way of computing such sums is checked
where they are largest before it is used, once for each device.
"""

import timeit
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

EXACT_UP_TO = 2**24  # float32 holds all integers up to here
WEIGHT_LIMIT = 63  # magnitude of 8-bit weights: two products stay below 2^15, see ``int_mm``
INPUT_LIMIT = 127  # magnitude of 8-bit inputs
FINE_LIMIT = 1023  # magnitude of inputs of ``fine_product``
CHANNEL_MULTIPLE = 16  # input channels of products are one; some libraries fail with others
DEPTHWISE_LIMIT = 2**13 - 1  # magnitude of inputs of depthwise convolutions

MatrixProduct = Callable[[Tensor, Tensor, Tensor], None]
DepthwiseSums = Callable[[Tensor, Tensor, Tensor, int], Tensor]


# Products of 8-bit matrices


def int_mm(x: Tensor, weight: Tensor, total: Tensor) -> None:
    """x int8 [P, K] times weight int8 [K, D] into total int32 [P, D]. Without VNNI, oneDNN moves
    inputs to 0 to 255 and adds pairs of products in 16 bits, where they saturate: weights of more
    than 64 would make the total wrong. K = 1 makes it wrong, too."""
    torch._int_mm(x, weight, out=total)


def float_mm(x: Tensor, weight: Tensor, total: Tensor) -> None:
    """``int_mm`` in float32, for machines whose product of int8 is slow or wrong."""
    with torch.autocast(x.device.type, enabled=False):
        total.copy_(torch.mm(x.float(), weight.float()))


@cache
def matrix_product(device: torch.device) -> MatrixProduct:
    """The fastest product of 8-bit matrices that is exact on ``device``. ArithmeticError if none
    is."""
    exact = [product for product in (int_mm, float_mm) if is_exact_product(product, device)]
    if not exact:
        raise ArithmeticError(f"matrix products of integers are not exact on {device}")
    return min(exact, key=lambda product: seconds(product, device)) if len(exact) > 1 else exact[0]


def double_mm(x: Tensor, weight: Tensor, total: Tensor) -> None:
    """``float_mm`` in float64."""
    with torch.autocast(x.device.type, enabled=False):
        total.copy_(torch.mm(x.double(), weight.double()))


@cache
def fine_product(device: torch.device) -> MatrixProduct:
    """A product of integers up to FINE_LIMIT, as float32, with int8: exact while sums stay below
    2^24."""
    is_exact = is_exact_product(float_mm, device, FINE_LIMIT, torch.float32)
    return float_mm if is_exact else double_mm


def is_exact_product(
    product: MatrixProduct,
    device: torch.device,
    limit: int = INPUT_LIMIT,
    dtype: torch.dtype = torch.int8,
) -> bool:
    """Whether ``product`` is exact where sums are largest, and for any numbers, in matrices of
    shapes that take different ways through the library. ``limit``, ``dtype``: of the inputs."""
    random = torch.Generator().manual_seed(0)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=random)

    most = EXACT_UP_TO // (WEIGHT_LIMIT * (limit + 1))  # inputs whose sum stays exact
    for rows, inputs, outputs in ((192, 320, 48), (24, 176, 72), (1, 16, 16), (17, 1024, 32)):
        inputs = min(inputs, most)
        sign = 2 * integers(0, 1, 1, inputs) - 1
        largest = limit * sign.repeat(rows, 1)
        largest[rows // 2 :] = torch.where(sign < 0, -limit - 1, limit)
        steepest = WEIGHT_LIMIT * sign.T.expand(-1, outputs)
        any_x = integers(-limit - 1, limit, rows, inputs)
        any_weight = integers(-WEIGHT_LIMIT, WEIGHT_LIMIT, inputs, outputs)
        for x, weight in ((largest, steepest), (any_x, any_weight)):
            total = torch.empty(rows, outputs, dtype=torch.int32, device=device)
            columns = weight.T.to(device, torch.int8).contiguous().T
            try:
                product(x.to(device, dtype), columns, total)
            except RuntimeError:  # not on this machine, or not of this shape
                return False
            if not torch.equal(total.cpu().double(), x.double() @ weight.double()):
                return False
    return True


def seconds(product: MatrixProduct, device: torch.device) -> float:
    """The time that ``product`` takes for a matrix of usual size: the least of five."""
    x = torch.ones(192, 320, dtype=torch.int8, device=device)
    weight = torch.ones(320, 320, dtype=torch.int8, device=device).T
    total = torch.empty(192, 320, dtype=torch.int32, device=device)

    def multiply() -> None:
        product(x, weight, total)
        total[0, 0].item()  # waits for the device

    return min(timeit.repeat(multiply, number=1, repeat=5))


# Depthwise convolutions


def conv_sums(x: Tensor, weight: Tensor, bias: Tensor, sides: int = 0) -> Tensor:
    """The 3x3 convolution of each channel of x [B, C, H + 2, W + 2], to [B, C, H, W]. weight: [C,
    1, 3, 3], bias: [C]. With ``sides`` = 1, x lacks the first and the last column, which count as
    zero."""
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(x, weight, bias, padding=(0, sides), groups=len(bias))


def shifted_sums(x: Tensor, weight: Tensor, bias: Tensor, sides: int = 0) -> Tensor:
    """``conv_sums`` as the sum of nine shifted products."""
    x = F.pad(x, (sides, sides))
    height, width = x.shape[2] - 2, x.shape[3] - 2
    total = bias[:, None, None].expand(len(x), -1, height, width)
    total = total.contiguous(memory_format=torch.channels_last)
    for i in range(3):
        for j in range(3):
            shifted = x[:, :, i : i + height, j : j + width]
            total.addcmul_(shifted, weight[:, :, i, j, None])
    return total


def depthwise_sums(x: Tensor, weight: Tensor, bias: Tensor, sides: int = 0) -> Tensor:
    """``conv_sums`` in a way that is exact on x's device, as long as no sum needs more than 24
    bits."""
    return depthwise_way(x.device)(x, weight, bias, sides)


@cache
def depthwise_way(device: torch.device) -> DepthwiseSums:
    """torch's own convolution if it is exact on ``device``, that is, if it takes no other
    operations than additions and multiplications. ArithmeticError if no way is exact."""
    for way in (conv_sums, shifted_sums):
        if is_exact_depthwise(way, device):
            return way
    raise ArithmeticError(f"depthwise convolutions of integers are not exact on {device}")


def is_exact_depthwise(way: DepthwiseSums, device: torch.device) -> bool:
    """Whether the sums are exact where they are largest, and for any numbers."""
    random = torch.Generator().manual_seed(0)
    for channels, height, width, sides in ((160, 7, 24, 1), (16, 3, 7, 0), (48, 18, 34, 1)):
        shape = 1, channels, height, width
        x = torch.randint(-DEPTHWISE_LIMIT, DEPTHWISE_LIMIT + 1, shape, generator=random)
        x[:, :, ::2, ::3] = DEPTHWISE_LIMIT
        weight = torch.randint(-227, 228, (channels, 1, 3, 3), generator=random)
        weight[::4] = 227
        bias = torch.randint(-1000, 1000, (channels,), generator=random)
        exact = shifted_sums(x.double(), weight.double(), bias.double(), sides)
        x, weight, bias = (tensor.float().to(device) for tensor in (x, weight, bias))
        y = way(x.contiguous(memory_format=torch.channels_last), weight, bias, sides)
        if not torch.equal(y.cpu().double(), exact):
            return False
    return True
