"""Prints how tenants share one backend, and what sharing costs.

    python benchmarks/tenants.py [--seeds N]

Each part prints ratios of simulations of the same jobs, in virtual time, or of CPU times measured in turn.
Takes about two minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

import numpy as np
from marked import table

from llmsched_langgraph import Application, Backend, Tenant
from llmsched_langgraph._core.events import CallReleased, CallRequested, JobArrived
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph._ledger.tenants import Tenants
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads.arrivals import TimedJob
from llmsched_langgraph.policies import JobInfo
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

SLOTS = 8
CALL_S = 2.0
"""Mean seconds of a call."""

SHAPE = 4.0
"""Shape of the gamma distribution of a call's seconds: no call takes no time at all."""


def alone_s(job: EndedJob) -> float:
    """Return the completion time of the job alone."""
    assert job.jct_s is not None
    return job.jct_s


def job(rng: np.random.Generator, number: str, tenant: str) -> EndedJob:
    """Return a job of one to six calls in a row."""
    seconds = rng.gamma(SHAPE, CALL_S / SHAPE, int(rng.integers(1, 7)))
    stages = tuple(
        EndedStage(
            name="node",
            kind="llm",
            calls=(EndedCall(None, None, float(own)),),
            occurrence=occurrence,
            deps=(occurrence - 2,) if occurrence > 1 else (),
        )
        for occurrence, own in enumerate(seconds, 1)
    )
    return EndedJob(id=number, app="graph", stages=stages, jct_s=float(seconds.sum()), tenant=tenant)


def arrivals(
    rng: np.random.Generator, tenant: str, load: float, until_s: float, since_s: float = 0.0
) -> list[TimedJob]:
    """Return the jobs of a tenant that offers this share of the work that the slots can do."""
    found: list[TimedJob] = []
    rate, at = load * SLOTS / (3.5 * CALL_S), since_s
    while (at := at + rng.exponential(1.0 / rate)) < until_s:
        found.append(TimedJob(at, job(rng, f"{tenant}{len(found)}", tenant)))
    return found


def slowdown(jobs: Sequence[TimedJob], tenant: str, slots: int, tenants: Tenants, policy: str) -> float:
    """Return the mean slowdown of a tenant's jobs: completion time by that of the job alone."""
    done = Simulation(jobs, slots=slots, policy=as_policy(policy), tenants=tenants).run()
    ordered = sorted(jobs, key=lambda timed: timed.arrival_s)
    own = [
        one.jct_s / alone_s(timed.job)
        for timed, one in zip(ordered, done.jobs, strict=True)
        if timed.job.tenant == tenant
    ]
    return mean(own)


