"""The machine: which events change something, what becomes of calls without a job, when a job is recorded."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
from support.applications import app
from support.beliefs import model_of

from llmsched_langgraph import Backend, Profile
from llmsched_langgraph._application.application import DIRECT
from llmsched_langgraph._belief.model.evidence import Begun, JobEvidence
from llmsched_langgraph._core import lifecycle as lifecycle_module
from llmsched_langgraph._core.ending import ended
from llmsched_langgraph._core.events import (
    BackendConfigured,
    BeliefFormed,
    CallDismissed,
    CallReleased,
    CallRequested,
    HolderDied,
    JobArrived,
    JobEnded,
    JobPaused,
    ProfileLearned,
    StagesChanged,
    Ticked,
)
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import NamedPolicy, as_policy
from llmsched_langgraph._core.story import LENGTH
from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed, StageOccurrence
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.values import Rekey
from llmsched_langgraph.policies import POLICIES, Exploration, JobInfo, Needs
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

BELIEF = Needs.MEAN | Needs.MEDIAN | Needs.INTERVAL | Needs.INDEX | Needs.GAIN


def llm(name, occurrence, call):
    """A stage of one call outside of any stage run."""
    return EndedStage(name=name, kind="llm", calls=(call,), occurrence=occurrence)


def arrived(job, application="app", resumes=None, stage_events=()):
    return JobArrived(job, JobInfo(application=app(application)), resumes, stage_events)


class Spied:
    """A machine of the backends `b` and `c`; each event gives what was told of it, and moved, since."""

    def __init__(self, policy="fair", profile=None, slots=1):
        self.machine = SchedulerMachine(as_policy(policy), [Backend(name, slots) for name in "bc"], profile)
        self.moved = []
        submit = self.machine.ledger.submit

        def spy(now, *changes):
            self.moved += [change for change in changes if isinstance(change, Rekey)]
            submit(now, *changes)

        self.machine.ledger.submit = spy

    def handle(self, now, *events):
        """What the story tells of them, in the order in which it was told."""
        before = self.machine.story.last
        self.moved.clear()
        for event in events:
            self.machine.handle(now, event)
            self.machine.check(now)
        return self.machine.story.after(before)

    def stage_events(self):
        """Backend, job and new order of the lanes that were given another key."""
        return [(change.lane[0], change.lane[1], change.key.order) for change in self.moved]

    def waiting(self):
        """Each ticket that waits, with its lane's order."""
        ledger = self.machine.ledger
        lanes = {ticket: claim.lane for ticket, claim in ledger.view().waiting.items()}
        return {ticket: ledger._committed[lane].order for ticket, lane in lanes.items()}

    def holding(self):
        return set(self.machine.ledger.view().holding)


@pytest.fixture
def m():
    return Spied()


def kinds(entries):
    return [entry.kind for entry in entries]


def records(entries):
    return [ended(entry.detail) for entry in entries if entry.kind in ("JobClosed", "CallClosed")]


class Broken:
    """A policy that fails for every job in the way that it is told."""

    name = "broken"

    def __init__(self, answer):
        self.answer = answer

    def order(self, job, now):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


# -- events that change nothing ---------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        arrived(1, "other"),
        CallRequested(1, "b"),
        CallRequested(2, "b", "s", 1),
        CallRequested(1, "c", "t", 1, forced=True),
        CallRequested(2, "c", "t", 1, forced=True),
        CallDismissed(1),
    ],
    ids=repr,
)
def test_what_happened_already_changes_nothing(m, event):
    """An event about a job or ticket that is where the event would bring it changes nothing at all."""
    m.handle(0, arrived(1))
    m.handle(1, CallRequested(1, "b", "s", 1), CallRequested(2, "b", "s", 1))
    before = dict(m.machine._committed)
    assert m.handle(3, event) == []
    assert m.machine._committed == before


@pytest.mark.parametrize(
    "event",
    [
        CallReleased(9),
        CallReleased(9, Outcome.FAILED, failure=Failure(429, 5.0)),
        CallDismissed(9),
        JobEnded(9, Outcome.FINISHED),
        JobPaused(9, "thread"),
        StagesChanged(9),
        BeliefFormed(9, None),
        Ticked(),
    ],
    ids=repr,
)
def test_late_events_lead_to_nothing(m, event):
    """What is heard of unknown tickets and jobs is legal and empty."""
    before = dict(m.machine._committed)
    assert m.handle(1, event) == []
    assert m.machine._committed == before


