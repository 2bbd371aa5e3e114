"""Extracts from an ended job what is learned: fan-out, calls, work and tokens by stage occurrence.

Does not learn from the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._application.behaviour import NodeBehaviour
from llmsched_langgraph._application.nesting import VISIT
from llmsched_langgraph._jobs.counting import OccurrenceCounter
from llmsched_langgraph._jobs.ended import EndedCall, EndedJob, EndedStage, EndedStageRun
from llmsched_langgraph._jobs.stages import StageOccurrence


class Unit(StrEnum):
    """Unit of the predicted work."""

    SECONDS = "seconds"
    """Slot-seconds, by which the scheduler orders jobs."""
    TOKENS = "tokens"
    """Output tokens of LLM calls, for records without seconds."""
    TOOL_SECONDS = "tool_seconds"
    """Seconds of tools, which take no slot."""


@dataclass(frozen=True, slots=True)
class Part:
    """The runs of a stage that used one tool, or none. None marks an unrecorded number.

    Attributes:
        tool: the tool, for a stage with several tools; None otherwise.
        runs: number of parallel runs.
        calls: number of LLM calls in them; 0 for a tool.
        work_s: slot-seconds of the calls.
        prompt_tokens: prompt tokens of the calls.
        output_tokens: output tokens of the calls.
        tool_s: seconds of the runs without calls.
    """

    tool: str | None = None
    runs: int = 1
    calls: int = 0
    work_s: float | None = 0.0
    prompt_tokens: int | None = 0
    output_tokens: int | None = 0
    tool_s: float | None = 0.0

    def amount(self, unit: Unit) -> float | None:
        """Return the part's work in `unit`, or None if it is unrecorded."""
        match unit:
            case Unit.SECONDS:
                return self.work_s
            case Unit.TOKENS:
                return self.output_tokens
            case Unit.TOOL_SECONDS:
                return self.tool_s


@dataclass(frozen=True, slots=True)
class ObservedStage:
    """One stage occurrence of a job, split into parts by tool."""

    stage_occurrence: StageOccurrence
    parts: tuple[Part, ...]

    @property
    def fan_out(self) -> int:
        """Number of parallel runs."""
        return sum(part.runs for part in self.parts)

    @property
    def calls(self) -> int:
        """Number of LLM calls."""
        return sum(part.calls for part in self.parts)

    @property
    def tools(self) -> bool:
        """Whether the tools of its runs are recorded."""
        return any(part.tool is not None for part in self.parts)

    def amount(self, unit: Unit) -> float | None:
        """Return the stage's work in `unit`, or None if the work of any part is unrecorded."""
        return _sum(part.amount(unit) for part in self.parts)


@dataclass(frozen=True, slots=True)
class ObservedJob:
    """The observed behaviour of one ended job. Jobs with the same behaviour are equal.

    Attributes:
        stages: its stage occurrences.
        prompt_tokens: prompt tokens of its first call: the size of its input. None if not recorded.
        complete: whether it completed.
    """

    stages: tuple[ObservedStage, ...]
    prompt_tokens: int | None = None
    complete: bool = True

    def amount(self, unit: Unit) -> float | None:
        """Return the job's total work in `unit`, or None if the work of any stage is unrecorded."""
        return _sum(stage.amount(unit) for stage in self.stages)

    @property
    def work_s(self) -> float:
        """Slot-seconds of its calls; unrecorded ones count as 0."""
        return sum(part.work_s or 0.0 for stage in self.stages for part in stage.parts)


def observed(job: EndedJob) -> ObservedJob:
    """Return the observed behaviour of a job.

    A watched job has its recorded stage occurrences: first those with calls, in request order, then the
    others, in the order of their ends. Otherwise the stage occurrences are those of `rounds`.
    """
    first = next(job.llm_calls(), None)
    return ObservedJob(
        tuple(_watched(job)) if job.watched else tuple(stage for step in rounds(job) for stage in step),
        None if first is None else first.prompt_tokens,
        job.end == "done",
    )


