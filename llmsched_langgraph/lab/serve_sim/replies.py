"""Generates replies: seeded words, scripted text, tool calls, or JSON that fits a schema.

A reply depends only on its request and the seed, not on HTTP, time or the order of requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from math import log
from random import Random

from llmsched_langgraph.lab.serve_sim.api_error import invalid
from llmsched_langgraph.lab.serve_sim.requests import CHARACTERS_PER_TOKEN, ChatRequest, count_tokens
from llmsched_langgraph.lab.serve_sim.schemas import SchemaError, example
from llmsched_langgraph.lab.serve_sim.scripts import ScriptedCall

MEAN_OUTPUT_TOKENS = 120
_SIGMA = 0.6
"""Standard deviation of the logarithm of the output tokens."""
_MU = log(MEAN_OUTPUT_TOKENS) - _SIGMA**2 / 2

# fmt: off
_WORDS = (
    "the", "a", "this", "that", "each", "one", "some", "most", "and", "but", "then", "while", "because",
    "of", "in", "on", "for", "with", "from", "over", "answer", "plan", "step", "source", "table",
    "model", "query", "record", "system", "result", "value", "number", "order", "place", "time",
    "report", "summary", "question", "reason", "example", "method", "test", "city", "river", "road",
    "market", "team", "paper", "letter", "shows", "gives", "takes", "finds", "needs", "keeps", "reads",
    "writes", "follows", "explains", "covers", "compares", "measures", "clear", "short", "early",
    "late", "open", "simple", "common", "recent", "second", "final", "local", "main", "useful",
    "careful",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call of a reply; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer.

    Attributes:
        digest: Hexadecimal hash of the request and the seed.
        content: The text; None if there is none.
        tool_calls: The tool calls; may be empty.
        output_tokens: Tokens to decode, also reported as usage.
        finish_reason: "stop", "length" or "tool_calls".
    """

    digest: str
    content: str | None
    tool_calls: tuple[ToolCall, ...]
    output_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply's text.

    Attributes:
        call: Index of the tool call whose arguments the text is part of; None for the content.
        text: The text; may be empty.
        first: Whether this is the first piece of a tool call.
    """

    call: int | None
    text: str
    first: bool


def plan_reply(request: ChatRequest, seed: int) -> Reply:
    """Return the reply to a request; it is deterministic for a given seed.

    Raises:
        ApiError: A schema is malformed, or every value of it is longer than the context.
    """
    digest = sha256(f"{seed}:{request.identity}".encode()).hexdigest()
    rng = Random(int(digest, 16))
    turn = request.turn
    content, calls = turn.content, turn.tool_calls
    natural = max(1, round(rng.lognormvariate(_MU, _SIGMA)))
    if content is None and not calls:
        if request.forced_tools:
            tool = rng.choice(request.forced_tools)
            arguments = _example(tool.parameters, rng, f"tools: the parameters of {tool.name!r:.60}", "tools")
            calls = (ScriptedCall(tool.name, arguments if isinstance(arguments, dict) else {}),)
        elif request.schema is not None:
            content = json.dumps(_example(request.schema, rng, "response_format", "response_format"))
    # The tokens set the length of free text. Other text sets the number of tokens, unless a script does.
    free = content is None and not calls
    tool_calls = tuple(
        ToolCall(f"call_{digest[:20]}{i:04d}", call.name, json.dumps(call.arguments))
        for i, call in enumerate(calls)
    )
    written = len(content or "") + sum(len(call.name) + len(call.arguments) for call in tool_calls)
    tokens = turn.output_tokens or (natural if free else count_tokens(written))
    kept = min(tokens, request.max_tokens)
    if free:
        content = _words(rng, kept)
    elif kept < tokens:
        content = None if content is None else content[: len(content) * kept // tokens]
        tool_calls = tuple(
            ToolCall(call.id, call.name, call.arguments[: len(call.arguments) * kept // tokens])
            for call in tool_calls
        )
    reason = "length" if kept < tokens else "tool_calls" if tool_calls else "stop"
    return Reply(digest, content, tool_calls, kept, reason)


def pieces(reply: Reply, start_tokens: int, end_tokens: int) -> Iterator[Piece]:
    """Yield the text between two token positions; the characters are spread evenly over the tokens.

    A tool call that starts in the range yields a piece even without text, so that each call is announced.
    """
    texts: list[tuple[int | None, str]] = [(None, reply.content or "")]
    texts += [(i, call.arguments) for i, call in enumerate(reply.tool_calls)]
    total = sum(len(text) for _, text in texts)
    start, end = (total * tokens // reply.output_tokens for tokens in (start_tokens, end_tokens))
    last = end_tokens == reply.output_tokens
    offset = 0
    for call, text in texts:
        part = text[max(0, start - offset) : max(0, end - offset)]
        first = call is not None and start <= offset and (offset < end or last)
        if part or first:
            yield Piece(call, part, first)
        offset += len(text)


def _example(schema: object, rng: Random, where: str, param: str) -> object:
    try:
        return example(schema, rng, _few_words)
    except SchemaError as error:
        raise invalid(f"{where}: {error}", param, "invalid_json_schema") from None


def _words(rng: Random, tokens: int) -> str:
    """Return text of exactly `tokens` tokens; a long text repeats its words, which is cheap."""
    length = tokens * CHARACTERS_PER_TOKEN
    # A word and its space have about six characters.
    text = " ".join(rng.choices(_WORDS, k=min(length // 6 + 1, 500))) + " "
    return (text * (length // len(text) + 1))[: length - 1].rstrip() + "."


def _few_words(rng: Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(2, 6)))
