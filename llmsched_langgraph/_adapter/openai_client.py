"""Makes the requests of a raw `openai` client take slots: at its HTTP client, once per attempt.

Does not inspect graphs: in a scheduled run the calls belong to its job, elsewhere each is a job of its own.

The client waits between its retries above the HTTP client, so such a wait holds no slot. Private names used:
`_client` of an openai client, and that the client sends all requests through `_client.send`.
"""

from __future__ import annotations

import _thread
import asyncio
import functools
import json
import types
from typing import Any, Never, TypeVar

from llmsched_langgraph._adapter.accounts import account_of_request
from llmsched_langgraph._adapter.gate import current_stage
from llmsched_langgraph._adapter.http.answers import failure_of
from llmsched_langgraph._adapter.http.httpx_hooks import hold_body
from llmsched_langgraph._adapter.http.replicas import send_to_replica
from llmsched_langgraph._adapter.model_names import names_of_request
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome, Usage
from llmsched_langgraph._runtime.call import Call
from llmsched_langgraph._runtime.context import current_run
from llmsched_langgraph._runtime.default import default_scheduler
from llmsched_langgraph._runtime.given import as_scheduler, refuse_settings
from llmsched_langgraph._runtime.marks import cancelled
from llmsched_langgraph._runtime.run import Slots
from llmsched_langgraph._runtime.scheduler import Scheduler
from llmsched_langgraph._runtime.slot import outcome_of
from llmsched_langgraph._runtime.streams import AsyncStream, Stream
from llmsched_langgraph._runtime.two_schedulers import tell_of_client
from llmsched_langgraph.errors import ConfigurationError

C = TypeVar("C")

_SERVED = ("/chat/completions", "/completions", "/responses", "/responses/compact", "/embeddings")
"""Path suffixes of requests that a model serves; others (models, files, ...) take no slot."""

_GATED = "__llmsched_gated__"
_SCHEDULER = "__llmsched_scheduler__"
_LOOP = "__llmsched_loop__"


def wrap_openai(client: C, scheduler: Scheduler | None = None, **settings: Never) -> C:
    """Return a copy of `client` whose requests each hold a slot while they are in flight.

    It works inside and outside scheduled graphs, for completions, chat completions, responses and embeddings,
    streamed or not. A stream holds its slot until it is exhausted, closed or collected. Both clients share
    one connection pool: closing one closes both. The original client is not gated. A wrapped client is
    returned unchanged, unless another scheduler is given.

    Args:
        client: an `openai.OpenAI`, an `openai.AsyncOpenAI`, or a subclass such as the Azure clients.
        scheduler: the scheduler whose slots are used; None for that of the current run, or the process-wide
            one outside runs.
        settings: none. The settings of slots are those of `Scheduler`.

    Raises:
        ConfigurationError: the object is not such a client, or `scheduler` is not a Scheduler.
        TypeError: there are other arguments; the message says where they belong.
    """
    import openai

    refuse_settings("wrap_openai(client", settings)
    as_scheduler(scheduler)
    if not isinstance(client, openai.OpenAI | openai.AsyncOpenAI):
        raise ConfigurationError(
            f"wrap_openai() needs an openai.OpenAI or openai.AsyncOpenAI client, not {type(client).__name__}"
        )
    http: Any = client._client  # noqa: SLF001 - the one private name, watched by a test
    if hasattr(http, _GATED):
        if scheduler in (None, getattr(http, _SCHEDULER)):
            return client
        http = getattr(http, _GATED)
    copy: Any = client.copy
    gated: C = copy(http_client=_gated(http, scheduler))
    return gated


