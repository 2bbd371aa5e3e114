"""Knows the words of a ledger: backends, keys, lanes, tickets, and what is asked of it and answered.

Does not know how tickets are kept or chosen. All values are frozen; times are seconds of the caller's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Usage
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph.errors import ConfigurationError

DEFAULT_SLOTS = 8


@dataclass(frozen=True, slots=True)
class Backend:
    """A pool of slots that serves some models.

    Attributes:
        name: what messages and statistics call it.
        slots: calls that it serves at once, at least 1.
        models: the models it serves; None for every model that no other backend claims.

    Raises:
        ConfigurationError: fewer than one slot, or an empty name or list of models.
    """

    name: str = "default"
    slots: int = DEFAULT_SLOTS
    models: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigurationError("a backend needs a name that is not empty")
        check_slots(self.slots, f"backend {self.name!r}: slots")
        if isinstance(self.models, str):
            raise ConfigurationError(
                f"backend {self.name!r}: models must be a list of names, e.g. models=({self.models!r},)"
            )
        if self.models is not None:
            object.__setattr__(self, "models", tuple(self.models))
            if not self.models:
                raise ConfigurationError(
                    f"backend {self.name!r} serves no model; name some, or leave models out for all"
                )


def check_slots(slots: object, what: str) -> int:
    """`slots` if it can be a number of slots.

    Raises:
        ConfigurationError: naming `what`, if not.
    """
    if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
        raise ConfigurationError(
            f"{what} must be a whole number of at least 1 (the calls that the backend serves at once), "
            f"not {slots!r}"
        )
    return slots


class CallInfo(NamedTuple):
    """What is known of one call when it asks for a slot.

    Attributes:
        stage: the name that the call goes by.
        spot: the stage occurrence that it is part of.
        occurrence: which call of its stage name it is in its job, from 1.
        run: number of the stage run that makes it; None if it is not known.
        first: the number of the request among the events of its job.
        models: the names of the model that it is for, the first that applies first.
        prompt_tokens: estimated tokens of the prompt; None if nothing is known.
        output_tokens: estimated tokens of the answer; None if nothing is known.
        conversation: identity of the conversation whose prefix it shares; empty if it has none.
        account: keyed hash of the credential that it is made with; empty for the backend's own.
    """

    stage: str = ""
    stage_occurrence: StageOccurrence = StageOccurrence("", 1)
    occurrence: int = 1
    run: int | None = None
    first: int = 0
    models: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    conversation: str = ""
    account: str = ""


class Failure(NamedTuple):
    """Why an attempt failed.

    Attributes:
        status: HTTP status of the answer; None if there was none.
        retry_after_s: seconds after which the backend may be asked again, if it said so. The backend is
            paused until then.
        kind: the class of the error, in one word.
    """

    status: int | None = None
    retry_after_s: float | None = None
    kind: str = ""


class InformationGain(Protocol):
    """What is believed of a job, as far as exploring needs it: a value, so it may be worked out late."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval of the job's remaining work when it was formed, in slot-seconds."""

    def uncertainty_reduction(self, stage: StageOccurrence) -> float:
        """R of a stage that is ready, in bit-seconds."""


class Explore(NamedTuple):
    """What a lane needs to be chosen for what it teaches (Algorithm 1 of LLMSched, arXiv 2504.03444).

    The ledger ages the interval itself: the job's work at `now` is `done_s + holding * now - granted_sum_s`.

    Attributes:
        teaching: the interval of the job's remaining work, and what its stages teach.
        formed_s: slot-seconds that the job had received when the interval was formed.
        done_s: slot-seconds of the job's calls that are over.
        holding: slots that the job holds.
        granted_sum_s: the sum of the times at which those were granted.
        left: how many of the lane's calls may still be sampled.
    """

    information: InformationGain
    formed_s: float
    done_s: float
    holding: int
    granted_sum_s: float
    left: int


class Key(NamedTuple):
    """What orders a lane among the lanes of its backend; ties go to the earlier arrival.

    Attributes:
        level: the priority, smaller first. A level is served before all later ones.
        order: the policy's order, smaller first.
        explore: what exploring needs; None if the lane is never explored.
    """

    level: int = 0
    order: float = 0.0
    explore: Explore | None = None


FIRST_COME = Key()

Lane = tuple[str, int, StageOccurrence]
"""One job's stage occurrence at one backend: backend, number of the job, stage occurrence."""


# -- what is asked of a ledger -----------------------------------------------------------


class Request(NamedTuple):
    """A new ticket wants a slot of the lane's backend. A ticket that is known already changes nothing.

    Attributes:
        ticket: its number, from 1.
        lane: where it waits, behind the tickets that wait there.
        key: the lane's key from now on; None leaves it, or makes it `FIRST_COME`.
        forced: whether it is granted at once, over the limit if need be.
        call: what is known of the call.
    """

    ticket: int
    lane: Lane
    key: Key | None = None
    forced: bool = False
    call: CallInfo = CallInfo()


class Rekey(NamedTuple):
    """The lane's key is another one. A lane in which nothing waits has none: nothing happens."""

    lane: Lane
    key: Key


class Release(NamedTuple):
    """The ticket gives back what it has: its place in the backlog, or its slot. Legal from any state."""

    ticket: int
    usage: Usage = UNKNOWN_USAGE
    failure: Failure | None = None


class Configure(NamedTuple):
    """The backend's settings are these from now on. Fewer slots than are held drain."""

    backend: Backend


Change = Request | Rekey | Release | Configure

# -- what a ledger answers ---------------------------------------------------------------


class Waiting(NamedTuple):
    """A ticket that waits.

    Attributes:
        lane: where.
        arrival: its number among the tickets that came to wait at any backend.
        asked_s: when it was requested.
        call: what is known of the call.
    """

    lane: Lane
    arrival: int
    asked_s: float
    call: CallInfo


class Grant(NamedTuple):
    """A ticket that holds a slot.

    Attributes:
        lane: where it waited.
        asked_s: when it was requested.
        granted_s: when it got its slot.
        call: what is known of the call.
        reason: why it was its turn: "free" (nobody waited), "order" (first in the policy's order), "explore"
            (it teaches most), or "forced" (it could not wait).
        concurrency: slots of the backend that were held then, this one included.
        slots: slots that the backend had then.
        replica: which replica of the backend serves it; empty if there is one.
        lease_until_s: when it ends unless it is renewed; None if it does not end.
    """

    lane: Lane
    asked_s: float
    granted_s: float
    call: CallInfo
    reason: str
    concurrency: int
    slots: int
    replica: str = ""
    lease_until_s: float | None = None


class Granted(NamedTuple):
    """The ticket got a slot."""

    ticket: int
    grant: Grant


class Lost(NamedTuple):
    """The ticket holds its slot no longer, though it was not released: its lease ran out."""

    ticket: int


class BackendView(NamedTuple):
    """One backend at one moment.

    Attributes:
        backend: its settings.
        holding: slots in use, forced ones included.
        waiting: tickets in its backlog.
        granted: slots given since the beginning.
        released: slots given back since the beginning.
        opens_s: no slot is granted before then, but to forced tickets.
    """

    backend: Backend
    holding: int = 0
    waiting: int = 0
    granted: int = 0
    released: int = 0
    opens_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LedgerView:
    """A ledger at one moment.

    Attributes:
        backends: by name.
        waiting: the tickets that wait, by number, in the order of their arrival.
        holding: the tickets that hold a slot, by number.
    """

    backends: Mapping[str, BackendView]
    waiting: Mapping[int, Waiting]
    holding: Mapping[int, Grant]
