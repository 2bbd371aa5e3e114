"""Tools on backends of their own: what limits them, whose place they take, and what they do not count as."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from support.cycles import ends, went_ahead
from support.seam import auntil, until

from llmsched_langgraph import (
    Backend,
    Budget,
    ConfigurationError,
    QueueTimeoutError,
    SchedulerMiddleware,
    schedule,
    set_default_scheduler,
)
from llmsched_langgraph.testing import Meter, PlainModel
from llmsched_langgraph.traces import read_jobs

QUESTION = {"messages": [("user", "?")]}


class Calling(BaseChatModel):
    """Calls the tools once, all of them side by side, and then answers."""

    calls: tuple[str, ...]

    @property
    def _llm_type(self):
        return "calling"

    def bind_tools(self, tools, **_):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        done = any(isinstance(message, ToolMessage) for message in messages)
        calls = [
            {"name": name, "args": {"word": str(number)}, "id": str(number), "type": "tool_call"}
            for number, name in enumerate(() if done else self.calls)
        ]
        return ChatResult(generations=[ChatGeneration(message=AIMessage("done", tool_calls=calls))])


def backends(*more, slots=8, **settings):
    return [Backend("gpu", 8), Backend("search-api", slots, models=[], **settings), *more]


def counting(meter, asynchronous=False):
    """A tool that counts how many of its calls run at once."""
    if asynchronous:

        @tool
        async def search(word: str) -> str:
            """Search."""
            with meter:
                await asyncio.sleep(0.002)
                return word
    else:

        @tool
        def search(word: str) -> str:
            """Search."""
            with meter:
                return word

    return search


def agent_of(calls, tools, on=None, limits=None, **more):
    limits = {"search": "search-api"} if limits is None else limits
    return create_agent(
        Calling(calls=calls), tools, middleware=[SchedulerMiddleware(on, tools=limits)], **more
    )


def granted(scheduler, backend="search-api"):
    return scheduler._driver.backends[backend].granted


def run(agent, asynchronous, times=1):
    async def main():
        return await asyncio.gather(*(agent.ainvoke(QUESTION) for _ in range(times)))

    if asynchronous:
        return asyncio.run(main())
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(agent.invoke, [QUESTION] * times))


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize("asynchronous_tool", [True, False])
def test_the_slots_of_the_backend_limit_the_tool(make_scheduler, asynchronous, scheduled, asynchronous_tool):
    """Over parallel calls of one agent and over agents; the answers are those of the tool."""
    if asynchronous_tool and not asynchronous:
        pytest.skip("a synchronous agent runs no asynchronous tool")
    scheduler, meter = make_scheduler(backends=backends(slots=2)), Meter()
    agent = agent_of(("search",) * 3, [counting(meter, asynchronous_tool)], scheduler)
    states = run(schedule(agent, scheduler) if scheduled else agent, asynchronous, 3)
    for state in states:
        assert [message.text for message in state["messages"]] == ["?", "done", "0", "1", "2", "done"]
    assert (meter.total, granted(scheduler)) == (9, 9)
    assert meter.peak <= 2
    assert granted(scheduler, "gpu") == 6


def test_the_rates_of_the_backend_hold_calls_back(make_scheduler):
    """The second call of a minute waits, and holds nothing."""
    scheduler = make_scheduler(backends=backends(requests_per_minute=1, queue_timeout_s=0.05))
    agent = schedule(agent_of(("search", "search"), [counting(Meter())], scheduler), scheduler)
    with pytest.raises(QueueTimeoutError, match="search-api"):
        agent.invoke(QUESTION)
    assert granted(scheduler) == 1


def test_without_a_scheduler_the_slots_are_those_of_the_run(make_scheduler):
    """Outside a run they are those of the process-wide scheduler."""
    ours, default = make_scheduler(backends=backends()), make_scheduler(backends=backends())
    set_default_scheduler(default)
    agent = agent_of(("search",), [counting(Meter())])
    schedule(agent, ours).invoke(QUESTION)
    assert (granted(ours), granted(default)) == (1, 0)
    agent.invoke(QUESTION)
    assert (granted(ours), granted(default)) == (1, 1)


def test_a_scheduler_for_the_tools_alone(make_scheduler):
    """In a run of another scheduler, model calls stay with that one, also those inside the tool."""
    models, tools, inner = make_scheduler(1), make_scheduler(backends=backends()), PlainModel()

    @tool
    def search(word: str) -> str:
        """Search."""
        return str(inner.invoke(word).text)

    schedule(agent_of(("search",), [search], tools), models).invoke(QUESTION)
    assert (granted(models, "default"), granted(tools), granted(tools, "gpu")) == (3, 1, 0)
    assert tools.statistics().jobs_running == 0


def test_names_of_tools_are_globs_and_others_take_no_slot(make_scheduler):
    """The first glob that matches counts."""
    scheduler = make_scheduler(backends=backends(Backend("files", 1, models=[])))

    def named(name):
        def look(word: str) -> str:
            """Look."""
            return word

        return tool(name)(look)

    names = ("web_search", "web_fetch", "read", "add")
    limits = {"web_f*": "files", "web_*": "search-api", "[rs]*": "files"}
    agent = agent_of(names, [named(name) for name in names], scheduler, limits)
    schedule(agent, scheduler).invoke(QUESTION)
    assert (granted(scheduler), granted(scheduler, "files")) == (1, 2)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"search": "serach-api"}, "'search' is on backend 'serach-api'.*: gpu, search-api"),
        ({"search": None}, "must be a dict of backend names by tool name"),
        (["search"], "must be a dict of backend names by tool name"),
        ("search", "must be a dict of backend names by tool name"),
        ({"": "search-api"}, "must be a dict of backend names by tool name"),
    ],
)
def test_wrong_tools(make_scheduler, limits, message):
    """One clear error when the middleware is made."""
    with pytest.raises(ConfigurationError, match=message):
        SchedulerMiddleware(make_scheduler(backends=backends()), tools=limits)


def test_a_wrong_backend_is_told_of_at_the_first_call_without_a_scheduler(make_scheduler):
    """The scheduler is known only then."""
    scheduler = make_scheduler(backends=backends())
    agent = agent_of(("search",), [counting(Meter())], limits={"search": "web"})
    with pytest.raises(ConfigurationError, match=r"'search' is on backend 'web'.*: gpu, search-api"):
        schedule(agent, scheduler).invoke(QUESTION)


@pytest.mark.parametrize("limits", [None, {}])
def test_without_tools_the_agent_is_as_before(make_scheduler, limits):
    """The hooks around tools alone would give it a node for tools."""
    middleware = SchedulerMiddleware(make_scheduler(1), tools=limits)
    bare = create_agent(PlainModel())
    agent = create_agent(PlainModel(), middleware=[middleware])
    assert list(agent.nodes) == list(bare.nodes)
    assert middleware.name == SchedulerMiddleware(tools={"a": "b"}).name == "SchedulerMiddleware"


def test_a_subclass_keeps_its_name_and_its_methods(make_scheduler):
    """The hooks of tools come to any class."""

    class Own(SchedulerMiddleware):
        def before_model(self, state, runtime):
            seen.append(len(state["messages"]))

    seen: list[int] = []
    scheduler = make_scheduler(backends=backends())
    own = Own(scheduler, tools={"search": "search-api"})
    assert isinstance(own, Own)
    assert own.name == "Own"
    create_agent(Calling(calls=("search",)), [counting(Meter())], middleware=[own]).invoke(QUESTION)
    assert (seen, granted(scheduler)) == ([1, 3], 1)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("scheduled", [True, False])
def test_a_tool_that_raises_gives_its_slot_back(make_scheduler, asynchronous, scheduled):
    """The error is the tool's."""
    scheduler = make_scheduler(backends=backends(slots=1))

    @tool
    def search(word: str) -> str:
        """Search."""
        raise ZeroDivisionError(word)

    agent = agent_of(("search",), [search], scheduler)
    with pytest.raises(ZeroDivisionError):
        run(schedule(agent, scheduler) if scheduled else agent, asynchronous)
    assert granted(scheduler) == 1