def _gated(http: Any, scheduler: Scheduler | None) -> Any:
    """Return `http` with a class whose `send` takes a slot; connections and settings are shared."""
    base: Any = type(http)
    asynchronous = hasattr(http, "aclose")

    def send(self: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
        call = _call(scheduler, request)
        if call is None:
            return base.send(self, request, stream=stream, **options)
        call.acquire()
        try:
            send_to_replica(call, request)
            with call.inside():
                response = base.send(self, request, stream=stream, **options)
                call.stream = Stream(response)
            if call.abandoned:
                raise cancelled()
            call.stream = None  # a response that nobody refers to is closed
        except BaseException as error:
            call.end(outcome_of(error))
            raise
        return _settle(call, response)

    async def asend(self: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
        call = _call(scheduler, request)
        if call is None:
            return await base.send(self, request, stream=stream, **options)
        await call.aacquire()
        try:
            send_to_replica(call, request)
            with call.inside():
                response = await base.send(self, request, stream=stream, **options)
                call.stream = AsyncStream(response, asyncio.get_running_loop())
            if call.abandoned:
                raise cancelled()
            call.stream = None  # a response that nobody refers to is closed
        except BaseException as error:
            call.end(outcome_of(error))
            raise
        return _settle(call, response, asyncio.get_running_loop())

    body = {
        "send": asend if asynchronous else send,
        # openai's client closes its connections when it is collected. These belong to `http`, which this
        # class keeps alive.
        "__del__": lambda self: None,
        _GATED: http,
        _SCHEDULER: scheduler,
    }
    gated: Any = object.__new__(_view(base, body))
    gated.__dict__ = http.__dict__
    return gated


def _settle(call: Call, response: Any, loop: asyncio.AbstractEventLoop | None = None) -> Any:
    """End the call, or transfer it to a response whose body is not complete."""
    if response.status_code >= 400:
        call.release(Outcome.FAILED, failure_of(response.status_code, response.headers))
        return response
    if response.is_closed:
        call.usage = _usage(response)
        call.end()
        return response
    hold_body(response, call)
    setattr(response, _LOOP, loop)
    held: Any = _held_response if loop is None else _aheld_response
    response.__class__ = held(type(response))
    _open[id(response)] = call
    call.leave_open()
    return response


def _taken_out(response: Any) -> Call | None:
    """Remove and return the call of a response that is closed; None if it was removed before."""
    return _open.pop(id(response), None)


_open: dict[int, Call] = {}
"""The calls of open responses, by the id of the response.

They are not attributes of the responses: a call releases its slot when it is collected. If both were
collected together, the call might be first, while the request is still in flight. The code that removes a
call closes the response first and then ends the call.
"""


@functools.cache
def _held_response(base: Any) -> type:
    """Return a subclass of `base` that releases the slot when it is closed.

    A subclass, because a closure on the object would be a reference cycle. openai closes a response at the
    end of its stream and on errors; a response that is collected open is closed here.
    """

    def close(self: Any) -> None:
        call = _taken_out(self)
        if call is not None:
            finish(self, call)

    def drop(self: Any) -> None:
        call = _taken_out(self)
        if call is None:
            return
        try:
            # The collector may run while this thread holds a lock of the connection pool, so another thread
            # must close. Starting a `threading.Thread` takes locks as well.
            _thread.start_new_thread(finish, (self, call))
        except RuntimeError:
            call.end()  # the interpreter shuts down

    def finish(self: Any, call: Call) -> None:
        try:
            base.close(self)
        finally:
            call.end()

    return _view(base, {"close": close, "__del__": drop})


@functools.cache
def _aheld_response(base: Any) -> type:
    """Return such a subclass for a response that is read and closed on an event loop."""

    async def aclose(self: Any) -> None:
        call = _taken_out(self)
        if call is not None:
            await finish(self, call)

    def drop(self: Any) -> None:
        call = _taken_out(self)
        if call is None:
            return
        loop = getattr(self, _LOOP)
        try:
            loop.call_soon_threadsafe(lambda: loop.create_task(finish(self, call)))
        except RuntimeError:
            call.end()  # the loop is closed, so the response cannot be closed on it

    async def finish(self: Any, call: Call) -> None:
        try:
            await base.aclose(self)
        finally:
            call.end()

    return _view(base, {"aclose": aclose, "__del__": drop})


def _view(base: Any, body: dict[str, Any]) -> type:
    """Return a subclass of `base` with the same name."""
    return types.new_class(base.__name__, (base,), {}, lambda space: space.update(body))


def _call(scheduler: Scheduler | None, request: Any) -> Call | None:
    if request.method != "POST" or not request.url.path.endswith(_SERVED):
        return None
    run = current_run()
    if scheduler is not None:
        tell_of_client(scheduler)
        own: Slots = scheduler
    else:
        own = default_scheduler() if run is None else run.scheduler
    names = names_of_request(str(request.url), _model(request))
    names = names._replace(account=account_of_request(request.headers))
    call: Call = own.slot(names, stage="" if run is None else current_stage())
    return call


def _model(request: Any) -> str | None:
    try:
        model = json.loads(request.content).get("model")
    except Exception:
        return None  # not a JSON object; the backend reports it
    return model if isinstance(model, str) else None


def _usage(response: Any) -> Usage:
    try:
        usage = response.json().get("usage") or {}
        prompt_tokens = usage.get("prompt_tokens", usage.get("input_tokens"))
        output_tokens = usage.get("completion_tokens", usage.get("output_tokens"))
    except Exception:
        return UNKNOWN_USAGE  # an error page, or a binary answer
    return Usage(prompt_tokens, output_tokens)
