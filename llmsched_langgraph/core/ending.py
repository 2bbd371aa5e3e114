"""Knows what is recorded of a job that has ended.

Does not know when it ended, or what is done with the record.
"""

from __future__ import annotations

from llmsched_langgraph.belief.record import CallRecord, JobRecord, Span
from llmsched_langgraph.core.events import Direct
from llmsched_langgraph.core.job import Job
from llmsched_langgraph.dag.application import DIRECT
from llmsched_langgraph.dag.progress import FinishedCall, Outcome


def record_of(closed: Job | Direct) -> JobRecord:
    """The record of a job that is closed. O(calls and stage runs). Not in two threads at once."""
    if isinstance(closed, Direct):
        call: FinishedCall = closed.call
        return JobRecord(
            application=DIRECT.fingerprint,
            calls=(_call(call),),
            arrival_s=call.asked_s,
            ended_s=call.released_s,
            complete=call.outcome is Outcome.FINISHED,
        )
    job = closed
    assert job.ended_s is not None
    calls = sorted(job.progress.finished)  # by ticket: in the order in which they were asked for
    return JobRecord(
        application=job.fingerprint,
        calls=tuple(map(_call, calls)),
        arrival_s=job.arrival_s,
        ended_s=job.ended_s,
        complete=job.outcome is Outcome.FINISHED,
        stages=job.stages if calls else (),  # without calls it teaches nothing
        paused_s=job.paused_s,
        template=job.template,
    )


def _call(call: FinishedCall) -> CallRecord:
    return CallRecord(
        call.stage,
        call.occurrence,
        call.work_s,
        call.usage.prompt_tokens,
        call.usage.output_tokens,
        None if call.run is None else call.spot,
        call.backend,
        call.concurrency,
        call.run,
        Span(call.first, call.last, call.asked_s, call.released_s),
    )