def test_release_is_final(m):
    """A ticket that was released while it waited gets no slot when one comes free."""
    m.handle(0, CallRequested(1, "b"), CallRequested(2, "b"))
    assert kinds(m.handle(1, CallReleased(2))) == ["CallWithdrawn", "JobClosed"]
    assert kinds(m.handle(2, CallReleased(1))) == ["CallReleased", "CallClosed"]
    assert m.holding() == set()
    assert m.waiting() == {}


def test_release_counts_once(m):
    """The second release of a ticket tells nothing."""
    m.handle(0, arrived(1), CallRequested(1, "b", "s", 1))
    assert kinds(m.handle(1, CallReleased(1))) == ["CallReleased"]
    assert m.handle(2, CallReleased(1)) == []


def test_slots_are_the_ledgers_business(m):
    """A change of a backend is passed on as it is."""
    (entry,) = m.handle(0, BackendConfigured(Backend("b", 7)))
    assert (entry.kind, entry.backend, entry.detail) == ("BackendConfigured", "b", Backend("b", 7))
    assert m.machine.ledger.backend("b").backend == Backend("b", 7)


def test_the_death_of_a_holder_is_its_release(m):
    """Cancelled: what it held goes to the next, and the record says that it was no success."""

    class Holder:
        pass

    inbox, holder = [], Holder()
    died = HolderDied(holder, inbox.append)
    died.ticket = 1
    m.handle(0, CallRequested(1, "b"), CallRequested(2, "b"))
    del holder
    gc.collect()
    assert inbox == [died]
    entries = m.handle(1, *inbox)
    assert kinds(entries) == ["CallReleased", "CallClosed", "SlotGranted"]
    assert entries[0].detail.outcome is Outcome.CANCELLED
    assert m.holding() == {2}


def test_a_call_that_is_dismissed_waits_no_longer(m):
    """Its waiter is to be told, for it is not the waiter who said so."""
    m.handle(0, CallRequested(1, "b"), CallRequested(2, "b"))
    m.machine.untold.clear()
    (withdrawn, _) = m.handle(1, CallDismissed(2))
    assert (withdrawn.kind, withdrawn.ticket, withdrawn.detail) == ("CallWithdrawn", 2, Outcome.CANCELLED)
    assert m.machine.untold == {2: True}
    m.handle(1, CallDismissed(1))
    assert m.holding() == {1}


# -- calls without a running job --------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize("job", [None, 99, 1], ids=["no job", "unknown job", "ended job"])
def test_a_call_without_a_running_job_is_a_job_of_its_own(m, job, waits):
    """It is requested like any other and recorded at its release, as a direct call."""
    m.handle(0, arrived(1), JobEnded(1, Outcome.FINISHED))
    if waits:
        m.handle(0, CallRequested(4, "b"))
    m.handle(1, CallRequested(5, "b", "s", job))
    assert m.machine.jobs == 0
    assert m.waiting() == ({5: 0.0} if waits else {})
    if waits:
        m.handle(2, CallReleased(4))
    granted_s = 1.0 if waits else 0.0
    (record,) = records(m.handle(4, CallReleased(5, usage=Usage(7, 9))))
    call = EndedCall(
        7,
        9,
        3 - granted_s,
        backend="b",
        asked_s=0,
        granted_s=granted_s,
        ended_s=3,
        reason="order" if waits else "free",
    )
    assert record == EndedJob(id="", app="direct", stages=(llm("s", 1, call),), jct_s=3, arrival_s=1)
    assert record.template is DIRECT


def test_direct_calls_are_jobs_apart(m):
    """Two calls without a job share nothing, not even when the policy looks at slots held."""
    m.handle(0, CallRequested(1, "b"))
    m.handle(1, CallRequested(2, "b"))
    assert m.waiting() == {2: 0.0}
    claims = m.machine.ledger.claim
    assert claims(1).lane[1] != claims(2).lane[1]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED])
def test_a_direct_call_that_failed_is_no_complete_job(m, outcome):
    """How a direct call ended is how its job ended."""
    m.handle(0, CallRequested(1, "b"))
    (record,) = records(m.handle(1, CallReleased(1, outcome)))
    assert record.end == outcome.value


