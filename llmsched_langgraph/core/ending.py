"""Knows how a job of the machine becomes the record of an ended one.

Does not know when a job has ended, nor who takes the record.
"""

from __future__ import annotations

from llmsched_langgraph.core.job import Job
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.progress import Call, Outcome
from llmsched_langgraph.jobs.ended import End, EndedCall, EndedJob
from llmsched_langgraph.jobs.layout import Span, WatchedCall, laid_out

UNNAMED = "LangGraph"
"""What LangGraph calls every graph that was given no name; their fingerprints keep such ones apart."""

_ENDS: dict[Outcome | None, End] = {Outcome.FAILED: "failed", Outcome.CANCELLED: "cancelled"}

_DIGITS = 6
"""Of seconds that say when: microseconds are as much as is measured."""


def ended(job: Job, now: float) -> EndedJob:
    """The record of a job that has ended at `now`. Times are the machine's clock; it has no id yet.

    A job without calls has no stages: it teaches nothing, and most graphs that never call a model are such.
    """
    calls = sorted(job.progress.finished, key=lambda call: call.ticket)
    watched = job.stages if calls else ()
    return EndedJob(
        id="",
        app=_name(job.template),
        stages=laid_out(watched, [_call(call, job.arrival_s, now) for call in calls]),
        runs=tuple([each.run for each in watched]),
        jct_s=round(max(now - job.arrival_s - job.paused_s, 0.0), _DIGITS),
        arrival_s=max(job.arrival_s, 0.0),
        paused_s=round(job.paused_s, _DIGITS),
        end=_ENDS.get(job.outcome, "done"),
        template=job.template,
    )


def _name(application: Application) -> str:
    name = application.name or UNNAMED
    return f"{name}-{application.fingerprint[:8]}" if name == UNNAMED else name


def _call(call: Call, arrival_s: float, now: float) -> WatchedCall:
    released_s = now if call.released_s is None else call.released_s
    made = EndedCall(
        _tokens(call.usage.prompt_tokens),
        _tokens(call.usage.output_tokens),
        max(call.work_s(now), 0.0),
        concurrency=call.side_by_side,
        backend=call.backend,
        asked_s=round(max(call.requested_s - arrival_s, 0.0), _DIGITS),
        granted_s=None if call.granted_s is None else round(max(call.granted_s - arrival_s, 0.0), _DIGITS),
        ended_s=round(max(released_s - arrival_s, 0.0), _DIGITS),
    )
    span = Span(call.first, call.last, call.requested_s, released_s)
    return WatchedCall(made, *call.place, call.run, span)


def _tokens(count: int | None) -> int | None:
    """A provider may say anything."""
    return None if count is None or count < 0 else count
