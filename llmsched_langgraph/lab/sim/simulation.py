"""Runs jobs through the scheduler under a virtual clock, with the live scheduler's state machine.

Does not generate jobs or evaluate the result. A simulation is deterministic: the same jobs, policy and
profile give the same grants in the same order.
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
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph.lab.sim.servers import Server, SlotServer
from llmsched_langgraph.lab.sim.workloads.arrivals import TimedJob

BACKEND = "simulated"

_new = tuple.__new__
"""Builds a named tuple from a tuple without its Python-level `__new__`, which is slower."""

MEMORY = 32
"""Entries of the story that the machine keeps. The simulation needs none, but trims them in batches."""


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """One simulated job. Times are seconds of the virtual clock.

    Attributes:
        job: the recorded or generated job.
        arrival_s: when the job arrived.
        end_s: when its last stage ended.
    """

    job: EndedJob
    arrival_s: float
    end_s: float

    @property
    def jct_s(self) -> float:
        """Job completion time in seconds: from arrival to end, waiting included."""
        return self.end_s - self.arrival_s


@dataclass(frozen=True)
class Simulated:
    """The result of a simulation.

    Attributes:
        jobs: the jobs in order of arrival.
        grants: tickets in order of their grants; tickets number the calls in order of request, from 1.
        closed: the machine's jobs in order of their ends; None if the simulation did not keep them.
        decisions_s: seconds of each scheduling decision by the stopwatch; empty without one.
    """

    jobs: tuple[FinishedJob, ...]
    grants: tuple[int, ...]
    closed: tuple[Job | Direct, ...] | None = field(default=None, compare=False)
    decisions_s: tuple[float, ...] = ()

    @cached_property
    def records(self) -> tuple[EndedJob, ...]:
        """The ended jobs in the form that a live scheduler learns from.

        Raises:
            ValueError: the simulation did not keep its jobs.
        """
        if self.closed is None:
            raise ValueError("records: only a Simulation(..., keep=True) has them")
        return tuple(map(ended, self.closed))


@dataclass(slots=True)
class _Running:
    """One running job: what each of its stages still waits for."""

    number: int
    timed: TimedJob
    blocked_by: list[int]
    unlocks: list[list[int]]
    calls_left: list[int]
    stages_left: int
    first_run: list[int]  # the number of each stage's first run; its other runs have the next numbers
    began_s: dict[int, float] = field(default_factory=dict)
    stage_events: list[StageEvent] = field(default_factory=list)

    def runs(self, index: int) -> range:
        """Return the numbers of a stage's runs, one for each of its parallel calls, at least one."""
        first = self.first_run[index]
        return range(first, first + max(1, len(self.timed.job.stages[index].calls)))


class Simulation:
    """One simulation of jobs under a policy, on one backend.

    Args:
        jobs: the jobs with their arrivals, in any order; each call has the seconds or tokens that `server`
            needs. The jobs that follow them (`TimedJob.then`) are simulated, too.
        slots: slots of the backend.
        policy: the order of service.
        profile: the profile from earlier runs; the simulation does not learn. None for no profile.
        applications: application templates by name; a job whose application is missing gets one without
            stages.
        server: times the calls; None for their recorded seconds.
        tools: most tool stages that run at once, served first come, first served; None for no limit.
        overdue: the bound of waiting.
        tenants: the settings of the tenants; the tenant of a job stands in its record.
        stopwatch: a clock, in seconds, that times the decisions; it does not affect the result.
        keep: whether to keep the ended jobs, for `Simulated.records`.
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
        overdue: Overdue = UNBOUNDED,
        tenants: Tenants = NO_TENANTS,
        stopwatch: Callable[[], float] | None = None,
        keep: bool = False,
    ) -> None:
        self._jobs = sorted(jobs, key=lambda timed: timed.arrival_s)
        self._applications = dict(applications or {})
        self._machine = SchedulerMachine(
            policy,
            [Backend(BACKEND, slots)],
            profile,
            at_once=True,
            memory=MEMORY,
            overdue=overdue,
            tenants=tenants,
        )
        self._read = 0  # entries of the story
        self._server = SlotServer() if server is None else server
        self._tools_free = inf if tools is None else tools
        self._tools_waiting: deque[tuple[_Running, int]] = deque()
        self._stopwatch = stopwatch
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._runs = 0
        self._arrived = itertools.count(1)  # numbers the jobs by arrival, as the machine does
        self._tickets = itertools.count(1)
        self._calls: dict[int, tuple[_Running, int, int, EndedCall]] = {}  # by ticket: job, stage, run
        self._finished: dict[int, FinishedJob] = {}
        self._grants: list[int] = []
        self._closed: list[Job | Direct] | None = [] if keep else None
        self._decisions_s: list[float] = []

    def run(self) -> Simulated:
        """Simulate until the last job has ended.

        Raises:
            InvalidDataError: a call lacks the seconds or tokens that the server needs.
        """
        for timed in self._jobs:
            self._at(timed.arrival_s, self._arrival(timed))
        while True:
            planned_s, done_s = self._agenda[0][0] if self._agenda else inf, self._server.next_s()
            now = min(planned_s, done_s)
            if now == inf:
                break
            # At equal times, calls end before jobs arrive and stages begin.
            for ticket in self._server.advance(now) if done_s <= planned_s else ():
                self._call_done(now, ticket)
            if planned_s <= done_s:
                heapq.heappop(self._agenda)[2](now)
        self._machine.check()
        return Simulated(
            tuple(self._finished[number] for number in sorted(self._finished)),
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

    def _arrival(self, timed: TimedJob) -> Callable[[float], None]:
        def arrive(now: float) -> None:
            number = next(self._arrived)
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
            own = timed.job
            info = JobInfo(
                application=application,
                priority=own.priority or 0,
                tenant=own.tenant or "",
                deadline_s=timed.deadline_s,
            )
            self._tell(now, JobArrived(number, info, stage_events=job.stage_events))
            self._begin(now, job, [n for n, blocked_by in enumerate(job.blocked_by) if not blocked_by])
            self._end_if_over(now, job)

        return arrive

    def _begin(self, now: float, job: _Running, ready: list[int]) -> None:
        """Begin the ready stages of the job, in parallel."""
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
                asked = (ticket, BACKEND, stage.name, job.number, False, run, (), 0, 0, "")
                self._tell(now, _new(CallRequested, (*asked, call.prompt_tokens)))
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
        self._tell(now, _new(CallReleased, (ticket, Outcome.FINISHED, usage, None, None)))
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
            follow = None if job.timed.then is None else job.timed.then(now)
            if follow is not None:
                self._at(follow.arrival_s, self._arrival(follow))


def _ended(now: float, job: _Running, index: int, run: int) -> Ended:
    return _new(Ended, (run, now - job.began_s[index], True, False, now, ()))
