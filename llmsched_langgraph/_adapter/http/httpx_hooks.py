"""Hooks httpx, and httpx2, which has the same classes: most providers use one of them.

Does not hook transports of users. The outer frame is `Client.send`. The inner one is the library's transport,
where a wrapper may send the request again, and sleep in between, inside one `send`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from llmsched_langgraph._adapter.http.answers import ACCEPTED, failure_of, failure_of_error
from llmsched_langgraph._adapter.http.patching import lacks, wrap_method
from llmsched_langgraph._adapter.http.recognition import attempt_of
from llmsched_langgraph._runtime.attempt import Attempt
from llmsched_langgraph._runtime.context import ATTEMPT, CALL, unmark


def install(httpx: Any) -> str | None:
    """Hook the library; return why not, if it differs from what is expected."""
    for cls, name in (
        (httpx.Client, "send"),
        (httpx.AsyncClient, "send"),
        (httpx.HTTPTransport, "handle_request"),
        (httpx.AsyncHTTPTransport, "handle_async_request"),
    ):
        reason = lacks(cls, name)
        if reason is not None:
            return reason
    body, abody = _bodies(httpx)
    wrap_method(httpx.Client, "send", lambda send: _send(send, body))
    wrap_method(httpx.AsyncClient, "send", lambda send: _asend(send, abody))
    wrap_method(httpx.HTTPTransport, "handle_request", _transport)
    wrap_method(httpx.AsyncHTTPTransport, "handle_async_request", _atransport)
    return None


def _send(send: Callable[..., Any], body: type) -> Callable[..., Any]:
    def gated(self: Any, request: Any, **options: Any) -> Any:
        if CALL.get() is None or ATTEMPT.get() is not None:
            return send(self, request, **options)
        attempt = attempt_of(request.method, request.url, request.headers.get("content-type"))
        if attempt is None:
            return send(self, request, **options)
        try:
            attempt.ensure()
            mark = ATTEMPT.set(attempt)
            try:
                response = send(self, request, **options)
            finally:
                unmark(ATTEMPT, mark)
            if _is_open(attempt, response):
                response.stream = body(response.stream, attempt)
                attempt.keep(response.close)
            return response
        except BaseException as error:
            attempt.give_back(failure_of_error(error))
            raise

    return gated


def _asend(send: Callable[..., Any], body: type) -> Callable[..., Any]:
    async def gated(self: Any, request: Any, **options: Any) -> Any:
        if CALL.get() is None or ATTEMPT.get() is not None:
            return await send(self, request, **options)
        attempt = attempt_of(request.method, request.url, request.headers.get("content-type"))
        if attempt is None:
            return await send(self, request, **options)
        try:
            await attempt.aensure()
            mark = ATTEMPT.set(attempt)
            try:
                response = await send(self, request, **options)
            finally:
                unmark(ATTEMPT, mark)
            if _is_open(attempt, response):
                response.stream = body(response.stream, attempt)
                attempt.keep(None, response.aclose)
            return response
        except BaseException as error:
            attempt.give_back(failure_of_error(error))
            raise

    return gated


def _is_open(attempt: Attempt, response: Any) -> bool:
    """Give the slot back unless the answer's body holds it."""
    status = response.status_code
    if status >= 400:
        attempt.give_back(failure_of(status, response.headers))
    elif status == ACCEPTED:
        attempt.hand_back()
    elif not response.is_closed:
        return True
    else:
        attempt.give_back()
    return False


def _transport(handle: Callable[..., Any]) -> Callable[..., Any]:
    def gated(self: Any, request: Any) -> Any:
        attempt = ATTEMPT.get()
        if attempt is None:
            return handle(self, request)
        attempt.ensure()
        try:
            response = handle(self, request)
            failure = failure_of(response.status_code, response.headers)
            if failure is not None:
                attempt.give_back(failure)
            return response
        except BaseException as error:
            attempt.give_back(failure_of_error(error))
            raise

    return gated


def _atransport(handle: Callable[..., Any]) -> Callable[..., Any]:
    async def gated(self: Any, request: Any) -> Any:
        attempt = ATTEMPT.get()
        if attempt is None:
            return await handle(self, request)
        await attempt.aensure()
        try:
            response = await handle(self, request)
            failure = failure_of(response.status_code, response.headers)
            if failure is not None:
                attempt.give_back(failure)
            return response
        except BaseException as error:
            attempt.give_back(failure_of_error(error))
            raise

    return gated


def _bodies(httpx: Any) -> tuple[type, type]:
    """Return the classes of bodies that hold an attempt's slot until they are closed."""

    class Body(httpx.SyncByteStream):  # type: ignore[misc]  # the library is an argument
        def __init__(self, body: Any, attempt: Attempt) -> None:
            self._body = body
            self._attempt = attempt

        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from self._body
            except Exception as error:
                self._attempt.give_back(failure_of_error(error))
                raise

        def close(self) -> None:
            try:
                self._body.close()
            finally:
                self._attempt.give_back()

    class AsyncBody(httpx.AsyncByteStream):  # type: ignore[misc]  # the library is an argument
        def __init__(self, body: Any, attempt: Attempt) -> None:
            self._body = body
            self._attempt = attempt

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for piece in self._body:
                    yield piece
            except Exception as error:
                self._attempt.give_back(failure_of_error(error))
                raise

        async def aclose(self) -> None:
            try:
                await self._body.aclose()
            finally:
                self._attempt.give_back()

    return Body, AsyncBody
