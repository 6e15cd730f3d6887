"""The CSV of scores: its rows and columns, and text that no spreadsheet executes."""

import csv
import math
import os
import random
import re
from pathlib import Path

import pytest
from helpers import colour, save_png
from PIL import Image

from utils.scores import (
    Origin,
    Result,
    Score,
    average,
    average_line,
    gather_results,
    inert,
    total,
    trained_for,
    write_scores,
)
from xfr.checkpoints import SHIPPED


def score(name: str, side: int, bytes_out: int | None, psnr: float | None) -> Score:
    rates = (None,) * 3 if bytes_out is None else (bytes_out, 900 / bytes_out, 8 * bytes_out / side)
    return Score(name, side, 1, 900, *rates, {"psnr": psnr, "ms_ssim": None})


def table(path: Path) -> list[dict]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


def test_a_total_is_of_bytes_and_an_average_of_what_is_finite():
    scores = [score("a", 100, 50, 30.0), score("b", 300, 150, math.inf), score("c", 400, 250, 40.0)]
    whole, mean = total(scores), average(scores)
    assert (whole.compressed_bytes, whole.original_bytes) == (450, 2700)
    assert (whole.compression_ratio, whole.bpp) == (6, 8 * 450 / 800)
    assert whole.measures == {"psnr": None, "ms_ssim": None}
    assert mean.measures == {"psnr": 35, "ms_ssim": None}
    assert mean.bpp == pytest.approx((4 + 4 + 5) / 3)


def test_rows_are_in_the_order_of_the_originals_whoever_finished_first():
    names = [f"{index}.png" for index in range(20)]
    results = [Result(score(name, 10, 5, 30.0), name, name, None) for name in names]
    random.Random(0).shuffle(results)
    assert [result.original for result in gather_results(results)] == sorted(names)


def test_the_averages_say_which_measures_a_shipped_checkpoint_was_trained_for():
    def result(checkpoint: int, graphic: bool = False) -> Result:
        return Result(score("a", 100, 50, 30.0), "a", "a", Origin(checkpoint, 50, graphic, ""))

    main, visual = (SHIPPED[name].fingerprint for name in ("main", "visual"))
    assert average_line([result(main)]) == "on average PSNR 30 dB (main was trained for PSNR)"
    for unflattered in (result(visual), result(main, graphic=True), result(1234)):
        assert average_line([unflattered]) == "on average PSNR 30 dB"
    scored = [result(visual), result(main)]
    for one in scored:
        one.score.measures |= {"ssimulacra2": 60.0, "ssimulacra2_worst": 50.0}
    assert trained_for(scored) == [
        "main was trained for PSNR",
        "visual was trained for SSIMULACRA 2 and SSIMULACRA 2 of the worst tile",
    ]


def test_a_second_run_has_columns_of_its_own_and_empty_cells_where_it_lacks_a_picture(tmp_path):
    results = [
        Result(score(name, 100, 50, 30.0), name, name, None, second=second and name,
               second_score=second)
        for name, second in (("a", score("a", 100, 25, 28.5)), ("b", None))
    ]  # fmt: skip
    write_scores(tmp_path / "scores.csv", results)
    first, other, mean = table(tmp_path / "scores.csv")
    assert list(first)[-5:] == [
        "second_compressed_bytes", "second_compression_ratio", "second_bpp", "second_psnr",
        "second_ms_ssim",
    ]  # fmt: skip
    assert (first["psnr"], first["second_psnr"], first["second_bpp"]) == ("30", "28.5", "2")
    assert {other[name] for name in other if name.startswith("second_")} == {""}
    assert mean["second_psnr"] == "28.5"
    write_scores(tmp_path / "alone.csv", results[1:])
    assert list(table(tmp_path / "alone.csv")[0])[-2:] == ["psnr", "ms_ssim"]


@pytest.mark.parametrize(
    "name", ["=1+1.png", "+1.png", "-1.png", "@a.png", "\t=1.png", "\r=1.png", "\uff1d1.png"]
)
def test_a_name_that_a_spreadsheet_would_compute_begins_with_an_apostrophe(tmp_path, name):
    write_scores(tmp_path / "scores.csv", [Result(score(name, 100, 50, 30.0), "", "", None)])
    assert table(tmp_path / "scores.csv")[0]["file"].startswith("'")


@pytest.mark.parametrize("name", ["a\r=1.png", "a\n=1.png", "\r=1.png", 'a"\r,=1.png'])
def test_a_line_break_in_a_name_begins_no_row(tmp_path, name):
    write_scores(tmp_path / "scores.csv", [Result(score(name, 100, 50, 30.0), "", "", None)])
    row, _ = table(tmp_path / "scores.csv")
    assert row["file"] == inert(name) and "=" not in re.findall(r"[\r\n](.)", row["file"])


def test_a_formula_behind_another_separator_is_text_too_and_other_names_stay():
    assert inert("a;=1+1.png") == "a;'=1+1.png" and inert("a\t@b.png") == "a\t'@b.png"
    assert inert("\r\n=1.png") == "'\r'\n'=1.png"
    for name in ("a-1.png", "a=b.png", "x/=y.png", os.fsdecode(b"caf\xe9+.png")):
        assert inert(name) == name


def test_two_pictures_of_one_name_in_the_second_folder_are_told_and_not_chosen_between(
    script, workplace
):
    for name in ("p", "q"):
        save_png(workplace / f"out/original/{name}.png", colour(40, 60))
        (workplace / f"out/compressed/{name}.xfr").parent.mkdir(exist_ok=True)
        (workplace / f"out/compressed/{name}.xfr").write_bytes(bytes(100))
        save_png(workplace / f"out/reconstructed/{name}.bmp", colour(40, 60, seed=1))
    save_png(workplace / "other/p.png", colour(40, 60, seed=2))
    save_png(workplace / "other/q.png", colour(40, 60, seed=2))
    Image.fromarray(colour(40, 60)).save("other/q.webp", quality=5)
    done = script("test", "--folder_path_second", "other")
    assert done.code == 1 and "1 scored, 1 failed" in done.out
    assert "q.png: other (--folder_path_second) has q.png and q.webp: keep one" in done.err
    row, mean = table(workplace / "out/scores/scores.csv")
    assert row["file"] == "p.png" and float(row["second_psnr"]) < 99 and row["second_bpp"] == ""
