"""Makes a span of OpenTelemetry for each call, from its request to its end, from the story's entries.

Does not export spans, or measure totals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from llmsched_langgraph._core.events import CallRequested, Entry, JobInfo
from llmsched_langgraph._jobs.calls import PENDING_USAGE, Outcome, Usage
from llmsched_langgraph._observe.bounds import Bounded
from llmsched_langgraph._observe.measures import name_of
from llmsched_langgraph._observe.otel_metrics import SCOPE
from llmsched_langgraph._version import __version__

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

CALL, WAIT = "llmsched.call", "llmsched.wait"
"""The names of the spans: of a call, and inside it of each wait for a slot."""

QUEUED_S = "gen_ai.latency.time_in_queue"
"""The attribute with the wait in seconds: the name that vLLM and SGLang give theirs."""

MODEL = "gen_ai.request.model"

OPEN = 100_000
"""Spans that are open at once; older ones are ended. More are open only if entries are missed."""

_NOTHING: Mapping[str, AttributeValue] = MappingProxyType({})

Parent = Callable[[], "Span | None"]


class _Asked(NamedTuple):
    """A request, its context, and its time in nanoseconds since the epoch."""

    context: Context
    at_ns: int
    request: CallRequested


class _Open:
    """The span of a call that has not ended.

    Attributes:
        span: the span.
        context: the context of the request.
        wait: the span of its wait; None if it does not wait.
        zero_ns: the time in nanoseconds since the epoch at which the scheduler's clock was 0.
        asked_s: clock time of its last request.
        waited_s: total wait of its attempts, in seconds.
        attempts: number of slots that it got.
        ended_ns: the end of its last attempt, in nanoseconds since the epoch.
        error: why it counts as failed so far; empty if it does not.
        told: attributes that are set at its end.
    """

    __slots__ = (
        "asked_s",
        "attempts",
        "context",
        "ended_ns",
        "error",
        "span",
        "told",
        "wait",
        "waited_s",
        "zero_ns",
    )

    def __init__(self, span: Span, context: Context, zero_ns: int) -> None:
        self.span = span
        self.context = context
        self.wait: Span | None = None
        self.zero_ns = zero_ns
        self.asked_s = 0.0
        self.waited_s = 0.0
        self.attempts = 0
        self.ended_ns = 0
        self.error = ""
        self.told: dict[str, AttributeValue] = {}

    def ns(self, at_s: float) -> int:
        """Return a time of the scheduler's clock in nanoseconds since the epoch."""
        return self.zero_ns + int(at_s * 1e9)

    def count(self, usage: Usage) -> None:
        """Keep the tokens. They have names of their own: under `gen_ai.usage` they would count twice."""
        if usage.prompt_tokens is not None:
            self.told["llmsched.tokens.input"] = usage.prompt_tokens
        if usage.output_tokens is not None:
            self.told["llmsched.tokens.output"] = usage.output_tokens


