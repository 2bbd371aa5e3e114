"""Knows what can happen to the scheduler (events) and what it can ask for (commands).

Does not know what follows from what: that is the machine. `now` is the driver's clock in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.core.ledger import Group
from llmsched_langgraph.core.policies import Needs
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.position import Move
from llmsched_langgraph.dag.progress import UNKNOWN_USAGE, Outcome, Usage
from llmsched_langgraph.jobs.ended import EndedJob

if TYPE_CHECKING:
    from llmsched_langgraph.belief.belief import Belief
    from llmsched_langgraph.belief.evidence import JobEvidence
    from llmsched_langgraph.belief.model import ApplicationModel


@dataclass(frozen=True, slots=True)
class JobArrived:
    """A run of a scheduled graph began, or went on, if `resumes` names the thread of a paused one."""

    now: float
    job: int
    application: Application
    resumes: str | None = None


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The run is over. Calls that it left behind keep what they hold until they are released."""

    now: float
    job: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class JobPaused:
    """The run was interrupted and may be resumed on its thread; until then it is nobody's job."""

    now: float
    job: int
    thread: str


@dataclass(frozen=True, slots=True)
class StagesMoved:
    """Executions of stages of the job were announced, began or ended, in this order."""

    now: float
    job: int
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class CallRequested:
    """A call wants a slot of `backend`.

    Without a job, or for one that is over, the call is a job of its own. `run` is the stage run that it
    is made in, if that is known. A `forced` call cannot wait: it holds a slot at once, over the capacity
    if need be.
    """

    now: float
    ticket: int
    backend: str
    stage: str = ""
    job: int | None = None
    forced: bool = False
    run: int | None = None


@dataclass(frozen=True, slots=True)
class CallQueued:
    """No slot was free for the ticket: it waits."""

    now: float
    ticket: int


@dataclass(frozen=True, slots=True)
class BeliefFormed:
    """What is still to come of a job has been worked out."""

    now: float
    arrival: int
    belief: Belief


@dataclass(frozen=True, slots=True)
class SlotGranted:
    """The ledger gave the ticket a slot."""

    now: float
    ticket: int


@dataclass(frozen=True, slots=True)
class CallReleased:
    """The call is over or gave up: legal from any state, any number of times."""

    now: float
    ticket: int
    outcome: Outcome = Outcome.FINISHED
    usage: Usage = UNKNOWN_USAGE


@dataclass(frozen=True, slots=True)
class CapacityChanged:
    """The backend has another number of slots now."""

    now: float
    backend: str
    slots: int


@dataclass(frozen=True, slots=True)
class ProfileLearned:
    """There is a newer profile; what it says about these applications has changed."""

    now: float
    profile: Profile
    applications: frozenset[str]


Event = (
    JobArrived
    | JobEnded
    | JobPaused
    | StagesMoved
    | CallRequested
    | CallQueued
    | BeliefFormed
    | SlotGranted
    | CallReleased
    | CapacityChanged
    | ProfileLearned
)


# Commands are made, carried out and thrown away. They are not frozen, which would cost more than all that.


@dataclass(slots=True)
class RequestSlot:
    """Put the ticket into the backlog, or straight into a slot if it is forced.

    Tickets of one group have one priority, which is this one from now on.
    """

    backend: str
    ticket: int
    group: Group
    priority: float
    forced: bool


@dataclass(slots=True)
class Reprioritise:
    """The priority of the group's waiting tickets, if it has any here, is another one now."""

    backend: str
    group: Group
    priority: float


@dataclass(slots=True)
class ReleaseSlot:
    """Take the ticket out of the backlog or out of its slot, wherever it is."""

    backend: str
    ticket: int


@dataclass(slots=True)
class ResizeBackend:
    """The backend has this many slots from now on."""

    backend: str
    slots: int


@dataclass(slots=True)
class RecordJob:
    """A job is over: here is what can be learned from it."""

    record: EndedJob


@dataclass(slots=True)
class FormBelief:
    """Work out what is still to come of a job, when there is time, and tell it with `BeliefFormed`."""

    arrival: int
    model: ApplicationModel
    evidence: JobEvidence
    needs: Needs

    def belief(self) -> Belief:
        """The belief. Nothing is worked out yet but what it depends on."""
        model = self.model.marginals if self.needs is Needs.MARGINALS else self.model
        return model.belief(self.evidence)


@dataclass(slots=True)
class ReportFault:
    """The policy raised, or gave no number, for this job: it was served in order of arrival instead.

    Without a job, it was its exploration that raised: the turn went to whoever was next in line.
    """

    job: int | None
    error: Exception


Command = RequestSlot | Reprioritise | ReleaseSlot | ResizeBackend | RecordJob | FormBelief | ReportFault
