"""Runs the work beside the calls: beliefs, learning, saving and recording.

Does not implement this work, or decide which calls are granted.
"""

from __future__ import annotations

import atexit
import os
import secrets
import time
import weakref
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.events import BeliefFormed, Entry, Event, ProfileLearned
from llmsched_langgraph._learning.beliefs import BeliefFormer
from llmsched_langgraph._learning.learner import Learner
from llmsched_langgraph._learning.stores import ProfileStore
from llmsched_langgraph._observe.closed import ClosedJob
from llmsched_langgraph._observe.recent import RecentJobs
from llmsched_langgraph._observe.recorder import Recorder

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.belief import Belief


CLOCK_SET_S = 0.1
"""A change of the wall clock against the driver's clock by more seconds is taken over."""


class LearningService:
    """Forms beliefs, learns and records in the background, and posts the results as events.

    Args:
        tell: receives an event, in a background thread.
        catch_up: delivers all entries so far to `see`.
        clock: the driver's clock, in seconds.
        profile: the initial profile.
        store: where profiles are stored; None for no store.
        recorder: records ended jobs; None for no recording.

    Attributes:
        recent: the jobs that ended last.
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
        # A forked child continues its parent's job numbers; the process id keeps their job ids distinct.
        self._name = secrets.token_hex(6)
        self._prefix = f"{self._name}-{os.getpid()}"
        self._offset_s = -inf  # wall clock minus the driver's clock
        self._seen = 0  # number of the latest story entry that was processed
        self._stopped = False
        self._forked = False  # in the child of a fork, until the first run
        self._at_end = _at_exit(weakref.ref(self))
        if store is not None or recorder is not None:
            atexit.register(self._at_end)
        self.recent = RecentJobs()
        self._recorder = recorder
        self.belief_former = BeliefFormer(self._believed)
        self.learner = Learner(profile, self._learned, store=store)

    def see(self, entry: Entry) -> None:
        """Queue a closed job for learning and recording, or a requested belief for forming."""
        number = entry.number
        if number <= self._seen:
            return
        if entry.kind == "BeliefWanted":
            self.belief_former.want(entry.detail)
        else:
            recorder = self._recorder
            job = ClosedJob(entry.detail, self._prefix, self._wall_clock(), foresees=recorder is not None)
            if not job.direct:
                self.recent.keep(job)
            if job.informative:
                # After an interrupt here, `see` is called again; both recognise a repeated number.
                self.learner.observe(job, number)
                if recorder is not None:
                    recorder.note(job, number)
        self._seen = number

    def _wall_clock(self) -> float:
        """Return wall clock minus the driver's clock, in seconds.

        The difference is kept until the wall clock was set: it varies by the time between the two readings,
        and jobs of one recording must agree on the order of their calls.
        """
        offset_s = time.time() - self._clock()
        if abs(offset_s - self._offset_s) > CLOCK_SET_S:
            self._offset_s = offset_s
        return self._offset_s

    @property
    def profile(self) -> Profile:
        """What has been learned so far."""
        self._catch_up()
        return self.learner.profile

    def learn(self) -> None:
        """Learn from all ended jobs and save the profile now."""
        self._catch_up()
        self.learner.catch_up()

    def keep(self) -> None:
        """Save the profile and write the recorded jobs now."""
        self._catch_up()
        self.learner.keep()
        if self._recorder is not None:
            self._recorder.flush()

    def forked(self) -> None:
        """Begin anew in the child of a fork: requested beliefs and unwritten records are the parent's."""
        self._prefix = f"{self._name}-{os.getpid()}"
        self._forked = True
        self.belief_former.forked()
        self.learner.forked()
        if self._recorder is not None:
            self._recorder.forked()

    def resume(self) -> None:
        """In the child of a fork, once: announce the learning that was due or in progress."""
        if self._forked:
            self._forked = False
            self.learner.resume()

    def stop(self) -> None:
        """Stop learning and forming beliefs; save the profile and write the recorded jobs."""
        self._stopped = True
        self.learner.stop()
        self.belief_former.stop()
        if self._recorder is None:
            atexit.unregister(self._at_end)
        else:  # calls in a slot continue; the jobs that end with them are recorded too
            self._recorder.finish()

    def _learned(self, profile: Profile, applications: frozenset[str]) -> None:
        if not self._stopped:
            self._tell(ProfileLearned(profile, applications))

    def _believed(self, job: int, belief: Belief) -> None:
        if not self._stopped:
            self._tell(BeliefFormed(job, belief))


def _at_exit(service: weakref.ref[LearningService]) -> Callable[[], None]:
    """Return a function that saves and writes at process exit, through a weak reference."""

    def keep() -> None:
        alive = service()
        if alive is not None:
            alive.keep()

    return keep
