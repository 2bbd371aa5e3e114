"""Knows what a job is that has ended: its stages with dependencies, and its calls with tokens and seconds.

Does not know files, nor where the job ran: live, in the simulator, or in the records of others.
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
    """Which numbers of a call are no records: they were computed from others, or drawn."""

    NOTHING = 0
    PROMPT = auto()
    OUTPUT = auto()
    SECONDS = auto()


@dataclass(frozen=True, slots=True)
class EndedCall:
    """One LLM request, or one execution of a tool; None stands for what was not recorded.

    Attributes:
        prompt_tokens: tokens sent; None for a tool.
        output_tokens: tokens answered; None for a tool.
        seconds: how long it took, in its slot if it is an LLM request.
        derived: the numbers above that are no records.
        concurrency: calls that its backend served, itself among them: the mean of its begin and its end.
        backend: whose slot it held.
        asked_s: when it was asked for, in seconds from the job's arrival.
        granted_s: when it got its slot, likewise.
        ended_s: when it gave the slot back, likewise.
        attempts: requests that were sent for it.
        reason: why it got its slot when it did.

    Raises:
        InvalidDataError: a number is negative or not finite, or is called derived and is not there.
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
                    raise InvalidDataError(f"a call's {name} are called derived and are not there")
            elif not 0 <= value < inf:
                raise InvalidDataError(f"a call's {name} must be 0 or more, not {value}")


class EndedStageRun(NamedTuple):
    """One execution of a node, as it was watched.

    Attributes:
        name: the node's path.
        occurrence: which time the node ran in its job, from 1; executions side by side share one.
        seconds: how long it took, waiting for slots included.
        complete: False if it failed, was cancelled or was interrupted.
        tool: the tool that it used, where the node can use several and it was announced.
    """

    name: str
    occurrence: int
    seconds: float
    complete: bool = True
    tool: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedStage:
    """One step of a job: calls that run in parallel once all stages in `deps` have ended.

    A tool's seconds are those of its one call without tokens.

    Attributes:
        name: the stage; loops repeat it. Empty for a call that was made outside of any stage.
        kind: "llm" for calls that need slots, "tool" for everything else.
        deps: indices, in the job, of the stages that must end first.
        calls: in the order in which they were asked for.
        tool: which tool, where a stage can run several.
        run: index, in the job's `runs`, of the stage run that it is a part of; None if not watched.
        occurrence: which time the stage ran, where that is known without a stage run.

    Raises:
        InvalidDataError: the kind is neither of the two.
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
        """From the first call's start to the last one's end if all start together; None if one is unknown."""
        seconds = [call.seconds for call in self.calls if call.seconds is not None]
        return max(seconds, default=0.0) if len(seconds) == len(self.calls) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """One run of an application from arrival to end, as it was recorded, simulated or generated.

    Attributes:
        id: names it; unique in its file, and in all processes where a scheduler recorded it.
        app: the application that it is a run of.
        stages: each stands behind those it depends on.
        runs: the stage runs of its nodes, in the order in which they ended; empty if they were not watched.
        jct_s: seconds from arrival to end, waiting included, `paused_s` not; None if not recorded.
        arrival_s: when it arrived, by the recorder's clock: in a file, seconds since the epoch.
        paused_s: seconds for which it was interrupted and waited for a human.
        end: how it ended. Of a job that failed or was cancelled, what it would still have done is unknown.
        tenant: whose work it was.
        priority: its priority.
        key: hash of what earlier runs are evidence for it.
        predicted: its work as it was predicted at its arrival: mean, and the ends of an interval.
        template: the application as the run knew it; not in files.

    Raises:
        InvalidDataError: a stage depends on itself or a later one, or names a stage run that is not there; or
            the arrival is negative or not finite.
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
            # Many stages may share one tuple; what is right for one is right for those behind it.
            if stage.deps is not checked:
                self._check(index, checked := stage.deps)
            if stage.run is not None and not 0 <= stage.run < len(self.runs):
                raise InvalidDataError(f"stages[{index}].r: must name one of {len(self.runs)} runs")

    @staticmethod
    def _check(index: int, deps: tuple[int, ...]) -> None:
        for dep in deps:
            if not 0 <= dep < index:
                raise InvalidDataError(
                    f"stages[{index}].dep: must name earlier stages, 0 to {index - 1}, not {dep}"
                    if index
                    else f"stages[0].dep: the first stage can depend on nothing, not on {dep}"
                )

    @property
    def fingerprint(self) -> str:
        """That of its application; empty if the run did not know it."""
        return "" if self.template is None else self.template.fingerprint

    @property
    def ended_at(self) -> float:
        """When it ended, by the recorder's clock; 0 if that is not known."""
        return 0.0 if self.arrival_s is None else self.arrival_s + (self.jct_s or 0.0) + self.paused_s

    @property
    def watched(self) -> bool:
        """Whether it is known which time its stages ran."""
        return bool(self.runs) or any(stage.occurrence is not None for stage in self.stages)

    @property
    def informative(self) -> bool:
        """Whether anything can be learned of it: it went to its end, and made a call."""
        return self.end == "done" and any(stage.kind == "llm" and stage.calls for stage in self.stages)

    def stage_occurrence(self, stage: EndedStage) -> StageOccurrence:
        """The stage occurrence that a stage of a watched job is a part of."""
        if stage.run is None:
            return StageOccurrence(stage.name, stage.occurrence or 1)
        run = self.runs[stage.run]
        return StageOccurrence(run.name, run.occurrence)

    def llm_calls(self) -> Iterator[EndedCall]:
        """The calls that need slots."""
        return (call for stage in self.stages if stage.kind == "llm" for call in stage.calls)

    def with_calls(self, change: Callable[[EndedStage, EndedCall], EndedCall]) -> EndedJob:
        """The same with every call changed."""
        stages = [
            replace(stage, calls=tuple([change(stage, call) for call in stage.calls]))
            for stage in self.stages
        ]
        return replace(self, stages=tuple(stages))

    @property
    def work_s(self) -> float | None:
        """Slot-seconds of all its LLM calls; None if those of one are not known."""
        total = 0.0
        for call in self.llm_calls():
            if call.seconds is None:
                return None
            total += call.seconds
        return total

    @property
    def critical_path_s(self) -> float | None:
        """Seconds that it takes alone, with slots for all its calls; None if those of one are not known."""
        ends: list[float] = []
        for stage in self.stages:
            if (seconds := stage.seconds) is None:
                return None
            ends.append(max((ends[dep] for dep in stage.deps), default=0.0) + seconds)
        return max(ends, default=0.0)


def by_app(jobs: Iterable[EndedJob]) -> dict[str, list[EndedJob]]:
    """The jobs of each application, by its name."""
    apps: dict[str, list[EndedJob]] = {}
    for job in jobs:
        apps.setdefault(job.app, []).append(job)
    return apps
