"""Generates a random value that a JSON schema accepts, reproducible by seed.

Tools, replies and the OpenAI format are handled elsewhere; `pattern` and rare keywords are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor, isfinite
from random import Random

_FULL_DEPTH = 4
"""Below this depth the value has required properties only, so that recursive schemas end."""
_MAX_DEPTH = 32
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


def example(schema: object, rng: Random, text: Callable[[Random], str]) -> object:
    """Return a value that is valid against `schema`.

    Args:
        schema: A JSON schema; anything but an object accepts every value.
        rng: The only source of randomness.
        text: Generates free text for strings.
    """
    root = schema if isinstance(schema, Mapping) else {}
    return _Maker(root, rng, text).make(root, 0)


class _Maker:
    """One traversal of one schema."""

    def __init__(self, root: Mapping[str, object], rng: Random, text: Callable[[Random], str]) -> None:
        self._root = root
        self._rng = rng
        self._text = text

    def make(self, schema: object, depth: int) -> object:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return None
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        values = schema.get("enum")
        if isinstance(values, list) and values:
            return self._rng.choice(values)
        for key in ("anyOf", "oneOf"):
            branches = schema.get(key)
            if isinstance(branches, list) and branches:
                base = {name: value for name, value in schema.items() if name != key}
                return self.make(_merge(base, self._branch(branches, depth)), depth + 1)
        match _type_of(schema):
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

    def _resolve(self, schema: Mapping[str, object]) -> Mapping[str, object]:
        """Return the schema with its `$ref` and `allOf` resolved."""
        for _ in range(_MAX_DEPTH):
            reference, parts = schema.get("$ref"), schema.get("allOf")
            if isinstance(reference, str):
                rest = {name: value for name, value in schema.items() if name != "$ref"}
                schema = _merge(self._look_up(reference), rest)
            elif isinstance(parts, list):
                schema = {name: value for name, value in schema.items() if name != "allOf"}
                for part in parts:
                    schema = _merge(schema, self._resolve(part) if isinstance(part, Mapping) else {})
            else:
                break
        return schema

    def _look_up(self, reference: str) -> Mapping[str, object]:
        target: object = self._root
        for step in reference.removeprefix("#").split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            target = target.get(step) if isinstance(target, Mapping) else None
        return target if isinstance(target, Mapping) else {}

    def _branch(self, branches: Sequence[object], depth: int) -> Mapping[str, object]:
        resolved = [self._resolve(branch) for branch in branches if isinstance(branch, Mapping)] or [{}]
        if depth > _FULL_DEPTH:  # a scalar ends a recursion that an object or array would continue
            return min(resolved, key=lambda branch: _type_of(branch) in ("object", "array"))
        present = [branch for branch in resolved if _type_of(branch) != "null"] or resolved
        return self._rng.choice(present)

    def _object(self, schema: Mapping[str, object], depth: int) -> dict[str, object]:
        required = schema.get("required")
        names = required if isinstance(required, list) else []
        properties = schema.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        wanted = [name for name in known if depth <= _FULL_DEPTH or name in names]
        wanted += [name for name in names if name not in known]
        return {name: self.make(known.get(name, {}), depth + 1) for name in wanted}

    def _array(self, schema: Mapping[str, object], depth: int) -> list[object]:
        fixed = schema.get("prefixItems")
        head = [self.make(item, depth + 1) for item in fixed] if isinstance(fixed, list) else []
        least = _whole(schema.get("minItems"), 0)
        most = _whole(schema.get("maxItems"), max(least, 3))
        if depth > _FULL_DEPTH or schema.get("items") is False:
            count = least
        else:
            count = self._rng.randint(min(max(least, 1), most), max(least, min(most, least + 2)))
        items: list[object] = list(head)
        tries = 0
        while len(items) < count and tries < 100:
            tries += 1
            item = self.make(schema.get("items", {}), depth + 1)
            if not schema.get("uniqueItems") or item not in items:
                items.append(item)
        return items

    def _number(self, schema: Mapping[str, object], unit: int | None) -> float | int:
        low, high = _number_of(schema.get("minimum")), _number_of(schema.get("maximum"))
        above, below = _number_of(schema.get("exclusiveMinimum")), _number_of(schema.get("exclusiveMaximum"))
        step = _number_of(schema.get("multipleOf")) or unit
        if step is None:  # any real number: the middle half of the range avoids exclusive bounds
            bottom = max((v for v in (low, above) if v is not None), default=None)
            top = min((v for v in (high, below) if v is not None), default=None)
            bottom = bottom if bottom is not None else (0.0 if top is None else top - 100.0)
            top = top if top is not None else bottom + 100.0
            return bottom + (top - bottom) * (0.25 + 0.5 * self._rng.random())
        lows = [ceil(low / step)] if low is not None else []
        lows += [floor(above / step) + 1] if above is not None else []
        highs = [floor(high / step)] if high is not None else []
        highs += [ceil(below / step) - 1] if below is not None else []
        first = max(lows, default=min([0, *highs]))
        last = max(first, min(highs, default=first + 10))
        return self._rng.randint(first, last) * (int(step) if float(step).is_integer() else step)

    def _string(self, schema: Mapping[str, object]) -> str:
        form = schema.get("format")
        if isinstance(form, str) and form in _FORMATS:
            return _FORMATS[form]
        least = _whole(schema.get("minLength"), 0)
        text = self._text(self._rng)
        while len(text) < least:
            text += " " + self._text(self._rng)
        most = _whole(schema.get("maxLength"), len(text))
        return text[:most]


def _type_of(schema: Mapping[str, object]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [entry for entry in kind if entry != "null"] or ["null"]
        kind = kinds[0]
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "string"


def _merge(base: Mapping[str, object], other: Mapping[str, object]) -> dict[str, object]:
    """Merge two schemas: `properties` and `required` are united; for other keywords `other` wins."""
    merged = {**base, **other}
    ours, theirs = base.get("properties"), other.get("properties")
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        merged["properties"] = {**ours, **theirs}
    mine, yours = base.get("required"), other.get("required")
    if isinstance(mine, list) and isinstance(yours, list):
        merged["required"] = [*mine, *(name for name in yours if name not in mine)]
    return merged


def _number_of(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return value


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
