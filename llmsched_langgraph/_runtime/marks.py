"""Knows how to set a context variable for the length of a block, whoever ends the block.

Does not know what the variables mean.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Generic, TypeVar

T = TypeVar("T")


class Mark(Generic[T]):
    """Sets a context variable for the length of a block; for one block after the other, as often as needed.

    A generator shares its consumer's context. So whoever is marked there is marked for one step at a time.
    """

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[T], value: T) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> None:
        self._token: Token[T] = self._variable.set(self._value)

    def __exit__(self, *_: object) -> None:
        unmark(self._variable, self._token)


def unmark(variable: ContextVar[T], token: Token[T]) -> None:
    """Undo `variable.set(...)`: what a `Mark` does at its end, for where each microsecond counts."""
    try:
        variable.reset(token)
    except ValueError:
        pass  # a finaliser runs in another context than the one that was marked, and that one is gone
