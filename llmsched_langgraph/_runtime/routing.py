"""Finds the backend that serves a call, by the names of its model, deployment and server.

Does not read models or requests, or hold slots.

A call has several names: of its model, its deployment, its endpoint. A backend claims the call if one of its
`models` matches one of the names, or one of its `base_urls` the base URL. The first backend that claims a
call serves it. *Loose* names, such as a model's name without its provider, count only if no backend claims
one of the others. A call that no backend claims goes to the backend without `models` and `base_urls`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import NamedTuple

from llmsched_langgraph._ledger.backends import DEFAULT_SLOTS, Backend, as_slots
from llmsched_langgraph.errors import ConfigurationError, UnknownModelError

_MAX_CACHED = 4096
"""Number of differently named calls whose backend is remembered."""

_CURE = "or add a Backend without models to serve the rest"


class Requested(NamedTuple):
    """The names of what a call asks for.

    Attributes:
        by: the class that makes the call, for messages.
        names: distinct names of the model and of where it is deployed, the most specific first.
        labels: the kind of each of `names`: "model", "deployment" or "endpoint".
        loose: further names, which count only if none of `names` is claimed.
        base_urls: the URLs that the request goes to or below, without credentials or a final slash.
        account: a hash of the key that the request is sent with; empty if there is none, or it is not read.
    """

    by: str = ""
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    base_urls: tuple[str, ...] = ()
    account: str = ""


def hashed(keys: Sequence[str]) -> str:
    """Return a hash of these keys, from which they cannot be found; the empty string for none."""
    if not keys:
        return ""
    text = "\0".join(keys).encode(errors="surrogatepass")  # a variable of the environment may be any bytes
    return blake2b(text, key=b"llmsched account", digest_size=6).hexdigest()


class Router:
    """Assigns calls to backends.

    Attributes:
        only: the name of the backend that serves every call; None if it depends on the call's names.
        priced: whether a backend has prices, so that the cost of a call depends on its names.
        names: the names of the backends.
        per_account: the names of those whose limits each account has for itself.
        watched: whether somebody who observes the scheduler reads the names of calls.

    Raises:
        ConfigurationError: there is no backend, or two have one name or claim the same.
    """

    def __init__(self, pools: Sequence[Backend]) -> None:
        _check(pools)
        rest = [pool.name for pool in pools if pool.models is None and pool.base_urls is None]
        self.only = rest[0] if len(pools) == len(rest) else None
        self.priced = any(pool.prices is not None for pool in pools)
        self.names = tuple(pool.name for pool in pools)
        self.per_account = frozenset(pool.name for pool in pools if pool.per_account)
        self.watched = False
        pools = tuple(pools)
        route = functools.partial(_backend_of, pools, rest[0] if rest else None)
        self._backend_of = functools.lru_cache(_MAX_CACHED)(route)
        self._claimant = functools.lru_cache(_MAX_CACHED)(functools.partial(_claimant, pools))

    @property
    def by_name(self) -> bool:
        """Whether the names of a call affect its backend or its cost, or are read."""
        return self.only is None or self.priced or self.watched or bool(self.per_account)

    def claims(self, asked: Requested) -> bool:
        """Return whether a backend claims the call by one of its names or URLs."""
        return self.only is None and self._claimant(asked) is not None

    def backend_of(self, asked: Requested | str | None) -> str:
        """Return the name of the backend that serves a call, given all of its names, or one, or none.

        Raises:
            UnknownModelError: no backend serves it.
        """
        return self._backend_of(asked)


def as_backends(slots: object, backends: object) -> list[Backend]:
    """Return the backends that a scheduler was given, as a list: one with these slots, or the backends.

    Raises:
        ConfigurationError: both were given, or the backends are no list of `Backend` objects.
    """
    if backends is None:
        return [Backend(slots=as_slots(DEFAULT_SLOTS if slots is None else slots, "slots"))]
    if slots is not None:
        raise ConfigurationError("give either slots or backends: each Backend has its own slots")
    given = list(backends) if isinstance(backends, Iterable) else [backends]
    pools = [pool for pool in given if isinstance(pool, Backend)]
    if len(pools) < len(given) or isinstance(backends, Backend):
        wrong = [pool for pool in given if not isinstance(pool, Backend)]
        what = repr(wrong[0]) if wrong else "one alone"
        raise ConfigurationError(
            f'backends must be a list of Backend objects, such as [Backend("gpu", 4)], not {what}'
        )
    return pools


def _check(pools: Sequence[Backend]) -> None:
    if not pools:
        raise ConfigurationError("a scheduler needs at least one Backend")
    names: set[str] = set()
    claims: dict[tuple[str, str], str] = {}
    for pool in pools:
        if pool.name in names:
            raise ConfigurationError(f"two backends are called {pool.name!r}; give each its own name")
        if pool.shared != pool.name:
            raise ConfigurationError(f"backend {pool.name!r} is per_account: its name must have no '#'")
        names.add(pool.name)
        for what in _claims(pool):
            if what in claims:
                kind, value = what
                claimed = f"{kind} {value!r}" if value else kind
                raise ConfigurationError(
                    f"backends {claims[what]!r} and {pool.name!r} both claim {claimed}; name it in one "
                    f"of them only"
                    + ("" if value else ", or give one models, or models=[] if it is for tools")
                )
            claims[what] = pool.name


def _claims(pool: Backend) -> list[tuple[str, str]]:
    if pool.models is None and pool.base_urls is None:
        return [("every model", "")]
    # Within one backend, a repetition contradicts nothing.
    models, urls = dict.fromkeys(pool.models or ()), dict.fromkeys(pool.base_urls or ())
    return [*(("model", model) for model in models), *(("base URL", url) for url in urls)]


def _backend_of(pools: Sequence[Backend], rest: str | None, asked: Requested | str | None) -> str:
    found = _claimant(pools, asked)
    if found is None:
        found = rest
    if found is None:
        raise UnknownModelError(_not_served(pools, asked))
    return found


def _claimant(pools: Sequence[Backend], asked: Requested | str | None) -> str | None:
    """Return the name of the backend that claims the call; None if none does."""
    wanted = _wanted(asked)
    # A call without a name is claimed by "*" only.
    names = wanted.names or ("",)
    for pool in pools:
        if _any_matches(pool.models, names) or _any_is_below(pool.base_urls, wanted.base_urls):
            return pool.name
    for pool in pools:
        if _any_matches(pool.models, wanted.loose):
            return pool.name
    return None


def _wanted(asked: Requested | str | None) -> Requested:
    if isinstance(asked, Requested):
        return asked
    if asked is None:
        return Requested()
    return Requested(names=(asked,), base_urls=(asked.rstrip("/"),) if "://" in asked else ())


def names_of(asked: Requested | str | None) -> tuple[str, ...]:
    """Return the names of the model that a call asks for, and of where it is deployed."""
    wanted = _wanted(asked)
    return wanted.names + wanted.loose


def _any_matches(patterns: Iterable[str] | None, names: Iterable[str]) -> bool:
    return any(name == glob or fnmatchcase(name, glob) for glob in patterns or () for name in names)


def _any_is_below(patterns: Iterable[str] | None, urls: Sequence[str]) -> bool:
    """Return whether one of the URLs, or one that contains it, matches."""
    return any(
        url == glob or fnmatchcase(url, glob) or fnmatchcase(url, f"{glob}/*")
        for glob in patterns or ()
        for url in urls
    )


def _not_served(pools: Sequence[Backend], asked: Requested | str | None) -> str:
    known = ", ".join(
        [*sorted({model for pool in pools for model in pool.models or ()}),
         *sorted({url for pool in pools for url in pool.base_urls or ()})]
    )  # fmt: skip
    if not isinstance(asked, Requested):
        if asked is None:
            return f"slot() does not say which model it is for (known: {known}); give it model=..., {_CURE}"
        return f"no backend serves model {asked!r} (known: {known}); name it in a Backend's models, {_CURE}"
    by = asked.by or "the call"
    seen = [
        *(f"{label} {name!r}" for label, name in sorted(zip(asked.labels, asked.names, strict=True))),
        *(f"base URL {url!r}" for url in asked.base_urls if any(pool.base_urls for pool in pools)),
    ]
    if not seen:
        return f"no backend serves {by}, which names no model (known: {known}); add a Backend without models"
    what = ", ".join([by, *seen])
    return f"no backend serves {what} (known: {known}); name one of these in a Backend's models, {_CURE}"
