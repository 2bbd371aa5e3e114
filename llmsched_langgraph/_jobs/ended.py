"""Defines the record of an ended job: stages with dependencies, calls with tokens and seconds.

Opens no files; the record is the same for live, simulated and loaded jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from enum import Flag, auto
from math import inf
from typing import Literal, NamedTuple, get_args

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph.errors import InvalidDataError

Kind = Literal["llm", "tool"]
KINDS: tuple[Kind, ...] = get_args(Kind)

End = Literal["done", "failed", "cancelled"]
"""How a job ended."""

ENDS: tuple[End, ...] = get_args(End)


class Derived(Flag):
    """Which numbers of a call are not measured but computed or sampled."""

    NOTHING = 0
    PROMPT = auto()
    OUTPUT = auto()
    SECONDS = auto()


@dataclass(frozen=True, slots=True)
class EndedCall:
    """One LLM request, or one execution of a tool. None marks an unrecorded number.

    Attributes:
        prompt_tokens: prompt tokens; None for a tool.
        output_tokens: output tokens; None for a tool.
        seconds: its duration; for an LLM request, its time in a slot.
        derived: which of the numbers above are not measured.
        concurrency: mean of the backend's held slots at its begin and at its end, itself included.
        backend: name of the backend that served it; empty if unknown.
        asked_s: time of its request, in seconds from the job's arrival; None if not recorded.
        granted_s: time of its grant, in seconds from the job's arrival; None if not recorded.
        ended_s: time of its release, in seconds from the job's arrival; None if not recorded.
        attempts: number of requests sent for it.
        reason: the reason of its grant; empty if unknown.

    Raises:
        InvalidDataError: a number is negative or not finite, or `derived` names a missing number.
    """

    prompt_tokens: int | None
    output_tokens: int | None
    seconds: float | None
    _: KW_ONLY
    derived: Derived = Derived.NOTHING
    concurrency: float = 1.0
    backend: str = ""
    asked_s: float | None = None
    granted_s: float | None = None
    ended_s: float | None = None
    attempts: int = 1
    reason: str = ""

    def __post_init__(self) -> None:
        for name, value, flag in (
            ("prompt tokens", self.prompt_tokens, Derived.PROMPT),
            ("output tokens", self.output_tokens, Derived.OUTPUT),
            ("seconds", self.seconds, Derived.SECONDS),
        ):
            if value is None:
                if self.derived is not Derived.NOTHING and self.derived & flag:
                    raise InvalidDataError(f"a call's {name} are marked as derived but are missing")
            elif not 0 <= value < inf:
                raise InvalidDataError(f"a call's {name} must be 0 or more, not {value}")

    @property
    def wait_s(self) -> float | None:
        """Seconds for which it had no slot: (granted - asked) - slot time of earlier attempts.

        The slot time of earlier attempts is seconds - (ended - granted), 0 for one attempt. The pause of a
        client between two attempts counts as a wait. None if the times were not recorded.
        """
        if self.asked_s is None or self.granted_s is None:
            return None
        earlier_s = 0.0
        if self.attempts > 1 and self.seconds is not None and self.ended_s is not None:
            earlier_s = max(self.seconds - (self.ended_s - self.granted_s), 0.0)
        return max(self.granted_s - self.asked_s - earlier_s, 0.0)


class EndedStageRun(NamedTuple):
    """One watched execution of a node.

    Attributes:
        name: the node's path.
        occurrence: its node's occurrence in the job, from 1; parallel executions share one. In an inner loop,
            it is a number as in `_application.nesting`.
        seconds: its duration, including waits for slots, without the lag of its event loop.
        complete: False if it failed, was cancelled or was interrupted.
        tool: the tool that it used; None if the node has a single one or the tool was not announced.
    """

    name: str
    occurrence: int
    seconds: float
    complete: bool = True
    tool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedStage:
    """One stage of a job: parallel calls that start when all stages in `deps` have ended.

    A tool stage has one call without tokens, whose seconds are the tool's.

    Attributes:
        name: the stage's name; loops repeat it. Empty for a call made outside any stage.
        kind: "llm" for calls that need slots, "tool" for all others.
        deps: indices, in the job, of the stages that must end first.
        calls: the calls, in request order.
        tool: the tool, for a stage with several tools; None otherwise.
        run: index, in the job's `runs`, of its stage run; None if it was not watched.
        occurrence: the stage's occurrence if it is known without a stage run; None otherwise.

    Raises:
        InvalidDataError: `kind` is neither "llm" nor "tool".
    """

    name: str
    kind: Kind
    deps: tuple[int, ...] = ()
    calls: tuple[EndedCall, ...] = ()
    tool: str | None = None
    run: int | None = None
    occurrence: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidDataError(f"a stage's kind must be 'llm' or 'tool', not {self.kind!r}")

    @property
    def seconds(self) -> float | None:
        """Seconds of the longest call, since the calls are parallel; None if one is unknown."""
        seconds = [call.seconds for call in self.calls if call.seconds is not None]
        return max(seconds, default=0.0) if len(seconds) == len(self.calls) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """One job from arrival to end, recorded, simulated or generated.

    Attributes:
        id: its id; unique in its file, and across processes if a scheduler recorded it.
        app: name of its application.
        stages: its stages; each follows those that it depends on.
        runs: its stage runs, in the order of their ends; empty if they were not watched.
        jct_s: seconds from arrival to end, including waits, without `paused_s`; None if not recorded.
        arrival_s: its arrival by the recorder's clock; in a file, seconds since the epoch. None if not
            recorded.
        paused_s: seconds for which it was interrupted to wait for a human.
        end: how it ended. The remaining work of a failed or cancelled job is unknown.
        tenant: the tenant that owned it; None if not recorded.
        priority: its priority; None if not recorded.
        key: hash of the context that selects its evidence from earlier runs; None if not recorded.
        predicted: its work as predicted at arrival, in slot-seconds: mean, lower and upper bound; None if not
            recorded.
        template: its application as the run knew it; None if unknown. Not stored in files.

    Raises:
        InvalidDataError: a stage depends on itself or a later one, or its `run` is out of range; or the
            arrival is negative or not finite.
    """

    id: str
    app: str
    stages: tuple[EndedStage, ...] = ()
    runs: tuple[EndedStageRun, ...] = ()
    jct_s: float | None = None
    arrival_s: float | None = None
    paused_s: float = 0.0
    end: End = "done"
    tenant: str | None = None
    priority: int | None = None
    key: str | None = None
    predicted: tuple[float, float, float] | None = None
    template: Application | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.arrival_s is not None and not 0 <= self.arrival_s < inf:
            raise InvalidDataError(f"arrival: must be 0 or more, not {self.arrival_s}")
        checked: tuple[int, ...] = ()
        for index, stage in enumerate(self.stages):
            # Stages may share one tuple. Its check against the first of them holds for the later ones.
            if stage.deps is not checked:
                self._check(index, checked := stage.deps)
            if stage.run is not None and not 0 <= stage.run < len(self.runs):
                raise InvalidDataError(f"stages[{index}].r: must be an index of the {len(self.runs)} runs")

    @staticmethod
    def _check(index: int, deps: tuple[int, ...]) -> None:
        for dep in deps:
            if not 0 <= dep < index:
                raise InvalidDataError(
                    f"stages[{index}].dep: must name earlier stages, 0 to {index - 1}, not {dep}"
                    if index
                    else f"stages[0].dep: the first stage must have no dependency, not {dep}"
                )

    @property
    def fingerprint(self) -> str:
        """Its application's fingerprint; empty if unknown."""
        return "" if self.template is None else self.template.fingerprint

    @property
    def ended_at(self) -> float:
        """Clock time of its end; 0 if unknown."""
        return 0.0 if self.arrival_s is None else self.arrival_s + (self.jct_s or 0.0) + self.paused_s

    @property
    def watched(self) -> bool:
        """Whether the occurrences of its stages are recorded."""
        return bool(self.runs) or any(stage.occurrence is not None for stage in self.stages)

    @property
    def informative(self) -> bool:
        """Whether it can be learned from: it completed, and made an LLM call."""
        return self.end == "done" and any(stage.kind == "llm" and stage.calls for stage in self.stages)

    def stage_occurrence(self, stage: EndedStage) -> StageOccurrence:
        """Return the stage occurrence that a stage of a watched job is part of."""
        if stage.run is None:
            return StageOccurrence(stage.name, stage.occurrence or 1)
        run = self.runs[stage.run]
        return StageOccurrence(run.name, run.occurrence)

    def llm_calls(self) -> Iterator[EndedCall]:
        """Return the LLM calls."""
        return (call for stage in self.stages if stage.kind == "llm" for call in stage.calls)

    def with_calls(self, change: Callable[[EndedStage, EndedCall], EndedCall]) -> EndedJob:
        """Return a copy with every call changed by `change`."""
        stages = [
            replace(stage, calls=tuple([change(stage, call) for call in stage.calls]))
            for stage in self.stages
        ]
        return replace(self, stages=tuple(stages))

    @property
    def work_s(self) -> float | None:
        """Slot-seconds of its LLM calls; None if one is unknown."""
        total = 0.0
        for call in self.llm_calls():
            if call.seconds is None:
                return None
            total += call.seconds
        return total

    @property
    def critical_path_s(self) -> float | None:
        """Length of the critical path in seconds, without waits for slots; None if not recorded."""
        ends: list[float] = []
        for stage in self.stages:
            if (seconds := stage.seconds) is None:
                return None
            ends.append(max((ends[dep] for dep in stage.deps), default=0.0) + seconds)
        return max(ends, default=0.0)


def by_app(jobs: Iterable[EndedJob]) -> dict[str, list[EndedJob]]:
    """Return the jobs by the name of their application."""
    apps: dict[str, list[EndedJob]] = {}
    for job in jobs:
        apps.setdefault(job.app, []).append(job)
    return apps
