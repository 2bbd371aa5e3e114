"""Reads what the configuration of a run says of its urgency.

Does not order runs. The clients of a server write parts of the configuration: what a run says of an
authenticated user is ignored, unless the scheduler trusts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmsched_langgraph._ledger.values import check_priority

PRIORITY = "llmsched_priority"
"""Key of a run's priority in `metadata` or in `configurable`."""

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


def _parts(configs: tuple[Any, ...]) -> Iterator[Mapping[str, Any]]:
    for config in configs:
        for name in ("metadata", "configurable"):
            part = config.get(name) if config else None
            if part:
                yield part
