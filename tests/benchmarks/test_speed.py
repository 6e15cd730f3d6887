import shutil
import sys

import pytest
from helpers import colour, save_png

from benchmarks.speed import run_script

ALONE = ("encode: analysis transform", "decode: entropy coding")  # stages that are one call


@pytest.mark.slow
def test_every_table_of_the_speed_benchmark_has_its_rows(module, checkpoints, tmp_path):
    for index in range(2):
        save_png(tmp_path / f"pictures/{index}.png", colour(60, 80, index))
    models = [tmp_path / f"{arch}.tar" for arch in checkpoints]
    for model, path in zip(models, checkpoints.values()):
        shutil.copy(path, model)
    flags = [flag for model in models for flag in ("--model", model)]
    flags += ["--pictures", 1, "--repeat", 1, "--threads", 1, "--sizes", 0.01]
    out = tmp_path / "speed.md"
    done = module("benchmarks.speed", tmp_path / "pictures", *flags, "--out", out)
    assert done.code == 0, done.err
    text = out.read_text()
    assert text.strip() == done.out.strip()
    tables = [
        [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "][2:]
        for section in text.split("\n## ")[1:]
    ]
    codecs, processes, *stages, large = tables
    for arch in checkpoints:
        assert any(name.startswith(f"{arch} (ours), ") for name, *_ in codecs)
        assert arch in [name for name, *_ in processes]
        assert arch in [name for name, *_ in large]
    assert any(name.startswith("hyperprior (ours), --effort 4") for name, *_ in codecs)
    assert any(name.startswith("JPEG, ") for name, *_ in codecs)
    assert len(stages) == 2
    for table in stages:
        assert [name for name, _ in table][1:3] == ["encode: analysis transform",
                                                    "encode: entropy coding"]  # fmt: skip
        assert all(float(taken) > 0 for name, taken in table if name in ALONE)
    for _, *times, encoding, decoding in processes + large:
        assert min(map(float, times)) > 0 and min(int(encoding), int(decoding)) > 10  # MiB
    for arch in checkpoints:  # starting a process takes time too
        coding = next(row for row in codecs if row[0].startswith(f"{arch} (ours), "))
        (process,) = (row for row in processes if row[0] == arch)
        assert all(0 < float(a) < float(b) for a, b in zip(coding[1:3], process[1:3]))


def test_a_folder_without_pictures_is_one_line(module, tmp_path):
    done = module("benchmarks.speed", tmp_path)
    assert done.code != 0 and "no pictures that" in done.err and "Traceback" not in done.err


def test_a_process_may_write_more_than_a_pipe_holds():
    text = "import sys; print('x' * 99999, file=sys.stderr); sys.exit({})"
    taken, _ = run_script([sys.executable, "-c", text.format("0")])
    assert taken > 0
    with pytest.raises(RuntimeError, match="-c failed: x+\nthe end"):
        run_script([sys.executable, "-c", text.format("'the end'")])
