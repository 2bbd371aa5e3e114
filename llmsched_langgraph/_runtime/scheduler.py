"""Knows the scheduler as its user sees it: backends with slots, one policy, what is going on.

Does not know LangGraph, nor how anything is decided.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._core.policies import Policy, as_policy
from llmsched_langgraph._learning.stores import as_store
from llmsched_langgraph._ledger.values import DEFAULT_SLOTS, Backend, check_slots
from llmsched_langgraph._observe.recorder import Recorder
from llmsched_langgraph._observe.subscriptions import See, Subscription
from llmsched_langgraph._runtime.beats import check_timeout
from llmsched_langgraph._runtime.context import RUN, current_run
from llmsched_langgraph._runtime.driver import Driver
from llmsched_langgraph._runtime.run import Run, Seen
from llmsched_langgraph._runtime.slot import Slot
from llmsched_langgraph.errors import ConfigurationError, UnknownModelError

DEFAULT_POLICY = "llmsched"


@dataclass(frozen=True, slots=True)
class BackendStatistics:
    """One backend at one moment."""

    name: str
    slots: int
    holding: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A scheduler at one moment, and its totals since it was made.

    `granted - released == holding`, always. `peak` is the highest number of slots held at once over
    all backends; `over_commitments` counts synchronous calls on an event loop, which cannot wait.
    """

    policy: str
    backends: tuple[BackendStatistics, ...]
    jobs_running: int
    jobs_ended: int
    granted: int
    released: int
    peak: int
    over_commitments: int
    waited_s: float
    prompt_tokens: int
    output_tokens: int

    @property
    def slots(self) -> int:
        """Slots of all backends."""
        return sum(backend.slots for backend in self.backends)

    @property
    def holding(self) -> int:
        """Calls in a slot, over all backends."""
        return sum(backend.holding for backend in self.backends)

    @property
    def waiting(self) -> int:
        """Calls in the backlog, over all backends."""
        return sum(backend.waiting for backend in self.backends)


