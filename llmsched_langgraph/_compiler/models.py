"""Recognises objects that call a model: models, factories of models, clients, remote graphs.

Does not search for them. It examines an object's class only.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Set as AbstractSet
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import PregelProtocol

_FACTORIES = {
    "init_chat_model",
    "create_agent",
    "create_react_agent",
    "create_deep_agent",
    "create_supervisor",
}

LIBRARIES = {
    "deepagents",
    "httpx",
    "langchain",
    "langchain_core",
    "langgraph",
    "langsmith",
    "numpy",
    "openai",
    "pydantic",
    "pydantic_core",
}
"""Packages with generic functions, whose behaviour depends on their arguments only."""


def model_of(thing: Any, names: AbstractSet[str]) -> str | None:
    """Describe `thing` if it calls a model or creates one; otherwise return None.

    Args:
        thing: any object.
        names: the attributes of it that are used.
    """
    cls = type(thing)
    if issubclass(cls, type):
        makes = issubclass(thing, BaseLanguageModel) and not inspect.isabstract(thing)
        return f"a new {thing.__name__}" if makes or _is_client(thing) else None
    if issubclass(cls, BaseLanguageModel) or _is_client(cls):
        return cls.__name__
    if _becomes_model(cls):
        return "a model that is configured when it runs"
    if issubclass(cls, PregelProtocol) and not issubclass(cls, Pregel):
        return f"a remote graph, {cls.__name__}"
    if cls is types.FunctionType:
        is_factory = thing.__name__ in _FACTORIES and is_library(thing.__module__)
        return f"what {thing.__name__}() builds" if is_factory else None
    if cls.__module__.startswith("llmsched_langgraph.") and cls.__name__ == "Scheduler" and "slot" in names:
        return "what it takes a slot for"
    return None


def _becomes_model(cls: type) -> bool:
    # The result of `init_chat_model(configurable_fields=...)`: a runnable with the methods of a chat model.
    return issubclass(cls, Runnable) and all(
        any(method in base.__dict__ for base in cls.__mro__)
        for method in ("bind_tools", "with_structured_output")
    )


def _is_client(cls: type) -> bool:
    # openai's classes, its module `openai.chat`, and those of SDKs from the same generator.
    return cls.__module__.endswith("._module_client") or any(
        base.__name__ in {"BaseClient", "SyncAPIResource", "AsyncAPIResource"}
        and base.__module__.endswith(("._base_client", "._resource"))
        for base in cls.__mro__
    )


def is_library(module: str | None) -> bool:
    """Return whether the module is generic code: of the standard library, LangChain or a similar package."""
    root = (module or "").partition(".")[0]
    return root in LIBRARIES or root.startswith(("langchain_", "langgraph_")) or is_standard(module)


def is_standard(module: str | None) -> bool:
    """Return whether the module belongs to the standard library."""
    return (module or "").partition(".")[0] in sys.stdlib_module_names and module != "__main__"
