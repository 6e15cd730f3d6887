"""The learned JPEG works, and docs/new_codec.md does what it says with it: registers, tests, trains
and uses it."""

import re
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, colour, run_process, save_png

from model import ARCHITECTURES, codec_class
from model.blocks import BlocksCodec
from model.geometry import check_geometry

PAGE = (ROOT / "docs/new_codec.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(LINE,) = [text for language, text in BLOCKS if language == "python"]
COMMANDS = "".join(text for language, text in BLOCKS if not language).splitlines()


def test_the_codec_is_small():
    lines = (ROOT / "model/blocks.py").read_text("utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) < 70


def test_it_starts_as_a_transform_codec_whose_files_grow_with_quality():
    codec, image = BlocksCodec().requires_grad_(False), colour(75, 90)
    payloads = [codec.compress(image, quality) for quality in (1, 50, 100)]
    assert len(payloads[0]) < len(payloads[1]) < len(payloads[2])
    error = codec.decompress(payloads[2], 75, 90, 100) - image.astype(float)
    assert np.square(error).mean() < 65  # 30 dB


def test_its_tiles_fit_together(monkeypatch):
    codec, image = BlocksCodec().requires_grad_(False), colour(75, 90)
    torch.manual_seed(0)
    torch.nn.init.normal_(codec.smooth.weight, std=0.02)
    check_geometry(codec)
    with pytest.raises(ValueError, match="MARGIN, 0, is smaller"), monkeypatch.context() as patch:
        patch.setattr(codec, "MARGIN", 0)
        check_geometry(codec)
    whole = codec.decompress(codec.compress(image, 60), 75, 90, 60)
    monkeypatch.setattr(codec, "TILE", 32)
    tiled = codec.decompress(codec.compress(image, 60), 75, 90, 60)
    assert np.abs(whole.astype(int) - tiled).max() <= 1


def test_its_number_in_files_is_free():
    numbers = {codec_class(arch).FILE_NUMBER for arch in ARCHITECTURES if arch != "blocks"}
    assert BlocksCodec.FILE_NUMBER not in numbers


@pytest.mark.slow
def test_the_page_runs(tmp_path):
    for name in ("model", "xfr", "utils", "tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), ROOT / "pyproject.toml"]:
        shutil.copy(path, tmp_path)
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
