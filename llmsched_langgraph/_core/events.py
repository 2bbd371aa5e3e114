"""Knows what can happen to the scheduler (events), and the entries of its story.

Does not know what follows from what: that is the machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, FinishedCall, Outcome, Usage
from llmsched_langgraph._jobs.stages import StageEvent
from llmsched_langgraph._ledger.values import Backend, Failure

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.belief import Belief
    from llmsched_langgraph._belief.profile.profile import Profile


class JobInfo(NamedTuple):
    """What is known of a job when it arrives.

    Attributes:
        application: the graph that it is a run of.
        run_id: LangGraph's id of the run; empty if it has none yet.
        thread_id: the thread that its checkpoints are saved on; empty without one.
        tenant: whose work it is; empty for no tenant.
        weight: the tenant's share against others.
        priority: LangGraph's number, -5 to 5, smaller first.
        deadline_s: seconds from its arrival within which it should end; None for no deadline.
        tags: of the run's configuration.
        metadata: plain values of the run's configuration, by name.
    """

    application: Application
    run_id: str = ""
    thread_id: str = ""
    tenant: str = ""
    weight: float = 1.0
    priority: int = 0
    deadline_s: float | None = None
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str | int | float | bool], ...] = ()


class JobArrived(NamedTuple):
    """A run of a scheduled graph began, or went on, if `resumes` names the thread of a paused one.

    `moves` is what is seen of its stages: it is only ever appended to, and read whenever the job is heard of.
    """

    job: int
    info: JobInfo
    resumes: str | None = None
    stage_events: Sequence[StageEvent] = ()


class JobEnded(NamedTuple):
    """The run is over. Calls that it left behind keep what they hold until they are released."""

    job: int
    outcome: Outcome


class JobPaused(NamedTuple):
    """The run was interrupted and may be resumed on its thread."""

    job: int
    thread: str


class StagesChanged(NamedTuple):
    """There is something new among the job's moves."""

    job: int


class CallRequested(NamedTuple):
    """A call wants a slot of `backend`.

    Without a job, or for one that is over, the call is a job of its own. `run` is the number of the stage run
    that it is made in, if that is known. A `forced` call cannot wait: it holds a slot at once, over the limit
    if need be. `models` are the names of the model that it is for.
    """

    ticket: int
    backend: str
    stage: str = ""
    job: int | None = None
    forced: bool = False
    run: int | None = None
    models: tuple[str, ...] = ()


class CallReleased(NamedTuple):
    """The call is over or gave up: legal from any state, any number of times."""

    ticket: int
    outcome: Outcome = Outcome.FINISHED
    usage: Usage = UNKNOWN_USAGE
    failure: Failure | None = None


class CallDismissed(NamedTuple):
    """The call need not wait any longer. It changes nothing for one that holds its slot."""

    ticket: int


class HolderDied(weakref.ref[Any]):
    """What held the ticket is gone: the same as its release, cancelled.

    A weak reference whose callback is the `append` of an inbox. The death of the object posts it without a
    line of Python, so that no signal can come in between.
    """

    __slots__ = ("ticket",)

    ticket: int


class BackendConfigured(NamedTuple):
    """The backend has these settings now."""

    backend: Backend


class BeliefFormed(NamedTuple):
    """What is still to come of a job has been worked out. `job` is its number in order of arrival."""

    job: int
    belief: Belief


class ProfileLearned(NamedTuple):
    """There is a newer profile; what it says about these applications has changed."""

    profile: Profile
    applications: frozenset[str]


class Ticked(NamedTuple):
    """Time has passed."""


Event = (
    JobArrived
    | JobEnded
    | JobPaused
    | StagesChanged
    | CallRequested
    | CallReleased
    | CallDismissed
    | HolderDied
    | BackendConfigured
    | BeliefFormed
    | ProfileLearned
    | Ticked
)


class Entry(NamedTuple):
    """One line of the story: what happened, or what was decided and why.

    `job` is the number of the job in order of arrival, or 0; `ticket` a ticket, or 0. `kind` is one of

    | kind | detail |
    | --- | --- |
    | JobArrived, JobResumed | its `JobInfo` |
    | StagesMoved | how many moves were taken in |
    | CallQueued | its `CallInfo`: it waits |
    | SlotGranted | its `Grant`, with the reason |
    | CallReleased | its `FinishedCall`: it held a slot and gave it back |
    | CallWithdrawn | its `Outcome`: it waits no longer and got no slot |
    | JobPaused | the thread on which it may be resumed |
    | JobEnded | its `Outcome`; calls of it may still hold slots |
    | JobClosed | the job: it has ended and its last call is back |
    | CallClosed | a `Direct`: a call outside of any run, which is a job of its own, is back |
    | BackendConfigured | the `Backend` |
    | BeliefWanted | a `BeliefWanted` |
    | BeliefFormed | the `Belief` |
    | ProfileLearned | fingerprints of the applications that it says something new of |
    | PolicyFailed | the exception: the job is served in order of arrival |
    """

    number: int
    at_s: float
    kind: str
    job: int = 0
    ticket: int = 0
    backend: str = ""
    detail: Any = None


class Direct(NamedTuple):
    """A job that is one call, made outside of any run, and that never had to wait.

    Attributes:
        number: of the job.
        call: what it did.
    """

    number: int
    call: FinishedCall
