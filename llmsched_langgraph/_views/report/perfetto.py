"""Converts a recording to trace events, which https://ui.perfetto.dev shows.

Does not write files. The format is Chrome's: async events `b` and `e` nest by their id, in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llmsched_langgraph._views.report.figures import span
from llmsched_langgraph._views.report.waits import Timed, changes, timed_calls, wait_s
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import EndedJob

CATEGORY = "llmsched"

_BACKENDS = 1
"""Number of the process with the counters of the backends; the applications follow."""


class _Slice(NamedTuple):
    """A named interval that contains others.

    Attributes:
        name: what is shown in it.
        since: its begin, in microseconds.
        until: its end, in microseconds.
        args: what is shown beside it.
        inner: the slices in it, by time; no two overlap.
    """

    name: str
    since: int
    until: int
    args: Mapping[str, Any]
    inner: tuple[_Slice, ...] = ()


def trace_events(jobs: Sequence[EndedJob]) -> dict[str, Any]:
    """Return the JSON object of a trace.

    Each application is a process, each job a group of tracks in it: the job contains its stages, a stage its
    calls, a call its wait and its run. Parallel calls get tracks of their own. Counters show the held slots
    and waiting calls of each backend. Time 0 is the first arrival.

    Raises:
        InvalidDataError: no job has an arrival and an end.
    """
    timed = [
        job for job in jobs if job.arrival_s is not None and (job.jct_s is not None or any(timed_calls(job)))
    ]
    origin_s, _ = span(timed)
    if origin_s is None:
        raise InvalidDataError("the recording has no times of jobs: there is no timeline to export")
    apps = {app: number for number, app in enumerate(dict.fromkeys(job.app for job in timed), _BACKENDS + 1)}
    events = [_process(_BACKENDS, "slots")]
    events += [_process(number, app) for app, number in apps.items()]
    numbered = 0
    spans: list[dict[str, Any]] = []
    for job in timed:
        for lane in _lanes(job, origin_s):
            numbered += 1
            spans += _async(lane, apps[job.app], f"0x{numbered:x}")
    spans += _counters(timed, origin_s)
    # The sort is stable: at one time, the events of a track keep their order.
    events += sorted(spans, key=lambda event: int(event["ts"]))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _lanes(job: EndedJob, origin_s: float) -> Iterator[_Slice]:
    """Yield the tracks of a job. Each is the job's slice, with the stages whose calls do not overlap."""
    assert job.arrival_s is not None
    begin_s = job.arrival_s - origin_s
    chains = _chains([_stage_call(timed, begin_s) for timed in timed_calls(job)])
    lanes: list[list[_Slice]] = []
    for chain in chains:
        lane = next((lane for lane in lanes if lane[-1].until <= chain.since), None)
        if lane is None:
            lanes.append(lane := [])
        lane.append(chain)
    since = _micro(begin_s)
    until = max([_micro(job.ended_at - origin_s), *(lane[-1].until for lane in lanes)])
    for lane in lanes or [[]]:
        yield _Slice(f"{job.app} {job.id}", since, until, _about(job), tuple(lane))


def _stage_call(timed: Timed, begin_s: float) -> tuple[int, str, _Slice]:
    call = timed.call
    asked, granted, ended = (
        _micro(begin_s + at_s) for at_s in (timed.asked_s, timed.granted_s, timed.ended_s)
    )
    parts = (
        _Slice("wait", asked, granted, {"reason": call.reason, "wait_s": wait_s(call)}),
        _Slice("run", granted, ended, {"attempts": call.attempts, "slot_s": call.seconds}),
    )
    args = {
        "backend": call.backend,
        "prompt_tokens": call.prompt_tokens,
        "output_tokens": call.output_tokens,
    }
    inner = parts if granted > asked else parts[1:]
    return timed.number, timed.stage.name, _Slice(f"call {call.backend}".rstrip(), asked, ended, args, inner)


def _chains(calls: Iterable[tuple[int, str, _Slice]]) -> list[_Slice]:
    """Return slices of stages, by their begin. The calls in a slice do not overlap."""
    chains: dict[int, list[list[_Slice]]] = {}
    names: dict[int, str] = {}
    for index, stage, call in sorted(calls, key=lambda one: (one[2].since, one[2].until)):
        names[index] = stage
        own = chains.setdefault(index, [])
        chain = next((chain for chain in own if chain[-1].until <= call.since), None)
        if chain is None:
            own.append(chain := [])
        chain.append(call)
    made = [
        _Slice(names[index] or "call", chain[0].since, chain[-1].until, {}, tuple(chain))
        for index, own in chains.items()
        for chain in own
    ]
    return sorted(made, key=lambda one: (one.since, one.until))


def _about(job: EndedJob) -> dict[str, Any]:
    found = {
        "id": job.id,
        "end": job.end,
        "jct_s": job.jct_s,
        "tenant": job.tenant,
        "priority": job.priority,
        "work_s": job.work_s,
        "predicted_s": None if job.predicted is None else list(job.predicted),
    }
    return {word: value for word, value in found.items() if value is not None}


def _async(slice_: _Slice, process: int, id_: str) -> Iterator[dict[str, Any]]:
    shared = {"name": slice_.name, "cat": CATEGORY, "id": id_, "pid": process, "tid": process}
    yield {**shared, "ph": "b", "ts": slice_.since, "args": dict(slice_.args)}
    for inner in slice_.inner:
        yield from _async(inner, process, id_)
    yield {**shared, "ph": "e", "ts": slice_.until}


def _counters(jobs: Iterable[EndedJob], origin_s: float) -> Iterator[dict[str, Any]]:
    for backend, moved in changes(jobs).items():
        for change in moved:
            yield {
                "name": f"slots {backend}".rstrip(),
                "ph": "C",
                "pid": _BACKENDS,
                "tid": _BACKENDS,
                "ts": _micro(change.at_s - origin_s),
                "args": {"held": change.held, "waiting": change.waiting},
            }


def _process(number: int, name: str) -> dict[str, Any]:
    return {"name": "process_name", "ph": "M", "pid": number, "tid": number, "ts": 0, "args": {"name": name}}


def _micro(seconds: float) -> int:
    return max(round(seconds * 1e6), 0)