def nodes_of(job: EndedJob) -> dict[str, NodeBehaviour]:
    """Return the observed behaviour of each node of a job, by path."""
    runs: Counter[StageOccurrence]
    if job.watched:
        runs = Counter(StageOccurrence(run.name, run.occurrence) for run in job.runs)
        calls: Counter[str] = Counter()
        for stage in job.stages:
            if stage.kind == "llm":
                calls[job.stage_occurrence(stage).path] += len(stage.calls)
    else:
        stages = [stage for step in rounds(job) for stage in step]
        runs = Counter({stage.stage_occurrence: stage.fan_out for stage in stages})
        calls = sum((Counter({stage.stage_occurrence.path: stage.calls}) for stage in stages), Counter())
    seen: dict[str, NodeBehaviour] = {}
    for (path, occurrence), count in runs.items():
        before = seen.get(path)
        here = NodeBehaviour(count, 0 if before else calls[path], count, occurrence)
        seen[path] = here if before is None else before + here
    return seen


def numbered(job: EndedJob, template: Application) -> EndedJob:
    """Return the job on this template, with the occurrences of inner loops numbered as in a live job on it.

    A file does not tell the template, and a watched job in it has the numbers of the one that it ran on, or
    numbers that grow on and on, from before inner loops had counters of their own. Occurrences are brought in
    order by the depths of their stages, as in `rounds`.
    """
    job = replace(job, template=template)
    if not job.watched:
        return job
    begun: dict[StageOccurrence, int] = {}
    for stage, depth in zip(job.stages, _depths(job), strict=True):
        own = job.stage_occurrence(stage)
        begun[own] = min(depth, begun.get(own, depth))
    latest = 0
    for run in job.runs:  # in the order of their ends: a run without a stage contains the runs before it
        latest = begun.setdefault(StageOccurrence(run.name, run.occurrence), latest)
    steps: dict[tuple[int, int], list[StageOccurrence]] = {}
    times: Counter[tuple[str, int]] = Counter()
    for own in sorted(begun):
        steps.setdefault((begun[own], times[own.path, begun[own]]), []).append(own)
        times[own.path, begun[own]] += 1
    counter = OccurrenceCounter(template)
    new: dict[StageOccurrence, int] = {}
    for _, together in sorted(steps.items()):
        numbers = counter.reveal([own.path for own in together], None, None)
        new.update({own: numbers[own.path] for own in together if own.path in template.inner_loop_of})
        new.update({own: numbers[own.path] for own in together if own.occurrence > VISIT})
    if not new:
        return job
    runs = [
        run._replace(occurrence=new.get(StageOccurrence(run.name, run.occurrence), run.occurrence))
        for run in job.runs
    ]
    stages = [
        stage
        if stage.occurrence is None
        else replace(stage, occurrence=new.get(job.stage_occurrence(stage), stage.occurrence))
        for stage in job.stages
    ]
    return replace(job, runs=tuple(runs), stages=tuple(stages))


def _depths(job: EndedJob) -> list[int]:
    depths: list[int] = []
    for stage in job.stages:
        depths.append(1 + max((depths[dep] for dep in stage.deps), default=-1))
    return depths


def rounds(job: EndedJob) -> list[tuple[ObservedStage, ...]]:
    """Return the stage occurrences of a job in supersteps, in order of time.

    A stage's depth is the length of the longest dependency chain before it: its superstep in LangGraph. In a
    job that was not watched, the stages of one name at one depth form one occurrence with a fan-out, and
    occurrences are numbered as in a live job on its template (`OccurrenceCounter`). The calls of one stage
    count as parallel runs.
    """
    depths = _depths(job)
    if job.watched:
        begun: dict[StageOccurrence, int] = {}
        for stage, depth in zip(job.stages, depths, strict=True):
            begun[job.stage_occurrence(stage)] = min(depth, begun.get(job.stage_occurrence(stage), depth))
        seen = [stage for stage in _watched(job) if stage.stage_occurrence in begun]
        return [
            tuple(stage for stage in seen if begun[stage.stage_occurrence] == depth)
            for depth in sorted(set(begun.values()))
        ]
    found: list[dict[str, list[EndedStage]]] = [{} for _ in range(max(depths, default=-1) + 1)]
    for stage, depth in zip(job.stages, depths, strict=True):
        found[depth].setdefault(stage.name, []).append(stage)
    counter = OccurrenceCounter(job.template)
    made = []
    for together in found:
        numbers = counter.reveal(together.keys(), None, None)
        made.append(
            tuple(
                ObservedStage(StageOccurrence(name, numbers[name]), tuple(_parts(stages)))
                for name, stages in together.items()
            )
        )
    return made


