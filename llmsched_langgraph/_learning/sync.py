"""Decides when profiles are written to a store, and handles the store's failures.

Does not store, merge or learn profiles itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from llmsched_langgraph._background import Background
from llmsched_langgraph._belief.profile.profile import ApplicationProfile, Profile
from llmsched_langgraph._fork import start_thread
from llmsched_langgraph._learning.stores import ProfileStore
from llmsched_langgraph.errors import InvalidDataError

logger = logging.getLogger("llmsched_langgraph")

SAVE_INTERVAL_S = 30.0
"""Minimum seconds between two rounds of saving. A save also brings in the jobs of other workers."""

LONGEST_INTERVAL_S = 50.0
"""Maximum seconds between two rounds: a process that is killed loses the jobs of at most a minute."""

REST = 20.0
"""Pause after a round, relative to its duration, within these limits."""


class _Saved(NamedTuple):
    """What a store has of an application, as far as a save can change it."""

    ids: frozenset[str]
    modelled: int
    forgotten_before: float

    @classmethod
    def of(cls, own: ApplicationProfile) -> _Saved:
        return cls(own.history.ids, own.modelled, own.forgotten_before)

    def has(self, own: ApplicationProfile) -> bool:
        now = _Saved.of(own)
        return (
            now.ids <= self.ids
            and now.modelled <= self.modelled
            and now.forgotten_before <= self.forgotten_before
        )


class ProfileSync:
    """Saves applications with new jobs or a new model, in the background, and a last time at the end.

    There is a round of saving every `SAVE_INTERVAL_S` while there is news: what is lost when the process is
    killed is bounded by time, not by a number of jobs.

    A store failure is logged once per application. Scheduling continues; only the unsaved profile is lost.

    Args:
        store: the store.
        newest: returns the newest profile.
        adopt: receives an application's stored profile after a save, with the jobs of other workers.
        background: creates a background thread from its name and its work.
    """

    def __init__(
        self,
        store: ProfileStore,
        newest: Callable[[], Profile],
        adopt: Callable[[ApplicationProfile], None],
        background: Callable[[str, Callable[[], bool]], Background] = Background,
    ) -> None:
        self._store = store
        self._newest = newest
        self._adopt = adopt
        self._saved: dict[str, _Saved] = {}
        self._told: set[str] = set()
        self._next_s = -inf  # start of the next round, on `time.monotonic`
        self._saving = threading.Lock()
        self._background = background("llmsched-profiles", self._round)

    def load(self) -> Profile:
        """Return the stored applications that can be read, and log the errors of the others."""
        try:
            loaded = self._store.load()
        except Exception as error:
            self._tell("", "read", error)
            return Profile()
        for fault in loaded.errors:
            self._tell(str(fault), "read", fault)
        self._saved.update({name: _Saved.of(own) for name, own in loaded.profile.applications.items()})
        return loaded.profile

    def there_is_news(self) -> None:
        """Request a save. O(1); legal in any thread and on any loop."""
        self._background.there_is_work()

    def forked(self, profile: Profile) -> None:
        """Begin anew in the child of a fork, with this profile: the parent saves what is unsaved of it."""
        self._saving = threading.Lock()
        self._saved = {name: _Saved.of(own) for name, own in profile.applications.items()}

    def stop(self) -> None:
        """Stop, and save a last time in a new thread. Only the exit of the process waits for that thread."""
        self._background.stop()
        if not self._unsaved():
            return
        try:
            start_thread(threading.Thread(target=self.save, name="llmsched-profiles", daemon=False))
        except RuntimeError:
            self.save()  # the interpreter is shutting down and starts no threads

    def save(self) -> None:
        """Save all applications that have something new now."""
        with self._saving:
            for own in self._unsaved():
                name = own.application.fingerprint
                try:
                    kept = self._store.save(own)
                except InvalidDataError as error:
                    # The stored profile cannot be read and is not replaced, so a retry would fail too.
                    self._saved[name] = _Saved.of(own)
                    self._tell(name, "saved", error)
                    continue
                except Exception as error:
                    self._tell(name, "saved", error)
                    continue
                self._saved[name] = _Saved.of(kept)
                self._adopt(kept)

    def _unsaved(self) -> list[ApplicationProfile]:
        nothing = _Saved(frozenset(), 0, 0.0)
        applications = self._newest().applications
        return [own for name, own in applications.items() if not self._saved.get(name, nothing).has(own)]

    def _round(self) -> bool:
        if not self._unsaved():
            return False
        wait_s = self._next_s - time.monotonic()
        if wait_s > 0 and self._background.stopped(wait_s):
            return False
        began_s = time.monotonic()
        self.save()
        now_s = time.monotonic()
        self._next_s = now_s + min(max(SAVE_INTERVAL_S, REST * (now_s - began_s)), LONGEST_INTERVAL_S)
        return True

    def _tell(self, about: str, what: str, error: Exception) -> None:
        if about in self._told:
            return
        self._told.add(about)
        said = str(error) if isinstance(error, InvalidDataError) else repr(error)
        logger.warning(
            "a profile could not be %s; scheduling continues without it (logged once): %s", what, said
        )
