"""Knows how a recorded job is told to a graph: what follows what, superstep by superstep.

Does not know LangGraph's classes, nor how a call is made. A graph waits, before each superstep, for all
that runs in the one before; a recorded job, whose stages wait for their dependencies alone, need not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmsched_langgraph._jobs.ended import EndedCall, EndedJob, EndedStage


@dataclass(frozen=True, slots=True)
class Turn:
    """One stage run of a job: what one run of a node gets to see. There is one for each call of a stage."""

    script: Script
    index: int
    number: int

    @property
    def stage(self) -> EndedStage:
        """The stage of the job."""
        return self.script.job.stages[self.index]

    @property
    def call(self) -> EndedCall | None:
        """Its call; None if the stage has none at all."""
        calls = self.stage.calls
        return calls[self.number] if calls else None

    @property
    def salt(self) -> str:
        """What tells this call from every other one of all jobs and passes."""
        return f"{self.script.salt}/{self.script.job.id}/{self.index}/{self.number}"

    def next(self) -> list[Turn]:
        """The turns that it sets going in the next superstep: only the last one of a stage does."""
        if self.number + 1 < turns_of(self.stage):
            return []
        return [turn for index in self.script.followers[self.index] for turn in self.script.turns(index)]


@dataclass(frozen=True, slots=True)
class Script:
    """A job as its graph reads it.

    Attributes:
        job: what was recorded.
        salt: what tells this run of it from others.
        first: the stages of the first superstep.
        followers: for each stage those that it sets going, once its superstep is over.
        supersteps: how many there are.
    """

    job: EndedJob
    salt: str
    first: tuple[int, ...]
    followers: tuple[tuple[int, ...], ...]
    supersteps: int

    @classmethod
    def of(cls, job: EndedJob, salt: str = "") -> Script:
        """The script of a job. A stage is set going by one of those that it waited for the longest."""
        levels = levels_of(job)
        followers: list[list[int]] = [[] for _ in job.stages]
        for index, stage in enumerate(job.stages):
            if stage.deps:
                by = max(dep for dep in stage.deps if levels[dep] + 1 == levels[index])
                followers[by].append(index)
        first = tuple(index for index, level in enumerate(levels) if level == 0)
        return cls(job, salt, first, tuple(map(tuple, followers)), max(levels, default=-1) + 1)

    def turns(self, index: int) -> list[Turn]:
        """The stage runs of a stage, which run side by side."""
        return [Turn(self, index, number) for number in range(turns_of(self.job.stages[index]))]

    def begin(self) -> list[Turn]:
        """The stage runs of the first superstep."""
        return [turn for index in self.first for turn in self.turns(index)]


def turns_of(stage: EndedStage) -> int:
    """How many times the stage's node is run for it."""
    return max(1, len(stage.calls))


def levels_of(job: EndedJob) -> list[int]:
    """For each stage the superstep in which it runs, from 0."""
    levels: list[int] = []
    for stage in job.stages:
        levels.append(max((levels[dep] + 1 for dep in stage.deps), default=0))
    return levels


def in_supersteps(job: EndedJob) -> EndedJob:
    """The job as a graph runs it: every stage waits for all stages of the superstep before its own."""
    levels = levels_of(job)
    order = sorted(range(len(levels)), key=levels.__getitem__)
    place = {index: at for at, index in enumerate(order)}
    by_level: dict[int, list[int]] = {}
    for index in order:
        by_level.setdefault(levels[index], []).append(place[index])
    return replace(
        job,
        stages=tuple(
            replace(job.stages[index], deps=tuple(by_level.get(levels[index] - 1, ()))) for index in order
        ),
    )
