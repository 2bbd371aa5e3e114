"""Knows how to draw tokens, seconds and kinds with stated statistics, and how to build a job of them.

Does not know any application.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, sqrt
from typing import TypeVar

import numpy as np

from llmsched_langgraph._jobs.ended import Derived, EndedCall, EndedJob, EndedStage
from llmsched_langgraph.traces.speed import TokenSpeed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A log-normal quantity: the mean and the standard deviation of its natural logarithm, and its limits.

    Attributes:
        mu: Mean of the logarithm.
        sigma: Standard deviation of the logarithm.
        low: What is drawn below becomes this; the least that was measured, or 1.
        high: What is drawn above becomes this; the most that was measured.
    """

    mu: float
    sigma: float
    low: float
    high: float

    def at(self, z: float) -> float:
        """The value `z` standard deviations from the median."""
        return min(max(exp(self.mu + self.sigma * z), self.low), self.high)

    def tokens(self, z: float) -> int:
        """As `at`, as a number of tokens."""
        return round(self.at(z))


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, each as often as its weight says."""

    weights: Mapping[int, int]

    def draw(self, rng: np.random.Generator) -> int:
        """One of the values."""
        return pick(rng, self.weights)


def pick(rng: np.random.Generator, weights: Mapping[T, float]) -> T:
    """A key, with a probability in proportion to its weight."""
    options = list(weights)
    shares = np.array([weights[option] for option in options], float)
    return options[int(rng.choice(len(options), p=shares / shares.sum()))]


def normal(rng: np.random.Generator) -> float:
    """A standard normal number."""
    return float(rng.standard_normal())


def linked(rng: np.random.Generator, z: float, correlation: float) -> float:
    """A standard normal number that has `correlation` with the standard normal number `z`."""
    return correlation * z + sqrt(1.0 - correlation * correlation) * normal(rng)


class JobBuilder:
    """Builds a generated job: tokens are drawn, seconds of LLM calls follow from them (`Derived.SECONDS`)."""

    def __init__(self, speed: TokenSpeed) -> None:
        """Start without stages, for a model of this speed."""
        self._speed = speed
        self._stages: list[EndedStage] = []

    def llm(
        self, name: str, calls: Iterable[tuple[int, int]], deps: Sequence[int] = (), tool: str | None = None
    ) -> int:
        """Add a stage of parallel calls, each of (prompt tokens, output tokens); gives its index."""
        made = tuple(
            EndedCall(prompt, output, self._speed.call_s(prompt, output), derived=Derived.SECONDS)
            for prompt, output in calls
        )
        return self._add(
            EndedStage(name=name, kind="llm", deps=tuple(sorted(set(deps))), calls=made, tool=tool)
        )

    def tool(self, name: str, seconds: float, deps: Sequence[int], tool: str | None = None) -> int:
        """Add a stage that runs a tool for that long; gives its index."""
        call = EndedCall(None, None, round(seconds, 3))
        return self._add(
            EndedStage(name=name, kind="tool", deps=tuple(sorted(set(deps))), calls=(call,), tool=tool)
        )

    def job(self, job_id: str, app: str) -> EndedJob:
        """The job that has these stages."""
        return EndedJob(id=job_id, app=app, jct_s=None, stages=tuple(self._stages))

    def _add(self, stage: EndedStage) -> int:
        self._stages.append(stage)
        return len(self._stages) - 1
