"""Reads the names of a call: the model, deployment and URL that a LangChain model or a raw request asks for.

Does not choose a backend. It reads properties only if they hold a name, and never raises.

The names, in order: `model=` of the call itself; the name that LangChain reports for it (`ls_model_name`);
the attributes of the model. `model=` of the call replaces the model's own names, but not the deployment or
endpoint that it is bound to. A default of the class counts only if the user gave no name: with
`AzureOpenAI(azure_deployment="d")` the default `model_name` is never requested.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables.base import RunnableBindingBase

from llmsched_langgraph._runtime.routing import Requested

_MODEL, _DEPLOYMENT, _ENDPOINT = "model", "deployment", "endpoint"

_NAMES = {
    "model": _MODEL,
    "model_name": _MODEL,
    "deployment_name": _DEPLOYMENT,  # Azure
    "azure_deployment": _DEPLOYMENT,
    "deployment": _DEPLOYMENT,  # Azure's embeddings
    "deployment_id": _DEPLOYMENT,
    "model_id": _MODEL,  # Bedrock, Hugging Face
    "base_model_id": _MODEL,  # Bedrock: the model behind an ARN
    "repo_id": _MODEL,  # Hugging Face
    "full_model_name": _MODEL,  # Vertex AI
    "endpoint_name": _ENDPOINT,  # SageMaker
    "endpoint_id": _ENDPOINT,  # Vertex AI
    "endpoint": _ENDPOINT,  # for Mistral, a URL
}
"""Attributes that hold a name, with the kind of thing that it names."""

_OF_CALL = ("model", "model_name", "model_id", "modelId")
"""Keyword arguments of a call that choose its model."""

_INPUT = ("messages", "prompt", "prompts")

_URLS = re.compile(r"(\w+_)?(base_url|api_base|api_url|server_url|endpoint_url|azure_endpoint)")
"""Attributes that hold a base URL."""

_PLAIN_URLS = ("base_url", "api_base", "endpoint_url")
"""The subset of these attributes that is read if the class does not declare its attributes."""

_CLIENTS = ("root_client", "root_async_client", "client", "async_client")
"""Attributes that hold the provider's client, which knows the provider's own URL."""

INNER = ("llm", "model", "chat_model")
"""Attributes in which a model keeps the model that it wraps."""

MAX_DEPTH = 4
_MAX_CACHED = 4096

# Where a name comes from.
_CALLED, _REPORTED, _GIVEN, _READ, _DEFAULT, _AT, _PROVIDER = range(7)
_Said = tuple[int, str, str]
"""A name: its source, the kind of thing that it names, and the name itself."""


def names_of(model: Any, kwargs: Mapping[str, Any]) -> Requested:
    """Return the names of the model, deployment and server that a call asks for.

    Args:
        model: the LangChain model, or embeddings, that makes the call.
        kwargs: the keyword arguments of its hook (`_generate`, `_astream`, ...): what the user bound or
            passed, and `run_manager`, if LangChain handed it over.
    """
    cls: Any = type(model)
    try:
        return _requested(cls, tuple(_said(model, kwargs, MAX_DEPTH)))
    except Exception:
        return Requested(cls.__name__)  # it cannot be read; the default backend serves it


def names_of_request(url: str, model: object) -> Requested:
    """Return the names that a raw HTTP request asks for, given its URL and the model in its body."""
    found = {model: _MODEL} if isinstance(model, str) and model else {}
    deployment = re.search(r"/deployments/([^/?]+)/", url)
    if deployment is not None:
        found[deployment[1]] = _DEPLOYMENT
    return Requested("an openai request", tuple(found), tuple(found.values()), (), (_clean(url),))


# -- what an object says ----------------------------------------------------------------------


def _said(model: Any, kwargs: Mapping[str, Any], depth: int) -> Iterator[_Said]:
    while isinstance(model, RunnableBindingBase):
        kwargs, model = {**model.kwargs, **kwargs}, model.bound
    for name in _OF_CALL:
        if name in kwargs and (text := _text(kwargs[name])):
            yield _CALLED, _MODEL, text
    if text := _reported(model, kwargs):
        yield _REPORTED, _MODEL, text

    cls: Any = type(model)
    form = _form(cls)
    values, extra = _variables(model)
    given = getattr(model, "__pydantic_fields_set__", None)
    inner, silent, placeless = [], True, True
    for name, what in _NAMES.items():
        value = values.get(name)
        if value is None:
            value = extra.get(name)
        if value is None:
            continue
        if text := _text(value):
            silent = False
            yield (_DEFAULT if given is not None and name not in given else _GIVEN), what, text
        elif name in INNER:
            inner.append(value)
    for name, what in form.properties:
        if text := _text(_property(model, name)):
            silent = False
            yield _READ, what, text
    for said in form.constants:
        silent = False
        yield said
    for name in form.urls:
        if text := _address(values.get(name)):
            placeless = False
            yield _AT, "", text
    if placeless:
        for name in _CLIENTS:
            if text := _address_of_client(values.get(name)):
                yield _AT, "", text
                break
    if form.provider and (text := _text(values.get("provider"))):
        yield _PROVIDER, "", text

    inner += [values[name] for name in INNER if name not in _NAMES and name in values]
    if silent and not inner:
        inner = list(values.values())
    if depth:
        for value in inner:
            if isinstance(value, BaseLanguageModel | RunnableBindingBase):
                yield from _said(value, {}, depth - 1)


def _reported(model: Any, kwargs: Mapping[str, Any]) -> str:
    """Return the name that LangChain reports for the call; the empty string for none."""
    if "run_manager" in kwargs:
        metadata = getattr(kwargs["run_manager"], "metadata", None)
    else:  # LangChain asks the model, and does not tell the hooks of a stream
        try:
            options = {name: value for name, value in kwargs.items() if name not in _INPUT}
            metadata = model._get_ls_params(**options)  # noqa: SLF001 - made to be overridden
        except Exception:
            return ""
    return _text(metadata.get("ls_model_name")) if isinstance(metadata, dict) else ""


def _variables(model: object) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the object's attributes: (declared by its class, not declared)."""
    return getattr(model, "__dict__", None) or {}, getattr(model, "__pydantic_extra__", None) or {}


