"""Decides when to learn from ended jobs, and runs the learning in the background.

Does not define what is learned: `Profile.observe` and `learn` are pure functions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Literal

from llmsched_langgraph._background import Background
from llmsched_langgraph._belief.profile.profile import HISTORY, ApplicationProfile, Profile
from llmsched_langgraph._learning.stores import ProfileStore
from llmsched_langgraph._learning.sync import ProfileSync
from llmsched_langgraph._observe.closed import ClosedJob

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.model import ApplicationModel

logger = logging.getLogger("llmsched_langgraph")

NETWORK_JOBS = 20
"""Minimum number of an application's jobs for learning correlations between its stages."""

BATCH = 256
"""Jobs in a batch that start learning even if none is due; a call outside any run counts as 1/16 job."""

REST = 20.0
"""Pause after learning, relative to its duration: a learning thread uses less than 5 % of a processor."""


class Learner:
    """Holds the newest profile, and learns a new model of an application as its number of jobs grows.

    The machine updates every job of an application whose model changes. An application is therefore due after
    each of its first 16 jobs, then each time its number of jobs n has grown by 1/8: O(log n) times, with a
    pause after each. A model with independent stages takes milliseconds. Correlations between stages take up
    to 1 s; a separate thread learns them each time the number of jobs has grown by 1/4. A network given by
    `Profile.with_network` is kept until drift is detected.

    Args:
        profile: the initial profile.
        publish: receives a new profile and the fingerprints of the applications that changed, in a background
            thread.
        background: creates a background thread from its name and its work.
        store: where profiles are stored; their content is merged into the profile. None for no store.
    """

    def __init__(
        self,
        profile: Profile,
        publish: Callable[[Profile, frozenset[str]], None],
        background: Callable[[str, Callable[[], bool]], Background] = Background,
        store: ProfileStore | None = None,
    ) -> None:
        self._profile = profile
        self._publish = publish
        # No lock: a finaliser may call `observe` during another `observe`.
        self._batch: deque[tuple[int, ClosedJob]] = deque()
        self._taken = self._counted = 0  # numbers of the latest job in the profile, and in the batch
        self._weight = 0  # of the batch, in 1/16 jobs
        self._due: dict[str, int] = {}  # jobs until the application is learned again
        self._networks: dict[str, int] = {}  # number of jobs when correlations were last learned
        self._lock = threading.Lock()
        self._background = background("llmsched-learning", self._learn)
        self._networking = background("llmsched-networks", self._learn_network)
        self._rested_s = self._networks_rested_s = -inf  # end of the pause, on `time.monotonic`
        self._unread = store is not None
        self._reading = threading.Lock()
        self._keeper: ProfileSync | None = None
        if store is not None:
            self._keeper = ProfileSync(store, lambda: self.profile, self._adopt, background)
            self._background.there_is_work()

    @property
    def profile(self) -> Profile:
        """The profile that includes all jobs observed so far."""
        with self._lock:
            return self._take_in()

    def _take_in(self) -> Profile:
        batch = tuple(self._batch)
        if batch:
            self._weight, taken = 0, self._taken
            by_application: dict[str, list[ClosedJob]] = {}
            for number, job in batch:
                if number > taken or not number:
                    taken = number or taken
                    by_application.setdefault(job.fingerprint, []).append(job)
            profile = self._profile
            for name, own in by_application.items():
                # A profile keeps the latest `HISTORY` jobs; earlier ones of the batch are only counted.
                profile = profile.observe(*(job.record for job in own[-HISTORY:]))
                known = profile.applications[name]
                profile = profile.having(replace(known, counted=known.jobs + len(own[:-HISTORY])))
            self._profile, self._taken = profile, taken  # one line: an interrupt stores both or none
            for _ in batch:
                self._batch.popleft()
        return self._profile

    def observe(self, job: ClosedJob, number: int = 0) -> None:
        """Queue a closed job for learning. O(1).

        Args:
            job: the closed job.
            number: its number in ascending order; a repeated number is the same job. 0 is always a new job.
        """
        if not job.informative:
            return
        self._batch.append((number, job))
        left = self._due.get(job.fingerprint, 1) - (not number or number != self._counted)
        self._due[job.fingerprint], self._counted = left, number  # one line: an interrupt stores both or none
        self._weight += 1 if job.direct else 16
        if left == 0 or self._weight >= 16 * BATCH:
            self._weight = 0
            self._background.there_is_work()
        if self._keeper is not None:
            self._keeper.there_is_news()

    def catch_up(self) -> None:
        """Learn from all jobs so far and save the profile now. Takes milliseconds to seconds."""
        from llmsched_langgraph._belief.fit.models import learn

        self._read(again=True)
        profile = self.profile
        for name, own in profile.applications.items():
            if own.model is None or (own.modelled < own.jobs and not own.model.given):
                whole = len(own.outcomes) >= NETWORK_JOBS
                how: Literal["choose", False] = "choose" if whole else False
                self._take_over(own, learn(own.template, own.outcomes, correlated=how, call=profile.call_s))
                if whole:
                    self._networks[name] = own.jobs
        self.keep()

    def keep(self) -> None:
        """Save the unsaved part of the profile now."""
        if self._keeper is not None:
            self._keeper.save()

    def forked(self) -> None:
        """Begin anew in the child of a fork, with the parent's profile and the jobs in its batch."""
        self._lock, self._reading = threading.Lock(), threading.Lock()
        # A record that a thread of the parent was computing is incomplete.
        self._batch = deque([(number, job) for number, job in self._batch if job.forked()])
        if self._keeper is not None:
            self._keeper.forked(self._profile)

    def resume(self) -> None:
        """Announce the learning that was due or in progress at a fork."""
        self._background.there_is_work()

    def stop(self) -> None:
        """Stop learning. `profile` still includes the jobs in the batch."""
        self._background.stop()
        self._networking.stop()
        if self._keeper is not None:
            self._keeper.stop()

    def _learn(self) -> bool:
        """Learn the due applications, with independent stages; return whether there were any."""
        wait_s = self._rested_s - time.monotonic()
        if wait_s > 0.0 and self._background.stopped(wait_s):
            return False
        began_s = time.monotonic()
        self._read()
        ripe = sorted(name for name, left in tuple(self._due.items()) if left <= 0)
        profile = self.profile  # only now: it includes the jobs by which these became due
        for name in ripe:
            self._due[name] = max(profile.jobs(name) // 8, 1)
        for name in ripe:
            self._learn_one(profile.applications[name])
        now_s = time.monotonic()
        self._rested_s = now_s + REST * (now_s - began_s)
        return bool(ripe)

    def _read(self, *, again: bool = False) -> None:
        """Merge the stored profiles, the first time or if `again`."""
        if self._keeper is None:
            return
        with self._reading:
            if self._unread or again:
                for own in self._keeper.load().applications.values():
                    self._adopt(own)
                self._unread = False

    def _adopt(self, own: ApplicationProfile) -> None:
        """Merge the stored profile of an application into the profile."""
        from llmsched_langgraph._belief.profile.merging import merged

        name = own.application.fingerprint
        with self._lock:
            profile = self._take_in()
            mine = profile.applications.get(name)
            both = own if mine is None else merged(mine, own)
            if mine is not None and mine.model is both.model and mine.history == both.history:
                return
            profile = self._profile = profile.having(both)
            self._networks[name] = max(self._networks.get(name, 0), both.modelled)
        if both.model is not None:
            self._publish(profile.prepared(), frozenset([name]))

    def _learn_one(self, own: ApplicationProfile) -> None:
        from llmsched_langgraph._belief.fit.models import learn

        if fresh := own.drifted:
            own = self._forget(own)
        if fresh or own.model is None or (len(own.outcomes) < NETWORK_JOBS and not own.model.given):
            call_s = self._profile.call_s
            self._take_over(own, learn(own.template, own.outcomes, correlated=False, call=call_s))
        if self._due_for_network(own):
            self._networking.there_is_work()

    def _due_for_network(self, own: ApplicationProfile) -> bool:
        """Return whether there are enough new jobs to learn correlations."""
        before = self._networks.get(own.application.fingerprint, 0)
        given = own.model is not None and own.model.given
        return len(own.outcomes) >= NETWORK_JOBS and own.jobs >= max(before * 5 // 4, 1) and not given

    def _forget(self, own: ApplicationProfile) -> ApplicationProfile:
        fresh = own.forgetting()
        logger.info(
            "the work of runs of %r has changed: the %d jobs before the last %d are forgotten, and the "
            "model is learned again",
            own.application.name,
            len(own.outcomes) - len(fresh.outcomes),
            len(fresh.outcomes),
        )
        with self._lock:
            now = self._take_in()
            kept = now.applications[own.application.fingerprint]
            model = kept.model and replace(kept.model, given=False)
            fresh = replace(kept.forgetting(len(fresh.outcomes) + kept.jobs - own.jobs), model=model)
            self._profile = now.having(fresh)
            self._networks.pop(own.application.fingerprint, None)
        return fresh

    def _learn_network(self) -> bool:
        """Learn the correlations of one due application; return whether there was one."""
        from llmsched_langgraph._belief.fit.models import learn

        wait_s = self._networks_rested_s - time.monotonic()
        if wait_s > 0.0 and self._networking.stopped(wait_s):
            return False
        own = next(filter(self._due_for_network, self.profile.applications.values()), None)
        if own is None:
            return False
        began_s = time.monotonic()
        self._networks[own.application.fingerprint] = own.jobs
        self._take_over(own, learn(own.template, own.outcomes))
        now_s = time.monotonic()
        self._networks_rested_s = now_s + REST * (now_s - began_s)
        return True

    def _take_over(self, own: ApplicationProfile, model: ApplicationModel) -> None:
        name = own.application.fingerprint
        with self._lock:
            profile = self._take_in()
            now = profile.applications[name]
            if now.modelled > own.jobs or now.forgotten_before > own.forgotten_before:
                return  # there is a newer model, or the jobs of this one are forgotten
            if now.model is not None and now.model.given:
                return
            profile = self._profile = profile.learned(name, model, own.jobs)
        self._publish(profile.prepared(), frozenset([name]))
        if self._keeper is not None:
            self._keeper.there_is_news()
