"""The machine: which events are legal, what becomes of calls without a job, when a job is recorded."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from llmsched_langgraph.core.exploration import Exploration
from support.applications import app
from support.beliefs import model_of

from llmsched_langgraph.belief.evidence import Begun, JobEvidence
from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.core.events import (
    BeliefFormed,
    CallQueued,
    CallReleased,
    CallRequested,
    CapacityChanged,
    FormBelief,
    JobArrived,
    JobEnded,
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
from llmsched_langgraph.core.machine import STORY_LENGTH, SchedulerMachine
from llmsched_langgraph.core.policies import POLICIES, NamedPolicy, Needs
from llmsched_langgraph.dag.application import DIRECT
from llmsched_langgraph.dag.position import Began, Ended, Revealed, Spot
from llmsched_langgraph.dag.progress import Outcome, Usage
from llmsched_langgraph.errors import InvalidTransitionError
from llmsched_langgraph.jobs.ended import EndedCall, EndedJob, EndedStage


def llm(name, occurrence, call):
    """A stage of one call outside of any stage run."""
    return EndedStage(name=name, kind="llm", calls=(call,), occurrence=occurrence)


def machine(policy="fair"):
    return SchedulerMachine(POLICIES[policy])


class Broken:
    """A policy that fails for every job in the way that it is told."""

    name = "broken"

    def __init__(self, answer):
        self.answer = answer

    def priority(self, job, profile, now):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


# -- illegal and ignored events ---------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (JobArrived(3, 1, app("other")), "job 1 arrived twice"),
        (CallRequested(3, 1, "b"), "ticket 1 was requested twice"),
        (CallRequested(3, 2, "b", "s", 1), "ticket 2 was requested twice"),
        (SlotGranted(3, 1), "ticket 1 was granted twice"),
    ],
)
def test_illegal_events_raise_and_change_nothing(event, message):
    """An event that cannot happen is refused, and the machine is as it was before."""
    m = machine()
    m.handle(
        JobArrived(0, 1, app("app")),
        CallRequested(1, 1, "b", "s", 1),
        CallRequested(1, 2, "b", "s", 1),
        SlotGranted(2, 1),
    )
    before = copy.deepcopy(m)
    with pytest.raises(InvalidTransitionError, match=message):
        m.handle(event)
    assert m == before
    m.check()


@pytest.mark.parametrize(
    "event", [SlotGranted(1, 9), CallReleased(1, 9), JobEnded(1, 9, Outcome.FINISHED)], ids=repr
)
def test_late_events_lead_to_nothing(event):
    """A grant or release of an unknown ticket and the end of an unknown job are legal and empty."""
    assert machine().handle(event) == []


def test_release_is_final():
    """A grant that was under way when its ticket was released does not bring it back."""
    m = machine()
    m.handle(CallRequested(0, 1, "b"), CallReleased(1, 1))
    assert m.handle(SlotGranted(2, 1)) == []
    assert m.holding() == m.waiting() == set()


def test_release_gives_its_commands_once():
    """The second release of a ticket asks for nothing."""
    m = machine()
    m.handle(JobArrived(0, 1, app("app")), CallRequested(0, 1, "b", "s", 1), SlotGranted(0, 1))
    assert m.handle(CallReleased(1, 1)) == [ReleaseSlot("b", 1)]
    assert m.handle(CallReleased(2, 1)) == []


def test_capacity_is_the_ledgers_business():
    """A change of capacity is passed on as it is."""
    assert machine().handle(CapacityChanged(0, "b", 7)) == [ResizeBackend("b", 7)]


# -- calls without a running job --------------------------------------------------------


@pytest.mark.parametrize("job", [None, 99, 1], ids=["no job", "unknown job", "ended job"])
def test_a_call_without_a_running_job_is_a_job_of_its_own(job):
    """It is requested like any other and recorded at its release, as a direct call."""
    m = machine()
    m.handle(JobArrived(0, 1, app("app")), JobEnded(0, 1, Outcome.FINISHED))
    assert m.handle(CallRequested(1, 5, "b", "s", job)) == [RequestSlot("b", 5, 2, 0.0, forced=False)]
    assert m.jobs == 0
    m.handle(SlotGranted(2, 5))
    assert m.handle(CallReleased(4, 5, usage=Usage(7, 9))) == [
        ReleaseSlot("b", 5),
        RecordJob(
            EndedJob(
                id="",
                app="direct",
                stages=(llm("s", 1, EndedCall(7, 9, 2, backend="b", asked_s=0, granted_s=1, ended_s=3)),),
                jct_s=3,
                arrival_s=1,
            )
        ),
    ]


def test_direct_calls_are_jobs_apart():
    """Two calls without a job share nothing, not even when the policy looks at slots held."""
    m = machine()
    m.handle(CallRequested(0, 1, "b"), SlotGranted(0, 1))
    assert m.handle(CallRequested(1, 2, "b")) == [RequestSlot("b", 2, 2, 0.0, forced=False)]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED])
def test_a_direct_call_that_failed_is_no_complete_job(outcome):
    """How a direct call ended is how its job ended."""
    m = machine()
    m.handle(CallRequested(0, 1, "b"), SlotGranted(0, 1))
    (record,) = [c.record for c in m.handle(CallReleased(1, 1, outcome)) if isinstance(c, RecordJob)]
    assert record.end == outcome.value


# -- records ----------------------------------------------------------------------------


def test_a_job_is_recorded_after_its_last_release():
    """A job that ended with calls under way is recorded once, when the last of them is back."""
    m = machine()
    m.handle(JobArrived(0, 1, app("app")))
    for ticket in (1, 2, 3):
        m.handle(CallRequested(ticket, ticket, "b", "s", 1))
    m.handle(SlotGranted(3, 1), SlotGranted(4, 2))
    assert m.handle(JobEnded(5, 1, Outcome.FINISHED)) == []
    assert m.jobs == 0
    assert ReleaseSlot("b", 2) in m.handle(CallReleased(6, 2))
    assert m.handle(CallReleased(7, 3, Outcome.CANCELLED)) == [ReleaseSlot("b", 3)]
    assert m.handle(CallReleased(8, 1)) == [
        ReleaseSlot("b", 1),
        RecordJob(
            EndedJob(
                id="",
                app="app",
                stages=(
                    llm("s", 1, EndedCall(None, None, 5, backend="b", asked_s=1, granted_s=3, ended_s=8)),
                    llm(
                        "s",
                        2,
                        EndedCall(
                            None,
                            None,
                            2,
                            backend="b",
                            concurrency=2.0,
                            asked_s=2,
                            granted_s=4,
                            ended_s=6,
                        ),
                    ),
                ),
                jct_s=8,
                arrival_s=0,
            )
        ),
    ]
    m.check()


def test_a_record_lists_calls_as_they_were_asked_for():
    """Calls that ended in another order are recorded in the order of their requests."""
    m = machine()
    m.handle(JobArrived(0, 1, app("app")))
    for ticket, stage in ((1, "x"), (2, "y"), (3, "x")):
        m.handle(CallRequested(0, ticket, "b", stage, 1), SlotGranted(0, ticket))
    m.handle(CallReleased(1, 3), CallReleased(2, 2), CallReleased(3, 1))
    (command,) = m.handle(JobEnded(4, 1, Outcome.FINISHED))
    assert [(s.name, s.occurrence, s.calls[0].seconds) for s in command.record.stages] == [
        ("x", 1, 3),
        ("y", 1, 2),
        ("x", 2, 1),
    ]


def test_calls_side_by_side_are_counted():
    """Those that its backend served when it began and when it ended, on average, itself among them."""
    m = machine()
    m.handle(JobArrived(0, 1, app("app")))
    for ticket, backend in ((1, "b"), (2, "b"), (3, "c"), (4, "b")):
        m.handle(CallRequested(0, ticket, backend, "s", 1), SlotGranted(0, ticket))
    for ticket in (1, 3, 4, 2):
        m.handle(CallReleased(1, ticket))
    (command,) = m.handle(JobEnded(4, 1, Outcome.FINISHED))
    assert [(call.backend, call.concurrency) for call in command.record.llm_calls()] == [
        ("b", 2.0),  # alone at first, three at its end
        ("b", 1.5),
        ("c", 1.0),
        ("b", 2.5),
    ]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_a_finished_job_is_complete(outcome):
    """A job that failed or was cancelled is recorded as incomplete, and no job is recorded twice."""
    m = machine()
    m.handle(JobArrived(0, 1, app("app")))
    (command,) = m.handle(JobEnded(2, 1, outcome))
    end = "done" if outcome is Outcome.FINISHED else outcome.value
    assert command == RecordJob(EndedJob(id="", app="app", jct_s=2, arrival_s=0, end=end))
    assert command.record.template is app("app")
    assert m.handle(JobEnded(3, 1, outcome)) == []


def test_a_jobs_number_may_come_again_after_its_end():
    """A job that ended is forgotten, so its number is free; calls left behind stay with the old job."""
    m = machine()
    m.handle(JobArrived(0, 1, app("app")), CallRequested(0, 1, "b", "s", 1), JobEnded(1, 1, Outcome.FINISHED))
    m.handle(JobArrived(2, 1, app("app2")))
    (_, recorded) = m.handle(CallReleased(3, 1))
    assert recorded.record.fingerprint == "app"
    assert m.jobs == 1


# -- priorities -------------------------------------------------------------------------


def test_a_jobs_waiting_calls_move_together():
    """What changes a job's priority moves all of its waiting calls, which are one group, and no others."""
    m = machine("fair")
    m.handle(JobArrived(0, 1, app("app")), JobArrived(0, 2, app("app")))
    for ticket, job in ((1, 1), (2, 1), (3, 2), (4, 1)):
        m.handle(CallRequested(0, ticket, "b", "s", job))
    assert m.handle(SlotGranted(1, 1)) == [Reprioritise("b", 1, 1.0)]
    assert m.handle(CallReleased(2, 1)) == [ReleaseSlot("b", 1), Reprioritise("b", 1, 0.0)]


