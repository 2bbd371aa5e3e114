"""Loads two kinds of conversation: Claude Code sessions and tau-bench dialogues.

A job is one turn, from one user message to the next. Converts already parsed records; opens no files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import EndedCall, EndedJob
from llmsched_langgraph.traces.loaders.shape import Shape, Stages, call


@dataclass(slots=True)
class _Request:
    """One request of a session, and the sub-agents that ran between it and the next."""

    at_s: float
    call: EndedCall
    waited_s: float | None
    """Seconds from the end of the previous request to this one's start; None if not recorded."""
    ended: bool
    """Whether the end of the request is recorded."""
    answers_tool: bool
    agents: list[Field] = field(default_factory=list)


def _claude_code(node: Field) -> Iterator[EndedJob]:
    """Yield one job per turn: a chain of `respond`, one call, and `tools` before the next call.

    The seconds of `tools` are the client's delay before the next call. A sub-agent is a chain of
    `agent_respond` and `agent_tools`, parallel to `tools`; the next call depends on it if it is recorded as
    completed. Its time is part of the client's delay, so the seconds of `tools` are then derived: the delay
    minus the longest sub-agent. The job's time is from the start of its first request to the end of its last.

    A turn with an unrecorded request end is skipped, and so is the turn after it, because the boundary
    between them is unknown.
    """
    session, app = node["id"].text(), node["app"].text()
    turns: list[list[_Request]] = []
    whole = True
    for element in node["calls"].items():
        if isinstance(element.value, dict):
            if turns:
                turns[-1][-1].agents.append(element)
            continue
        request = _request(element)
        if not turns or not request.answers_tool:
            turns.append([])
        turns[-1].append(request)
    for number, turn in enumerate(turns, 1):
        begins_well, whole = whole, all(request.ended for request in turn)
        if begins_well and whole:
            yield _turn(turn).job(f"{session}/{number}", app, _lasted_s(turn))


def _request(node: Field) -> _Request:
    at, sent, answered, _, seconds, waited, _, _, stop, has_tool_result = node.items(10)
    made = call(sent.count(), answered.count(), seconds.maybe_number())
    ended = bool(stop.value) and made.seconds is not None
    return _Request(at.number(), made, waited.maybe_number(), ended, bool(has_tool_result.count()))


def _lasted_s(turn: list[_Request]) -> float:
    last = turn[-1]
    return round(last.at_s + (last.call.seconds or 0.0) - turn[0].at_s, 3)


def _turn(turn: list[_Request]) -> Stages:
    stages = Stages()
    after: tuple[int, ...] = ()
    for request, following in zip(turn, [*turn[1:], None], strict=True):
        asked = stages.llm("respond", request.call, after=after)
        after, longest_s = (asked,), 0.0
        for agent in request.agents:
            end = _sub_agent(stages, agent, asked)
            if agent["status"].text() == "completed":
                after = (*after, end)
                longest_s = max(longest_s, agent["dur"].number())
        if following is not None:
            waited_s = following.waited_s
            seconds = None if waited_s is None else max(round(waited_s - longest_s, 3), 0.0)
            derived = seconds is not None and longest_s > 0
            after = (stages.tool("tools", seconds, after=after, derived=derived),)
    return stages


def _sub_agent(stages: Stages, agent: Field, after: int) -> int:
    for number, element in enumerate(agent["calls"].items()):
        request = _request(element)
        if number:
            after = stages.tool("agent_tools", request.waited_s, after=(after,))
        after = stages.llm("agent_respond", request.call, after=(after,))
    return after


def _tau_bench(node: Field) -> Iterator[EndedJob]:
    """Yield one job per turn: a chain of `respond`, one call, and `use_tool`, the requested tool.

    The user, simulated by a model in the benchmark, is omitted: its messages separate the turns. Tokens are
    lengths of the recorded texts, including the context. No seconds are recorded.
    """
    dialogue, app = node["id"].text(), node["app"].text()
    stages, number = Stages(), 0
    for step in node["steps"].items():
        actor, context, tokens, tool = step.items(4)
        match actor.value:
            case "user_sim":
                if len(stages):
                    yield stages.job(f"{dialogue}/{number}", app, None)
                stages, number = Stages(), number + 1
            case "agent":
                stages.llm("respond", call(context.count(), tokens.count()))
            case "tool":
                stages.tool("use_tool", None, tool=tool.text())
            case _:
                raise actor.fault("'agent', 'tool' or 'user_sim'")
    if len(stages):
        yield stages.job(f"{dialogue}/{number}", app, None)


CLAUDE_CODE = Shape("Claude Code sessions", ("calls", "sys_tok", "tool_tok"), _claude_code)
TAU_BENCH = Shape("tau-bench dialogues", ("steps", "sys_tok", "reward"), _tau_bench)
