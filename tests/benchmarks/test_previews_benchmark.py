"""The benchmark of previews."""

import math

from helpers import colour, save_png

from benchmarks.previews import summary


def test_the_table_has_a_row_for_each_scale_with_time_memory_and_accuracy(
    module, checkpoints, tmp_path
):
    save_png(tmp_path / "pictures/a.png", colour(60, 80))
    done = module("benchmarks.previews", tmp_path / "pictures", "--model", checkpoints["binary"])
    assert done.code == 0, done.err
    rows = [line.strip("| ").split(" | ") for line in done.out.splitlines() if line[:2] == "| "]
    assert [row[0] for row in rows[2:]] == ["1", "2", "4", "8", "16"]
    assert all(float(row[1]) > 0 and float(row[2]) >= 0 for row in rows[2:])
    assert rows[2][3] == "equal"
    assert all(row[3] == "equal" or float(row[3]) > 48 for row in rows[3:])  # half a level


def test_a_scale_has_the_means_of_time_and_memory_and_the_least_accuracy_of_a_picture():
    """Milliseconds, MiB and PSNR at scales 1, 2, 4, 8 and 16, of two pictures."""
    first = [[100 / scale, 60 / scale, math.inf] for scale in (1, 2, 4, 8, 16)]
    second = [[300 / scale, 20 / scale, math.inf] for scale in (1, 2, 4, 8, 16)]
    second[1][2], first[4][2], second[4][2] = 50.04, 47.0, 49.0
    rows = [line.strip("| ").split(" | ") for line in summary([first, second]).splitlines()][2:]
    assert rows == [
        ["1", "200", "40", "equal"],
        ["2", "100", "20", "50.0"],
        ["4", "50", "10", "equal"],
        ["8", "25", "5", "equal"],
        ["16", "12", "2", "47.0"],
    ]
