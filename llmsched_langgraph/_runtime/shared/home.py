"""Makes the ledger of a scheduler that shares its slots with those of other processes.

Does not talk to the server: the ledger's thread does.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

from llmsched_langgraph._ledger.memory import MemoryLedger
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph._ledger.backends import Backend
    from llmsched_langgraph._ledger.exploration import Exploration
    from llmsched_langgraph._ledger.overdue import Overdue
    from llmsched_langgraph._ledger.protocol import Home
    from llmsched_langgraph._ledger.tenants import Tenants
    from llmsched_langgraph._ledger.truth import Truth
    from llmsched_langgraph._runtime.shared.ledger import SharedLedger

logger = logging.getLogger("llmsched_langgraph")

Fallback = Literal["wait", "fail", "local"]

VARIABLE = "LLMSCHED_URL"

_homes: weakref.WeakSet[SharedHome] = weakref.WeakSet()
_told: set[tuple[str, str]] = set()
"""URLs and names of which it was said that this process has two schedulers."""


def home_of(url: str | None, name: str, fallback: str, clock: Callable[[], float]) -> Home:
    """Return what makes the ledger: in memory without a URL.

    Args:
        url: the URL of the server; None for that in the environment variable `LLMSCHED_URL`, if there is one.
        name: the name of the ledger.
        fallback: what happens to calls that wait while the server is unreachable.
        clock: the clock of the scheduler.

    Raises:
        ConfigurationError: a setting is invalid, or the package redis is not installed.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"name must be a text that is not empty, such as 'default', not {name!r}")
    if fallback not in ("wait", "fail", "local"):
        raise ConfigurationError(f'fallback must be "wait", "fail" or "local", not {fallback!r}')
    if url is None:
        url = os.environ.get(VARIABLE) or None
    if url is None:
        return MemoryLedger
    if not isinstance(url, str):
        raise ConfigurationError(f'url must be a URL such as "redis://host:6379/0", not {url!r}')
    if clock is not time.monotonic:
        raise ConfigurationError("a scheduler with a url runs by the real clock: leave clock out")
    home = SharedHome(url, name, fallback)
    if (url, name) not in _told and any((own.url, own.name) == (url, name) for own in _homes):
        _told.add((url, name))
        logger.warning(
            "this process has two schedulers of the ledger %r at one server: each counts as a process of its "
            "own there. Use one Scheduler, or give each its own name=...",
            name,
        )
    _homes.add(home)
    return home


class SharedHome:
    """Makes ledgers that are stored at a server. A forked child makes its own."""

    def __init__(self, url: str, name: str, fallback: str) -> None:
        self.url = url
        self.name = name
        self._fallback = fallback

    def __call__(
        self,
        backends: Iterable[Backend],
        exploration: Exploration | None,
        truth: Truth,
        overdue: Overdue,
        tenants: Tenants,
    ) -> SharedLedger:
        """Return the ledger of this process."""
        from llmsched_langgraph._ledger.redis.client import LedgerClient
        from llmsched_langgraph._ledger.redis.encoding import Shared
        from llmsched_langgraph._runtime.shared.ledger import SharedLedger

        pools = tuple(backends)
        worker = f"{socket.gethostname()}:{os.getpid()}"
        client = LedgerClient(
            self.url, self.name, Shared(overdue, exploration, tenants), pools, worker=worker, timeout_s=2.0
        )
        return SharedLedger(lambda: client, pools, truth, overdue, tenants, time.monotonic, self._fallback)
