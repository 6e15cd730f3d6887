"""The benchmark of previews."""

from helpers import colour, save_png


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
