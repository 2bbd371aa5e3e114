"""Knows how two ways of doing the same are compared: in turn, in one run, as ratios.

Does not know what is measured. The process's CPU time counts; wall time stands beside it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Cost:
    """What one repeat took, in seconds for each time that the thing was done."""

    cpu: float
    wall: float


class Clock:
    """Times a block: `with Clock(times) as clock: ...`, then `clock.cost`."""

    def __init__(self, times: int) -> None:
        self._times = times

    def __enter__(self) -> Self:
        gc.collect()
        gc.disable()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        gc.enable()
        self.cost = Cost(cpu / self._times, wall / self._times)


def in_turn(cases: Mapping[str, Callable[[], Cost]], repeats: int) -> dict[str, list[Cost]]:
    """Every case once for each repeat, in alternating order; one round before does not count."""
    costs: dict[str, list[Cost]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name in sorted(cases, reverse=repeat % 2 == 1):
            cost = cases[name]()
            if repeat:
                costs[name].append(cost)
    return costs


def ratio(above: list[float], below: list[float]) -> str:
    """The median of the repeats' ratios, and their middle half."""
    ratios = [a / b for a, b in zip(above, below, strict=True) if b]
    if len(ratios) < 2:
        return "too short to measure"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def versus(costs: dict[str, list[Cost]], name: str, baseline: str) -> list[str]:
    """Two cells: the ratio in CPU time and the one in wall time."""
    one, other = costs[name], costs[baseline]
    return [
        ratio([cost.cpu for cost in one], [cost.cpu for cost in other]),
        ratio([cost.wall for cost in one], [cost.wall for cost in other]),
    ]


def microseconds(costs: list[Cost]) -> str:
    return f"{statistics.median(cost.cpu for cost in costs) * 1e6:.3g}"


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    print("".join(f"| {' | '.join(line)} |\n" for line in lines))
