"""Reads values from JSON by name and type, and reports the location of an invalid one.

Opens no files; the caller decides what the values mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from llmsched_langgraph.errors import InvalidDataError

MOST = 10**12
"""Upper bound of token counts and seconds; a larger value is taken for damaged data."""

_Choice = TypeVar("_Choice", bound=StrEnum)


class Field:
    """A value in a JSON document with its path: `node["steps"][3].count()`.

    An invalid value raises InvalidDataError, whose message begins with the path.
    """

    __slots__ = ("_above", "_key", "value")

    def __init__(self, value: Any, above: Field | None = None, key: str | int = "") -> None:
        """Wrap the whole document, or the value under `key` of the field `above`."""
        self.value = value
        self._above = above
        self._key = key

    @classmethod
    def of(cls, data: object) -> Field:
        """Return `data` if it is a `Field`, else wrap it as a document."""
        return data if isinstance(data, Field) else cls(data)

    @property
    def field(self) -> str:
        """The path from the document to this value, as a Python expression."""
        if self._above is None:
            return ""
        above = self._above.field
        if isinstance(self._key, int):
            return f"{above}[{self._key}]"
        return f"{above}.{self._key}" if above else self._key

    def fault(self, wanted: str) -> InvalidDataError:
        """Return the error that this value is not `wanted`."""
        shown = repr(self.value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return InvalidDataError(f"{self.field or 'the document'}: must be {wanted}, not {shown}")

    def placed(self, error: InvalidDataError) -> InvalidDataError:
        """Prefix this object's path to an error that begins with the name of one of its fields."""
        return InvalidDataError(f"{self.field}.{error}" if self.field else str(error))

    def __getitem__(self, key: str | int) -> Field:
        if isinstance(key, str):
            if not isinstance(self.value, dict):
                raise self.fault("an object")
            if key not in self.value:
                raise InvalidDataError(f"{Field(None, self, key).field}: is missing")
        elif not isinstance(self.value, list):
            raise self.fault("a list")
        elif key >= len(self.value):
            raise self.fault(f"a list of {key + 1} or more")
        value: Any = self.value
        return Field(value[key], self, key)

    def at(self, key: str) -> Field:
        """Return the field `key`, which holds None if it is missing."""
        if not isinstance(self.value, dict):
            raise self.fault("an object")
        return Field(self.value.get(key), self, key)

    def get(self, key: str) -> Field | None:
        """Return the field `key`; None if it is missing or null."""
        found = self.at(key)
        return None if found.value is None else found

    def items(self, width: int | None = None) -> Iterator[Field]:
        """Iterate over a list's items. The list must have `width` items if that is given."""
        if not isinstance(self.value, list):
            raise self.fault("a list")
        if width is not None and len(self.value) != width:
            raise self.fault(f"a list of {width}")
        return (Field(value, self, index) for index, value in enumerate(self.value))

    def string(self) -> str:
        """Return a string, which may be empty."""
        if not isinstance(self.value, str):
            raise self.fault("a string")
        return self.value

    def text(self) -> str:
        """Return a non-empty string."""
        if not isinstance(self.value, str) or not self.value:
            raise self.fault("a string that is not empty")
        return self.value

    def choice(self, of: type[_Choice]) -> _Choice:
        """Return the member of the enumeration `of` that has this value."""
        if self.value not in list(of):
            raise self.fault(f"one of {', '.join(of)}")
        return of(self.value)

    def count(self, most: int = MOST, *, least: int = 0) -> int:
        """Return an integer from `least` to `most`."""
        if type(self.value) is not int or not least <= self.value <= most:
            raise self.fault(f"an integer, {least:,} to {most:,}")
        return self.value

    def number(self, most: float = MOST) -> float:
        """Return a number from 0 to `most`."""
        if type(self.value) not in (int, float) or not 0 <= self.value <= most:
            raise self.fault(f"a number, 0 to {most:,}")
        return float(self.value)

    def maybe_text(self) -> str | None:
        """Return a non-empty string, or None for null."""
        return None if self.value is None else self.text()

    def maybe_count(self, *, least: int = 0) -> int | None:
        """Return an integer from `least` to `MOST`, or None for null."""
        return None if self.value is None else self.count(least=least)

    def maybe_number(self) -> float | None:
        """Return a number from 0 to `MOST`, or None for null."""
        return None if self.value is None else self.number()


def refuse_constant(name: str) -> NoReturn:
    """Reject NaN and Infinity: the `parse_constant` of Python's JSON decoder, which accepts them."""
    raise InvalidDataError(f"{name} is not valid JSON; write null for an unknown value")
