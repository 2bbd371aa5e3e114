"""Knows what a decision costs with many calls waiting: of a job each, or all of one job.

    python benchmarks/decisions.py [--repeats 25] [--quick] [--against CHECKOUT]

Does not know graphs or loops: the machine is driven by hand. With `--against`, the tables of another checkout
of this project, by its own benchmarks, come first and last, so that a change of the machine's pace shows.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from measuring import Clock, Cost, in_turn, microseconds, print_table, versus

from llmsched_langgraph import Application, Backend, Profile
from llmsched_langgraph._core.events import CallReleased, CallRequested, Event, JobArrived, JobEnded
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph.policies import JobInfo
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

APPLICATIONS = tuple(Application.of(f"application {n}") for n in range(50))
POLICIES = ("fcfs", "srtf")
NODE = "node"
STEPS = 50


def learned() -> Profile:
    """A profile that tells the applications apart, so that the jobs of a backlog have an order."""
    profile = Profile()
    for n, application in enumerate(APPLICATIONS):
        stages = tuple(
            EndedStage(name=NODE, kind="llm", calls=(EndedCall(None, None, seconds),), occurrence=occurrence)
            for occurrence, seconds in ((1, 1.0 + n), (2, 2.0))
        )
        job = EndedJob(id=f"job {n}", app=application.name, stages=stages, jct_s=1.0, template=application)
        profile = profile.observe(job)
    return profile


class Desk:
    """A machine with one slot, driven by hand."""

    def __init__(self, policy: str) -> None:
        self._machine = SchedulerMachine(as_policy(policy), [Backend("backend", 1)], learned())

    @property
    def waiting(self) -> int:
        """Calls that wait."""
        return self._machine.ledger.backend("backend").waiting

    def handle(self, now: float, *events: Event) -> int | None:
        """Take the events in; the last ticket that was granted, if one was."""
        machine = self._machine
        for event in events:
            machine.handle(now, event)
        machine.story.trim(machine.story.last)
        return machine.untold.popitem()[0] if machine.untold else None  # as the driver finds whom to wake


class Backlog:
    """One slot, held, and calls that wait for it, each of a job of its own."""

    def __init__(self, policy: str) -> None:
        self._desk = Desk(policy)
        self._tickets = 0
        self._holder = 0

    def fill(self, waiting: int) -> None:
        """Let calls arrive until `waiting` of them wait."""
        while self._desk.waiting < waiting:
            self._tickets += 1
            ticket = self._tickets
            info = JobInfo(application=APPLICATIONS[ticket * 7 % len(APPLICATIONS)])
            granted = self._desk.handle(
                float(ticket), JobArrived(ticket, info), CallRequested(ticket, "backend", NODE, ticket)
            )
            self._holder = granted or self._holder

    def measure(self, waiting: int) -> Cost:
        """What it costs that the holder gives its slot back and the next gets it, with `waiting` calls."""
        self.fill(waiting)
        with Clock(STEPS) as clock:
            for _ in range(STEPS):
                granted = self._desk.handle(float(self._tickets), CallReleased(self._holder))
                assert granted is not None
                self._holder = granted
        return clock.cost


def fan_out(policy: str, calls: int) -> Cost:
    """What one call costs, from its request to its end, of a job that makes `calls` at once."""
    jobs = max(1, 1_000 // calls)
    desks = [Desk(policy) for _ in range(jobs)]
    with Clock(jobs * calls) as clock:
        for one in desks:
            one.handle(0.0, JobArrived(1, JobInfo(application=APPLICATIONS[0])))
            holder = None
            for ticket in range(1, calls + 1):
                granted = one.handle(float(ticket), CallRequested(ticket, "backend", NODE, 1))
                holder = granted or holder
            while holder is not None:
                holder = one.handle(float(calls), CallReleased(holder))
            one.handle(float(calls), JobEnded(1, Outcome.FINISHED))
    return clock.cost


def decisions(repeats: int, sizes: tuple[int, ...]) -> None:
    print("One slot released and granted to the next, every waiting call of a job of its own:\n")
    backlogs = {(policy, size): Backlog(policy) for policy in POLICIES for size in sizes}
    table(repeats, "calls waiting", sizes, lambda policy, size: backlogs[policy, size].measure(size))


def fan_outs(repeats: int, sizes: tuple[int, ...]) -> None:
    print("One call of a fan-out, from its request to its end, all of one job:\n")
    table(repeats, "calls of the job", sizes, fan_out)


def table(repeats: int, what: str, sizes: tuple[int, ...], measure: Callable[[str, int], Cost]) -> None:
    rows = []
    for policy in POLICIES:
        cases = {f"{policy}, {size:,}": functools.partial(measure, policy, size) for size in sizes}
        costs = in_turn(cases, repeats)
        least = next(iter(cases))
        rows += [[name, microseconds(costs[name]), *versus(costs, name, least)] for name in cases]
    print_table([what, "us of CPU", f"times that with {sizes[0]}, CPU", "wall"], rows)


def of_checkout(root: Path, options: argparse.Namespace) -> None:
    """The tables of a checkout, printed by a Python of their own."""
    print(f"# {root}\n", flush=True)
    quick = ["--quick"] if options.quick else []
    script = [str(root / "benchmarks" / "overhead.py"), "--only", "decisions"]
    command = [sys.executable, *script, "--repeats", str(options.repeats), *quick]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=25, help="measurements of each case")
    parser.add_argument("--quick", action="store_true", help="short measurements, for a first look")
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    options = parser.parse_args()
    own = Path(__file__).resolve().parent.parent
    other = None if options.against is None else options.against.resolve()
    for root in [own] if other is None else [other, own, other]:
        of_checkout(root, options)


if __name__ == "__main__":
    main()
