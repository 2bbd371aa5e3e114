"""Reads what is known of one job: its stages, its work, its calls.

Does not put it into words: `_observe/explanation.py` does. Each function is a snapshot, independent of the
machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._core.outlook import Outlook, outlooks
from llmsched_langgraph._jobs.calls import FinishedCall, Outcome
from llmsched_langgraph._ledger.values import Grant, Waiting

if TYPE_CHECKING:
    from llmsched_langgraph._core.job import Job
    from llmsched_langgraph._core.machine import SchedulerMachine


class StageFacts(NamedTuple):
    """One stage occurrence of a job.

    Attributes:
        name: the path of its node, or the stage name of calls outside any node.
        occurrence: its number among those of the node, from 1.
        running: whether a run of it has not ended.
        runs: number of its stage runs, at least those that began; 0 if they are not watched.
        ended: number of those that ended.
        calls: number of its calls.
        work_s: slot-seconds that its calls received.
    """

    name: str
    occurrence: int
    running: bool
    runs: int
    ended: int
    calls: int
    work_s: float


class JobFacts(NamedTuple):
    """One job at one moment. Work is in slot-seconds.

    Attributes:
        number: its number in arrival order.
        info: its properties at arrival.
        application: the name of its application.
        at_s: clock time of the snapshot.
        arrival_s: clock time of its arrival.
        elapsed_s: seconds since then, without those for which it was interrupted.
        paused: whether it is interrupted.
        outcome: how it ended; None while it runs.
        stages: the stage occurrences that began, in the order in which they did.
        work_s: work that it has received.
        remaining_s: expected remaining work.
        interval_s: approximate central 80 % interval of it; None without a belief.
        earlier: number of earlier jobs of its application that are known.
        waiting: its waiting calls, by ticket.
        holding: its calls in a slot, by ticket.
        finished: its calls that released their slot, in request order.
        order: the policy's order of it; None if it is unknown.
        outlook: what lies before it; None if it has ended or is interrupted.
    """

    number: int
    info: JobInfo
    application: str
    at_s: float
    arrival_s: float
    elapsed_s: float
    paused: bool
    outcome: Outcome | None
    stages: tuple[StageFacts, ...]
    work_s: float
    remaining_s: float
    interval_s: tuple[float, float] | None
    earlier: int
    waiting: Mapping[int, Waiting]
    holding: Mapping[int, Grant]
    finished: tuple[FinishedCall, ...]
    order: float | None
    outlook: Outlook | None


def matches(job: Job, key: str | int) -> bool:
    """Return whether a job has this number, LangGraph's run id, or the id of its thread."""
    if isinstance(key, int):
        return job.number == key
    return bool(key) and key in (job.info.run_id, job.info.thread_id)


def latest(jobs: Iterable[Job], key: str | int) -> Job | None:
    """Return the latest job with this key: an active one before others."""
    found = [job for job in jobs if matches(job, key)]
    return max(found, key=lambda job: (job.active, job.number), default=None)


def facts_of(machine: SchedulerMachine, job: Job, now: float) -> JobFacts:
    """Return what is known of a job. O(tickets of the ledger + its stages and calls)."""
    waiting, holding = {}, {}
    if job.ended_s is None:
        view = machine.ledger.view()
        waiting = {ticket: own for ticket, own in view.waiting.items() if own.lane[1] == job.number}
        holding = {ticket: own for ticket, own in view.holding.items() if own.lane[1] == job.number}
    until_s = now
    if job.ended_s is not None:
        until_s = job.ended_s
    elif job.paused_since is not None:
        until_s = job.paused_since
    progress, belief, interval_s = job.progress, job.belief, None
    work_s = progress.work_s(until_s)
    if belief is not None and job.outcome is None:
        since_s = max(work_s - job.believed_at_s, 0.0)
        low_s, high_s = belief.bounds
        interval_s = max(low_s - since_s, 0.0), max(high_s - since_s, 0.0)
    known = machine.profile.applications.get(job.fingerprint)
    found = outlooks(machine, now, [job.number]) if job.active and job.id is not None else []
    return JobFacts(
        number=job.number,
        info=job.info,
        application=job.template.name,
        at_s=now,
        arrival_s=job.arrival_s,
        elapsed_s=max(until_s - job.arrival_s - job.paused_s, 0.0),
        paused=job.paused_since is not None,
        outcome=job.outcome,
        stages=tuple(_stages(job, until_s)),
        work_s=work_s,
        remaining_s=machine.ordering.left_s(job, now) if job.outcome is None else 0.0,
        interval_s=interval_s,
        earlier=0 if known is None else known.jobs,
        waiting=waiting,
        holding=holding,
        finished=tuple(sorted(progress.finished.values(), key=lambda call: (call.first, call.ticket))),
        order=job.sent[0] if isinstance(job.sent, tuple) else None,
        outlook=found[0] if found else None,
    )


def _stages(job: Job, now: float) -> list[StageFacts]:
    tallies, works = job.position.tallies, job.progress.works
    found = []
    for at in dict.fromkeys((*tallies, *works)):
        runs, work = tallies.get(at), works.get(at)
        running = (runs is not None and runs.revealed > runs.ended) or (work is not None and work.outstanding)
        found.append(
            StageFacts(
                at.path,
                at.occurrence,
                running,
                0 if runs is None else runs.revealed,
                0 if runs is None else runs.ended,
                0 if work is None else work.calls,
                0.0 if work is None else work.received_s(now),
            )
        )
    return found


def infos_of(machine: SchedulerMachine, numbers: Iterable[int]) -> dict[int, tuple[JobInfo, str]]:
    """Return the properties, and the name of the application, of each of these jobs that is not closed."""
    wanted = set(numbers)
    return {job.number: (job.info, job.template.name) for job in machine.known() if job.number in wanted}
