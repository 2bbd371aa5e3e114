"""Estimates how long a backlog takes, from the rate at which calls were released of late.

Does not read clocks or backlogs: they are arguments.
"""

from __future__ import annotations

from collections import deque
from math import ceil

from llmsched_langgraph._ledger.values import BackendView, Crowd
from llmsched_langgraph._runtime.refusals import overloaded
from llmsched_langgraph.errors import OverloadedError

RECENT_S = 60.0
"""Seconds for which a look, or the end of a run, counts as recent, if there was one."""

REMEMBERED = 64
"""Number of looks, or of ends, by which a wait is estimated."""


class Pace:
    """The rate of releases, by looks at their total."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)  # clock time, calls released so far

    def note(self, now: float, released: int) -> None:
        """Record the total at a moment."""
        self._seen.append((now, released))

    def wait_s(self, now: float, released: int, needed: int) -> float | None:
        """Return the expected seconds until `needed` more calls are released; None if none was of late."""
        looks = [look for look in tuple(self._seen) if now - look[0] <= RECENT_S] or list(self._seen)
        since_s, ends = (looks[0][0], released - looks[0][1]) if looks else (now, 0)
        if ends < 1 or now <= since_s:
            return None
        return max(needed, 1) * (now - since_s) / ends


class Paces:
    """The paces of the backends that refused calls."""

    def __init__(self) -> None:
        self._of: dict[str, Pace] = {}

    def refusal(self, crowd: Crowd, now: float, view: BackendView) -> OverloadedError:
        """Return the error of a refused call, with the expected wait until one more is taken."""
        pace = self._of.setdefault(crowd.backend, Pace())
        pace.note(now, view.released)
        # A tenant's share of the service is about its share of the backlog.
        needed = (crowd.waiting - crowd.limit + 1) * max(view.waiting, 1) / max(crowd.waiting, 1)
        return overloaded(crowd, pace.wait_s(now, view.released, ceil(needed)))
