"""Puts what is known of a run into an `Explanation`.

Does not read the machine or the ledger: `_core/explaining.py` and the callers do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._core.explaining import JobFacts
from llmsched_langgraph._jobs.calls import FinishedCall
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph._ledger.preview import Next
from llmsched_langgraph._ledger.values import BackendView
from llmsched_langgraph._observe.explanation import (
    Ahead,
    CallExplanation,
    Explanation,
    StageExplanation,
    State,
)
from llmsched_langgraph._observe.forecasts import Forecast

SHOWN = 5
"""Maximum number of calls before a waiting one that are listed."""

Infos = Mapping[int, tuple[JobInfo, str]]
"""The properties of jobs and the names of their applications, by number."""


def before(facts: JobFacts, lines: Mapping[str, Sequence[Next]]) -> set[int]:
    """Return the numbers of the jobs whose calls are listed before those of a run."""
    found: set[int] = set()
    for line in lines.values():
        own = [at for at, one in enumerate(line) if one.ticket in facts.waiting]
        for at in own:
            found.update(one.waits.lane[1] for one in line[: min(at, SHOWN)])
    return found


def of_running(
    facts: JobFacts,
    backends: Mapping[str, BackendView],
    lines: Mapping[str, Sequence[Next]],
    infos: Infos,
    forecast: Forecast | None,
) -> Explanation:
    """Return the explanation of a run that has not ended.

    Args:
        facts: what is known of it.
        backends: the backends, by name.
        lines: for each backend at which it waits, the waiting calls in the order of service.
        infos: the jobs of the calls before its own.
        forecast: when it ends; None if that is unknown.
    """
    info, now = facts.info, facts.at_s
    calls = [_waiting(facts, ticket, backends, lines, infos) for ticket in facts.waiting]
    calls += [
        CallExplanation(
            stage=grant.call.stage,
            backend=backends[grant.lane[0]].backend.shared,
            state="running",
            waited_s=grant.granted_s - grant.asked_s,
            seconds=max(now - grant.granted_s, 0.0),
            attempts=1,
            reason=grant.reason,
        )
        for grant in facts.holding.values()
    ]
    calls += [_finished(call) for call in facts.finished]
    return Explanation(
        number=facts.number,
        run_id=info.run_id,
        thread_id=info.thread_id,
        application=facts.application,
        tenant=info.tenant,
        priority=info.priority,
        state=_state(facts),
        elapsed_s=facts.elapsed_s,
        waited_s=sum(call.waited_s for call in calls),
        stages=tuple(
            StageExplanation(
                name=stage.name,
                occurrence=stage.occurrence,
                state="running" if stage.running else "ended",
                runs=stage.runs,
                runs_ended=stage.ended,
                calls=stage.calls,
                work_s=stage.work_s,
            )
            for stage in facts.stages
        ),
        work_s=facts.work_s,
        remaining_s=facts.remaining_s,
        remaining_interval_s=facts.interval_s,
        earlier_runs=facts.earlier,
        calls=tuple(calls),
        eta_s=None if forecast is None else forecast.seconds,
        eta_interval_s=None if forecast is None else (forecast.low, forecast.high),
    )


def _state(facts: JobFacts) -> State:
    if facts.paused:
        return "paused"
    if facts.holding:
        return "running"
    return "waiting" if facts.waiting else "working"


def _finished(call: FinishedCall) -> CallExplanation:
    return CallExplanation(
        stage=call.stage,
        backend=call.backend,
        state="ended",
        waited_s=max(call.released_s - call.asked_s - call.work_s, 0.0),
        seconds=call.work_s,
        attempts=call.attempts,
        reason=call.reason,
    )


def _waiting(
    facts: JobFacts,
    ticket: int,
    backends: Mapping[str, BackendView],
    lines: Mapping[str, Sequence[Next]],
    infos: Infos,
) -> CallExplanation:
    waits = facts.waiting[ticket]
    name, now = waits.lane[0], facts.at_s
    view, line = backends[name], lines[name]
    at = next((at for at, own in enumerate(line) if own.ticket == ticket), None)
    ahead: tuple[Ahead, ...] = ()
    place = None
    if at is not None:
        place, own = at + 1, line[at]
        ahead = tuple(_ahead(own, other, infos) for other in line[: min(at, SHOWN)])
    return CallExplanation(
        stage=waits.call.stage,
        backend=view.backend.shared,
        state="waiting",
        waited_s=max(now - waits.asked_s, 0.0),
        place=place,
        in_line=len(line),
        ahead=ahead,
        why=_why(now, view, place, len(line), "" if at is None else line[at].reason),
    )


def _why(now: float, view: BackendView, place: int | None, count: int, reason: str) -> str:
    """Return why a call waits, in words."""
    name = repr(view.backend.shared)
    where = f"{_nth(place)} of {count} in line at backend {name}" if place else f"at backend {name}"
    if view.pause.opens_s > now:
        left_s = view.pause.opens_s - now
        return f"{where}, which is paused for {left_s:.1f} s more, because the provider refused calls"
    if reason == "limit":
        return f"{where}: its tenant has as much of the backend as it may (max_slots, tokens_per_minute)"
    if view.holding >= view.slots:
        return f"{where}, all {view.slots} slots are held"
    ready_s = view.ready_s
    if ready_s > now:
        return f"{where}, where calls come back one after the other after a pause"
    return f"{where}, whose rates hold back the next call"


def _nth(place: int) -> str:
    ending = "th" if 10 < place % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


def _ahead(own: Next, other: Next, infos: Infos) -> Ahead:
    info, application = infos.get(other.waits.lane[1], (None, ""))
    return Ahead(
        application=application,
        run_id="" if info is None else info.run_id,
        tenant=other.tenant,
        why=_why_ahead(own, other),
    )


def _why_ahead(own: Next, other: Next) -> str:
    """Return why a call is served before another, in words: the first tier in which they differ."""
    if other.reason == "overdue":
        return "its run has waited for longer than max_wait_s"
    if other.level != own.level:
        return f"its priority is {other.level}, this one's {own.level}"
    if other.waits.lane[1] == own.waits.lane[1]:
        return "it is a call of the same run"
    if other.tenant != own.tenant:
        return "it is the turn of its tenant, which has received less of its share"
    if other.reason == "deadline" and own.reason != "deadline":
        return "its deadline is close"
    if other.order != own.order:
        return f"the policy orders it first ({other.order:.3g} before {own.order:.3g})"
    return "it asked earlier"


def of_ended(record: EndedJob, number: int, info: JobInfo) -> Explanation:
    """Return the explanation of a run that has ended, from its record."""
    calls = []
    stages = []
    seen: dict[str, int] = {}
    for stage in record.stages:
        if stage.kind != "llm":
            continue
        seen[stage.name] = seen.get(stage.name, 0) + 1
        works = [call.seconds or 0.0 for call in stage.calls]
        stages.append(
            StageExplanation(
                name=stage.name,
                occurrence=seen[stage.name],
                state="ended",
                runs=1,
                runs_ended=1,
                calls=len(stage.calls),
                work_s=sum(works),
            )
        )
        for call, work_s in zip(stage.calls, works, strict=True):
            calls.append(
                CallExplanation(
                    stage=stage.name,
                    backend=call.backend,
                    state="ended",
                    waited_s=call.wait_s or 0.0,
                    seconds=work_s,
                    attempts=call.attempts,
                    reason=call.reason,
                )
            )
    return Explanation(
        id=record.id,
        number=number,
        run_id=info.run_id,
        thread_id=info.thread_id,
        application=info.application.name,
        tenant=info.tenant,
        priority=info.priority,
        state="ended",
        outcome=record.end,
        elapsed_s=record.jct_s or 0.0,
        waited_s=sum(call.waited_s for call in calls),
        stages=tuple(stages),
        work_s=sum(stage.work_s for stage in stages),
        calls=tuple(calls),
    )
