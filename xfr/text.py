"""Texts that files hold beside a picture: comments, and metadata in the form of texts."""

import struct
import zlib

MAX_CHUNK = 1 << 24  # bytes of a chunk, compressed and not, and of all texts together
MAX_TEXTS = 1024  # texts of a picture: of a million, each of no length, formats take minutes
COMMENT = "Comment"  # PNG's keyword for what JPEG, GIF and JPEG 2000 call a comment
RAW_PROFILE = "Raw profile type "  # ImageMagick's keywords for metadata in hexadecimal digits
PHOTOSHOP_PREFIX = b"Photoshop 3.0\0"  # stands before its resources in JPEG
IPTC_RESOURCE = 0x0404  # of Photoshop


def inflate(data: bytes, label: str, limit: int = MAX_CHUNK) -> bytes:
    """Decompressed zlib data. ValueError, naming ``label``, if damaged or beyond the ``limit``."""
    try:
        decompressor = zlib.decompressobj()
        found = decompressor.decompress(data, limit + 1)
    except zlib.error:
        raise ValueError(f"its {label} is damaged: dropped") from None
    if len(found) > limit:
        raise ValueError(f"its {label} has more than {limit} bytes: dropped")
    if not decompressor.eof:
        raise ValueError(f"its {label} is damaged: dropped")
    return found


def png_text(kind: bytes, data: bytes, room: int) -> tuple[str, str]:
    """Keyword and text of a tEXt, zTXt or iTXt chunk. ValueError if damaged, or beyond ``room``."""
    name, _, rest = data.partition(b"\0")
    keyword = name.decode("latin-1")
    label = f"text '{keyword[:40]}'" if keyword.isprintable() else "text"
    encoding, compressed = "latin-1", kind == b"zTXt"
    if compressed:
        rest = rest[1:]
    if kind == b"iTXt":
        encoding, compressed = "utf-8", rest[:1] == b"\1"
        parts = rest[2:].split(b"\0", 2)  # language, translated keyword, text
        rest = parts[-1] if len(parts) == 3 else b""
    text = inflate(rest, label, room) if compressed else rest
    if len(text) > room:
        raise ValueError(f"its {label} has more than {room} bytes: dropped")
    return keyword, text.decode(encoding, "replace")


def pack_texts(texts: list[tuple[str, str]]) -> bytes | None:
    """The first MAX_TEXTS keywords and texts as UTF-8, with a zero byte between all; None if there
    are none."""
    words = [word.replace("\0", "") for text in texts[:MAX_TEXTS] for word in text]
    return "\0".join(words).encode("utf-8", "replace") if words else None


def unpack_texts(data: bytes) -> list[tuple[str, str]]:
    """Reverse of ``pack_texts``, of any bytes at all."""
    words = data.decode("utf-8", "replace").split("\0", 2 * MAX_TEXTS)[: 2 * MAX_TEXTS]
    return list(zip(words[::2], words[1::2]))


def raw_profile(text: str) -> bytes:
    """The bytes in ImageMagick's "Raw profile type" texts: a line with a name, one with their
    number, and hexadecimal digits. ValueError if they are damaged."""
    _, length, digits = text.strip().split("\n", 2)
    data = bytes.fromhex(digits)
    if len(data) != int(length):
        raise ValueError("not as many bytes as it says")
    return data


def pack_raw_profile(kind: str, data: bytes) -> str:
    """Reverse of ``raw_profile``."""
    digits = data.hex()
    lines = [digits[start : start + 72] for start in range(0, len(digits), 72)]
    return f"\n{kind}\n{len(data):8}\n" + "\n".join(lines) + "\n"


def photoshop_resources(data: bytes) -> dict[int, bytes]:
    """Photoshop's image resources by number, as far as they are whole."""
    found = {}
    position = 0
    while data[position : position + 4] == b"8BIM" and position + 7 <= len(data):
        (number,) = struct.unpack_from(">H", data, position + 4)
        name = data[position + 6] + 1
        position += 6 + name + name % 2
        if position + 4 > len(data):
            break
        (size,) = struct.unpack_from(">I", data, position)
        position += 4
        if position + size > len(data):
            break
        found[number] = data[position : position + size]
        position += size + size % 2
    return found


def iptc_of(data: bytes) -> bytes | None:
    """IPTC records, be they alone or a resource of Photoshop; None if there are none."""
    data = data.removeprefix(PHOTOSHOP_PREFIX)
    if data.startswith(b"8BIM"):
        return photoshop_resources(data).get(IPTC_RESOURCE)
    return data if data.startswith(b"\x1c") else None


def photoshop_iptc(iptc: bytes) -> bytes:
    """IPTC records as a resource of Photoshop."""
    padding = bytes(len(iptc) % 2)
    return b"8BIM" + struct.pack(">HHI", IPTC_RESOURCE, 0, len(iptc)) + iptc + padding
