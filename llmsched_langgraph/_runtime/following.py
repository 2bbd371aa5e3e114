"""Carries the marks of a running job into the work that it gives to threads.

Does not carry anything else of the context.

`asyncio.to_thread` and LangChain's executors copy the whole context. `loop.run_in_executor`,
`ThreadPoolExecutor`, `ThreadPool` and `threading.Thread` do not, so their methods are replaced by ones that
pass `RUN`, `STAGE` and `CALL` on as well. A piece of work in a pool has the marks like a task: work that
outlives a run that finished goes on, and that of a run that failed or was cancelled gets no slot. The threads
of a pool have no mark between two pieces of work. The marks of a thread of the job's own are void once the
job has ended, because such a thread may serve other jobs later (`outside`).

Private names of the standard library used: `_target` of a thread. Without it, a thread that a pool starts
counts as one of the job's own.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._fork import in_child
from llmsched_langgraph._patching import wrap_method
from llmsched_langgraph._runtime.context import CALL, RUN, STAGE, current_stage_run, unmark
from llmsched_langgraph._runtime.marks import Working
from llmsched_langgraph._runtime.run import Run, StageRun

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.call import Call

_POOL_METHODS = ("apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered")
"""Methods of a `ThreadPool` that take a function first and do not call another one of them."""

_OTHERS = ("concurrent.futures.", "multiprocessing.", "llmsched_langgraph.")
"""Modules whose threads serve all jobs: pools, and this package."""

_lock = threading.Lock()
_installed = False


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


in_child(_forked)


def install() -> None:
    """Replace the methods, once. Outside runs, each then costs one more read of a context variable."""
    global _installed
    with _lock:
        if _installed:
            return
        wrap_method(ThreadPoolExecutor, "submit", _submitting)
        wrap_method(Future, "add_done_callback", _calling_back)
        wrap_method(threading.Thread, "start", _starting)
        if "start" in vars(threading.Timer):  # another library has replaced the `run` of timers
            wrap_method(threading.Timer, "start", _starting)
        try:
            from multiprocessing.pool import ThreadPool
        except ImportError:  # a platform without processes
            pass
        else:
            for name in _POOL_METHODS:
                wrap_method(ThreadPool, name, _mapping)
        _installed = True


def _submitting(submit: Callable[..., Any]) -> Callable[..., Any]:
    def following(self: Any, *args: Any, **kwargs: Any) -> Any:
        if RUN.get() is None or not args:
            return submit(self, *args, **kwargs)
        work = _working(_followed(args[0]))
        # The pool may start a thread for this work, which serves others afterwards.
        mark = RUN.set(None)
        try:
            return submit(self, work, *args[1:], **kwargs)
        finally:
            unmark(RUN, mark)

    return following


def _mapping(method: Callable[..., Any]) -> Callable[..., Any]:
    def following(self: Any, *args: Any, **kwargs: Any) -> Any:
        if RUN.get() is None:
            return method(self, *args, **kwargs)
        if args:
            args = (_followed(args[0]), *args[1:])
        elif "func" in kwargs:
            kwargs["func"] = _followed(kwargs["func"])
        return method(self, *args, **kwargs)

    return following


def _calling_back(add_done_callback: Callable[..., Any]) -> Callable[..., Any]:
    def following(self: Any, *args: Any, **kwargs: Any) -> Any:
        # asyncio's own callbacks on a future call no code of a job.
        if RUN.get() is None or not args or getattr(args[0], "__module__", None) == "asyncio.futures":
            return add_done_callback(self, *args, **kwargs)
        return add_done_callback(self, _followed(args[0]), *args[1:], **kwargs)

    return following


def _starting(start: Callable[..., Any]) -> Callable[..., Any]:
    def following(self: Any, *args: Any, **kwargs: Any) -> Any:
        if RUN.get() is None:
            return start(self, *args, **kwargs)
        body = _marked_body(self)
        try:
            return start(self, *args, **kwargs)
        except BaseException:
            if body is not None:
                body.take_out(self)
            raise

    return following


def _marks(*, void_at_end: bool) -> tuple[Run, StageRun | None] | None:
    """Return the marks to carry; None if there is no job, or if it is not followed."""
    run, stage = RUN.get(), current_stage_run()
    if run is None or not run.follows:
        return None
    if void_at_end and not run.carried:
        run = run._replace(carried=True)
    if stage is not None and not stage.carried:
        stage = _CarriedStage(stage, run)
    return run, stage


def _followed(function: Any) -> Any:
    """Return `function` with the marks of the running job, unless it brings a context of its own."""
    inner = function.func if type(function) is functools.partial else function
    if type(getattr(inner, "__self__", None)) is Context:
        return function
    marks = _marks(void_at_end=False)
    return function if marks is None else _Work(function, *marks)


def _working(function: Any) -> Any:
    """Return `function`, counted while it runs as work of the block of which the running code is part."""
    reference = CALL.get()
    block = None if reference is None else reference()
    return function if block is None or block.model is not None else _InBlock(function, block)


class _InBlock:
    """A function whose thread works in a block of `scheduler.slot()`, or for a tool."""

    __slots__ = ("_block", "_function")

    def __init__(self, function: Any, block: Call) -> None:
        self._function = function
        self._block = block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with Working(self._block):
            return self._function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __repr__(self) -> str:
        return repr(self._function)


class _Work:
    """A function that runs with the marks of a job.

    Otherwise it is like the function: it has its attributes, and it is pickled as the function.
    """

    __slots__ = ("_call", "_function", "_run", "_stage")

    def __init__(self, function: Any, run: Run, stage: StageRun | None) -> None:
        self._call = CALL.get()
        self._function = function
        self._run = run
        self._stage = stage

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run, stage, call = RUN.set(self._run), STAGE.set(self._stage), CALL.set(self._call)
        try:
            return self._function(*args, **kwargs)
        finally:
            unmark(CALL, call)
            unmark(STAGE, stage)
            unmark(RUN, run)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __reduce__(self) -> Any:
        return _same, (self._function,)

    def __repr__(self) -> str:
        return repr(self._function)


def _same(function: Any) -> Any:
    return function


class _Body:
    """Replaces a thread's `run`: removes itself, then calls the original one with the marks of a job."""

    __slots__ = ("_before", "_own", "_work")

    def __init__(self, thread: threading.Thread, run: Run, stage: StageRun | None) -> None:
        own: Any = thread.run
        self._before = vars(thread).get("run")  # set by the user, or by another library
        # The function, not the method, which would be a reference cycle. Another library may have replaced it
        # by an object that only looks like a method, whose function is not all of it.
        bound = type(own) is types.MethodType and own.__self__ is thread
        self._own = bound
        self._work = _Work(own.__func__ if bound else own, run, stage)

    def __call__(self, thread: threading.Thread) -> None:
        self.take_out(thread)
        if self._own:
            self._work(thread)
        else:
            self._work()

    def take_out(self, thread: threading.Thread) -> None:
        """Restore the thread's own `run`, unless another library has replaced it meanwhile."""
        attributes = vars(thread)
        if getattr(attributes.get("run"), "__func__", None) is self:
            if self._before is None:
                del attributes["run"]
            else:
                attributes["run"] = self._before


