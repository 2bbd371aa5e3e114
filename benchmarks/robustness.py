"""Knows what a wrong profile costs: mean JCT under profiles that were learned from the wrong jobs.

Does not know how policies decide. Every row is one seed's jobs and arrivals under `fcfs`, under a profile of
other runs of the same applications, and under ones that are wrong in some way.

python benchmarks/robustness.py [--workload mixed] [--seeds 3] [--jobs 400] [--load 0.9] [--policies llmsched]
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from measuring import print_table

from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph.lab.sim.evaluation import learned_from, templates_of
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import MIXES, Poisson, arrive, generate
from llmsched_langgraph.traces import EndedJob

LEARNED = 1_000_000


def other_model(jobs: Sequence[EndedJob], seed: int) -> list[EndedJob]:
    """Another model: each stage's answers are a quarter to four times as long, always by the same factor."""
    deal = random.Random(seed)
    factors: dict[tuple[str, str], float] = {}

    def stretched(job: EndedJob) -> EndedJob:
        stages = []
        for stage in job.stages:
            factor = factors.setdefault((job.app, stage.name), 4 ** deal.uniform(-1.0, 1.0))
            calls = stage.calls
            if stage.kind == "llm":
                calls = tuple(
                    replace(
                        call,
                        seconds=None if call.seconds is None else call.seconds * factor,
                        output_tokens=call.output_tokens and max(1, round(call.output_tokens * factor)),
                    )
                    for call in calls
                )
            stages.append(replace(stage, calls=calls))
        return replace(job, stages=tuple(stages))

    return [stretched(job) for job in jobs]


def twenty(jobs: Sequence[EndedJob], seed: int) -> list[EndedJob]:
    """Twenty runs, of all applications together."""
    return random.Random(seed).sample(list(jobs), 20)


def mislabelled(jobs: Sequence[EndedJob], seed: int) -> list[EndedJob]:
    """Half of the runs are said to be of another application."""
    deal = random.Random(seed)
    names = sorted({job.app for job in jobs})
    return [
        replace(job, app=deal.choice([name for name in names if name != job.app]))
        if len(names) > 1 and deal.random() < 0.5
        else job
        for job in jobs
    ]


PROFILES = {
    "other runs": lambda jobs, seed: list(jobs),
    "another model": other_model,
    "20 runs": twenty,
    "half mislabelled": mislabelled,
}


def cell(arguments: tuple[str, int, int, float, int, tuple[str, ...]]) -> dict[tuple[str, str], float]:
    """Mean JCT by policy and profile, over that of `fcfs`."""
    workload, jobs, slots, load, seed, policies = arguments
    timed = arrive(generate(workload, jobs, seed), Poisson(), load=load, slots=slots, seed=seed)
    train = generate(workload, jobs, LEARNED + seed)
    templates = templates_of(train)

    def mean_s(policy: str, learn: Sequence[EndedJob]) -> float:
        done = Simulation(
            timed,
            slots=slots,
            policy=as_policy(policy),
            profile=learned_from(learn, templates),
            applications=templates,
        ).run()
        return statistics.fmean(job.jct_s for job in done.jobs)

    base = mean_s("fcfs", train[:1])
    return {
        (policy, name): mean_s(policy, spoil(train, seed)) / base
        for policy in policies
        for name, spoil in PROFILES.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", nargs="+", default=list(MIXES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--load", type=float, default=0.9)
    parser.add_argument("--policies", nargs="+", default=["llmsched", "gittins"])
    options = parser.parse_args()
    cells = [
        (workload, options.jobs, options.slots, options.load, seed, tuple(options.policies))
        for workload in options.workload
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor() as pool:
        found = dict(zip(cells, pool.map(cell, cells), strict=True))
    print(
        f"Mean JCT over that of fcfs, load {options.load:g}: the mean of {options.seeds} seeds (the worst)\n"
    )
    rows = []
    for workload in options.workload:
        own = [result for arguments, result in found.items() if arguments[0] == workload]
        for policy in options.policies:
            figures = [[result[policy, name] for result in own] for name in PROFILES]
            rows.append([workload, policy, *(f"{statistics.fmean(f):.2f} ({max(f):.2f})" for f in figures)])
    print_table(["workload", "policy", *PROFILES], rows)


if __name__ == "__main__":
    main()
