"""Bounds the number of values that a label of a metric takes.

Does not know what the values mean.
"""

from __future__ import annotations

MOST = 100
"""Values that each label takes; all further ones are `OTHER`."""

OTHER = "other"
"""The value of a label that stands for all values beyond the first `MOST`."""


class Bounded:
    """Replaces all values but the first `most` by `OTHER`. The empty value always stays.

    Thread-safe: a race lets at most one value more in for each thread.
    """

    __slots__ = ("_known", "_most")

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: dict[str, str] = {"": "", OTHER: OTHER}

    def __call__(self, value: str) -> str:
        """Return the value, or `OTHER`."""
        known = self._known.get(value)
        if known is None:
            if len(self._known) - 2 >= self._most:
                return OTHER
            known = self._known[value] = value
        return known
