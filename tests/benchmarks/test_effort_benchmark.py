import numpy as np
import torch
from helpers import colour, save_png

from xfr.decoder import Decoder
from xfr.encoder import Encoder, EncodingSettings
from xfr.file import unpack
from xfr.images import Picture


def test_the_gain_of_each_effort_is_in_the_table_and_the_figure(module, checkpoints, tmp_path):
    for index in range(3):
        save_png(tmp_path / f"pictures/{index}.png", colour(70, 90, index))
    flags = ["--model", checkpoints["hyperprior"], "--pictures", 2, "--crop", 64, "--effort", 1, 2]
    out = tmp_path / "out"
    done = module("benchmarks.effort", tmp_path / "pictures", *flags, "--out", out)
    assert done.code == 0, done.err
    text = (out / "effort.md").read_text()
    assert text.strip() == done.out.strip()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines()][2:]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert len(rows[0]) == 2 and all(float(taken) > 0 for _, taken, *_ in rows)
    assert all(-50 < float(least) <= float(gain) < 50 for _, _, gain, least in rows[1:])
    assert (out / "effort.png").stat().st_size > 5000


def test_the_gain_is_in_bits_and_weighted_squared_error(module, checkpoints, tmp_path):
    pixels = colour(64, 64)
    save_png(tmp_path / "pictures/a.png", pixels)
    model, settings = checkpoints["hyperprior"], EncodingSettings(50, effort=3)
    flags = ["--model", model, "--qualities", 50, "--effort", 3, "--out", tmp_path]
    done = module("benchmarks.effort", tmp_path / "pictures", *flags)
    assert done.code == 0, done.err
    encoder, costs, bits = Encoder(model), [], []
    weight = encoder.codec.lmbda(torch.tensor([50.0])).item()
    for one in (EncodingSettings(50), settings):
        data = encoder.encode(Picture(pixels), one)
        error = np.square(Decoder(model).decode(unpack(data)).rgb - pixels.astype(float)).mean()
        bits.append(8 * len(data))
        costs.append(bits[-1] + 64 * 64 * weight * error)
    gain = 100 * (costs[0] - costs[1]) / bits[0]
    assert f"| {gain:.2f} | {gain:.2f} |" in done.out


def test_a_codec_without_efforts_is_one_line(module, checkpoints, tmp_path):
    save_png(tmp_path / "a.png", colour(64, 64))
    done = module("benchmarks.effort", tmp_path, "--model", checkpoints["binary"])
    assert done.code == 1 and "the binary codec cannot use it" in done.err
    assert "Traceback" not in done.err
