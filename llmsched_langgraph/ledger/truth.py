"""Knows how a decision becomes true all at once, or not at all.

Does not know what is decided. All state that matters is one dict of immutable values. A decision computes new
values aside and commits them by one call of `dict.update`, which is written in C: the keys are numbers,
strings and tuples of them, so no line of Python runs inside it. What breaks a decision off leaves the state
before.
"""

from __future__ import annotations

from typing import Any


class Truth:
    """Committed values, and those of the decision that is being made.

    Attributes:
        committed: what is true. Read it freely; only `commit` writes it.
        staged: what the present decision makes of it; None stands for what is no more.
    """

    __slots__ = ("_gone", "committed", "staged")

    def __init__(self) -> None:
        self.committed: dict[Any, Any] = {}
        self.staged: dict[Any, Any] = {}
        self._gone: list[Any] = []

    def begin(self) -> None:
        """Start a decision. What an earlier one staged and did not commit is forgotten."""
        self.staged = {}

    def get(self, key: Any) -> Any:
        """The value as the present decision has it; None if there is none."""
        staged = self.staged
        return staged[key] if key in staged else self.committed.get(key)

    def remove(self, key: Any) -> None:
        """Stage that there is no such value any more."""
        self._gone.append(key)
        self.staged[key] = None

    def commit(self) -> list[Any]:
        """Make the decision true. The keys that were removed for good."""
        committed = self.committed
        committed.update(self.staged)  # the one store
        self.staged = {}
        if not self._gone:
            return _NOTHING
        swept = []
        for key in self._gone:
            if key in committed and committed[key] is None:
                swept.append(key)
                del committed[key]
        self._gone.clear()
        return swept


_NOTHING: list[Any] = []
