"""Prints how many deadlines are met by load: by the scheduler's deadline tier, without it, and by EDF.

    python benchmarks/deadlines.py [--seeds N] [--share S] [--policy P]

Simulates the same jobs, arrivals and deadlines under each order, in virtual time. The deadline of a job is
uniform between 3 and 12 times what it would take alone. Only the rows with a tier tell the scheduler of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from statistics import mean

import numpy as np
from measuring import print_table

from llmsched_langgraph import Policy
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph.lab.sim.evaluation import learned_from, templates_of
from llmsched_langgraph.lab.sim.simulated import FinishedJob
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import Poisson, TimedJob, arrive, generate
from llmsched_langgraph.policies import JobView

LEARNED = 1_000_000
SLACK = (3.0, 12.0)
"""Least and largest deadline, as times the critical path of the job."""

_DEADLINES = 5
"""Random stream of the deadlines."""


class EarliestDeadlineFirst:
    """Orders jobs by deadline; those without one come last, by arrival. A reference, which knows no work.

    Args:
        jobs: the jobs of the simulation, which numbers them by arrival.
    """

    name = "edf"

    def __init__(self, jobs: Sequence[TimedJob]) -> None:
        ordered = sorted(jobs, key=lambda timed: timed.arrival_s)
        self._due_s = {
            number: 1e12 + timed.arrival_s if timed.deadline_s is None else timed.arrival_s + timed.deadline_s
            for number, timed in enumerate(ordered, 1)
        }

    def order(self, job: JobView, now: float) -> float:
        """See `Policy.order`."""
        return self._due_s[job.number]


def due(jobs: Sequence[TimedJob], share: float, seed: int) -> list[TimedJob]:
    """Return the jobs, this share of them with deadlines."""
    rng = np.random.default_rng((seed, _DEADLINES))
    found = []
    for timed in jobs:
        slack, drawn = rng.uniform(*SLACK), rng.random()
        deadline_s = slack * (timed.job.critical_path_s or 0.0) if drawn < share else None
        found.append(replace(timed, deadline_s=deadline_s))
    return found


def met(jobs: Sequence[TimedJob], done: Sequence[FinishedJob]) -> tuple[float, float]:
    """Return the share of the deadlines that were met, and the mean JCT of all jobs in seconds."""
    ordered = sorted(jobs, key=lambda timed: timed.arrival_s)
    kept = [
        one.jct_s <= timed.deadline_s
        for timed, one in zip(ordered, done, strict=True)
        if timed.deadline_s is not None
    ]
    return mean(kept), mean(one.jct_s for one in done)


def cell(arguments: tuple[str, int, int, float, float, int, str]) -> dict[str, tuple[float, float]]:
    """Return what `met` does for each order, at one load and seed."""
    workload, count, slots, load, share, seed, name = arguments
    train = generate(workload, count, LEARNED + seed)
    templates = templates_of(train)
    profile = learned_from(train, templates)
    timed = arrive(generate(workload, count, seed), Poisson(), load=load, slots=slots, seed=seed)
    jobs = due(timed, share, seed)

    def run(given: Sequence[TimedJob], policy: Policy) -> tuple[float, float]:
        simulation = Simulation(
            given, slots=slots, policy=policy, profile=profile, applications=dict(templates)
        )
        return met(jobs, simulation.run().jobs)

    return {
        "fcfs": run(timed, as_policy("fcfs")),
        "app_fifo": run(timed, as_policy("app_fifo")),
        "edf": run(timed, EarliestDeadlineFirst(jobs)),
        name: run(timed, as_policy(name)),
        f"{name} + deadlines": run(jobs, as_policy(name)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="+", default=["mixed", "chain"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.8, 1.0, 1.2, 1.5])
    parser.add_argument("--share", type=float, nargs="+", default=[1.0, 0.2], help="of jobs with deadlines")
    parser.add_argument("--policy", default="srtf", help="the order under the tier (default: srtf)")
    options = parser.parse_args()
    cells = [
        (workload, options.jobs, options.slots, load, share, seed, options.policy)
        for workload in options.workload
        for share in options.share
        for load in options.loads
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(2) as pool:
        found = dict(zip(cells, pool.map(cell, cells), strict=True))
    rows, names = [], list(next(iter(found.values())))
    for workload in options.workload:
        for share in options.share:
            for load in options.loads:
                own = [
                    found[workload, options.jobs, options.slots, load, share, seed, options.policy]
                    for seed in range(options.seeds)
                ]
                kept = {name: mean(one[name][0] for one in own) for name in names}
                jct_s = {name: mean(one[name][1] for one in own) for name in names}
                best = " = ".join(name for name in names if kept[name] == max(kept.values()))
                cells_ = [f"{kept[name]:.3f} ({jct_s[name] / jct_s['fcfs']:.2f})" for name in names]
                rows.append([f"{workload}, {share:.0%} with deadlines, load {load:g}", *cells_, best])
    print(f"Share of deadlines met (mean JCT of all jobs, as times fcfs), mean of {options.seeds} seeds:\n")
    print_table(["", *names, "most met"], rows)


if __name__ == "__main__":
    main()
