"""Knows how a decision becomes true all at once, or not at all.

Does not know what is decided. All state that matters is one dict of immutable values. A decision computes new
values aside and commits them by one call of `dict.update`, which is written in C: the keys are numbers,
strings and tuples of them, so no line of Python runs inside it. What breaks a decision off leaves the state
before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Truth:
    """Committed values, and those of the decision that is being made.

    Attributes:
        committed: what is true. Read it freely; only `commit` writes it.
        staged: what the present decision makes of it; None stands for what is no more.
    """

    __slots__ = ("_removed", "committed", "staged")

    def __init__(self) -> None:
        self.committed: dict[Any, Any] = {}
        self.staged: dict[Any, Any] = {}
        self._removed: list[tuple[Any, Callable[[Any], object] | None]] = []

    def begin(self) -> None:
        """Start a decision. What an earlier one staged and did not commit is forgotten."""
        self.staged = {}

    def get(self, key: Any) -> Any:
        """The value as the present decision has it; None if there is none."""
        staged = self.staged
        return staged[key] if key in staged else self.committed.get(key)

    def remove(self, key: Any, forget: Callable[[Any], object] | None = None) -> None:
        """Stage that there is no such value any more.

        Args:
            key: the value's key.
            forget: takes the key out of an index, once this is committed; it may be called twice.
        """
        self._removed.append((key, forget))
        self.staged[key] = None

    def commit(self) -> None:
        """Make the decision true, and take what is no more out of the indexes."""
        committed = self.committed
        committed.update(self.staged)  # the one store
        self.staged = {}
        removed = self._removed
        while removed:  # by this commit, or by one that was broken off here
            key, forget = removed[-1]
            if key in committed and committed[key] is None:  # else it has come again, or was not committed
                if forget is not None:
                    forget(key)
                del committed[key]
            removed.pop()
