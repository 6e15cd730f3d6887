"""The outcome of a job: counts, failures and notices, one summary, one exit code."""

from pathlib import Path

import pytest

from utils.tally import COUNTS, Tally


def test_a_summary_has_the_rates_of_all_files_together():
    tally = Tally("encoded", seconds=3)
    tally.add(300, 100, 1)  # a picture of one pixel, 800 bpp
    tally.add(2700, 900, 7999)
    assert tally.summary() == (
        "2 encoded: 3,000 bytes in, 1,000 out, ratio 3.00, bpp 1.000, 1.50 s per picture"
    )
    tally.failed, tally.skipped, tally.larger = 1, 4, 1
    assert tally.summary().startswith("2 encoded, 4 skipped, 1 failed: ")
    assert tally.summary().endswith(", 1 larger than the original")


def test_a_decoder_counts_the_bytes_that_come_in_and_knows_no_ratio():
    tally = Tally("decoded", decodes=True, seconds=1)
    tally.add(1000, 24000, 8000)
    assert "bpp 1.000, " in tally.summary() and "ratio" not in tally.summary()


def test_nothing_done_has_no_rates():
    assert Tally("scored", failed=2).summary() == "0 scored, 2 failed"


@pytest.mark.parametrize("failed", [0, 1])
def test_the_exit_code_says_whether_a_file_failed(failed):
    assert Tally("encoded", failed=failed).finish() == failed


def test_a_failure_is_one_line_and_its_note_is_told_once(capsys):
    tally, error = Tally("encoded"), ValueError("damaged\nin detail")
    error.add_note("see --help")
    for name in ("a.png", "b\x1b.png"):
        tally.fail(Path(name), error)
    assert tally.failed == 2
    assert capsys.readouterr().err.splitlines() == [
        "failed: a.png: damaged",
        "note: a.png: see --help (reported once)",
        "failed: b\\x1b.png: damaged",
    ]


def test_totals_of_several_processes_agree_too(monkeypatch):
    first, second = Tally("encoded"), Tally("encoded")
    first.add(1000, 100, 800)
    second.add(1000, 200, 800)
    second.add(1000, 300, 800)
    first.seconds, second.seconds = 2, 6
    values = [[t.seconds, *(getattr(t, name) for name in COUNTS)] for t in (first, second)]
    monkeypatch.setattr("utils.tally.gather", lambda name, value: values)
    first.finish()
    assert "ratio 5.00, bpp 2.000, 2.00 s per picture" in first.summary()
