"""Makes every request to a LangChain model a call, which waits for a slot.

Does not inspect graphs: it is active in code that is marked as part of a run, and `outside` decides about
calls in other code. Does not see the requests that a call sends: `http` does.

The gate wraps the provider hooks (`_generate`, `_agenerate`, `_stream`, `_astream` and their event variants)
of every chat-model and completion-model class. Only there does a request begin and end: cached answers do
not reach the hooks, and retries and fall-backs reach them once per attempt. Callbacks are not sufficient: a
cancelled `ainvoke` reports no end, but a hook's `finally` always runs. A simple completion model (`LLM`) has
`_call` and `_acall` below them, called once per prompt.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import langchain_core
from langchain_core.embeddings import Embeddings
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.llms import LLM, BaseLLM
from langchain_core.runnables.config import ensure_config

from llmsched_langgraph._adapter.accounts import account_of
from llmsched_langgraph._adapter.http import hooks
from llmsched_langgraph._adapter.model_names import names_of
from llmsched_langgraph._adapter.usage import UsageMeter, prompt_tokens_of, usage_of_result
from llmsched_langgraph._fork import in_child
from llmsched_langgraph._runtime import outside
from llmsched_langgraph._runtime.call import Call
from llmsched_langgraph._runtime.context import current_run, current_stage_run
from llmsched_langgraph._runtime.retries import again_s
from llmsched_langgraph._runtime.routing import Requested, Router
from llmsched_langgraph._runtime.streams import ahold, hold
from llmsched_langgraph.errors import LLMSchedError

_HOOKS = (
    "_generate",
    "_agenerate",
    "_stream",
    "_astream",
    "_stream_chat_model_events",
    "_astream_chat_model_events",
)
_LLM_HOOKS = ("_call", "_acall")
_EMBEDDING_HOOKS = ("embed_documents", "embed_query", "aembed_documents", "aembed_query")
_ROOTS: tuple[Any, ...] = (BaseChatModel, BaseLLM, Embeddings)
_INPUTS = ("messages", "prompts", "prompt", "texts", "text")
_GATED = "__llmsched_gated__"

_lock = threading.Lock()
_installed = False


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


in_child(_forked)


def install() -> None:
    """Gate every existing and future model class. Idempotent.

    Raises:
        LLMSchedError: this langchain-core lacks one of the hooks.
    """
    global _installed
    with _lock:
        if _installed:
            return
        missing = [
            f"{root.__name__}.{hook}"
            for root, hooks in ((BaseChatModel, _HOOKS[:4]), (BaseLLM, _HOOKS[:4]), (LLM, _LLM_HOOKS))
            for hook in hooks
            if not hasattr(root, hook)
        ]
        if missing:
            raise LLMSchedError(
                f"langchain-core {langchain_core.__version__} has no {', '.join(missing)}, so the "
                f"calls of its models cannot be gated; install a version that this package supports (see "
                f"its dependencies)"
            )
        for root in _ROOTS:
            _gate_tree(root)
            _gate_subclasses_to_come(root)
        _installed = True


def _gate_subclasses_to_come(root: Any) -> None:
    own = root.__dict__.get("__init_subclass__")

    def gate_subclass(cls: Any, /, **kwargs: Any) -> None:
        # The inherited method may be written in C (that of Generic is, from Python 3.12 on).
        inherited = super(root, cls).__init_subclass__ if own is None else own.__get__(None, cls)
        inherited(**kwargs)
        _gate_class(cls)

    root.__init_subclass__ = classmethod(gate_subclass)


def _gate_tree(cls: Any) -> None:
    _gate_class(cls)
    for subclass in cls.__subclasses__():
        _gate_tree(subclass)


def _gate_class(cls: Any) -> None:
    if issubclass(cls, Embeddings):
        hooks_of_class: tuple[str, ...] = _EMBEDDING_HOOKS
    else:
        hooks_of_class = (*_HOOKS, *_LLM_HOOKS) if issubclass(cls, LLM) else _HOOKS
    for name in hooks_of_class:
        # Includes hooks inherited from a class that is not a model.
        hook = inspect.getattr_static(cls, name, None)
        if not inspect.isfunction(hook) or hasattr(hook, _GATED):
            continue
        if any(hook is root.__dict__.get(name) for root in _ROOTS) and not name.lstrip("_").startswith("a"):
            continue  # abstract: every concrete model overrides it
        if hook is LLM.__dict__.get(name) and name != "_acall":
            continue  # abstract, or loops over the prompts: `_call` and `_acall` are the requests
        gated = _gate(name, hook)
        setattr(gated, _GATED, True)
        setattr(cls, name, gated)


def _gate(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    if name in _EMBEDDING_HOOKS:
        return _gate_embedding(name, hook)
    if name in ("_generate", "_call"):
        return _gate_call(hook)
    if name in ("_agenerate", "_acall"):
        return _gate_acall(hook)
    return _gate_astream(hook) if name.startswith("_a") else _gate_stream(hook)


def _gate_call(hook: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook)
    def gated(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _call(self, args, kwargs)
        if call is None:
            return hook(self, *args, **kwargs)
        with call:
            while True:
                try:
                    result = hook(self, *args, **kwargs)
                    break
                except Exception:
                    if (wait_s := again_s(call)) is None:
                        raise
                time.sleep(wait_s)
            if call.reports:
                call.usage = usage_of_result(result, _messages(args, kwargs))
            return result

    return gated


def _gate_acall(hook: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook)
    async def gated(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _call(self, args, kwargs)
        if call is None:
            return await hook(self, *args, **kwargs)
        async with call:
            while True:
                try:
                    result = await hook(self, *args, **kwargs)
                    break
                except Exception:
                    if (wait_s := again_s(call)) is None:
                        raise
                await asyncio.sleep(wait_s)
            if call.reports:
                call.usage = usage_of_result(result, _messages(args, kwargs))
            return result

    return gated


def _gate_stream(hook: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    @functools.wraps(hook)
    def gated(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        call = _call(self, args, kwargs)
        if call is None:
            yield from hook(self, *args, **kwargs)
        else:
            yield from hold(call, lambda: hook(self, *args, **kwargs), UsageMeter(_messages(args, kwargs)))

    return gated


def _gate_astream(hook: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(hook)
    async def gated(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        call = _call(self, args, kwargs)
        if call is None:
            items = hook(self, *args, **kwargs)
        else:
            items = ahold(call, lambda: hook(self, *args, **kwargs), UsageMeter(_messages(args, kwargs)))
        try:
            async for item in items:
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    return gated


def _call(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    """Return the call of this request; None if it is made outside runs and takes no slot."""
    run = current_run()
    call: Call | None
    if hooks.pending:
        hooks.install()
    if run is None:
        call = outside.call(lambda router: _requested(router, model, kwargs), model)
        if call is not None and call.counts:
            call.prompt_tokens = prompt_tokens_of(_messages(args, kwargs), kwargs)
        return call
    call = run.scheduler.slot(_requested(run.router, model, kwargs), stage=current_stage())
    call.model = model
    if call.counts:
        call.prompt_tokens = prompt_tokens_of(_messages(args, kwargs), kwargs)
    return call


def _requested(router: Router, model: Any, kwargs: dict[str, Any]) -> Requested | None:
    """Return what the call asks for, as far as it matters."""
    if not router.by_name:
        return None
    names = names_of(model, kwargs)
    return names._replace(account=account_of(model, kwargs)) if router.per_account else names


def _gate_embedding(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    """Gate a method of `Embeddings`; it is a call if a backend claims the model by name or URL."""

    @functools.wraps(hook)
    def gated(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _embedding_call(self, args, kwargs)
        if call is None:
            return hook(self, *args, **kwargs)
        with call:
            return hook(self, *args, **kwargs)

    @functools.wraps(hook)
    async def agated(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _embedding_call(self, args, kwargs)
        if call is None:
            return await hook(self, *args, **kwargs)
        async with call:
            return await hook(self, *args, **kwargs)

    return agated if name.startswith("a") else gated


def _embedding_call(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    run = current_run()
    if run is None or run.router.only is not None or not run.router.claims(names_of(model, {})):
        return None
    return _call(model, args, kwargs)


def _messages(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the model's input: messages, or the texts of a completion or embedding model."""
    named = (kwargs[name] for name in _INPUTS if name in kwargs)
    asked = args[0] if args else next(named, ())
    return (asked,) if isinstance(asked, str) else asked


def current_stage() -> str:
    """Return the path of the node that the calling code runs in: `outer/inner`."""
    stage = current_stage_run()
    if stage is not None:
        return stage.name
    metadata = ensure_config().get("metadata") or {}
    namespace = metadata.get("langgraph_checkpoint_ns")
    if not namespace:
        return str(metadata.get("langgraph_node", ""))
    # "outer:task id|inner:task id"; a bare number distinguishes repeated subgraph calls in one node.
    names = (part.split(":", 1)[0] for part in str(namespace).split("|"))
    return "/".join(name for name in names if not name.isdigit())
