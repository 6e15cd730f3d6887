"""The outcome of a job: counts, failures and notices, one summary, one exit code."""

import errno
import os
from pathlib import Path

import pytest
import torch

from utils.tally import COUNTS, Tally
from xfr.checkpoints import SHIPPED


def test_a_summary_has_the_rates_of_all_files_together():
    tally = Tally("encoded", seconds=3)
    tally.add(300, 100, 1)  # a picture of one pixel, 800 bpp
    tally.add(2700, 900, 7999)
    assert tally.summary() == (
        "2 encoded: 3,000 bytes in, 1,000 out, ratio 3.00, bpp 1.000, 1.50 s per picture, 3.0 s"
    )
    tally.failed, tally.skipped, tally.larger, tally.left_alone = 1, 4, 1, 2
    assert tally.summary().startswith("2 encoded, 4 skipped, 1 failed, 2 left alone: ")
    assert tally.summary().endswith(", 1 larger than the original")


def test_a_summary_says_how_the_files_were_made_and_where_they_are():
    tally = Tally("decoded", decodes=True, place=Path("out/\x1b"))
    tally.add(100, 300, 1000)
    assert tally.summary().endswith(r" s -> out/\x1b")
    tally.made_by(SHIPPED["visual"].fingerprint, 30, graphic=False)
    visual = f"visual ({SHIPPED['visual'].fingerprint:016x})"
    assert tally.summary().endswith(rf" s, with {visual}, quality 30 -> out/\x1b")
    tally.made_by(0x1234, 60, graphic=False)
    tally.made_by(0x5678, 50, graphic=True)
    made = f", with 0000000000001234 and {visual}, qualities 30 to 60 -> "
    assert made in tally.summary()
    tally = Tally("encoded", models={"main"}, settings=["max_bytes 2000, effort 3"])
    tally.add(300, 100, 1000)
    assert tally.summary().endswith(" s, with main, max_bytes 2000, effort 3")


def test_a_decoder_counts_the_bytes_that_come_in_and_knows_no_ratio():
    tally = Tally("decoded", decodes=True, seconds=1)
    tally.add(1000, 24000, 8000)
    assert "bpp 1.000, " in tally.summary() and "ratio" not in tally.summary()


def test_nothing_done_has_no_rates():
    assert Tally("scored", failed=2).summary() == "0 scored, 2 failed"


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (1, 1), (2, 1), (256, 1)])
def test_the_exit_code_says_whether_a_file_failed_and_not_how_many(failed, code):
    assert Tally("encoded", failed=failed).finish() == code


def test_a_failure_is_one_line_and_its_note_is_told_once(capsys):
    tally, error = Tally("encoded"), ValueError("damaged\nin detail")
    error.add_note("see --help")
    for name in ("a.png", "b\x1b.png"):
        tally.fail(Path(name), error)
    assert tally.failed == 2
    assert capsys.readouterr().err.splitlines() == [
        "failed: a.png: damaged",
        "note: a.png: see --help",
        "failed: b\\x1b.png: damaged",
    ]


def test_a_notice_is_told_with_the_first_file_and_with_all_others_at_the_end(capsys):
    tally = Tally("encoded")
    for index in range(6):
        tally.notice(Path(f"{index}.gif"), "only the first frame is kept")
    tally.notice(Path("a.png"), "larger")
    told = ["note: 0.gif: only the first frame is kept", "note: a.png: larger"]
    assert capsys.readouterr().err.splitlines() == told
    tally.finish()
    assert capsys.readouterr().err == (
        "note: 1.gif, 2.gif, 3.gif and 2 more: only the first frame is kept\n"
    )


def test_failures_alike_are_one_line_by_name_up_to_a_few_and_by_number_beyond(capsys):
    tally = Tally("encoded")
    tally.fail_alike([Path(f"{index}.heic") for index in range(3)], "needs a package")
    tally.fail_alike([Path(f"{index}.nef") for index in range(1003)], "raw")
    assert tally.failed == 1006
    assert capsys.readouterr().err.splitlines() == [
        "failed: 0.heic, 1.heic, 2.heic: needs a package",
        "failed: 0.nef, 1.nef, 2.nef and 1,000 more: raw",
    ]


def test_files_left_alone_are_told_before_the_summary_and_are_no_failure(capsys):
    tally = Tally("encoded")
    tally.leave(3, "2 .txt, 1 .mov: no pictures")
    assert capsys.readouterr().err == "" and tally.finish() == 0
    out, err = capsys.readouterr()
    assert err == "left alone: 2 .txt, 1 .mov: no pictures\n"
    assert out == "0 encoded, 3 left alone\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 8.00 TiB for an array"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "a.png"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_a_lack_of_memory_is_told_as_that(capsys, error):
    Tally("encoded").fail(Path("a.png"), error)
    assert capsys.readouterr().err == "failed: a.png: not enough memory for this picture\n"


def test_totals_of_several_processes_agree_too(monkeypatch):
    first, second = Tally("encoded"), Tally("encoded")
    first.add(1000, 100, 800)
    second.add(1000, 200, 800)
    second.add(1000, 300, 800)
    first.seconds, second.seconds = 2, 6
    values = [[t.seconds, *(getattr(t, name) for name in COUNTS)] for t in (first, second)]
    made = [[["main"], [50]], [["visual", "main"], [60]]]
    gathered = {"tally": values, "made": made}
    monkeypatch.setattr("utils.tally.gather", lambda name, value: gathered[name])
    first.finish()
    assert "ratio 5.00, bpp 2.000, 2.00 s per picture, 6.0 s, with " in first.summary()
    assert first.summary().endswith("main and visual, qualities 50 to 60")
