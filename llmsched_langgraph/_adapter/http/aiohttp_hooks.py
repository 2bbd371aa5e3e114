"""Hooks aiohttp: used by LiteLLM, Google and NVIDIA, directly or below httpx.

Does not see bodies piece by piece: aiohttp receives them whether they are read or not. Private names used:
`ClientSession._request`, `ClientSession._base_url`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmsched_langgraph._adapter.http.answers import ACCEPTED, failure_of, failure_of_error
from llmsched_langgraph._adapter.http.recognition import attempt_of, content_type_of
from llmsched_langgraph._adapter.http.replicas import moved
from llmsched_langgraph._patching import lacks, wrap_method
from llmsched_langgraph._runtime.attempt import Attempt
from llmsched_langgraph._runtime.context import ATTEMPT, CALL, unmark


def install(aiohttp: Any) -> str | None:
    """Hook the library. If its code is not as expected, hook nothing and return the difference."""
    reason = lacks(aiohttp.ClientSession, "_request")
    if reason is None:
        form = aiohttp.FormData
        wrap_method(aiohttp.ClientSession, "_request", lambda request: _request(request, form))
    return reason


def _request(request: Callable[..., Any], form: type) -> Callable[..., Any]:
    async def gated(self: Any, method: str, url: Any, **options: Any) -> Any:
        if CALL.get() is None:
            return await request(self, method, url, **options)
        outer = ATTEMPT.get()
        attempt = _attempt(self, method, url, options, form) if outer is None else outer
        if attempt is None:
            return await request(self, method, url, **options)
        try:
            await attempt.aensure()
            if attempt.replica:
                url = moved(_whole(self, url), attempt.replica)
            mark = ATTEMPT.set(attempt)
            try:
                response = await request(self, method, url, **options)
            finally:
                unmark(ATTEMPT, mark)
            attempt.heard(response.status, response.headers)
            if outer is None:
                _settle(attempt, response)
            elif (failure := failure_of(response.status, response.headers)) is not None:
                attempt.give_back(failure)
            return response
        except BaseException as error:
            attempt.give_back(failure_of_error(error))
            raise

    return gated


def _attempt(session: Any, method: str, url: Any, options: dict[str, Any], form: type) -> Attempt | None:
    content_type = content_type_of(options.get("headers"))
    if not content_type and isinstance(options.get("data"), form):
        content_type = "multipart/form-data"
    return attempt_of(method, _whole(session, url), content_type)


def _whole(session: Any, url: Any) -> str:
    """Return the URL with the session's base URL."""
    base = getattr(session, "_base_url", None)
    return (
        str(url) if base is None or "://" in str(url) else f"{str(base).rstrip('/')}/{str(url).lstrip('/')}"
    )


def _settle(attempt: Attempt, response: Any) -> None:
    """Give the slot back: now, if the connection has the whole body, else when it has."""
    connection = response.connection  # None once the whole body is here
    if response.status >= 400:
        attempt.give_back(failure_of(response.status, response.headers))
    elif response.status == ACCEPTED:
        attempt.hand_back()
    elif connection is None:
        attempt.give_back()
    else:
        attempt.keep(response.close)
        connection.add_callback(attempt.give_back)
