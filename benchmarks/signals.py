"""Knows what real signals that raise, at random moments of a thread that takes slots, leave behind.

python benchmarks/signals.py [--signals 10000] [--contended 3000] [--seed 1]

Does not know at which lines they come; tests/runtime/test_interrupts.py breaks off at each line in turn.

`signal.setitimer` sends each signal after a random delay; its handler raises in the main thread, as that of
Ctrl-C does.

Tight: the thread does nothing but take and give back slots, on a new limiter for each signal, until one
comes. The same with `threading.Semaphore`, which makes no promise here: `with semaphore` loses a slot if the
signal comes between `acquire` and the block, and its lock if it comes between the two of the condition
inside. A tight loop makes that likely; a program that works between two slots is hit there as rarely.

Contended: two other threads want the only slot of one scheduler all the time. They have to get it, whatever
comes over the main thread. (On a semaphore all three would wait for ever after its first lost lock.)

A row of the table: signals that came; those that Python swallowed because they came in a finaliser; limiters
that had lost a slot, whose lock was never given back, or that were wrong about anything else
(`Scheduler.check`); then calls of the other threads, how many of these were left waiting, and the longest
wait.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from measuring import print_table

from llmsched_langgraph import Application, Scheduler
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.run import Run
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo

SLOTS = 2
WITHIN_S = (2e-5, 4e-4)
"""How soon a signal comes, in tight use."""
CONTENDED_S = (2e-5, 1e-3)
LOOP_S = 0.05
"""Seconds after which a loop ends whose signal was swallowed."""
PATIENCE_S = 20.0


class Interrupted(BaseException):
    """What the handler raises."""


@dataclass
class Alarm:
    """One signal at a time, after a random delay."""

    chance: random.Random
    armed: bool = False
    came: int = 0
    swallowed: int = 0

    def install(self) -> None:
        """Be what a signal and a finaliser's exception come to."""
        signal.signal(signal.SIGALRM, self._ring)
        sys.unraisablehook = self._swallow

    def set(self, within_s: tuple[float, float]) -> None:
        """Send the signal after a while."""
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, self.chance.uniform(*within_s))

    def clear(self) -> None:
        """It is too late for the signal."""
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self.armed:
            self.armed = False
            self.came += 1
            raise Interrupted

    def _swallow(self, unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, Interrupted):
            self.swallowed += 1
        else:
            sys.__unraisablehook__(unraisable)


@dataclass
class Damage:
    """What was found after the signals."""

    slots: int = 0
    locks: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)


class Semaphore:
    """`threading.Semaphore`, as a limiter."""

    def __init__(self) -> None:
        self._semaphore: Any = threading.Semaphore(SLOTS)

    def slot(self) -> AbstractContextManager[Any]:
        """One of its slots."""
        semaphore: AbstractContextManager[Any] = self._semaphore
        return semaphore

    def look(self, damage: Damage) -> None:
        """Note what the signal has left."""
        if self._semaphore._cond._lock.locked():  # noqa: SLF001 (nothing public tells)
            damage.locks += 1
        damage.slots += self._semaphore._value != SLOTS  # noqa: SLF001


class Slots:
    """`scheduler.slot()`, as a limiter; inside a job if it is said so."""

    def __init__(self, *, job: bool = False) -> None:
        self.scheduler = Scheduler(SLOTS, policy="plas")
        self._run: Run | None = None
        if job:
            self._run = start_run(self.scheduler, JobInfo(application=Application.of("app", ["a"])))

    def slot(self) -> AbstractContextManager[Any]:
        """One of its slots."""
        if self._run is None:
            return self.scheduler.slot()
        with inside(self._run):
            return self.scheduler.slot(stage="a")

    def look(self, damage: Damage) -> None:
        """Note what the signal has left."""
        if self._run is not None:
            self._run.end(Outcome.FINISHED)
        look(self.scheduler, damage)


def look(scheduler: Scheduler, damage: Damage) -> None:
    """Have the next event handled; then all must be whole."""
    driver: Any = scheduler._driver  # noqa: SLF001 (whether the lock is free, nothing public tells)
    if driver._lock.locked():  # noqa: SLF001
        damage.locks += 1
        return
    try:
        scheduler.check()
        now = scheduler.statistics()
    except AssertionError as error:
        damage.wrong += 1
        damage.notes.append(str(error))
        return
    damage.slots += now.holding > 0 or now.granted != now.released
    damage.wrong += now.waiting > 0 or now.jobs_running > 0


def use(limiter: Semaphore | Slots) -> None:
    # A function: in Python 3.13.0 the jump back of a loop in a `try` lies outside of its handler.
    until_s = time.monotonic() + LOOP_S
    while time.monotonic() < until_s:
        with limiter.slot():
            pass


def tight(make: Callable[[], Semaphore | Slots], signals: int, alarm: Alarm) -> list[str]:
    damage, before, swallowed = Damage(), alarm.came, alarm.swallowed
    while alarm.came < before + signals:
        limiter = make()
        try:
            alarm.set(WITHIN_S)
            use(limiter)
            alarm.clear()
        except Interrupted:
            pass
        except RuntimeError:
            pass  # a semaphore's condition was broken
        limiter.look(damage)
    return cells(alarm.came - before, alarm.swallowed - swallowed, damage, "", "", "")


def cells(came: int, swallowed: int, damage: Damage, calls: str, left: str, longest: str) -> list[str]:
    for note in sorted(set(damage.notes)):
        print(f"wrong: {note}", file=sys.stderr)
    found = (came, swallowed, damage.slots, damage.locks, damage.wrong)
    return [*(f"{number:,}" for number in found), calls, left, longest]


def contended(signals: int, alarm: Alarm) -> list[str]:
    damage, before, swallowed = Damage(), alarm.came, alarm.swallowed
    scheduler, stop = Scheduler(1, policy="fair"), threading.Event()
    calls, longest_s = [0, 0], [0.0, 0.0]

    def work(number: int) -> None:
        while not stop.is_set():
            asked_s = time.monotonic()
            with scheduler.slot():
                longest_s[number] = max(longest_s[number], time.monotonic() - asked_s)
                calls[number] += 1

    def take() -> None:
        until_s = time.monotonic() + 1.0
        while time.monotonic() < until_s:
            with scheduler.slot():
                pass

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    while alarm.came < before + signals:
        try:
            alarm.set(CONTENDED_S)
            take()
            alarm.clear()
        except Interrupted:
            pass
    stop.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    left = sum(thread.is_alive() for thread in threads)
    look(scheduler, damage)
    return cells(
        alarm.came - before,
        alarm.swallowed - swallowed,
        damage,
        f"{sum(calls):,}",
        str(left),
        f"{max(longest_s) * 1e3:.0f} ms",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--signals", type=int, default=10_000)
    parser.add_argument("--contended", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    alarm = Alarm(random.Random(options.seed))
    alarm.install()
    rows = [
        ["`threading.Semaphore`", *tight(Semaphore, options.signals, alarm)],
        ["`scheduler.slot()`", *tight(Slots, options.signals, alarm)],
        ["the same in a job", *tight(lambda: Slots(job=True), options.signals, alarm)],
        ["the same, contended", *contended(options.contended, alarm)],
    ]
    print(f"Python {sys.version.split()[0]}\n")
    print_table(
        [
            *("limiter", "signals", "swallowed", "slots lost", "locks lost", "else wrong"),
            *("calls of others", "left waiting", "longest wait"),
        ],
        rows,
    )


if __name__ == "__main__":
    main()
