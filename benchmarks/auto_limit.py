"""Knows how well a limit that finds itself does, beside one that was told.

Does not talk to servers: simulated ones refuse above a limit that changes, or only slow down.

python benchmarks/auto_limit.py [--seeds 5] [--scale 1]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from statistics import mean

from measuring import print_table

from llmsched_langgraph import Auto
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph.lab.sim.finding import Asked, Loop, Outcome, Served, mixed

PHASES = ((0.0, 16), (400.0, 6), (800.0, 24))
CLIENTS = 80
KNEE = 12


def hidden(now: float) -> int:
    """A limit that becomes smaller, then larger."""
    return [limit for since_s, limit in PHASES if since_s <= now][-1]


def at(limit: int) -> Callable[[float], int]:
    """A limit that was told and never changes."""
    return lambda now: limit


SLOWING = {
    "12 run, others queue": Served(batch=KNEE),
    "shared among all above 12": Served(speed=lambda running: min(1.0, KNEE / running)),
    "each slows all: n / (1 + (n - 1) / 10)": Served(speed=lambda running: 10.0 / (9.0 + running)),
}


def calls(seed: int, scale: float = 1.0) -> Iterator[Asked]:
    return mixed(random.Random(seed), scale)


def refusing(args: argparse.Namespace) -> None:
    rows, scale = [], args.scale
    for seed in range(args.seeds):
        server = Served(room=lambda now: hidden(now / scale))
        own = Loop(server, calls(seed, scale), Auto(), clients=CLIENTS).play(1200 * scale)
        told = Loop(server, calls(seed, scale), lambda now: hidden(now / scale), clients=CLIENTS)
        reference = told.play(1200 * scale)
        for (since_s, right), until_s in zip(PHASES, (400.0, 800.0, 1200.0), strict=True):
            span = since_s * scale, until_s * scale
            windows, share = own.settled(*span, right)
            rows.append(
                [
                    f"{seed}: {right}",
                    f"{own.median_limit(*span):g}",
                    f"{windows}",
                    f"{share:.2f}",
                    f"{own.work(*span) / reference.work(*span):.3f}",
                    f"{own.refusals / own.attempts:.2%} of {own.attempts}",
                ]
            )
    print(f"Refuses above a limit of 16, then 6, then 24; {CLIENTS} clients.\n")
    columns = [
        "seed: limit",
        "median",
        "windows until within 20 %",
        "share of time since",
        "throughput / told",
        "refused",
    ]
    print_table(columns, rows)


def slowing(args: argparse.Namespace) -> None:
    rows, until_s = [], 1500.0 * args.scale
    for name, server in SLOWING.items():
        fixed = {}
        for limit in (4, 6, 8, 10, 12, 14, 16, 24, 32, 64):
            outcome = Loop(server, calls(0, args.scale), at(limit), clients=CLIENTS).play(until_s)
            fixed[limit] = outcome.work(0.0, until_s)
        best = max(fixed, key=lambda limit: fixed[limit])
        ratios, queues, uses, medians = [], [], [], []
        for seed in range(args.seeds):
            own = Loop(server, calls(seed, args.scale), Auto(), clients=CLIENTS).play(until_s)
            reference = Loop(server, calls(seed, args.scale), at(best), clients=CLIENTS).play(until_s)
            ratios.append(own.work(0.0, until_s) / reference.work(0.0, until_s))
            queues.append(own.queue_s / until_s)
            uses.append(own.busy_s / until_s)
            medians.append(own.median_limit(until_s / 3, until_s))
        rows.append(
            [
                name,
                f"{min(medians):g}-{max(medians):g}",
                f"{min(ratios):.3f}",
                f"{best}",
                f"{max(queues):.2f}",
                f"{max(uses):.1f}",
            ]
        )
    print(f"Never refuses, only slows down; {CLIENTS} clients.\n")
    print_table(
        [
            "engine",
            "median limit",
            "least throughput / best fixed",
            "best fixed",
            "engine's queue",
            "in flight",
        ],
        rows,
    )


def in_bursts(seed: int, loops: list[Loop]) -> Iterator[Asked]:
    """A cache answers all calls of a seventh of a second, then none for four sevenths."""
    for call in calls(seed):
        yield call._replace(instant=bool(loops) and int(loops[0].now * 7) % 5 == 0)


def arrivals(seed: int, rate: float) -> Iterator[float]:
    deal, now = random.Random(seed), 0.0
    while True:
        now += deal.expovariate(rate)
        yield now


def known_failures(args: argparse.Namespace) -> None:
    """What other limiters do wrong."""
    engine = SLOWING["shared among all above 12"]
    second = mean(call.seconds for _, call in zip(range(20_000), calls(99), strict=False))

    def hits(seed: int) -> Loop:
        loops: list[Loop] = []
        loops.append(Loop(engine, in_bursts(seed, loops), Auto(), clients=CLIENTS))
        return loops[0]

    flaky = random.Random(3)
    cases: dict[str, tuple[Callable[[int], Loop], float]] = {
        "engine with knee 12, load 1.05, open": (
            lambda seed: Loop(
                engine, calls(seed), Auto(high=512), arrivals=arrivals(seed, 1.05 * KNEE / second)
            ),
            3000.0,
        ),
        "engine with knee 12, bursts of cache hits": (hits, 1500.0),
        "every attempt times out after 5 s": (
            lambda seed: Loop(
                Served(fault=lambda now, n: (Failure(504), 5.0)), calls(seed), Auto(), clients=CLIENTS
            ),
            300.0,
        ),
        "connections above 10 are dropped": (
            lambda seed: Loop(
                Served(room=lambda now: 10, failure=(Failure(None), 0.2)),
                calls(seed),
                Auto(),
                clients=CLIENTS,
            ),
            600.0,
        ),
        "30 % refused at random for 100 s, then none": (
            lambda seed: Loop(
                Served(
                    fault=lambda now, n: (Failure(429), 0.05) if now < 100 and flaky.random() < 0.3 else None
                ),
                calls(seed),
                Auto(low=2),
                clients=CLIENTS,
            ),
            600.0,
        ),
    }
    rows = []
    for name, (make, until_s) in cases.items():
        outcomes: list[Outcome] = [make(seed).play(until_s) for seed in range(args.seeds)]
        thirds = [
            [outcome.median_limit(until_s * i / 3, until_s * (i + 1) / 3) for outcome in outcomes]
            for i in range(3)
        ]
        rows.append([name, *(f"{min(third):g}-{max(third):g}" for third in thirds)])
    print_table(["what others do wrong", "median limit: first third", "second", "last"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="seconds of a call, about")
    args = parser.parse_args()
    refusing(args)
    slowing(args)
    known_failures(args)


if __name__ == "__main__":
    main()