def test_a_jobs_calls_move_on_every_backend():
    """A job has one priority, and its calls may wait for slots of several backends."""
    m = machine("fair")
    m.handle(JobArrived(0, 1, app("app")))
    for ticket, backend in ((1, "b"), (2, "c"), (3, "b"), (4, "c")):
        m.handle(CallRequested(0, ticket, backend, "s", 1))
    assert m.handle(SlotGranted(1, 1)) == [Reprioritise("b", 1, 1.0), Reprioritise("c", 1, 1.0)]


def test_a_call_is_requested_with_its_jobs_newest_priority():
    """The request comes last, so that whatever the policy says of the job holds for the new call too."""
    m = machine("plas")
    m.handle(JobArrived(0, 1, app("app")))
    for ticket in (1, 2):
        m.handle(CallRequested(0, ticket, "b", "s", 1))
    m.handle(SlotGranted(0, 1))
    assert m.handle(CallRequested(5, 3, "c", "s", 1)) == [
        Reprioritise("b", 1, 5.0),
        RequestSlot("c", 3, 1, 5.0, forced=False),
    ]


def test_where_nobody_waits_nobody_is_moved():
    """A job whose calls come one after the other has nothing to move, whatever its priority does."""
    m = machine("plas")
    m.handle(JobArrived(0, 1, app("app")), CallRequested(0, 1, "b", "s", 1), SlotGranted(0, 1))
    m.handle(CallReleased(4, 1))
    assert m.handle(CallRequested(5, 2, "b", "s", 1)) == [RequestSlot("b", 2, 1, 4.0, forced=False)]


