"""The length of a run, and its learning rate."""

import pytest
import torch

import utils.schedule
from utils.schedule import Clock, EpochSchedule, TimedSchedule


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """A clock that stands still, at ``before``."""
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    return Clock(1000.0, torch.device("cpu"))


def at(schedule: TimedSchedule, seconds: float) -> TimedSchedule:
    schedule.clock.before = seconds
    schedule.look_up()
    return schedule


def test_a_timed_run_warms_up_stays_and_falls_to_zero_before_its_time_is_over(clock):
    schedule = TimedSchedule(10, clock)
    schedule.reserve = 60.0
    found = [at(schedule, seconds).factor(10**6) for seconds in (0, 60, 300, 432, 486, 540, 600)]
    assert found == pytest.approx([1, 1, 1, 1, 0.5, 0, 0])
    assert at(schedule, 0).factor(0) == pytest.approx(1 / 200)
    assert at(schedule, 27).factor(0) == pytest.approx(0.5)  # few steps: after a tenth of the time


def test_epochs_of_a_timed_run_last_a_minute_or_more_and_end_with_it(clock):
    schedule = TimedSchedule(4, clock)
    schedule.reserve = 10.0
    ends = []
    while not schedule.over(0, 0):
        schedule.begin()
        ends.append(schedule.epoch_end)
        assert schedule.goes_on(10**6)
        assert not at(schedule, schedule.epoch_end).goes_on(0)
    assert ends == [100, 230] and schedule.factor(10**6) == 0


def test_time_is_kept_for_what_follows_on_the_last_epoch(clock):
    schedule = at(TimedSchedule(4, clock), 100.0)
    clock.before = 112.0  # after validation and saving
    schedule.finished()
    assert schedule.end == pytest.approx(240 - 1.5 * 12)


def test_five_seconds_are_kept_where_what_follows_is_quick(clock):
    schedule = at(TimedSchedule(4, clock), 100.0)
    clock.before = 100.1
    schedule.finished()
    assert schedule.end == 240 - 5


def test_a_long_run_has_fifty_epochs_of_equal_length(clock):
    schedule, lengths = TimedSchedule(1000, clock), []
    while not schedule.over(0, 0):
        schedule.begin()
        lengths.append(schedule.epoch_end - schedule.elapsed)
        at(schedule, schedule.epoch_end)
    assert lengths == [1200] * 50


def test_an_epoch_that_was_cut_off_by_the_end_is_still_finished(clock):
    schedule = at(TimedSchedule(4, clock), 239.0)
    schedule.reserve = 10.0
    assert schedule.over(3, 0) and not schedule.over(3, steps=17)


def test_minutes_that_are_over_are_refused(clock):
    clock.before = 61.0
    with pytest.raises(ValueError, match="1.0 have gone by already"):
        TimedSchedule(1.0, clock)


def test_the_clock_goes_on_where_an_earlier_session_stopped(clock, monkeypatch):
    clock.before = 90.0
    monkeypatch.setattr(utils.schedule.time, "monotonic", lambda: 1005.0)
    assert clock.read() == 95.0


def test_a_run_that_ends_within_its_warm_up_is_warned_of():
    assert "ends after 200 steps" in EpochSchedule(2, 100).warnings[0]
    assert not EpochSchedule(3, 100).warnings
