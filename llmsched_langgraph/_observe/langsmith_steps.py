"""Adds each wait for a slot to LangSmith's trace, as a step beside the model's, when the wait is over.

Does not run callbacks: nothing changes in the streams and events of a graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from llmsched_langgraph._core.events import CallRequested, Entry
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from langsmith.run_trees import RunTree

NAME = "waiting for a slot"
"""The name of the step."""

OPEN = 100_000
"""Requests whose waits are not over; older ones are forgotten. Only missed entries make them more."""


class _Asked(NamedTuple):
    """A request of a traced run: the step that makes it, and its time in seconds since the epoch."""

    parent: RunTree
    at_s: float


class Steps:
    """The waits of the calls of one scheduler.

    Args:
        shared: returns the name of a backend, given that of one of its accounts. See `Spans`.

    Raises:
        ConfigurationError: LangSmith is not installed.
    """

    def __init__(self, shared: Callable[[str], str]) -> None:
        try:
            from langsmith import get_current_run_tree
        except ImportError:
            raise ConfigurationError("steps for LangSmith need the package langsmith; install it") from None
        self._current = get_current_run_tree
        self._shared = shared
        self._asked: dict[int, _Asked] = {}
        self._waits: dict[int, tuple[_Asked, float]] = {}  # by ticket, with the clock time of the request

    def forked(self) -> None:
        """Forget the waits in the child of a fork: they are the parent's."""
        self._asked, self._waits = {}, {}

    def asked(self, request: CallRequested) -> None:
        """Keep the step that makes a request, if it is traced."""
        parent = self._current()
        if parent is not None:
            self._asked[request.ticket] = _Asked(parent, time.time())
            if len(self._asked) > OPEN:
                self._asked.pop(next(iter(self._asked)), None)

    def see(self, entry: Entry) -> None:
        """Add a step if a wait is over."""
        ticket = entry.ticket
        match entry.kind:
            case "CallQueued":
                if (asked := self._asked.pop(ticket, None)) is not None:
                    self._waits[ticket] = asked, entry.at_s
            case "SlotGranted":
                self._asked.pop(ticket, None)  # it did not wait
                self._over(entry, {"reason": entry.detail.reason})
            case "CallWithdrawn":
                self._over(entry, {"outcome": "withdrawn"})
            case "CallRefused":
                self._asked.pop(ticket, None)
                self._over(entry, {"outcome": "refused"})

    def _over(self, entry: Entry, told: dict[str, object]) -> None:
        found = self._waits.pop(entry.ticket, None)
        if found is None:
            return
        (parent, began_s), asked_s = found
        waited_s = max(0.0, entry.at_s - asked_s)
        step = parent.create_child(
            NAME,
            "chain",
            inputs={"backend": self._shared(entry.backend)},
            outputs={"waited_s": round(waited_s, 6), **told},
            start_time=datetime.fromtimestamp(began_s, UTC),
            end_time=datetime.fromtimestamp(began_s + waited_s, UTC),
        )
        step.post()

    def close(self) -> None:
        """Forget the waits that are not over."""
        self.forked()
