"""Knows every job, and decides how urgent each waiting call is. Changes only in `handle`.

Does not know clocks, locks, threads, loops or IO: time, profiles and beliefs come in. Who holds a slot and
who waits is the ledger's to say. A decision is staged and committed by one call (`truth.py`): whatever breaks
it off leaves the state before, and the same event can be handled again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil, isnan
from typing import TYPE_CHECKING, Any

from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.core.events import (
    BackendConfigured,
    BeliefFormed,
    CallDismissed,
    CallReleased,
    CallRequested,
    Direct,
    Entry,
    Event,
    HolderDied,
    JobArrived,
    JobEnded,
    JobInfo,
    JobPaused,
    ProfileLearned,
    StagesMoved,
    Ticked,
)
from llmsched_langgraph.core.job import Job
from llmsched_langgraph.core.policies import Policy
from llmsched_langgraph.core.story import LENGTH, Story
from llmsched_langgraph.core.view import JobView, Needs, PolicyEvent
from llmsched_langgraph.dag.application import DIRECT, Application
from llmsched_langgraph.dag.position import Spot
from llmsched_langgraph.dag.progress import UNKNOWN_USAGE, FinishedCall, Outcome, Usage
from llmsched_langgraph.ledger.exploration import Exploration
from llmsched_langgraph.ledger.memory import MemoryLedger
from llmsched_langgraph.ledger.truth import Truth
from llmsched_langgraph.ledger.values import (
    Backend,
    CallInfo,
    Configure,
    Explore,
    Grant,
    Granted,
    Key,
    Lane,
    Rekey,
    Release,
    Request,
    Waiting,
)

if TYPE_CHECKING:
    from llmsched_langgraph.belief.belief import Belief
    from llmsched_langgraph.belief.evidence import JobEvidence
    from llmsched_langgraph.belief.model import ApplicationModel

PAUSED_JOBS = 10_000
"""Interrupted jobs that are remembered; the oldest are forgotten, and start anew if they are resumed."""

_APPLIED, _JOBS, _RUNNING = "#applied", "#jobs", "#running"

_DIRECT = JobInfo(application=DIRECT)

_new = tuple.__new__
"""Makes a named tuple of a tuple: the same as calling its class, without a line of Python."""

_BELIEF = Needs.MEAN | Needs.MEDIAN | Needs.INTERVAL | Needs.INDEX | Needs.GAIN


@dataclass(frozen=True, slots=True, eq=False)
class BeliefWanted:
    """Work out what is still to come of a job, and tell it with `BeliefFormed`.

    Attributes:
        job: its number.
        model: what is known of its application.
        evidence: what is known of the job.
        needs: what the policy will read of it.
    """

    job: int
    model: ApplicationModel
    evidence: JobEvidence
    needs: Needs

    def belief(self) -> Belief:
        """The belief. Nothing is worked out yet but what it depends on."""
        model = self.model.marginals if Needs.MARGINALS in self.needs else self.model
        return model.belief(self.evidence)


class SchedulerMachine:
    """The scheduler as a value. The same events at the same times lead to the same story.

    Args:
        policy: the order of service.
        backends: the pools of slots.
        profile: what earlier runs taught.
        at_once: whether beliefs are formed as they are wanted; else the story tells of them.
        memory: how many entries the story keeps for those who look back.

    Attributes:
        story: what happened, and the decisions with their reasons.
        wake_s: when time alone allows a grant, so that `Ticked` should be handled; None for never.
        untold: tickets whose holder may not know yet that it was granted or dismissed. An index: whether it
            was is what the ledger says.
    """

    def __init__(
        self,
        policy: Policy,
        backends: Iterable[Backend],
        profile: Profile | None = None,
        *,
        at_once: bool = False,
        memory: int = LENGTH,
    ) -> None:
        self.policy = policy
        self.profile = Profile() if profile is None else profile
        self._needs: Needs = getattr(policy, "needs", Needs.NOTHING)
        self._believing = bool(self._needs & _BELIEF)
        self._by_index, self._by_median = Needs.INDEX in self._needs, Needs.MEDIAN in self._needs
        self._by_interval = Needs.INTERVAL in self._needs
        self._hear: Callable[[PolicyEvent], None] | None = getattr(policy, "hear", None)
        self._exploration: Exploration | None = getattr(policy, "exploration", None)
        self._at_once = at_once
        self._truth = Truth()
        self.ledger = MemoryLedger(backends, self._exploration, self._truth)
        self._committed = self._truth.committed
        self._committed.update({_APPLIED: None, _JOBS: 0, _RUNNING: 0})
        self.story = Story(self._truth, memory)
        self.wake_s: float | None = None
        self.untold: dict[int, bool] = {}
        self._jobs: dict[int, Job] = {}  # by number; those that are not in the truth are no more
        self._ids: dict[int, int] = {}  # the number of each job that has an id
        self._touched: list[Job] = []
        self._paused: dict[tuple[str, str, str], None] = {}  # the oldest first
        self._templates: dict[str, Application] = {}  # as runs have corrected them
        self._totals: dict[str, tuple[int, float, tuple[float, ...]]] = {}
        self._handlers: dict[type[Event], Callable[[float, Any, bool], bool]] = {
            CallRequested: self._requested,
            CallReleased: self._released,
            StagesMoved: self._stages_moved,
            JobArrived: self._arrived,
            JobEnded: self._ended,
            JobPaused: self._paused_job,
            BeliefFormed: self._believed,
            ProfileLearned: self._learned,
            CallDismissed: self._dismissed,
            HolderDied: self._holder_died,
            BackendConfigured: self._configured,
            Ticked: self._ticked,
        }

    def handle(self, now: float, event: Event, *, trust: bool = True) -> None:
        """Take the event in; when this returns, no admissible ticket waits beside a slot that it could use.

        If it was broken off by an exception, call it again with the same event: what was done already is
        done once. Events about jobs and tickets that are not known change nothing.

        Args:
            now: the clock; it never goes back but for events that were put by.
            event: what happened.
            trust: whether to ask the policy. Without it the jobs that change go in order of arrival.
        """
        if self._committed[_APPLIED] is not event:
            self._truth.staged, self._touched = {}, []
            settle = self._handlers[type(event)](now, event, trust)
            staged = self._truth.staged
            if staged:
                staged[_APPLIED] = event
                self._commit()
            if not settle:
                return
        self._settle(now, trust)

    def _commit(self) -> None:
        truth = self._truth
        gone = truth.commit()
        for job in self._touched:
            if job.applied < 0:
                job.applied = job.facts
        if gone:
            self.ledger.committed(gone)
            for key in gone:
                if type(key) is int and key < 0:
                    closed = self._jobs.pop(-key, None)
                    if closed is not None:
                        self._forget_id(closed)
                        closed.settle()
                elif type(key) is tuple:
                    self._paused.pop(key, None)

    def _settle(self, now: float, trust: bool) -> None:
        """Grant until no admissible ticket waits. Between two grants, keys may change."""
        while True:
            self._truth.staged, self._touched = {}, []
            found, self.wake_s = self.ledger.settle(now)
            if not found:
                return
            for one in found:
                if isinstance(one, Granted):
                    self._granted(now, one.ticket, one.grant, trust)
            self._commit()

    # -- jobs --------------------------------------------------------------------------

    def _job(self, number: int) -> Job | None:
        """The job of that number, as committed; None if it is no more."""
        facts = self._committed.get(-number)
        if facts is None:
            return None
        job = self._jobs[number]
        if job.applied != facts and job not in self._touched:
            job.restore(facts)  # a decision about it was broken off
        return job

    def _active(self, id_: int | None) -> Job | None:
        """The job that goes by the id and has not ended."""
        number = None if id_ is None else self._ids.get(id_)
        job = None if number is None else self._job(number)
        if job is None or job.id != id_ or job.outcome is not None or job.paused_since is not None:
            return None
        return job

    def _forget_id(self, job: Job) -> None:
        """A job that is closed or paused needs no id. Only then: a decision may still be broken off."""
        if job.id is not None and self._ids.get(job.id) == job.number:
            del self._ids[job.id]

    def _add(self, job: Job, *fact: Any) -> None:
        if job not in self._touched:
            self._touched.append(job)
        self._truth.staged[-job.number] = job.add(fact)

    def _new_job(self, now: float, info: JobInfo) -> Job:
        number = self._next_number()
        application = info.application
        template = self._templates.get(application.fingerprint)
        if template is None:
            template = self._templates[application.fingerprint] = self.profile.template(application)
        job = self._jobs[number] = Job(number, info, template, now)
        self._touched.append(job)
        if self._hear is not None:
            self._tell_policy(now, "JobArrived", job)
        return job

    def _next_number(self) -> int:
        number: int = self._truth.get(_JOBS) + 1
        self._truth.staged[_JOBS] = number
        return number

    def _tell_policy(self, now: float, kind: str, job: Job) -> None:
        slots = sum(own.backend.slots for own in self.ledger.backends.values())
        try:
            assert self._hear is not None
            self._hear(PolicyEvent(kind, now, job.number, self._total(job)[1], slots))
        except Exception as error:
            self.story.tell(now, "PolicyFailed", job.number, 0, "", error)

    def _total(self, job: Job) -> tuple[int, float, tuple[float, ...]]:
        """Of its application: jobs that are known, their mean work before anything is known, their works."""
        fingerprint = job.fingerprint
        found = self._totals.get(fingerprint)
        if found is None:
            known = self.profile.applications.get(fingerprint)
            works_s = () if known is None else known.works_s
            runs = 0 if known is None else max(known.jobs, 1)
            found = self._totals[fingerprint] = (runs, self.profile.total_work_s(job.template), works_s)
        return found

    def _arrived(self, now: float, event: JobArrived, trust: bool) -> bool:
        if self._active(event.job) is not None:
            return False
        number = None
        if event.resumes is not None:
            at = ("paused", event.info.application.fingerprint, event.resumes)
            number = self._committed.get(at)
            if number is not None:
                self._truth.remove(at)
        job = None if number is None else self._job(number)
        if job is None:
            job = self._new_job(now, event.info)
            self._add(job, Job.named, event.job, event.moves)
            kind = "JobArrived"
        else:
            self._forget_id(job)
            self._add(job, Job.resumed, now, event.job, event.moves)
            kind = "JobResumed"
        self._ids[event.job] = job.number
        self._truth.staged[_RUNNING] = self._committed[_RUNNING] + 1
        self.story.tell(now, kind, job.number, 0, "", event.info)
        return False

    def _paused_job(self, now: float, event: JobPaused, trust: bool) -> bool:
        job = self._active(event.job)
        if job is None:
            return False
        self._hear_moves(job, now)
        self._add(job, Job.paused, now)
        at = ("paused", job.info.application.fingerprint, event.thread)
        self._forget_paused(now, at)
        self._paused.pop(at, None)
        self._paused[at] = None
        if len(self._paused) > PAUSED_JOBS:
            oldest = next(iter(self._paused))
            del self._paused[oldest]
            self._forget_paused(now, oldest)
        self._truth.staged[at] = job.number
        self._truth.staged[_RUNNING] = self._committed[_RUNNING] - 1
        self.story.tell(now, "JobPaused", job.number, 0, "", event.thread)
        return False

    def _forget_paused(self, now: float, at: tuple[str, str, str]) -> None:
        """The job that was paused there is not resumed any more."""
        number = self._truth.get(at)
        job = None if number is None else self._job(number)
        if job is not None and job.paused_since is not None:
            self._truth.remove(at)
            self._add(job, Job.ended, Outcome.CANCELLED)
            self._close(job, now)

    def _ended(self, now: float, event: JobEnded, trust: bool) -> bool:
        job = self._active(event.job)
        if job is None:
            return False
        if job.progress.outstanding or job.progress.finished:  # else its stages teach nothing
            self._hear_moves(job, now)
        self._add(job, Job.ended, event.outcome)
        self._truth.staged[_RUNNING] = self._committed[_RUNNING] - 1
        self.story.tell(now, "JobEnded", job.number, 0, "", event.outcome)
        self._close(job, now)
        return False

    def _close(self, job: Job, now: float) -> None:
        """The job is no more, once it has ended and its last call is back."""
        if job.outcome is None or job.progress.outstanding:
            return
        self._add(job, Job.closed, now)
        self._truth.remove(-job.number)
        if self._hear is not None:
            self._tell_policy(now, "JobClosed", job)
        self.story.tell(now, "JobClosed", job.number, 0, "", job)

    def _stages_moved(self, now: float, event: StagesMoved, trust: bool) -> bool:
        job = self._active(event.job)
        # Without a call that waits nothing depends on them yet; they are heard with the next one.
        if job is not None and job.progress.waiting and self._hear_moves(job, now):
            self._refresh(now, job, trust)
        return False

    def _hear_moves(self, job: Job, now: float) -> int:
        """Take in the job's new moves; how many there were."""
        upto, heard = job.news
        if heard:
            self._add(job, Job.moved, now, upto)
            self.story.tell(now, "StagesMoved", job.number, 0, "", heard)
        return heard

    # -- calls -------------------------------------------------------------------------

    def _requested(self, now: float, event: CallRequested, trust: bool) -> bool:
        ticket, backend, stage, id_, forced, run, models = event
        ledger = self.ledger
        if ledger.claim(ticket) is not None:
            return False
        job = None if id_ is None else self._active(id_)
        if job is None:
            if self._hear is None:
                # A call outside of any run that need not wait is no job to anybody.
                spot = _new(Spot, (stage, 1))
                call = _new(CallInfo, (stage, spot, 1, None, 1, models, None, None, "", ""))
                number = self._committed[_JOBS] + 1
                lane = (backend, number, spot)
                grant = ledger.admit(now, _new(Request, (ticket, lane, None, forced, call)))
                if grant is not None:
                    self._truth.staged[_JOBS] = number
                    self.untold[ticket] = True
                    self.story.tell(now, "SlotGranted", number, ticket, backend, grant)
                    return False
            job = self._new_job(now, _DIRECT)
            self._add(job, Job.named, None, ())
        else:
            self._hear_moves(job, now)
        occurrence = job.progress.next_occurrence(stage)
        known = None if run is None else job.position.spot(run)
        spot = Spot(stage, occurrence) if known is None else known
        run = None if known is None else run
        call = CallInfo(stage, spot, occurrence, run, job.ticks + 1, models)
        self._add(job, Job.requested, ticket, stage, spot, backend)
        lane = (backend, job.number, spot)
        grant = ledger.admit(now, Request(ticket, lane, None, forced, call))
        if grant is not None:
            self._granted(now, ticket, grant, trust)
            return False
        if self._believing and trust:
            self._believe(job, now)
        order = self._order(now, job, trust)
        key = self._key(job, spot, order)
        self._rekey(now, job, order, but=lane)
        ledger.submit(now, Request(ticket, lane, key, False, call))
        self.story.tell(now, "CallQueued", job.number, ticket, backend, call)
        pool = ledger.backend(backend)
        return pool.holding < pool.backend.slots  # it is paused, or a pause is just over

    def _granted(self, now: float, ticket: int, grant: Grant, trust: bool) -> None:
        backend, number, spot = grant.lane
        self.untold[ticket] = True
        job = self._jobs.get(number)
        if job is not None and (job in self._touched or self._job(number) is not None):
            self._add(job, Job.granted, now, spot, grant.reason == "explore")
            self._refresh(now, job, trust)
        self.story.tell(now, "SlotGranted", number, ticket, backend, grant)

    def _released(self, now: float, event: CallReleased, trust: bool) -> bool:
        return self._release(now, trust, *event)

    def _holder_died(self, now: float, event: HolderDied, trust: bool) -> bool:
        return self._release(now, trust, event.ticket, Outcome.CANCELLED)

    def _dismissed(self, now: float, event: CallDismissed, trust: bool) -> bool:
        if type(self.ledger.claim(event.ticket)) is not Waiting:
            return False
        settle = self._release(now, trust, event.ticket, Outcome.CANCELLED)
        self.untold[event.ticket] = True
        return settle

    def _release(
        self,
        now: float,
        trust: bool,
        ticket: int,
        outcome: Outcome,
        usage: Usage = UNKNOWN_USAGE,
        failure: Any = None,
    ) -> bool:
        ledger = self.ledger
        claim = ledger.claim(ticket)
        self.untold.pop(ticket, None)
        if claim is None:
            return False
        (backend, number, spot), call = claim.lane, claim.call
        before = ledger.backend(backend)
        ledger.submit(now, Release(ticket, usage, failure))
        job = self._job(number)
        if type(claim) is Grant:
            fields = (
                *(ticket, call.stage, call.occurrence, spot, call.run, backend),
                *(claim.asked_s, claim.granted_s, now, (claim.concurrency + before.holding) / 2),
                *(usage, outcome, call.first, 2 if job is None else job.ticks + 1, claim.reason),
            )
            done = _new(FinishedCall, fields)
            if job is not None:
                self._add(job, Job.finished, done)
            self.story.tell(now, "CallReleased", number, ticket, backend, done)
            if job is None:
                self.story.tell(now, "CallClosed", number, 0, "", Direct(number, done))
        else:
            assert job is not None
            self._add(job, Job.withdrew, ticket, spot)
            self.story.tell(now, "CallWithdrawn", number, ticket, backend, outcome)
        if job is not None:
            if job.id is None:
                self._add(job, Job.ended, outcome)
            self._refresh(now, job, trust)
            self._close(job, now)
        return bool(before.waiting)

    # -- beliefs and keys --------------------------------------------------------------

    def _believed(self, now: float, event: BeliefFormed, trust: bool) -> bool:
        job = self._job(event.job)
        if job is not None and job.progress.outstanding:
            self._add(job, Job.believes, event.belief)
            self.story.tell(now, "BeliefFormed", job.number, 0, "", event.belief)
            if job.progress.waiting:
                self._rekey(now, job, self._order(now, job, trust))
        return False

    def _learned(self, now: float, event: ProfileLearned, trust: bool) -> bool:
        profile = self.profile = event.profile
        self._totals.clear()
        for fingerprint in event.applications & self._templates.keys():
            self._templates[fingerprint] = profile.template(self._templates[fingerprint])
        for number in tuple(self._jobs):
            job = self._job(number)
            if job is None or job.id is None or not job.active:
                continue
            if job.fingerprint in event.applications:
                self._add(job, Job.revised)
                self._refresh(now, job, trust)
        self.story.tell(now, "ProfileLearned", 0, 0, "", event.applications)
        return False

    def _refresh(self, now: float, job: Job, trust: bool) -> None:
        """The job has changed: look at its evidence, and ask the policy again, if a call of it waits."""
        if job.progress.waiting:
            if self._believing and trust:
                self._believe(job, now)
            self._rekey(now, job, self._order(now, job, trust))

    def _believe(self, job: Job, now: float) -> None:
        """See to a belief, if there is a model, and evidence that the last one does not rest on."""
        known = self.profile.applications.get(job.fingerprint)
        if known is None or known.model is None:
            return
        _ = job.position  # moves that were not looked at may be news
        if not job.outdated:
            return
        wanted = BeliefWanted(job.number, known.model, job.evidence(now), self._needs)
        self._add(job, Job.asked, now)
        if self._at_once:
            self._add(job, Job.believes, wanted.belief())
        else:
            self.story.tell(now, "BeliefWanted", job.number, 0, "", wanted)

    def view(self, job: Job, now: float) -> JobView:
        """The job as its policy sees it."""
        progress, belief = job.progress, job.belief
        work_s = progress.done_s + (progress.holding * now - progress.granted_sum_s)
        total = self._totals.get(job.fingerprint)
        runs, total_s, works_s = self._total(job) if total is None else total
        median_s = interval_s = None
        if self._believing:
            remaining_s = index_s = job.remaining_s(now, total_s)
            if belief is not None:
                if self._by_index and belief.mean > 0.0:
                    # What was received since the belief was formed counts at once.
                    index_s = remaining_s * (belief.index / belief.mean)
                since_s = max(work_s - job.believed_at_s, 0.0)
                if self._by_median:
                    median_s = max(belief.median - since_s, 0.0)
                if self._by_interval:
                    lo, hi = belief.bounds
                    less_s = min(since_s, lo)
                    interval_s = (lo - less_s, hi - less_s)
        else:
            remaining_s = index_s = max(total_s - work_s, 0.0)
        fields = (
            *(job.number, job.info, job.arrival_s, work_s, progress.holding, progress.waiting),
            *(runs, total_s, works_s, remaining_s, median_s, interval_s, index_s, belief is not None),
        )
        return _new(JobView, fields)

    def _order(self, now: float, job: Job, trust: bool) -> float:
        # A policy may be anybody's object. Its bug costs the order of one job, never a slot.
        if not trust:
            return 0.0
        try:
            order = float(self.policy.order(self.view(job, now), now))
            if isnan(order):
                raise ValueError(f"policy {self.policy.name!r} gave NaN as an order")
        except Exception as error:
            self.story.tell(now, "PolicyFailed", job.number, 0, "", error)
            return 0.0
        return order

    def _key(self, job: Job, spot: Spot, order: float) -> Key:
        return Key(job.info.priority, order, self._explore(job, spot))

    def _explore(self, job: Job, spot: Spot) -> Explore | None:
        """What exploring the stage occurrence needs; None if it is never explored."""
        belief, exploration, progress = job.belief, self._exploration, job.progress
        if exploration is None or belief is None:
            return None
        work = progress.works.get(spot)
        calls = 0 if work is None else work.calls
        return Explore(
            belief,
            job.believed_at_s,
            progress.done_s,
            progress.holding,
            progress.granted_sum_s,
            ceil(exploration.sample * calls) - job.explored.get(spot, 0),
        )

    def _rekey(self, now: float, job: Job, order: float, but: Lane | None = None) -> None:
        """Tell the ledger the keys of the job's lanes, if they may be other ones than before."""
        if order == job.sent and self._exploration is None:
            return
        job.sent = order
        for spot in job.progress.ready:
            key = self._key(job, spot, order)
            for backend in job.backends:
                lane = (backend, job.number, spot)
                if lane != but:
                    self.ledger.submit(now, Rekey(lane, key))

    # -- backends and time -------------------------------------------------------------

    def _configured(self, now: float, event: BackendConfigured, trust: bool) -> bool:
        self.ledger.submit(now, Configure(event.backend))
        self.story.tell(now, "BackendConfigured", 0, 0, event.backend.name, event.backend)
        return True

    def _ticked(self, now: float, event: Ticked, trust: bool) -> bool:
        return True

    # -- what can be seen --------------------------------------------------------------

    @property
    def jobs(self) -> int:
        """Jobs that have arrived and not ended."""
        running: int = self._committed[_RUNNING]
        return running

    def entries(self, *tickets: int) -> list[Entry]:
        """The story, oldest first; only what is about `tickets` if any are given."""
        entries = self.story.after(0)
        return [entry for entry in entries if entry.ticket in tickets] if tickets else entries

    def known(self) -> Iterator[Job]:
        """The jobs that are not closed."""
        return (job for number in tuple(self._jobs) if (job := self._job(number)) is not None)

    def check(self, now: float = float("inf")) -> None:
        """Raise AssertionError unless every invariant of machine and ledger holds at `now`."""
        self.ledger.check(now)
        view = self.ledger.view()
        waiting: dict[int, int] = {}
        holding: dict[int, int] = {}
        for claim in view.waiting.values():
            waiting[claim.lane[1]] = waiting.get(claim.lane[1], 0) + 1
        for grant in view.holding.values():
            holding[grant.lane[1]] = holding.get(grant.lane[1], 0) + 1
        known = {job.number: job for job in self.known()}
        assert waiting.keys() <= known.keys(), "a waiting ticket has lost its job"
        active = 0
        for number, job in known.items():
            job.check()
            assert job.progress.waiting == waiting.get(number, 0), "a job's waiting calls"
            assert job.progress.holding == holding.get(number, 0), "a job's calls in slots"
            assert job.outcome is None or job.progress.outstanding, "an ended job stays"
            active += job.id is not None and job.active
        assert active == self.jobs, "jobs that run"
