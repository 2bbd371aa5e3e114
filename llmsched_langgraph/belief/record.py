"""Knows what there is to learn from: the record of an ended job.

Does not know how anything is learned.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from llmsched_langgraph.dag.application import DIRECT, Application
from llmsched_langgraph.dag.experience import NodeSeen

Occurrence = tuple[str, int]
"""A stage and which time it runs in its job, counted from 1."""


class Span(NamedTuple):
    """From when to when something went on in its job.

    `first` and `last` number its begin and its end among all that happened in the job: what had ended before
    another thing began may have been waited for by it, which the clock's seconds are too coarse to tell.
    """

    first: int = 0
    last: int = 0
    since_s: float = 0.0
    until_s: float = 0.0


UNKNOWN_SPAN = Span()


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call that held a slot for `work_s` seconds; tokens are None where nobody could tell.

    `occurrence` counts the calls of its stage; `spot` is the stage's node and which time it ran, if known.
    `side_by_side` is how many calls its backend served meanwhile, itself among them: the mean of when it
    began and when it ended. `run` is the number of the stage run that made it, if known, and `span` goes from
    when it was asked for to when it was over; two calls that did the same at other times are equal.
    """

    stage: str
    occurrence: int
    work_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    spot: Occurrence | None = None
    backend: str = ""
    side_by_side: float = 1.0
    run: int | None = field(default=None, compare=False)
    span: Span = field(default=UNKNOWN_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One execution of a stage that took `seconds`, waiting for slots included.

    Attributes:
        stage: the node's path.
        occurrence: which time it ran in its job; those that ran side by side share one.
        place: id of the stage of the application that it was part of; None if nothing is known of it.
        complete: False if it failed, was cancelled or was interrupted.
        tool: the tool that it used, where a stage can use several and it was announced.
        run: its number, by which calls and other stage runs name it. When and within what it ran is not
            compared.
        around: number of the stage run that it was part of, if any.
        span: from when it was announced to when it was over. It may have waited for a thread at first: its
            `seconds` are the last ones.
    """

    stage: str
    occurrence: int
    place: str | None
    seconds: float
    complete: bool
    tool: str | None = None
    run: int = field(default=0, compare=False)
    around: int | None = field(default=None, compare=False)
    span: Span = field(default=UNKNOWN_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One ended job: its calls in the order in which they were asked for, times in seconds.

    Its stages stand in the order in which they ended, where the runner could be watched.

    `application` is the fingerprint of `template`, which is what is known of its stages.
    `complete` is False for a job that failed or was cancelled: what it would still have done is
    unknown, so nothing is learned of its remaining work. `paused_s` is the part of the time between
    arrival and end in which it was interrupted and waited for a human. `id` tells it from all other jobs, and
    `ended_at` is when it ended by the wall clock, in seconds, if the recorder says so.
    """

    application: str
    calls: tuple[CallRecord, ...]
    arrival_s: float
    ended_s: float
    complete: bool
    stages: tuple[StageRecord, ...] = ()
    paused_s: float = 0.0
    template: Application = DIRECT
    id: str = ""
    ended_at: float = 0.0

    def nodes(self) -> dict[str, NodeSeen]:
        """What each node did in this job, by its path."""
        runs = Counter((stage.stage, stage.occurrence) for stage in self.stages)
        calls = Counter(call.spot[0] for call in self.calls if call.spot is not None)
        seen: dict[str, NodeSeen] = {}
        for (path, occurrence), count in runs.items():
            before = seen.get(path)
            here = NodeSeen(count, 0 if before else calls[path], count, occurrence)
            seen[path] = here if before is None else before + here
        return seen

    @property
    def work_s(self) -> float:
        """Slot-seconds of all its calls."""
        return sum(call.work_s for call in self.calls)

    @property
    def teaches(self) -> bool:
        """Whether anything can be learned of it: it went to its end, and made a call."""
        return self.complete and bool(self.calls)
