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
        gone: keys that are no more. The owner clears it once no index of it names them.
    """

    __slots__ = ("_removed", "committed", "gone", "staged")

    def __init__(self) -> None:
        self.committed: dict[Any, Any] = {}
        self.staged: dict[Any, Any] = {}
        self.gone: list[Any] = []
        self._removed: list[Any] = []

    def begin(self) -> None:
        """Start a decision. What an earlier one staged and did not commit is forgotten."""
        self.staged = {}

    def get(self, key: Any) -> Any:
        """The value as the present decision has it; None if there is none."""
        staged = self.staged
        return staged[key] if key in staged else self.committed.get(key)

    def remove(self, key: Any) -> None:
        """Stage that there is no such value any more."""
        self._removed.append(key)
        self.staged[key] = None

    def commit(self) -> list[Any]:
        """Make the decision true. The same as `gone`."""
        committed = self.committed
        committed.update(self.staged)  # the one store
        self.staged = {}
        if self._removed:
            for key in self._removed:
                if key in committed and committed[key] is None:
                    self.gone.append(key)
                    del committed[key]
            self._removed.clear()
        return self.gone
