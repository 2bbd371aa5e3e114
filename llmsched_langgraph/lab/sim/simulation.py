"""Knows how jobs run through the scheduler under a virtual clock: the same machine, another driver.

Does not know where jobs come from, nor what becomes of the figures. Everything is decided by the inputs:
the same jobs, policy and profile give the same grants in the same order, here and live.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.ending import ended
from llmsched_langgraph._core.events import (
    CallReleased,
    CallRequested,
    Direct,
    Event,
    JobArrived,
    JobEnded,
    JobInfo,
    StagesChanged,
)
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import Policy
from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._jobs.ended import EndedCall, EndedJob
from llmsched_langgraph._jobs.stages import Ended, Revealed, StageEvent
from llmsched_langgraph._ledger.values import Backend
from llmsched_langgraph.lab.sim.servers import Server, SlotServer
from llmsched_langgraph.lab.sim.workloads.arrivals import TimedJob

BACKEND = "simulated"

_new = tuple.__new__
"""Makes a named tuple of a tuple: the same as calling its class, without a line of Python."""

MEMORY = 32
"""Entries of the story that are kept: none is needed, but they are trimmed many at a time."""


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """One simulated job. Times are seconds of the virtual clock.

    Attributes:
        job: what it was.
        arrival_s: when it came.
        end_s: when its last stage was over.
    """

    job: EndedJob
    arrival_s: float
    end_s: float

    @property
    def jct_s(self) -> float:
        """Job completion time: from arrival to end, waiting included."""
        return self.end_s - self.arrival_s


@dataclass(frozen=True)
class Simulated:
    """What came of a simulation.

    Attributes:
        jobs: in the order in which they arrived.
        grants: tickets in the order in which they got their slots; tickets count the calls asked for.
        closed: the jobs as the machine had them, in the order in which they ended; None if not kept.
        decisions_s: what each decision took by the stopwatch, if one was given.
    """

    jobs: tuple[FinishedJob, ...]
    grants: tuple[int, ...]
    closed: tuple[Job | Direct, ...] | None = field(default=None, compare=False)
    decisions_s: tuple[float, ...] = ()

    @cached_property
    def records(self) -> tuple[EndedJob, ...]:
        """What a live scheduler would have learned from.

        Raises:
            ValueError: the simulation did not keep its jobs.
        """
        if self.closed is None:
            raise ValueError("records: only a Simulation(..., keep=True) has them")
        return tuple(map(ended, self.closed))


@dataclass(slots=True)
class _Running:
    """One job under way: what each of its stages still waits for."""

    number: int
    timed: TimedJob
    blocked_by: list[int]
    unlocks: list[list[int]]
    calls_left: list[int]
    stages_left: int
    first_run: list[int]  # the number of each stage's first run; the others follow it
    began_s: dict[int, float] = field(default_factory=dict)
    stage_events: list[StageEvent] = field(default_factory=list)

    def runs(self, index: int) -> range:
        """The stage runs of a stage: one for each of its calls, which run side by side."""
        first = self.first_run[index]
        return range(first, first + max(1, len(self.timed.job.stages[index].calls)))


class Simulation:
    """Jobs, a policy and a server, and the virtual time.

    Args:
        jobs: with their arrivals, in any order; each call's seconds (or tokens) known.
        slots: of the one backend.
        policy: the order of service.
        profile: what earlier runs taught; it stays as it is.
        applications: the templates of applications by name; without one, a job has no stages to speak of.
        server: how long calls take; None for as long as they were recorded to.
        tools: how many tool stages run at once; the others wait, first come, first served. None: all.
        stopwatch: a clock for what decisions take; it changes nothing else.
        keep: whether to keep the jobs when they have ended, for `Simulated.records`.
    """

    def __init__(
        self,
        jobs: Sequence[TimedJob],
        *,
        slots: int,
        policy: Policy,
        profile: Profile | None = None,
        applications: Mapping[str, Application] | None = None,
        server: Server | None = None,
        tools: int | None = None,
        stopwatch: Callable[[], float] | None = None,
        keep: bool = False,
    ) -> None:
        self._jobs = sorted(jobs, key=lambda timed: timed.arrival_s)
        self._applications = dict(applications or {})
        self._machine = SchedulerMachine(
            policy, [Backend(BACKEND, slots)], profile, at_once=True, memory=MEMORY
        )
        self._read = 0  # entries of the story
        self._server = SlotServer() if server is None else server
        self._tools_free = inf if tools is None else tools
        self._tools_waiting: deque[tuple[_Running, int]] = deque()
        self._stopwatch = stopwatch
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._runs = 0
        self._tickets = itertools.count(1)
        self._calls: dict[int, tuple[_Running, int, int, EndedCall]] = {}  # by ticket: job, stage, run
        self._finished: dict[int, FinishedJob] = {}
        self._grants: list[int] = []
        self._closed: list[Job | Direct] | None = [] if keep else None
        self._decisions_s: list[float] = []

    def run(self) -> Simulated:
        """Simulate until the last job has ended.

        Raises:
            InvalidDataError: nobody recorded how long a call takes.
        """
        for number, timed in enumerate(self._jobs, 1):
            self._at(timed.arrival_s, self._arrival(number, timed))
        while True:
            planned_s, done_s = self._agenda[0][0] if self._agenda else inf, self._server.next_s()
            now = min(planned_s, done_s)
            if now == inf:
                break
            # Whoever is done at this moment makes room before whoever comes at it.
            for ticket in self._server.advance(now) if done_s <= planned_s else ():
                self._call_done(now, ticket)
            if planned_s <= done_s:
                heapq.heappop(self._agenda)[2](now)
        self._machine.check()
        return Simulated(
            tuple(self._finished[number] for number in range(1, len(self._jobs) + 1)),
            tuple(self._grants),
            None if self._closed is None else tuple(self._closed),
            tuple(self._decisions_s),
        )

    def _at(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._numbers), what))

    def _tell(self, now: float, event: Event) -> None:
        watch, machine = self._stopwatch, self._machine
        begun = watch() if watch is not None else 0.0
        machine.handle(now, event)
        if watch is not None and isinstance(event, CallRequested | CallReleased):
            self._decisions_s.append(watch() - begun)
        story = machine.story
        for number, _, kind, _, ticket, _, detail in story.after(self._read):
            self._read = number
            if kind == "SlotGranted":
                self._grants.append(ticket)
                self._server.begin(now, ticket, self._calls[ticket][3])
            elif kind == "JobClosed":
                if self._closed is not None:
                    self._closed.append(detail)
            elif kind == "PolicyFailed":
                raise detail
        story.trim(self._read)

    def _arrival(self, number: int, timed: TimedJob) -> Callable[[float], None]:
        def arrive(now: float) -> None:
            stages = timed.job.stages
            unlocks: list[list[int]] = [[] for _ in stages]
            for index, stage in enumerate(stages):
                for dep in set(stage.deps):
                    unlocks[dep].append(index)
            job = _Running(
                number,
                timed,
                [len(set(stage.deps)) for stage in stages],
                unlocks,
                [len(stage.calls) for stage in stages],
                len(stages),
                [],
            )
            for stage in stages:
                job.first_run.append(self._runs)
                self._runs += max(1, len(stage.calls))
            name = timed.job.app
            application = self._applications.get(name)
            if application is None:
                application = self._applications[name] = Application.of(name)
            self._tell(
                now, JobArrived(number, JobInfo(application=application), stage_events=job.stage_events)
            )
            self._begin(now, job, [n for n, blocked_by in enumerate(job.blocked_by) if not blocked_by])
            self._end_if_over(now, job)

        return arrive

    def _begin(self, now: float, job: _Running, ready: list[int]) -> None:
        """These stages of the job begin, side by side."""
        if not ready:
            return
        stages = job.timed.job.stages
        runs = tuple((run, stages[index].name) for index in ready for run in job.runs(index))
        tools = tuple(stages[index].tool for index in ready for _ in job.runs(index))
        self._move(now, job, Revealed(runs, begun=True, tools=tools if any(tools) else ()))
        for index in ready:
            job.began_s[index] = now
            stage = stages[index]
            if stage.kind == "tool":
                self._tools_waiting.append((job, index))
            elif not stage.calls:
                self._at(now, self._stage_end(job, index))
            for run, call in zip(job.runs(index), stage.calls, strict=False) if stage.kind == "llm" else ():
                ticket = next(self._tickets)
                self._calls[ticket] = (job, index, run, call)
                asked = (ticket, BACKEND, stage.name, job.number, False, run, ())
                self._tell(now, _new(CallRequested, asked))
        self._run_tools(now)

    def _run_tools(self, now: float) -> None:
        while self._tools_waiting and self._tools_free > 0:
            job, index = self._tools_waiting.popleft()
            self._tools_free -= 1
            seconds = job.timed.job.stages[index].seconds or 0.0
            self._at(now + seconds, self._tool_end(job, index))

    def _tool_end(self, job: _Running, index: int) -> Callable[[float], None]:
        def end(now: float) -> None:
            self._tools_free += 1
            self._move(now, job, *(_ended(now, job, index, run) for run in job.runs(index)))
            self._stage_done(now, job, index)
            self._run_tools(now)

        return end

    def _stage_end(self, job: _Running, index: int) -> Callable[[float], None]:
        def end(now: float) -> None:
            self._move(now, job, _ended(now, job, index, job.first_run[index]))
            self._stage_done(now, job, index)

        return end

    def _call_done(self, now: float, ticket: int) -> None:
        job, index, run, call = self._calls.pop(ticket)
        usage = Usage(call.prompt_tokens, call.output_tokens)
        self._tell(now, _new(CallReleased, (ticket, Outcome.FINISHED, usage, None)))
        self._move(now, job, _ended(now, job, index, run))
        job.calls_left[index] -= 1
        if not job.calls_left[index]:
            self._stage_done(now, job, index)

    def _stage_done(self, now: float, job: _Running, index: int) -> None:
        job.stages_left -= 1
        ready = []
        for after in job.unlocks[index]:
            job.blocked_by[after] -= 1
            if not job.blocked_by[after]:
                ready.append(after)
        self._begin(now, job, ready)
        self._end_if_over(now, job)

    def _move(self, now: float, job: _Running, *stage_events: StageEvent) -> None:
        job.stage_events += stage_events
        self._tell(now, _new(StagesChanged, (job.number,)))

    def _end_if_over(self, now: float, job: _Running) -> None:
        if not job.stages_left and job.number not in self._finished:
            self._finished[job.number] = FinishedJob(job.timed.job, job.timed.arrival_s, now)
            self._tell(now, JobEnded(job.number, Outcome.FINISHED))


def _ended(now: float, job: _Running, index: int, run: int) -> Ended:
    return _new(Ended, (run, now - job.began_s[index], True, False, now))
