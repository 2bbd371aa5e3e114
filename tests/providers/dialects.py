"""What a model's server says in each provider's protocol: one text, one usage, in every dialect.

Knows nothing of connections, of the order of requests, or of faults.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

WORDS = ("alpha ", "beta ", "gamma")
TEXT = "".join(WORDS)
PROMPT_TOKENS = 11
OUTPUT_TOKENS = 7

JSON = "application/json"
SSE = "text/event-stream"
EVENT_STREAM = "application/vnd.amazon.eventstream"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True)
class Reply:
    """A body in pieces, and headers of its own.

    `streamed`: the first piece has text for the client, and the rest may come later.
    """

    content_type: str
    pieces: tuple[bytes, ...]
    streamed: bool
    headers: tuple[str, ...] = ()


def reply(path: str, asked: dict[str, Any]) -> Reply | None:
    """Return the answer to a POST of `asked` to `path`; None if that path is not a model's."""
    path = unquote(urlsplit(path).path)
    for matches, says in _SERVED:
        if matches(path):
            return says(path, asked)
    return None


def fault(status: int) -> bytes:
    """Return the body of an error, with the fields that one provider or another looks for."""
    said = f"scripted {status}"
    error = {"message": said, "type": "scripted", "code": status, "status": "SCRIPTED"}
    return json.dumps({"type": "error", "error": error, "message": said, "detail": said}).encode()


# -- framing -------------------------------------------------------------------------------


def _whole(value: Any, *headers: str) -> Reply:
    """One JSON value, in two pieces: a body can be held up, or cut, in its middle."""
    body = json.dumps(value).encode()
    return Reply(JSON, (body[: len(body) // 2], body[len(body) // 2 :]), False, headers)


def _streamed(kind: str, before: Iterable[bytes], words: Iterable[bytes], after: Iterable[bytes]) -> Reply:
    """A stream whose first piece ends with the first word."""
    first, *others = words
    return Reply(kind, (b"".join((*before, first)), *others, b"".join(after)), True)


def _event(value: dict[str, Any], *, named: bool = False) -> bytes:
    name = f"event: {value['type']}\n" if named else ""
    return f"{name}data: {json.dumps(value)}\n\n".encode()


_DONE = b"data: [DONE]\n\n"


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _frame(kind: str, value: dict[str, Any]) -> bytes:
    """One message of Amazon's event stream."""
    head = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(said)) + said.encode()
        for name, said in ((":event-type", kind), (":content-type", JSON), (":message-type", "event"))
    )
    body = json.dumps(value).encode()
    prelude = struct.pack(">II", 16 + len(head) + len(body), len(head))
    message = prelude + struct.pack(">I", binascii.crc32(prelude)) + head + body
    return message + struct.pack(">I", binascii.crc32(message))


# -- OpenAI, and those that speak as OpenAI ------------------------------------------------

_OPENAI_USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": PROMPT_TOKENS + OUTPUT_TOKENS,
}


def _chat_completion(path: str, asked: dict[str, Any]) -> Reply:
    about = {"id": "1", "created": 1, "model": "m", "object": "chat.completion"}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": TEXT}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return _whole({**about, "choices": [choice], "usage": _OPENAI_USAGE})
    about["object"] = "chat.completion.chunk"

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**about, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    last = chunk({}, "stop")
    end = [_event(last)]
    if (asked.get("stream_options") or {}).get("include_usage"):
        end.append(_event({**about, "choices": [], "usage": _OPENAI_USAGE}))
    else:  # as Mistral, Groq, Fireworks and others, who tell unasked
        end = [_event({**last, "usage": _OPENAI_USAGE, "x_groq": {"id": "1", "usage": _OPENAI_USAGE}})]
    words = [_event(chunk({"role": "assistant", "content": word})) for word in WORDS]
    return _streamed(SSE, (), words, (*end, _DONE))


