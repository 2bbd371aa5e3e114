"""Knows how the record of an ended job becomes a job in the trace format: stages, and what each waited for.

Does not know files, nor when anything is written.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from llmsched_langgraph.belief.record import CallRecord, JobRecord, StageRecord
from llmsched_langgraph.traces.job import Kind, TraceCall, TraceJob, TraceStage

UNNAMED = "LangGraph"
"""What LangGraph calls every graph that was given no name; such ones are told apart by their fingerprints."""

CODE_S = 0.1
"""Seconds for which a stage run that calls models must do something else at a time for that to count: what is
shorter is the work of Python, LangChain and the event loop."""

_CODE = " (code)"
"""Ends the name of a stage that is a node's own code."""

_DIGITS = 6
"""Of seconds: microseconds are as much as anybody measured."""


def trace_of(record: JobRecord) -> TraceJob:
    """The job as `llmsched replay` and others can read it.

    A stage run waited for those that had ended, in the same run of a graph, before it was announced: in
    LangGraph that is all of the superstep before. So a stage's depth is its superstep. A graph that a node
    runs stands in the place of the node, a call that a node makes after another one waits for that, and
    where a node that calls models does something else for `CODE_S` or longer, that is a tool stage
    `NODE (code)`. Seconds of calls are those in the slot, without the wait for it; those from arrival to end
    are without those for which the job was interrupted.
    """
    within = _within(record)
    layout = _Layout(within, _long_starts(record.stages, within))
    layout.lay(within.get(None, ()), ())
    lasted_s = record.ended_s - record.arrival_s
    return TraceJob(
        record.id,
        _app(record),
        round(max(lasted_s - record.paused_s, 0.0), _DIGITS),
        layout.stages(),
        round(max(record.ended_at - lasted_s, 0.0), _DIGITS),
    )


def without_code(job: TraceJob) -> TraceJob:
    """The job without stages of nodes' own code, as a live scheduler learns from it, which sees nodes.

    What waited for such a stage waits for what that had waited for. Those stages need no slots, and whether a
    run has them depends on how busy the machine was: they tell nothing of the application.
    """
    kept: list[TraceStage] = []
    ends: list[tuple[int, ...]] = []
    for stage in job.stages:
        deps = _union(ends[dep] for dep in stage.deps)
        if stage.kind == "tool" and stage.name.endswith(_CODE):
            ends.append(deps)
        else:
            ends.append((len(kept),))
            kept.append(replace(stage, deps=deps))
    return replace(job, stages=tuple(kept))


def _app(record: JobRecord) -> str:
    name = record.template.name or UNNAMED
    return f"{name}-{record.application[:8]}" if name == UNNAMED else name


@dataclass(frozen=True, slots=True)
class _Item:
    """What went on in a stage run, or in the job itself: a call, a stage run, or seconds of its own code."""

    what: CallRecord | StageRecord | float
    name: str
    first: float
    last: float
    since_s: float
    until_s: float


_Within = Mapping[int | None, Sequence[_Item]]
"""By number of a stage run what went on in it; under None, what went on in no stage run that is known."""


def _within(record: JobRecord) -> _Within:
    runs = {run.run for run in record.stages}
    found: dict[int | None, list[_Item]] = {}
    for run in record.stages:
        around = run.around if run.around in runs else None
        found.setdefault(around, []).append(_Item(run, run.stage, *run.span))
    for call in record.calls:
        by = call.run if call.run in runs else None
        name = call.stage if call.spot is None else call.spot[0]
        found.setdefault(by, []).append(_Item(call, name or "call", *call.span))
    return found


def _begin_s(run: StageRecord) -> float:
    """When it had its thread."""
    return run.span.until_s - run.seconds


def _long_starts(runs: Iterable[StageRecord], within: _Within) -> frozenset[tuple[str, int]]:
    """Where a run's own code took long before its first call: in all that run side by side, or in none.

    Otherwise calls that belong together would stand at different depths.
    """
    return frozenset(
        (run.stage, run.occurrence)
        for run in runs
        if (items := within.get(run.run)) and min(item.since_s for item in items) - _begin_s(run) >= CODE_S
    )


