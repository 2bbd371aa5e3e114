"""Knows when what was learned is written to a store, and what is done if that cannot be read or written.

Does not know how anything is stored, merged or learned.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from llmsched_langgraph._background import Background
from llmsched_langgraph._belief.profile.profile import ApplicationProfile, Profile
from llmsched_langgraph._learning.stores import ProfileStore
from llmsched_langgraph.errors import InvalidDataError

logger = logging.getLogger("llmsched_langgraph")

SAVE_INTERVAL_S = 30.0
"""Seconds from one round of saving to the next, at least: workers see each other's jobs as often."""


class ProfileSync:
    """Saves what is new of each application, in the background, and once more at the end.

    Whatever goes wrong with the store is said once for each application, and costs nothing but what would
    have been kept.

    Args:
        store: where to.
        newest: gives the newest profile.
        adopt: takes what is stored of an application after a save, with what other workers brought.
        background: makes what works in the background.
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
        self._saved: dict[str, int] = {}  # jobs of each application when it was saved last
        self._told: set[str] = set()
        self._last_s = -SAVE_INTERVAL_S
        self._saving = threading.Lock()
        self._background = background("llmsched-keeping", self._round)

    def load(self) -> Profile:
        """What is stored, as far as it can be read."""
        try:
            loaded = self._store.load()
        except Exception as error:
            self._tell("", "read", error)
            return Profile()
        for fault in loaded.errors:
            self._tell(str(fault), "read", fault)
        self._saved.update({name: own.jobs for name, own in loaded.profile.applications.items()})
        return loaded.profile

    def there_is_news(self) -> None:
        """Something was learned: save it when it is time."""
        self._background.there_is_work()

    def stop(self) -> None:
        """Save what is left, and no more after that. Nobody has to wait for it but the end of the process."""
        self._background.stop()
        if not self._unsaved():
            return
        try:
            threading.Thread(target=self.save, name="llmsched-keeping", daemon=False).start()
        except RuntimeError:
            self.save()  # the interpreter is going down and gives no threads any more

    def save(self) -> None:
        """Save all that is new, here and now."""
        with self._saving:
            for own in self._unsaved():
                name = own.application.fingerprint
                try:
                    kept = self._store.save(own)
                except InvalidDataError as error:
                    # What is stored cannot be read and is left alone: trying again changes nothing.
                    self._saved[name] = own.jobs
                    self._tell(name, "saved", error)
                    continue
                except Exception as error:
                    self._tell(name, "saved", error)
                    continue
                self._saved[name] = kept.jobs
                self._adopt(kept)

    def _unsaved(self) -> list[ApplicationProfile]:
        applications = self._newest().applications
        return [own for name, own in applications.items() if own.jobs > self._saved.get(name, 0)]

    def _round(self) -> bool:
        if not self._unsaved():
            return False
        wait_s = self._last_s + SAVE_INTERVAL_S - time.monotonic()
        if wait_s > 0 and self._background.stopped(wait_s):
            return False
        self._last_s = time.monotonic()
        self.save()
        return True

    def _tell(self, about: str, what: str, error: Exception) -> None:
        if about in self._told:
            return
        self._told.add(about)
        said = str(error) if isinstance(error, InvalidDataError) else repr(error)
        logger.warning(
            "a profile could not be %s, and scheduling goes on without it (said once): %s", what, said
        )
