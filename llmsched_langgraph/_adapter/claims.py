"""Reads the tenant, the priority and the limits of a run from its configuration.

Does not order or stop runs. The clients of a server write parts of the configuration: what a run says of an
authenticated user is ignored, unless the scheduler trusts it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llmsched_langgraph._arguments import nearest, positive_limit
from llmsched_langgraph._core.budgets import NO_LIMITS, Limits, as_budget
from llmsched_langgraph._ledger.tenants import Tenants
from llmsched_langgraph._ledger.values import check_priority

logger = logging.getLogger("llmsched_langgraph")

TENANT = "llmsched_tenant"
"""Key of a run's tenant, in `metadata` or in `configurable`."""

PRIORITY = "llmsched_priority"
"""Key of a run's priority."""

BUDGET = "llmsched_budget"
"""Key of a run's budget, a dict with fields of `Budget`."""

DEADLINE_S = "llmsched_deadline_s"
"""Key of a run's deadline, in seconds from its arrival."""

USER, USER_ID = "langgraph_auth_user", "langgraph_auth_user_id"
"""Keys in `configurable` by which the Agent Server names the authenticated user."""


class Claim(NamedTuple):
    """The tenant, the priority and the limits of a run.

    Attributes:
        tenant: the tenant that owns it; empty for none.
        priority: its priority, -5 to 5; smaller is served first.
        limits: its budget and its deadline.
    """

    tenant: str = ""
    priority: int = 0
    limits: Limits = NO_LIMITS


NO_CLAIM = Claim()


def claim_of(*configs: Any, trust: bool, tenants: Tenants) -> Claim:
    """Return the claim that the configurations of a run make.

    The tenant is the authenticated user. A run of such a user may say something else, and be of another
    tenant, only with `trust`.

    Args:
        configs: the configuration of the run, then that of the graph, then that of the code that starts it.
        trust: whether to trust a run of an authenticated user.
        tenants: the settings of the tenants.

    Raises:
        ConfigurationError: what the run says is invalid.
    """
    parts = list(parts_of(configs))
    if not parts:
        return NO_CLAIM
    _tell_of_unknown(parts)
    user = identity_of(user_of(configs))
    said = {} if user and not trust else _said(parts)
    if not said:
        return NO_CLAIM if not user else Claim(tenants.check(user, "the authenticated user"))
    return checked(
        first_name(said.get(TENANT), user),
        said.get(PRIORITY),
        said.get(BUDGET),
        said.get(DEADLINE_S),
        tenants,
        "llmsched_",
    )


def checked(
    tenant: object, priority: object, budget: object, deadline_s: object, tenants: Tenants, prefix: str
) -> Claim:
    """Return the claim with these values; None means that the configuration has no such key.

    Raises:
        ConfigurationError: a value is invalid; the message begins with its name, after `prefix`.
    """
    return Claim(
        tenants.check("" if tenant is None else tenant, f"{prefix}tenant"),
        0 if priority is None else check_priority(priority, f"{prefix}priority"),
        Limits(
            NO_LIMITS.budget if budget is None else as_budget(budget, f"{prefix}budget"),
            positive_limit(deadline_s, f"{prefix}deadline_s"),
        ),
    )


def first_name(*names: object) -> object:
    """Return the first that is neither None nor empty text; None if there is none.

    What is no text is returned, too: it is no name, and an error.
    """
    return next((name for name in names if name is not None and name != ""), None)


_KEYS = (TENANT, PRIORITY, BUDGET, DEADLINE_S)
_PREFIX = "llmsched_"
_told: set[str] = set()


def _tell_of_unknown(parts: list[Mapping[str, Any]]) -> None:
    """Log, once for each, the keys that begin as those of this package and mean nothing."""
    for part in parts:
        for key in part:
            if not isinstance(key, str) or not key.lower().startswith(_PREFIX) or key in _KEYS:
                continue
            if key in _told or len(_told) >= 100:
                continue
            _told.add(key)
            logger.warning(
                "the configuration of a run has the key %.80r, which means nothing (logged once for each "
                "key): %s",
                key,
                nearest(key.lower(), _KEYS),
            )


def _said(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the value of each key, from the first of the parts that has it."""
    return {key: part[key] for part in reversed(parts) for key in _KEYS if part.get(key) is not None}


def user_of(configs: tuple[Any, ...]) -> Any:
    """Return the authenticated user, or its name; None if there is none.

    The Agent Server writes it to `configurable`. A value in `metadata` may come from a client.
    """
    for config in configs:
        part = (config or {}).get("configurable") or {}
        user = part.get(USER) or part.get(USER_ID)
        if user:
            return user
    return None


def identity_of(user: Any) -> str:
    """Return the name of a user; empty if there is none."""
    if user is None or isinstance(user, str):
        return user or ""
    found = user.get("identity") if isinstance(user, Mapping) else getattr(user, "identity", None)
    return str(found) if found else ""


def parts_of(configs: tuple[Any, ...]) -> Iterator[Mapping[str, Any]]:
    """Iterate over the mappings of configurations that say something of a run."""
    for config in configs:
        for name in ("metadata", "configurable"):
            part = config.get(name) if config else None
            if part:
                yield part