def test_a_tool_that_returns_a_command(make_scheduler):
    """It passes unchanged."""
    scheduler = make_scheduler(backends=backends())

    @tool
    def search(word: str) -> Command:
        """Search."""
        return Command(update={"messages": [ToolMessage("by command", tool_call_id="0")]})

    state = schedule(agent_of(("search",), [search], scheduler), scheduler).invoke(QUESTION)
    assert [message.text for message in state["messages"]][2:] == ["by command", "done"]


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_tool_that_interrupts_and_is_resumed(make_scheduler, scheduled):
    """It holds no slot while a human is asked, and takes one again."""
    scheduler = make_scheduler(backends=backends(slots=1))

    @tool
    def search(word: str) -> str:
        """Search."""
        return str(interrupt(word))

    agent = agent_of(("search",), [search], scheduler, checkpointer=InMemorySaver())
    agent = schedule(agent, scheduler) if scheduled else agent
    thread = {"configurable": {"thread_id": "1"}}
    agent.invoke(QUESTION, thread)
    assert scheduler._driver.backends["search-api"].holding == 0
    state = agent.invoke(Command(resume="found"), thread)
    assert [message.text for message in state["messages"]][2:] == ["found", "done"]
    assert granted(scheduler) == 2


@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize("asynchronous_tool", [True, False])
def test_a_tool_in_a_thread_keeps_its_slot_until_it_ends(make_scheduler, scheduled, asynchronous_tool):
    """Its run is cancelled, which a thread does not notice."""
    scheduler, meter = make_scheduler(backends=backends(slots=1)), Meter()
    meter.gate.clear()

    def work(word: str) -> str:
        with meter:
            meter.respond()
            return word

    if asynchronous_tool:

        @tool
        async def search(word: str) -> str:
            """Search."""
            return await asyncio.to_thread(work, word)
    else:
        search = tool("search", description="Search.")(work)

    agent = agent_of(("search",), [search], scheduler)
    agent = schedule(agent, scheduler) if scheduled else agent

    def held():
        return scheduler._driver.backends["search-api"].holding

    async def main():
        first = asyncio.create_task(agent.ainvoke(QUESTION))
        await auntil(lambda: meter.now == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert held() == 1
        second = asyncio.create_task(agent.ainvoke(QUESTION))
        await auntil(lambda: scheduler._driver.backends["search-api"].waiting == 1)
        meter.gate.set()
        await second

    asyncio.run(main())
    assert (meter.peak, held()) == (1, 0)


@pytest.mark.parametrize("scheduled", [True, False])
@pytest.mark.parametrize("waiting", [True, False])
def test_a_cancelled_run_leaves_no_slot_behind(make_scheduler, scheduled, waiting):
    """Neither of a tool that runs, nor of one that waits."""
    scheduler, meter = make_scheduler(backends=backends(slots=1)), Meter()
    meter.gate = threading.Event()

    @tool
    async def search(word: str) -> str:
        """Search."""
        started.append(word)
        await asyncio.Event().wait()
        return word

    started: list[str] = []
    agent = agent_of(("search", "search") if waiting else ("search",), [search], scheduler)
    agent = schedule(agent, scheduler) if scheduled else agent

    async def main():
        task = asyncio.create_task(agent.ainvoke(QUESTION))
        await auntil(lambda: len(started) == 1 and scheduler.statistics().waiting == waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    until(lambda: not scheduler._driver.backends["search-api"].holding)
    assert started in (["0"], ["1"])


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("scheduled", [True, False])
def test_a_tool_that_calls_a_model_does_not_stand_still(make_scheduler, asynchronous, scheduled):
    """With one slot each, and several runs."""
    scheduler, inner = make_scheduler(backends=[Backend("gpu", 1), *backends(slots=1)[1:]]), PlainModel()

    @tool
    def search(word: str) -> str:
        """Search."""
        return str(inner.invoke(word).text)

    agent = agent_of(("search",) * 2, [search], scheduler)
    agent = schedule(agent, scheduler) if scheduled else agent
    ends(lambda: run(agent, asynchronous, 3), scheduler)
    assert went_ahead(scheduler) == []
    assert inner.meter.peak == 1
    assert inner.meter.total == 6


@pytest.mark.parametrize("asynchronous", [True, False])
def test_an_agent_as_a_tool_on_the_same_backend(make_scheduler, asynchronous):
    """A tool inside a tool of the same backend borrows its slot."""
    scheduler = make_scheduler(backends=backends(slots=1))
    limits = {"*": "search-api"}
    inner = agent_of(("search", "search"), [counting(Meter())], scheduler, limits)

    @tool
    def expert(word: str) -> str:
        """Ask."""
        return str(inner.invoke(QUESTION)["messages"][-1].text)

    agent = schedule(agent_of(("expert", "expert"), [expert], scheduler, limits), scheduler)
    ends(lambda: run(agent, asynchronous, 2), scheduler)
    assert went_ahead(scheduler) == []


def test_tools_inside_each_other_on_two_backends(make_scheduler):
    """Each holds what the other waits for: one goes ahead, and is counted."""
    scheduler = make_scheduler(backends=[*backends(slots=1), Backend("files", 1, models=[])])
    limits = {"a": "search-api", "b": "files"}
    both = threading.Barrier(2)

    def agent_in(name):
        @tool(name)
        def leaf(word: str) -> str:
            """Look."""
            return word

        return agent_of((name,), [leaf], scheduler, limits)

    def outer(name, inside):
        @tool(name)
        def around(word: str) -> str:
            """Look."""
            both.wait(20)
            return str(inside.invoke(QUESTION)["messages"][-1].text)

        return schedule(agent_of((name,), [around], scheduler, limits), scheduler)

    agents = [outer("a", agent_in("b")), outer("b", agent_in("a"))]

    def program():
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda agent: agent.invoke(QUESTION), agents))

    ends(program, scheduler)
    assert len(went_ahead(scheduler)) == 1


