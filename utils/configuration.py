"""The settings of a training run, and configurations of architectures on the command line. Imports
no network, so that --help answers at once."""

import ast
from argparse import ArgumentTypeError
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model import ARCHITECTURES

DEFAULT_ARCHITECTURE = "binary"
SOURCES = ("auto", "device", "cpu")  # where crops are cut


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The settings of a run; they are options of train.py, which explains them."""

    dataset_path: Path
    file_format: str | None = None
    num_of_epochs: int
    minutes: float | None = None
    batch_size: int
    validation_split: float
    lr_rate: float
    only: list[str] | None = None
    crop_size: int
    crops: str = SOURCES[0]
    workers: int = 0
    seed: int = 0


def setting(text: str) -> tuple[str, Any]:
    """An argparse type: NAME=VALUE to a name and an integer, or a tuple of integers where there are
    commas.

    >>> setting("latent=256"), setting("synthesis_blocks=6,4")
    (('latent', 256), ('synthesis_blocks', (6, 4)))
    """
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        raise ArgumentTypeError(
            f"{text} is not NAME=VALUE, with an integer or several: 6,4"
        ) from None


def default_settings(arch: str) -> str:
    """The fields of an architecture's configuration with their defaults, as ``setting`` reads them.
    They are read from the source of the class whose name ends in Config, in the codec's folder."""
    folder = Path(find_spec(ARCHITECTURES[arch].split(":")[0]).origin).parent
    lines = [
        f"{line.target.id}={ast.unparse(line.value).strip('()').replace(' ', '')}"
        for path in sorted(folder.glob("*.py"))
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    ]
    return " ".join(lines)


def changed(config: Any, arch: str, settings: dict[str, Any]) -> Any:
    """``config``, a dataclass, with other settings. ValueError for an unknown field or value."""
    names = [field.name for field in fields(config)]
    for name in settings:
        if name not in names:
            raise ValueError(
                f"--config: {arch} has no field {name!r:.40}; it has {', '.join(names)}"
            )
    return replace(config, **settings)
