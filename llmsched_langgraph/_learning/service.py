"""Knows what is done beside the calls: beliefs, learning, keeping, recording, and what is told of them.

Does not know how any of it is done, nor who is served.
"""

from __future__ import annotations

import atexit
import os
import secrets
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.events import BeliefFormed, Entry, Event, ProfileLearned
from llmsched_langgraph._learning.beliefs import BeliefFormer
from llmsched_langgraph._learning.learner import Learner
from llmsched_langgraph._learning.stores import ProfileStore
from llmsched_langgraph._observe.closed import ClosedJob
from llmsched_langgraph._observe.recorder import Recorder

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.belief import Belief


class LearningService:
    """Forms beliefs, learns and records, in the background, and tells the driver by events.

    Args:
        tell: takes an event; called in the background.
        catch_up: sees to it that all that happened so far has been brought here.
        clock: the driver's.
        profile: what earlier runs taught.
        store: where profiles are kept, if anywhere.
        recorder: where jobs are recorded, if anywhere.
    """

    def __init__(
        self,
        tell: Callable[[Event], None],
        catch_up: Callable[[], None],
        clock: Callable[[], float],
        profile: Profile,
        store: ProfileStore | None,
        recorder: Recorder | None = None,
    ) -> None:
        self._tell = tell
        self._catch_up = catch_up
        self._clock = clock
        # A forked process goes on with the numbers of the one that it was, and with the process's own.
        self._name = secrets.token_hex(6)
        self._named()
        _services.add(self)
        self._seen = 0  # entries of the story
        self._stopped = False
        self._at_end = _at_exit(weakref.ref(self))
        if store is not None or recorder is not None:
            atexit.register(self._at_end)
        self._recorder = recorder
        self.belief_former = BeliefFormer(self._believed)
        self.learner = Learner(profile, self._learned, store=store)

    def _named(self) -> None:
        self._prefix = f"{self._name}-{os.getpid()}"

    def see(self, entry: Entry) -> None:
        """Learn from the job that is closed and record it, or form the belief that is wanted; later."""
        number = entry.number
        if number <= self._seen:
            return
        if entry.kind == "BeliefWanted":
            self.belief_former.want(entry.detail)
        else:
            job = ClosedJob(entry.detail, self._prefix, time.time() - self._clock())
            if job.informative:
                # Broken off here, they are told once more: they know it by the number.
                self.learner.observe(job, number)
                if self._recorder is not None:
                    self._recorder.note(job, number)
        self._seen = number

    @property
    def profile(self) -> Profile:
        """What has been learned so far."""
        self._catch_up()
        return self.learner.profile

    def learn(self) -> None:
        """Learn from all jobs that have ended, and keep that, here and now."""
        self._catch_up()
        self.learner.catch_up()

    def keep(self) -> None:
        """Save what was learned, and write what was recorded, here and now."""
        self._catch_up()
        self.learner.keep()
        if self._recorder is not None:
            self._recorder.flush()

    def stop(self) -> None:
        """Think no more; what was learned is kept, and what was recorded is written."""
        self._stopped = True
        self.learner.stop()
        self.belief_former.stop()
        if self._recorder is None:
            atexit.unregister(self._at_end)
        else:  # calls in a slot go on, and the jobs that end with them are recorded, too
            self._recorder.finish()

    def _learned(self, profile: Profile, applications: frozenset[str]) -> None:
        if not self._stopped:
            self._tell(ProfileLearned(profile, applications))

    def _believed(self, job: int, belief: Belief) -> None:
        if not self._stopped:
            self._tell(BeliefFormed(job, belief))


_services: weakref.WeakSet[LearningService] = weakref.WeakSet()


def _forked() -> None:
    for service in _services:
        service._named()  # noqa: SLF001 (of this module)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _at_exit(service: weakref.ref[LearningService]) -> Callable[[], None]:
    """Keeps what was learned when the process ends, and keeps nothing alive until then."""

    def keep() -> None:
        alive = service()
        if alive is not None:
            alive.keep()

    return keep
