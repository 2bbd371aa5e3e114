"""Stores profiles in Redis or Valkey, beside the slots that processes share or alone.

Does not decide when to save. The profiles are fields of one hash, by the application's fingerprint.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from llmsched_langgraph._belief.profile.merging import merged
from llmsched_langgraph._belief.profile.profile import ApplicationProfile
from llmsched_langgraph._learning.stores import TRIES, Loaded, loaded, read_json, read_profile
from llmsched_langgraph._ledger.redis.connection import connected, shown
from llmsched_langgraph.errors import LedgerUnreachableError

KEY = "llmsched:1:profiles"
"""Key of the hash; the number is the version of the format."""

TIMEOUT_S = 5.0

T = TypeVar("T")


class RedisProfiles:
    """Profiles at a server. A save is a transaction: it merges anew if another worker wrote meanwhile.

    Args:
        url: the URL of the server, as for `Scheduler(url=...)`.

    Raises:
        ConfigurationError: the URL is invalid, or the package redis is not installed.
    """

    def __init__(self, url: str) -> None:
        self._server = connected(url, TIMEOUT_S)
        weakref.finalize(self, self._server.connection_pool.disconnect).atexit = False
        self._url = shown(url)

    def __repr__(self) -> str:
        return f"RedisProfiles({self._url!r})"

    def load(self) -> Loaded:
        """Return all profiles, and the errors of those that cannot be read.

        Raises:
            LedgerUnreachableError: the server does not answer.
        """
        found: Any = self._ask(lambda: self._server.hgetall(KEY))
        texts = {name.decode(): text for name, text in found.items()}
        return loaded(sorted(texts), lambda name: self._read(name, texts[name]))

    def load_one(self, fingerprint: str) -> ApplicationProfile | None:
        """Return the profile of one application; see `ProfileStore.load_one`."""
        text: Any = self._ask(lambda: self._server.hget(KEY, fingerprint))
        return None if text is None else self._read(fingerprint, text)

    def save(self, profile: ApplicationProfile) -> ApplicationProfile:
        """Merge a profile into the stored one; see `ProfileStore.save`.

        Raises:
            InvalidDataError: the stored profile cannot be read. It is not changed.
            LedgerUnreachableError: the server does not answer.
        """
        return self._ask(lambda: self._saved(profile))

    def _saved(self, profile: ApplicationProfile) -> ApplicationProfile:
        import redis

        from llmsched_langgraph._belief.profile.serialization import (
            application_profile_to_json,  # late: numpy
        )

        name = profile.application.fingerprint
        with self._server.pipeline() as transaction:
            for tries in range(1, TRIES + 1):
                try:
                    transaction.watch(KEY)  # type: ignore[no-untyped-call]
                    text: Any = transaction.hget(KEY, name)
                    result = profile if text is None else merged(self._read(name, text), profile)
                    made = json.dumps(application_profile_to_json(result), allow_nan=False)
                    transaction.multi()
                    transaction.hset(KEY, name, made)
                    transaction.execute()
                    return result
                except redis.WatchError:
                    if tries == TRIES:
                        raise
        raise AssertionError("unreachable")

    def _read(self, name: str, text: bytes) -> ApplicationProfile:
        place = f"{self._url} {KEY} {name}"
        return read_profile(place, name, read_json(text, place))

    def _ask(self, question: Callable[[], T]) -> T:
        import redis

        try:
            return question()
        except redis.RedisError as error:
            what = f"{type(error).__name__}: {error}"
            raise LedgerUnreachableError(f"profiles at {self._url}: {what}") from None
