"""Parses and validates chat completion requests.

Does not answer them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from llmsched_langgraph._fields import refuse_constant
from llmsched_langgraph.lab.serve_sim.api_error import ApiError, JsonObject, invalid
from llmsched_langgraph.lab.serve_sim.scripts import Turn, message_text, scripted_turn

CONTEXT_TOKENS = 131_072
"""Most tokens of prompt plus output."""
CHARACTERS_PER_TOKEN = 4
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the reply may call; `parameters` is a JSON schema."""

    name: str
    parameters: JsonObject


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A valid request.

    Attributes:
        turn: The scripted reply; `UNSCRIPTED` without a script.
        forced_tools: The tools of which the reply must call one; empty if it need not call any.
        schema: JSON schema of the content; None for plain text.
        max_tokens: Most output tokens: the request's limit, or the rest of the context.
        identity: Model, messages, tools and tool choice as JSON; the seeded reply depends on nothing else.
    """

    model: str
    turn: Turn
    forced_tools: tuple[Tool, ...]
    schema: JsonObject | None
    prompt_tokens: int
    max_tokens: int
    stream: bool
    include_usage: bool
    identity: str


def count_tokens(characters: int) -> int:
    """Return max(1, ceil(characters / 4)), an estimate for English text."""
    return max(1, -(-characters // CHARACTERS_PER_TOKEN))


def parse_request(body: bytes, models: Sequence[str]) -> ChatRequest:
    """Parse the body of `POST /v1/chat/completions`.

    Args:
        body: The raw body.
        models: The models that the server has.

    Raises:
        ApiError: The request is invalid; the message names the field and the reason.
    """
    try:
        fields = json.loads(body, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise invalid("The body must be a JSON object", code="invalid_json")
    model = fields.get("model")
    if not isinstance(model, str):
        raise invalid("model must name the model to use", "model")
    if model not in models:
        message = f"The model {model!r} does not exist; this server has {', '.join(models)}"
        raise ApiError(404, message, code="model_not_found", param="model")
    if fields.get("n") not in (None, 1):
        raise invalid("n must be 1: this server gives one choice per request", "n")
    messages = _messages(fields.get("messages"))
    tools = _tools(fields.get("tools"))
    tool_choice = fields.get("tool_choice")
    asked = (model, messages, fields.get("tools"), tool_choice)
    prompt_tokens = _prompt_tokens(messages, fields.get("tools"))
    room = CONTEXT_TOKENS - prompt_tokens
    max_tokens = _max_tokens(fields)
    if room < (max_tokens or 1):
        raise invalid(
            f"This model's context is {CONTEXT_TOKENS} tokens, but the messages take {prompt_tokens} and "
            f"{max_tokens or 1} are requested: shorten the messages, or lower max_tokens",
            "messages",
            "context_length_exceeded",
        )
    options = fields.get("stream_options") or {}
    if not isinstance(options, dict):
        raise invalid("stream_options must be an object", "stream_options")
    return ChatRequest(
        model=model,
        turn=scripted_turn(fields.get("sim"), messages),
        forced_tools=_forced_tools(tool_choice, tools),
        schema=_schema(fields.get("response_format")),
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens or room,
        stream=_flag(fields, "stream"),
        include_usage=_flag(options, "include_usage"),
        identity=json.dumps(asked, sort_keys=True, separators=(",", ":")),
    )


def _messages(value: object) -> list[JsonObject]:
    if not isinstance(value, list) or not value:
        raise invalid("messages must be a list of at least one message", "messages")
    for i, message in enumerate(value):
        where = f"messages[{i}]"
        if not isinstance(message, dict):
            raise invalid(f"{where} must be an object", where)
        if message.get("role") not in _ROLES:
            raise invalid(f"{where}.role must be one of {', '.join(_ROLES)}", f"{where}.role")
        if not isinstance(message.get("content"), str | list | None):
            raise invalid(f"{where}.content must be a string or a list of parts", f"{where}.content")
    return value


def _tools(value: object) -> list[Tool]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(f"tools must be a list, not {value!r:.60}", "tools")
    tools = []
    for i, entry in enumerate(value):
        function = entry.get("function") if isinstance(entry, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        parameters = function.get("parameters") or {} if isinstance(function, dict) else None
        if not isinstance(name, str) or not isinstance(parameters, dict):
            message = (
                f'tools[{i}] must be {{"type": "function", "function": {{"name": ..., "parameters": ...}}}}'
            )
            raise invalid(message, f"tools[{i}]")
        tools.append(Tool(name, parameters))
    return tools


def _forced_tools(choice: object, tools: Sequence[Tool]) -> tuple[Tool, ...]:
    if choice in (None, "none", "auto"):
        return ()
    if choice == "required":
        if not tools:
            raise invalid('tool_choice "required" needs tools to choose from', "tool_choice")
        return tuple(tools)
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if name is None:
        raise invalid('tool_choice must be "none", "auto", "required" or name a function', "tool_choice")
    named = tuple(tool for tool in tools if tool.name == name)[:1]
    if not named:
        raise invalid(f"tool_choice names {name!r}, which is not among the tools", "tool_choice")
    return named


def _schema(value: object) -> JsonObject | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if value is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    described = value.get("json_schema") if isinstance(value, dict) else None
    schema = described.get("schema") if isinstance(described, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise invalid('response_format must be "text", "json_object" or a json_schema', "response_format")
    return schema


def _max_tokens(fields: JsonObject) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise invalid(f"{name} must be an integer of 1 or more, not {value!r:.60}", name)
        return value
    return None


def _flag(fields: JsonObject, name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"{name} must be true or false", name)
    return bool(value)


def _prompt_tokens(messages: Sequence[JsonObject], tools: object) -> int:
    characters = len(json.dumps(tools)) if tools else 0
    for message in messages:
        characters += len(message_text(message))
        calls = message.get("tool_calls")
        characters += len(json.dumps(calls)) if calls else 0
    return count_tokens(characters)
