"""Knows what one ended job did, stage by stage, wherever it was recorded: in a trace or in a live run.

Does not know how anything is learned from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from llmsched_langgraph.belief.calibration import Calibration
from llmsched_langgraph.belief.record import CallRecord, JobRecord, StageRecord
from llmsched_langgraph.dag.position import Spot
from llmsched_langgraph.traces.job import TraceJob, TraceStage


class Unit(StrEnum):
    """What the work that is predicted is counted in."""

    SECONDS = "seconds"
    """Seconds in slots: what the scheduler orders jobs by."""
    TOKENS = "tokens"
    """Output tokens of LLM calls: for records that know no seconds."""
    TOOL_SECONDS = "tool_seconds"
    """Seconds of tools, which take no slot."""


NO_PACES: Mapping[str, Calibration] = {}


@dataclass(frozen=True, slots=True)
class Part:
    """What those runs of a stage did that used one tool, or none. A number nobody recorded is None.

    Attributes:
        tool: which tool, where a stage can run several.
        runs: how many there were side by side.
        calls: LLM calls in them; 0 for a tool.
        work_s: slot-seconds of the calls.
        prompt_tokens: tokens sent.
        output_tokens: tokens answered.
        tool_s: seconds that runs without a call took.
    """

    tool: str | None = None
    runs: int = 1
    calls: int = 0
    work_s: float | None = 0.0
    prompt_tokens: int | None = 0
    output_tokens: int | None = 0
    tool_s: float | None = 0.0

    def amount(self, unit: Unit) -> float | None:
        """Its work, counted in that unit."""
        match unit:
            case Unit.SECONDS:
                return self.work_s
            case Unit.TOKENS:
                return self.output_tokens
            case Unit.TOOL_SECONDS:
                return self.tool_s


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """One occurrence of a stage in one job; its parts have different tools."""

    spot: Spot
    parts: tuple[Part, ...]

    @property
    def fan_out(self) -> int:
        """How many runs there were side by side."""
        return sum(part.runs for part in self.parts)

    @property
    def calls(self) -> int:
        """How many LLM calls it made."""
        return sum(part.calls for part in self.parts)

    @property
    def tools(self) -> bool:
        """Whether it is known which tools it ran."""
        return any(part.tool is not None for part in self.parts)

    def amount(self, unit: Unit) -> float | None:
        """Its work, counted in that unit; None if some of it is not known."""
        return _sum(part.amount(unit) for part in self.parts)


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """One ended job. Two that did the same are equal, whichever jobs they were.

    Attributes:
        application: whose run it was: the name in a trace, the fingerprint in a live run.
        stages: what happened, each stage behind those that it waited for.
        prompt_tokens: tokens that its first call sent: the size of its input. None if nobody could tell.
        complete: whether it went to its end.
        id: which job it was, among all jobs of the application, in all processes; empty if nobody knows.
        ended_at: when it ended, in seconds of wall-clock time; 0 if nobody knows.
    """

    application: str
    stages: tuple[StageOutcome, ...]
    prompt_tokens: int | None = None
    complete: bool = True
    id: str = field(default="", compare=False)
    ended_at: float = field(default=0.0, compare=False)

    def amount(self, unit: Unit) -> float | None:
        """The whole job's work, counted in that unit; None if some of it is not known."""
        return _sum(stage.amount(unit) for stage in self.stages)

    @property
    def work_s(self) -> float:
        """Slot-seconds of all its calls, as far as they are known."""
        return sum(part.work_s or 0.0 for stage in self.stages for part in stage.parts)


def rounds(job: TraceJob) -> list[tuple[StageOutcome, ...]]:
    """What happened in a recorded job, stages that ran side by side together, in the order of time.

    A stage's depth is the length of the longest chain of stages behind it: the superstep in which LangGraph
    runs it. Stages of one name at one depth are one occurrence with a fan-out, whatever each waits
    for, just as `Position` counts stage runs that are announced together; the i-th depth at which a name is
    found is its i-th occurrence. The calls of one stage count as runs side by side.
    """
    depths: list[int] = []
    for stage in job.stages:
        depths.append(1 + max((depths[dep] for dep in stage.deps), default=-1))
    found: list[dict[str, list[TraceStage]]] = [{} for _ in range(max(depths, default=-1) + 1)]
    for stage, depth in zip(job.stages, depths, strict=True):
        found[depth].setdefault(stage.name, []).append(stage)
    times: dict[str, int] = {}
    made = []
    for together in found:
        for name in together:
            times[name] = times.get(name, 0) + 1
        made.append(
            tuple(
                StageOutcome(Spot(name, times[name]), tuple(_parts(stages)))
                for name, stages in together.items()
            )
        )
    return made


