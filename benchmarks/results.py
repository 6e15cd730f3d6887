"""The CSV of measurements: a row for each score, which later runs extend."""

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from benchmarks.measures import Measure
from utils.files import csv_bytes
from utils.scores import cell


@dataclass
class Row:
    """The score of a file by one measure. ``picture``: the names of its folder and of itself;
    ``bytes``: of the file; ``score``: None, an empty cell, if the picture is too small."""

    codec: str
    setting: int
    picture: str
    bytes: int
    bpp: float
    measure: str
    score: float | None

    @property
    def key(self) -> tuple[str, int, str, str]:
        """The cells that identify the row."""
        return self.codec, self.setting, self.picture, self.measure


class Results:
    """The rows of the CSV at ``path``, by key. A row that is added is on disk at once.

    ``extend``: whether rows will be added; otherwise the file stays as it is.
    """

    HEADER = csv_bytes([[field.name for field in fields(Row)]])

    def __init__(self, path: Path, extend: bool = True):
        """Read the file, if it exists; ValueError if it is not such a CSV."""
        self.path = path
        self.rows: dict[tuple[str, int, str, str], Row] = {}
        data = path.read_bytes() if path.exists() else b""
        if not data.startswith(self.HEADER) and not self.HEADER.startswith(data):
            raise ValueError(f"{path} is another kind of CSV")
        complete = data[: data.rfind(b"\n") + 1] if extend else data
        text = complete[len(self.HEADER) :].decode("utf-8", "surrogateescape")
        try:
            for cells in csv.reader(io.StringIO(text, newline="")):
                codec, setting, picture, size, bpp, measure, score = cells
                value = float(score) if score else None
                row = Row(codec, int(setting), picture, int(size), float(bpp), measure, value)
                self.rows[row.key] = row
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}: a damaged row ({error})") from None
        if extend:
            path.parent.mkdir(parents=True, exist_ok=True)
            if len(complete) < len(data):  # a run that was killed may leave half a line
                os.truncate(path, len(complete))
            if not complete:
                path.write_bytes(self.HEADER)

    def lacking(
        self, codec: str, setting: int, picture: str, measures: Iterable[Measure]
    ) -> list[Measure]:
        return [one for one in measures if (codec, setting, picture, one.name) not in self.rows]

    def add(self, row: Row) -> None:
        """Append a row to the file."""
        with self.path.open("ab") as stream:
            stream.write(csv_bytes([map(cell, astuple(row))]))
        self.rows[row.key] = row