# -- records ----------------------------------------------------------------------------


def test_a_job_is_recorded_after_its_last_release():
    """A job that ended with calls under way is recorded once, when the last of them is back."""
    m = Spied(slots=2)
    m.handle(0, arrived(1), CallRequested(8, "b"))
    for ticket in (1, 2, 3):
        m.handle(ticket, CallRequested(ticket, "b", "s", 1))
    m.handle(3, CallReleased(8))
    m.handle(4, Ticked())
    assert m.holding() == {1, 2}
    assert kinds(m.handle(5, JobEnded(1, Outcome.FINISHED))) == ["JobEnded"]
    assert m.machine.jobs == 0
    assert kinds(m.handle(6, CallReleased(3, Outcome.CANCELLED))) == ["CallWithdrawn"]
    assert kinds(m.handle(7, CallReleased(2))) == ["CallReleased"]
    entries = m.handle(8, CallReleased(1))
    assert kinds(entries) == ["CallReleased", "JobClosed"]
    first = EndedCall(
        None, None, 7, backend="b", concurrency=1.5, asked_s=1, granted_s=1, ended_s=8, reason="free"
    )
    second = EndedCall(
        None, None, 4, backend="b", concurrency=2.0, asked_s=2, granted_s=3, ended_s=7, reason="order"
    )
    assert records(entries) == [
        EndedJob(id="", app="app", stages=(llm("s", 1, first), llm("s", 2, second)), jct_s=8, arrival_s=0)
    ]


def test_a_record_lists_calls_as_they_were_asked_for():
    """Calls that ended in another order are recorded in the order of their requests."""
    m = Spied(slots=3)
    m.handle(0, arrived(1))
    for ticket, stage in ((1, "x"), (2, "y"), (3, "x")):
        m.handle(0, CallRequested(ticket, "b", stage, 1))
    for now, ticket in ((1, 3), (2, 2), (3, 1)):
        m.handle(now, CallReleased(ticket))
    (record,) = records(m.handle(4, JobEnded(1, Outcome.FINISHED)))
    assert [(s.name, s.occurrence, s.calls[0].seconds) for s in record.stages] == [
        ("x", 1, 3),
        ("y", 1, 2),
        ("x", 2, 1),
    ]


def test_calls_side_by_side_are_counted():
    """Those that its backend served when it began and when it ended, on average, itself among them."""
    m = Spied(slots=3)
    m.handle(0, arrived(1))
    for ticket, backend in ((1, "b"), (2, "b"), (3, "c"), (4, "b")):
        m.handle(0, CallRequested(ticket, backend, "s", 1))
    for ticket in (1, 3, 4, 2):
        m.handle(1, CallReleased(ticket))
    (record,) = records(m.handle(4, JobEnded(1, Outcome.FINISHED)))
    assert [(call.backend, call.concurrency) for call in record.llm_calls()] == [
        ("b", 2.0),  # alone at first, three at its end
        ("b", 1.5),
        ("c", 1.0),
        ("b", 2.5),
    ]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_a_finished_job_is_complete(m, outcome):
    """A job that failed or was cancelled is recorded as incomplete, and no job is recorded twice."""
    m.handle(0, arrived(1))
    (record,) = records(m.handle(2, JobEnded(1, outcome)))
    end = "done" if outcome is Outcome.FINISHED else outcome.value
    assert record == EndedJob(id="", app="app", jct_s=2, arrival_s=0, end=end)
    assert record.template is app("app")
    assert m.handle(3, JobEnded(1, outcome)) == []


def test_a_jobs_number_may_come_again_after_its_end(m):
    """A job that ended is forgotten, so its number is free; calls left behind stay with the old job."""
    m.handle(0, arrived(1), CallRequested(1, "b", "s", 1))
    m.handle(1, JobEnded(1, Outcome.FINISHED))
    m.handle(2, arrived(1, "app2"))
    (record,) = records(m.handle(3, CallReleased(1)))
    assert record.fingerprint == "app"
    assert m.machine.jobs == 1
    m.handle(4, CallRequested(2, "b", "s", 1), CallReleased(2))
    (record,) = records(m.handle(5, JobEnded(1, Outcome.FINISHED)))
    assert (record.fingerprint, len(record.stages)) == ("app2", 1)


# -- interrupts -------------------------------------------------------------------------


