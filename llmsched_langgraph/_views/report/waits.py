"""Computes how long recorded calls and jobs waited, and the slots held over time.

Does not sum up over jobs by application or tenant, and draws nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import NamedTuple

from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

DIGITS = 6
"""Decimal places of seconds: the resolution of a recording."""

MOMENT_S = 1e-5
"""Moments that are closer than this are one. Arrival and times of a call are rounded each, so a slot that
went from one call to another could seem held by both."""


def wait_s(call: EndedCall) -> float | None:
    """Return `EndedCall.wait_s`, to the resolution of a recording."""
    return None if call.wait_s is None else round(call.wait_s, DIGITS)


def held_s(call: EndedCall) -> float:
    """Return the slot-seconds of a call, of all its attempts; 0 if they were not recorded."""
    if call.seconds is not None:
        return call.seconds
    if call.granted_s is None or call.ended_s is None:
        return 0.0
    return max(call.ended_s - call.granted_s, 0.0)


def slot_calls(job: EndedJob) -> Iterator[tuple[EndedStage, EndedCall]]:
    """Yield the calls that took slots: the LLM calls, and the calls of tools that name a backend."""
    for stage in job.stages:
        for call in stage.calls:
            if stage.kind == "llm" or call.backend:
                yield stage, call


def total_wait_s(job: EndedJob) -> float | None:
    """Return the sum of the waits of a job's calls, in seconds; None if no call has times."""
    waits = [wait for _, call in slot_calls(job) if (wait := wait_s(call)) is not None]
    return round(sum(waits), DIGITS) if waits else None


def waiting_s(job: EndedJob) -> float | None:
    """Return the seconds in which at least one call of the job waited; None if no call has times.

    It is at most the sum of the waits: of parallel calls, each second counts once.
    """
    total_s = total_wait_s(job)
    if total_s is None:
        return None
    spans = sorted(
        (call.asked_s, call.granted_s)
        for _, call in slot_calls(job)
        if call.asked_s is not None and call.granted_s is not None
    )
    covered_s, until_s = 0.0, 0.0
    for since_s, granted_s in spans:
        covered_s += max(granted_s - max(since_s, until_s), 0.0)
        until_s = max(until_s, granted_s)
    return round(min(covered_s, total_s), DIGITS)


def slowdown(job: EndedJob) -> float | None:
    """Return JCT / critical path; None if one of them was not recorded, or the path is below 1 us."""
    alone_s = job.critical_path_s
    return None if job.jct_s is None or alone_s is None or alone_s < 1e-6 else job.jct_s / alone_s


class Timed(NamedTuple):
    """A call with its times, in seconds from the arrival of its job: asked_s <= granted_s <= ended_s.

    Attributes:
        number: index of its stage in the job.
        stage: its stage.
        call: its record.
        asked_s: time of its request.
        granted_s: time of its last grant.
        ended_s: time of its release.
    """

    number: int
    stage: EndedStage
    call: EndedCall
    asked_s: float
    granted_s: float
    ended_s: float


def timed_calls(job: EndedJob) -> Iterator[Timed]:
    """Yield the calls that took slots and whose times were recorded."""
    for number, stage in enumerate(job.stages):
        for call in stage.calls:
            asked_s, granted_s, ended_s = call.asked_s, call.granted_s, call.ended_s
            if stage.kind != "llm" and not call.backend:
                continue
            if asked_s is None or granted_s is None or ended_s is None:
                continue
            granted_s = max(granted_s, asked_s)
            yield Timed(number, stage, call, asked_s, granted_s, max(ended_s, granted_s))


class Change(NamedTuple):
    """A moment at which the calls of a backend that hold a slot or wait change.

    Attributes:
        at_s: clock time in seconds.
        held: number of held slots from then on.
        waiting: number of waiting calls from then on.
    """

    at_s: float
    held: int
    waiting: int


def changes(jobs: Iterable[EndedJob]) -> dict[str, list[Change]]:
    """Return, for each backend, how its held slots and waiting calls changed, by time.

    Both are derived from the recorded times of the calls. A call with several attempts waits until its last
    grant. Jobs without arrival, and calls without times, are not counted.
    """
    steps: dict[str, dict[float, list[int]]] = {}
    for job in jobs:
        if job.arrival_s is None:
            continue
        for timed in timed_calls(job):
            own = steps.setdefault(timed.call.backend, {})
            for at_s, held, waiting in (
                (timed.asked_s, 0, 1),
                (timed.granted_s, 1, -1),
                (timed.ended_s, -1, 0),
            ):
                step = own.setdefault(round(job.arrival_s + at_s, DIGITS), [0, 0])
                step[0] += held
                step[1] += waiting
    return {backend: list(_summed(own)) for backend, own in sorted(steps.items())}


def _summed(steps: dict[float, list[int]]) -> Iterator[Change]:
    held = waiting = 0
    times = sorted(steps)
    for at_s, next_s in zip(times, [*times[1:], inf], strict=True):
        held += steps[at_s][0]
        waiting += steps[at_s][1]
        if next_s - at_s > MOMENT_S:
            yield Change(at_s, held, waiting)
