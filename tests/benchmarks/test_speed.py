import shutil

import pytest
from helpers import colour, save_png


@pytest.mark.slow
def test_every_table_of_the_speed_benchmark_has_its_rows(module, checkpoints, tmp_path):
    for index in range(2):
        save_png(tmp_path / f"pictures/{index}.png", colour(60, 80, index))
    models = [tmp_path / f"{arch}.tar" for arch in checkpoints]
    for model, path in zip(models, checkpoints.values()):
        shutil.copy(path, model)
    flags = [flag for model in models for flag in ("--model", model)]
    flags += ["--pictures", 1, "--repeat", 1, "--threads", 1, "--throughput", 2, "--sizes", 0.01]
    out = tmp_path / "speed.md"
    done = module("benchmarks.speed", tmp_path / "pictures", *flags, "--out", out)
    assert done.code == 0, done.err
    text = out.read_text()
    assert text.strip() == done.out.strip()
    tables = [
        [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "][2:]
        for section in text.split("\n## ")[1:]
    ]
    codecs, processes, *stages, throughput, growth = tables
    for arch in checkpoints:
        assert any(name.startswith(f"{arch} (ours), decoded") for name, *_ in codecs)
        assert arch in [name for name, *_ in processes]
        assert f"{arch}, encode.py" in [name for name, *_ in throughput]
        assert ["0.01", arch] in [row[:2] for row in growth]
    assert any(name.startswith("hyperprior (ours), --effort 4") for name, *_ in codecs)
    assert any(name.startswith("JPEG, ") for name, *_ in codecs)
    assert len(stages) == 2
    assert all("encode: analysis transform" in [name for name, _ in table] for table in stages)
    for arch in checkpoints:  # starting a process takes time too
        coding = next(row for row in codecs if row[0].startswith(f"{arch} (ours), "))
        (process,) = (row for row in processes if row[0] == arch)
        assert all(0 < float(a) < float(b) for a, b in zip(coding[1:3], process[1:3]))


def test_a_folder_without_pictures_is_one_line(module, tmp_path):
    done = module("benchmarks.speed", tmp_path)
    assert done.code != 0 and "no readable pictures" in done.err and "Traceback" not in done.err
