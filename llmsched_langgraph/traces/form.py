"""Converts an ended job to and from the trace format, a JSON object.

Opens no files; `loaders` reads other formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import (
    ENDS,
    KINDS,
    Derived,
    EndedCall,
    EndedJob,
    EndedStage,
    EndedStageRun,
)
from llmsched_langgraph.errors import InvalidDataError

_Word = TypeVar("_Word", bound=str)

_LETTERS = {"p": Derived.PROMPT, "o": Derived.OUTPUT, "s": Derived.SECONDS}

_UNTIMED = EndedCall(None, None, None)


def node_from_job(job: EndedJob) -> dict[str, Any]:
    """Return the JSON object of a job. `job_from_node` inverts it.

    The documented form is `{"id", "app", "jct", "arrival"?, "stages": [...]}`. Known values add: "paused"
    (s), "end", "tenant", "priority", "key", "predicted" ([mean, lower, upper]), and "runs", the watched stage
    runs: `[name, occurrence, seconds, complete, tool]`. A stage may have "r", its index in "runs", or "o",
    its occurrence; and, per call, "derived", "c" (concurrency) and "t", with times in seconds from the
    arrival: `[asked_s, granted_s, ended_s, backend, attempts, reason]`.
    """
    made: dict[str, Any] = {"id": job.id, "app": job.app, "jct": job.jct_s}
    if job.arrival_s is not None:
        made["arrival"] = job.arrival_s
    made["stages"] = [_stage_object(stage) for stage in job.stages]
    if job.runs:
        made["runs"] = [[*run[:3], int(run.complete), run.tool] for run in job.runs]
    if job.paused_s:
        made["paused"] = job.paused_s
    if job.end != "done":
        made["end"] = job.end
    for name in ("tenant", "priority", "key", "predicted"):
        if (value := getattr(job, name)) is not None:
            made[name] = list(value) if name == "predicted" else value
    return made


def _stage_object(stage: EndedStage) -> dict[str, Any]:
    calls = stage.calls
    made: dict[str, Any] = {
        "n": stage.name,
        "k": stage.kind,
        "dep": list(stage.deps),
        "calls": [[call.prompt_tokens, call.output_tokens, call.seconds] for call in calls],
    }
    if stage.tool is not None:
        made["tool"] = stage.tool
    if stage.run is not None:
        made["r"] = stage.run
    if stage.occurrence is not None:
        made["o"] = stage.occurrence
    if any(call.derived for call in calls):
        made["derived"] = [
            "".join(letter for letter, flag in _LETTERS.items() if flag in call.derived) for call in calls
        ]
    if any(call.concurrency != 1.0 for call in calls):
        made["c"] = [call.concurrency for call in calls]
    turns = [_turn(call) for call in calls]
    if any(turn != _turn(_UNTIMED) for turn in turns):
        made["t"] = turns
    return made


def _turn(call: EndedCall) -> list[Any]:
    return [call.asked_s, call.granted_s, call.ended_s, call.backend, call.attempts, call.reason]


def job_from_node(node: Field) -> EndedJob:
    """Return the job of a JSON object. Unknown fields are ignored.

    Raises:
        InvalidDataError: a field is missing or invalid; the message names it.
    """
    runs, end, predicted = node.get("runs"), node.get("end"), node.get("predicted")
    return EndedJob(
        id=node["id"].text(),
        app=node["app"].text(),
        jct_s=node.at("jct").maybe_number(),
        stages=tuple(_stage(stage) for stage in node["stages"].items()),
        runs=() if runs is None else tuple(_run(run) for run in runs.items()),
        arrival_s=node.at("arrival").maybe_number(),
        paused_s=node.at("paused").maybe_number() or 0.0,
        end="done" if end is None else _one_of(ENDS, end),
        tenant=node.at("tenant").maybe_text(),
        priority=_priority(node.at("priority")),
        key=node.at("key").maybe_text(),
        predicted=None if predicted is None else _predicted(predicted),
    )


def _one_of(words: Iterable[_Word], node: Field) -> _Word:
    for word in words:
        if node.value == word:
            return word
    raise node.fault(" or ".join(map(repr, words)))


def _priority(node: Field) -> int | None:
    if node.value is not None and type(node.value) is not int:
        raise node.fault("an integer")
    return node.value


def _predicted(node: Field) -> tuple[float, float, float]:
    mean, low, high = (amount.number() for amount in node.items(3))
    return mean, low, high


def _run(node: Field) -> EndedStageRun:
    name, occurrence, seconds, complete, tool = node.items(5)
    whole = bool(complete.count(1))
    return EndedStageRun(name.string(), occurrence.count(least=1), seconds.number(), whole, tool.maybe_text())


def _stage(node: Field) -> EndedStage:
    occurrence = node.at("o").maybe_count(least=1)
    return EndedStage(
        name=node["n"].text() if occurrence is None else node["n"].string(),
        kind=_one_of(KINDS, node["k"]),
        deps=tuple(dep.count() for dep in node["dep"].items()),
        calls=tuple(_calls(node)),
        tool=node.at("tool").maybe_text(),
        run=node.at("r").maybe_count(),
        occurrence=occurrence,
    )


def _calls(node: Field) -> Iterator[EndedCall]:
    calls = list(node["calls"].items())
    derived, concurrency, turns = (
        [None] * len(calls) if found is None else list(found.items(len(calls)))
        for found in (node.get("derived"), node.get("c"), node.get("t"))
    )
    for call, marks, served, turn in zip(calls, derived, concurrency, turns, strict=True):
        prompt, output, seconds = call.items(3)
        numbers = prompt.maybe_count(), output.maybe_count(), seconds.maybe_number()
        more: dict[str, Any] = {} if turn is None else _timed(turn)
        if marks is not None:
            more["derived"] = _flags(marks)
        if served is not None:
            more["concurrency"] = served.number()
        try:
            yield EndedCall(*numbers, **more)
        except InvalidDataError as error:
            raise InvalidDataError(f"{call.field}: {error}") from None


def _timed(node: Field) -> dict[str, Any]:
    asked_s, granted_s, ended_s, backend, attempts, reason = node.items(6)
    return {
        "asked_s": asked_s.maybe_number(),
        "granted_s": granted_s.maybe_number(),
        "ended_s": ended_s.maybe_number(),
        "backend": backend.string(),
        "attempts": attempts.count(),
        "reason": reason.string(),
    }


def _flags(node: Field) -> Derived:
    letters = node.value
    if not isinstance(letters, str) or any(letter not in _LETTERS for letter in letters):
        raise node.fault("a string of letters from 'pos'")
    flags = Derived.NOTHING
    for letter in letters:
        flags |= _LETTERS[letter]
    return flags