def _response(path: str, asked: dict[str, Any]) -> Reply:
    text = {"type": "output_text", "text": TEXT, "annotations": [], "logprobs": []}
    said = {"type": "message", "id": "2", "role": "assistant", "status": "completed", "content": [text]}
    usage = {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": OUTPUT_TOKENS,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT_TOKENS + OUTPUT_TOKENS,
    }
    about = {
        "id": "1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "tools": [],
        "tool_choice": "auto",
    }
    whole = {**about, "parallel_tool_calls": True, "status": "completed", "output": [said], "usage": usage}
    if not asked.get("stream"):
        return _whole(whole)
    at = {"item_id": "2", "output_index": 0, "content_index": 0}
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    events = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_item.added", "output_index": 0, "item": {**said, "content": []}},
        {"type": "response.content_part.added", **at, "part": {**text, "text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": word, "logprobs": []} for word in WORDS),
        {"type": "response.completed", "response": whole},
    ]
    sent = [_event({**event, "sequence_number": n}, named=True) for n, event in enumerate(events)]
    return _streamed(SSE, sent[:3], sent[3:-1], sent[-1:])


def _embedding(path: str, asked: dict[str, Any]) -> Reply:
    vector: Any = [0.5, 0.5]
    if asked.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<2f", *vector)).decode()
    given = asked.get("input")
    count = len(given) if isinstance(given, list) else 1
    data = [{"object": "embedding", "index": n, "embedding": vector} for n in range(count)]
    usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
    return _whole({"object": "list", "model": "m", "data": data, "usage": usage})


# -- Anthropic -----------------------------------------------------------------------------


def _anthropic_events() -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    about = {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": []}
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": 1}
    message = {**about, "stop_reason": None, "stop_sequence": None, "usage": usage}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    return (
        [{"type": "message_start", "message": message}, block],
        [
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
            for word in WORDS
        ],
        [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": end, "usage": {**usage, "output_tokens": OUTPUT_TOKENS}},
            {"type": "message_stop"},
        ],
    )


def _anthropic_whole() -> dict[str, Any]:
    usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    about = {"id": "1", "type": "message", "role": "assistant", "model": "m"}
    content = [{"type": "text", "text": TEXT}]
    return {**about, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}


def _anthropic(path: str, asked: dict[str, Any]) -> Reply:
    if not asked.get("stream"):
        return _whole(_anthropic_whole())
    before, words, after = ([_event(e, named=True) for e in part] for part in _anthropic_events())
    return _streamed(SSE, before, words, after)


# -- Bedrock -------------------------------------------------------------------------------


def _converse(path: str, asked: dict[str, Any]) -> Reply:
    usage = {
        "inputTokens": PROMPT_TOKENS,
        "outputTokens": OUTPUT_TOKENS,
        "totalTokens": PROMPT_TOKENS + OUTPUT_TOKENS,
    }
    metrics = {"latencyMs": 1}
    if not path.endswith("-stream"):
        message = {"role": "assistant", "content": [{"text": TEXT}]}
        about = {"stopReason": "end_turn", "usage": usage, "metrics": metrics}
        return _whole({"output": {"message": message}, **about})
    before = [_frame("messageStart", {"role": "assistant"})]
    words = [_frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}}) for word in WORDS]
    after = [
        _frame("contentBlockStop", {"contentBlockIndex": 0}),
        _frame("messageStop", {"stopReason": "end_turn"}),
        _frame("metadata", {"usage": usage, "metrics": metrics}),
    ]
    return _streamed(EVENT_STREAM, before, words, after)


