"""Knows how many jobs a second are simulated under which policy, and how that grows with their number.

python benchmarks/simulating.py [--workload mixed] [--jobs 1000 10000] [--policies fcfs llmsched]

Models are learned before; what is asked of them is part of what is measured. Ratios of CPU time in one run.
"""

from __future__ import annotations

import argparse
import time

from measuring import print_table

from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph.lab.sim.evaluation import learned_from, templates_of
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import Poisson, arrive, generate

LEARNED = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="mixed")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--policies", nargs="+", default=["fcfs", "srtf", "llmsched", "gittins"])
    parser.add_argument("--load", type=float, default=0.9)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train = generate(options.workload, 1_000, LEARNED + options.seed)
    templates = templates_of(train)
    profile = learned_from(train, templates)
    taken: dict[tuple[str, int], float] = {}
    for jobs in options.jobs:
        test = generate(options.workload, jobs, options.seed)
        timed = arrive(test, Poisson(), load=options.load, slots=options.slots, seed=options.seed)
        for policy in options.policies:
            for own in profile.applications.values():
                if own.model is not None:
                    own.model.forget()
            run = Simulation(
                timed,
                slots=options.slots,
                policy=as_policy(policy),
                profile=profile,
                applications=templates,
            )
            began_s = time.process_time()
            run.run()
            taken[policy, jobs] = time.process_time() - began_s
    first = options.jobs[0]
    rows = [
        [
            policy,
            *(f"{jobs / taken[policy, jobs]:.3g}" for jobs in options.jobs),
            *(f"{taken[policy, jobs] / taken[options.policies[0], jobs]:.1f}" for jobs in options.jobs),
            *(f"{taken[policy, jobs] / taken[policy, first]:.1f}" for jobs in options.jobs[1:]),
        ]
        for policy in options.policies
    ]
    names = [f"{jobs:,} jobs" for jobs in options.jobs]
    print_table(
        [
            "policy",
            *(f"jobs a second, {name}" for name in names),
            *(f"times {options.policies[0]}, {name}" for name in names),
            *(f"growth from {names[0]} to {name}" for name in names[1:]),
        ],
        rows,
    )


if __name__ == "__main__":
    main()
