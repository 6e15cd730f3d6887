"""docs/new_codec.md does what it says: its codec is registered, tested, trained and used."""

import re
import shlex
import shutil
import sys

import pytest
from helpers import ROOT, colour, run_process, save_png

PAGE = (ROOT / "docs/new_codec.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CODE, LINE = [text for language, text in BLOCKS if language == "python"]
COMMANDS = "".join(text for language, text in BLOCKS if not language).splitlines()


def test_the_codec_is_small():
    lines = [line for line in CODE.splitlines() if line.strip()]
    assert len(lines) <= 60 and max(map(len, lines)) <= 100


@pytest.mark.slow
def test_the_page_runs(tmp_path):
    for name in ("model", "utils", "tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), ROOT / "pyproject.toml"]:
        shutil.copy(path, tmp_path)
    (tmp_path / "model/blocks.py").write_text(CODE)
    registry = tmp_path / "model/__init__.py"
    start = "ARCHITECTURES = {\n"
    assert start in registry.read_text()
    registry.write_text(registry.read_text().replace(start, start + LINE))
    for index in range(12):
        save_png(tmp_path / f"dataset/{index}.png", colour(80, 100, index))
    (tmp_path / "out/original").mkdir(parents=True)
    shutil.copy(ROOT / "out/original/chelsea.png", tmp_path / "out/original")

    assert [command.split()[1] for command in COMMANDS] == [
        "-m", "train.py", "encode.py", "decode.py", "test.py",
    ]  # fmt: skip
    for command in COMMANDS:
        result = run_process([sys.executable, *shlex.split(command)[1:]], tmp_path, seconds=900)
        assert result.code == 0, result.out + result.err
    assert (tmp_path / "out/scores/scores.html").exists()
