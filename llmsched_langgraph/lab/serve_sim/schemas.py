"""Generates a random value that a JSON schema accepts, reproducible by seed and bounded in size and work.

Tools, replies and the OpenAI format are handled elsewhere; `pattern` and rare keywords are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import ceil, floor, isfinite
from random import Random

MOST_CHARACTERS = 524_288
"""Most characters of a value as JSON: a context of 131,072 tokens with 4 characters each."""
_MOST_WORK = 1_000_000
"""Most keys and items of schemas that are looked at for one value: less than a second."""
_STEP = 10
"""What a step of the traversal counts as, beside the keys and items that it looks at."""
_LEAST_OF_VALUE = 3
"""Characters of the smallest value in a list: a digit, a comma and a space."""
_FULL_VALUES = 1_000
"""After so many values the rest has required properties only, as below `_FULL_DEPTH`."""
_MOST_NUMBER = 10**300
_FULL_DEPTH = 4
"""Below this depth the value has required properties only, so that recursive schemas end."""
_MAX_DEPTH = 32
_MOST_MISSES = 100
"""Tries in a row to find an item that a list of unique items has not."""
_FORMATS = {
    "date": "2024-05-17",
    "date-time": "2024-05-17T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT5M",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


class SchemaError(ValueError):
    """No value is generated for the schema; the message says why."""


def example(schema: object, rng: Random, text: Callable[[Random], str]) -> object:
    """Return a value that is valid against `schema`.

    Args:
        schema: A JSON schema; anything but an object accepts every value.
        rng: The only source of randomness.
        text: Generates free text for strings.

    Raises:
        SchemaError: Every value is too long, or the schema is too much work; or it is malformed.
    """
    root = schema if isinstance(schema, Mapping) else {}
    return _Maker(root, rng, text).make(root, 0)


class _Maker:
    """One traversal of one schema."""

    def __init__(self, root: Mapping[str, object], rng: Random, text: Callable[[Random], str]) -> None:
        self._root = root
        self._rng = rng
        self._text = text
        self._characters_left = MOST_CHARACTERS
        self._work_left = _MOST_WORK
        self._values = 0

    def make(self, schema: object, depth: int) -> object:
        self._values += 1
        self._work(_STEP)
        self._write(_LEAST_OF_VALUE)
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return None
        schema = self._resolve(schema, depth)
        if "const" in schema:
            return self._written(schema["const"])
        values = schema.get("enum")
        if isinstance(values, list) and values:
            return self._written(self._rng.choice(values))
        for key in ("anyOf", "oneOf"):
            branches = schema.get(key)
            if isinstance(branches, list) and branches:
                self._work(len(schema))
                base = {name: value for name, value in schema.items() if name != key}
                return self.make(self._merge(base, self._branch(branches, depth)), depth + 1)
        match self._type_of(schema):
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "integer":
                return self._number(schema, 1)
            case "number":
                return self._number(schema, None)
            case "boolean":
                return self._rng.random() < 0.5
            case "null":
                return None
            case _:
                return self._string(schema)

    # -- bounds ------------------------------------------------------------------------

    def _write(self, characters: int, keyword: str = "") -> None:
        """Count characters of the value. `keyword` says which keyword asks for them."""
        self._characters_left -= characters
        if self._characters_left < 0:
            asks = f"{keyword} asks" if keyword else "the schema asks"
            raise SchemaError(f"{asks} for a value of more than {MOST_CHARACTERS:,} characters; ask for less")

    def _written(self, value: object) -> object:
        """Count the characters of a value that stands in the schema."""
        if isinstance(value, list | dict | str):
            self._write(len(json.dumps(value)))
        return value

    def _work(self, amount: int) -> None:
        """Count keys and items of the schema that are looked at."""
        self._work_left -= amount
        if self._work_left < 0:
            raise SchemaError(
                "the schema is too much work: use fewer references, branches, properties or items"
            )

    def _sparing(self, depth: int) -> bool:
        """Return whether to leave out what is not required, so that recursive schemas end."""
        return depth > _FULL_DEPTH or self._values > _FULL_VALUES

    # -- schemas -----------------------------------------------------------------------

    def _resolve(self, schema: Mapping[str, object], depth: int) -> Mapping[str, object]:
        """Return the schema with its `$ref` and `allOf` resolved."""
        self._work(_STEP)
        for _ in range(_MAX_DEPTH):
            reference, parts = schema.get("$ref"), schema.get("allOf")
            if isinstance(reference, str):
                self._work(len(schema))
                rest = {name: value for name, value in schema.items() if name != "$ref"}
                schema = self._merge(self._look_up(reference), rest)
            elif isinstance(parts, list) and depth <= _MAX_DEPTH:
                self._work(len(schema) + len(parts))
                schema = {name: value for name, value in schema.items() if name != "allOf"}
                for part in parts:
                    found = self._resolve(part, depth + 1) if isinstance(part, Mapping) else {}
                    schema = self._merge(schema, found)
            else:
                break
        return schema

    def _look_up(self, reference: str) -> Mapping[str, object]:
        self._work(len(reference))
        target: object = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            target = target.get(step) if isinstance(target, Mapping) else None
        return target if isinstance(target, Mapping) else {}

    def _branch(self, branches: Sequence[object], depth: int) -> Mapping[str, object]:
        self._work(len(branches))
        resolved = [self._resolve(branch, depth) for branch in branches if isinstance(branch, Mapping)] or [
            {}
        ]
        if self._sparing(depth):  # a scalar ends a recursion that an object or array would continue
            return min(resolved, key=lambda branch: self._type_of(branch) in ("object", "array"))
        present = [branch for branch in resolved if self._type_of(branch) != "null"] or resolved
        return self._rng.choice(present)

    def _type_of(self, schema: Mapping[str, object]) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            self._work(len(kind))
            kind = next((entry for entry in kind if entry != "null"), "null")
        if isinstance(kind, str):
            return kind
        if "properties" in schema or "required" in schema:
            return "object"
        if "items" in schema or "prefixItems" in schema:
            return "array"
        return "string"

    def _merge(self, base: Mapping[str, object], other: Mapping[str, object]) -> dict[str, object]:
        """Merge two schemas: `properties` and `required` are united; for other keywords `other` wins."""
        merged = {**base, **other}
        self._work(_STEP + len(merged))
        ours, theirs = base.get("properties"), other.get("properties")
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            self._work(len(ours) + len(theirs))
            merged["properties"] = {**ours, **theirs}
        mine, yours = base.get("required"), other.get("required")
        if isinstance(mine, list) and isinstance(yours, list):
            merged["required"] = list(dict.fromkeys([*self._names(mine), *self._names(yours)]))
        return merged

    def _names(self, required: list[object]) -> list[str]:
        self._work(len(required))
        names = [name for name in required if isinstance(name, str)]
        if len(names) < len(required):
            raise SchemaError("required must be a list of names")
        return names

    # -- values ------------------------------------------------------------------------

    def _object(self, schema: Mapping[str, object], depth: int) -> dict[str, object]:
        required = schema.get("required")
        names = self._names(required) if isinstance(required, list) else []
        properties = schema.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        self._work(len(known))
        always = set(names)
        wanted = [name for name in known if name in always or not self._sparing(depth)]
        wanted += [name for name in dict.fromkeys(names) if name not in known]
        made: dict[str, object] = {}
        for name in wanted:
            if name in always or not self._sparing(depth):
                self._write(len(name) + 4)
                made[name] = self.make(known.get(name, {}), depth + 1)
        return made

    def _array(self, schema: Mapping[str, object], depth: int) -> list[object]:
        fixed = schema.get("prefixItems")
        items = [self.make(item, depth + 1) for item in fixed] if isinstance(fixed, list) else []
        least = _whole(schema.get("minItems"), 0)
        most = _whole(schema.get("maxItems"), max(least, 3))
        if self._sparing(depth) or schema.get("items") is False:
            count = least
        else:
            count = self._rng.randint(min(max(least, 1), most), max(least, min(most, least + 2)))
        if (least - len(items)) * _LEAST_OF_VALUE > self._characters_left:
            self._write(least * _LEAST_OF_VALUE, f"minItems {least}")
        if not schema.get("uniqueItems"):
            return items + [self.make(schema.get("items", {}), depth + 1) for _ in range(len(items), count)]
        seen = {json.dumps(item, sort_keys=True) for item in items}
        misses = 0
        while len(items) < count and misses < _MOST_MISSES:
            item = self.make(schema.get("items", {}), depth + 1)
            text = json.dumps(item, sort_keys=True)
            misses = misses + 1 if text in seen else 0
            if not misses:
                seen.add(text)
                items.append(item)
        return items

    def _number(self, schema: Mapping[str, object], unit: int | None) -> float:
        low, high = _number_of(schema, "minimum"), _number_of(schema, "maximum")
        above, below = _number_of(schema, "exclusiveMinimum"), _number_of(schema, "exclusiveMaximum")
        multiple = _number_of(schema, "multipleOf")
        step = multiple if multiple is not None and multiple > 0 else unit
        if step is None:  # any real number: the middle half of the range avoids exclusive bounds
            bottoms = [float(value) for value in (low, above) if value is not None]
            tops = [float(value) for value in (high, below) if value is not None]
            bottom = max(bottoms, default=min(tops) - 100.0 if tops else 0.0)
            top = min(tops, default=bottom + 100.0)
            return self._digits(bottom + (top - bottom) * (0.25 + 0.5 * self._rng.random()))
        exact = Fraction(step)
        lows = [ceil(low / exact)] if low is not None else []
        lows += [floor(above / exact) + 1] if above is not None else []
        highs = [floor(high / exact)] if high is not None else []
        highs += [ceil(below / exact) - 1] if below is not None else []
        first = max(lows, default=min([0, *highs]))
        last = max(first, min(highs, default=first + 10))
        times = self._rng.randint(first, last)
        return self._digits(times * int(exact) if exact.denominator == 1 else float(times * exact))

    def _digits(self, number: float) -> float:
        self._write(len(repr(number)))
        return number

    def _string(self, schema: Mapping[str, object]) -> str:
        form = schema.get("format")
        if isinstance(form, str) and form in _FORMATS:
            text = _FORMATS[form]
            self._write(len(text))
            return text
        least = _whole(schema.get("minLength"), 0)
        if least > self._characters_left:
            self._write(least, f"minLength {least}")
        text = self._text(self._rng)
        if len(text) < least:
            parts, length = [text], len(text)
            while length < least:
                parts.append(self._text(self._rng))
                length += 1 + len(parts[-1])
            text = " ".join(parts)
        text = text[: _whole(schema.get("maxLength"), len(text))]
        self._write(len(text))
        return text


def _number_of(schema: Mapping[str, object], keyword: str) -> Fraction | None:
    """Return the number under a keyword; None if there is none."""
    value = schema.get(keyword)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not isfinite(value):
        return None
    if abs(value) > _MOST_NUMBER:
        raise SchemaError(f"{keyword} must lie within 1e300")
    return Fraction(value)


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