def test_a_tools_seconds_are_no_work(make_scheduler, tmp_path):
    """Its calls are in no record, no budget and no profile; its stage is no LLM stage."""
    scheduler = make_scheduler(backends=backends(), record=tmp_path / "jobs.jsonl", policy="srtf")
    agent = agent_of(("search", "search"), [counting(Meter())], scheduler)
    schedule(agent, scheduler, budget=Budget(calls=3)).invoke(QUESTION)  # 2 model calls, 2 of the tool
    agent.invoke(QUESTION)
    scheduler.close()
    jobs = list(read_jobs(tmp_path / "jobs.jsonl"))
    kinds = {stage.name: stage.kind for stage in jobs[0].stages}
    assert [name for name in kinds if kinds[name] == "llm"] == ["model"]
    assert [len(list(job.llm_calls())) for job in jobs] == [2, 1, 1]  # without schedule, each call is a job
    assert all(call.backend == "gpu" for job in jobs for call in job.llm_calls())


@pytest.mark.parametrize(
    ("configs", "settings", "expected"),
    [
        ([{}, {}], {}, "01"),
        ([{}, {"llmsched_priority": -1}], {}, "10"),
        ([{"llmsched_tenant": name} for name in "aab"], {}, "021"),
        (
            [{"llmsched_tenant": name} for name in "aaabbb"],
            {"tenants": {"a": 1e-3, "b": 1e3}},
            "034512",
        ),
    ],
)
def test_the_place_of_a_run_holds_at_the_tools_backend(make_scheduler, configs, settings, expected):
    """Its priority and its tenant, with its weight."""
    scheduler = make_scheduler(backends=backends(slots=1), policy="fcfs", **settings)
    order: list[str] = []

    def agent_with(name):
        @tool(name)
        async def leaf(word: str) -> str:
            """Look."""
            order.append(name)
            return word

        return schedule(agent_of((name,), [leaf], scheduler, {"*": "search-api"}), scheduler)

    async def main():
        tasks = []
        with Holding(scheduler):
            for number, config in enumerate(configs):
                call = agent_with(str(number)).ainvoke(QUESTION, {"metadata": config})
                tasks.append(asyncio.create_task(call))
                await auntil(lambda: scheduler.statistics().waiting == len(tasks))
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert "".join(order) == expected


class Holding:
    """Holds the slot of the tool's backend."""

    def __init__(self, scheduler):
        from llmsched_langgraph._core.events import CallReleased, CallRequested

        self.driver = scheduler._driver
        self.ticket = self.driver.new_ticket()
        self.asked, self.released = CallRequested(self.ticket, "search-api"), CallReleased(self.ticket)

    def __enter__(self):
        assert self.driver.request(self.asked)

    def __exit__(self, *_):
        self.driver.release(self.ticket)
