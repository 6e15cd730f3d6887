"""Bytes inside files: numbers of any size, chunks that begin with their length, lzma streams.

Files may be hostile. Every length is checked against the bytes that are there before memory
is allocated for it; data that does not fit raises a ValueError that starts with "damaged" or
"truncated".
"""

import lzma
import struct

DICTIONARY_BYTES = 1 << 20  # an lzma decoder allocates them, whatever the stream holds


def pack_number(value: int) -> bytes:
    """LEB128: seven bits per byte, lowest first; the top bit is set on all bytes but the last.

    >>> pack_number(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def pack_chunk(data: bytes) -> bytes:
    """``data`` behind its length, a LEB128 number."""
    return pack_number(len(data)) + data


def lzma_filters(**options) -> list[dict]:
    """Filters of a raw LZMA2 stream; an .xz container would add more than 60 bytes to it."""
    return [{"id": lzma.FILTER_LZMA2, "dict_size": DICTIONARY_BYTES, **options}]


def lzma_compress(data: bytes, **options) -> bytes:
    """A raw LZMA2 stream of ``data``. ``options`` are those of a filter of Python's lzma module;
    the decoder does not need them, since the stream itself holds what they changed."""
    return lzma.compress(data, lzma.FORMAT_RAW, filters=lzma_filters(**options))


class LzmaReader:
    """Reads a raw LZMA2 stream piece by piece. ``name``: of the stream, in messages."""

    def __init__(self, stream: bytes, name: str):
        self.decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=lzma_filters())
        self.stream, self.name = stream, name

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes; never produces more."""
        if not size:
            return b""
        try:
            data = self.decompressor.decompress(self.stream, max_length=size)
        except (EOFError, lzma.LZMAError) as error:
            raise ValueError(f"damaged {self.name}: {error}") from None
        if len(data) != size:
            raise ValueError(f"damaged {self.name}: its lzma stream ends too early")
        self.stream = b""  # the decompressor has it now
        return data

    def finish(self) -> None:
        """ValueError unless the stream ends here."""
        try:
            self.take(1)
        except ValueError:
            pass
        else:
            raise ValueError(f"damaged {self.name}: its lzma stream is too long")
        if not self.decompressor.eof or self.decompressor.unused_data:
            raise ValueError(f"damaged {self.name}: its lzma stream does not end where it should")


def lzma_decompress(stream: bytes, size: int, name: str) -> bytes:
    """Exactly ``size`` bytes from a raw LZMA2 stream; ValueError if it holds fewer or more. Never
    produces more than one byte beyond ``size``. ``name``: of the stream, in messages."""
    reader = LzmaReader(stream, name)
    data = reader.take(size)
    reader.finish()
    return data


class Reader:
    """Reads ``data`` from front to back. ``name``: of the data, in messages.

    >>> reader = Reader(pack_number(300) + pack_chunk(b"abc"), "example")
    >>> reader.number(), reader.chunk()
    (300, b'abc')
    >>> reader.take(1)
    Traceback (most recent call last):
    ValueError: truncated example: 1 or more bytes are missing
    """

    def __init__(self, data: bytes, name: str):
        self.data, self.name, self.position = data, name, 0

    @property
    def remaining(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > self.remaining:
            missing = count - self.remaining
            raise ValueError(f"truncated {self.name}: {missing} or more bytes are missing")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self) -> int:
        """A number of at most 35 bits, as ``pack_number`` writes it."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError(f"damaged {self.name}: a number of more than 35 bits")

    def chunk(self) -> bytes:
        """The data that ``pack_chunk`` wrote."""
        return self.take(self.number())

    def unpack(self, format: str) -> tuple:
        """Values of this ``format`` of Python's struct module."""
        return struct.unpack(format, self.take(struct.calcsize(format)))

    def finish(self) -> None:
        """ValueError unless everything has been read."""
        if self.remaining:
            raise ValueError(f"damaged {self.name}: {self.remaining} trailing bytes")