def _parts(stages: Iterable[EndedStage]) -> Iterator[Part]:
    by_tool: dict[str | None, list[EndedStage]] = {}
    for stage in stages:
        by_tool.setdefault(stage.tool, []).append(stage)
    for tool, own in by_tool.items():
        asked = [call for stage in own if stage.kind == "llm" for call in stage.calls]
        used = [call for stage in own if stage.kind == "tool" for call in stage.calls]
        yield Part(
            tool=tool,
            runs=max(1, len(asked) + len(used)),
            calls=len(asked),
            work_s=_sum(call.seconds for call in asked),
            prompt_tokens=_whole(call.prompt_tokens for call in asked),
            output_tokens=_whole(call.output_tokens for call in asked),
            tool_s=_sum(call.seconds for call in used),
        )


def _watched(job: EndedJob) -> Iterator[ObservedStage]:
    calls: dict[StageOccurrence, list[EndedCall]] = {}
    runs: dict[StageOccurrence, list[EndedStageRun]] = {}
    for stage in job.stages:
        if stage.kind == "llm":
            calls.setdefault(job.stage_occurrence(stage), []).extend(stage.calls)
    for run in job.runs:
        runs.setdefault(StageOccurrence(run.name, run.occurrence), []).append(run)
    for stage_occurrence in dict.fromkeys((*calls, *runs)):
        yield ObservedStage(
            stage_occurrence, _occurrence(runs.get(stage_occurrence, []), calls.get(stage_occurrence, []))
        )


def _occurrence(runs: list[EndedStageRun], calls: list[EndedCall]) -> tuple[Part, ...]:
    # A failed run was retried; count the complete runs.
    whole = [run for run in runs if run.complete]
    seconds = [call.seconds for call in calls if call.seconds is not None]
    part = Part(
        tool=None,
        runs=max(1, len(whole)),
        calls=len(calls),
        work_s=sum(seconds) if len(seconds) == len(calls) else None,
        prompt_tokens=_whole(call.prompt_tokens for call in calls),
        output_tokens=_whole(call.output_tokens for call in calls),
        # The seconds of a run with calls include waits for slots.
        tool_s=0.0 if calls else sum(run.seconds for run in runs),
    )
    used = Counter(run.tool for run in whole if run.tool is not None)
    if not used:
        return (part,)
    tool_s = {tool: sum(run.seconds for run in runs if run.tool == tool) for tool in used}
    return split_by_tool(part, used, None if calls else tool_s)


def split_by_tool(
    part: Part, used: Mapping[str, int], seconds: Mapping[str, float] | None = None
) -> tuple[Part, ...]:
    """Split a stage's work evenly over its runs, and sum it by tool.

    Args:
        part: the whole stage. The tool of a single call is not recorded.
        used: number of runs by tool.
        seconds: seconds by tool; None to split `part.tool_s` evenly too.
    """
    runs = sum(used.values())
    return tuple(
        replace(
            part,
            tool=tool,
            runs=count,
            calls=round(part.calls * count / runs),
            work_s=None if part.work_s is None else part.work_s * count / runs,
            prompt_tokens=_share(part.prompt_tokens, count / runs),
            output_tokens=_share(part.output_tokens, count / runs),
            tool_s=seconds[tool] if seconds else (part.tool_s or 0.0) * count / runs,
        )
        for tool, count in sorted(used.items())
    )


def _share(amount: int | None, share: float) -> int | None:
    return None if amount is None else round(amount * share)


def _sum(amounts: Iterable[float | None]) -> float | None:
    total = 0.0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def _whole(amounts: Iterable[int | None]) -> int | None:
    total = _sum(amounts)
    return None if total is None else int(total)
