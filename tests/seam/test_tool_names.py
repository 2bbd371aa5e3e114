"""Names of tools in `SchedulerMiddleware(tools=...)` that the agent does not have are said once."""

from __future__ import annotations

import asyncio

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool

from llmsched_langgraph import Backend, ConfigurationError, SchedulerMiddleware, schedule

QUESTION = {"messages": [("user", "?")]}


class Answering(BaseChatModel):
    """Answers without calling a tool."""

    @property
    def _llm_type(self):
        return "answering"

    def bind_tools(self, tools, **_):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=AIMessage("done"))])


@tool
def search(word: str) -> str:
    """Search."""
    return word


@tool
def web_page(word: str) -> str:
    """Fetch."""
    return word


class More(AgentMiddleware):
    """Brings a tool of its own."""

    tools = (web_page,)


PROVIDERS = [{"type": "web_search"}, {"type": "function", "function": {"name": "look_up", "parameters": {}}}]


@pytest.fixture
def scheduler(make_scheduler):
    return make_scheduler(backends=[Backend("gpu", 2), Backend("api", 2, models=[])])


def said(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_name_without_a_tool_is_said_at_the_first_model_call(caplog, scheduler, scheduled, asynchronous):
    """With the nearest name of a tool; the names that the agent has are not, nor globs that match one."""
    names = ["serch", "search", "web_*", "s?arch", "web_search", "look_up", "db_*"]
    middleware = SchedulerMiddleware(scheduler, tools=dict.fromkeys(names, "api"))
    agent = create_agent(Answering(), [search, *PROVIDERS], middleware=[middleware, More()])
    agent = schedule(agent, scheduler) if scheduled else agent
    assert said(caplog) == []
    for _ in range(2):
        if asynchronous:
            asyncio.run(agent.ainvoke(QUESTION))
        else:
            agent.invoke(QUESTION)
    near, none = said(caplog)
    assert near == (
        "SchedulerMiddleware(tools=...) names the tool 'serch', which the agent does not offer to its model "
        "(logged once): did you mean 'search'?"
    )
    assert "'db_*'" in none
    assert none.endswith(": there are look_up, search, web_page, web_search")


def test_an_agent_without_tools(caplog, scheduler):
    """Has no nearest one."""
    middleware = SchedulerMiddleware(scheduler, tools={"search": "api"})
    create_agent(Answering(), [], middleware=[middleware]).invoke(QUESTION)
    (line,) = said(caplog)
    assert line.endswith("'search', which the agent does not offer to its model (logged once): there is none")


def test_a_backend_that_does_not_exist_is_an_error(scheduler):
    """When the middleware is made."""
    with pytest.raises(ConfigurationError, match="'search' is on backend 'apis', which the scheduler"):
        SchedulerMiddleware(scheduler, tools={"search": "apis"})
