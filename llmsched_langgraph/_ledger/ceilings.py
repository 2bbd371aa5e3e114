"""Keeps what tenants hold and use against limits of their own: slots, and tokens per minute.

Does not decide whose turn it is. All values are in the state (`truth.py`), but for one index: when the lines
of a tenant whose tokens hold it back take turns again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from llmsched_langgraph._jobs.calls import Usage
from llmsched_langgraph._ledger import allowances
from llmsched_langgraph._ledger.allowances import Allowance, tokens_of
from llmsched_langgraph._ledger.tenants import Share, Tenants
from llmsched_langgraph._ledger.truth import Truth

Blocked = Callable[[str, str], bool]
"""Returns, for a backend and a tenant, whether the tenant may not get a slot of it now."""

_HELD = "held by tenants of "
_TOKENS = "tokens of tenants of "

_UNUSED = Allowance()


class Ceilings:
    """The limits of tenants at all backends.

    Attributes:
        slots: maximum number of slots of a backend, by tenant.
        tokens: maximum number of tokens a minute of a backend, by tenant.
    """

    def __init__(self, truth: Truth, tenants: Tenants) -> None:
        self._truth = truth
        named = tenants.named.items()
        self.slots = {name: own.max_slots for name, own in named if own.max_slots is not None}
        self.tokens = {
            name: own.tokens_per_minute for name, own in named if own.tokens_per_minute is not None
        }
        self._back: dict[tuple[str, str], None] = {}

    def __contains__(self, tenant: str) -> bool:
        return tenant in self.slots or tenant in self.tokens

    def blocked(self, now: float, name: str, tenant: str) -> bool:
        """Return whether the tenant holds as many slots, or used as many tokens, of the backend as it may."""
        return (
            self.full(name, tenant)
            or self._ready_s(now, tenant, self._truth.get((_TOKENS, name, tenant))) > now
        )

    def blocking(self, now: float) -> Blocked | None:
        """Return the function that tells whether a tenant was blocked in the committed state.

        The indexes belong to that state. None if no tenant can be blocked. A line that leaves the index
        because of it takes turns again at `free`, or by `back`.
        """
        return partial(self._was_blocked, now) if self.slots or self.tokens else None

    def _was_blocked(self, now: float, name: str, tenant: str) -> bool:
        committed = self._truth.committed
        if self._at_limit(tenant, committed.get((_HELD, name, tenant)) or 0):
            return True
        if tenant not in self.tokens:
            return False
        if self._ready_s(now, tenant, committed.get((_TOKENS, name, tenant))) <= now:
            return False
        self._back[name, tenant] = None  # before its lines leave the index
        return True

    # -- slots -------------------------------------------------------------------------

    def _at_limit(self, tenant: str, held: int) -> bool:
        limit = self.slots.get(tenant)
        return limit is not None and held >= limit

    def held(self, name: str, tenant: str) -> int:
        """Return how many slots of the backend a tenant with a limit of slots holds."""
        return self._truth.get((_HELD, name, tenant)) or 0

    def full(self, name: str, tenant: str) -> bool:
        """Return whether the tenant holds as many slots of the backend as it may."""
        return self._at_limit(tenant, self.held(name, tenant))

    def held_of(self, name: str) -> list[tuple[str, int, int]]:
        """Return (name, limit, slots held) of each tenant with a limit of slots."""
        committed = self._truth.committed
        return [(of, most, committed.get((_HELD, name, of)) or 0) for of, most in self.slots.items()]

    def hold(self, now: float, name: str, tenant: str) -> int:
        """Stage that the tenant gets one more slot; return the tokens with which it counts."""
        staged = self._truth.staged
        if tenant in self.slots:
            staged[_HELD, name, tenant] = self.held(name, tenant) + 1
        if tenant not in self.tokens:
            return 0
        allowance = self._truth.get((_TOKENS, name, tenant)) or _UNUSED
        staged[_TOKENS, name, tenant] = allowances.granted(allowance, now, allowance.charge)
        return allowance.charge

    def free(self, name: str, tenant: str) -> bool:
        """Stage that the tenant has released a slot; return whether its lines had left the index for it."""
        if tenant not in self.slots:
            return False
        was_full, held = self.full(name, tenant), self.held(name, tenant) - 1
        if held:
            self._truth.staged[_HELD, name, tenant] = held
        else:
            self._truth.remove((_HELD, name, tenant))
        return was_full

    # -- tokens ------------------------------------------------------------------------

    def _ready_s(self, now: float, tenant: str, allowance: Allowance | None) -> float:
        limit = self.tokens.get(tenant)
        return now if limit is None or allowance is None else allowances.ready_s(allowance, limit, now)

    def count(
        self, now: float, name: str, share: Share, granted_s: float, usage: Usage, *, failed: bool
    ) -> None:
        """Stage the tokens that a ticket used, in place of those with which its grant counted."""
        at = (_TOKENS, name, share.tenant)
        allowance = self._truth.get(at) or _UNUSED
        tokens = tokens_of(usage, failed=failed)
        self._truth.staged[at] = allowances.ended(allowance, now, granted_s, share.tokens, tokens)

    def held_back(self, name: str, tenant: str) -> bool:
        """Return whether the tenant's lines have left the index because of its tokens."""
        return (name, tenant) in self._back

    def back(self, now: float, name: str, lines: Callable[[str, bool], bool]) -> float | None:
        """Have lines of tenants take turns again whose tokens admit a call again.

        Args:
            now: the clock.
            name: the backend.
            lines: returns whether a tenant waits at the backend; with True, lets its lines take turns.

        Returns:
            The clock time at which the tokens of the next one do; None if there is none.
        """
        next_s = None
        for of, tenant in tuple(self._back) if self._back else ():
            if of != name:
                continue
            ready_s = self._ready_s(now, tenant, self._truth.committed.get((_TOKENS, name, tenant)))
            if ready_s <= now:
                lines(tenant, True)
            elif lines(tenant, False) and not self.full(name, tenant):
                next_s = ready_s if next_s is None else min(next_s, ready_s)
                continue
            del self._back[of, tenant]
        return next_s
