"""Provides the scheduler as users see it: backends with slots, a policy, statistics.

Does not use LangGraph, or decide grants.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self

from llmsched_langgraph._arguments import check_flag, positive_limit
from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._core.policies import Policy, as_policy
from llmsched_langgraph._learning.stores import as_store
from llmsched_langgraph._ledger.auto import Auto
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.overdue import EVERY, MAX_WAIT_S, Overdue
from llmsched_langgraph._ledger.tenants import Tenant, Tenants, as_tenants
from llmsched_langgraph._ledger.values import check_priority
from llmsched_langgraph._observe.recorder import Recorder
from llmsched_langgraph._runtime.accounts import account_of, account_of_key, backend_of_account
from llmsched_langgraph._runtime.beats import waitable
from llmsched_langgraph._runtime.call import Call
from llmsched_langgraph._runtime.context import current_run
from llmsched_langgraph._runtime.door import AtDoor, Door, Pass
from llmsched_langgraph._runtime.driver import Driver
from llmsched_langgraph._runtime.given import check_function, check_names, check_profile, tell_of_excess
from llmsched_langgraph._runtime.inspectable import Inspectable
from llmsched_langgraph._runtime.limits import OnBudget, check_on_budget
from llmsched_langgraph._runtime.resizing import resize
from llmsched_langgraph._runtime.routing import Requested, Router, as_backends, names_of
from llmsched_langgraph._runtime.run import Run, RunScope, Seen
from llmsched_langgraph._runtime.shared.home import Fallback, home_of
from llmsched_langgraph._runtime.sigterm import SAVER
from llmsched_langgraph._runtime.slot import Terms
from llmsched_langgraph._runtime.unmarked import Outside, Unmarked, began
from llmsched_langgraph.errors import ConfigurationError

DEFAULT_POLICY = "llmsched"

_ASKED = (str, Requested, type(None))


class Scheduler(Inspectable):
    """Shares slots among the calls of every graph that is scheduled on it.

    Thread-safe, with any number of event loops. A closed scheduler starts no run and grants no slot;
    `with Scheduler(...) as scheduler:` closes it at the end of the block.

    Args:
        slots: number of concurrent calls of the only backend; default 8. "auto" and `Auto(low, high, start)`
            find it from how calls end. Omit it if you give `backends`.
        backends: the pools of slots, if there are several or if they serve specific models.
        policy: the order of service, as a name or as an object with `name` and `order(job, now)`.
        queue_timeout_s: maximum wait of a call for a slot, in seconds, at backends without a value of their
            own; None for no limit.
        max_wait_s: seconds after which a job's call that waits is overdue, whatever its place in the policy's
            order; None for never. The job's earlier waits count, pauses of the backend do not. A job of m
            calls in a row, each of at most S seconds, on k slots with q jobs overdue before it, completes
            within work + tools + max_wait_s + m ceil(overdue_every (1 + q) / k) S + pauses.
        tenants: the weight of each tenant, or its `Tenant`, by name: {"a": 3, "b": Tenant(max_slots=2)}.
            Tenants that are not named have weight 1. While several tenants wait, they share each backend by
            their weights, within each priority. The tenant of a run is its authenticated user, or what
            `llmsched_tenant` in its metadata or configurable says; the empty text is no tenant.
        assign: a function that gives a run its tenant and its priority when it begins, as LangGraph's
            `@priority.assign` does; it may be synchronous. It gets a `PriorityContext` and returns None or a
            dict with some of "priority", "tenant" (or "fairness_group"), "deadline_s" and "budget". These
            values in the configuration of the run are then ignored. If it fails, or takes more than 5 s, the
            run begins without them.
        closed_tenants: whether runs of tenants that are not named are refused.
        overdue_every: of this many grants, one may serve an overdue call. A smaller number shortens the bound
            and raises the mean completion time.
        profile: the initial profile, as learned from earlier runs; None for an empty one.
        profiles: where learned profiles are stored and shared with other workers: a folder, a URL of Redis
            (such as that of `url`), or any LangGraph store. It is read and written in the background, within
            a minute of each run's end, and a last time when the scheduler is closed or the process exits.
            None to store nothing.
        record: the file to which each finished run with calls is appended, in the format of
            `llmsched replay`. It is written in the background, at once, and a last time when the scheduler is
            closed or the process exits. None to record nothing.
        save_on_sigterm: whether SIGTERM, which ends a process without its exit handlers, has the profile and
            the recorded runs saved first. The handler that SIGTERM had before is called afterwards; without
            one, the process ends by the signal, after 12 s at most. It works in schedulers that are created
            in the main thread, and as long as no other handler replaces this one.
        follow_threads: whether the work that a run gives to threads (`loop.run_in_executor`,
            `ThreadPoolExecutor`, `ThreadPool`, `threading.Thread`) is part of the run, so that its calls take
            slots. A `threading.Thread` is part of it until the run ends.
        outside: what happens to calls of LangChain models outside every run, while a run of this scheduler is
            active. "count" counts them in `Statistics.unmarked_calls` and logs the first; "gate" counts them,
            and each takes a slot as a job of its own, if a backend serves its model; "ignore" does nothing.
            While no run is active, such calls are neither counted nor gated.
        trust_config: whether a run of a user that the Agent Server authenticated may choose its tenant, its
            priority, its budget and its deadline; other runs always may.
        on_budget: what happens to a run that has spent its budget or passed its deadline, before its next
            superstep. "stop" raises `BudgetExceededError` or `DeadlineExceededError`; "yield" ends the run
            normally, with the state so far, as a breakpoint does. A function gets an `Overrun` and returns
            "stop", "yield", or a `Budget` with which the run goes on, then without its deadline if it has
            passed it. It is called in the thread or event loop of the run, and at once by several if parallel
            branches of the run are subgraphs.
        max_jobs: maximum number of runs that are active at once; None for no limit. Runs inside a run, and
            those that continue an interrupted run, always begin, and count.
        max_queued: no run begins while at least this many calls wait; None for no limit.
        at_door: what happens to a run that may not begin: "refuse" raises `OverloadedError` before it has
            cost anything; "defer" has it wait for its turn, for at most `queue_timeout_s`, unless the
            consumer of a run's stream starts it.
        url: the Redis or Valkey server that stores the slots, for all processes that name it: "redis://",
            "rediss://" or "unix://", with user and password if needed. None for the environment variable
            `LLMSCHED_URL`, or, without one, for the memory of this process. It needs the extra `redis`.
        name: the name of the slots there: schedulers of one URL and one name share them.
        fallback: what happens to calls that wait while the server is unreachable. "wait" has them wait until
            it is back; "fail" raises `LedgerUnreachableError`; "local" serves them on this process's share of
            the slots, at least one of each backend.
        clock: returns the time in seconds; it must never go back.

    Raises:
        ConfigurationError: a setting is invalid; the message names it and the cure.
    """

    def __init__(
        self,
        slots: int | Auto | Literal["auto"] | None = None,
        *,
        backends: Iterable[Backend] | None = None,
        policy: str | Policy = DEFAULT_POLICY,
        queue_timeout_s: float | None = None,
        max_wait_s: float | None = MAX_WAIT_S,
        overdue_every: int = EVERY,
        tenants: Mapping[str, float | Tenant] | None = None,
        closed_tenants: bool = False,
        assign: Callable[[Any], object] | None = None,
        profile: Profile | None = None,
        profiles: object = None,
        record: str | os.PathLike[str] | None = None,
        save_on_sigterm: bool = False,
        follow_threads: bool = True,
        outside: Outside = "count",
        trust_config: bool = False,
        on_budget: OnBudget = "stop",
        max_jobs: int | None = None,
        max_queued: int | None = None,
        at_door: AtDoor = "refuse",
        url: str | None = None,
        name: str = "default",
        fallback: Fallback = "wait",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        pools = as_backends(slots, backends)
        self._router = Router(pools)
        positive_limit(queue_timeout_s, "queue_timeout_s", "seconds", finite=False)
        self._timeouts_s = {
            pool.name: waitable(queue_timeout_s if pool.queue_timeout_s is None else pool.queue_timeout_s)
            for pool in pools
        }
        check_flag(save_on_sigterm, "save_on_sigterm")
        if save_on_sigterm and profiles is None and record is None:
            raise ConfigurationError("save_on_sigterm saves what profiles and record name; give one of them")
        check_flag(follow_threads, "follow_threads")
        check_flag(trust_config, "trust_config")
        check_on_budget(on_budget)
        self._on_budget = on_budget
        self._follow_threads = follow_threads
        if assign is not None:
            check_function(assign, "assign", "one argument")
        check_function(clock, "clock", "no argument, such as time.monotonic")
        check_profile(profile)
        self._trust_config = trust_config
        self._assign = assign
        self._unmarked = Unmarked(outside)
        self._driver = Driver(
            pools,
            as_policy(policy),
            profile=profile,
            store=None if profiles is None else as_store(profiles),
            recorder=None if record is None else Recorder(record),
            overdue=Overdue(max_wait_s, overdue_every),
            tenants=as_tenants(tenants, closed=closed_tenants),
            home=home_of(url, name, fallback, clock),
            clock=clock,
        )
        self._door = Door(self._driver, max_jobs, max_queued, at_door, waitable(queue_timeout_s))
        tell_of_excess(self._driver.tenants, pools)
        if save_on_sigterm:
            SAVER.watch(self._driver)

    def slot(
        self,
        model: str | Requested | None = None,
        *,
        stage: str = "",
        priority: int | None = None,
        tenant: str | None = None,
        account: str | None = None,
        deadline_s: float | None = None,
    ) -> Call:
        """Return a slot for a call that the scheduler does not see: use it in a `with` or an `async with`.

        Args:
            model: the model that the call requests, or the base URL that it goes to; needed only if backends
                name models or base URLs. The package itself passes all names of a call.
            stage: a stage name for the call; calls of one stage share a prediction of their work.
            priority: -5 to 5, smaller first; None for 0. A call inside a run has the priority of its run.
            tenant: the tenant whose call it is; None, or the empty text, for none. A call inside a run is of
                the run's tenant.
            account: the key that the call is sent with, or another name of its account, for a backend that is
                `per_account`. It is kept as a hash.
            deadline_s: seconds from its request within which the call should end; None for no deadline. While
                that is close, the call goes before others of its tenant; a call inside a run does only as the
                run's deadline says. If it still waits then, it raises `DeadlineExceededError`.

        A slot has no budget: what its call spends is known when it has ended. Give `schedule` the budget.

        Raises:
            UnknownModelError: no backend serves the model.
            ConfigurationError: an argument is invalid; the message begins with its name.
        """
        if model.__class__ not in _ASKED or stage.__class__ is not str or account is not None:
            check_names(model, stage, account)
        level = 0 if priority is None else check_priority(priority, "priority")
        owner = "" if tenant is None else self._driver.tenants.check(tenant, "tenant")
        run = current_run()
        only = self._router.only
        backend = only if only is not None else self._router.backend_of(model)
        names = names_of(model) if self._router.priced or self._router.watched else ()
        due_s = deadline_s if deadline_s is None else waitable(positive_limit(deadline_s, "deadline_s"))
        timeout_s = self._timeouts_s[backend]
        if backend in self._router.per_account and (own := account_of(model, account)):
            backend = backend_of_account(self._driver, backend, own)
        if run is None:
            return Call(
                Terms(self._driver, backend, None, stage, timeout_s, None, level, names, owner, due_s)
            )
        job = run.job if run.driver is self._driver else None
        return Call(Terms(self._driver, backend, job, stage, timeout_s, run.loop, level, names, owner, due_s))

    def resize(self, slots: int | Auto | Literal["auto"], backend: str | None = None) -> None:
        """Change a backend's number of slots. No call is interrupted: slots above a lower limit drain.

        Args:
            slots: number of concurrent calls, at least 1; "auto" or `Auto(...)` finds it from now on.
            backend: the backend's name; needed only if there are several.

        Raises:
            ConfigurationError: the backend does not exist, or `slots` is below 1.
        """
        resize(self._driver, self._router.names, slots, backend)

    def account(self, key: str) -> str:
        """Return the name of a key's account, which stands after "#" in the names of `statistics().backends`.

        The name is a hash, the same in every process. The key is not stored.

        Args:
            key: what calls to a `per_account` backend are sent with, or what `slot(account=...)` got.

        Raises:
            ConfigurationError: the key is no text, or empty.
        """
        return account_of_key(key)

    @property
    def profile(self) -> Profile:
        """What was learned so far: an immutable value, to save or to pass to another scheduler."""
        return self._driver.profile

    def learn(self) -> None:
        """Learn from all ended runs now, in the calling thread.

        Learning also happens in the background. Call this before you read or save `profile`, while no run is
        active: it takes milliseconds per application, and seconds once there are enough runs to learn how its
        stages correlate.
        """
        self._driver.learn()

    def close(self) -> None:
        """Reject new runs and calls. Waiting calls raise; calls in a slot continue and release it."""
        self._driver.close()
        self._door.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_run(scheduler: Scheduler, info: JobInfo, resumes: str | None = None) -> Run:
    """Start a run; call its `end` in a `finally`.

    Args:
        scheduler: the scheduler whose slots its calls take.
        info: the job's properties at its arrival.
        resumes: the thread of the interrupted run that this run continues; None for a new run.

    Raises:
        SchedulerClosedError: the scheduler is closed.
    """
    around = current_run()  # of another scheduler, if any
    seen, driver = Seen(tools=info.application.tools), scheduler._driver  # noqa: SLF001 (of this module)
    job = driver.start_job(info, resumes, seen.stage_events)
    router = scheduler._router  # noqa: SLF001 (of this module)
    follows, unmarked = scheduler._follow_threads, scheduler._unmarked  # noqa: SLF001 (of this module)
    loop, scope = (None, RunScope()) if around is None else (around.loop, RunScope(around.scope))
    run = Run(scheduler, driver, router, job, loop, seen, scope, follows, unmarked=unmarked)
    began(run)
    return run


def tenants_of(scheduler: Scheduler) -> Tenants:
    """Return the settings of the scheduler's tenants."""
    return scheduler._driver.tenants  # noqa: SLF001 (of this module)


def assigns(scheduler: Scheduler) -> Any:
    """Return the function that says whose a run is; None if its configuration does."""
    return scheduler._assign  # noqa: SLF001 (of this module)


def trusts(scheduler: Scheduler) -> bool:
    """Return whether runs of authenticated users may say how urgent they are."""
    return scheduler._trust_config  # noqa: SLF001 (of this module)


def clock_of(scheduler: Scheduler) -> Callable[[], float]:
    """Return the clock of the scheduler."""
    return scheduler._driver.clock  # noqa: SLF001 (of this module)


def enter(scheduler: Scheduler, *, free: bool) -> Pass | None:
    """Return the place of a run that may begin; None without a limit. See `Door.enter`."""
    door = scheduler._door  # noqa: SLF001 (of this module)
    return None if door.open else door.enter(free=free)


async def aenter(scheduler: Scheduler, *, free: bool) -> Pass | None:
    """Return the place of a run that may begin; None without a limit. See `Door.aenter`."""
    door = scheduler._door  # noqa: SLF001 (of this module)
    return None if door.open else await door.aenter(free=free)