def test_a_resumed_job_is_the_same_job(m):
    """Under its new name: its evidence and its place in line are its own; the pause is not its time."""
    m.handle(0, arrived(1), CallRequested(1, "b", "s", 1))
    m.handle(1, CallReleased(1))
    assert kinds(m.handle(2, JobPaused(1, "thread"))) == ["JobPaused"]
    assert m.machine.jobs == 0
    assert m.handle(2, JobPaused(1, "thread"), JobEnded(1, Outcome.FINISHED)) == []
    (resumed,) = m.handle(10, arrived(2, resumes="thread"))
    assert (resumed.kind, resumed.job, m.machine.jobs) == ("JobResumed", 1, 1)
    m.handle(10, CallRequested(2, "b", "s", 2))
    m.handle(11, CallReleased(2))
    (record,) = records(m.handle(12, JobEnded(2, Outcome.FINISHED)))
    assert (record.jct_s, record.paused_s, len(list(record.llm_calls()))) == (4, 8, 2)


def test_a_thread_is_resumed_once(m):
    """What is paused on no thread, or on one that was resumed already, arrives as a new job."""
    m.handle(0, arrived(1), JobPaused(1, "thread"))
    assert kinds(m.handle(1, arrived(2, resumes="other"))) == ["JobArrived"]
    assert kinds(m.handle(1, arrived(3, "app2", resumes="thread"))) == ["JobArrived"]
    assert kinds(m.handle(1, arrived(4, resumes="thread"))) == ["JobResumed"]
    assert kinds(m.handle(1, arrived(5, resumes="thread"))) == ["JobArrived"]


def test_a_pause_on_the_same_thread_takes_the_place_of_the_one_before(m):
    """The earlier job cannot be resumed any more: it is recorded as cancelled."""
    m.handle(0, arrived(1), JobPaused(1, "thread"), arrived(2))
    entries = m.handle(5, JobPaused(2, "thread"))
    assert sorted(kinds(entries)) == ["JobClosed", "JobPaused"]
    assert [record.end for record in records(entries)] == ["cancelled"]
    assert m.handle(6, arrived(3, resumes="thread"))[0].job == 2


def test_the_oldest_of_many_paused_jobs_is_forgotten(m, monkeypatch):
    """Only of those that are paused still: one that was resumed takes up no place."""
    monkeypatch.setattr(lifecycle_module, "PAUSED_JOBS", 3)
    m.handle(0, arrived(0), JobPaused(0, "waits"))
    for job in range(1, 20):
        m.handle(job, arrived(job), JobPaused(job, f"thread {job}"))
        m.handle(job, arrived(job, resumes=f"thread {job}"), JobEnded(job, Outcome.FINISHED))
    assert kinds(m.handle(20, arrived(20), JobPaused(20, "t20"))) == ["JobArrived", "JobPaused"]
    m.handle(21, arrived(21), JobPaused(21, "t21"), arrived(22))
    closed = m.handle(22, JobPaused(22, "t22"))
    assert [(entry.kind, entry.job) for entry in closed if entry.kind == "JobClosed"] == [("JobClosed", 1)]
    assert kinds(m.handle(23, arrived(23, resumes="waits"))) == ["JobArrived"]
    assert kinds(m.handle(23, arrived(24, resumes="t20"))) == ["JobResumed"]


# -- orders -----------------------------------------------------------------------------


def test_a_jobs_waiting_calls_move_together(m):
    """What changes a job's order moves all of its waiting calls, and no others."""
    m.handle(0, arrived(1), arrived(2), CallRequested(9, "b"))
    for ticket, job in ((1, 1), (2, 1), (3, 2), (4, 1)):
        m.handle(0, CallRequested(ticket, "b", "s", job))
    m.handle(1, CallReleased(9))
    assert m.holding() == {1}
    assert m.stage_events() == [("b", 1, 1.0)] * 2
    assert m.waiting() == {2: 1.0, 3: 0.0, 4: 1.0}
    m.handle(2, CallRequested(7, "c"), CallReleased(1))
    assert m.holding() == {2, 7}
    assert m.waiting() == {3: 0.0, 4: 1.0}


