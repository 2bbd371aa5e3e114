"""Prints what the bound of waiting (`max_wait_s`, `overdue_every`) keeps, and what it costs.

    python benchmarks/waits.py [--seeds N] [--plots DIR]

First, one long job beside 16 clients that submit short ones for ever, under every policy. Then the tail of
the job completion times against their mean by the bound, for open arrivals and for a closed loop, beside
`justitia`. All in virtual time, ratios of simulations of the same jobs. Takes about ten minutes of CPU time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from math import ceil
from pathlib import Path
from statistics import mean

import numpy as np
from measuring import print_table

from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph.lab.sim.evaluation import learned_from, templates_of, worst_slowdown
from llmsched_langgraph.lab.sim.simulated import Simulated
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import Client, Poisson, TimedJob, arrive, closed_loop, generate
from llmsched_langgraph.policies import POLICIES
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

LEARNED = 1_000_000
CLIENTS, LONG, CALL_S = 16, 20, 1.0
"""Clients of short jobs; calls of the long one, one after the other; seconds of each call."""

BOUNDS = {
    "none": UNBOUNDED,
    "300 / 16": Overdue(),
    "100 / 16": Overdue(100.0, 16),
    "100 / 4": Overdue(100.0, 4),
    "30 / 16": Overdue(30.0, 16),
    "30 / 4": Overdue(30.0, 4),
    "30 / 2": Overdue(30.0, 2),
    "30 / 1": Overdue(30.0, 1),
}
"""max_wait_s / overdue_every; the first is the reference, the second the default."""


def in_a_row(name: str, calls: int) -> EndedJob:
    """Return a job of calls one after the other."""
    call = (EndedCall(None, None, CALL_S),)
    stages = tuple(
        EndedStage(name="s", kind="llm", deps=(n - 1,) * bool(n), calls=call) for n in range(calls)
    )
    return EndedJob(id=name, app=name, stages=stages)


def bound_s(overdue: Overdue, slots: int) -> float:
    """Return the bound of the long job's completion time, with no call overdue before it, in seconds."""
    assert overdue.max_wait_s is not None
    return LONG * CALL_S + overdue.max_wait_s + LONG * ceil(overdue.every / slots) * CALL_S


def flooded(policies: Sequence[str], slots: Sequence[int]) -> list[list[str]]:
    """Return rows for each policy: the long job's end beside the bound, and the price for the short ones."""
    short, long = in_a_row("short", 1), in_a_row("long", LONG)
    known = [short] * 4 + [long] * 4
    templates, profile, usual = templates_of(known), learned_from(known), Overdue()
    rows = []
    for many in slots:
        until_s = bound_s(usual, many) + 50.0
        # The long job comes when all clients wait already.
        jobs = [TimedJob(0.5, long), *(Client([short], until_s).first() for _ in range(CLIENTS))]
        loop = [timed for timed in jobs if timed is not None]
        for policy in policies:
            ends, shorts_s = [], []
            for overdue in (UNBOUNDED, usual):
                done = Simulation(
                    loop,
                    slots=many,
                    policy=as_policy(policy),
                    profile=profile,
                    applications=dict(templates),
                    overdue=overdue,
                ).run()
                (own,) = (one for one in done.jobs if one.job is long)
                ends.append(own)
                # Of those that ended beside the long job only; what comes after it is the same.
                within = [one.jct_s for one in done.jobs if one.job is short and one.end_s < until_s]
                shorts_s.append(mean(within))
            never = ends[0].end_s >= until_s
            rows.append(
                [
                    f"{policy}, {many} slots",
                    "never" if never else f"{ends[0].jct_s:.0f} s",
                    f"{ends[1].jct_s:.0f} s",
                    f"{ends[1].jct_s / bound_s(usual, many):.2f}",
                    f"{shorts_s[1] / shorts_s[0]:.3f}",
                ]
            )
    return rows


