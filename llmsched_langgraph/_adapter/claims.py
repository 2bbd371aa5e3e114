"""Reads what the configuration of a run says of its tenant, its urgency and its limits.

Does not order or stop runs. The clients of a server write parts of the configuration: what a run says of an
authenticated user is ignored, unless the scheduler trusts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmsched_langgraph._core.budgets import NO_LIMITS, Limits, as_budget, check_positive
from llmsched_langgraph._ledger.tenants import Tenants
from llmsched_langgraph._ledger.values import check_priority

PRIORITY = "llmsched_priority"
"""Key of a run's priority in `metadata` or in `configurable`."""

TENANT = "llmsched_tenant"
"""Key of the name of a run's tenant."""

BUDGET = "llmsched_budget"
"""Key of a run's budget, a dict with fields of `Budget`."""

DEADLINE_S = "llmsched_deadline_s"
"""Key of the seconds from its arrival within which a run must end."""

_USER = ("langgraph_auth_user", "langgraph_auth_user_id")
"""Keys in `configurable` by which the Agent Server names the authenticated user."""


def priority_of(*configs: Any, trust: bool) -> int:
    """Return the run's priority; 0 if it says none, or is not trusted.

    Args:
        configs: the configuration of the run, then that of the graph.
        trust: whether to trust a run of an authenticated user.

    Raises:
        ConfigurationError: the priority is invalid.
    """
    found = next((part[PRIORITY] for part in _parts(configs) if part.get(PRIORITY) is not None), None)
    if found is None:
        return 0
    if not trust and any(part.get(key) for part in _parts(configs) for key in _USER):
        return 0
    return check_priority(found, PRIORITY)


def tenant_of(*configs: Any, trust: bool, tenants: Tenants) -> str:
    """Return the run's tenant: its authenticated user, or what it says; empty for none.

    Args:
        configs: the configuration of the run, then that of the graph.
        trust: whether a run of an authenticated user may say that it is another tenant's.
        tenants: the settings of the tenants.

    Raises:
        ConfigurationError: the tenant is invalid.
    """
    user = next((name for part in _parts(configs) if (name := _identity(part))), "")
    said = next((part[TENANT] for part in _parts(configs) if part.get(TENANT) not in (None, "")), None)
    if said is None or (user and not trust):
        return tenants.check(user, "the authenticated user")
    return tenants.check(said, TENANT)


def _identity(part: Mapping[str, Any]) -> str:
    """Return the name of the authenticated user; empty if there is none."""
    user = part.get("langgraph_auth_user_id")
    if not user:
        whole = part.get("langgraph_auth_user")
        user = whole.get("identity") if isinstance(whole, Mapping) else getattr(whole, "identity", None)
    return str(user) if user else ""


def limits_of(*configs: Any, trust: bool) -> Limits:
    """Return the run's budget and its deadline; no limits if it says none, or is not trusted.

    Args:
        configs: the configuration of the run, then that of the graph.
        trust: whether to trust a run of an authenticated user.

    Raises:
        ConfigurationError: the budget or the deadline is invalid.
    """
    said = {
        key: next((part[key] for part in _parts(configs) if part.get(key) is not None), None)
        for key in (BUDGET, DEADLINE_S)
    }
    if not any(value is not None for value in said.values()):
        return NO_LIMITS
    if not trust and any(part.get(key) for part in _parts(configs) for key in _USER):
        return NO_LIMITS
    budget = NO_LIMITS.budget if said[BUDGET] is None else as_budget(said[BUDGET], BUDGET)
    return Limits(budget, check_positive(said[DEADLINE_S], DEADLINE_S))


def _parts(configs: tuple[Any, ...]) -> Iterator[Mapping[str, Any]]:
    for config in configs:
        for name in ("metadata", "configurable"):
            part = config.get(name) if config else None
            if part:
                yield part