def test_a_priority_that_stays_is_not_sent_again():
    """Under a policy that never changes its mind no call is ever moved."""
    m = machine("fcfs")
    m.handle(JobArrived(0, 1, app("app")))
    commands = m.handle(
        *(CallRequested(0, ticket, "b", "s", 1) for ticket in range(5)),
        SlotGranted(1, 0),
        ProfileLearned(2, Profile(), frozenset({"app"})),
        CallReleased(3, 0),
    )
    assert not [c for c in commands if isinstance(c, Reprioritise)]


def test_a_profile_moves_only_the_applications_named():
    """Jobs of other applications are not looked at again, though the profile is the machine's now."""
    asked = []

    class Spy:
        name = "spy"

        def priority(self, job, profile, now):
            asked.append((job.id, profile))
            return 0.0

    m = SchedulerMachine(Spy())
    for job, application in ((1, "x"), (2, "y"), (3, "x")):
        m.handle(JobArrived(0, job, app(application)), CallRequested(0, job, "b", "s", job))
    asked.clear()
    profile = Profile()
    m.handle(ProfileLearned(1, profile, frozenset({"x", "z"})))
    assert asked == [(1, profile), (3, profile)]
    assert m.profile is profile


@pytest.mark.parametrize(
    "answer",
    [math.nan, "soon", None, ValueError("my bug"), ZeroDivisionError()],
    ids=lambda answer: type(answer).__name__,
)
def test_a_failing_policy_costs_the_order_never_a_slot(desk, answer):
    """A policy that raises or gives no number is reported, and its jobs go in order of arrival."""
    d = desk(Broken(answer))
    d.arrive(0, 1)
    for ticket, job in ((1, 1), (2, None), (3, 1), (4, None)):
        d.call(0, ticket, job)
    assert d.serve(1) == [1, 2, 3, 4]
    assert {fault.job for fault in d.faults} == {1, 2, 3}
    assert all(isinstance(fault.error, Exception) for fault in d.faults)


