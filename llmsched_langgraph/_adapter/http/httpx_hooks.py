"""Hooks httpx, and httpx2, which has the same classes: most providers use one of them.

Does not hook transports of users. The outer frame is `Client.send`. The inner one is the library's transport,
where a wrapper may send the request again, and sleep in between, inside one `send`.
"""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from llmsched_langgraph._adapter.http.answers import ACCEPTED, failure_of, failure_of_error
from llmsched_langgraph._adapter.http.readahead import AsyncBody, Body, Holder
from llmsched_langgraph._adapter.http.recognition import attempt_of
from llmsched_langgraph._adapter.http.replicas import send_to_replica
from llmsched_langgraph._patching import lacks, wrap_method
from llmsched_langgraph._runtime.attempt import Attempt
from llmsched_langgraph._runtime.context import ATTEMPT, CALL, unmark


def install(httpx: Any) -> str | None:
    """Hook the library. If its code is not as expected, hook nothing and return the difference."""
    for cls, name in (
        (httpx.Client, "send"),
        (httpx.AsyncClient, "send"),
        (httpx.HTTPTransport, "handle_request"),
        (httpx.AsyncHTTPTransport, "handle_async_request"),
    ):
        reason = lacks(cls, name)
        if reason is not None:
            return reason
    wrap_method(httpx.Client, "send", _send)
    wrap_method(httpx.AsyncClient, "send", _asend)
    wrap_method(httpx.HTTPTransport, "handle_request", _transport)
    wrap_method(httpx.AsyncHTTPTransport, "handle_async_request", _atransport)
    return None


def _send(send: Callable[..., Any]) -> Callable[..., Any]:
    def gated(self: Any, request: Any, **options: Any) -> Any:
        if CALL.get() is None or ATTEMPT.get() is not None:
            return send(self, request, **options)
        attempt = attempt_of(request.method, request.url, request.headers.get("content-type"))
        if attempt is None:
            return send(self, request, **options)
        try:
            attempt.ensure()
            send_to_replica(attempt, request)
            mark = ATTEMPT.set(attempt)
            try:
                response = send(self, request, **options)
            finally:
                unmark(ATTEMPT, mark)
            if _is_open(attempt, response):
                hold_body(response, attempt)
                attempt.keep(response.close)
            return response
        except BaseException as error:
            attempt.give_back(failure_of_error(error))
            raise

    return gated


def _asend(send: Callable[..., Any]) -> Callable[..., Any]:
    async def gated(self: Any, request: Any, **options: Any) -> Any:
        if CALL.get() is None or ATTEMPT.get() is not None:
            return await send(self, request, **options)
        attempt = attempt_of(request.method, request.url, request.headers.get("content-type"))
        if attempt is None:
            return await send(self, request, **options)
        try:
            await attempt.aensure()
            send_to_replica(attempt, request)
            mark = ATTEMPT.set(attempt)
            try:
                response = await send(self, request, **options)
            finally:
                unmark(ATTEMPT, mark)
            if _is_open(attempt, response):
                hold_body(response, attempt)
                attempt.keep(None, response.aclose)
            return response
        except BaseException as error:
            attempt.give_back(failure_of_error(error))
            raise

    return gated


def _is_open(attempt: Attempt, response: Any) -> bool:
    """Give the slot back unless the answer's body holds it."""
    status = response.status_code
    attempt.heard(status, response.headers)
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
            send_to_replica(attempt, request)
            response = handle(self, request)
            attempt.heard(response.status_code, response.headers)
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
            send_to_replica(attempt, request)
            response = await handle(self, request)
            attempt.heard(response.status_code, response.headers)
            failure = failure_of(response.status_code, response.headers)
            if failure is not None:
                attempt.give_back(failure)
            return response
        except BaseException as error:
            attempt.give_back(failure_of_error(error))
            raise

    return gated


def hold_body(response: Any, holder: Holder) -> None:
    """Have the answer's body release the slot when it is closed, or was read ahead to its end."""
    library = _library_of(response)
    if library is None:
        return
    body, abody = _bodies(library)
    kind = abody if isinstance(response.stream, library.AsyncByteStream) else body
    response.stream = kind(response.stream, holder, response.extensions)


def _library_of(response: Any) -> Any:
    for cls in type(response).__mro__:
        name = cls.__module__.partition(".")[0]
        if name in ("httpx", "httpx2"):
            return sys.modules.get(name)
    return None


@functools.cache
def _bodies(httpx: Any) -> tuple[type, type]:
    """Return the classes of bodies that hold an attempt's slot until they are closed."""

    class HeldBody(httpx.SyncByteStream):  # type: ignore[misc]  # the library is an argument
        def __init__(self, body: Any, holder: Holder, extensions: Mapping[str, Any]) -> None:
            self._body = Body(body, holder, _interruption(extensions))

        def __iter__(self) -> Iterator[bytes]:
            return iter(self._body)

        def close(self) -> None:
            self._body.close()

    class HeldAsyncBody(httpx.AsyncByteStream):  # type: ignore[misc]  # the library is an argument
        def __init__(self, body: Any, holder: Holder, extensions: Mapping[str, Any]) -> None:
            self._body = AsyncBody(body, holder, possible=_CONNECTION in extensions)

        def __aiter__(self) -> AsyncIterator[bytes]:
            return aiter(self._body)

        async def aclose(self) -> None:
            await self._body.aclose()

    return HeldBody, HeldAsyncBody


_CONNECTION = "network_stream"
"""Key of the connection in the extensions of answers that came through the libraries' own transports."""


def _interruption(extensions: Mapping[str, Any]) -> Callable[[], object] | None:
    """Return a function that ends a read of the body in another thread; None if there is none.

    A connection of HTTP/2 serves other requests too, so it cannot be shut down.
    """
    connection = extensions.get(_CONNECTION)
    if connection is None or not extensions.get("http_version", b"").startswith(b"HTTP/1"):
        return None
    own = connection.get_extra_info("socket")
    if not isinstance(own, socket.socket):
        return None

    def interrupt() -> None:
        with suppress(OSError):
            socket.socket.shutdown(own, socket.SHUT_RDWR)  # that of `SSLSocket` is not for two threads

    return interrupt
