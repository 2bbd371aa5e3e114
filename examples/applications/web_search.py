"""Web search by ReAct: an agent looks things up, a step at a time, until it can answer.

The "web" is the folder `corpus`. An agent that never comes to an answer is stopped after some model calls.
"""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentState, ModelCallLimitMiddleware, after_model
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from library import best, pages
from model import default_model, read_inputs

MODEL_CALLS = 12

PROMPT = """Answer the question. Look things up with the tools, one step at a time; do not answer from \
memory. When you know the answer, give it in one short sentence."""


@tool
async def search(query: str) -> str:
    """Search the web. Gives the titles of the pages that fit best, with how each begins."""
    titles = best(query, pages(), 3)
    return "\n".join(f"{title}: {pages()[title][:120]}..." for title in titles) or "Nothing was found."


@tool
async def read_page(title: str) -> str:
    """Read the page of this title."""
    found = {name.lower(): text for name, text in pages().items()}
    return found.get(title.strip().lower()) or f"There is no page {title!r}. Search for one."


@after_model(can_jump_to=["model"])
async def ask_again(state: AgentState, runtime: Any) -> dict[str, Any] | None:
    """An agent whose answer is empty, or a tool call that is not JSON, is not done: it is told so."""
    answer = state["messages"][-1]
    bad = getattr(answer, "invalid_tool_calls", None) or []
    if getattr(answer, "tool_calls", None) or (answer.text.strip() and not bad):
        return None
    # Servers want a result for each call of a message.
    told = [ToolMessage("Error: the arguments are not JSON.", tool_call_id=call["id"]) for call in bad]
    return {"messages": told or [HumanMessage("You said nothing. Go on.")], "jump_to": "model"}


def build(model: BaseChatModel) -> Any:
    """The agent."""
    limit = ModelCallLimitMiddleware(run_limit=MODEL_CALLS, exit_behavior="end")
    tools = [search, read_page]
    return create_agent(model, tools, system_prompt=PROMPT, middleware=[limit, ask_again], name="web_search")


def inputs() -> list[dict[str, Any]]:
    """Questions that take one to three steps."""
    return [{"messages": [("user", given["question"])]} for given in read_inputs("web_search")]


def shown(output: dict[str, Any]) -> str:
    """The answer."""
    return output["messages"][-1].text


graph = build(default_model())
