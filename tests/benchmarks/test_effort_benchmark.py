from helpers import colour, save_png


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
    assert all(float(gain) >= float(least) for _, _, gain, least in rows[1:])
    assert (out / "effort.png").stat().st_size > 5000


def test_a_codec_without_efforts_is_one_line(module, checkpoints, tmp_path):
    save_png(tmp_path / "a.png", colour(64, 64))
    done = module("benchmarks.effort", tmp_path, "--model", checkpoints["binary"])
    assert done.code == 1 and "the binary codec cannot use it" in done.err
    assert "Traceback" not in done.err
