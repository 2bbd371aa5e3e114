"""Knows how to read a value out of JSON by name and type, and how to say where one is wrong.

Does not know files, nor what the values are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from llmsched_langgraph.errors import InvalidDataError

MOST = 10**12
"""No job has more tokens or lasts for more seconds: a number above is a damaged one."""

_Choice = TypeVar("_Choice", bound=StrEnum)


class Field:
    """A value in a JSON document and the way to it: `node["steps"][3].count()`.

    Everything that is not as asked for raises InvalidDataError, which begins with the field's name.
    """

    __slots__ = ("_above", "_key", "value")

    def __init__(self, value: Any, above: Field | None = None, key: str | int = "") -> None:
        """Take the whole document, or what stands under `key` in the node `above`."""
        self.value = value
        self._above = above
        self._key = key

    @classmethod
    def of(cls, data: object) -> Field:
        """The data itself if it is part of a document already, else the document that it is."""
        return data if isinstance(data, Field) else cls(data)

    @property
    def field(self) -> str:
        """The way from the document to here, as a Python programmer would write it."""
        if self._above is None:
            return ""
        above = self._above.field
        if isinstance(self._key, int):
            return f"{above}[{self._key}]"
        return f"{above}.{self._key}" if above else self._key

    def fault(self, wanted: str) -> InvalidDataError:
        """The error that this value is not what is wanted."""
        shown = repr(self.value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return InvalidDataError(f"{self.field or 'the document'}: must be {wanted}, not {shown}")

    def placed(self, error: InvalidDataError) -> InvalidDataError:
        """An error that begins with the name of a field in this object, with the way to here before it."""
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
        """What stands under `key`, or null where there is nothing."""
        if not isinstance(self.value, dict):
            raise self.fault("an object")
        return Field(self.value.get(key), self, key)

    def get(self, key: str) -> Field | None:
        """What stands under `key`, or None where there is nothing or null."""
        found = self.at(key)
        return None if found.value is None else found

    def items(self, width: int | None = None) -> Iterator[Field]:
        """The items of a list, which has `width` of them if that is given."""
        if not isinstance(self.value, list):
            raise self.fault("a list")
        if width is not None and len(self.value) != width:
            raise self.fault(f"a list of {width}")
        return (Field(value, self, index) for index, value in enumerate(self.value))

    def string(self) -> str:
        """A string, which may be empty."""
        if not isinstance(self.value, str):
            raise self.fault("a string")
        return self.value

    def text(self) -> str:
        """A string that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.fault("a string that is not empty")
        return self.value

    def choice(self, of: type[_Choice]) -> _Choice:
        """A member of an enumeration, by its value."""
        if self.value not in list(of):
            raise self.fault(f"one of {', '.join(of)}")
        return of(self.value)

    def count(self, most: int = MOST, *, least: int = 0) -> int:
        """An integer from `least` to `most`."""
        if type(self.value) is not int or not least <= self.value <= most:
            raise self.fault(f"an integer, {least:,} to {most:,}")
        return self.value

    def number(self, most: float = MOST) -> float:
        """A number from 0 to a finite `most`."""
        if type(self.value) not in (int, float) or not 0 <= self.value <= most:
            raise self.fault(f"a number, 0 to {most:,}")
        return float(self.value)

    def maybe_text(self) -> str | None:
        """A string, or None for null."""
        return None if self.value is None else self.text()

    def maybe_count(self, *, least: int = 0) -> int | None:
        """An integer from `least` to `MOST`, or None for null."""
        return None if self.value is None else self.count(least=least)

    def maybe_number(self) -> float | None:
        """A number from 0 to `MOST`, or None for null."""
        return None if self.value is None else self.number()


def refuse_constant(name: str) -> NoReturn:
    """What to do about NaN and Infinity, which Python's JSON would let pass: its `parse_constant`.

    Raises:
        InvalidDataError: always.
    """
    raise InvalidDataError(f"{name} is no JSON; write null for what is not known")
