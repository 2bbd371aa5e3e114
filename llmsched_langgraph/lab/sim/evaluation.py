"""Compares policies: simulates the same jobs and arrivals under each policy and computes the metrics.

Does not load jobs or print metrics. A cell is one workload, load, number of jobs and seed under all policies;
cells are independent, so that they can be simulated in parallel.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.policies import Policy, as_policy
from llmsched_langgraph._jobs.ended import EndedJob, by_app
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph.lab.sim.references import Clairvoyant, lower_bound_s
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads.arrivals import Arrivals, TimedJob, arrive

ORACLE = Clairvoyant.name
SAVE_INTERVAL_S = 1e7
"""Seconds between the arrivals of training jobs; longer than any job, so that each runs alone."""

_T95: tuple[float, ...] = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_T95 += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)
"""Two-sided 95 % quantiles of Student's t for 1 to 20 degrees of freedom."""

_TAILS = (50, 95, 99)
_AVERAGED = ("mean_jct_s", "p50_jct_s", "p95_jct_s", "p99_jct_s", "decision_us_p50", "decision_us_p99")


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison.

    Attributes:
        workload: its name in the result.
        train: jobs to learn from; none of them is among `test`.
        test: jobs to measure.
        arrivals: the arrival process of `test`.
        load: offered load, in slot-seconds of work per available slot-second.
        slots: slots of the backend.
        seed: seed of the arrivals.
        policies: names, or policy objects with distinct names; the clairvoyant reference is always added.
        tools: most tool stages that run at once; None for no limit.
        overdue: the bound of waiting; none by default, to compare the orders alone.
    """

    workload: str
    train: Sequence[EndedJob]
    test: Sequence[EndedJob]
    arrivals: Arrivals
    load: float
    slots: int
    seed: int
    policies: Sequence[str | Policy]
    tools: int | None = None
    overdue: Overdue = UNBOUNDED


def measure(cell: Cell, stopwatch: Callable[[], float] | None = None) -> list[dict[str, Any]]:
    """Simulate a cell and return one row for each policy, in the form of `llmsched bench --json`.

    Each row has `lower_bound_s`, a lower bound on the mean JCT of every policy for these jobs and arrivals.

    Args:
        cell: the cell to simulate.
        stopwatch: a clock, in seconds, that times the scheduling decisions; None for no timing.

    Raises:
        InvalidDataError: a call has no seconds.
        ConfigurationError: a policy does not exist, or the load is invalid.
    """
    applications = templates_of(cell.train)
    profile = learned_from(cell.train, applications)
    timed = arrive(cell.test, cell.arrivals, load=cell.load, slots=cell.slots, seed=cell.seed)
    bound_s = lower_bound_s(timed, cell.slots)
    policies = [
        Clairvoyant(timed) if given == ORACLE else as_policy(given) for given in (*cell.policies, ORACLE)
    ]
    rows = []
    for name, policy in {policy.name: policy for policy in policies}.items():
        done = Simulation(
            timed,
            slots=cell.slots,
            policy=policy,
            profile=profile,
            applications=applications,
            tools=cell.tools,
            overdue=cell.overdue,
            stopwatch=stopwatch,
        ).run()
        jct_s = np.array([job.jct_s for job in done.jobs])
        p50, p95, p99 = np.percentile(jct_s, [50, 95, 99]).tolist()
        decision_us = np.percentile(np.array(done.decisions_s or (0.0,)) * 1e6, [50, 99]).tolist()
        rows.append(
            {
                "workload": cell.workload,
                "policy": name,
                "load": cell.load,
                "slots": cell.slots,
                "seed": cell.seed,
                "jobs": len(done.jobs),
                "mean_jct_s": float(jct_s.mean()),
                "p50_jct_s": p50,
                "p95_jct_s": p95,
                "p99_jct_s": p99,
                "max_jct_s": float(jct_s.max()),
                "makespan_s": max(job.end_s for job in done.jobs) - timed[0].arrival_s,
                "decision_us_p50": decision_us[0],
                "decision_us_p99": decision_us[1],
                "lower_bound_s": bound_s,
                "slowdown_by_size": slowdowns(done.jobs),
                "worst_slowdown": worst_slowdown(done.jobs),
            }
        )
    return rows


def templates_of(jobs: Sequence[EndedJob]) -> dict[str, Application]:
    """Return the application templates that the jobs show, by name."""
    return {name: template_of(name, own) for name, own in by_app(jobs).items()}


def learned_from(jobs: Sequence[EndedJob], applications: Mapping[str, Application] | None = None) -> Profile:
    """Return the profile that a scheduler learns when each job runs alone.

    Args:
        jobs: jobs to learn from.
        applications: their templates by name; None for the templates that the jobs show.
    """
    applications = templates_of(jobs) if applications is None else applications
    alone = [TimedJob(number * SAVE_INTERVAL_S, job) for number, job in enumerate(jobs)]
    slots = max((len(stage.calls) for job in jobs for stage in job.stages), default=1) * 1_000
    run = Simulation(alone, slots=slots, policy=as_policy("fcfs"), applications=applications, keep=True)
    # The simulated calls take their recorded seconds at every concurrency, so batch calibration must not act.
    ended = [job.with_calls(lambda _, call: replace(call, concurrency=1.0)) for job in run.run().records]
    profile = Profile().observe(*ended)
    for name, own in profile.applications.items():
        profile = profile.learned(name, learn(own.template, own.outcomes), own.jobs)
    return profile


def slowdowns(jobs: Sequence[Any]) -> list[float]:
    """Return mean JCT / mean critical path for each tenth of the jobs, from least to most work."""
    by_size = sorted(jobs, key=lambda done: done.job.work_s or 0.0)
    found = []
    for part in np.array_split(np.arange(len(by_size)), min(10, len(by_size))):
        paths_s = sum(by_size[n].job.critical_path_s or 0.0 for n in part)
        found.append(sum(by_size[n].jct_s for n in part) / paths_s if paths_s else 1.0)
    return found


def worst_slowdown(jobs: Sequence[Any]) -> float:
    """Return the largest JCT / critical path of all jobs."""
    paths_s = ((done.jct_s, done.job.critical_path_s) for done in jobs)
    return max((jct_s / path_s for jct_s, path_s in paths_s if path_s), default=1.0)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry for each workload, load, slots, number of jobs and policy, over all seeds.

    Comparisons are paired by seed: `vs` is the mean over seeds of 1 - JCT / JCT of the other policy, with
    the same jobs and arrivals. `ci95_s` and `vs_ci95` are half the width of the 95 % interval of the mean
    over seeds; None with one seed.
    """
    groups: dict[tuple[Any, ...], dict[str, dict[int, Mapping[str, Any]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in rows:
        key = (row["workload"], row["load"], row["slots"], row["jobs"])
        groups[key][row["policy"]][row["seed"]] = row
    found = []
    for (workload, load, slots, jobs), policies in groups.items():
        for policy, own in policies.items():
            saved = {
                name: [1 - row["mean_jct_s"] / other[seed]["mean_jct_s"] for seed, row in own.items()]
                for name, other in policies.items()
            }
            tenths = zip(*(row["slowdown_by_size"] for row in own.values()), strict=True)
            found.append(
                {
                    "workload": workload,
                    "load": load,
                    "slots": slots,
                    "jobs": jobs,
                    "policy": policy,
                    "seeds": len(own),
                    **{name: statistics.fmean(row[name] for row in own.values()) for name in _AVERAGED},
                    "ci95_s": half_width([row["mean_jct_s"] for row in own.values()]),
                    **{
                        f"p{n}_ci95_s": half_width([row[f"p{n}_jct_s"] for row in own.values()])
                        for n in _TAILS
                    },
                    "vs_clairvoyant": 1 - statistics.fmean(saved[ORACLE]) if ORACLE in saved else None,
                    "vs_lower_bound": statistics.fmean(
                        row["mean_jct_s"] / row["lower_bound_s"] for row in own.values()
                    ),
                    "vs": {name: statistics.fmean(by) for name, by in saved.items() if name != policy},
                    "vs_ci95": {name: half_width(by) for name, by in saved.items() if name != policy},
                    "slowdown_by_size": [statistics.fmean(tenth) for tenth in tenths],
                    "worst_slowdown": max(row["worst_slowdown"] for row in own.values()),
                }
            )
    return found


def half_width(values: Sequence[float]) -> float | None:
    """Return half the width of the mean's 95 % t-interval; None for fewer than two values."""
    if len(values) < 2:
        return None
    degrees = len(values) - 1
    return _t95(degrees) * statistics.stdev(values) / math.sqrt(len(values))


def _t95(degrees: int) -> float:
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z = 1.959964  # asymptotic expansion, exact to 0.001 (Abramowitz and Stegun, 26.7.5)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