def _with_code(run: StageRecord, items: Sequence[_Item], *, at_first: bool) -> list[_Item]:
    """The items, and between them the times in which nothing but the stage run's own code can have run."""
    name = run.stage + _CODE
    found = list(items)

    def code(since_s: float, until_s: float, after: float) -> None:
        # Numbered between what had ended and whatever comes next.
        found.append(_Item(max(until_s - since_s, 0.0), name, after + 0.25, after + 0.5, since_s, until_s))

    done_s, latest = _begin_s(run), float(run.span.first)
    for place, item in enumerate(sorted(items, key=lambda item: item.since_s)):
        if item.since_s - done_s >= CODE_S or (not place and at_first):
            code(done_s, item.since_s, latest)
        done_s, latest = max(done_s, item.until_s), max(latest, item.last)
    if run.span.until_s - done_s >= CODE_S:
        code(done_s, run.span.until_s, latest)
    return found


@dataclass(slots=True)
class _Layout:
    """Puts what went on into stages, each behind those that it waited for."""

    within: _Within
    long_starts: frozenset[tuple[str, int]]
    _stages: list[TraceStage] = field(default_factory=list)  # without their calls
    _calls: list[list[TraceCall]] = field(default_factory=list)

    def stages(self) -> tuple[TraceStage, ...]:
        """All that were added."""
        found = zip(self._stages, self._calls, strict=True)
        return tuple(replace(stage, calls=tuple(calls)) for stage, calls in found)

    def lay(
        self, items: Sequence[_Item], before: tuple[int, ...], tool: str | None = None
    ) -> tuple[int, ...]:
        """Add the stages of these items, which may begin when `before` are over; gives the last of them."""
        by_last = sorted(items, key=lambda item: item.last)
        lasts = [item.last for item in by_last]
        firsts = sorted(item.first for item in items)
        newest = list(accumulate((item.first for item in by_last), max))
        ends: list[tuple[int, ...]] = [()] * len(by_last)
        together: dict[tuple[str, int, int], int] = {}
        for at in sorted(range(len(by_last)), key=lambda at: by_last[at].first):
            item = by_last[at]
            over = bisect_left(lasts, item.first)
            # Of those that were over, the others were over before one of these began.
            deps = _union(ends[bisect_right(lasts, newest[over - 1]) : over]) if over else before
            match item.what:
                case StageRecord():
                    ends[at] = self._run(item.what, deps)
                case CallRecord():
                    # Alike in all that came before and after: one stage of calls side by side.
                    alike = (item.name, over, bisect_right(firsts, item.last))
                    ends[at] = (self._call(item, together.get(alike), deps, tool),)
                    together[alike] = ends[at][0]
                case seconds:
                    ends[at] = (self._add(item.name, "tool", deps, TraceCall(None, None, _s(seconds))),)
        return _union(ends[bisect_right(lasts, firsts[-1]) :]) if items else before

    def _run(self, run: StageRecord, deps: tuple[int, ...]) -> tuple[int, ...]:
        items = self.within.get(run.run, ())
        if not items:
            return (self._add(run.stage, "tool", deps, TraceCall(None, None, _s(run.seconds)), run.tool),)
        at_first = (run.stage, run.occurrence) in self.long_starts
        return self.lay(_with_code(run, items, at_first=at_first), deps, run.tool)

    def _call(self, item: _Item, with_: int | None, deps: tuple[int, ...], tool: str | None) -> int:
        call = item.what
        assert isinstance(call, CallRecord)
        made = TraceCall(call.prompt_tokens, call.output_tokens, _s(call.work_s))
        if with_ is None:
            return self._add(item.name, "llm", deps, made, tool)
        self._calls[with_].append(made)
        return with_

    def _add(
        self, name: str, kind: Kind, deps: tuple[int, ...], call: TraceCall, tool: str | None = None
    ) -> int:
        self._stages.append(TraceStage(name, kind, deps, (), tool))
        self._calls.append([call])
        return len(self._stages) - 1


def _union(ends: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted({stage for each in ends for stage in each}))


def _s(seconds: float) -> float:
    return round(max(seconds, 0.0), _DIGITS)