def _invoke_model(path: str, asked: dict[str, Any]) -> Reply:
    """Bedrock's other door, for models of Anthropic: their JSON, in Amazon's frames, the usage beside it."""
    if not path.endswith("-stream"):
        counts = {"input": PROMPT_TOKENS, "output": OUTPUT_TOKENS}
        told = (f"x-amzn-bedrock-{what}-token-count: {count}" for what, count in counts.items())
        return _whole(_anthropic_whole(), *told)
    counted = {"inputTokenCount": PROMPT_TOKENS, "outputTokenCount": OUTPUT_TOKENS}

    def frame(event: dict[str, Any]) -> bytes:
        return _frame("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode()})

    before, words, (*after, last) = _anthropic_events()
    after.append({**last, "amazon-bedrock-invocationMetrics": counted})
    return _streamed(EVENT_STREAM, *([frame(event) for event in part] for part in (before, words, after)))


# -- Google, Cohere, Ollama ----------------------------------------------------------------


def _gemini(path: str, asked: dict[str, Any]) -> Reply:
    usage = {
        "promptTokenCount": PROMPT_TOKENS,
        "candidatesTokenCount": OUTPUT_TOKENS,
        "totalTokenCount": PROMPT_TOKENS + OUTPUT_TOKENS,
    }

    def said(text: str, *, last: bool) -> dict[str, Any]:
        candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}
        if not last:
            return {"candidates": [candidate]}
        return {"candidates": [{**candidate, "finishReason": "STOP"}], "usageMetadata": usage}

    if "stream" not in path:
        return _whole(said(TEXT, last=True))
    return _streamed(SSE, (), [_event(said(w, last=False)) for w in WORDS], [_event(said("", last=True))])


def _cohere(path: str, asked: dict[str, Any]) -> Reply:
    tokens = {"input_tokens": PROMPT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    usage = {"billed_units": tokens, "tokens": tokens}
    about = {"id": "1", "finish_reason": "COMPLETE", "usage": usage}
    if not asked.get("stream"):
        return _whole(
            {**about, "message": {"role": "assistant", "content": [{"type": "text", "text": TEXT}]}}
        )
    start = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    before = [
        {"type": "message-start", "id": "1", "delta": {"message": start}},
        {
            "type": "content-start",
            "index": 0,
            "delta": {"message": {"content": {"type": "text", "text": ""}}},
        },
    ]
    words = [
        {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": w}}}} for w in WORDS
    ]
    after = [
        {"type": "content-end", "index": 0},
        {"type": "message-end", "id": "1", "delta": {"finish_reason": "COMPLETE", "usage": usage}},
    ]
    return _streamed(SSE, *([_event(event, named=True) for event in part] for part in (before, words, after)))


def _ollama(path: str, asked: dict[str, Any]) -> Reply:
    about = {"model": "m", "created_at": "2026-01-01T00:00:00Z"}

    def said(text: str, *, last: bool = False) -> dict[str, Any]:
        message = {**about, "message": {"role": "assistant", "content": text}, "done": last}
        counts = {"prompt_eval_count": PROMPT_TOKENS, "eval_count": OUTPUT_TOKENS}
        return {**message, "done_reason": "stop", **counts} if last else message

    if asked.get("stream") is False:  # Ollama streams unless told not to
        return _whole(said(TEXT, last=True))
    return _streamed(NDJSON, (), [_line(said(word)) for word in WORDS], [_line(said("", last=True))])


_SERVED: tuple[tuple[Callable[[str], bool], Callable[[str, dict[str, Any]], Reply]], ...] = (
    (lambda path: path.endswith("/chat/completions"), _chat_completion),
    (lambda path: path.endswith("/responses"), _response),
    (lambda path: path.endswith("/embeddings"), _embedding),
    (lambda path: path.endswith("/v1/messages"), _anthropic),
    (lambda path: path.endswith(("/converse", "/converse-stream")), _converse),
    (lambda path: path.endswith(("/invoke", "/invoke-with-response-stream")), _invoke_model),
    (lambda path: path.endswith(("generateContent", "streamGenerateContent")), _gemini),
    (lambda path: path.endswith("/v2/chat"), _cohere),
    (lambda path: path.endswith("/api/chat"), _ollama),
)
