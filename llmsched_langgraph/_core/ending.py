"""Converts a closed job of the machine to the record of an ended job.

Does not decide when a job has ended, and does not deliver the record.
"""

from __future__ import annotations

from llmsched_langgraph._application.application import DIRECT, Application
from llmsched_langgraph._core.events import Direct
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._jobs.calls import FinishedCall, Outcome
from llmsched_langgraph._jobs.ended import End, EndedCall, EndedJob
from llmsched_langgraph._jobs.layout import Span, WatchedCall, laid_out

UNNAMED = "LangGraph"
"""LangGraph's default graph name. The record appends the fingerprint to distinguish such graphs."""

_ENDS: dict[Outcome | None, End] = {Outcome.FAILED: "failed", Outcome.CANCELLED: "cancelled"}

_DIGITS = 6
"""Decimal places of recorded times: the clock has a resolution of 1 microsecond."""


def ended(closed: Job | Direct) -> EndedJob:
    """Return the record of a closed job. Times are seconds of the machine's clock; the id is empty.

    A job without calls gets no stages: it has no information for learning, and most graphs that never call a
    model are such jobs. Not thread-safe.
    """
    if isinstance(closed, Direct):
        call = closed.call
        return EndedJob(
            id="",
            app=_name(DIRECT),
            stages=laid_out((), [_call(call, call.asked_s)]),
            jct_s=_moment(call.released_s, call.asked_s),
            arrival_s=max(call.asked_s, 0.0),
            end=_ENDS.get(call.outcome, "done"),
            template=DIRECT,
        )
    now, arrival_s = closed.ended_s, closed.arrival_s
    assert now is not None
    calls = sorted(closed.progress.finished.values())  # by ticket: in request order
    watched = closed.stages if calls else ()
    return EndedJob(
        id="",
        app=_name(closed.template),
        stages=laid_out(watched, [_call(call, arrival_s) for call in calls]),
        runs=tuple([each.run for each in watched]),
        jct_s=_moment(now, arrival_s + closed.paused_s),
        arrival_s=max(arrival_s, 0.0),
        paused_s=round(closed.paused_s, _DIGITS),
        end=_ENDS.get(closed.outcome, "done"),
        tenant=closed.info.tenant or None,
        priority=closed.info.priority or None,
        template=closed.template,
    )


def predicted(closed: Job | Direct) -> tuple[float, float, float] | None:
    """Return the job's work as predicted at its arrival: mean, and bounds of the central 80 % interval.

    It is the belief of the model that was in use when the job arrived, without evidence of the job itself.
    The model caches it: the jobs that arrive under one model share one inference. Not thread-safe.

    Returns:
        Slot-seconds; None if there was no model, or the model does not predict seconds.
    """
    from llmsched_langgraph._jobs.observed import Unit  # late: only recording needs it

    model = None if isinstance(closed, Direct) else closed.model
    if model is None or model.unit is not Unit.SECONDS:
        return None
    assert isinstance(closed, Job)
    at_arrival = Job(closed.number, closed.info, closed.template, closed.arrival_s)
    belief = model.belief(at_arrival.evidence(closed.arrival_s))
    low, high = belief.interval()
    return round(belief.mean, _DIGITS), round(low, _DIGITS), round(high, _DIGITS)


def _moment(at_s: float, since_s: float) -> float:
    return round(max(at_s - since_s, 0.0), _DIGITS)


def _name(application: Application) -> str:
    name = application.name or UNNAMED
    return f"{name}-{application.fingerprint[:8]}" if name == UNNAMED else name


def _call(call: FinishedCall, arrival_s: float) -> WatchedCall:
    made = EndedCall(
        _tokens(call.usage.prompt_tokens),
        _tokens(call.usage.output_tokens),
        max(call.work_s, 0.0),
        concurrency=call.concurrency,
        backend=call.backend,
        asked_s=_moment(call.asked_s, arrival_s),
        granted_s=_moment(call.granted_s, arrival_s),
        ended_s=_moment(call.released_s, arrival_s),
        attempts=call.attempts,
        reason=call.reason,
    )
    span = Span(call.first, call.last, call.asked_s, call.released_s)
    return WatchedCall(made, *call.stage_occurrence, call.run, span)


def _tokens(count: int | None) -> int | None:
    """Return the count, or None if the provider reported a negative one."""
    return None if count is None or count < 0 else count
