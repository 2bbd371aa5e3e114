"""Decides the urgency of each waiting call. State changes only in `handle`.

Does not use clocks, locks, threads, loops or IO: time, profiles and beliefs are arguments. The ledger owns
tickets and slots. A decision is staged and committed by one call (`truth.py`): an interruption leaves the
previous state, and the same event can be handled again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llmsched_langgraph._application.application import DIRECT
from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.events import (
    BeliefFormed,
    CallDismissed,
    CallForced,
    CallMeasured,
    CallReleased,
    CallRequested,
    Direct,
    Event,
    HolderDied,
    JobInfo,
    ProfileLearned,
    StagesChanged,
    Ticked,
)
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._core.jobs import JOBS, Jobs
from llmsched_langgraph._core.lifecycle import Lifecycle
from llmsched_langgraph._core.machine_queries import MachineQueries
from llmsched_langgraph._core.ordering import Ordering, bare_key
from llmsched_langgraph._core.policies import Policy
from llmsched_langgraph._core.story import LENGTH, Story
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, FinishedCall, Outcome
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.memory import MemoryLedger
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph._ledger.protocol import Home
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import (
    CallInfo,
    Force,
    Grant,
    Granted,
    Lane,
    Measure,
    Refused,
    Rekey,
    Release,
    Request,
    Waiting,
)

_APPLIED = "#applied"

_DIRECT = JobInfo(application=DIRECT)

_new = tuple.__new__  # builds a named tuple in C, without Python bytecode


def _given_up(ticket: int) -> CallReleased:
    return CallReleased(ticket, Outcome.CANCELLED)


class SchedulerMachine(MachineQueries):
    """The scheduler as a value: equal events at equal times produce equal stories.

    Args:
        policy: the order of service.
        backends: the pools of slots.
        profile: what was learned from earlier runs; None for an empty profile.
        at_once: whether to form beliefs inside `handle`; otherwise the story requests them (`BeliefWanted`).
        memory: number of past entries that the story keeps.
        last: the numbers of the job and the entry after which numbering begins.
        overdue: the bound of waiting.
        tenants: the settings of the tenants.
        home: makes the ledger, in memory or elsewhere.

    Attributes:
        home: see above.
        story: the log of events and decisions, with reasons.
        active: returns the active job with this id of the driver; None if there is none.
        wake_s: clock time at which `Ticked` should be handled, because a pause ends; None for never.
        untold: index of tickets whose holder may not know yet of its grant, dismissal or refusal.
        refused: index of those that may not wait, and why.
    """

    def __init__(
        self,
        policy: Policy,
        backends: Iterable[Backend],
        profile: Profile | None = None,
        *,
        at_once: bool = False,
        memory: int = LENGTH,
        last: tuple[int, int] = (0, 0),
        overdue: Overdue = UNBOUNDED,
        tenants: Tenants = NO_TENANTS,
        home: Home = MemoryLedger,
    ) -> None:
        self.home = home
        self._at_once = at_once
        self._truth = Truth()
        self.ordering = Ordering(policy, Profile() if profile is None else profile)
        self._believing = self.ordering.believing
        self.ledger = home(backends, self.ordering.exploration, self._truth, overdue, tenants)
        self._committed = self._truth.committed
        self._committed[_APPLIED] = None
        self.story = Story(self._truth, memory, last[1])
        self.wake_s: float | None = None
        self.untold: dict[int, bool] = {}
        self._jobs = Jobs(self._truth, last[0])
        self._job, self._add, self.active = self._jobs.get, self._jobs.add, self._jobs.active
        self._life = Lifecycle(self._truth, self._jobs, self.ordering, self.story, self.ledger)
        self.refused = self._life.refused
        self._hear_stage_events, self._new_job = self._life.hear_stage_events, self._life.new
        self._handlers: dict[type[Event], Callable[[float, Any, bool], bool]] = {
            CallRequested: self._requested,
            CallReleased: self._released,
            CallMeasured: self._measured,
            CallForced: self._forced,
            StagesChanged: self._stages_changed,
            **self._life.handlers,
            BeliefFormed: self._believed,
            ProfileLearned: self._learned,
            CallDismissed: self._dismissed,
            Ticked: self._ticked,
            HolderDied: lambda now, died, trust: self._released(now, _given_up(died.ticket), trust),
        }

    def handle(self, now: float, event: Event, *, trust: bool = True) -> None:
        """Handle the event, and grant until no admissible ticket waits beside a usable free slot.

        It is idempotent: after an exception, call it again with the same event. Events for unknown jobs and
        tickets change nothing.

        Args:
            now: the clock. It never goes back, except for deferred events.
            event: the event.
            trust: whether to call the policy. If False, the changed jobs get order 0.
        """
        if self._committed[_APPLIED] is not event:
            self._truth.staged = {}
            settle = self._handlers[type(event)](now, event, trust)
            staged = self._truth.staged
            if staged:
                staged[_APPLIED] = event
                self._truth.commit()
            if not settle:
                return
        self._settle(now, trust)

    def _settle(self, now: float, trust: bool) -> None:
        """Grant until no admissible ticket waits. Keys may change between two grants."""
        while True:
            self._truth.staged = {}
            found, self.wake_s = self.ledger.settle(now)
            if not found:
                return
            for one in found:
                if type(one) is Granted:
                    ticket, grant = one
                    self._granted(now, ticket, grant, self._job(grant.lane[1]), trust)
                elif type(one) is Refused:
                    self._turned_away(now, one, trust)
            self._truth.commit()
            if not self.ledger.more:
                return

    def _stages_changed(self, now: float, event: StagesChanged, trust: bool) -> bool:
        job = self._jobs.active(event.job)
        # Without a waiting call nothing depends on them yet; the next call reads them.
        if job is not None and job.progress.waiting and self._hear_stage_events(job, now):
            self._refresh(now, job, trust)
        return False

    def _requested(self, now: float, event: CallRequested, trust: bool) -> bool:
        ticket, backend, stage, id_, forced, run, models, again, priority, tenant, tokens, due_s = event
        ledger = self.ledger
        if ledger.claim(ticket) is not None:
            return False
        job = None if id_ is None else self._jobs.active(id_)
        if not (forced or again) and self._life.refuses(now, ticket, backend, job, tenant):
            self.untold[ticket] = True
            return False
        if job is None:
            if not self.ordering.hears:
                # A call outside any run that gets a slot at once needs no `Job`.
                first = _new(StageOccurrence, (stage, 1))
                call = _new(CallInfo, (stage, first, 1, None, 1, models, tokens, None, "", ""))
                number = self._committed[JOBS] + 1
                lane, key = (backend, number, first), bare_key(priority, tenant)
                grant = ledger.admit(now, _new(Request, (ticket, lane, key, forced, call, 0, 0.0)))
                if grant is not None:
                    self._truth.staged[JOBS] = number
                    self.untold[ticket] = True
                    self.story.tell(now, "SlotGranted", number, ticket, backend, grant)
                    return forced  # it may end the time in which calls come back after a pause
            info = _DIRECT._replace(priority=priority, tenant=tenant, deadline_s=due_s)
            job = self._new_job(now, info)
            self._add(job, (Job.named, None, ()))
        else:
            self._hear_stage_events(job, now)
        earlier = job.progress.finished.get(again) if again else None
        if earlier is not None:
            occurrence, stage_occurrence, run = earlier.occurrence, earlier.stage_occurrence, earlier.run
            arrival = earlier.arrival
        else:
            occurrence, arrival = job.progress.next_occurrence(stage), 0
            known = None if run is None else job.position.stage_occurrence(run)
            stage_occurrence = StageOccurrence(stage, occurrence) if known is None else known
            run = None if known is None else run
        at = (stage, stage_occurrence, occurrence, run, job.ticks + 1)
        call = _new(CallInfo, (*at, models, tokens, None, "", ""))
        if again:
            ledger.submit(now, Measure(again, UNKNOWN_USAGE))
        fact = (Job.requested, ticket, stage, stage_occurrence, backend)
        self._add(job, fact if earlier is None else (Job.requested_again, ticket, again))
        lane, key = (backend, job.number, stage_occurrence), bare_key(job.info.priority, job.info.tenant)
        grant = ledger.admit(now, _new(Request, (ticket, lane, key, forced, call, arrival, 0.0)))
        if grant is not None:
            self._granted(now, ticket, grant, job, trust)
            return forced
        if self._believing and trust:
            self._believe(job, now)
        order = self._order(now, job, trust)
        key = self.ordering.key(job, stage_occurrence, order, self.ordering.urgent(job, now))
        self._rekey(now, job, order, but=lane)
        ledger.submit(now, _new(Request, (ticket, lane, key, False, call, arrival, job.progress.waited_s)))
        self.story.tell(now, "CallQueued", job.number, ticket, backend, call)
        pool = ledger.backend(backend)
        return pool.holding < pool.slots  # the backend is or was paused, or its rates are spent

    def _granted(self, now: float, ticket: int, grant: Grant, job: Job | None, trust: bool) -> None:
        backend, number, stage_occurrence = grant.lane
        self.untold[ticket] = True
        if job is not None:
            self._add(job, (Job.granted, now, stage_occurrence, grant.asked_s, grant.reason == "explore"))
            if job.progress.waiting:
                self._refresh(now, job, trust)
        self.story.tell(now, "SlotGranted", number, ticket, backend, grant)

    def _turned_away(self, now: float, news: Refused, trust: bool) -> None:
        ticket, crowd = news
        number = self.ledger.claim(ticket).lane[1]  # type: ignore[union-attr]  # it waits
        self._life.refuse(now, ticket, crowd, number)
        self._released(now, _given_up(ticket), trust)
        self.refused[ticket] = crowd
        self.untold[ticket] = True

    def _dismissed(self, now: float, event: CallDismissed, trust: bool) -> bool:
        if type(self.ledger.claim(event.ticket)) is not Waiting:
            return False
        settle = self._released(now, _given_up(event.ticket), trust)
        self.untold[event.ticket] = True
        return settle

    def _released(self, now: float, event: CallReleased, trust: bool) -> bool:
        ticket, outcome, usage, failure, quotas = event
        ledger = self.ledger
        claim = ledger.claim(ticket)
        self.untold.pop(ticket, None)
        self.refused.pop(ticket, None)
        if claim is None:
            return False
        (backend, number, stage_occurrence), call = claim.lane, claim.call
        before = ledger.backend(backend)
        ledger.submit(now, _new(Release, (ticket, usage, failure, quotas, outcome is Outcome.FINISHED)))
        job = self._job(number)
        if type(claim) is Grant:
            fields = (
                *(ticket, call.stage, call.occurrence, stage_occurrence, call.run, before.backend.shared),
                *(claim.asked_s, claim.granted_s, now, (claim.concurrency + before.holding) / 2),
                *(usage, outcome, call.first, 2 if job is None else job.ticks + 1, claim.reason),
                *(claim.arrival, 1, 0.0, call.models),
            )
            done = _new(FinishedCall, fields)
            if job is not None:
                self._add(job, (Job.finished, done))
            self.story.tell(now, "CallReleased", number, ticket, backend, done)
            if failure is not None:
                self._life.tell_pause(now, backend, before, claim.granted_s, failure)
            if job is None:
                self.story.tell(now, "CallClosed", number, 0, "", Direct(number, done))
        else:
            assert job is not None
            self._add(job, (Job.withdrew, ticket, stage_occurrence))
            self.story.tell(now, "CallWithdrawn", number, ticket, backend, outcome)
        if job is not None:
            if job.id is None:
                self._add(job, (Job.ended, outcome))
            if job.progress.waiting:
                self._refresh(now, job, trust)
            elif job.outcome is not None:
                self._life.close(job, now)
        return bool(before.waiting)

    def _measured(self, now: float, event: CallMeasured, trust: bool) -> bool:
        ticket, usage, id_ = event
        job = None if id_ is None else self._jobs.active(id_)
        if job is not None:
            self._add(job, (Job.measured, ticket, usage))
        self.story.tell(now, "CallMeasured", 0 if job is None else job.number, ticket, "", usage)
        needed = self.ledger.unmeasured(ticket)
        self.ledger.submit(now, Measure(ticket, usage))
        return needed

    def _ticked(self, now: float, event: Ticked, trust: bool) -> bool:
        self.ledger.expire(now)
        return True

    def _forced(self, now: float, event: CallForced, trust: bool) -> bool:
        self.ledger.submit(now, Force(event.ticket))
        return True

    def _believed(self, now: float, event: BeliefFormed, trust: bool) -> bool:
        job = self._job(event.job)
        if job is not None and job.progress.outstanding:
            self._add(job, (Job.believes, event.belief))
            self.story.tell(now, "BeliefFormed", job.number, 0, "", event.belief)
            if job.progress.waiting:
                self._rekey(now, job, self._order(now, job, trust))
        return False

    def _learned(self, now: float, event: ProfileLearned, trust: bool) -> bool:
        self.ordering.learn(event.profile, event.applications)
        for job in self._jobs.known():
            if job.active and job.fingerprint in event.applications:
                self._add(job, (Job.revised,))
                if job.progress.waiting:
                    self._refresh(now, job, trust)
        self.story.tell(now, "ProfileLearned", 0, 0, "", event.applications)
        return False

    def _refresh(self, now: float, job: Job, trust: bool) -> None:
        """Update the belief and the order of a changed job that has waiting calls."""
        if self._believing and trust:
            self._believe(job, now)
        self._rekey(now, job, self._order(now, job, trust))

    def _believe(self, job: Job, now: float) -> None:
        """Form or request a belief, if one is wanted."""
        if (wanted := self.ordering.wanted(job, now)) is None:
            return
        self._add(job, (Job.asked, now))
        if self._at_once:
            self._add(job, (Job.believes, wanted.belief()))
        else:
            self.story.tell(now, "BeliefWanted", job.number, 0, "", wanted)

    def _order(self, now: float, job: Job, trust: bool) -> float:
        # Policies are user code. A bug in one costs the order of one job, never a slot.
        if not trust:
            return 0.0
        try:
            return self.ordering.order(job, now)
        except Exception as error:
            self.story.tell(now, "PolicyFailed", job.number, 0, "", error)
            return 0.0

    def _rekey(self, now: float, job: Job, order: float, but: Lane | None = None) -> None:
        """Send the keys of the job's lanes to the ledger, if they may have changed."""
        urgent = self.ordering.urgent(job, now)
        if (order, urgent) == job.sent and self.ordering.exploration is None:
            return
        job.sent = order, urgent
        for stage_occurrence in job.progress.ready:
            key = self.ordering.key(job, stage_occurrence, order, urgent)
            for backend in job.backends:
                lane = (backend, job.number, stage_occurrence)
                if lane != but:
                    self.ledger.submit(now, _new(Rekey, (lane, key)))
