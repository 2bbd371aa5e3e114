"""Values of a wrong kind: each parameter of each public name refuses them, by an error that names it."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import openai
import pytest
from langgraph.graph import START, MessagesState, StateGraph

from llmsched_langgraph import (
    Auto,
    Backend,
    Budget,
    ConfigurationError,
    Scheduler,
    SchedulerMiddleware,
    Tenant,
    UnsupportedGraphError,
    compile_graph,
    reset_default_scheduler,
    schedule,
    set_default_scheduler,
    wrap_openai,
)
from llmsched_langgraph.policies import llmsched

THING = object()
NUMBERS: tuple[object, ...] = (5, 1.5, -1, 0, math.nan, math.inf)
KINDS: tuple[object, ...] = ("", "x", b"x", True, [1], (), {"a": 1}, {1: 2}, THING)
EVERYTHING = (*NUMBERS, *KINDS)


class Wrong(NamedTuple):
    """What a parameter refuses.

    `keeps` are those of `EVERYTHING` that it takes; `named` is what the error calls it, if not by its name.
    """

    keeps: tuple[object, ...] = ()
    named: str = ""
    error: type[Exception] = ConfigurationError

    def values(self) -> list[object]:
        return [value for value in EVERYTHING if not any(_same(value, kept) for kept in self.keeps)]


def _same(one: object, other: object) -> bool:
    return one is other or (type(one) is type(other) and one == other)


TEXT = Wrong(("x",))
ANY_TEXT = Wrong(("x", ""))
FLAG = Wrong((True,))
COUNT = Wrong((5,))
AMOUNT = Wrong((5, 1.5))
SECONDS = Wrong((5, 1.5, math.inf))  # a wait may be endless
CHOICE = Wrong()
GRAPH = Wrong(error=UnsupportedGraphError)

SCHEDULER = {
    "slots": COUNT,
    "backends": Wrong(named="backend|Backend"),
    "policy": CHOICE,
    "queue_timeout_s": SECONDS,
    "max_wait_s": Wrong((5, 1.5, 0)),
    "overdue_every": COUNT,
    "tenants": Wrong(({"a": 1},)),
    "closed_tenants": FLAG,  # with tenants
    "assign": CHOICE,
    "profile": CHOICE,
    "profiles": ANY_TEXT,
    "record": Wrong(("x", b"x")),
    "save_on_sigterm": FLAG,
    "follow_threads": FLAG,
    "outside": CHOICE,
    "trust_config": FLAG,
    "on_budget": CHOICE,
    "max_jobs": COUNT,
    "max_queued": COUNT,
    "at_door": CHOICE,
    "url": CHOICE,
    "name": TEXT,
    "fallback": CHOICE,
    "clock": CHOICE,
}
BACKEND = {
    "name": TEXT,
    "slots": COUNT,
    "models": Wrong(((),)),
    "base_urls": Wrong(named="base_urls|base URL"),
    "queue_timeout_s": SECONDS,
    "prices": CHOICE,
    "requests_per_minute": COUNT,
    "requests_per_day": COUNT,
    "tokens_per_minute": COUNT,
    "input_tokens_per_minute": COUNT,
    "output_tokens_per_minute": COUNT,
    "retries": Wrong((5, 0)),
    "per_account": FLAG,
    "max_queued": COUNT,
    "replicas": Wrong(named="replica"),
}
SLOT = {
    "model": ANY_TEXT,
    "stage": ANY_TEXT,
    "priority": Wrong((5, 0, -1)),
    "tenant": ANY_TEXT,
    "account": TEXT,
    "deadline_s": Wrong((5, 1.5)),
}
LIMITS = {"budget": CHOICE, "deadline_s": AMOUNT}


async def _node(state: MessagesState) -> dict[str, Any]:
    return {}


GRAPH_OF_ONE = StateGraph(MessagesState).add_node("n", _node).add_edge(START, "n").compile()


def _scheduler(**given: object) -> object:
    others: dict[str, Any] = {"tenants": {"a": 1}} if "closed_tenants" in given else {}
    others |= {"record": "x"} if "save_on_sigterm" in given else {}
    return Scheduler(**others, **given)


def _slot(**given: Any) -> object:
    return Scheduler(2).slot(**given)


def _resize(**given: Any) -> object:
    return Scheduler(2).resize(**({"slots": 1} | given))


def _schedule(**given: Any) -> object:
    return schedule(**({"graph": GRAPH_OF_ONE} | given))


def _wrap_openai(**given: Any) -> object:
    return wrap_openai(**({"client": openai.OpenAI(api_key="x")} | given))


def _compile(**given: Any) -> object:
    return compile_graph(**({"graph": GRAPH_OF_ONE} | given))


def _middleware(**given: Any) -> object:
    return SchedulerMiddleware(**({"scheduler": Scheduler(2)} | given))


TABLE: list[tuple[Callable[..., object], Callable[..., object], dict[str, Wrong]]] = [
    (Scheduler, _scheduler, SCHEDULER),
    (Scheduler(1).slot, _slot, SLOT),
    (Scheduler(1).resize, _resize, {"slots": COUNT, "backend": CHOICE}),
    (Scheduler(1).subscribe, Scheduler(1).subscribe, {"observer": CHOICE}),
    (Scheduler(1).account, Scheduler(1).account, {"key": TEXT}),
    (Backend, Backend, BACKEND),
    (
        Tenant,
        Tenant,
        {"weight": Wrong((5, 1.5)), "max_slots": COUNT, "max_queued": COUNT, "tokens_per_minute": COUNT},
    ),
    (Auto, Auto, {"low": COUNT, "high": COUNT, "start": COUNT}),
    (Budget, Budget, {"tokens": COUNT, "calls": COUNT, "slot_s": AMOUNT, "cost": AMOUNT}),
    (schedule, _schedule, {"graph": GRAPH, "scheduler": CHOICE, **LIMITS}),
    (wrap_openai, _wrap_openai, {"client": CHOICE, "scheduler": CHOICE}),
    (compile_graph, _compile, {"graph": GRAPH}),
    (SchedulerMiddleware.__init__, _middleware, {"scheduler": CHOICE, "tools": CHOICE}),
    (set_default_scheduler, set_default_scheduler, {"scheduler": CHOICE}),
    (
        llmsched,
        llmsched,
        {"epsilon": Wrong((0,)), "sample": CHOICE, "seed": Wrong((5, 0, -1))},
    ),
]
CASES = [
    pytest.param(call, name, wrong, id=f"{getattr(function, '__qualname__', function)}-{name}")
    for function, call, table in TABLE
    for name, wrong in table.items()
]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Nothing of the environment, and no file in the way."""
    monkeypatch.delenv("LLMSCHED_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    reset_default_scheduler()


@pytest.mark.parametrize(("call", "name", "wrong"), CASES)
def test_a_wrong_value_is_an_error_that_names_the_parameter(call, name, wrong):
    """Of whatever kind the value is."""
    for value in wrong.values():
        with pytest.raises(wrong.error, match=wrong.named or name) as caught:
            call(**{name: value})
        assert len(str(caught.value)) < 500, value


@pytest.mark.parametrize(("function", "table"), [(row[0], row[2]) for row in TABLE])
def test_every_parameter_is_in_the_table(function, table):
    """A new one has to say what it refuses."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = {one.name for one in parameters if one.kind not in kinds}
    assert names - {"self"} == set(table)


KEYS = {"tenant": ANY_TEXT, "priority": Wrong((5, 0, -1)), **LIMITS}


@pytest.mark.parametrize("part", ["metadata", "configurable"])
@pytest.mark.parametrize(("key", "wrong"), KEYS.items())
def test_the_keys_of_a_configuration(key, wrong, part):
    """The error names the key, and the run has not begun."""
    scheduled = schedule(GRAPH_OF_ONE, scheduler := Scheduler(1))
    for value in wrong.values():
        config = {part: {f"llmsched_{key}": value}}
        with pytest.raises(ConfigurationError, match=f"llmsched_{key}"):
            asyncio.run(scheduled.ainvoke({"messages": []}, config))
    assert scheduler.statistics().jobs_ended == 0


def test_an_empty_tenant_is_none():
    """`slot(tenant="")` and the keys of a configuration mean alike, also where tenants are closed."""
    scheduler = Scheduler(1, tenants={"gold": 1}, closed_tenants=True)
    tenants = []

    def observe(entry):
        if entry.kind == "SlotGranted":
            share = entry.detail.share  # None for work without a tenant
            tenants.append("" if share is None else share.tenant)

    async def call(state: MessagesState) -> dict[str, Any]:
        async with scheduler.slot():
            return {}

    graph = schedule(StateGraph(MessagesState).add_node(call).add_edge(START, "call").compile(), scheduler)
    with scheduler.subscribe(observe):
        for name in ("", None, "gold"):
            with scheduler.slot(tenant=name):
                pass
            for part in ("metadata", "configurable"):
                asyncio.run(graph.ainvoke({"messages": []}, {part: {"llmsched_tenant": name}}))
    assert tenants == [""] * 6 + ["gold"] * 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _schedule(slots=8), r"argument 'slots': .*; write schedule\(graph, Scheduler\(8\)\)$"),
        (lambda: _schedule(policy="srtf"), r"write schedule\(graph, Scheduler\(policy='srtf'\)\)$"),
        (lambda: _wrap_openai(slots=2, max_jobs=3), r"wrap_openai\(client, Scheduler\(2, max_jobs=3\)\)$"),
        (lambda: SchedulerMiddleware(slots=2), r"write SchedulerMiddleware\(Scheduler\(2\)\)$"),
        (lambda: _schedule(slot=8), r"schedule\(\) got an unexpected keyword argument 'slot'$"),
    ],
)
def test_settings_of_a_scheduler_in_the_wrong_place(call, message):
    """The error says where they belong."""
    with pytest.raises(TypeError, match=message):
        call()


def test_a_number_of_slots_is_no_scheduler():
    """The error names the scheduler that was meant."""
    with pytest.raises(ConfigurationError, match=r"must be a Scheduler, such as Scheduler\(5\), not int"):
        schedule(GRAPH_OF_ONE, 5)
    with pytest.raises(ConfigurationError, match="not the class itself"):
        schedule(GRAPH_OF_ONE, Scheduler)


@pytest.mark.parametrize(
    ("given", "example"),
    [
        ({"weight": 3}, r"Tenant\(weight=3\)"),
        ({"weight": 1, "max_slots": 2}, r"Tenant\(weight=1, max_slots=2\)"),
        ({"slots": 2}, r"Tenant\(weight=3\)"),
        ([3], r"Tenant\(weight=3\)"),
    ],
)
def test_a_dict_is_no_tenant(given, example):
    """The error writes the `Tenant` that was meant."""
    with pytest.raises(ConfigurationError, match=f"tenants: 'gold': .*a Tenant, such as {example}$"):
        Scheduler(tenants={"gold": given})


@pytest.mark.parametrize(
    ("slots", "told"),
    [({"slots": 8}, True), ({"slots": 20}, False), ({"slots": "auto"}, False), ({}, True),
     ({"backends": [Backend("a", 8, models=["a"]), Backend("b", 30)]}, False)],
)  # fmt: skip
def test_a_tenants_limit_that_does_nothing_is_said_once(caplog, slots, told):
    """It is above the slots of every backend; a limit below, or as many, is one."""
    Scheduler(**slots, tenants={"gold": Tenant(max_slots=20), "all": Tenant(max_slots=8), "some": 3})
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == told
    assert all("max_slots" in line and "'gold' (20)" in line and "'all'" not in line for line in lines)
