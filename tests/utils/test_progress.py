"""The lines of a log file, which say how far a job is."""

from pathlib import Path

from utils.progress import AtWork, Progress


def test_a_line_estimates_the_time_of_the_pictures_that_are_left():
    at_work = AtWork()
    progress = Progress(8, at_work)
    assert progress.line(90) == "0 of 8 pictures, 01:30"
    for _ in range(2):
        progress.advance()
    assert progress.line(60) == "2 of 8 pictures, 01:00, about 03:00 left"
    with at_work.progress(Path("a/b\x1b.png")) as report:
        report(0.254)
        assert progress.line(60).endswith(r" left; b\x1b.png 25%")
    progress.close()


def test_a_process_that_does_more_than_its_share_has_no_time_left():
    progress = Progress(1, AtWork())
    for _ in range(2):
        progress.advance()
    assert progress.line(60) == "2 of 2 pictures, 01:00, about 00:00 left"
    progress.close()
