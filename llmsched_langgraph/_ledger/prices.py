"""Computes the cost of a call's tokens at a backend.

Does not count tokens or calls, or limit what a run may spend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from llmsched_langgraph._jobs.calls import Usage
from llmsched_langgraph.errors import ConfigurationError

PER = 1_000_000
"""Number of tokens to which a price refers."""


class Prices(Mapping[str, tuple[float, float]]):
    """Prices per million tokens, input and output, by a glob of model names. Immutable and hashable.

    Args:
        given: the prices; the order counts, because the first glob that matches decides.
        what: the beginning of error messages.

    Raises:
        ConfigurationError: `given` is no mapping, or a glob or a price is invalid.
    """

    __slots__ = ("_items",)

    def __init__(self, given: object, what: str) -> None:
        if not isinstance(given, Mapping) or not given:
            raise ConfigurationError(
                f"{what} must map globs of model names to prices per million tokens, such as "
                f'{{"gpt-4o*": (2.5, 10.0)}} for input and output, not {given!r}'
            )
        self._items = tuple([_item(glob, pair, what) for glob, pair in given.items()])

    def cost(self, names: tuple[str, ...], usage: Usage) -> float | None:
        """Return the cost of a call; None if no glob matches one of its names, or a token count is unknown.

        A call without names is matched by "*" only.
        """
        prompt_tokens, output_tokens = usage.prompt_tokens, usage.output_tokens
        if prompt_tokens is None or output_tokens is None:
            return None
        for glob, (input_, output) in self._items:
            if any(name == glob or fnmatchcase(name, glob) for name in names or ("",)):
                return (max(prompt_tokens, 0) * input_ + max(output_tokens, 0) * output) / PER
        return None

    def __getitem__(self, glob: str) -> tuple[float, float]:
        return dict(self._items)[glob]

    def __iter__(self) -> Iterator[str]:
        return iter([glob for glob, _ in self._items])

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items))

    def __repr__(self) -> str:
        return repr(dict(self._items))


def _item(glob: object, pair: object, what: str) -> tuple[str, tuple[float, float]]:
    if not isinstance(glob, str) or not glob:
        raise ConfigurationError(f"{what} has {glob!r}; write a model's name or a glob, such as 'gpt-4o*'")
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(map(_is_price, pair)):
        raise ConfigurationError(
            f"{what}: {glob!r} must have two prices per million tokens, (input, output), each a number "
            f"of 0 or more, not {pair!r}"
        )
    return glob, (float(pair[0]), float(pair[1]))


def _is_price(price: object) -> bool:
    return (
        isinstance(price, int | float) and not isinstance(price, bool) and math.isfinite(price) and price >= 0
    )
