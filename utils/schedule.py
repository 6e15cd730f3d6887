"""Length of a run and of its epochs, and learning rate at each step: by epochs or by time."""

import time

import torch
import torch.distributed as dist

from utils.processes import processes

WARMUP_STEPS = 200
WARMUP_SHARE = 0.1  # warm-up of a timed run, if that is shorter
DECAY_SHARE = 0.2  # the part of the run, up to its end, in which the learning rate falls to zero
SAVE_SECONDS = 600  # the most training time that a sudden end costs
TIMED_SAVE_SECONDS = 60  # in a timed run, whose machine may be taken away
TIMED_EPOCHS = 50  # the most that a timed run is divided into
MIN_RESERVE_SECONDS = 5.0
RESERVE_FACTOR = 1.5  # time kept for the end of a timed run, in times that an epoch's end took


def learning_rate_factor(step: int, last_step: int) -> float:
    """The learning rate over its peak: a rise, a plateau, a fall at the end. On its plateau, a run
    can still be prolonged."""
    rise, fall = (step + 1) / WARMUP_STEPS, (last_step - step) / (DECAY_SHARE * last_step)
    return max(0.0, min(1.0, rise, fall))


class Clock:
    """The seconds of a run in all its sessions; under torchrun, those of rank 0 in all processes.
    ``began``: when this session began, in seconds of ``time.monotonic``."""

    def __init__(self, began: float, device: torch.device):
        self.began, self.device = began, device
        self.before = 0.0  # seconds of earlier sessions

    def own(self) -> float:
        """The seconds of the run by the clock of this process."""
        return self.before + time.monotonic() - self.began

    def read(self) -> float:
        seconds = self.own()
        if processes()[1] == 1:
            return seconds
        shared = torch.tensor(seconds, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return shared.item()


class EpochSchedule:
    """Epochs that are passes over the pictures, in ``length`` steps each."""

    save_seconds = SAVE_SECONDS  # from one state that is saved to the next

    def __init__(self, epochs: int, length: int):
        self.epochs, self.length = epochs, length

    @property
    def warnings(self) -> list[str]:
        """Warnings for the user, a line each."""
        steps = self.epochs * self.length
        if steps > WARMUP_STEPS:
            return []
        return [f"the run ends after {steps} steps, within its warm-up of {WARMUP_STEPS}"]

    def first_step(self, epoch: int, steps: int, step: int) -> int:
        """The number of the next step, after ``steps`` of an epoch and ``step`` in all."""
        return epoch * self.length + steps

    def begin(self) -> None:
        """An epoch begins, or is resumed."""

    def goes_on(self, steps: int) -> bool:
        """Whether the epoch has another step after so many."""
        return steps < self.length

    def over(self, epoch: int, steps: int) -> bool:
        """Whether the run is over after so many epochs."""
        return epoch >= self.epochs

    def factor(self, step: int) -> float:
        """The learning rate of a step, relative to its peak."""
        return learning_rate_factor(step, self.epochs * self.length)

    def look_up(self) -> None:
        """Look at the clock."""

    def finished(self) -> None:
        """The work after an epoch is done: it has been validated and saved."""

    def title(self, epoch: int) -> str:
        """The name of an epoch, from 1 on."""
        return f"epoch {epoch}/{self.epochs}"


class TimedSchedule:
    """A number of minutes, start-up included: a rise, a plateau and a fall of the learning rate,
    then the last validation, the probability tables and the saving. An epoch lasts a minute, or
    more in a long run or where finishing one takes long. Its methods are those of EpochSchedule.
    ValueError if the minutes have gone by."""

    length = None  # steps of an epoch, which are not known
    save_seconds = TIMED_SAVE_SECONDS
    warnings: list[str] = []

    def __init__(self, minutes: float, clock: Clock):
        self.minutes, self.clock = minutes, clock
        self.epoch_end = self.reserve = 0.0  # seconds
        self.look_up()
        if self.elapsed >= 60 * minutes:
            raise ValueError(f"--minutes {minutes:g}: {self.elapsed / 60:.1f} have gone by already")

    @property
    def end(self) -> float:
        """The second at which the last epoch is to be finished off."""
        return 60 * self.minutes - self.reserve

    def first_step(self, epoch: int, steps: int, step: int) -> int:
        """The number of the next step: ``step``, since epochs have no fixed length."""
        return step

    def begin(self) -> None:
        """An epoch begins, or is resumed: look at the clock and choose its end."""
        self.look_up()
        least = max(TIMED_SAVE_SECONDS, 60 * self.minutes / TIMED_EPOCHS, 10 * self.reserve)
        left = self.end - self.elapsed
        self.epoch_end = self.end if left < 1.5 * least else self.elapsed + least

    def goes_on(self, steps: int) -> bool:
        """Whether the epoch's time is not over."""
        return self.elapsed < self.epoch_end

    def over(self, epoch: int, steps: int) -> bool:
        """Whether the time for training is over and no epoch is under way: ``steps`` is 0."""
        return self.elapsed >= self.end and steps == 0

    def factor(self, step: int) -> float:
        """The learning rate of a step at the time last looked up, 0 to 1 of its peak."""
        rise = max((step + 1) / WARMUP_STEPS, self.elapsed / (WARMUP_SHARE * self.end))
        fall = (self.end - self.elapsed) / (DECAY_SHARE * self.end)
        return max(0.0, min(1.0, rise, fall))

    def look_up(self) -> None:
        """Look at the clock."""
        self.elapsed = self.clock.read()

    def finished(self) -> None:
        """The work after an epoch is done: keep RESERVE_FACTOR times its seconds, but no less than
        MIN_RESERVE_SECONDS, for the end of the run."""
        before = self.elapsed
        self.look_up()
        self.reserve = max(RESERVE_FACTOR * (self.elapsed - before), MIN_RESERVE_SECONDS)

    def title(self, epoch: int) -> str:
        """The name of an epoch, from 1 on, and the minutes that have gone by."""
        return f"epoch {epoch}, {self.elapsed / 60:.1f} of {self.minutes:g} minutes"


Schedule = EpochSchedule | TimedSchedule