def test_a_failing_exploration_costs_its_turn_never_a_slot(desk):
    """It is reported, and the slot goes to whoever is next in line."""

    class Lost(Exploration):
        def choose(self, jobs, now, *, grantable):
            raise KeyError("my bug")

    d = desk(NamedPolicy("lost", lambda job, profile, now: 0.0, exploration=Lost(epsilon=1.0)))
    for ticket in (1, 2, 3):
        d.call(0, ticket)
    assert d.serve(1) == [1, 2, 3]
    assert {(fault.job, repr(fault.error)) for fault in d.faults} == {(None, "KeyError('my bug')")}


def test_the_report_carries_the_policys_own_error():
    """Who wrote the policy sees the error that it raised, and for NaN the policy's name."""
    error = ValueError("my bug")
    assert SchedulerMachine(Broken(error)).handle(CallRequested(0, 1, "b"))[0] == ReportFault(1, error)
    (fault, request) = SchedulerMachine(Broken(math.nan)).handle(CallRequested(0, 1, "b"))
    assert str(fault.error) == "policy 'broken' gave NaN as a priority"
    assert request == RequestSlot("b", 1, 1, 0.0, forced=False)


# -- beliefs ----------------------------------------------------------------------------


def believing(profile, policy="srtf"):
    """A machine that knows the profile; job 1 of `app` waits with its first call."""
    m = SchedulerMachine(POLICIES[policy], profile)
    m.handle(JobArrived(0, 1, app("app")), CallRequested(0, 1, "b", "s", 1))
    return m


def asked(commands):
    """The beliefs that were asked for."""
    return [command for command in commands if isinstance(command, FormBelief)]


def test_a_belief_is_asked_for_once_the_call_waits(learned):
    """By whoever has no slot: until there is news there is nothing more to ask, however many calls wait."""
    profile = learned(*[("app", ("s", 1.0), ("t", 2.0))] * 6)
    m = believing(profile)
    (command,) = m.handle(CallQueued(0, 1))
    assert (command.arrival, command.needs) == (1, Needs.BELIEF)
    assert command.model is profile.applications["app"].model
    assert command.evidence.begun == (Begun(Spot("s", 1)),)
    assert command.belief() is command.model.belief(command.evidence)
    assert m.handle(CallQueued(0, 1)) == []
    m.handle(CallRequested(0, 2, "b", "t", 1))
    assert m.handle(CallQueued(0, 2)) == []


def test_a_belief_moves_the_job(learned):
    """What was believed beforehand counts until it is there, and then what it says."""
    m = believing(learned(*[("app", ("s", 1.0), ("t", 2.0))] * 60))
    (command,) = m.handle(CallQueued(0, 1))
    (moved,) = m.handle(BeliefFormed(1, 1, command.belief()))
    assert moved == Reprioritise("b", 1, pytest.approx(3.0, rel=0.01))


def test_the_end_of_a_call_is_news(learned):
    """A job whose other calls wait is asked about again when one of them is over."""
    m = believing(learned(*[("app", ("s", 1.0), ("t", 2.0))] * 6))
    m.handle(CallQueued(0, 1), CallRequested(0, 2, "b", "t", 1), CallQueued(0, 2))
    assert asked(m.handle(SlotGranted(1, 1))) == []
    (command,) = asked(m.handle(CallReleased(3, 1)))
    assert [(stage.spot, stage.amount(command.model.unit)) for stage in command.evidence.finished] == [
        (Spot("s", 1), 2.0)
    ]


def test_what_was_announced_is_news(learned):
    """A fan-out is evidence as soon as it is revealed; that a stage run has begun is none."""
    m = believing(learned(*[("app", ("s", 1.0), ("t", 2.0))] * 6))
    m.handle(CallQueued(0, 1))
    (command,) = asked(m.handle(StagesMoved(1, 1, (Revealed(((5, "t"), (6, "t"))),))))
    assert Begun(Spot("t", 1), 2) in command.evidence.begun
    assert asked(m.handle(StagesMoved(1, 1, (Began(5),)))) == []
    assert len(asked(m.handle(StagesMoved(1, 1, (Ended(5, 1.0),))))) == 1


