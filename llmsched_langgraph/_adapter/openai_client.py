"""Knows how the requests of a raw `openai` client take slots: at its HTTP client, once per attempt.

Does not know graphs: inside a scheduled run the calls are that job's, elsewhere each is its own job.

Waiting between the client's own retries happens above the HTTP client, so it holds no slot. Private
names used: `_client` of an openai client, and that it sends everything through `_client.send`.
"""

from __future__ import annotations

import _thread
import asyncio
import functools
import json
import types
from typing import Any, TypeVar

from llmsched_langgraph._adapter.gate import current_stage
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Usage
from llmsched_langgraph._runtime.context import current_run
from llmsched_langgraph._runtime.default import default_scheduler
from llmsched_langgraph._runtime.scheduler import Scheduler
from llmsched_langgraph._runtime.slot import Slot, outcome_of
from llmsched_langgraph.errors import ConfigurationError

C = TypeVar("C")

_SERVED = ("/chat/completions", "/completions", "/responses", "/responses/compact", "/embeddings")
"""Ends of the paths whose requests a model serves; the rest (models, files, ...) takes no slot."""

_GATED = "__llmsched_gated__"
_LOOP = "__llmsched_loop__"


def wrap_openai(client: C, scheduler: Scheduler | None = None) -> C:
    """A client like `client` whose requests each hold a slot while they are in flight.

    Works inside scheduled graphs and outside, for completions, chat completions, responses and
    embeddings, streamed or not. A stream holds its slot until it is exhausted, closed or dropped.
    The two clients share one connection pool: closing one closes both. The client that was given
    is not gated. Wrapping twice is the same as wrapping once.

    Args:
        client: an `openai.OpenAI`, an `openai.AsyncOpenAI`, or a subclass such as the Azure ones.
        scheduler: whose slots to use; None for the run's own, or outside of runs the process-wide one.

    Raises:
        ConfigurationError: the object is no such client.
    """
    import openai

    if not isinstance(client, openai.OpenAI | openai.AsyncOpenAI):
        raise ConfigurationError(
            f"wrap_openai() needs an openai.OpenAI or openai.AsyncOpenAI client, not {type(client).__name__}"
        )
    http: Any = client._client  # noqa: SLF001 - the one private name, watched by a test
    if hasattr(http, _GATED):
        return client
    copy: Any = client.copy
    gated: C = copy(http_client=_gated(http, scheduler))
    return gated


def _gated(http: Any, scheduler: Scheduler | None) -> Any:
    """`http` under another class: the same connections and settings, but `send` takes a slot."""
    base: Any = type(http)
    asynchronous = hasattr(http, "aclose")

    def send(self: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
        slot = _slot(scheduler, request)
        if slot is None:
            return base.send(self, request, stream=stream, **options)
        slot.acquire()
        try:
            with slot.inside():
                response = base.send(self, request, stream=stream, **options)
        except BaseException as error:
            slot.release(outcome_of(error))
            raise
        return _settle(slot, response)

    async def asend(self: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
        slot = _slot(scheduler, request)
        if slot is None:
            return await base.send(self, request, stream=stream, **options)
        await slot.aacquire()
        try:
            with slot.inside():
                response = await base.send(self, request, stream=stream, **options)
        except BaseException as error:
            slot.release(outcome_of(error))
            raise
        return _settle(slot, response, asyncio.get_running_loop())

    body = {
        "send": asend if asynchronous else send,
        # openai closes a client's connections when it is collected. They belong to `http`, which
        # lives as long as this class does.
        "__del__": lambda self: None,
        _GATED: http,
    }
    gated: Any = object.__new__(_view(base, body))
    gated.__dict__ = http.__dict__
    return gated


def _settle(slot: Slot, response: Any, loop: asyncio.AbstractEventLoop | None = None) -> Any:
    """Give the slot back, or let the response do so, on its loop if it has one, if its body is to come."""
    if response.is_closed:
        slot.usage = _usage(response)
        slot.release()
        return response
    setattr(response, _LOOP, loop)
    held: Any = _held_response if loop is None else _aheld_response
    response.__class__ = held(type(response))
    _open[id(response)] = slot
    slot.leave_open()
    return response


def _taken_out(response: Any) -> Slot | None:
    """The slot of a response that is about to be closed; None if somebody has taken it out already."""
    slot = _open.pop(id(response), None)
    if slot is not None:
        slot.close()
    return slot


_open: dict[int, Slot] = {}
"""The slots of responses whose body is still to come, by the ids of the responses.

Not on the responses: a slot that is collected gives itself back, and of two things that are collected
together it might be the first, while the request is still in flight. Whoever takes a slot out closes
the response and then, but only then, gives the slot back.
"""


@functools.cache
def _held_response(base: Any) -> type:
    """`base`, whose closing gives the slot back. A class, since a closure on the object would be a cycle.

    openai closes a response at the end of its stream, and on errors. One that is dropped is closed here.
    """

    def close(self: Any) -> None:
        slot = _taken_out(self)
        if slot is not None:
            finish(self, slot)

    def drop(self: Any) -> None:
        slot = _taken_out(self)
        if slot is None:
            return
        try:
            # The collector comes at any moment, also while this thread holds a lock of the connection
            # pool, so that another thread must do it. Starting a `threading.Thread` takes locks as well.
            _thread.start_new_thread(finish, (self, slot))
        except RuntimeError:
            slot.release()  # the interpreter is about to end

    def finish(self: Any, slot: Slot) -> None:
        try:
            base.close(self)
        finally:
            slot.release()

    return _view(base, {"close": close, "__del__": drop})


@functools.cache
def _aheld_response(base: Any) -> type:
    """The same for responses that are read on an event loop, and closed there."""

    async def aclose(self: Any) -> None:
        slot = _taken_out(self)
        if slot is not None:
            await finish(self, slot)

    def drop(self: Any) -> None:
        slot = _taken_out(self)
        if slot is None:
            return
        loop = getattr(self, _LOOP)
        try:
            loop.call_soon_threadsafe(lambda: loop.create_task(finish(self, slot)))
        except RuntimeError:
            slot.release()  # the loop is closed, and so nothing can be done on it any more

    async def finish(self: Any, slot: Slot) -> None:
        try:
            await base.aclose(self)
        finally:
            slot.release()

    return _view(base, {"aclose": aclose, "__del__": drop})


def _view(base: Any, body: dict[str, Any]) -> type:
    """A subclass of `base` that goes by its name."""
    return types.new_class(base.__name__, (base,), {}, lambda space: space.update(body))


def _slot(scheduler: Scheduler | None, request: Any) -> Slot | None:
    if request.method != "POST" or not request.url.path.endswith(_SERVED):
        return None
    run = current_run()
    if scheduler is None:
        scheduler = run.scheduler if run is not None else default_scheduler()
    return scheduler.slot(_model(request), stage=current_stage() if run is not None else "")


def _model(request: Any) -> str | None:
    try:
        model = json.loads(request.content).get("model")
    except Exception:
        return None  # a body that is no JSON object; the backend will say what it thinks of it
    return model if isinstance(model, str) else None


def _usage(response: Any) -> Usage:
    try:
        usage = response.json().get("usage") or {}
        prompt_tokens = usage.get("prompt_tokens", usage.get("input_tokens"))
        output_tokens = usage.get("completion_tokens", usage.get("output_tokens"))
    except Exception:
        return UNKNOWN_USAGE  # an error page, or a binary answer
    return Usage(prompt_tokens, output_tokens)
