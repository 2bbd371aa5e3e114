"""Defines a recorded format, and the builder with which loaders build a job's stages.

Does not define any single format: the other modules of `loaders` do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import Derived, EndedCall, EndedJob, EndedStage


@dataclass(frozen=True, slots=True)
class Shape:
    """A recorded format, identified by its fields.

    Attributes:
        name: its name in messages.
        fields: the fields that together identify it.
        load: yields the jobs of one line.
    """

    name: str
    fields: tuple[str, ...]
    load: Callable[[Field], Iterator[EndedJob]]

    def matches(self, node: Field) -> bool:
        """Return whether a line has this format."""
        return all(field in node.value for field in self.fields)


class Stages:
    """Builds a job's stages. By default a stage depends on the stage added before it."""

    def __init__(self) -> None:
        """Start without stages."""
        self._stages: list[EndedStage] = []

    def __len__(self) -> int:
        return len(self._stages)

    def llm(self, name: str, *calls: EndedCall, after: tuple[int, ...] | None = None) -> int:
        """Add a stage of parallel LLM calls; return its index."""
        return self._add(EndedStage(name=name, kind="llm", deps=self._deps(after), calls=calls))

    def tool(
        self,
        name: str,
        seconds: float | None,
        *,
        tool: str | None = None,
        after: tuple[int, ...] | None = None,
        derived: bool = False,
    ) -> int:
        """Add a stage that runs a tool; return its index."""
        flag = Derived.SECONDS if derived else Derived.NOTHING
        call = EndedCall(None, None, seconds, derived=flag)
        return self._add(EndedStage(name=name, kind="tool", deps=self._deps(after), calls=(call,), tool=tool))

    def job(self, job_id: str, app: str, jct_s: float | None) -> EndedJob:
        """Return the job with these stages."""
        return EndedJob(id=job_id, app=app, jct_s=jct_s, stages=tuple(self._stages))

    def _deps(self, after: tuple[int, ...] | None) -> tuple[int, ...]:
        if after is not None:
            return tuple(sorted(set(after)))
        return (len(self._stages) - 1,) if self._stages else ()

    def _add(self, stage: EndedStage) -> int:
        self._stages.append(stage)
        return len(self._stages) - 1


def call(
    prompt_tokens: int | None,
    output_tokens: int | None,
    seconds: float | None = None,
    derived: Derived = Derived.NOTHING,
) -> EndedCall:
    """Return a call; only known numbers are marked derived."""
    if prompt_tokens is None:
        derived &= ~Derived.PROMPT
    if output_tokens is None:
        derived &= ~Derived.OUTPUT
    return EndedCall(prompt_tokens, output_tokens, seconds, derived=derived)
