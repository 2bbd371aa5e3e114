"""Recordings of a day: jobs whose calls waited for the slots of two backends, first come, first served."""

from __future__ import annotations

import heapq
import random

from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

NASTY = (
    "</script><script>alert(1)</script>",
    "<!--<script>\"&amp;'",
    "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{GRINNING FACE}",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe\N{LEFT-TO-RIGHT ISOLATE}",
    "a\nb\tc\0d\N{LINE SEPARATOR}",
    "{{data}} ${x} \\u003c ]]>",
    "\ud800",
    "w" * 300,
)
"""Names that a page must show as text, whatever they contain."""

APPS = {"research": (1, 6, 1), "support": (1, 1), "report": (2, 4, 2, 1)}
"""Parallel calls of each stage, by application."""

BACKENDS = {"small": 4, "large": 6}


def recording(count, *, seed=0, apps=APPS, predicted=True, load=0.9):
    """Return `count` jobs, as a scheduler records them: times to the microsecond.

    Args:
        count: number of jobs.
        seed: of all random choices.
        apps: parallel calls of each stage, by application.
        predicted: whether work was predicted.
        load: offered work over the capacity.
    """
    chance = random.Random(seed)
    names = list(apps)
    free = {backend: [0.0] * slots for backend, slots in BACKENDS.items()}
    jobs, at_s = [], 0.0
    todo = []  # (time, job, stage): what is ready next, in time
    for number in range(count):
        at_s += chance.expovariate(load * sum(BACKENDS.values()) / 16.0)
        app = names[number % len(names)]
        jobs.append({"app": app, "arrival_s": at_s, "stages": [], "size": chance.lognormvariate(0.0, 0.7)})
        todo.append((at_s, number, 0))
    heapq.heapify(todo)
    while todo:
        now_s, number, stage = heapq.heappop(todo)
        job = jobs[number]
        backend = "large" if stage % 2 else "small"
        calls = []
        for _ in range(apps[job["app"]][stage]):
            granted_s = max(heapq.heappop(free[backend]), now_s)
            seconds = round(job["size"] * chance.uniform(0.5, 4.0), 6)
            heapq.heappush(free[backend], granted_s + seconds)
            calls.append((now_s, granted_s, granted_s + seconds, backend))
        job["stages"].append(calls)
        job["end_s"] = max(call[2] for call in calls)
        if stage + 1 < len(apps[job["app"]]):
            heapq.heappush(todo, (job["end_s"], number, stage + 1))
    return [_ended(number, job, chance, predicted) for number, job in enumerate(jobs)]


def _ended(number, job, chance, predicted):
    arrival_s = job["arrival_s"]
    stages = tuple(
        EndedStage(
            name=f"{job['app']} {place}",
            kind="llm",
            deps=(place - 1,) if place else (),
            calls=tuple(_call(*call, arrival_s, chance) for call in calls),
            occurrence=1,
        )
        for place, calls in enumerate(job["stages"])
    )
    work_s = sum(call.seconds for stage in stages for call in stage.calls)
    guess_s = work_s * chance.lognormvariate(0.0, 0.4)
    return EndedJob(
        id=f"7d1fa0-41-{number}",
        app=job["app"],
        stages=stages,
        jct_s=round(job["end_s"] - arrival_s, 6),
        arrival_s=round(1.8e9 + arrival_s, 6),
        end=("done", "failed", "cancelled")[0 if number % 17 else 1 + number % 2],
        tenant=("gold", "trial", None)[number % 5 % 3],
        priority=(None, None, None, 2)[number % 4],
        predicted=(round(guess_s, 6), round(guess_s * 0.6, 6), round(guess_s * 1.7, 6))
        if predicted
        else None,
    )


def _call(asked_s, granted_s, ended_s, backend, arrival_s, chance):
    asked_s, granted_s, ended_s = (round(at_s - arrival_s, 6) for at_s in (asked_s, granted_s, ended_s))
    return EndedCall(
        chance.randrange(100, 4000),
        chance.randrange(20, 900),
        round(ended_s - granted_s, 6),
        backend=backend,
        asked_s=asked_s,
        granted_s=granted_s,
        ended_s=ended_s,
        reason=chance.choice(("order", "order", "explore")) if granted_s > asked_s else "free",
    )
