"""Hooks urllib3, and so requests and botocore (Bedrock), which send by it.

Does not hook `urlopen`: its retries sleep inside it. Private names used: `HTTPConnectionPool._make_request`.
"""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

from llmsched_langgraph._adapter.http.answers import ACCEPTED, failure_of, failure_of_error
from llmsched_langgraph._adapter.http.recognition import attempt_of, content_type_of
from llmsched_langgraph._adapter.http.replicas import cannot_be_moved
from llmsched_langgraph._patching import lacks, wrap_method
from llmsched_langgraph._runtime.attempt import Attempt
from llmsched_langgraph._runtime.context import ATTEMPT, CALL, unmark

_ATTEMPT = "_llmsched_attempt"


def install(urllib3: Any) -> str | None:
    """Hook the library. If its code is not as expected, hook nothing and return the difference."""
    pool = importlib.import_module(f"{urllib3.__name__}.connectionpool").HTTPConnectionPool
    reason = lacks(pool, "_make_request")
    if reason is None:
        wrap_method(pool, "_make_request", _make_request)
    return reason


def _make_request(make: Callable[..., Any]) -> Callable[..., Any]:
    def gated(self: Any, connection: Any, method: str, url: str, *args: Any, **options: Any) -> Any:
        if CALL.get() is None or ATTEMPT.get() is not None:
            return make(self, connection, method, url, *args, **options)
        whole = url if "://" in url else f"{self.scheme}://{self.host}:{self.port}{url}"
        attempt = attempt_of(method, whole, content_type_of(options.get("headers")))
        if attempt is None:
            return make(self, connection, method, url, *args, **options)
        try:
            attempt.ensure()
            if attempt.replica:
                raise attempt.refuse(cannot_be_moved(attempt.terms.backend, "urllib3"))
            mark = ATTEMPT.set(attempt)
            try:
                response = make(self, connection, method, url, *args, **options)
            finally:
                unmark(ATTEMPT, mark)
            _settle(attempt, response, still_open=not options.get("preload_content", True))
            return response
        except BaseException as error:
            attempt.give_back(failure_of_error(error))
            raise

    return gated


def _settle(attempt: Attempt, response: Any, *, still_open: bool) -> None:
    """Give the slot back, now or when the body was read or closed."""
    attempt.heard(response.status, response.headers)
    if response.status >= 400:
        attempt.give_back(failure_of(response.status, response.headers))
    elif response.status == ACCEPTED:
        attempt.hand_back()
    elif not still_open:
        attempt.give_back()
    else:
        setattr(response, _ATTEMPT, attempt)
        # A subclass, because a closure on the object would be a reference cycle.
        held: Any = _held
        response.__class__ = held(type(response))
        attempt.keep(response.close)


@functools.cache
def _held(base: Any) -> type:
    """Return a subclass of a response class that gives the slot back when the connection is released."""

    def release_conn(self: Any) -> Any:
        try:
            return base.release_conn(self)
        finally:
            getattr(self, _ATTEMPT).give_back()

    def close(self: Any) -> Any:
        try:
            return base.close(self)
        finally:
            getattr(self, _ATTEMPT).give_back()

    body = {"release_conn": release_conn, "close": close}
    return types.new_class(base.__name__, (base,), {}, lambda space: space.update(body))
