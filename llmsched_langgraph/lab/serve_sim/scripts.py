"""Reads the script of a reply: the body's `sim` field, or a `<sim>{...}</sim>` directive in a message.

Does not handle HTTP or time; `replies` generates the replies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from llmsched_langgraph.lab.serve_sim.api_error import ApiError, JsonObject, invalid

_OPENS, _CLOSES = "<sim>", "</sim>"
_TURN_KEYS = ("output_tokens", "content", "tool_calls")


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    """A tool call of a scripted reply."""

    name: str
    arguments: JsonObject


@dataclass(frozen=True, slots=True)
class Turn:
    """One scripted reply; the server fills in what is None or empty."""

    output_tokens: int | None = None
    content: str | None = None
    tool_calls: tuple[ScriptedCall, ...] = ()


UNSCRIPTED = Turn()


def message_text(message: JsonObject) -> str:
    """Return all text of a message, whose content is a string or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def scripted_turn(sim: object, messages: Sequence[JsonObject]) -> Turn:
    """Return the turn for the next reply; `UNSCRIPTED` without a script or after its last turn.

    The body's field wins over directives. Of several directives the last one wins. The index of the turn is
    the number of assistant messages after the message with the directive, or, for the field, after the last
    user message.

    Args:
        sim: The body's `sim` field; None if absent.
        messages: The conversation so far.

    Raises:
        ApiError: The script is malformed; the message names the place and the reason.
    """
    if sim is not None:
        start = max((i for i, message in enumerate(messages) if message.get("role") == "user"), default=-1)
        turns = _read_turns(sim, "sim")
    else:
        found = _last_directive(messages)
        if found is None:
            return UNSCRIPTED
        start, text = found
        try:
            turns = _read_turns(json.loads(text), "<sim> directive")
        except (ValueError, RecursionError) as error:
            raise _malformed(f"the <sim> directive in messages[{start}] is not JSON: {error}") from None
    number = sum(message.get("role") == "assistant" for message in messages[start + 1 :])
    return turns[number] if number < len(turns) else UNSCRIPTED


def _last_directive(messages: Sequence[JsonObject]) -> tuple[int, str] | None:
    for index in range(len(messages) - 1, -1, -1):
        found = _last_in(message_text(messages[index]))
        if found is not None:
            return index, found
    return None


def _last_in(text: str) -> str | None:
    """Return the content of the last directive in a text. Linear in its length, unlike a pattern."""
    found, end = None, 0
    while True:
        start = text.find(_OPENS, end)
        end = text.find(_CLOSES, start) if start >= 0 else -1
        if end < 0:
            return found
        found = text[start + len(_OPENS) : end]


def _read_turns(script: object, where: str) -> list[Turn]:
    if not isinstance(script, dict):
        raise _malformed(f'{where}: write an object, one turn or {{"turns": [turn, ...]}}')
    if "turns" not in script:
        return [_read_turn(script, where)]
    turns = script["turns"]
    if not isinstance(turns, list) or len(script) > 1:
        raise _malformed(f'{where}: "turns" must be a list of turns and stand alone')
    return [_read_turn(turn, f"{where}: turns[{i}]") for i, turn in enumerate(turns)]


def _read_turn(turn: object, where: str) -> Turn:
    if not isinstance(turn, dict):
        raise _malformed(f"{where}: a turn must be an object")
    unknown = sorted(set(turn) - set(_TURN_KEYS))
    if unknown:
        raise _malformed(f"{where}: unknown key {unknown[0]!r}; a turn has {', '.join(_TURN_KEYS)}")
    tokens, content = turn.get("output_tokens"), turn.get("content")
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        raise _malformed(f"{where}: output_tokens must be an integer of 1 or more, not {tokens!r:.60}")
    if content is not None and not isinstance(content, str):
        raise _malformed(f"{where}: content must be a string")
    calls = turn.get("tool_calls")
    calls = [] if calls is None else calls
    if not isinstance(calls, list):
        raise _malformed(f"{where}: tool_calls must be a list, not {calls!r:.60}")
    return Turn(
        tokens, content, tuple(_read_call(call, f"{where}: tool_calls[{i}]") for i, call in enumerate(calls))
    )


def _read_call(call: object, where: str) -> ScriptedCall:
    if not isinstance(call, dict) or set(call) - {"name", "arguments"}:
        raise _malformed(f"{where}: write an object with name and arguments")
    name, arguments = call.get("name"), call.get("arguments", {})
    if not isinstance(name, str) or not name:
        raise _malformed(f"{where}: name must be a non-empty string")
    if not isinstance(arguments, dict):
        raise _malformed(f"{where}: arguments must be an object")
    return ScriptedCall(name, arguments)


def _malformed(message: str) -> ApiError:
    return invalid(message, "sim", "invalid_sim_script")