class Scheduler:
    """Slots shared by every graph that is scheduled on it, and the order in which calls get them.

    Safe to use from any thread and any event loop at the same time. A closed scheduler starts no
    run and grants no slot; `with Scheduler(...) as scheduler:` closes it at the end.

    Args:
        slots: calls that the one backend serves at once; default 8. Leave it out if you give backends.
        backends: the pools of slots, when there is more than one or when they serve certain models.
        policy: the order of service, by name or as an object with `name` and `order(job, now)`.
        queue_timeout_s: how long a call may wait for a slot, in seconds; None for as long as it takes.
        profile: what earlier runs taught; it goes on learning from there.
        profiles: where what is learned is kept, and shared with other workers: a folder, or any LangGraph
            store. It is read and written in the background; what is left is written when the scheduler is
            closed or the process ends.
        record: a file to which each run that went to its end is appended, as `llmsched replay` reads it.
            Written in the background; what is left when the scheduler is closed or the process ends is
            written then.
        clock: seconds as a float that never go back.

    Raises:
        ConfigurationError: a setting cannot work; the message names it and the cure.
    """

    def __init__(
        self,
        slots: int | None = None,
        *,
        backends: Iterable[Backend] | None = None,
        policy: str | Policy = DEFAULT_POLICY,
        queue_timeout_s: float | None = None,
        profile: Profile | None = None,
        profiles: object = None,
        record: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if backends is None:
            pools = [Backend(slots=check_slots(DEFAULT_SLOTS if slots is None else slots, "slots"))]
        elif slots is not None:
            raise ConfigurationError("give either slots or backends: each Backend has its own slots")
        else:
            pools = list(backends)
        self._models = _models(pools)
        self._only = self._models[None] if self._models.keys() == {None} else None
        self._queue_timeout_s = check_timeout(queue_timeout_s)
        self._driver = Driver(
            pools,
            as_policy(policy),
            profile=profile,
            store=None if profiles is None else as_store(profiles),
            recorder=None if record is None else Recorder(record),
            clock=clock,
        )

    def slot(self, model: str | None = None, *, stage: str = "") -> Slot:
        """A slot for one call that no other door gates: `with scheduler.slot():` or `async with`.

        Args:
            model: the model that the call is for; needed only when backends claim models.
            stage: what the call is, in the words of your program; used to predict its work.

        Raises:
            UnknownModelError: no backend serves the model.
        """
        run = RUN.get()
        backend = self._only if self._only is not None else self._backend(model)
        if run is None:
            return Slot(self._driver, backend, None, stage, self._queue_timeout_s)
        job = run.job if run.driver is self._driver else None
        return Slot(self._driver, backend, job, stage, self._queue_timeout_s, run.loop)

    def _backend(self, model: str | None) -> str:
        name = self._models.get(model) or self._models.get(None)
        if name is None:
            known = ", ".join(sorted(known for known in self._models if known is not None))
            raise UnknownModelError(
                f"no backend serves model {model!r} (known: {known}); name it in a Backend's models, "
                f"or add a Backend without models to serve the rest"
            )
        return name

    def resize(self, slots: int, backend: str | None = None) -> None:
        """Change a backend's number of slots while it runs. No call is ever interrupted: fewer drain.

        Args:
            slots: calls to serve at once, at least 1.
            backend: which one; needed only when there is more than one.

        Raises:
            ConfigurationError: no such backend, or fewer than one slot.
        """
        names = list(self._driver.backends)
        if backend is None and len(names) == 1:
            backend = names[0]
        if backend not in names:
            raise ConfigurationError(f"no backend {backend!r}; name one of: {', '.join(names)}")
        now = self._driver.backends[backend].backend
        self._driver.configure(replace(now, slots=check_slots(slots, "slots")))

    def statistics(self) -> Statistics:
        """What is going on now, and the totals so far."""
        self._driver.look()
        totals, backends = self._driver.totals, self._driver.backends
        return Statistics(
            policy=self._driver.policy.name,
            backends=tuple(
                BackendStatistics(name, own.backend.slots, own.holding, own.waiting)
                for name, own in backends.items()
            ),
            jobs_running=self._driver.jobs,
            jobs_ended=self._driver.jobs_ended,
            granted=sum(own.granted for own in backends.values()),
            released=sum(own.released for own in backends.values()),
            peak=totals.peak,
            over_commitments=totals.over_commitments,
            waited_s=totals.waited_s,
            prompt_tokens=totals.prompt_tokens,
            output_tokens=totals.output_tokens,
        )

    def subscribe(self, observer: See) -> Subscription:
        """Have `observer` called with each `Entry` of the scheduler's story from now on, in order.

        Entries tell what happened and what was decided, with the reason of each grant. The observer is called
        outside the scheduler's lock, by the thread or the event loop that made it decide: it must be quick.
        One that raises is told of once in the log, and costs nothing else.

        Returns:
            A subscription, to `close` or to use as a context manager.
        """
        return self._driver.subscribe(observer)

    @property
    def profile(self) -> Profile:
        """What it has learned so far: a value, to keep or to give to another scheduler."""
        return self._driver.profile

    def learn(self) -> None:
        """Learn from all runs that have ended, here and now.

        It happens by itself in the background. Call this where nothing else goes on, before you read
        `profile` or keep it: it takes milliseconds an application, and seconds once there is enough to learn
        how its stages hang together.
        """
        self._driver.learn()

    def check(self) -> None:
        """Raise AssertionError unless every slot and every waiting call is accounted for. For tests."""
        self._driver.check()

    def close(self) -> None:
        """Take no more runs and calls. Waiting calls raise; calls in a slot finish and give it back."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        now = self.statistics()
        pools = " | ".join(f"{b.name} {b.holding}/{b.slots} +{b.waiting}" for b in now.backends)
        closed = " | closed" if self._driver.closed else ""
        return f"<Scheduler {now.policy} | {now.jobs_running} jobs | {pools}{closed}>"


def start_run(scheduler: Scheduler, info: JobInfo, resumes: str | None = None) -> Run:
    """Start a run; call its `end` in a `finally`.

    Args:
        scheduler: where its calls take their slots.
        info: what is known of the job at its arrival.
        resumes: the thread of the interrupted run that this one continues, if any.

    Raises:
        SchedulerClosedError: the scheduler is closed.
    """
    around = current_run()  # of another scheduler, if any
    seen, driver = Seen(), scheduler._driver  # noqa: SLF001 (of this module)
    job = driver.start_job(info, resumes, seen.stage_events)
    needs_model = scheduler._only is None  # noqa: SLF001 (of this module)
    return Run(scheduler, driver, needs_model, job, None if around is None else around.loop, seen)


def _models(pools: list[Backend]) -> dict[str | None, str]:
    """Which backend serves which model; the key None is the one for all the rest."""
    if not pools:
        raise ConfigurationError("a scheduler needs at least one Backend")
    models: dict[str | None, str] = {}
    names: set[str] = set()
    for pool in pools:
        if pool.name in names:
            raise ConfigurationError(f"two backends are called {pool.name!r}; give each its own name")
        names.add(pool.name)
        for model in (None,) if pool.models is None else pool.models:
            if model in models:
                what = "every model" if model is None else f"model {model!r}"
                raise ConfigurationError(
                    f"backends {models[model]!r} and {pool.name!r} both claim {what}; name it in one "
                    f"of them only"
                )
            models[model] = pool.name
    return models
