"""Knows what beliefs cost: one that is at hand, one that is worked out, and learning what they rest on.

Does not know how often they are asked for: decisions never wait for them.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import random
import statistics
import time
from itertools import pairwise

from measuring import Clock, Cost, in_turn, microseconds, print_table, versus

from llmsched_langgraph import Application
from llmsched_langgraph._application.application import Node
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.model.evidence import Begun, JobEvidence
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._jobs.observed import ObservedJob, ObservedStage, Part
from llmsched_langgraph._jobs.stages import StageOccurrence

TIMES = 2_000
WAITING = 1_000


def application(stages: int) -> Application:
    """So many LLM stages, one after the other."""
    names = [f"stage {n:02}" for n in range(stages)]
    nodes = [Node(name, calls_llm=True) for name in names]
    return Application.of("chain", nodes, pairwise(names))


def outcomes(stages: int, jobs: int, seed: int) -> list[ObservedJob]:
    """Jobs that differ, stages that hang together, and some that end early."""
    deal = random.Random(seed)
    made = []
    for _ in range(jobs):
        level, parts = deal.lognormvariate(1.0, 0.7), []
        for n in range(stages):
            if n and deal.random() < 0.02:
                break
            level *= deal.lognormvariate(0.0, 0.2)
            work_s = level * deal.lognormvariate(0.0, 0.3)
            parts.append(ObservedStage(StageOccurrence(f"stage {n:02}", 1), (Part(calls=1, work_s=work_s),)))
        made.append(ObservedJob(tuple(parts), deal.randrange(100, 4_000)))
    return made


def asked(jobs: list[ObservedJob]) -> list[JobEvidence]:
    """What is known of each of the jobs in its middle."""
    found = []
    for job in jobs:
        half = len(job.stages) // 2
        found.append(
            JobEvidence(job.prompt_tokens, job.stages[:half], (Begun(job.stages[half].stage_occurrence),))
        )
    return found


def at_hand(model: ApplicationModel, evidence: list[JobEvidence]) -> Cost:
    """A belief that was worked out before: found again by its evidence, and asked for its mean."""
    beliefs = [model.belief(one).mean for one in evidence]
    with Clock(TIMES) as clock:
        for n in range(TIMES):
            _ = model.belief(evidence[n % len(evidence)]).mean
    assert beliefs
    return clock.cost


def heap(_: object = None) -> Cost:
    """One push into a heap of jobs that wait, and one pop."""
    deal = random.Random(0)
    waiting = [(deal.random(), n) for n in range(WAITING)]
    heapq.heapify(waiting)
    keys = [(deal.random(), n) for n in range(TIMES)]
    with Clock(TIMES) as clock:
        for key in keys:
            heapq.heappush(waiting, key)
            heapq.heappop(waiting)
    return clock.cost


def worked_out(model: ApplicationModel, evidence: list[JobEvidence]) -> Cost:
    """A belief of a job that is like none before."""
    costs = []
    for one in evidence:
        model.forget()
        with Clock(1) as clock:
            _ = model.belief(one).mean
        costs.append(clock.cost)
    return Cost(statistics.median(c.cpu for c in costs), statistics.median(c.wall for c in costs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, nargs="+", default=[1_000, 10_000], help="to learn from")
    options = parser.parse_args()
    sizes = (10, 20, 40)
    models, evidence = {}, {}
    for stages in sizes:
        models[stages] = learn(application(stages), outcomes(stages, 500, options.seed), correlated=True)
        evidence[stages] = asked(outcomes(stages, 40, options.seed + 1))
    cases = {"a push and a pop": heap}
    for stages in sizes:
        one = (models[stages], evidence[stages])
        cases[f"a belief at hand, {stages} stages"] = functools.partial(at_hand, *one)
        cases[f"a belief worked out, {stages} stages"] = functools.partial(worked_out, *one)
    costs = in_turn(cases, options.repeats)
    print(f"Beliefs, beside one push and pop in a heap of {WAITING:,}:\n")
    rows = [[name, microseconds(costs[name]), *versus(costs, name, "a push and a pop")] for name in cases]
    print_table(["", "us of CPU", "times a push and a pop, CPU", "wall"], rows)

    print("Learning an application, network and held-out test included:\n")
    rows = []
    for stages in sizes:
        taken = []
        for runs in options.runs:
            jobs = outcomes(stages, runs, options.seed)
            began_s = time.process_time()
            learn(application(stages), jobs)
            taken.append(time.process_time() - began_s)
        rows.append([f"{stages}", *(f"{s:.2g} s" for s in taken), f"{taken[-1] / taken[0]:.1f}"])
    print_table(["stages", *(f"{runs:,} runs" for runs in options.runs), "ratio"], rows)


if __name__ == "__main__":
    main()
