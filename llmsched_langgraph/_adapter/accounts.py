"""Knows which account a call belongs to: a hash of the keys that its model, or its request, sends.

Does not know backends. Keys are read, hashed and forgotten; they never raise an error.

A model's keys are those of its attributes that are a `SecretStr`, or a string named like a key. Headers that
the user set go before them. A model without keys (a local server; credentials that the provider's
library finds in files or asks for) has no account.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables.base import RunnableBindingBase
from pydantic import SecretStr

from llmsched_langgraph._adapter.model_names import INNER, MAX_DEPTH
from llmsched_langgraph._runtime.routing import hashed

_KEY = re.compile(r"(\w+_)?(api_?key|api_token|auth_token|access_token|access_key_id)")
"""Attributes that hold a key, also as a plain string."""

_CHANGING = re.compile(r"\w*(session_token|secret_access_key)")
"""Secrets of the same account that change, or that belong to a key that is read."""

_HEADERS = ("authorization", "api-key", "x-api-key", "x-goog-api-key")
"""Names of headers that hold a key, in lower case."""

_OWN_HEADERS = ("extra_headers", "default_headers", "additional_headers")
"""Attributes of models, and arguments of calls, that hold headers of the user."""


def account_of(model: Any, kwargs: Mapping[str, Any]) -> str:
    """Return the account of a LangChain model's call; the empty string if it has no key.

    Args:
        model: the model or the embeddings.
        kwargs: the keyword arguments of the call.
    """
    try:
        headers = _in_headers(kwargs.get("extra_headers"))
        return hashed(headers or sorted(_keys(model, MAX_DEPTH)))
    except Exception:
        return ""


def account_of_request(headers: Mapping[str, str]) -> str:
    """Return the account of a raw HTTP request; the empty string if it has no key."""
    return hashed(_in_headers(headers))


def _keys(model: Any, depth: int) -> set[str]:
    while isinstance(model, RunnableBindingBase):
        model = model.bound
    values: dict[str, Any] = getattr(model, "__dict__", None) or {}
    for name in _OWN_HEADERS:
        if found := _in_headers(values.get(name)):
            return set(found)
    found_keys = {text for name, value in values.items() if (text := _key(name, value))}
    if found_keys or not depth:
        return found_keys
    inner = (values.get(name) for name in INNER)
    return {
        key
        for value in inner
        if isinstance(value, BaseLanguageModel | RunnableBindingBase)
        for key in _keys(value, depth - 1)
    }


def _key(name: str, value: object) -> str:
    if isinstance(value, SecretStr) and not _CHANGING.fullmatch(name):
        return value.get_secret_value()
    return value if isinstance(value, str) and _KEY.fullmatch(name) else ""


def _in_headers(headers: object) -> list[str]:
    """Return the keys in some headers, without the word that tells their kind."""
    if not isinstance(headers, Mapping):
        return []
    return sorted(_of_headers(headers.items()))


def _of_headers(items: Iterable[tuple[Any, Any]]) -> Iterator[str]:
    for name, value in items:
        if isinstance(name, str) and isinstance(value, str) and name.lower() in _HEADERS:
            yield value.rpartition(" ")[2]