def test_a_jobs_calls_move_on_every_backend(m):
    """A job has one order, and its calls may wait for slots of several backends."""
    m.handle(0, arrived(1), CallRequested(8, "b"), CallRequested(9, "c"))
    for ticket, backend in ((1, "b"), (2, "c"), (3, "b"), (4, "c")):
        m.handle(0, CallRequested(ticket, backend, "s", 1))
    m.handle(1, CallReleased(8))
    assert m.waiting() == {2: 1.0, 3: 1.0, 4: 1.0}


def test_a_call_is_requested_with_its_jobs_newest_order():
    """Whatever the policy says of the job holds for the new call and for those that wait already."""
    m = Spied("plas")
    m.handle(0, arrived(1), CallRequested(9, "c"))
    for ticket in (1, 2):
        m.handle(0, CallRequested(ticket, "b", "s", 1))
    m.handle(5, CallRequested(3, "c", "s", 1))
    assert m.waiting() == {2: 5.0, 3: 5.0}


def test_where_no_call_waits_none_is_moved():
    """A job whose calls come one after the other has nothing to move, whatever its order does."""
    m = Spied("plas")
    m.handle(0, arrived(1), CallRequested(1, "b", "s", 1))
    m.handle(4, CallReleased(1))
    assert m.moved == []
    m.handle(5, CallRequested(2, "b", "s", 1))
    assert m.moved == []


def test_an_order_that_stays_is_not_sent_again():
    """Under a policy that never changes its mind no call is ever moved."""
    m = Spied("fcfs")
    m.handle(0, arrived(1))
    moved = []
    for now, event in (
        *((0, CallRequested(ticket, "b", "s", 1)) for ticket in range(1, 6)),
        (2, ProfileLearned(Profile(), frozenset({"app"}))),
        (3, CallReleased(1)),
        (4, CallReleased(4)),
    ):
        m.handle(now, event)
        moved += m.moved
    # That of the first call that waited stays that of the others, though they are lanes of their own.
    assert m.waiting() == {3: 0.0, 5: 0.0}
    assert moved == []


def test_a_profile_moves_only_the_applications_named():
    """Jobs of other applications are not looked at again, though the profile is the machine's now."""
    asked = []

    class Spy:
        name = "spy"

        def order(self, job, now):
            asked.append((job.number, job.runs))
            return 0.0

    m = Spied(Spy())
    m.handle(0, CallRequested(9, "b"))
    for job, application in ((1, "x"), (2, "y"), (3, "x")):
        m.handle(0, arrived(job, application), CallRequested(job, "b", "s", job))
    asked.clear()
    profile = Profile().observe(EndedJob(id="", app="x", jct_s=1, template=app("x")))
    m.handle(1, ProfileLearned(profile, frozenset({"x", "z"})))
    assert [number for number, _ in asked] == [2, 4]
    assert m.machine.profile is profile


@pytest.mark.parametrize(
    "answer",
    [math.nan, "soon", None, ValueError("my bug"), ZeroDivisionError()],
    ids=lambda answer: type(answer).__name__,
)
def test_a_failing_policy_costs_the_order_never_a_slot(desk, answer):
    """A policy that raises or gives no number is reported, and its jobs go in order of arrival."""
    d = desk(Broken(answer))
    d.arrive(0, 1)
    d.call(0, 9)
    for ticket, job in ((1, 1), (2, None), (3, 1), (4, None)):
        d.call(0, ticket, job)
    assert d.serve(1) == [9, 1, 2, 3, 4]
    assert {fault.job for fault in d.faults} == {1, 3, 4}
    assert all(isinstance(fault.detail, Exception) for fault in d.faults)


def test_a_policy_that_does_not_want_to_hear_costs_nothing(desk):
    """One that fails in its `hear` is reported, and its jobs are served."""

    class Deaf(Broken):
        def hear(self, event):
            raise KeyError(event.kind)

    d = desk(Deaf(0.0))
    d.arrive(0, 1)
    for ticket, job in ((1, 1), (2, None)):
        d.call(0, ticket, job)
    d.end(1, 1)
    assert d.serve(1) == [1, 2]
    assert [(fault.job, repr(fault.detail)) for fault in d.faults] == [
        (1, "KeyError('JobArrived')"),
        (2, "KeyError('JobArrived')"),
        (1, "KeyError('JobClosed')"),
        (2, "KeyError('JobClosed')"),
    ]


