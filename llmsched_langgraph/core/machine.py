"""Knows every job and call, and decides how urgent each waiting call is.

Does not know clocks, locks, threads, loops or IO: time and profiles come in with the events, and
what is to be done goes out as commands. Who gets a slot is the ledger's to say.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.core.ending import ended
from llmsched_langgraph.core.events import (
    BeliefFormed,
    CallQueued,
    CallReleased,
    CallRequested,
    CapacityChanged,
    Command,
    Event,
    FormBelief,
    JobArrived,
    JobEnded,
    JobPaused,
    ProfileLearned,
    RecordJob,
    ReleaseSlot,
    ReportFault,
    Reprioritise,
    RequestSlot,
    ResizeBackend,
    SlotGranted,
    StagesMoved,
)
from llmsched_langgraph.core.exploration import LOOKED_AT, Exploration
from llmsched_langgraph.core.fair_clock import FairClock
from llmsched_langgraph.core.job import Job
from llmsched_langgraph.core.policies import Needs, Policy
from llmsched_langgraph.dag.application import DIRECT, Application
from llmsched_langgraph.dag.position import Spot
from llmsched_langgraph.dag.progress import Call
from llmsched_langgraph.errors import InvalidTransitionError

STORY_LENGTH = 2_000
"""Events that `story()` remembers. Bounded, because a scheduler lives as long as its process."""

PAUSED_JOBS = 10_000
"""Interrupted jobs that are remembered; the oldest are forgotten, and start anew if they are resumed."""


@dataclass(slots=True)
class _Ticket:
    job: Job
    call: Call
    backend: str

    @property
    def waiting(self) -> bool:
        return self.call.granted_s is None


@dataclass(slots=True)
class SchedulerMachine:
    """The scheduler as a value. It changes only in `handle`; the same events give the same commands.

    Attributes:
        policy: the order of service.
        profile: what earlier runs taught.
        slots: of each backend.
    """

    policy: Policy
    profile: Profile = field(default_factory=Profile)
    slots: dict[str, int] = field(default_factory=dict)
    _jobs: dict[int, Job] = field(default_factory=dict)
    _paused: dict[tuple[str, str], Job] = field(default_factory=dict)  # by application and thread
    _templates: dict[str, Application] = field(default_factory=dict)  # as runs have corrected them
    _tickets: dict[int, _Ticket] = field(default_factory=dict)
    _waiters: dict[int, Job] = field(default_factory=dict)  # jobs with calls, by arrival
    _serving: dict[str, int] = field(default_factory=dict)  # calls in a slot, by backend
    _fair_clock: FairClock = field(default_factory=FairClock)
    _arrivals: int = 0
    _story: deque[Event] = field(default_factory=lambda: deque(maxlen=STORY_LENGTH))

    def handle(self, *events: Event) -> list[Command]:
        """Take the events in order and say what is to be done.

        Raises:
            InvalidTransitionError: the event cannot happen in this state; it changed nothing.
        """
        commands: list[Command] = []
        for event in events:
            commands += self._handle(event)
            self._story.append(event)
        return commands

    def _handle(self, event: Event) -> list[Command]:
        match event:
            case CallRequested():
                return self._call_requested(event)
            case SlotGranted():
                return self._slot_granted(event)
            case CallReleased():
                return self._call_released(event)
            case CallQueued():
                return self._call_queued(event)
            case BeliefFormed():
                return self._belief_formed(event)
            case StagesMoved():
                return self._stages_moved(event)
            case JobArrived():
                return self._job_arrived(event)
            case JobPaused():
                return self._job_paused(event)
            case JobEnded():
                return self._job_ended(event)
            case CapacityChanged():
                self.slots[event.backend] = event.slots
                return [ResizeBackend(event.backend, event.slots)]
            case ProfileLearned():
                return self._profile_learned(event)

    def _job_arrived(self, event: JobArrived) -> list[Command]:
        if event.job in self._jobs:
            raise InvalidTransitionError(f"job {event.job} arrived twice")
        paused = None
        if event.resumes is not None:
            paused = self._paused.pop((event.application.fingerprint, event.resumes), None)
        if paused is None or paused.paused_since is None:
            self._jobs[event.job] = self._new_job(event.job, event.application, event.now)
            return []
        # The same job goes on: its evidence and its place in line are its own. Only its name is new.
        paused.paused_s += event.now - paused.paused_since
        paused.id, paused.paused_since = event.job, None
        self._jobs[event.job] = paused
        return []

    def _job_paused(self, event: JobPaused) -> list[Command]:
        job = self._jobs.pop(event.job, None)
        if job is not None:
            job.paused_since = event.now
            self._paused[job.application, event.thread] = job
            if len(self._paused) > PAUSED_JOBS:
                del self._paused[next(iter(self._paused))]
        return []

    def _new_job(self, name: int | None, application: Application, now: float) -> Job:
        self._arrivals += 1
        template = self._templates.get(application.fingerprint)
        if template is None:
            template = self._templates[application.fingerprint] = self.profile.template(application)
        job = Job(name, template, self._arrivals, now)
        if self.needs is Needs.TAG:
            work_s = self.profile.total_work_s(template)
            job.finish_tag_s = self._fair_clock.arrive(now, work_s, sum(self.slots.values()) or 1)
        return job

    def _stages_moved(self, event: StagesMoved) -> list[Command]:
        job = self._jobs.get(event.job)
        if job is None:
            return []
        job.move(event.moves, event.now)
        return self._refresh(job, event.now)

    def _job_ended(self, event: JobEnded) -> list[Command]:
        job = self._jobs.pop(event.job, None)
        if job is None:
            return []
        job.outcome = event.outcome
        return self._close(job, event.now)

    def _close(self, job: Job, now: float) -> list[Command]:
        """Record the job once it has ended and its last call is back."""
        if job.outcome is None or job.progress.outstanding:
            return []
        return [RecordJob(ended(job, now))]

    def _call_requested(self, event: CallRequested) -> list[Command]:
        if event.ticket in self._tickets:
            raise InvalidTransitionError(f"ticket {event.ticket} was requested twice")
        job = self._jobs.get(event.job) if event.job is not None else None
        if job is None:
            job = self._new_job(None, DIRECT, event.now)
        others = job.progress.waiting
        spot = None if event.run is None else job.position.spot(event.run)
        call = job.progress.request(event.ticket, event.stage, event.now, spot)
        call.backend = event.backend
        call.first, call.run = job.tick(), None if spot is None else event.run
        commands = self._reprioritise(job, event.now, others)
        self._tickets[event.ticket] = _Ticket(job, call, event.backend)
        self._waiters[job.arrival] = job
        if event.backend not in job.backends:
            job.backends += (event.backend,)
        commands.append(RequestSlot(event.backend, event.ticket, job.arrival, job.priority, event.forced))
        return commands

    def _slot_granted(self, event: SlotGranted) -> list[Command]:
        ticket = self._tickets.get(event.ticket)
        if ticket is None:
            return []  # it was released while the grant was under way, and release is final
        if not ticket.waiting:
            raise InvalidTransitionError(f"ticket {event.ticket} was granted twice")
        ticket.job.progress.start(event.ticket, event.now)
        serving = self._serving[ticket.backend] = self._serving.get(ticket.backend, 0) + 1
        ticket.call.side_by_side = serving
        return self._refresh(ticket.job, event.now)

    def _call_released(self, event: CallReleased) -> list[Command]:
        ticket = self._tickets.pop(event.ticket, None)
        if ticket is None:
            return []
        job = ticket.job
        if not ticket.waiting:
            serving = self._serving[ticket.backend]
            ticket.call.side_by_side = (ticket.call.side_by_side + serving) / 2
            self._serving[ticket.backend] = serving - 1
        job.finish(event.ticket, event.outcome, event.usage, event.now)
        if not job.progress.outstanding:
            self._waiters.pop(job.arrival, None)
        if job.id is None:
            job.outcome = event.outcome
        release = ReleaseSlot(ticket.backend, event.ticket)
        return [release, *self._refresh(job, event.now), *self._close(job, event.now)]

    def _profile_learned(self, event: ProfileLearned) -> list[Command]:
        self.profile = event.profile
        for fingerprint in event.applications & self._templates.keys():
            self._templates[fingerprint] = event.profile.template(self._templates[fingerprint])
        commands: list[Command] = []
        for job in self._jobs.values():
            if job.application in event.applications:
                job.outdated = True
                commands += self._refresh(job, event.now)
        return commands

    def _call_queued(self, event: CallQueued) -> list[Command]:
        ticket = self._tickets.get(event.ticket)
        return [] if ticket is None or not ticket.waiting else self._form_belief(ticket.job, event.now)

    def _form_belief(self, job: Job, now: float) -> list[Command]:
        """Ask for a belief, if the policy wants one and there is something to base it on."""
        needs = self.needs
        if needs in (Needs.NOTHING, Needs.TAG):
            return []
        known = self.profile.applications.get(job.application)
        if known is None or known.model is None or not job.ask():
            return []
        return [FormBelief(job.arrival, known.model, job.evidence(now), needs)]

    def _belief_formed(self, event: BeliefFormed) -> list[Command]:
        job = self._waiters.get(event.arrival)
        if job is None:
            return []
        job.believe(event.belief)
        waiting = job.progress.waiting
        return self._reprioritise(job, event.now, waiting) if waiting else []

    def _refresh(self, job: Job, now: float) -> list[Command]:
        """Ask the policy again, if the job has a waiting call that its answer could move."""
        waiting = job.progress.waiting
        if not waiting:
            return []
        return [*self._reprioritise(job, now, waiting), *self._form_belief(job, now)]

    def _reprioritise(self, job: Job, now: float, backlog: int) -> list[Command]:
        """Ask the policy; if its mind has changed, move the job's calls of which so many are in backlogs.

        They are one group, for they have one priority.
        """
        priority, commands = self._priority(job, now)
        if priority == job.priority:
            return commands
        job.priority = priority
        if backlog:
            commands += [Reprioritise(backend, job.arrival, priority) for backend in job.backends]
        return commands

    def _priority(self, job: Job, now: float) -> tuple[float, list[Command]]:
        # A policy may be anybody's object. Its bug must cost the order of one job, never a slot.
        try:
            priority = float(self.policy.priority(job, self.profile, now))
            if math.isnan(priority):
                raise ValueError(f"policy {self.policy.name!r} gave NaN as a priority")
        except Exception as error:
            return 0.0, [ReportFault(job.arrival, error)]
        return priority, []

    @property
    def needs(self) -> Needs:
        """What the policy wants to be worked out beforehand."""
        needs: Needs = getattr(self.policy, "needs", Needs.NOTHING)
        return needs

    def explore(
        self, backend: str, grant: int, line: Callable[[int], Iterable[int]], now: float
    ) -> int | None:
        """The ticket that should get the slot for what it teaches; None if the next in line should get it.

        Args:
            backend: whose slot it is.
            grant: which grant of the backend this is, counted from 1.
            line: arrivals of so many jobs that are next in line there.
            now: the clock.
        """
        exploration: Exploration | None = getattr(self.policy, "exploration", None)
        if exploration is None or not exploration.turn(grant):
            return None

        def waiting(job: Job, spot: Spot) -> int | None:
            """The first call of the stage that waits for this backend."""
            for number, call in job.progress.outstanding.items():
                if call.granted_s is None and call.place == spot and self._tickets[number].backend == backend:
                    return number
            return None

        chosen = exploration.choose(
            [self._waiters[arrival] for arrival in line(LOOKED_AT)],
            now,
            grantable=lambda job, spot: waiting(job, spot) is not None,
        )
        if chosen is None:
            return None
        job, spot = chosen
        job.explored[spot] = job.explored.get(spot, 0) + 1
        return waiting(job, spot)

    @property
    def jobs(self) -> int:
        """Jobs that have arrived and not ended."""
        return len(self._jobs)

    def story(self, *tickets: int) -> list[Event]:
        """The latest events, oldest first; only those about `tickets` if any are given."""
        if not tickets:
            return list(self._story)
        return [event for event in self._story if getattr(event, "ticket", None) in tickets]

    def waiting(self) -> set[int]:
        """Tickets that have asked for a slot and not got one."""
        return {number for number, ticket in self._tickets.items() if ticket.waiting}

    def holding(self) -> set[int]:
        """Tickets in a slot."""
        return {number for number, ticket in self._tickets.items() if not ticket.waiting}

    def check(self) -> None:
        """Raise AssertionError unless every invariant holds."""
        for number, ticket in self._tickets.items():
            call = ticket.job.progress.outstanding.get(number)
            assert call is ticket.call, f"ticket {number} is not among its job's calls"
        for job in {ticket.job.arrival: ticket.job for ticket in self._tickets.values()}.values():
            job.progress.check()
        assert set(self._waiters) == {ticket.job.arrival for ticket in self._tickets.values()}, "lost a job"
        for job in self._jobs.values():
            assert job.outcome is None, f"job {job.id} has ended and is still listed"
            assert job.progress.outstanding.keys() <= self._tickets.keys(), "a call has lost its ticket"
