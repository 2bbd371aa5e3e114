"""Selects the warm-up jobs and the measured jobs of a replay, and adapts their lengths and times.

Does not run jobs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmsched_langgraph._jobs.ended import EndedCall, EndedJob, EndedStage
from llmsched_langgraph.errors import ConfigurationError, InvalidDataError
from llmsched_langgraph.lab.sim.cells import halves
from llmsched_langgraph.lab.sim.latency import LatencyModel
from llmsched_langgraph.lab.sim.workloads import APPLICATIONS, generate, resample
from llmsched_langgraph.traces import Paths, Skipped, done_jobs, fill_seconds

_WARMUP_SEED = 1_000_000
"""Offset of the seeds of warm-up jobs; the seeds of measured jobs are smaller."""

_SHUFFLE = 4
"""Random stream that draws the application of each job."""

_RESERVED = {"", "__start__", "__end__"}


@dataclass(frozen=True, slots=True)
class Workload:
    """Jobs to replay; none of `warmup` is among `measured`."""

    warmup: tuple[EndedJob, ...]
    measured: tuple[EndedJob, ...]

    @property
    def jobs(self) -> tuple[EndedJob, ...]:
        """The warm-up jobs, then the measured jobs."""
        return self.warmup + self.measured

    def changed(self, change: Callable[[EndedJob], EndedJob]) -> Workload:
        """Return a copy of the workload with `change` applied to every job."""
        return Workload(tuple(map(change, self.warmup)), tuple(map(change, self.measured)))


def workload(
    *,
    runs: int,
    warmup: int,
    seed: int,
    mix: str = "mixed",
    apps: Sequence[str] | None = None,
    traces: Paths | None = None,
    skipped: Callable[[Skipped], object] | None = None,
) -> Workload:
    """Return the jobs to replay, made replayable.

    Args:
        runs: number of measured jobs, 1 or more.
        warmup: number of warm-up jobs, 0 or more.
        seed: seed of every random choice.
        mix: a mix or an application to generate jobs of; not used with `apps` or `traces`.
        apps: the applications to generate, or, with `traces`, to select; None for `mix` or for all.
        traces: files of recorded jobs; the warm-up draws from one half of them, the measured jobs from the
            other. None to generate jobs.
        skipped: receives what could not be read of a file of `traces`; None for a warning.

    Raises:
        ConfigurationError: the mix or application does not exist, or there are too few recorded jobs.
        InvalidDataError: a recorded call has no output tokens.
    """
    if traces is not None:
        found = _recorded(done_jobs(traces, skipped=skipped), apps, runs, warmup, seed)
    elif apps is not None:
        found = Workload(
            tuple(_of_apps(apps, warmup, _WARMUP_SEED + seed)), tuple(_of_apps(apps, runs, seed))
        )
    else:
        found = Workload(tuple(generate(mix, warmup, _WARMUP_SEED + seed)), tuple(generate(mix, runs, seed)))
    return found.changed(replayable)


def _of_apps(apps: Sequence[str], jobs: int, seed: int) -> list[EndedJob]:
    unknown = [app for app in apps if app not in APPLICATIONS]
    if unknown or not apps:
        known = ", ".join(APPLICATIONS)
        raise ConfigurationError(
            f"--apps: no application is called {unknown[0]!r}; choose from {known}"
            if unknown
            else f"--apps: name one of {known}"
        )
    chosen = np.random.default_rng((seed, _SHUFFLE)).integers(len(apps), size=jobs).tolist()
    made = {at: iter(generate(app, chosen.count(at), seed)) for at, app in enumerate(apps)}
    return [next(made[at]) for at in chosen]


def _recorded(
    jobs: Iterable[EndedJob], apps: Sequence[str] | None, runs: int, warmup: int, seed: int
) -> Workload:
    read = [job for job in jobs if apps is None or job.app in apps]
    if not read:
        which = "" if apps is None else f" of {', '.join(apps)}"
        raise ConfigurationError(f"--traces: no job{which} is recorded there")
    if not warmup:
        return Workload((), tuple(resample(read, runs, seed)))
    learn, rest = halves(read, seed)
    return Workload(tuple(resample(learn, warmup, _WARMUP_SEED + seed)), tuple(resample(rest, runs, seed)))


def replayable(job: EndedJob) -> EndedJob:
    """Return the job with valid node names and with estimates for missing seconds of tools.

    Raises:
        InvalidDataError: the output tokens of a call were not recorded.
    """
    for stage in job.stages:
        if stage.kind == "llm" and any(call.output_tokens is None for call in stage.calls):
            raise InvalidDataError(
                f"job {job.id!r}: the output tokens of a call of {stage.name!r} were not recorded, so it "
                "cannot be replayed; leave the job out"
            )
    job = fill_seconds(job)
    return replace(job, stages=tuple(replace(stage, name=node_name(stage.name)) for stage in job.stages))


def node_name(stage: str) -> str:
    """Return the node name of a stage; different stages have different node names."""
    name = re.sub(r"[:|/%]", lambda found: f"%{ord(found[0]):02x}", stage)
    return f"%{name}" if name in _RESERVED else name


def shortened(job: EndedJob, times: float) -> EndedJob:
    """Return the job with the tokens of its calls divided by `times`, for an unscaled endpoint."""

    def shorter(tokens: int | None) -> int | None:
        return None if tokens is None else max(1, round(tokens / times))

    def change(call: EndedCall) -> EndedCall:
        return replace(
            call, prompt_tokens=shorter(call.prompt_tokens), output_tokens=shorter(call.output_tokens)
        )

    return _with_calls(job, "llm", change)


def prompted(job: EndedJob, nearest: Callable[[int], int]) -> EndedJob:
    """Return the job with prompt lengths that are possible on the endpoint (`Lengths.nearest`)."""

    def change(call: EndedCall) -> EndedCall:
        return replace(call, prompt_tokens=nearest(max(call.prompt_tokens or 0, 1)))

    return _with_calls(job, "llm", change)


def timed(job: EndedJob, latency: LatencyModel, slots: int, time_scale: float) -> EndedJob:
    """Return the job with the seconds of its calls on this server when all slots are busy.

    Args:
        job: the recorded or shortened job.
        latency: latency model of the server, in seconds of wall time.
        slots: calls that the server runs at once.
        time_scale: divisor of the recorded seconds of tools.
    """

    def call_s(call: EndedCall) -> EndedCall:
        prompt, output = max(call.prompt_tokens or 0, 1), max(call.output_tokens or 0, 1)
        return replace(call, seconds=latency.call_s(prompt, output, slots))

    def tool_s(call: EndedCall) -> EndedCall:
        return replace(call, seconds=(call.seconds or 0.0) / time_scale)

    return _with_calls(_with_calls(job, "llm", call_s), "tool", tool_s)


def _with_calls(job: EndedJob, kind: str, change: Callable[[EndedCall], EndedCall]) -> EndedJob:
    def changed(stage: EndedStage) -> EndedStage:
        return replace(stage, calls=tuple(map(change, stage.calls))) if stage.kind == kind else stage

    return replace(job, stages=tuple(map(changed, job.stages)))


def speed_up(
    jobs: Sequence[EndedJob], latency: LatencyModel, slots: int, load: float, call_s: float
) -> float:
    """Return the time scale at which the jobs make a call every `call_s` seconds on average.

    The scale is work_s / (slots * load) / (calls * call_s), but at least 1.

    Args:
        jobs: the jobs to run.
        latency: latency model of the server, in unscaled seconds.
        slots: calls that the server runs at once.
        load: offered load.
        call_s: mean seconds of wall time between calls, much more than the client's own work for a call.
    """
    calls = sum(1 for job in jobs for _ in job.llm_calls())
    work_s = sum(timed(job, latency, slots, 1.0).work_s or 0.0 for job in jobs)
    return max(work_s / (slots * load) / (max(calls, 1) * call_s), 1.0)
