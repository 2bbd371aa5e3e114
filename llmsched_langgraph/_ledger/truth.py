"""Makes a decision atomic: all of its values are committed, or none.

Does not define what is decided. The whole state is one dict of immutable values. A decision computes new
values separately and commits them by one call of `dict.update`. That call is atomic: it is written in C, and
the keys are numbers, strings and tuples of them, so it executes no Python bytecode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Truth:
    """The committed values, and those of the current decision.

    Attributes:
        committed: the committed values. Only `commit` writes them.
        staged: the current decision's new values; None marks a removed key.
    """

    __slots__ = ("_removed", "committed", "staged")

    def __init__(self) -> None:
        self.committed: dict[Any, Any] = {}
        self.staged: dict[Any, Any] = {}
        self._removed: list[tuple[Any, Callable[[Any], object] | None]] = []

    def begin(self) -> None:
        """Start a decision. Discard what an interrupted one staged."""
        self.staged = {}

    def get(self, key: Any) -> Any:
        """Return the value including the current decision's changes; None if there is none."""
        staged = self.staged
        return staged[key] if key in staged else self.committed.get(key)

    def remove(self, key: Any, forget: Callable[[Any], object] | None = None) -> None:
        """Stage the removal of a value.

        Args:
            key: the value's key.
            forget: removes the key from an index after the commit; it must be idempotent.
        """
        self._removed.append((key, forget))
        self.staged[key] = None

    def commit(self) -> None:
        """Commit the decision, then remove deleted keys from the indexes."""
        committed = self.committed
        committed.update(self.staged)  # atomic
        self.staged = {}
        removed = self._removed
        while removed:  # of this commit or an interrupted one
            key, forget = removed[-1]
            if key in committed and committed[key] is None:  # else it was set again, or not committed
                if forget is not None:
                    forget(key)
                del committed[key]
            removed.pop()