class Spans:
    """The spans of the calls of one scheduler.

    Entries are seen one at a time, later and in another thread. `asked` is called in the code that requests a
    slot, so the span that is current there becomes the parent. A span begins with the request, and ends with
    the last attempt's slot or when the call stops waiting. Times of the scheduler's clock count from the
    request, so that spans are in line with those of others.

    Args:
        provider: the tracer provider.
        shared: returns the name of a backend, given that of one of its accounts.
        parent: returns the parent of a call's span, in the code that requests a slot; None for the current
            span.
    """

    def __init__(
        self, provider: TracerProvider, shared: Callable[[str], str], parent: Parent | None = None
    ) -> None:
        from opentelemetry import context, trace

        self._tracer = provider.get_tracer(SCOPE, __version__)
        self._current, self._inside = context.get_current, trace.set_span_in_context
        self._failed = trace.StatusCode.ERROR
        self._shared = shared
        self._parent = parent
        self._tenants = Bounded()
        self._jobs: dict[int, JobInfo] = {}
        self._asked: dict[int, _Asked] = {}
        self._open: dict[int, _Open] = {}  # by the call's last ticket

    def forked(self) -> None:
        """Forget the open spans in the child of a fork: the parent ends them."""
        self._asked, self._open = {}, {}

    def asked(self, request: CallRequested) -> None:
        """Keep the context of a request."""
        current = self._current()
        if self._parent is not None and (parent := self._parent()) is not None:
            current = self._inside(parent, current)
        self._asked[request.ticket] = _Asked(current, time.time_ns(), request)
        if len(self._asked) > OPEN:
            self._asked.pop(next(iter(self._asked)), None)

    def see(self, entry: Entry) -> None:
        """Begin, annotate or end a span."""
        _, at_s, kind, job, ticket, _, detail = entry
        match kind:
            case "JobArrived" | "JobResumed":
                self._jobs[job] = detail
            case "JobClosed":
                self._jobs.pop(job, None)
            case "CallQueued":
                if (own := self._begun(entry, at_s)) is not None and own.wait is None:
                    inside = self._inside(own.span, own.context)
                    own.wait = self._tracer.start_span(WAIT, inside, start_time=own.ns(at_s))
            case "SlotGranted":
                self._granted(entry)
            case "CallReleased":
                if (own := self._open.get(ticket)) is not None:
                    own.ended_ns = own.ns(at_s)
                    own.error = "the last attempt failed" if detail.outcome is Outcome.FAILED else ""
                    own.told["llmsched.outcome"] = detail.outcome.value
                    own.count(detail.usage)
                    if detail.usage is not PENDING_USAGE:
                        self._end(ticket)
            case "CallMeasured":
                if (own := self._open.get(ticket)) is not None:
                    own.count(detail)
                    self._end(ticket)
            case "CallWithdrawn" | "CallRefused":
                if (own := self._begun(entry, at_s)) is not None:
                    own.ended_ns = own.ns(at_s)
                    self._left(own, at_s, kind, detail)
                    self._end(ticket)

    def _begun(
        self, entry: Entry, asked_s: float, more: Mapping[str, AttributeValue] = _NOTHING
    ) -> _Open | None:
        """Return the call's open span; begin it, with `more` attributes, if its request was heard of."""
        ticket = entry.ticket
        asked = self._asked.pop(ticket, None)
        if asked is None:
            return self._open.get(ticket)
        own = self._open.pop(asked.request.again, None) if asked.request.again else None
        if own is None:
            own = self._start(entry, asked, asked_s, more)
        own.asked_s = asked_s
        self._open[ticket] = own
        if len(self._open) > OPEN:
            self._end(next(iter(self._open)))
        return own

    def _start(
        self, entry: Entry, asked: _Asked, asked_s: float, more: Mapping[str, AttributeValue]
    ) -> _Open:
        request, info = asked.request, self._jobs.get(entry.job)
        priority = request.priority if info is None else info.priority
        tenant = request.tenant if info is None else info.tenant
        attributes: dict[str, AttributeValue] = {
            "llmsched.backend": self._shared(entry.backend),
            "llmsched.job": entry.job,
            "llmsched.priority": priority,
            **more,
        }
        if request.stage:
            attributes["llmsched.stage"] = request.stage
        if tenant:
            attributes["llmsched.tenant"] = self._tenants(tenant)
        if request.models:
            attributes[MODEL] = request.models[0]
        if info is not None:
            attributes["llmsched.application"] = name_of(info.application)
            if info.run_id:
                attributes["llmsched.run_id"] = info.run_id
        span = self._tracer.start_span(CALL, asked.context, attributes=attributes, start_time=asked.at_ns)
        return _Open(span, asked.context, asked.at_ns - int(asked_s * 1e9))

    def _granted(self, entry: Entry) -> None:
        grant = entry.detail
        waited_s = max(0.0, grant.granted_s - grant.asked_s)
        told: dict[str, AttributeValue] = {
            QUEUED_S: waited_s,
            "llmsched.reason": grant.reason,
            "llmsched.attempts": 1,
        }
        if grant.replica:
            told["llmsched.replica"] = grant.replica
        own = self._begun(entry, grant.asked_s, told)
        if own is None:
            return
        own.attempts += 1
        own.waited_s += waited_s
        if own.attempts == 1 and own.wait is None:
            return  # the span began with the grant, and has its attributes
        at_ns = own.ns(grant.granted_s)
        if own.wait is not None:
            own.wait.set_attributes({QUEUED_S: waited_s, "llmsched.reason": grant.reason})
            own.wait.end(at_ns)
            own.wait = None
        own.span.add_event("llmsched.granted", {"llmsched.reason": grant.reason}, at_ns)
        own.told.update(told)
        own.told[QUEUED_S], own.told["llmsched.attempts"] = own.waited_s, own.attempts

    def _left(self, own: _Open, at_s: float, kind: str, detail: Any) -> None:
        outcome = "refused" if kind == "CallRefused" else "withdrawn"
        own.error = f"{detail.waiting} calls wait, and {detail.limit} may" if kind == "CallRefused" else ""
        waited_s = 0.0
        if own.wait is not None:
            waited_s = max(0.0, at_s - own.asked_s)
            own.wait.set_attributes({"llmsched.outcome": outcome, QUEUED_S: waited_s})
        own.told["llmsched.outcome"] = outcome
        own.told[QUEUED_S] = own.waited_s = own.waited_s + waited_s

    def _end(self, ticket: int) -> None:
        own = self._open.pop(ticket, None)
        if own is None:
            return
        end_ns = own.ended_ns or time.time_ns()
        if own.wait is not None:
            own.wait.end(end_ns)
        if own.told:
            own.span.set_attributes(own.told)
        if own.error:
            own.span.set_status(self._failed, own.error)
        own.span.end(end_ns)

    def close(self) -> None:
        """End the open spans: nobody hears of the ends of their calls."""
        for ticket in tuple(self._open):
            self._end(ticket)
        self._asked.clear()
