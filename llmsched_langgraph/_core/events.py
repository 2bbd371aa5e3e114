"""Defines the scheduler's input events and the entries of its story.

Does not define how events change state; the machine does.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._core.budgets import Overrun
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, FinishedCall, Outcome, Usage
from llmsched_langgraph._jobs.stages import StageEvent
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.quotas import Quotas

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.belief import Belief
    from llmsched_langgraph._belief.profile.profile import Profile


class JobInfo(NamedTuple):
    """The properties of a job at its arrival.

    Attributes:
        application: the application that the job executes.
        run_id: LangGraph's run id; empty if the run has none yet.
        thread_id: the thread on which LangGraph saves checkpoints; empty if there is none.
        tenant: the tenant that owns the job; empty for none.
        priority: LangGraph's priority, -5 to 5; smaller is served first.
        deadline_s: seconds from arrival within which the job should end; None for no deadline.
        tags: the tags of the run's configuration.
        metadata: name and value of each plain metadata item of the run's configuration.
    """

    application: Application
    run_id: str = ""
    thread_id: str = ""
    tenant: str = ""
    priority: int = 0
    deadline_s: float | None = None
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str | int | float | bool], ...] = ()


class JobArrived(NamedTuple):
    """A run of a scheduled graph began, or resumed if `resumes` names the thread of a paused job.

    `stage_events` is an append-only sequence, shared with the code that executes the stages. The machine
    reads its new elements at later events of the job.
    """

    job: int
    info: JobInfo
    resumes: str | None = None
    stage_events: Sequence[StageEvent] = ()


class JobEnded(NamedTuple):
    """The run ended. Its outstanding calls keep their tickets until they are released."""

    job: int
    outcome: Outcome


class JobPaused(NamedTuple):
    """The run was interrupted and may be resumed on its thread."""

    job: int
    thread: str


class LimitReached(NamedTuple):
    """The run stops before its next superstep, because it has reached a limit."""

    job: int
    overrun: Overrun


class OverrunExpected(NamedTuple):
    """The forecast of the run's spending exceeds a limit that the run has not reached."""

    job: int
    overrun: Overrun


class StagesChanged(NamedTuple):
    """The job's `stage_events` has new elements."""

    job: int


class CallRequested(NamedTuple):
    """A call requests a slot of `backend`.

    Without a job, or if the job has ended, the call is a job of its own. `run` is the number of the stage run
    that makes the call; None if unknown. A `forced` call gets a slot at once, even above the limit. `models`
    are the names of the requested model. `again` is the ticket of the call's previous attempt, whose place it
    keeps; 0 for its first one. `priority`, `tenant` and `deadline_s` are those of a call that is a job of its
    own. `prompt_tokens` is an estimate; None if it is not needed.
    """

    ticket: int
    backend: str
    stage: str = ""
    job: int | None = None
    forced: bool = False
    run: int | None = None
    models: tuple[str, ...] = ()
    again: int = 0
    priority: int = 0
    tenant: str = ""
    prompt_tokens: int | None = None
    deadline_s: float | None = None


class CallReleased(NamedTuple):
    """The call ended or stopped waiting. Legal in any state, any number of times.

    The usage is `PENDING_USAGE` if the slot is free before the call ends: then `CallMeasured` follows.
    `quotas` is what the answer says of the provider's limits.
    """

    ticket: int
    outcome: Outcome = Outcome.FINISHED
    usage: Usage = UNKNOWN_USAGE
    failure: Failure | None = None
    quotas: Quotas | None = None


class CallMeasured(NamedTuple):
    """The tokens of a call whose last attempt had this ticket are known. `job` is the driver's id."""

    ticket: int
    usage: Usage
    job: int | None = None


class CallForced(NamedTuple):
    """The waiting call gets a slot at once, even above the limit: its wait could never end."""

    ticket: int


class CallDismissed(NamedTuple):
    """The call must stop waiting. An event for a call that holds a slot changes nothing."""

    ticket: int


class HolderDied(weakref.ref[Any]):
    """The object that owned the ticket was collected, or cannot go on: releases it with outcome CANCELLED.

    The event is itself a weak reference whose callback is the `append` of an inbox. The collector posts it
    without executing Python bytecode, so a signal handler cannot interrupt the post. `loop` is a weak
    reference to the event loop that the owner needs; None if it needs none.
    """

    __slots__ = ("loop", "ticket")

    loop: weakref.ref[Any] | None
    ticket: int


class BackendConfigured(NamedTuple):
    """The settings of a backend changed."""

    backend: Backend


class BeliefFormed(NamedTuple):
    """A belief about a job's remaining work is available. `job` is its number in arrival order."""

    job: int
    belief: Belief


class ProfileLearned(NamedTuple):
    """A newer profile is available. It changed for the listed applications, given by fingerprint."""

    profile: Profile
    applications: frozenset[str]


class Ticked(NamedTuple):
    """Time passed: a grant may have become possible."""


Event = (
    JobArrived
    | JobEnded
    | JobPaused
    | LimitReached
    | OverrunExpected
    | StagesChanged
    | CallRequested
    | CallReleased
    | CallMeasured
    | CallForced
    | CallDismissed
    | HolderDied
    | BackendConfigured
    | BeliefFormed
    | ProfileLearned
    | Ticked
)


class Entry(NamedTuple):
    """One entry of the story: an event, or a decision with its reason.

    `job` is the job's number in arrival order, or 0; `ticket` is a ticket, or 0. `kind` is one of

    | kind | detail |
    | --- | --- |
    | JobArrived, JobResumed | the job's `JobInfo` |
    | StagesChanged | number of new stage events |
    | CallQueued | the `CallInfo`: the call waits |
    | CallRefused | the `Crowd`: too many calls wait already, so this one gets an error |
    | SlotGranted | the `Grant`, with its reason |
    | CallReleased | the `FinishedCall`: the attempt released its slot |
    | CallMeasured | the `Usage` of the call, known after its slot was free |
    | CallWithdrawn | the `Outcome`: the call stopped waiting and got no slot |
    | JobPaused | the thread on which the job can be resumed |
    | OverrunExpected | the `Overrun`: the run is expected to exceed its budget or deadline; once per run |
    | LimitReached | the `Overrun`: the run has reached a limit and stops before its next superstep |
    | JobEnded | the `Outcome`; calls of the job may still hold slots |
    | JobClosed | the `Job`: it has ended and its last call is released |
    | CallClosed | a `Direct`: a call outside any run, a job of its own, is released |
    | BackendConfigured | the `Backend` |
    | BackendPaused | seconds until the pause ends: an attempt of this process was refused |
    | BeliefWanted | a `BeliefWanted` |
    | BeliefFormed | the `Belief` |
    | ProfileLearned | fingerprints of the applications that changed |
    | PolicyFailed | the exception: the job gets order 0 |
    """

    number: int
    at_s: float
    kind: str
    job: int = 0
    ticket: int = 0
    backend: str = ""
    detail: Any = None


class Direct(NamedTuple):
    """A job that is one call, made outside any run, that got a slot without waiting.

    Attributes:
        number: the job's number.
        call: the finished call.
    """

    number: int
    call: FinishedCall
