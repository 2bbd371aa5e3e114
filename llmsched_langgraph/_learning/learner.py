"""Knows when it is time to learn from ended jobs, and has it done beside the calls.

Does not know what is learned: that is `Profile.observe` and `learn`, pure functions.
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
"""Jobs of an application from which on the stages are learned together; before, each on its own."""

BATCH = 256
"""Jobs after which they are taken in, due or not; a single call outside of any run counts a sixteenth."""

REST = 20.0
"""Times as long as learning took that it rests afterwards: it has at most a twentieth of a processor."""


class Learner:
    """Keeps the newest profile, and learns a new model of an application while its jobs still teach some.

    That makes the machine look again at every job of the application, so it happens after each of the
    first sixteen jobs, and then each time their number has grown by an eighth: O(log n) times in all, and
    with a rest after each. A model
    of stages on their own takes milliseconds. Correlations take up to a second and are learned in a thread
    of their own, each time the number of jobs has grown by a quarter. A network that was given
    (`Profile.with_network`) stays until runs drift.

    Args:
        profile: to go on from.
        publish: takes a new profile and the applications of which it says something new; called in the
            background.
        background: makes what works in the background.
        store: where profiles are kept; what it holds is learned from, too, as soon as it has been read.
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
        # Without a lock: a finaliser may bring a job in the middle of the bringing of one.
        self._batch: deque[tuple[int, ClosedJob]] = deque()
        self._taken = self._counted = 0  # the number of the last one
        self._weight = 0  # of the batch
        self._due: dict[str, int] = {}  # jobs of the application until it is learned again
        self._networks: dict[str, int] = {}  # jobs at which correlations were learned last
        self._lock = threading.Lock()
        self._background = background("llmsched-learning", self._learn)
        self._networking = background("llmsched-networks", self._learn_network)
        self._rested_s = self._networks_rested_s = -inf  # on the clock of `time.monotonic`
        self._unread = store is not None
        self._reading = threading.Lock()
        self._keeper: ProfileSync | None = None
        if store is not None:
            self._keeper = ProfileSync(store, lambda: self.profile, self._adopt, background)
            self._background.there_is_work()

    @property
    def profile(self) -> Profile:
        """What has been learned of all jobs so far."""
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
                # What is not remembered any more once the newest have come need not be looked at.
                profile = profile.observe(*(job.record for job in own[-HISTORY:]))
                known = profile.applications[name]
                profile = profile.having(replace(known, counted=known.jobs + len(own[:-HISTORY])))
            self._profile, self._taken = profile, taken  # at once; then they are not needed any more
            for _ in batch:
                self._batch.popleft()
        return self._profile

    def observe(self, job: ClosedJob, number: int = 0) -> None:
        """Learn from one job, when there is time. O(1).

        Args:
            job: it.
            number: of the news of it, ascending; the same number is the same news. 0 is always news.
        """
        if not job.informative:
            return
        self._batch.append((number, job))
        left = self._due.get(job.fingerprint, 1) - (not number or number != self._counted)
        self._due[job.fingerprint], self._counted = left, number  # at once; told again, it is due again
        self._weight += 1 if job.direct else 16
        if left == 0 or self._weight >= 16 * BATCH:
            self._weight = 0
            self._background.there_is_work()

    def catch_up(self) -> None:
        """Learn from all jobs so far, and keep that, here and now. Takes milliseconds to seconds."""
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
        """Save what is new, here and now."""
        if self._keeper is not None:
            self._keeper.save()

    def stop(self) -> None:
        """Learn no more. What was not looked at yet still counts in `profile`."""
        self._background.stop()
        self._networking.stop()
        if self._keeper is not None:
            self._keeper.stop()

    def _learn(self) -> bool:
        """Learn the applications that are due, stage by stage; whether there were any."""
        wait_s = self._rested_s - time.monotonic()
        if wait_s > 0.0 and self._background.stopped(wait_s):
            return False
        began_s = time.monotonic()
        self._read()
        profile = self.profile
        ripe = sorted(name for name, left in tuple(self._due.items()) if left <= 0)
        for name in ripe:
            self._due[name] = max(profile.jobs(name) // 8, 1)
        for name in ripe:
            self._learn_one(profile.applications[name])
        now_s = time.monotonic()
        self._rested_s = now_s + REST * (now_s - began_s)
        return bool(ripe)

    def _read(self, *, again: bool = False) -> None:
        """Take over what is stored, the first time or again."""
        if self._keeper is None:
            return
        with self._reading:
            if self._unread or again:
                for own in self._keeper.load().applications.values():
                    self._adopt(own)
                self._unread = False

    def _adopt(self, own: ApplicationProfile) -> None:
        """What is stored of an application, and what is known of it here, are one from now on."""
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
        """Whether there are so many more jobs that correlations should be learned from them."""
        before = self._networks.get(own.application.fingerprint, 0)
        given = own.model is not None and own.model.given
        return len(own.outcomes) >= NETWORK_JOBS and own.jobs >= max(before * 5 // 4, 1) and not given

    def _forget(self, own: ApplicationProfile) -> ApplicationProfile:
        fresh = own.forgetting()
        logger.info(
            "runs of %r need another amount of work than before: the %d jobs before the last %d are "
            "forgotten, and the rest is learned anew",
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
        """Learn the correlations of one application that is due for it; whether there was one."""
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
                return  # a newer one is there already, or what it was learned from is forgotten
            if now.model is not None and now.model.given:
                return
            profile = self._profile = profile.learned(name, model, own.jobs)
        self._publish(profile.prepared(), frozenset([name]))
        if self._keeper is not None:
            self._keeper.there_is_news()