def test_a_failing_exploration_costs_its_turn_never_a_slot(desk):
    """A belief may be anybody's object: the slot goes to the next in line."""

    class Lost:
        mean = index = after = 1.0
        expected = {}

        @property
        def bounds(self):
            raise KeyError("my bug")

    policy = NamedPolicy("lost", lambda job, now: 0.0, Needs.GAIN, Exploration(epsilon=1.0))
    d = desk(policy, at_once=False)
    for job in (1, 2, 3):
        d.arrive(0, job)
        d.call(0, job, job)
        d.believe(0, job, Lost())
    assert d.serve(1) == [1, 2, 3]


def test_the_report_carries_the_policys_own_error():
    """Who wrote the policy sees the error that it raised, and for NaN the policy's name."""
    error = ValueError("my bug")
    for answer, message in ((error, "my bug"), (math.nan, "policy 'broken' returned NaN as an order")):
        m = Spied(Broken(answer))
        m.handle(0, CallRequested(1, "b"))
        (fault, queued) = m.handle(0, CallRequested(2, "b"))
        assert (fault.kind, fault.job, str(fault.detail)) == ("PolicyFailed", 2, message)
        assert fault.detail is error or answer is not error
        assert (queued.kind, queued.job) == ("CallQueued", 2)
        assert m.waiting() == {2: 0.0}


def test_without_trust_the_policy_is_not_asked():
    """What such an event changes goes in order of arrival; later events ask it again."""

    class Stubborn:
        name = "stubborn"
        asked = 0

        def order(self, job, now):
            self.asked += 1
            raise SystemExit

    policy = Stubborn()
    m = Spied(policy)
    m.handle(0, arrived(1), CallRequested(1, "b", "s", 1))
    event = CallRequested(2, "b", "s", 1)
    with pytest.raises(SystemExit):
        m.machine.handle(0, event)
    assert (policy.asked, m.waiting()) == (1, {})
    m.machine.handle(0, event, trust=False)
    m.machine.check(0)
    assert (policy.asked, m.waiting()) == (1, {2: 0.0})
    with pytest.raises(SystemExit):
        m.machine.handle(0, CallReleased(1))


# -- beliefs ----------------------------------------------------------------------------


def believing(profile, policy="srtf"):
    """A machine that knows the profile; job 1 of `app` waits with its first call for the slot of another."""
    m = Spied(policy, profile)
    m.handle(0, CallRequested(9, "b"), arrived(1))
    return m, m.handle(0, CallRequested(1, "b", "s", 1))


def asked(entries):
    """The beliefs that were asked for."""
    return [entry.detail for entry in entries if entry.kind == "BeliefWanted"]


def test_a_belief_is_asked_for_once_the_call_waits(learned):
    """Until there is news there is nothing more to ask, however many calls wait."""
    profile = learned(*[("app", ("s", 1.0), ("t", 2.0))] * 6)
    m, entries = believing(profile)
    (wanted,) = asked(entries)
    assert (wanted.job, wanted.needs) == (2, Needs.MEAN)
    assert wanted.model is profile.applications["app"].model
    assert wanted.evidence.begun == (Begun(StageOccurrence("s", 1)),)
    assert wanted.belief() is wanted.model.belief(wanted.evidence)
    assert asked(m.handle(0, CallRequested(2, "b", "t", 1))) == []


def test_a_belief_moves_the_job(learned):
    """What was believed beforehand counts until it is there, and then what it says."""
    m, entries = believing(learned(*[("app", ("s", 1.0), ("t", 2.0))] * 60))
    (wanted,) = asked(entries)
    before = m.waiting()[1]
    (formed,) = m.handle(1, BeliefFormed(2, wanted.belief()))
    assert (formed.kind, formed.job) == ("BeliefFormed", 2)
    assert m.stage_events() == [("b", 2, pytest.approx(3.0, rel=0.01))]
    assert m.waiting() == {1: pytest.approx(3.0, rel=0.01)}
    assert before != m.waiting()[1]


def test_the_end_of_a_call_is_news(learned):
    """A job whose other calls wait is asked about again when one of them is over."""
    m, _ = believing(learned(*[("app", ("s", 1.0), ("t", 2.0))] * 6))
    m.handle(0, CallRequested(2, "b", "t", 1))
    assert asked(m.handle(1, CallReleased(9))) == []
    (wanted,) = asked(m.handle(3, CallReleased(1)))
    assert [
        (stage.stage_occurrence, stage.amount(wanted.model.unit)) for stage in wanted.evidence.finished
    ] == [(StageOccurrence("s", 1), 2.0)]