def _text(value: object) -> str:
    """Return the value if it is a string that can be a name; otherwise the empty string."""
    return str.__str__(value) if isinstance(value, str) else ""


def _property(model: object, name: str) -> object:
    try:
        return getattr(model, name)
    except Exception:
        return None


def _address(value: object) -> str:
    """Return the value as a URL; the empty string if it is not one."""
    if type(value).__name__.endswith(("URL", "Url")):  # pydantic and httpx have types of their own
        try:
            return str(value)
        except Exception:
            return ""
    return _text(value)


def _address_of_client(client: Any) -> str:
    """Return the base URL that a client of the openai, Anthropic, Groq or AWS SDK uses."""
    cls: Any = type(client)
    read = _reader_of_client(cls)
    try:
        return "" if read is None else _address(read(client))
    except Exception:
        return ""


@functools.lru_cache(_MAX_CACHED)
def _reader_of_client(cls: type) -> Callable[[Any], object] | None:
    for base in cls.__mro__:
        if base.__name__ == "BaseClient":
            if base.__module__.endswith("._base_client"):
                return lambda client: client.base_url
            if base.__module__ == "botocore.client":
                return lambda client: client.meta.endpoint_url
        if base.__name__ in ("SyncAPIResource", "AsyncAPIResource") and base.__module__.endswith(
            "._resource"
        ):
            return lambda resource: resource._client.base_url  # noqa: SLF001 - watched by a test
    return None


# -- what a class says ------------------------------------------------------------------------