def _marked_body(thread: threading.Thread) -> _Body | None:
    """Have a thread that is about to start run with the marks of the running job."""
    marks = _marks(void_at_end=True)
    if marks is None or not _belongs_to_its_starter(thread):
        return None
    body = _Body(thread, *marks)
    # A bound method, because other libraries take `__func__` of it and call that with the thread.
    vars(thread)["run"] = types.MethodType(body, thread)
    return body


def _belongs_to_its_starter(thread: threading.Thread) -> bool:
    try:
        if thread.ident is not None:
            return False  # started before; `start` raises
    except (AssertionError, AttributeError):
        return False  # not initialised; `start` raises
    target = getattr(thread, "_target", None)
    module = getattr(type(thread) if target is None else target, "__module__", None)
    return not (isinstance(module, str) and module.startswith(_OTHERS))


class _CarriedStage(StageRun):
    """The stage run, as seen by a thread that its job started. Its mark is void when that of the run is."""

    carried = True

    def __init__(self, stage: StageRun, run: Run) -> None:
        vars(self).update(vars(stage))  # the same number, and the same threads that wait
        self._stage = stage
        self._run = run
        if stage.heartbeat is not None:
            context, beat = copy_context(), stage.heartbeat  # LangGraph's heartbeat needs its context
            self.heartbeat = lambda: context.copy().run(beat)

    @property
    def void(self) -> bool:  # type: ignore[override]
        """Whether the mark is void."""
        return self._run.carried and self._run.seen.ended

    @property
    def over(self) -> bool:  # type: ignore[override]
        """Whether the stage run has ended."""
        return self._stage.over

    @property
    def cancelled(self) -> bool:  # type: ignore[override]
        """Whether the stage run was cancelled."""
        return self._stage.cancelled