def test_what_was_announced_is_news(learned):
    """A fan-out is evidence as soon as it is revealed; that a stage run has begun is none."""
    stage_events = []
    m = Spied("srtf", learned(*[("app", ("s", 1.0), ("t", 2.0))] * 6))
    m.handle(0, CallRequested(9, "b"), arrived(1, stage_events=stage_events), CallRequested(1, "b", "s", 1))
    stage_events.append(Revealed(((5, "t"), (6, "t"))))
    (wanted,) = asked(m.handle(1, StagesChanged(1)))
    assert Begun(StageOccurrence("t", 1), 2) in wanted.evidence.begun
    stage_events.append(Began(5))
    assert asked(m.handle(1, StagesChanged(1))) == []
    stage_events.append(Ended(5, 1.0))
    assert len(asked(m.handle(1, StagesChanged(1)))) == 1
    assert m.handle(1, StagesChanged(1)) == []


def test_moves_are_heard_with_the_next_call(learned):
    """While none waits nothing depends on them, so they are not looked at, but none is missed."""
    stage_events = []
    m = Spied("srtf", learned(*[("app", ("s", 1.0), ("t", 2.0))] * 6))
    m.handle(0, CallRequested(9, "b"), arrived(1, stage_events=stage_events))
    stage_events.append(Revealed(((5, "t"), (6, "t"))))
    assert m.handle(1, StagesChanged(1)) == []
    entries = m.handle(2, CallRequested(1, "b", "t", 1, run=5))
    assert kinds(entries) == ["StagesChanged", "BeliefWanted", "CallQueued"]
    (wanted,) = asked(entries)
    assert wanted.evidence.begun == (Begun(StageOccurrence("t", 1), 2),)


def test_a_call_that_gave_up_takes_its_belief_with_it(learned):
    """If no call waits when it is formed, the next call that waits has it formed anew."""
    m, entries = believing(learned(*[("app", ("s", 1.0))] * 6))
    (wanted,) = asked(entries)
    m.handle(1, CallReleased(1, Outcome.CANCELLED))
    assert m.handle(1, BeliefFormed(2, wanted.belief())) == []
    assert len(asked(m.handle(2, CallRequested(2, "b", "s", 1)))) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_which_policies_ask_for_beliefs(observed, learned, policy):
    """Those that need none never ask; none asks before there is a model, and all of them after that."""
    needs = getattr(as_policy(policy), "needs", Needs.NOTHING)
    job = ("app", ("s", 1.0))
    m, entries = believing(observed(*[job] * 6), policy)
    assert asked(entries) == []
    profile = learned(*[job] * 6)
    wanted = asked(m.handle(1, ProfileLearned(profile, frozenset({"app"}))))
    if not needs & BELIEF:
        assert wanted == []
        return
    (one,) = wanted
    model = profile.applications["app"].model
    assert (one.needs, one.model) == (needs, model)
    assert one.belief().model is (model.marginals if Needs.MARGINALS in needs else model)


@pytest.mark.parametrize("case", ["unknown", "granted"])
def test_none_is_asked_for_a_job_that_does_not_wait(learned, case):
    """A job that is gone, or whose calls have their slots meanwhile, asks for nothing."""
    m, _ = believing(learned(*[("app", ("s", 1.0))] * 6))
    m.handle(0, CallReleased(9))
    if case == "unknown":
        m.handle(0, CallReleased(1), JobEnded(1, Outcome.FINISHED))
    entries = m.handle(1, ProfileLearned(m.machine.profile, frozenset({"app"})), StagesChanged(1))
    assert kinds(entries) == ["ProfileLearned"]
    for job in m.machine.known():
        assert job.outdated


def test_a_belief_of_a_job_without_calls_is_let_go(learned):
    """A job that does not wait is in no line; and of a job that is not known there is nothing to move."""
    m, entries = believing(learned(*[("app", ("s", 1.0))] * 6))
    (wanted,) = asked(entries)
    belief = wanted.belief()
    assert m.handle(1, BeliefFormed(99, belief)) == []
    m.handle(1, CallReleased(9))
    assert kinds(m.handle(1, BeliefFormed(2, belief))) == ["BeliefFormed"]
    assert m.moved == []
    (job,) = m.machine.known()
    assert job.belief is belief
    m.handle(2, CallReleased(1))
    assert m.handle(3, BeliefFormed(2, belief)) == []


