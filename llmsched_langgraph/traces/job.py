"""Knows what a job in the trace format is: stages with dependencies, calls with tokens and seconds.

Does not know files, nor where a job comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Flag, auto
from math import inf
from typing import Literal

from llmsched_langgraph.errors import InvalidDataError

Kind = Literal["llm", "tool"]


class Derived(Flag):
    """Which numbers of a call nobody recorded: they were computed from others, or drawn."""

    NOTHING = 0
    PROMPT = auto()
    OUTPUT = auto()
    SECONDS = auto()


@dataclass(frozen=True, slots=True)
class TraceCall:
    """One LLM request, or one execution of a tool; None stands for what was not recorded.

    Attributes:
        prompt_tokens: Tokens sent; None for a tool.
        output_tokens: Tokens answered; None for a tool.
        seconds: How long it took, in its slot if it is an LLM request.
        derived: The numbers above that are no records.

    Raises:
        InvalidDataError: A number is negative or not finite, or is called derived and is not there.
    """

    prompt_tokens: int | None
    output_tokens: int | None
    seconds: float | None
    derived: Derived = Derived.NOTHING

    def __post_init__(self) -> None:
        """Refuse numbers that no call can have."""
        for name, value, flag in (
            ("prompt tokens", self.prompt_tokens, Derived.PROMPT),
            ("output tokens", self.output_tokens, Derived.OUTPUT),
            ("seconds", self.seconds, Derived.SECONDS),
        ):
            if value is None:
                if self.derived & flag:
                    raise InvalidDataError(f"a call's {name} are called derived and are not there")
            elif not 0 <= value < inf:
                raise InvalidDataError(f"a call's {name} must be 0 or more, not {value}")


@dataclass(frozen=True, slots=True)
class TraceStage:
    """One stage run: calls that run in parallel once all stages in `deps` have ended.

    A tool's seconds are those of its one call without tokens.

    Attributes:
        name: The stage; loops repeat it.
        kind: "llm" for calls that need slots, "tool" for everything else.
        deps: Indices, in the job, of the stages that must end first.
        calls: In the order in which they were asked for.
        tool: Which tool, where a stage can run several.

    Raises:
        InvalidDataError: The kind is neither of the two.
    """

    name: str
    kind: Kind
    deps: tuple[int, ...]
    calls: tuple[TraceCall, ...]
    tool: str | None = None

    def __post_init__(self) -> None:
        """Refuse kinds that there are not."""
        if self.kind not in ("llm", "tool"):
            raise InvalidDataError(f"a stage's kind must be 'llm' or 'tool', not {self.kind!r}")

    @property
    def seconds(self) -> float | None:
        """From the first call's start to the last one's end if all start together; None if one is unknown."""
        seconds = [call.seconds for call in self.calls if call.seconds is not None]
        return max(seconds, default=0.0) if len(seconds) == len(self.calls) else None


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One run of an application from arrival to end, as it was recorded or generated.

    Attributes:
        id: Names it; unique in its file.
        app: The application that it is a run of.
        jct_s: Seconds from arrival to end when it was recorded, waiting included; None if nobody noted it.
        stages: In an order in which each stands behind those it depends on.
        arrival_s: When it arrived, by the wall clock, in seconds since the epoch; None if nobody noted it.

    Raises:
        InvalidDataError: A stage depends on itself, on a later one, or on one that there is not; or the
            arrival is negative or not finite.
    """

    id: str
    app: str
    jct_s: float | None
    stages: tuple[TraceStage, ...]
    arrival_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no directed acyclic graph in order, and times that cannot be."""
        if self.arrival_s is not None and not 0 <= self.arrival_s < inf:
            raise InvalidDataError(f"arrival: must be 0 or more, not {self.arrival_s}")
        for index, stage in enumerate(self.stages):
            for dep in stage.deps:
                if not 0 <= dep < index:
                    raise InvalidDataError(
                        f"stages[{index}].dep: must name earlier stages, 0 to {index - 1}, not {dep}"
                        if index
                        else f"stages[0].dep: the first stage can depend on nothing, not on {dep}"
                    )

    def llm_calls(self) -> Iterator[TraceCall]:
        """The calls that need slots."""
        return (call for stage in self.stages if stage.kind == "llm" for call in stage.calls)

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


def by_app(jobs: Iterable[TraceJob]) -> dict[str, list[TraceJob]]:
    """The jobs of each application, by its name."""
    apps: dict[str, list[TraceJob]] = {}
    for job in jobs:
        apps.setdefault(job.app, []).append(job)
    return apps
