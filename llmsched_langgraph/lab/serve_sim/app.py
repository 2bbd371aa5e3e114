"""Implements the HTTP side: paths, answers, streams, and the detection of disconnects.

Does not open sockets, start processes or simulate time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import ceil

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from llmsched_langgraph.lab.serve_sim import wire
from llmsched_langgraph.lab.serve_sim.api_error import ApiError, invalid
from llmsched_langgraph.lab.serve_sim.live import Exchange, LiveServer, Phase, QueueFullError
from llmsched_langgraph.lab.serve_sim.replies import Reply, plan_reply
from llmsched_langgraph.lab.serve_sim.requests import ChatRequest, parse_request

_MAX_BODY_BYTES = 16 * 1024 * 1024
_CHUNKS_PER_STREAM = 20
"""Approximate number of chunks of a stream: enough to show progress, few enough to be cheap."""


def create_app(live: LiveServer, models: Sequence[str], seed: int) -> Starlette:
    """Return the ASGI application.

    Args:
        live: The simulated model server, which times and counts the requests.
        models: The model names that requests may use.
        seed: Seed of all replies.
    """

    async def list_models(_: Request) -> Response:
        return _json(wire.model_list(models))

    async def statistics(_: Request) -> Response:
        return _json(live.statistics())

    async def reset(_: Request) -> Response:
        live.reset()
        return _json(live.statistics())

    async def resize(request: Request) -> Response:
        try:
            live.resize(int(request.query_params.get("slots", "")))
        except ValueError:  # also a `ConfigurationError`
            error = invalid("Write POST /sim/resize?slots=N, N a whole number of 1 or more", "slots")
            return _json(error.body(), error.status)
        return _json(live.statistics())

    async def health(_: Request) -> Response:
        return _json({"status": "ok"})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", ChatCompletions(live, models, seed), methods=["POST"]),
            Route("/v1/models", list_models),
            Route("/sim/statistics", statistics),
            Route("/sim/reset", reset, methods=["POST"]),
            Route("/sim/resize", resize, methods=["POST"]),
            Route("/health", health),
        ],
        exception_handlers={HTTPException: _on_http_exception},
    )


class ChatCompletions:
    """`POST /v1/chat/completions`, as a plain ASGI endpoint.

    Plain ASGI, because the endpoint must see exactly when bytes are sent and when the client disconnects.
    """

    def __init__(self, live: LiveServer, models: Sequence[str], seed: int) -> None:
        """See `create_app`."""
        self._live = live
        self._models = tuple(models)
        self._seed = seed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            body = await _read_body(receive)
            if body is None:
                return
            request, reply = self._plan(body)
            await self._exchange(request, reply, scope, receive, send)
        except ApiError as error:
            await _json(error.body(), error.status, error.headers)(scope, receive, send)

    def _plan(self, body: bytes) -> tuple[ChatRequest, Reply]:
        try:
            request = parse_request(body, self._models)
            return request, plan_reply(request, self._seed)
        except RecursionError:
            raise invalid("The body is nested too deeply", code="invalid_json") from None

    async def _exchange(
        self, request: ChatRequest, reply: Reply, scope: Scope, receive: Receive, send: Send
    ) -> None:
        exchange = Exchange(request.prompt_tokens, reply.output_tokens)
        watcher = asyncio.create_task(self._watch(receive, exchange))
        try:
            stride = max(1, reply.output_tokens // _CHUNKS_PER_STREAM) if request.stream else None
            phase = await self._live.admit(exchange, stride)
            if request.stream and phase is Phase.OPEN:
                await self._stream(request, reply, exchange, send)
                return
            while phase is Phase.OPEN:
                phase = await exchange.change()
            if phase is Phase.CLOSED:
                raise _going_down()
            if phase is Phase.DECODED:
                response = _json(wire.completion(request, reply))
                self._live.answer(exchange)
                await response(scope, receive, send)
        except QueueFullError as full:
            raise _too_many_requests(full.retry_after_s) from None
        finally:
            watcher.cancel()
            self._live.cancel(exchange)

    async def _stream(self, request: ChatRequest, reply: Reply, exchange: Exchange, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sent = 0
        while True:
            phase, tokens = await exchange.change(), exchange.tokens
            if phase is Phase.GONE:
                return
            if phase is Phase.CLOSED:
                await send({"type": "http.response.body", "body": wire.event(_going_down().body())})
                return
            payload = b"".join(wire.event(chunk) for chunk in wire.chunks(request, reply, sent, tokens))
            sent = tokens
            if phase is Phase.DECODED:
                # The finish reason, the usage and `[DONE]` go out in one message, so that the exchange is out
                # of flight before the client reads any of them.
                self._live.answer(exchange)
                await send({"type": "http.response.body", "body": payload + wire.DONE})
                return
            await send({"type": "http.response.body", "body": payload, "more_body": True})

    async def _watch(self, receive: Receive, exchange: Exchange) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._live.cancel(exchange)


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body; None if the client disconnected before the end of the body."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > _MAX_BODY_BYTES:
            limit = f"The body is longer than {_MAX_BODY_BYTES} bytes: send less"
            raise ApiError(413, limit, code="body_too_large")
        if not message.get("more_body", False):
            return bytes(body)


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(wire.encode(value), status, headers, "application/json")


def _too_many_requests(retry_after_s: float | None) -> ApiError:
    when, headers = "later", {}
    if retry_after_s is not None:
        when = f"in {retry_after_s:.2g} s"
        headers = {"retry-after": str(ceil(retry_after_s)), "retry-after-ms": str(ceil(retry_after_s * 1000))}
    return ApiError(
        429,
        f"All slots are busy and the queue is full: try again {when}",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers=headers,
    )


def _going_down() -> ApiError:
    return ApiError(503, "The server is going down", kind="server_error", code="server_shutting_down")


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer a request for an unknown path or method."""
    assert isinstance(error, HTTPException)  # it is registered for nothing else
    message = f"{request.method} {request.url.path}: {error.detail}"
    refusal = ApiError(error.status_code, message, code="not_found")
    return _json(refusal.body(), error.status_code, dict(error.headers or {}))