def outcome_of_trace(job: TraceJob) -> JobOutcome:
    """What a recorded job did; `rounds` says what an occurrence is."""
    first = next(job.llm_calls(), None)
    return JobOutcome(
        job.app,
        tuple(stage for together in rounds(job) for stage in together),
        None if first is None else first.prompt_tokens,
        id=job.id,
    )


def _parts(stages: Iterable[TraceStage]) -> Iterator[Part]:
    by_tool: dict[str | None, list[TraceStage]] = {}
    for stage in stages:
        by_tool.setdefault(stage.tool, []).append(stage)
    for tool, own in by_tool.items():
        asked = [call for stage in own if stage.kind == "llm" for call in stage.calls]
        used = [call for stage in own if stage.kind == "tool" for call in stage.calls]
        yield Part(
            tool,
            max(1, len(asked) + len(used)),
            len(asked),
            _sum(call.seconds for call in asked),
            _whole(call.prompt_tokens for call in asked),
            _whole(call.output_tokens for call in asked),
            _sum(call.seconds for call in used),
        )


def outcome_of_record(record: JobRecord, paces: Mapping[str, Calibration] = NO_PACES) -> JobOutcome:
    """What a job of a live run did, stages in the order in which they asked for calls or ended.

    Occurrences are those that the run was watched to have. A call whose stage is not known counts as
    an occurrence of its own of the name that it went by. Of calls in a stage that ran several tools it is
    not known which tool made them, see `by_tool`. Seconds of calls are those that they would have taken on
    a busy backend, as far as `paces` tells of it (`Calibration.at_capacity`).
    """
    calls: dict[Spot, list[CallRecord]] = {}
    runs: dict[Spot, list[StageRecord]] = {}
    for call in record.calls:
        spot = Spot(*(call.spot or (call.stage, call.occurrence)))
        if (pace := paces.get(call.backend)) is not None:
            call = replace(call, work_s=call.work_s * pace.at_capacity(call.side_by_side))
        calls.setdefault(spot, []).append(call)
    for run in record.stages:
        runs.setdefault(Spot(run.stage, run.occurrence), []).append(run)
    return JobOutcome(
        record.application,
        tuple(
            StageOutcome(spot, _live(runs.get(spot, []), calls.get(spot, [])))
            for spot in dict.fromkeys((*calls, *runs))
        ),
        record.calls[0].prompt_tokens if record.calls else None,
        record.complete,
        record.id,
        record.ended_at,
    )


def _live(runs: list[StageRecord], calls: list[CallRecord]) -> tuple[Part, ...]:
    # A run that failed is tried again as the same one.
    whole = [run for run in runs if run.complete]
    part = Part(
        None,
        max(1, len(whole)),
        len(calls),
        sum(call.work_s for call in calls),
        _whole(call.prompt_tokens for call in calls),
        _whole(call.output_tokens for call in calls),
        # With calls, a run's seconds contain their waiting.
        0.0 if calls else sum(run.seconds for run in runs),
    )
    used = Counter(run.tool for run in whole if run.tool is not None)
    if not used:
        return (part,)
    seconds = {tool: sum(run.seconds for run in runs if run.tool == tool) for tool in used}
    return by_tool(part, used, None if calls else seconds)


def by_tool(
    part: Part, used: Mapping[str, int], seconds: Mapping[str, float] | None = None
) -> tuple[Part, ...]:
    """A stage's work dealt out to the tools that its runs used: evenly, run by run.

    Args:
        part: the whole.
        used: how many runs used each tool.
        seconds: what each tool took, if that is known.
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
