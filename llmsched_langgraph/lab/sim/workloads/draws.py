"""Draws tokens, seconds and categories from given distributions, and builds jobs from them.

Does not define any application.
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
    """A log-normal quantity, clipped to [low, high].

    Attributes:
        mu: Mean of the natural logarithm.
        sigma: Standard deviation of the natural logarithm.
        low: Lower limit, usually the least measured value.
        high: Upper limit, usually the largest measured value.
    """

    mu: float
    sigma: float
    low: float
    high: float

    def at(self, z: float) -> float:
        """Return exp(mu + sigma * z), clipped."""
        return min(max(exp(self.mu + self.sigma * z), self.low), self.high)

    def tokens(self, z: float) -> int:
        """Return `at(z)`, rounded to whole tokens."""
        return round(self.at(z))


@dataclass(frozen=True, slots=True)
class Choice:
    """A categorical distribution: values with their weights."""

    weights: Mapping[int, int]

    def draw(self, rng: np.random.Generator) -> int:
        """Return one of the values."""
        return pick(rng, self.weights)


def pick(rng: np.random.Generator, weights: Mapping[T, float]) -> T:
    """Return a key with probability proportional to its weight."""
    options = list(weights)
    shares = np.array([weights[option] for option in options], float)
    return options[int(rng.choice(len(options), p=shares / shares.sum()))]


def normal(rng: np.random.Generator) -> float:
    """Return a standard normal number."""
    return float(rng.standard_normal())


def linked(rng: np.random.Generator, z: float, correlation: float) -> float:
    """Return a standard normal number with the given correlation to the standard normal number `z`."""
    return correlation * z + sqrt(1.0 - correlation * correlation) * normal(rng)


class JobBuilder:
    """Builds a job; the seconds of its LLM calls follow from their tokens (`Derived.SECONDS`)."""

    def __init__(self, speed: TokenSpeed) -> None:
        """Start without stages; `speed` gives the seconds of LLM calls."""
        self._speed = speed
        self._stages: list[EndedStage] = []

    def llm(
        self, name: str, calls: Iterable[tuple[int, int]], deps: Sequence[int] = (), tool: str | None = None
    ) -> int:
        """Add a stage of parallel calls of (prompt tokens, output tokens); return its index."""
        made = tuple(
            EndedCall(prompt, output, self._speed.call_s(prompt, output), derived=Derived.SECONDS)
            for prompt, output in calls
        )
        return self._add(
            EndedStage(name=name, kind="llm", deps=tuple(sorted(set(deps))), calls=made, tool=tool)
        )

    def tool(self, name: str, seconds: float, deps: Sequence[int], tool: str | None = None) -> int:
        """Add a stage that runs a tool for `seconds`; return its index."""
        call = EndedCall(None, None, round(seconds, 3))
        return self._add(
            EndedStage(name=name, kind="tool", deps=tuple(sorted(set(deps))), calls=(call,), tool=tool)
        )

    def job(self, job_id: str, app: str) -> EndedJob:
        """Return the job with the stages added so far."""
        return EndedJob(id=job_id, app=app, jct_s=None, stages=tuple(self._stages))

    def _add(self, stage: EndedStage) -> int:
        self._stages.append(stage)
        return len(self._stages) - 1
