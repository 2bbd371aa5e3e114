"""Builds the JSON of OpenAI's chat completions: completions, stream chunks and the model list.

Does not send the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from llmsched_langgraph.lab.serve_sim.api_error import JsonObject
from llmsched_langgraph.lab.serve_sim.replies import Piece, Reply, pieces
from llmsched_langgraph.lab.serve_sim.requests import ChatRequest

CREATED = 1_700_000_000
"""Creation time in every answer, a constant, so that equal replies have equal answers."""
DONE = b"data: [DONE]\n\n"


def encode(value: object) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def event(value: object) -> bytes:
    """Return one server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


def completion(request: ChatRequest, reply: Reply) -> JsonObject:
    """Return the answer to a request that does not stream."""
    message: JsonObject = {"role": "assistant", "content": reply.content, "refusal": None}
    if reply.tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.tool_calls
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
    return {
        **_head(request, reply, "chat.completion"),
        "choices": [choice],
        "usage": _usage(request, reply),
    }


def chunks(request: ChatRequest, reply: Reply, start_tokens: int, end_tokens: int) -> Iterator[JsonObject]:
    """Yield a stream's chunks between two token positions; the end has finish reason and usage."""
    head = _head(request, reply, "chat.completion.chunk")
    if request.include_usage:
        head["usage"] = None
    deltas = [_delta(reply, piece) for piece in pieces(reply, start_tokens, end_tokens)]
    if start_tokens == 0:
        deltas = [{"role": "assistant", "content": "", **delta} for delta in deltas[:1] or [{}]] + deltas[1:]
    for delta in deltas:
        yield {**head, "choices": [_streamed(delta, None)]}
    if end_tokens == reply.output_tokens:
        yield {**head, "choices": [_streamed({}, reply.finish_reason)]}
        if request.include_usage:
            yield {**head, "choices": [], "usage": _usage(request, reply)}


def model_list(models: Sequence[str]) -> JsonObject:
    """Return the answer to `GET /v1/models`."""
    data = [{"id": model, "object": "model", "created": CREATED, "owned_by": "llmsched"} for model in models]
    return {"object": "list", "data": data}


def _head(request: ChatRequest, reply: Reply, kind: str) -> JsonObject:
    return {
        "id": f"chatcmpl-{reply.digest[:24]}",
        "object": kind,
        "created": CREATED,
        "model": request.model,
        "system_fingerprint": "llmsched-sim",
    }


def _usage(request: ChatRequest, reply: Reply) -> JsonObject:
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": request.prompt_tokens + reply.output_tokens,
    }


def _streamed(delta: JsonObject, finish_reason: str | None) -> JsonObject:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _delta(reply: Reply, piece: Piece) -> JsonObject:
    if piece.call is None:
        return {"content": piece.text}
    function: JsonObject = {"arguments": piece.text}
    streamed: JsonObject = {"index": piece.call, "function": function}
    if piece.first:
        call = reply.tool_calls[piece.call]
        streamed |= {"id": call.id, "type": "function"}
        function["name"] = call.name
    return {"tool_calls": [streamed]}
