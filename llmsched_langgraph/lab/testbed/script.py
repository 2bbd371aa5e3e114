"""Translates a recorded job into supersteps: which stage runs start which others.

Does not use LangGraph's classes or make calls. A graph finishes all stage runs of a superstep before the next
one; a stage of a recorded job waits for its dependencies only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmsched_langgraph._jobs.ended import EndedCall, EndedJob, EndedStage


@dataclass(frozen=True, slots=True)
class ScriptedRun:
    """One stage run of a job, the input of one run of a node; a stage has one for each of its calls."""

    script: Script
    index: int
    number: int

    @property
    def stage(self) -> EndedStage:
        """The stage of the job."""
        return self.script.job.stages[self.index]

    @property
    def call(self) -> EndedCall | None:
        """The call of this stage run; None if the stage has no calls."""
        calls = self.stage.calls
        return calls[self.number] if calls else None

    @property
    def salt(self) -> str:
        """A string that is unique to this call among all jobs and passes."""
        return f"{self.script.salt}/{self.script.job.id}/{self.index}/{self.number}"

    def next(self) -> list[ScriptedRun]:
        """Return the stage runs that follow in the next superstep; empty except for a stage's last run."""
        if self.number + 1 < runs_of(self.stage):
            return []
        return [run for index in self.script.followers[self.index] for run in self.script.runs(index)]


@dataclass(frozen=True, slots=True)
class Script:
    """A job in the form that its graph runs.

    Attributes:
        job: the recorded job.
        salt: a string that is unique to the pass.
        first: indices of the stages of the first superstep.
        followers: for each stage, the indices of the stages that it starts in the next superstep.
        supersteps: number of supersteps.
    """

    job: EndedJob
    salt: str
    first: tuple[int, ...]
    followers: tuple[tuple[int, ...], ...]
    supersteps: int

    @classmethod
    def of(cls, job: EndedJob, salt: str = "") -> Script:
        """Return the script of a job; a stage follows its last dependency in the preceding superstep."""
        levels = levels_of(job)
        followers: list[list[int]] = [[] for _ in job.stages]
        for index, stage in enumerate(job.stages):
            if stage.deps:
                by = max(dep for dep in stage.deps if levels[dep] + 1 == levels[index])
                followers[by].append(index)
        first = tuple(index for index, level in enumerate(levels) if level == 0)
        return cls(job, salt, first, tuple(map(tuple, followers)), max(levels, default=-1) + 1)

    def runs(self, index: int) -> list[ScriptedRun]:
        """Return the stage runs of a stage, which run in parallel."""
        return [ScriptedRun(self, index, number) for number in range(runs_of(self.job.stages[index]))]

    def begin(self) -> list[ScriptedRun]:
        """Return the stage runs of the first superstep."""
        return [run for index in self.first for run in self.runs(index)]


def runs_of(stage: EndedStage) -> int:
    """Return the number of runs of the stage's node: one per call, at least one."""
    return max(1, len(stage.calls))


def levels_of(job: EndedJob) -> list[int]:
    """Return the superstep of each stage, from 0."""
    levels: list[int] = []
    for stage in job.stages:
        levels.append(max((levels[dep] + 1 for dep in stage.deps), default=0))
    return levels


def in_supersteps(job: EndedJob) -> EndedJob:
    """Return the job with each stage depending on all stages of the preceding superstep."""
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
