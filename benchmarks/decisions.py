"""Knows what a decision costs with many calls waiting: of a job each, or all of one job.

Does not know graphs or loops: the dispatcher is driven by hand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from llmsched_langgraph.core.dispatcher import Dispatcher
from llmsched_langgraph.core.ledger import SlotLedger
from measuring import Clock, Cost, in_turn, microseconds, print_table, versus

from llmsched_langgraph import Profile
from llmsched_langgraph.core.events import CallReleased, CallRequested, JobArrived, JobEnded
from llmsched_langgraph.core.machine import SchedulerMachine
from llmsched_langgraph.core.policies import as_policy
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.progress import Outcome
from llmsched_langgraph.jobs.ended import EndedCall, EndedJob, EndedStage

APPLICATIONS = tuple(Application.of(f"application {n}") for n in range(50))
POLICIES = ("fcfs", "srtf")
NODE = "node"
STEPS = 50


def learned() -> Profile:
    """A profile that tells the applications apart, so that the jobs of a backlog have an order."""
    profile = Profile()
    for n, application in enumerate(APPLICATIONS):
        stages = tuple(
            EndedStage(name=NODE, kind="llm", calls=(EndedCall(None, None, work_s),), occurrence=at)
            for at, work_s in enumerate((1.0 + n, 2.0), 1)
        )
        job = EndedJob(id=f"{n}", app=application.name, stages=stages, template=application)
        profile = profile.observe(job)
    return profile


def dispatcher(policy: str) -> Dispatcher:
    return Dispatcher(SchedulerMachine(as_policy(policy), learned()), {"": SlotLedger(1)})


class Backlog:
    """One slot, held, and calls that wait for it, each of a job of its own."""

    def __init__(self, policy: str) -> None:
        self._dispatcher = dispatcher(policy)
        self._tickets = 0
        self._holder = 0

    def fill(self, waiting: int) -> None:
        """Let calls arrive until so many wait."""
        while self._dispatcher.ledgers[""].waiting < waiting:
            self._tickets += 1
            ticket, now = self._tickets, float(self._tickets)
            application = APPLICATIONS[ticket * 7 % len(APPLICATIONS)]
            settled = self._dispatcher.handle(
                JobArrived(now, ticket, application), CallRequested(now, ticket, "", NODE, ticket)
            )
            if settled.granted:
                self._holder = settled.granted[0]

    def measure(self, waiting: int) -> Cost:
        """What it costs that the holder gives its slot back and the next one gets it, while so many wait."""
        self.fill(waiting)
        with Clock(STEPS) as clock:
            for _ in range(STEPS):
                settled = self._dispatcher.handle(CallReleased(float(self._tickets), self._holder))
                (self._holder,) = settled.granted
        return clock.cost


def fan_out(policy: str, calls: int) -> Cost:
    """What one call costs, from its request to its end, of a job that makes so many at once."""
    jobs = max(1, 1_000 // calls)
    dispatchers = [dispatcher(policy) for _ in range(jobs)]
    with Clock(jobs * calls) as clock:
        for one in dispatchers:
            one.handle(JobArrived(0.0, 1, APPLICATIONS[0]))
            holder = None
            for ticket in range(calls):
                settled = one.handle(CallRequested(float(ticket), ticket, "", NODE, 1))
                holder = settled.granted[0] if settled.granted else holder
            while holder is not None:
                settled = one.handle(CallReleased(float(calls), holder))
                holder = settled.granted[0] if settled.granted else None
            one.handle(JobEnded(float(calls), 1, Outcome.FINISHED))
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
