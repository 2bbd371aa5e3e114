"""Calls the user's `assign` function, which gives each run a tenant and a priority.

Does not order runs. The function has the signature of LangGraph's `@priority.assign`. If it fails, the run
has no tenant and priority 0, and the failure is logged.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

from llmsched_langgraph._adapter.claims import (
    NO_CLAIM,
    Claim,
    checked,
    claim_of,
    first_name,
    identity_of,
    parts_of,
    user_of,
)
from llmsched_langgraph._fork import start_thread
from llmsched_langgraph._runtime.scheduler import Scheduler, assigns, tenants_of, trusts
from llmsched_langgraph.errors import ConfigurationError

logger = logging.getLogger("llmsched_langgraph")

PATIENCE_S = 5.0
"""Maximum seconds that `assign` may take; after that, the run begins without its answer."""

_ANSWERS = ("tenant", "fairness_group", "priority", "budget", "deadline_s")
_told: set[str] = set()


class User(Mapping[str, Any]):
    """The authenticated user of a run, like the `BaseUser` of LangGraph's SDK; empty if there is none."""

    def __init__(self, identity: str, given: object) -> None:
        self.identity = identity
        self._given = given if given is not None else {}

    @property
    def is_authenticated(self) -> bool:
        """Whether the run has an authenticated user."""
        return bool(self.identity)

    @property
    def display_name(self) -> str:
        """The name to show."""
        return str(self._of("display_name", self.identity))

    @property
    def permissions(self) -> Sequence[str]:
        """The user's permissions."""
        return list(self._of("permissions", ()) or ())

    def _of(self, name: str, default: object) -> Any:
        return self.get(name, getattr(self._given, name, default))

    def __getitem__(self, key: str) -> Any:
        if key == "identity":
            return self.identity
        return self._given[key] if hasattr(self._given, "__getitem__") else getattr(self._given, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._given) if isinstance(self._given, Mapping) else iter(())

    def __len__(self) -> int:
        return len(self._given) if isinstance(self._given, Mapping) else 0

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the user, or `default`."""
        try:
            return self[key]
        except (AttributeError, KeyError, TypeError):
            return default


@dataclass(frozen=True, slots=True)
class PriorityContext:
    """The argument of `assign`: the fields of `langgraph_sdk.priority.types.PriorityContext`."""

    user: User
    permissions: Sequence[str] = ()
    thread_id: str | None = None
    thread_metadata: dict[str, Any] = field(default_factory=dict)
    assistant_id: str = ""
    graph_id: str = ""
    assistant_metadata: dict[str, Any] = field(default_factory=dict)
    run_metadata: dict[str, Any] = field(default_factory=dict)
    cron_id: str | None = None


def claim(on: Scheduler, graph: Any, config: Any) -> Claim:
    """Return a run's tenant, priority and limits: from `assign` if there is one, else from its configuration.

    Raises:
        ConfigurationError: the configuration says something invalid.
    """
    if assigns(on) is None:
        return claim_of(*_configs(graph, config), trust=trusts(on), tenants=tenants_of(on))
    try:
        box = _in_thread(assigns(on), context_of(graph, config), awaits=True)
        if not wait([box], PATIENCE_S).done:
            raise _too_slow()
        answer = box.result()
        return _claimed(on, answer)
    except Exception as error:
        return _nothing(error)


async def aclaim(on: Scheduler, graph: Any, config: Any) -> Claim:
    """Do what `claim` does, without blocking the event loop."""
    if assigns(on) is None:
        return claim(on, graph, config)
    try:
        function, given = assigns(on), context_of(graph, config)
        answer = await _in_time(_answer(function, given))
        return _claimed(on, answer)
    except Exception as error:
        return _nothing(error)


def context_of(graph: Any, config: Any) -> PriorityContext:
    """Return the argument of `assign` for a run."""
    configs = _configs(graph, config)
    parts = list(parts_of(configs))
    values = {key: value for part in reversed(parts) for key, value in part.items()}
    given = user_of(configs)
    user = User(identity_of(given), {} if isinstance(given, str) else given)
    return PriorityContext(
        user,
        user.permissions,
        thread_id=_text(values.get("thread_id")),
        assistant_id=_text(values.get("assistant_id")) or "",
        graph_id=_text(values.get("graph_id")) or str(graph.get_name()),
        run_metadata=dict((config or {}).get("metadata") or {}),
        cron_id=_text(values.get("cron_id")),
    )


def _configs(graph: Any, config: Any) -> tuple[Any, ...]:
    """Return the configurations of a run, the nearest first; the last is that of the code that starts it.

    LangChain passes the last on by itself: a tool or a node may invoke a graph without a configuration.
    """
    return config, graph.config, var_child_runnable_config.get()


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _claimed(on: Scheduler, answer: object) -> Claim:
    if answer is None:
        return NO_CLAIM
    if not isinstance(answer, Mapping) or not all(key in _ANSWERS for key in answer):
        raise ConfigurationError(
            f"its answer must be None or a dict with some of {', '.join(map(repr, _ANSWERS))}, not {answer!r}"
        )
    tenant = first_name(answer.get("tenant"), answer.get("fairness_group"))
    said = tenant, answer.get("priority"), answer.get("budget"), answer.get("deadline_s")
    return checked(*said, tenants_of(on), "its answer's ")


def _nothing(error: Exception) -> Claim:
    """Log that `assign` failed, once per message; return the claim of its run: no tenant, priority 0."""
    words = f"{type(error).__name__}: {error}".removesuffix(": ")
    if words not in _told and len(_told) < 100:
        _told.add(words)
        logger.warning(
            "Scheduler(assign=...) failed, so a run began without a tenant and with priority 0 (logged once "
            "for each message): %s",
            words,
        )
    return NO_CLAIM


async def _answer(function: Any, given: PriorityContext) -> Any:
    """Return the answer of the function, without blocking the event loop."""
    if _is_async(function):
        return await function(given)
    answer = await asyncio.wrap_future(_in_thread(function, given, awaits=False))
    return await answer if inspect.isawaitable(answer) else answer


async def _in_time(answer: Awaitable[Any]) -> Any:
    """Await an answer for `PATIENCE_S` at most."""
    limit = asyncio.timeout(PATIENCE_S)
    try:
        async with limit:
            return await answer
    except TimeoutError:
        if limit.expired():
            raise _too_slow() from None
        raise


def _too_slow() -> TimeoutError:
    return TimeoutError(f"it took longer than {PATIENCE_S:g} s")


def _is_async(function: Any) -> bool:
    """Return whether calling the function makes a coroutine, without doing anything yet."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _in_thread(function: Any, given: PriorityContext, *, awaits: bool) -> Future[Any]:
    """Return the future answer of the function, which is called in a thread of its own.

    With `awaits`, an awaitable answer is awaited there, too, on an event loop.
    """
    box: Future[Any] = Future()
    context = copy_context()

    def ask() -> Any:
        answer = function(given)
        return asyncio.run(_in_time(answer)) if awaits and inspect.isawaitable(answer) else answer

    def run() -> None:
        if not box.set_running_or_notify_cancel():
            return
        try:
            box.set_result(context.run(ask))
        except BaseException as error:
            box.set_exception(error)

    start_thread(threading.Thread(target=run, name="llmsched-assign", daemon=True))
    return box