def light_and_heavy(seeds: int) -> None:
    """A light tenant beside one with ten times its load, and alone on half of the slots."""
    rows = []
    for policy in ("fcfs", "srtf", "llmsched"):
        beside, alone, without = [], [], []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            light, heavy = arrivals(rng, "light", 0.12, 4_000.0), arrivals(rng, "heavy", 1.2, 4_000.0)
            beside.append(slowdown(light + heavy, "light", SLOTS, Tenants(), policy))
            alone.append(slowdown(light, "light", SLOTS // 2, Tenants(), policy))
            nameless = [replace(one, job=replace(one.job, tenant=None)) for one in light + heavy]
            lights = {one.job.id for one in light}
            done = Simulation(nameless, slots=SLOTS, policy=as_policy(policy)).run()
            ordered = sorted(nameless, key=lambda timed: timed.arrival_s)
            without.append(
                mean(
                    one.jct_s / alone_s(timed.job)
                    for timed, one in zip(ordered, done.jobs, strict=True)
                    if timed.job.id in lights
                )
            )
        rows.append(
            [
                policy,
                f"{mean(alone):.2f}",
                f"{mean(beside) / mean(alone):.2f}",
                f"{mean(without) / mean(alone):.1f}",
            ]
        )
    print(f"Mean slowdown of a tenant of load 0.12 beside one of load 1.2, {SLOTS} slots, {seeds} seeds:\n")
    print(table(["policy", "alone on half", "beside it, ratio", "without tenants, ratio"], rows), "\n")


def shares(weights: dict[str, float], until_s: float, back_s: float = 0.0) -> dict[str, float]:
    """Return the service that each tenant got until then, all waiting; the last begins at `back_s`."""
    tenants, rng = (
        Tenants({name: Tenant(weight) for name, weight in weights.items()}),
        np.random.default_rng(7),
    )
    machine = SchedulerMachine(as_policy("fcfs"), [Backend("backend", SLOTS)], tenants=tenants)
    application, ends, served, ticket = Application.of("graph", ["node"]), [], dict.fromkeys(weights, 0.0), 0
    last = list(weights)[-1]

    def ask(now: float, tenant: str) -> None:
        nonlocal ticket
        ticket += 1
        owner[ticket] = tenant
        machine.handle(now, JobArrived(ticket, JobInfo(application, tenant=tenant)))
        machine.handle(now, CallRequested(ticket, "backend", "node", ticket))

    owner: dict[int, str] = {}
    granted: set[int] = set()
    now = 0.0
    for tenant in weights:
        for _ in range(3 * SLOTS if tenant != last or not back_s else 0):
            ask(0.0, tenant)
    back = bool(back_s)
    while now < until_s:
        for own, grant in list(machine.ledger.view().holding.items()):
            if own not in granted:
                granted.add(own)
                seconds = float(rng.exponential(CALL_S * (1 if owner[own] == last else 3)))
                ends.append((grant.granted_s + seconds, own, seconds))
        ends.sort(reverse=True)
        now, own, seconds = ends.pop()
        if back and now >= back_s:
            back = False
            for _ in range(3 * SLOTS):
                ask(now, last)
        if now >= back_s:
            served[owner[own]] += seconds
        machine.handle(now, CallReleased(own))
        machine.story.trim(machine.story.last)
        ask(now, owner[own])
    return served


def weighted() -> None:
    """Service by weight under saturation, with calls of different lengths; a tenant that comes back."""
    rows = []
    for what, weights, until_s, back_s in (
        ("weights 3 : 1", {"a": 3.0, "b": 1.0}, 20_000.0, 0.0),
        ("weights 1 : 1, one comes back after an hour", {"a": 1.0, "b": 1.0}, 7_200.0, 3_600.0),
        ("weights 1 : 1, the first 60 s after it came back", {"a": 1.0, "b": 1.0}, 3_660.0, 3_600.0),
    ):
        served = shares(weights, until_s, back_s)
        asked = weights["a"] / weights["b"]
        rows.append([what, f"{served['a'] / served['b']:.3f}", f"{served['a'] / served['b'] / asked:.3f}"])
    print("Service of one tenant by that of another, the calls of one three times as long:\n")
    print(table(["", "ratio", "by the weights"], rows), "\n")


def backlog(waiting: int, tenants: int, overdue: Overdue, deadlines: bool) -> Callable[[int], float]:
    """Return a function that measures the CPU seconds of a release and the next grant in a backlog."""
    machine = SchedulerMachine(as_policy("srtf"), [Backend("backend", 1)], overdue=overdue)
    application, ticket = Application.of("graph", ["node"]), 0

    def ask() -> None:
        nonlocal ticket
        ticket += 1
        tenant = f"tenant {ticket * 7919 % tenants}" if tenants else ""
        deadline_s = 50.0 + ticket % 1000 if deadlines else None
        info = JobInfo(
            application, tenant=tenant, priority=ticket % 3 if tenants else 0, deadline_s=deadline_s
        )
        machine.handle(ticket * 1e-3, JobArrived(ticket, info))
        machine.handle(ticket * 1e-3, CallRequested(ticket, "backend", "node", ticket))
        machine.story.trim(machine.story.last)

    for _ in range(waiting + 1):
        ask()

    def measure(steps: int) -> float:
        spent = 0.0
        for _ in range(steps):
            holder = next(iter(machine.untold))
            machine.untold.clear()
            begun = time.process_time()
            machine.handle(ticket * 1e-3, CallReleased(holder))
            spent += time.process_time() - begun
            machine.story.trim(machine.story.last)
            ask()  # it waits, and the backlog stays as long as it was
        return spent / steps

    machine.untold.clear()
    machine.untold[1] = True
    return measure


def cost(waiting: Sequence[int]) -> None:
    """A decision with all tiers by one with none."""
    rows = []
    for calls in waiting:
        plain = backlog(calls, 0, UNBOUNDED, deadlines=False)
        full = backlog(calls, max(calls // 10, 1), Overdue(), deadlines=True)
        times = [(plain(300), full(300)) for _ in range(9)]
        without, whole = (sorted(column)[len(times) // 2] for column in zip(*times, strict=True))
        ratio = sorted(own[1] / own[0] for own in times)[len(times) // 2]
        rows.append([f"{calls:,}", f"{1e6 * without:.0f}", f"{1e6 * whole:.0f}", f"{ratio:.2f}"])
    print(
        "A release and the next grant, one tenant for ten calls, three priorities, deadlines, overdue jobs:\n"
    )
    print(table(["calls waiting", "no tiers, us", "all tiers, us", "ratio"], rows))


def main() -> None:
    """Print all parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each simulation (default: 3)")
    parser.add_argument("--waiting", type=int, nargs="+", default=[100, 10_000, 100_000])
    options = parser.parse_args()
    light_and_heavy(options.seeds)
    weighted()
    cost(options.waiting)


if __name__ == "__main__":
    main()