# -- story and replay -------------------------------------------------------------------

STORY = (
    (0, arrived(1)),
    (0, arrived(2)),
    (1, CallRequested(1, "b", "s", 1)),
    (1, CallRequested(2, "b", "s", 1)),
    (2, CallRequested(3, "c", "t", 2, forced=True)),
    (3, BeliefFormed(1, model_of(["s"], [(7.0,)], ((),), (np.array([0.5, 0.5]),)).belief(JobEvidence()))),
    (4, ProfileLearned(Profile(), frozenset({"app"}))),
    (5, CallReleased(1, Outcome.FAILED, Usage(1, 2), Failure(429, 3.0))),
    (6, BackendConfigured(Backend("b", 4))),
    (8, Ticked()),
    (8, JobEnded(1, Outcome.FINISHED)),
    (9, CallReleased(2)),
    (9, CallReleased(3)),
    (9, JobEnded(2, Outcome.CANCELLED)),
)
TOLD = [
    *[("JobArrived", 0)] * 2,
    ("SlotGranted", 1),
    ("CallQueued", 2),
    ("SlotGranted", 3),
    ("BeliefFormed", 0),
    ("ProfileLearned", 0),
    ("CallReleased", 1),
    ("BackendPaused", 0),
    ("BackendConfigured", 0),
    ("SlotGranted", 2),
    ("JobEnded", 0),
    ("CallReleased", 2),
    ("JobClosed", 0),
    ("CallReleased", 3),
    ("JobEnded", 0),
    ("JobClosed", 0),
]


def play(m):
    """The story told by a machine to which all that happens."""
    for now, event in STORY:
        m.handle(now, event)
    return m.machine.entries()


def seen(entry):
    return entry._replace(detail=ended(entry.detail) if entry.kind == "JobClosed" else entry.detail)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_events_tell_the_same_story(policy):
    """Entry by entry, reasons and records included, whatever the policy."""
    first, second = play(Spied(policy)), play(Spied(policy))
    assert [(entry.kind, entry.ticket) for entry in first] == TOLD
    assert [seen(entry) for entry in first] == [seen(entry) for entry in second]
    assert [entry.number for entry in first] == list(range(1, len(first) + 1))


def test_story_by_ticket(m):
    """The story of some tickets has their entries only, in order; the whole story has all."""
    play(m)
    entries = m.machine.entries
    assert [entry.kind for entry in entries(3)] == ["SlotGranted", "CallReleased"]
    assert len(entries(1, 2)) == 5
    assert entries(77) == []


def test_the_story_is_bounded():
    """A scheduler that lives for long remembers the latest entries only, and no ended job."""
    m = Spied()
    for n in range(1, LENGTH):
        m.machine.handle(n, arrived(n))
        m.machine.handle(n, CallRequested(3 * n, "b", "s", n))
        m.machine.handle(n, CallRequested(3 * n + 1, "b"))
        m.machine.handle(n, CallRequested(3 * n + 2, "b"))
        for ticket in range(3 * n, 3 * n + 3):
            m.machine.handle(n, CallReleased(ticket))
        m.machine.handle(n, JobEnded(n, Outcome.FINISHED))
        m.machine.story.trim(m.machine.story.last)
    assert LENGTH <= len(m.machine.entries()) <= LENGTH + LENGTH // 8
    last = m.machine.entries()[-1]
    assert (last.kind, last.at_s) == ("JobClosed", LENGTH - 1)
    assert m.machine.ordering._templates.keys() == {DIRECT.fingerprint, "app"}
    assert (m.machine._jobs._jobs, m.machine._jobs._ids, m.machine.untold) == ({}, {}, {})
    ledger = m.machine.ledger
    assert ledger._queues.of == {}
    assert {type(key) for key in m.machine._committed} == {str}


def test_the_story_keeps_what_is_not_delivered_yet(m):
    """However much that is: only what all observers have seen may be forgotten."""
    for n in range(1, LENGTH + 100):
        m.machine.handle(n, CallRequested(n, "b"))
        m.machine.handle(n, CallReleased(n))
        m.machine.story.trim(10)
    assert m.machine.story.after(0)[0].number <= 11
    assert len(m.machine.story.after(0)) >= 3 * LENGTH
