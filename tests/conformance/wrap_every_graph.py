"""pytest plugin: every graph that LangGraph's own tests compile goes through `schedule()`.

    LLMSCHED_CONFORMANCE_SLOTS=4 LLMSCHED_CONFORMANCE_REPORT=report.jsonl pytest -p wrap_every_graph

Started by `run.py`, in a folder with LangGraph's tests. Wrapped are

- the result of `StateGraph.compile()`, and so of everything that is built on it,
- the result of `@entrypoint(...)`, and
- every `Pregel(...)` made directly,

but not what `graph.copy()` and `graph.with_config()` make of them: those have to stay scheduled by
themselves, as in an application. All graphs of one process share one scheduler.

The tests hardly ever have two model calls in flight at once, so no call would ever wait. With
`LLMSCHED_CONFORMANCE_BUSY=1` as many rivals as there are slots keep them all taken, and nearly every
call has to wait for some milliseconds.

Without `LLMSCHED_CONFORMANCE_SLOTS` nothing is wrapped and the package is not imported. Either way
the report gets one JSON object a line: how many tests there are, each phase of each test as it ends,
and for every process at its end the totals of its scheduler.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

SETTLING_S = 10.0
"""How long threads that tests left behind get to give back what they hold."""

RIVAL_S = 0.005
"""Time between two moments at which a slot becomes free, when rivals keep all of them busy."""

AT_ONCE_S = 0.001
"""A call that got its slot within this time did not wait for it."""

_slots = int(os.environ.get("LLMSCHED_CONFORMANCE_SLOTS") or 0)
_busy = bool(os.environ.get("LLMSCHED_CONFORMANCE_BUSY"))
_report = os.environ.get("LLMSCHED_CONFORMANCE_REPORT")
_scheduler: Any = None
_heard: Heard | None = None
_watch: Watch | None = None
_rivals: Rivals | None = None
_wrapped: Counter[str] = Counter()
_inside: ContextVar[bool] = ContextVar("inside a constructor that is wrapped itself", default=False)


# -- wrapping --------------------------------------------------------------------------


def install(wrap: Callable[[Any], Any]) -> None:
    """Pass every graph that is made from now on through `wrap`."""
    from langgraph.func import entrypoint
    from langgraph.graph import StateGraph
    from langgraph.pregel import Pregel

    def wrapping(kind: str, make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def made(*args: Any, **kwargs: Any) -> Any:
            with _unwrapped():
                graph = make(*args, **kwargs)
            return _apply(wrap, kind, graph)

        return made

    patched: Any
    for patched, name, kind in (
        (StateGraph, "compile", "StateGraph.compile"),
        (entrypoint, "__call__", "entrypoint"),
    ):
        setattr(patched, name, wrapping(kind, getattr(patched, name)))

    # The tests import `Pregel` by name, so the class has to stay: another metaclass sees its calls.
    pregel: Any = Pregel
    metaclass: Any = type(pregel)

    class Wrapping(metaclass):  # type: ignore[misc]
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            graph = super().__call__(*args, **kwargs)
            return _apply(wrap, "Pregel", graph) if cls is Pregel else graph

    pregel.__class__ = Wrapping
    copy = pregel.copy

    @functools.wraps(copy)
    def copied(*args: Any, **kwargs: Any) -> Any:
        with _unwrapped():
            return copy(*args, **kwargs)

    pregel.copy = copied


@contextmanager
def _unwrapped() -> Iterator[None]:
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def _apply(wrap: Callable[[Any], Any], kind: str, graph: Any) -> Any:
    if _inside.get():
        return graph
    _wrapped[kind] += 1
    with _unwrapped():
        return wrap(graph)


class Watch:
    """Measures how long the tests' calls wait for slots.

    Attributes:
        waits: calls that did not get their slot at once.
        waited_s: in all.
    """

    def __init__(self) -> None:
        from llmsched_langgraph._runtime.slot import Slot

        self.waits = 0
        self.waited_s = 0.0
        self._lock = threading.Lock()
        acquire, aacquire = Slot.acquire, Slot.aacquire

        @functools.wraps(acquire)
        def watched(slot: Slot) -> None:
            asked = monotonic()
            try:
                acquire(slot)
            finally:
                self._note(monotonic() - asked)

        @functools.wraps(aacquire)
        async def awatched(slot: Slot) -> None:
            asked = monotonic()
            try:
                await aacquire(slot)
            finally:
                self._note(monotonic() - asked)

        patched: Any = Slot
        patched.acquire, patched.aacquire = watched, awatched

    def _note(self, waited_s: float) -> None:
        if waited_s > AT_ONCE_S and not isinstance(threading.current_thread(), _Rival):
            with self._lock:
                self.waits += 1
                self.waited_s += waited_s


class _Rival(threading.Thread):
    """One thread of `Rivals`."""


class Heard(logging.Handler):
    """Keeps what the package warns of: say, that it does not know the insides of this LangGraph.

    Attributes:
        messages: each once, in their order.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: dict[str, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        self.messages[record.getMessage()] = None


class Rivals:
    """Calls from outside the tests: as many threads as slots, each of which takes one again and again.

    Attributes:
        calls: that they have made.
    """

    def __init__(self, scheduler: Any, slots: int) -> None:
        self.calls = 0
        self._scheduler = scheduler
        self._hold_s = RIVAL_S * slots
        self._lock = threading.Lock()
        # Not time.sleep: some tests replace it and count its calls.
        self._stopped = threading.Event()
        self._threads = [_Rival(target=self._call, daemon=True) for _ in range(slots)]
        for number, thread in enumerate(self._threads):
            thread.start()
            self._stopped.wait(RIVAL_S if number < slots - 1 else 0)

    def _call(self) -> None:
        while not self._stopped.is_set():
            with self._scheduler.slot():
                with self._lock:
                    self.calls += 1
                self._stopped.wait(self._hold_s)

    def stop(self) -> None:
        """Give all slots back."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(SETTLING_S)


def totals() -> dict[str, Any]:
    """What this process's scheduler did, once everything that can come back has come back."""
    if _rivals is not None:
        _rivals.stop()
    deadline = monotonic() + SETTLING_S
    while True:
        gc.collect()  # abandoned streams give their slots back when they are collected
        now = _scheduler.statistics()
        if not (now.holding or now.waiting or now.jobs_running) or monotonic() > deadline:
            break
        time.sleep(0.1)
    fault = ""
    try:
        _scheduler.check()
    except AssertionError as error:
        fault = str(error) or "an invariant does not hold"
    figures = dataclasses.asdict(now)
    del figures["backends"], figures["policy"]
    return {
        **figures,
        "calls": now.granted - (_rivals.calls if _rivals is not None else 0),
        "waits": _watch.waits if _watch is not None else 0,
        "waited_s": _watch.waited_s if _watch is not None else 0.0,
        "graphs": dict(_wrapped),
        "slots": now.slots,
        "holding": now.holding,
        "waiting": now.waiting,
        "faults": [fault] if fault else [],
        "warnings": list(_heard.messages) if _heard is not None else [],
    }


# -- reporting -------------------------------------------------------------------------


def _write(**line: Any) -> None:
    if _report:
        with Path(_report).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workeroutput")


def pytest_configure(config: pytest.Config) -> None:
    """Wrap, in every process that runs tests."""
    global _scheduler, _heard, _watch, _rivals
    runs_tests = _is_worker(config) or not getattr(config.option, "numprocesses", None)
    if _slots and runs_tests:
        from llmsched_langgraph import Scheduler, schedule

        _scheduler = Scheduler(_slots)
        _heard = Heard()
        logging.getLogger("llmsched_langgraph").addHandler(_heard)
        _watch = Watch()
        install(lambda graph: schedule(graph, _scheduler))
        _rivals = Rivals(_scheduler, _slots) if _busy else None


class _Reporter:
    """Writes the report, in the one process that sees all results."""

    def __init__(self) -> None:
        self._expected = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._expect(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        self._expect(len(ids))

    def _expect(self, tests: int) -> None:
        if tests > self._expected:
            self._expected = tests
            _write(tests=tests)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:  # an error, or a file that skips itself
            why = _why(report) if report.failed else ""
            _write(test=report.nodeid, when="collect", outcome=report.outcome, xfail=False, why=why)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _write(
            test=report.nodeid,
            when=report.when,
            outcome=report.outcome,
            xfail=hasattr(report, "wasxfail"),
            why=_why(report) if report.failed else "",
        )

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        output = getattr(node, "workeroutput", None) or {}
        _write(process=node.gateway.id, totals=output.get("llmsched_totals"), error=error and str(error))

    def pytest_sessionfinish(self) -> None:
        if _scheduler is not None:
            _write(process="main", totals=totals(), error=None)


def _why(report: pytest.CollectReport | pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else report.longreprtext
    return str(text).strip()[:500]


class _Worker:
    """Sends a worker's totals to the process that writes the report."""

    def __init__(self, config: Any) -> None:
        self._output = config.workeroutput

    def pytest_sessionfinish(self) -> None:
        if _scheduler is not None:
            self._output["llmsched_totals"] = totals()


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Register what belongs to this kind of process."""
    plugins = session.config.pluginmanager
    if _is_worker(session.config):
        plugins.register(_Worker(session.config), "llmsched-worker")
    else:
        plugins.register(_Reporter(), "llmsched-reporter")
