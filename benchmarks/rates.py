"""Knows how closely the rates of a backend are kept, and how much of them can be used.

Does not talk to providers: simulated ones count a call's output at its start, at its end or evenly between.

python benchmarks/rates.py [--seconds 1800] [--seeds 3] [--limit 100000]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator

from measuring import print_table

from llmsched_langgraph._ledger.rates import Estimate, Rates
from llmsched_langgraph.lab.sim.metering import Planned, outputs, play, requests, used, worst

MEAN = 300
"""Mean output tokens of a call."""

Draw = Callable[[random.Random], float]

LENGTHS: dict[str, Draw] = {
    "equal": lambda deal: MEAN,
    "exponential": lambda deal: deal.expovariate(1 / MEAN),
    "lognormal": lambda deal: MEAN * deal.lognormvariate(-0.5, 1.0),
}

ESTIMATES: dict[str, Callable[[random.Random, int], float]] = {
    "exact": lambda deal, truth: truth,
    "constant": lambda deal, truth: MEAN,
    "0.3 x 2^N(0, 0.5)": lambda deal, truth: 0.3 * truth * 2 ** deal.gauss(0, 0.5),
    "1 or 4000": lambda deal, truth: deal.choice((1, 4000)),
}


def calls(lengths: str, estimates: str, seconds: float, same: bool, seed: int) -> Iterator[Planned]:
    """Calls of `seconds` seconds, each (`same`) or on average, in proportion to their tokens."""
    deal = random.Random(seed)
    while True:
        tokens = max(1, int(LENGTHS[lengths](deal)))
        estimate = max(1, int(ESTIMATES[estimates](deal, tokens)))
        yield Planned(Estimate(1, estimate), 1, tokens, seconds if same else seconds * tokens / MEAN)


def steady(until_s: float, seconds: float) -> tuple[float, float]:
    """The last two thirds, in whole periods: calls that were granted at once make place at once."""
    period_s = 61.0 + seconds
    last = int((until_s - seconds) / period_s)
    return last // 3 * period_s, last * period_s


def row(lengths: str, estimates: str, seconds: float, same: bool, args: argparse.Namespace) -> list[str]:
    """The worst sliding minute over the limit, and what was used, over all seeds."""
    rates, over, use, bound = Rates(output_tokens_per_minute=args.limit), [], [], []
    for seed in range(args.seeds):
        played = play(rates, calls(lengths, estimates, seconds, same, seed), args.seconds)
        over.append([worst(outputs(played, when)) / args.limit for when in ("start", "even", "end")])
        use.append(used(outputs(played, "even"), *steady(args.seconds, seconds)) / args.limit)
        weight = sum(call.output_tokens for _, _, call in played)
        long = sum(call.output_tokens * call.seconds for _, _, call in played) / weight
        bound.append(60 / (61 + long))
    mean = sum(use) / len(use)
    return [
        f"{seconds:g} s {'each' if same else 'mean'}",
        lengths,
        estimates,
        *(f"{max(column):.3f}" for column in zip(*over, strict=True)),
        f"{mean:.3f}",
        f"{mean / (sum(bound) / len(bound)):.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=100_000)
    args = parser.parse_args()
    print(f"{args.limit} output tokens a minute, {MEAN} of a call on average; ratios to the limit.\n")
    columns = ["calls", "lengths", "estimates", "worst: start", "even", "end", "used", "used x (61+d)/60"]
    rows = [row("equal", "exact", seconds, True, args) for seconds in (1.0, 2.0, 10.0, 30.0)]
    for estimates in ESTIMATES:
        for lengths in ("exponential", "lognormal"):
            for seconds, same in (
                (1.0, True),
                (2.0, True),
                (10.0, True),
                (30.0, True),
                (2.0, False),
                (10.0, False),
            ):
                rows.append(row(lengths, estimates, seconds, same, args))
    print_table(columns, rows)
    print("d is the length of the call that a token belongs to, on average over tokens.\n")
    rates = Rates(requests_per_minute=600)
    for seconds in (1.0, 2.0, 10.0, 30.0):
        counted = requests(play(rates, calls("equal", "exact", seconds, True, 0), args.seconds))
        share = used(counted, *steady(args.seconds, 0.0)) / 600
        print(
            f"600 requests a minute, {seconds:g} s each: worst {worst(counted) / 600:.3f}, used {share:.3f}"
        )


if __name__ == "__main__":
    main()
