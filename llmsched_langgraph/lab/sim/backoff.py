"""Decides how long a simulated client waits before it sends a refused request again.

Does not send it. The wait is the client's own: it holds no slot meanwhile. The backend's pause adds to it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmsched_langgraph._ledger.pauses import Failure

Backoff = Callable[[int, Failure], float]
"""Returns the seconds between the n-th failed attempt of a call, from 1, and its next one."""


def at_once(attempts: int, failure: Failure) -> float:
    """Return 0: only the backend's pause holds the next attempt back, as with `Backend.retries`."""
    return 0.0


class Doubling:
    """The wait of OpenAI's client: what the refusal names, else 0.5, 1, 2, ... s, less up to a quarter.

    Args:
        seed: seed of the random part.
        first_s: longest wait after the first failed attempt.
        most_s: longest wait.
        obeyed_s: longest time named by a refusal that the client obeys.
    """

    def __init__(
        self, seed: int = 0, *, first_s: float = 0.5, most_s: float = 8.0, obeyed_s: float = 60.0
    ) -> None:
        self._deal = np.random.default_rng(seed)
        self._first_s, self._most_s, self._obeyed_s = first_s, most_s, obeyed_s

    def __call__(self, attempts: int, failure: Failure) -> float:
        """See `Backoff`."""
        named_s = failure.retry_after_s
        if named_s is not None and 0.0 < named_s <= self._obeyed_s:
            return named_s
        longest_s = min(self._first_s * 2.0 ** min(attempts - 1, 64), self._most_s)
        return longest_s * (1.0 - 0.25 * float(self._deal.random()))
