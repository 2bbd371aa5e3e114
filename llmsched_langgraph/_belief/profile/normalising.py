"""Updates the calibrations of backends with ended jobs, and normalises the jobs' durations by them.

Does not remember jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf

from llmsched_langgraph._belief.fit.calibration import Calibration, ServedCall
from llmsched_langgraph._belief.model.outliers import limits_of
from llmsched_langgraph._jobs.ended import EndedCall, EndedJob, EndedStage


def calibrated(
    slowdowns: Mapping[str, Calibration], jobs: Iterable[EndedJob], earlier: Sequence[EndedJob] = ()
) -> dict[str, Calibration]:
    """Return the calibrations of all backends, updated with the calls of more jobs of one application.

    A calibration is a sum over all calls, from which none can be taken back. Therefore each duration is
    limited by its fence (`outliers.limits_of`), and calls of a stage that has no fence yet are left out.

    Args:
        slowdowns: the calibrations, by name of the backend.
        jobs: the jobs.
        earlier: remembered jobs of the same application, for the fences.
    """
    given = list(jobs)
    limits = limits_of([*earlier, *given])
    by_backend: dict[str, list[ServedCall]] = {}
    for job in given:
        for stage in job.stages:
            limit = limits.get((stage.kind, stage.name, stage.tool), inf) if stage.kind == "llm" else inf
            for call in stage.calls if limit < inf else ():
                if call.seconds is not None:
                    name = f"{job.fingerprint or job.app}/{stage.name}"
                    seconds = min(call.seconds, limit)
                    served = ServedCall(name, call.concurrency, seconds, call.output_tokens)
                    by_backend.setdefault(call.backend, []).append(served)
    seen = {name: (slowdowns.get(name) or Calibration()).observe(calls) for name, calls in by_backend.items()}
    return {**slowdowns, **seen}


def as_learned(job: EndedJob, slowdowns: Mapping[str, Calibration]) -> EndedJob:
    """Return the job as a profile remembers it: without waiting times and, if it was watched, its template.

    The template numbers the occurrences of a job that was not watched.
    Seconds of LLM calls are normalized to the backend's reference concurrency (`Calibration.at_capacity`).
    """

    def normalised(stage: EndedStage, call: EndedCall) -> EndedCall:
        seconds = call.seconds
        if (
            stage.kind == "llm"
            and seconds is not None
            and (calibration := slowdowns.get(call.backend)) is not None
        ):
            seconds *= calibration.at_capacity(call.concurrency)
        return EndedCall(call.prompt_tokens, call.output_tokens, seconds)

    return replace(job.with_calls(normalised), template=None if job.watched else job.template)
