"""A small server that answers as OpenAI's, as it is told to, and counts its requests in flight by itself."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

_SETTLE_TURNS = 8
"""Turns of the loop in which a disconnect is seen: who hangs up before asking again is not counted twice."""

_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
_SPENT = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}

# -- what is said --------------------------------------------------------------------------


def _chat(streamed: bool) -> Any:
    whole = {"id": "1", "created": 1, "model": "m", "object": "chat.completion"}
    if not streamed:
        message = {"role": "assistant", "content": "yes"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {**whole, "choices": [choice], "usage": _USAGE}
    whole["object"] = "chat.completion.chunk"
    return [{**whole, "choices": [{"index": 0, "delta": {"content": piece}}]} for piece in "yes"]


def _completion(streamed: bool) -> Any:
    whole = {"id": "1", "created": 1, "model": "m", "object": "text_completion"}
    pieces = [{**whole, "choices": [{"index": 0, "finish_reason": "stop", "text": text}]} for text in "yes"]
    return pieces if streamed else {**pieces[0], "usage": _USAGE}


def _response(streamed: bool) -> Any:
    text = {"type": "output_text", "text": "yes", "annotations": [], "logprobs": []}
    said = {"type": "message", "id": "2", "role": "assistant", "status": "completed", "content": [text]}
    whole = {
        "id": "1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "tools": [],
        "tool_choice": "auto",
    }
    whole |= {"parallel_tool_calls": True, "status": "completed", "output": [said], "usage": _SPENT}
    if not streamed:
        return whole
    at = {"item_id": "2", "output_index": 0, "content_index": 0}
    empty = {**said, "content": []}
    events = [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": empty},
        {"type": "response.content_part.added", **at, "part": {**text, "text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []} for piece in "yes"),
        {"type": "response.completed", "response": whole},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _embedding(streamed: bool) -> Any:
    vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.5]}
    return {
        "object": "list",
        "model": "m",
        "data": [vector],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


_SERVED = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
    "/v1/responses/compact": lambda _: {
        "id": "1",
        "created_at": 1,
        "object": "response.compaction",
        "output": [],
    },
    "/v1/embeddings": _embedding,
}
"""What a model has to be asked for; everything else is answered with a list of nothing, and not counted."""

# -- who says it ---------------------------------------------------------------------------


class OpenAIServer:
    """The server, as tests look at it and set it from any thread.

    Attributes:
        base_url: for an openai client.
        gate: while it is cleared, answers are held up; streams after their first event.
        refusals: statuses to refuse the next requests with.
        breaks: whether connections break after the first event of a stream.
        peak: the most requests that a model worked at at once.
        total: how many there were.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.gate = threading.Event()
        self.gate.set()
        self.refusals: deque[int] = deque()
        self._open: set[object] = set()
        self.reset()

    def reset(self) -> None:
        """Begin to count anew, and answer as servers do."""
        self.gate.set()
        self.refusals.clear()
        self.breaks = False
        self.peak = self.total = 0

    @property
    def in_flight(self) -> int:
        """Requests that a model works at now: from being read until the last bytes, or the client, go."""
        return len(self._open)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        says = _SERVED.get(scope["path"]) if scope["method"] == "POST" else None
        if says is None:
            await self._send(send, {"object": "list", "data": []})
            return
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)
        this = object()
        answering = asyncio.create_task(self._answer(send, says, json.loads(body), this))
        leaving = asyncio.create_task(self._left(receive))
        self._open.add(this)
        self.total += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.discard(this)
            answering.cancel()
            leaving.cancel()

    async def _answer(self, send: Any, says: Any, asked: dict[str, Any], this: object) -> None:
        if self.refusals:
            status = self.refusals.popleft()
            self._open.discard(this)
            await self._send(send, {"error": {"message": "no"}}, status)
        elif asked.get("stream"):
            await send(
                {"type": "http.response.start", "status": 200, "headers": _headers("text/event-stream")}
            )
            for event in says(True):
                named = f"event: {event['type']}\n" if "type" in event else ""
                data = f"{named}data: {json.dumps(event)}\n\n".encode()
                await send({"type": "http.response.body", "body": data, "more_body": True})
                if self.breaks:
                    return
                await self._held_up()
            self._open.discard(this)
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        else:
            await self._held_up()
            self._open.discard(this)
            await self._send(send, says(False))

    async def _held_up(self) -> None:
        await asyncio.sleep(0)
        while not self.gate.is_set():
            await asyncio.sleep(0.001)

    async def _left(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _send(self, send: Any, value: Any, status: int = 200) -> None:
        headers = [*_headers("application/json"), (b"retry-after-ms", b"1")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(value).encode()})


def _headers(kind: str) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", kind.encode())]


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    """The server in a thread of this process, on loopback, for as long as the context lasts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scripted = OpenAIServer(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        config = uvicorn.Config(
            scripted, loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None, access_log=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield scripted
        finally:
            scripted.gate.set()
            server.should_exit = True
            thread.join()
