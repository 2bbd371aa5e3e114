"""Defines tenants, and computes their fair shares of a backend's service.

Does not choose a lane. Within a priority level, tenants share a backend by weighted fair queueing on virtual
time: a tenant's virtual time is the service that it received, in slot-seconds, divided by its weight. The
waiting tenant with the least virtual time is served next, and of several equal ones the one that holds fewer
slots. Each level has virtual times of its own: otherwise work of low priority, done while nothing else
waited, would cost its tenant the turns of its urgent work.

A grant is charged with the backend's mean service time, because its own is not known, and the charge is
settled with the truth at the release; a failed attempt costs nothing. A tenant that begins to wait is lifted
to the virtual time of its level: it has no claim on what it did not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from llmsched_langgraph._arguments import is_number, whole_limit
from llmsched_langgraph._ledger.backends import QUEUED
from llmsched_langgraph.errors import ConfigurationError

FIRST_MEAN_S = 1.0
"""Charge of a grant, in seconds, while no call of the backend has ended."""

LEAST, MOST = 1e-6, 1e6
"""Bounds of weights: virtual times of the smallest and the largest can be compared in floating point."""

LONGEST = 256
"""Maximum length of a tenant's name, in characters, as for LangGraph's fairness groups."""

MEMORY = 32
"""Number of latest calls over which the mean service time of a backend is taken."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """The settings of one tenant.

    Attributes:
        weight: its share of the service relative to other tenants, from 1e-6 to 1e6. A tenant of weight 3
            gets three times the service of one of weight 1, while both wait.
        max_slots: maximum number of slots that it holds at each backend; None for no limit.
        max_queued: maximum number of its calls that wait at each backend; None for no limit. One more fails
            at once with `OverloadedError`, as with `Backend(max_queued=...)`.
        tokens_per_minute: maximum number of tokens, input and output, that its calls use at each backend in
            any 60 s; None for no limit. Calls in flight count with the mean of the tenant's latest calls, and
            may use more. Calls of others overtake those that wait for it.

    Raises:
        ConfigurationError: a value is out of range.
    """

    weight: float = 1.0
    max_slots: int | None = None
    max_queued: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        weight = self.weight
        if not (is_number(weight) and LEAST <= weight <= MOST):
            raise ConfigurationError(
                f"the weight of a tenant must be a number above 0, from {LEAST:g} to {MOST:g} (its share "
                f"relative to other tenants), not {weight!r:.40}"
            )
        whole_limit(self.max_slots, "max_slots of a tenant")
        whole_limit(self.max_queued, "max_queued of a tenant", QUEUED)
        whole_limit(self.tokens_per_minute, "tokens_per_minute of a tenant", "the tokens of its calls")


STANDARD = Tenant()


@dataclass(frozen=True, slots=True)
class Tenants:
    """The settings of all tenants.

    Attributes:
        named: the tenants that have settings, by name.
        closed: whether other tenants are refused.
    """

    named: Mapping[str, Tenant] = field(default_factory=dict)
    closed: bool = False

    def of(self, tenant: str) -> Tenant:
        """Return the settings of a tenant."""
        return self.named.get(tenant, STANDARD)

    def check(self, tenant: object, what: str) -> str:
        """Return the tenant if it is valid; an empty name is that of no tenant.

        Raises:
            ConfigurationError: it is no name, or the list of tenants is closed and does not have it; the
                message begins with `what`.
        """
        if not isinstance(tenant, str) or len(tenant) > LONGEST:
            raise ConfigurationError(
                f"{what} must be the name of a tenant, of at most {LONGEST} characters, not {tenant!r:.80}"
            )
        if self.closed and tenant and tenant not in self.named:
            raise ConfigurationError(
                f"{what}: no tenant {tenant!r}; add it to Scheduler(tenants=...), or leave closed_tenants "
                f"out to accept every tenant"
            )
        return tenant


NO_TENANTS = Tenants()


def as_tenants(named: object, *, closed: bool) -> Tenants:
    """Return the settings of tenants, given by name as weights or as `Tenant`.

    Raises:
        ConfigurationError: they are not.
    """
    if not isinstance(closed, bool):
        raise ConfigurationError(f"closed_tenants must be True or False, not {closed!r}")
    if named is None:
        if closed:
            raise ConfigurationError("closed_tenants refuses tenants that tenants does not name; name some")
        return NO_TENANTS
    if not isinstance(named, Mapping):
        raise ConfigurationError(
            f'tenants must be a dict of weights by name, such as {{"gold": 3, "trial": 1}}, not {named!r}'
        )
    found = {}
    for name, own in named.items():
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST:
            raise ConfigurationError(
                f"tenants has the name {name!r:.80}; a name is a text of 1 to {LONGEST} characters"
            )
        try:
            found[name] = own if isinstance(own, Tenant) else Tenant(own)
        except ConfigurationError as error:
            cure = "" if is_number(own) else f"; write a number, or a Tenant, such as {_example(own)}"
            raise ConfigurationError(f"tenants: {name!r}: {error}{cure}") from None
    return Tenants(found, closed)


def _example(own: object) -> str:
    """Return the call of `Tenant` that a dict of its fields probably means, or any."""
    names = [one.name for one in fields(Tenant)]
    if not isinstance(own, Mapping) or not own or not all(name in names for name in own):
        return "Tenant(weight=3)"
    return f"Tenant({', '.join(f'{name}={value!r:.20}' for name, value in own.items())})"


class Turn(NamedTuple):
    """The place of one tenant in one level of one backend. It exists while a lane waits or a slot is held.

    Attributes:
        virtual_s: its virtual time: service received, in slot-seconds, divided by its weight.
        floor_s: the virtual time of its level when it last began to wait: a refund goes no lower.
        held: slots that it holds, of those that are charged.
        number: the arrival number of the ticket with which it last began to wait.
        lanes: its lanes in which tickets wait.
    """

    virtual_s: float
    floor_s: float
    held: int = 0
    number: int = 0
    lanes: int = 0


class Share(NamedTuple):
    """The charge for a grant.

    Attributes:
        level: the priority level.
        tenant: the tenant.
        charge_s: the increase of its virtual time.
        weight: its weight at the grant.
        tokens: the tokens with which it counts against the tenant's limit; 0 if there is none.
    """

    level: int
    tenant: str
    charge_s: float
    weight: float
    tokens: int = 0


class Level(NamedTuple):
    """One priority level of one backend. It exists while it has lines.

    Attributes:
        virtual_s: its virtual time: the maximum, over time, of the least virtual time of a waiting tenant.
        lanes: its lanes in which tickets wait.
        lines: its tenants with a `Turn`.
    """

    virtual_s: float = 0.0
    lanes: int = 0
    lines: int = 0


EMPTY_LEVEL = Level()


def begins(turn: Turn | None, level: Level, number: int) -> Turn:
    """Return the turn of a tenant that begins to wait."""
    if turn is None:
        return Turn(level.virtual_s, level.virtual_s, 0, number, 1)
    return lifted(turn, level)._replace(number=number, lanes=turn.lanes + 1)


def lifted(turn: Turn, level: Level) -> Turn:
    """Return the turn with at least the virtual time of its level, also after refunds."""
    virtual_s, floor_s = max(turn.virtual_s, level.virtual_s), max(turn.floor_s, level.virtual_s)
    return turn._replace(virtual_s=virtual_s, floor_s=floor_s)


def settled(turn: Turn, share: Share, served_s: float) -> Turn:
    """Return the turn after a slot is released that served for `served_s` seconds.

    A refund goes no lower than the last lift: else a tenant could save up service while it is idle.
    """
    more_s = served_s / share.weight - share.charge_s
    virtual_s = turn.virtual_s + more_s
    if more_s <= 0.0:
        virtual_s = max(virtual_s, min(turn.floor_s, turn.virtual_s))
    return turn._replace(virtual_s=virtual_s, held=turn.held - 1)


class Served(NamedTuple):
    """The service times of a backend: the number of calls, and the mean of about the last `MEMORY` ones."""

    calls: int = 0
    mean_s: float = FIRST_MEAN_S

    def after(self, served_s: float) -> Served:
        """Return the value after one more call."""
        calls = self.calls + 1
        return Served(calls, self.mean_s + (served_s - self.mean_s) / min(calls, MEMORY))


NONE_SERVED = Served()
