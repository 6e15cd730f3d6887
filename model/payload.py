"""Bytes inside a payload: whole numbers of any size, and chunks with their lengths."""


def pack_number(value: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the top bit set on all but the last.

    >>> pack_number(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Reads a payload from front to back. Raises ValueError where it ends too soon."""

    def __init__(self, payload: bytes):
        self.payload = memoryview(payload)
        self.position = 0

    def number(self) -> int:
        """A number of at most 35 bits that ``pack_number`` wrote."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.bytes(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("damaged payload: a number without end")

    def bytes(self, count: int) -> memoryview:
        if count > len(self.payload) - self.position:
            raise ValueError("damaged payload: it ends too soon")
        self.position += count
        return self.payload[self.position - count : self.position]

    def rest(self) -> memoryview:
        return self.bytes(len(self.payload) - self.position)

    def finish(self) -> None:
        if self.position != len(self.payload):
            raise ValueError("damaged payload: bytes are left over")
