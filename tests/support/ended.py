"""Records of ended jobs, from what matters of them."""

from __future__ import annotations

from dataclasses import dataclass

from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage, EndedStageRun
from support.applications import app


@dataclass(frozen=True)
class Closed:
    """A closed job whose record is there already: what a learner and a recorder take."""

    record: EndedJob
    direct: bool = False

    @property
    def fingerprint(self):
        return self.record.fingerprint

    @property
    def informative(self):
        return self.record.informative


def ended(application, *calls, runs=(), **fields):
    """A job that ended after 100 s.

    Args:
        application: it, or its name.
        calls: each as (stage, work_s, prompt_tokens, output_tokens, occurrence); the last three may be
            missing, and occurrences count the calls of a stage as they come.
        runs: its stage runs, each as the fields of an `EndedStageRun`; calls find theirs by name and number.
        fields: all else that a record has.
    """
    template = app(application) if isinstance(application, str) else application
    ran = tuple(EndedStageRun(*run) for run in runs)
    places = {run[:2]: place for place, run in reversed(list(enumerate(ran)))}
    seen: dict[str, int] = {}
    stages = []
    for stage, work_s, prompt, output, occurrence in (call + (None,) * (5 - len(call)) for call in calls):
        seen[stage] = seen.get(stage, 0) + 1
        at = occurrence or seen[stage]
        run = places.get((stage, at))
        stages.append(
            EndedStage(
                name=stage,
                kind="llm",
                calls=(EndedCall(prompt, output, work_s),),
                run=run,
                occurrence=at if run is None else None,
            )
        )
    made = {"id": "", "app": template.name, "jct_s": 100.0, "arrival_s": 0.0, **fields}
    return EndedJob(stages=tuple(stages), runs=ran, template=template, **made)
