"""Whole numbers as binary digits, and binary digits as bytes.

A value is binarized successively. The first digit says whether it is zero; the next is its sign.
Then, as long as the answer is yes: is its magnitude at least 2, 4, 8? There remain the digits below
the leading one. The same digit of many values forms a plane: eight to a byte.

All planes go through one lzma stream, except for those whose digits are as often 0 as 1: the signs,
and all but the first of the digits below the leading one. They are stored as they are.
"""

import lzma

import numpy as np

from model.bytestream import LzmaReader, Reader, lzma_compress, pack_chunk

MAX_DIGITS = 15  # magnitudes are less than 2^MAX_DIGITS
# Runs of zeros are all that lzma finds repeated: a search for other repetitions would be wasted.
LZMA_OPTIONS = dict(lc=0, lp=0, pb=0, mode=lzma.MODE_NORMAL, mf=lzma.MF_HC3, nice_len=273, depth=1)


class DigitWriter:
    """Packs arrays of whole numbers, one after the other."""

    def __init__(self):
        self.coded: list[np.ndarray] = []  # planes, as bytes
        self.plain: list[np.ndarray] = []  # digits

    def write(self, values: np.ndarray) -> None:
        """values: int32 [N], of magnitudes below 2^MAX_DIGITS."""
        used = values[values != 0]
        self.write_plane(values != 0)
        self.plain.append(used < 0)
        magnitudes = np.abs(used)
        digits = np.frexp(magnitudes.astype(np.float32))[1]  # number of digits of each magnitude
        rest = digits
        for count in range(1, MAX_DIGITS):
            if not len(rest):
                break
            self.write_plane(rest > count)
            rest = rest[rest > count]
        for known in range(1, digits.max(initial=0)):
            deep = digits > known
            plane = magnitudes[deep] >> (digits[deep] - known - 1) & 1
            self.write_plane(plane) if known == 1 else self.plain.append(plane)

    def write_plane(self, digits: np.ndarray) -> None:
        self.coded.append(np.packbits(digits))

    def finish(self) -> bytes:
        """The bytes of all arrays: the length of the lzma stream, the stream, plain digits."""
        stream = lzma_compress(np.concatenate(self.coded).tobytes(), **LZMA_OPTIONS)
        plain = np.concatenate(self.plain, dtype=bool, casting="unsafe")
        return pack_chunk(stream) + np.packbits(plain).tobytes()


class DigitReader:
    """Reads the arrays that a DigitWriter has written, given the length of each. ValueError if they
    are damaged."""

    def __init__(self, reader: Reader):
        self.name = reader.name
        self.coded = LzmaReader(reader.chunk(), reader.name)
        self.plain = np.unpackbits(np.frombuffer(reader.take(reader.remaining), np.uint8))
        self.position = 0

    def read(self, count: int) -> np.ndarray:
        """The next ``count`` values, int32."""
        nonzero = self.read_plane(count)
        total = int(np.count_nonzero(nonzero))
        negative = self.read_plain(total).astype(bool)
        digits = np.ones(total, np.int32)
        rest = np.arange(total)
        for _ in range(1, MAX_DIGITS):
            if not len(rest):
                break
            rest = rest[self.read_plane(len(rest))]
            digits[rest] += 1
        magnitudes = np.ones(total, np.int32)
        for known in range(1, digits.max(initial=0)):
            deep = np.flatnonzero(digits > known)
            plane = self.read_plane(len(deep)) if known == 1 else self.read_plain(len(deep))
            magnitudes[deep] = 2 * magnitudes[deep] + plane
        values = np.zeros(count, np.int32)
        values[nonzero] = np.where(negative, -magnitudes, magnitudes)
        return values

    def read_plane(self, count: int) -> np.ndarray:
        packed = np.frombuffer(self.coded.take(-(-count // 8)), np.uint8)
        return np.unpackbits(packed, count=count).view(bool)

    def read_plain(self, count: int) -> np.ndarray:
        if count > len(self.plain) - self.position:
            raise ValueError(f"truncated {self.name}: signs or other digits are missing")
        self.position += count
        return self.plain[self.position - count : self.position]

    def finish(self) -> None:
        """ValueError unless everything has been read."""
        self.coded.finish()
        if len(self.plain) - self.position > 7:
            raise ValueError(f"damaged {self.name}: trailing digits")
