"""Decides which requests inside a call are its attempts.

Does not take slots. An attempt is a POST to the model's own server that asks for an answer. Token refreshes,
uploads, token counts, tracing and exporters send requests inside calls too; those hold no slot.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from llmsched_langgraph._runtime.attempt import Attempt
from llmsched_langgraph._runtime.call import current_call
from llmsched_langgraph._runtime.marks import cancelled

Server = tuple[str, str | None, int | None]
"""Scheme, host and port."""

_PORTS = {"https": 443, "http": 80}

_NO_ANSWER = ("count_tokens", ":counttokens", "/tokenize", "/files", "/uploads", "/token", "/oauth2")
"""Lower-case path suffixes of requests that do not ask a model for an answer."""

_NO_QUESTION = ("protobuf", "form-urlencoded", "multipart/")
"""Substrings of the content types of such requests."""

_SUPPRESSED = ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY")
"""Keys in `opentelemetry.context` under which exporters mark their own requests."""

_SERVERS = (
    "root_client.base_url",
    "root_async_client.base_url",
    "_client.base_url",
    "_async_client.base_url",
    "client.base_url",
    "async_client.base_url",
    "client._client.base_url",
    "async_client._client.base_url",
    "_client._client.base_url",
    "client.meta.endpoint_url",
    "client._api_client._http_options.base_url",
    "client._client_wrapper._base_url",
    "llm.endpoint_url",
    "llm.client.model",
    "_client.base_model.base_url",
    "openai_api_base",
    "anthropic_api_url",
    "base_url",
    "endpoint",
    "endpoint_url",
    "api_base",
    "azure_endpoint",
    "xai_api_base",
)
"""Attributes of model objects that name a server. Where a model has none of them, each POST is an attempt."""


def attempt_of(method: str, url: Any, content_type: str | None) -> Attempt | None:
    """Return a new attempt if the running code's request is one; otherwise None.

    Raises:
        CallCancelledError: the call was cancelled.
    """
    call = current_call()
    if call is None or call.model is None or call.over:
        return None
    if call.abandoned:
        raise cancelled()
    server, path = _parts(url)
    kind = (content_type or "").lower()
    if method.upper() != "POST" or path.lower().endswith(_NO_ANSWER):
        return None
    if any(part in kind for part in _NO_QUESTION) or _suppressed():
        return None
    own = _servers_of(call.model)
    if not own or server in own:
        return Attempt(call)
    # A fallback to another server is an attempt too, but not the library's other traffic.
    return Attempt(call, own=False) if call.failure else None


def content_type_of(headers: Mapping[Any, Any] | None) -> str:
    """Return the content type among headers of any case, as text or bytes; empty if there is none."""
    for name, value in (headers or {}).items():
        text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
        if text.lower() == "content-type":
            return value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return ""


def _parts(url: Any) -> tuple[Server, str]:
    # Formatting an `httpx.URL` or a `yarl.URL` costs more than the rest of the decision.
    if isinstance(url, str):
        split = urlsplit(url)
        return (split.scheme, split.hostname, split.port or _PORTS.get(split.scheme)), split.path
    return (url.scheme, url.host, url.port or _PORTS.get(url.scheme)), url.path


def _suppressed() -> bool:
    context = sys.modules.get("opentelemetry.context")
    if context is None:
        return False
    keys = [key for name in _SUPPRESSED if (key := getattr(context, name, None)) is not None]
    return any(context.get_value(key) for key in keys)


_known: dict[int, tuple[weakref.ref[Any], frozenset[Server]]] = {}


def _servers_of(model: Any) -> frozenset[Server]:
    """Return the servers that the model object names; empty if it names none. Computed once per object."""
    key = id(model)
    known = _known.get(key)
    if known is not None and known[0]() is model:
        return known[1]
    found = frozenset(filter(None, (_server_at(model, path) for path in _SERVERS)))
    try:
        _known[key] = weakref.ref(model, lambda _: _known.pop(key, None)), found
    except TypeError:
        pass  # it supports no weak references
    return found


def _server_at(model: Any, path: str) -> Server | None:
    value = model
    try:
        for name in path.split("."):
            value = getattr(value, name)
        text = "" if value is None else str(value)
        return _parts(text)[0] if text.startswith(("http://", "https://")) else None
    except Exception:
        return None  # an attribute that is absent, or a property that needs what is not there
