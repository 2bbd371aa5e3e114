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
from math import inf

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.events import (
    BackendConfigured,
    CallReleased,
    CallRequested,
    Direct,
    Event,
    JobArrived,
    JobEnded,
    JobInfo,
    StagesChanged,
    Ticked,
)
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import Policy
from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._jobs.ended import EndedCall
from llmsched_langgraph._jobs.stages import Ended, Revealed, StageEvent
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.backoff import Backoff, at_once
from llmsched_langgraph.lab.sim.servers import Server, SlotServer
from llmsched_langgraph.lab.sim.simulated import FinishedJob, Simulated
from llmsched_langgraph.lab.sim.workloads.arrivals import TimedJob

BACKEND = "simulated"

_new = tuple.__new__
"""Builds a named tuple from a tuple without its Python-level `__new__`, which is slower."""

MEMORY = 32
"""Entries of the story that the machine keeps. The simulation needs none, but trims them in batches."""


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


_Call = tuple[_Running, int, int, EndedCall]
"""A call: its job, its stage, the number of its stage run, what was recorded of it."""


class Simulation:
    """One simulation of jobs under a policy, on one backend.

    An attempt that the server refuses is released as a live one is: the backend pauses, a limit that is found
    may fall. The client then sends the call again, in its place, until it is served.

    Args:
        jobs: the jobs with their arrivals, in any order; each call has the seconds or tokens that `server`
            needs. The jobs that follow them (`TimedJob.then`) are simulated, too.
        slots: slots of the backend.
        backend: the settings of the backend, instead of `slots`: rates, or slots that are found. It serves
            all calls, whatever its `models`; its `retries` have no effect.
        changes: later settings, each with the time from which it holds; they have the backend's name.
        backoff: how long a client waits before it sends a refused call again.
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

    Raises:
        ConfigurationError: both `slots` and `backend` are given, or neither, or a change has another name.
    """

    def __init__(
        self,
        jobs: Sequence[TimedJob],
        *,
        slots: int | None = None,
        backend: Backend | None = None,
        changes: Sequence[tuple[float, Backend]] = (),
        backoff: Backoff = at_once,
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
        if (slots is None) is (backend is None):
            raise ConfigurationError("a simulation needs either slots or a backend")
        if backend is None:
            backend = Backend(BACKEND, slots or 0)
        self._backend, self._changes, self._backoff = backend.name, changes, backoff
        if any(later.name != backend.name for _, later in changes):
            raise ConfigurationError(f"changes: each must be of the backend {backend.name!r}")
        self._machine = SchedulerMachine(
            policy,
            [backend],
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
        self._calls: dict[int, _Call] = {}  # by ticket
        self._attempts: dict[int, int] = {}  # by ticket: how many attempts of its call were refused
        self._refused: list[int] = []
        self._limits = [(0.0, self._limit())]
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
        for at_s, backend in self._changes:
            self._at(at_s, self._configuration(backend))
        while True:
            planned_s, done_s = self._agenda[0][0] if self._agenda else inf, self._server.next_s()
            now, wake_s = min(planned_s, done_s), self._machine.wake_s
            if wake_s is not None and wake_s < now:
                self._tell(wake_s, Ticked())
                continue
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
            tuple(self._refused),
            tuple(self._limits),
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
        limit = self._limit()
        if limit != self._limits[-1][1]:
            self._limits.append((now, limit))

    def _limit(self) -> int:
        return self._machine.ledger.backend(self._backend).slots

    def _configuration(self, backend: Backend) -> Callable[[float], None]:
        return lambda now: self._tell(now, BackendConfigured(backend))

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
                self._ask(now, next(self._tickets), (job, index, run, call))
        self._run_tools(now)

    def _ask(self, now: float, ticket: int, of: _Call, again: int = 0) -> None:
        """Request a slot for an attempt of a call; `again` is the ticket of the one before."""
        job, index, run, call = of
        self._calls[ticket] = of
        stage = job.timed.job.stages[index]
        asked = (ticket, self._backend, stage.name, job.number, False, run, (), again, 0, "")
        self._tell(now, _new(CallRequested, (*asked, call.prompt_tokens, None)))

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
        failure = self._server.refusal(ticket)
        if failure is not None:
            self._ask_again(now, ticket, failure)
            return
        job, index, run, call = self._calls.pop(ticket)
        self._attempts.pop(ticket, None)
        usage = Usage(call.prompt_tokens, call.output_tokens)
        self._tell(now, _new(CallReleased, (ticket, Outcome.FINISHED, usage, None, None)))
        self._move(now, job, _ended(now, job, index, run))
        job.calls_left[index] -= 1
        if not job.calls_left[index]:
            self._stage_done(now, job, index)

    def _ask_again(self, now: float, refused: int, failure: Failure) -> None:
        """Release an attempt that the server refused, and plan the next one of its call."""
        self._refused.append(refused)
        of, attempts = self._calls.pop(refused), self._attempts.pop(refused, 0) + 1

        def ask(later: float) -> None:
            ticket = next(self._tickets)
            self._attempts[ticket] = attempts
            self._ask(later, ticket, of, refused)

        self._tell(now, CallReleased(refused, Outcome.FAILED, failure=failure))
        self._at(now + self._backoff(attempts, failure), ask)

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