class _Form(NamedTuple):
    """Where the objects of a class keep names other than in their variables.

    Attributes:
        properties: the properties that hold a name, with the kind of thing that it names.
        constants: the names that the class has for all of its objects.
        urls: the attributes that hold a base URL.
        loose: returns the loose names for a name; None if the provider has no rule.
        provider: whether `provider` is the maker of the model.
    """

    properties: tuple[tuple[str, str], ...]
    constants: tuple[_Said, ...]
    urls: tuple[str, ...]
    loose: Callable[[str], Iterator[str]] | None
    provider: bool


@functools.lru_cache(_MAX_CACHED)
def _form(cls: type) -> _Form:
    fields = getattr(cls, "model_fields", {})
    static = {name: inspect.getattr_static(cls, name, None) for name in _NAMES if name not in fields}
    packages = [base.__module__.partition(".")[0] for base in cls.__mro__]
    return _Form(
        tuple((name, _NAMES[name]) for name, value in static.items() if isinstance(value, property)),
        tuple((_GIVEN, _NAMES[name], text) for name, value in static.items() if (text := _text(value))),
        tuple(name for name in fields or _PLAIN_URLS if _URLS.fullmatch(name)),
        next((_LOOSE[package] for package in packages if package in _LOOSE), None),
        "langchain_aws" in packages,
    )


def _tail(name: str) -> str:
    return name.rpartition("/")[2]


def _google(name: str) -> Iterator[str]:
    if "/" not in name:
        yield f"models/{name}"


def _litellm(name: str) -> Iterator[str]:
    yield name.partition("/")[2]


def _aws(name: str) -> Iterator[str]:
    tail = _tail(name)  # of an ARN
    yield tail
    yield re.sub(r"^(eu|us|us-gov|apac|sa|amer|global|jp|au)\.", "", tail)  # an inference profile


def _ollama(name: str) -> Iterator[str]:
    yield name.removesuffix(":latest") if ":" in name else f"{name}:latest"


_LOOSE = {
    "langchain_google_genai": _google,
    "langchain_google_vertexai": _google,
    "langchain_litellm": _litellm,
    "langchain_aws": _aws,
    "langchain_ollama": _ollama,
}
"""Where the models of a provider keep names, by the package of the model's class or of a base class."""


# -- what it comes to -------------------------------------------------------------------------


@functools.lru_cache(_MAX_CACHED)
def _requested(cls: type, said: tuple[_Said, ...]) -> Requested:
    called = [text for source, _, text in said if source == _CALLED]
    defaults = {text for source, _, text in said if source == _DEFAULT}
    # A property may repeat a variable.
    own = [it for it in said if it[0] == _GIVEN or (it[0] == _READ and it[2] not in defaults)]
    own = own or [it for it in said if it[0] == _DEFAULT]
    replaced = {text for _, what, text in own if what == _MODEL} if called else set()
    found = dict.fromkeys(called, _MODEL)
    for source, what, text in said:
        # A model that ignores `model=` in its report repeats its own name, perhaps in another form.
        if source == _REPORTED and _tail(text) not in map(_tail, replaced):
            found[text] = what
    for _, what, text in own:
        if text not in replaced or what != _MODEL:
            found[text] = what
    names = {text: what for text, what in found.items() if "://" not in text}
    urls = [text for text in found if "://" in text] + [text for source, _, text in said if source == _AT]
    loose = dict.fromkeys(text for source, _, text in said if source == _PROVIDER)
    rule = _form(cls).loose
    for name in names:
        if re.search(r"(^|/)models/", name):  # Google, Fireworks
            loose[_tail(name)] = None
        loose.update(dict.fromkeys(rule(name) if rule is not None else ()))
    return Requested(
        cls.__name__,
        tuple(names),
        tuple(names.values()),
        tuple(name for name in loose if name and name not in names),
        tuple(dict.fromkeys(_clean(url) for url in urls)),
    )


def _clean(url: str) -> str:
    """Return the URL without credentials, query and final slash; with a scheme."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
