"""Converts a recording to the data that the page draws, as JSON with short lists.

Does not sum up anything (`figures` does), and knows nothing of HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmsched_langgraph._jobs.ended import ENDS
from llmsched_langgraph._views.report.figures import span
from llmsched_langgraph._views.report.waits import DIGITS, slowdown, total_wait_s, wait_s, waiting_s
from llmsched_langgraph.traces import Derived, EndedCall, EndedJob, EndedStage


class _Words:
    """Numbers texts that recur: the page stores each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        return self.numbers.setdefault(word, len(self.numbers))


def page_data(jobs: Sequence[EndedJob]) -> dict[str, Any]:
    """Return `{"words", "ends", "jobs"}`.

    Stages and calls are lists, whose order `data.js` repeats: `_stage`, `_call`. Arrivals are in seconds from
    the first arrival, times of a call from the arrival of its job.
    """
    words = _Words()
    origin_s, _ = span(jobs)
    return {
        "ends": ENDS,
        "jobs": [_job(job, origin_s or 0.0, words) for job in jobs],
        "words": list(words.numbers),  # after the jobs, which collect them
    }


def _job(job: EndedJob, origin_s: float, words: _Words) -> dict[str, Any]:
    return {
        "id": job.id,
        "app": words(job.app),
        "tenant": None if job.tenant is None else words(job.tenant),
        "priority": job.priority or 0,
        "end": ENDS.index(job.end),
        "arrival": None if job.arrival_s is None else round(job.arrival_s - origin_s, DIGITS),
        "jct": job.jct_s,
        "paused": job.paused_s,
        "work": _rounded(job.work_s),
        "wait": total_wait_s(job),
        "waiting": waiting_s(job),
        "slowdown": _rounded(slowdown(job)),
        "predicted": job.predicted,
        "stages": [_stage(job, stage, words) for stage in job.stages],
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _stage(job: EndedJob, stage: EndedStage, words: _Words) -> list[Any]:
    """Return `[name, whether it is an LLM stage, occurrence, deps, tool, calls]`."""
    occurrence = job.stage_occurrence(stage).occurrence if job.watched else None
    tool = None if stage.tool is None else words(stage.tool)
    calls = [_call(call, words) for call in stage.calls]
    return [words(stage.name), int(stage.kind == "llm"), occurrence, stage.deps, tool, calls]


def _call(call: EndedCall, words: _Words) -> list[Any]:
    """Return `[prompt, output, seconds, asked, granted, ended, wait, backend, attempts, reason, derived]`."""
    return [
        call.prompt_tokens,
        call.output_tokens,
        call.seconds,
        call.asked_s,
        call.granted_s,
        call.ended_s,
        wait_s(call),
        words(call.backend),
        call.attempts,
        words(call.reason),
        int(call.derived is not Derived.NOTHING),
    ]
