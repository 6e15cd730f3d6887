import pytest

from xfr.images import Picture, read_picture


@pytest.fixture
def read(tmp_path):
    """The picture in a file with these bytes."""

    def run(data: bytes, name: str = "picture.png") -> Picture:
        (tmp_path / name).write_bytes(data)
        return read_picture(tmp_path / name)

    return run