def figures(done: Simulated) -> tuple[float, float, float, float]:
    """Return mean JCT, p99 JCT, worst slowdown and longest JCT."""
    jct_s = [one.jct_s for one in done.jobs]
    return mean(jct_s), float(np.percentile(jct_s, 99)), worst_slowdown(done.jobs), max(jct_s)


def knob(
    arguments: tuple[str, str, int, int, int],
) -> dict[tuple[str, str], tuple[float, float, float, float]]:
    """Return the figures by policy and bound, of one workload, kind of arrivals and seed."""
    kind, workload, count, slots, seed = arguments
    train, test = generate(workload, count, LEARNED + seed), generate(workload, count, seed)
    templates = templates_of(train)
    profile = learned_from(train, templates)
    if kind == "open":
        timed = arrive(test, Poisson(), load=0.9, slots=slots, seed=seed)
    else:
        # Three clients for each slot, that think for as long as a job takes alone; all slots are busy.
        clients = min(3 * slots, count)
        think_s = mean(job.critical_path_s or 0.0 for job in test)
        until_s = sum(job.work_s or 0.0 for job in test) / slots
        timed = closed_loop(test, clients=clients, until_s=until_s, think_s=think_s, seed=seed)
    return {
        (policy, bound): figures(
            Simulation(
                timed,
                slots=slots,
                policy=as_policy(policy),
                profile=profile,
                applications=dict(templates),
                overdue=overdue,
            ).run()
        )
        for policy in ("srtf", "llmsched", "justitia")
        for bound, overdue in BOUNDS.items()
        if policy != "justitia" or overdue is UNBOUNDED
    }


def tails(workloads: Sequence[str], count: int, slots: int, seeds: int, plots: Path | None) -> None:
    """Print, and plot, the tail over the mean by the bound."""
    cells = [
        (kind, workload, count, slots, seed)
        for kind in ("open", "closed")
        for workload in workloads
        for seed in range(seeds)
    ]
    with ProcessPoolExecutor(2) as pool:
        found = dict(zip(cells, pool.map(knob, cells), strict=True))
    rows: list[list[str]] = []
    points: list[tuple[str, str, str, list[float]]] = []
    for kind in ("open", "closed"):
        for workload in workloads:
            own = [found[kind, workload, count, slots, seed] for seed in range(seeds)]
            for policy, bound in own[0]:
                ratios = [
                    mean(one[policy, bound][at] / one["srtf", "none"][at] for one in own) for at in range(4)
                ]
                title = f"{workload}, {'open, load 0.9' if kind == 'open' else 'closed loop'}"
                rows.append([title, policy, bound, *(f"{ratio:.2f}" for ratio in ratios)])
                points.append((title, policy, bound if policy != "justitia" else "", ratios))
    print(f"As times srtf without a bound, mean of {seeds} seeds of {count} jobs, {slots} slots:\n")
    print_table(
        ["", "policy", "max_wait_s / overdue_every", "mean JCT", "p99 JCT", "worst slowdown", "longest JCT"],
        rows,
    )
    if plots is not None:
        from llmsched_langgraph.lab.wait_plots import Point, write_figure

        plots.mkdir(parents=True, exist_ok=True)
        write_figure(
            [Point(workload, policy, bound, *ratios[:3]) for workload, policy, bound, ratios in points],
            "srtf without a bound",
            plots,
        )
        print(f"waits.png and waits.svg in {plots}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--workload", nargs="+", default=["mixed"])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), help="of the first part")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the second part (extra plots)")
    options = parser.parse_args()
    print(
        f"A job of {LONG} calls beside {CLIENTS} clients of jobs of one, for ever; the default bound "
        "(max_wait_s 300, overdue_every 16) against none:\n"
    )
    print_table(
        [
            "",
            "the long job without",
            "with the bound",
            "by the bound",
            "mean JCT of the short, with / without",
        ],
        flooded(options.policies, (2, 4)),
    )
    tails(options.workload, options.jobs, options.slots, options.seeds, options.plots)


if __name__ == "__main__":
    main()