def test_a_call_that_gave_up_takes_its_belief_with_it(learned):
    """If nobody was there to take it when it was formed, the next call that waits has it formed anew."""
    m = believing(learned(*[("app", ("s", 1.0))] * 6))
    (command,) = m.handle(CallQueued(0, 1))
    m.handle(CallReleased(1, 1, Outcome.CANCELLED))
    assert m.handle(BeliefFormed(1, 1, command.belief())) == []
    m.handle(CallRequested(2, 2, "b", "s", 1))
    assert len(m.handle(CallQueued(2, 2))) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_who_asks_for_beliefs(observed, learned, policy):
    """Policies that need none never ask; nobody asks before there is a model, and all of them after that."""
    needs = POLICIES[policy].needs
    job = ("app", ("s", 1.0))
    m = believing(observed(*[job] * 6), policy)
    assert m.handle(CallQueued(0, 1)) == []
    profile = learned(*[job] * 6)
    commands = asked(m.handle(ProfileLearned(1, profile, frozenset({"app"}))))
    if needs in (Needs.NOTHING, Needs.TAG):
        assert commands == []
        return
    (command,) = commands
    model = profile.applications["app"].model
    assert (command.needs, command.model) == (needs, model)
    assert command.belief().model is (model.marginals if needs is Needs.MARGINALS else model)


@pytest.mark.parametrize("event", [CallQueued(1, 9), CallQueued(1, 2)], ids=["unknown", "granted"])
def test_nobody_asks_for_who_does_not_wait(learned, event):
    """A ticket that is gone, or has its slot meanwhile, asks for nothing."""
    m = believing(learned(*[("app", ("s", 1.0))] * 6))
    m.handle(CallRequested(0, 2, "b", "s", 1), SlotGranted(0, 2))
    m._jobs[1].outdated = True
    assert m.handle(event) == []


def test_a_belief_of_a_job_without_calls_is_let_go(learned):
    """Who does not wait is in no line; and of a job that nobody knows there is nothing to move."""
    m = believing(learned(*[("app", ("s", 1.0))] * 6))
    (command,) = m.handle(CallQueued(0, 1))
    belief = command.belief()
    assert m.handle(BeliefFormed(1, 99, belief)) == []
    m.handle(SlotGranted(1, 1))
    assert m.handle(BeliefFormed(1, 1, belief)) == []
    assert m._jobs[1].belief is belief
    m.handle(CallReleased(2, 1))
    assert m.handle(BeliefFormed(3, 1, belief)) == []
    m.check()


# -- story and replay -------------------------------------------------------------------

STORY = (
    JobArrived(0, 1, app("app")),
    JobArrived(0, 2, app("app")),
    CallRequested(1, 1, "b", "s", 1),
    CallRequested(1, 2, "b", "s", 1),
    SlotGranted(1, 1),
    CallRequested(2, 3, "c", "t", 2, forced=True),
    SlotGranted(2, 3),
    CapacityChanged(3, "b", 4),
    CallQueued(3, 2),
    BeliefFormed(3, 1, model_of(["s"], [(7.0,)], ((),), (np.array([0.5, 0.5]),)).belief(JobEvidence())),
    ProfileLearned(4, Profile(), frozenset({"app"})),
    CallReleased(5, 1, Outcome.FAILED, Usage(1, 2)),
    SlotGranted(5, 2),
    JobEnded(6, 1, Outcome.FINISHED),
    CallReleased(7, 2),
    CallReleased(8, 3),
    JobEnded(9, 2, Outcome.CANCELLED),
)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_events_give_the_same_commands(policy):
    """A machine is replayed from its story: one by one or all at once, commands and state are equal."""
    first, second = machine(policy), machine(policy)
    commands = [command for event in STORY for command in first.handle(event)]
    assert second.handle(*first.story()) == commands
    assert second == first
    assert first.jobs == 0


def test_story_by_ticket():
    """The story of some tickets has their events only, in order; the whole story has all."""
    m = machine()
    m.handle(*STORY)
    assert m.story() == list(STORY)
    assert m.story(3) == [e for e in STORY if getattr(e, "ticket", None) == 3]
    assert len(m.story(1, 2)) == 7
    assert m.story(77) == []


def test_the_story_is_bounded():
    """A scheduler that lives for long remembers the latest events only, and no ended job."""
    m = machine()
    for n in range(STORY_LENGTH):
        m.handle(CallRequested(n, n, "b"), CallReleased(n, n))
    assert len(m.story()) == STORY_LENGTH
    assert m.story()[-1] == CallReleased(STORY_LENGTH - 1, STORY_LENGTH - 1)
    assert m._templates.keys() == {DIRECT.fingerprint}
    kept = {"_templates": m._templates, "_arrivals": m._arrivals, "_story": m._story}
    assert m == SchedulerMachine(m.policy, m.profile, **kept)
