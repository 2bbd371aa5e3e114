"""Estimates the slowdown of a backend: decode time per token as a function of concurrency.

Does not read jobs or applications.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import exp, log
from typing import NamedTuple

MIN_CALLS = 3
"""Minimum number of calls of one stage at one concurrency for an estimate of the time per token."""

MIN_SPREAD = 0.05
"""Minimum coefficient of variation of the output tokens of those calls."""

PRIOR_CALLS = 100.0
"""Prior weight of l(b) = l(1), in pseudo-calls per b."""

SWEEPS = 50
"""Iterations of alternating least squares; far fewer suffice."""


class ServedCall(NamedTuple):
    """One call: its stage, the concurrency including itself, seconds in its slot, output tokens."""

    stage: str
    concurrency: float
    seconds: float
    output_tokens: int | None


class BatchSums(NamedTuple):
    """Sums over the calls of one stage at one concurrency, for least squares."""

    calls: int = 0
    tokens: float = 0.0
    seconds: float = 0.0
    tokens_squared: float = 0.0
    tokens_seconds: float = 0.0

    def token_s(self) -> float | None:
        """Return the least-squares slope of seconds over output tokens; None if undetermined."""
        if self.calls < MIN_CALLS:
            return None
        spread = self.tokens_squared - self.tokens**2 / self.calls
        if not spread > (MIN_SPREAD * self.tokens) ** 2 / self.calls:
            return None
        slope = (self.tokens_seconds - self.tokens * self.seconds / self.calls) / spread
        return slope if slope > 0.0 else None


@dataclass(frozen=True)
class Calibration:
    """l(b) of one backend: seconds per output token at concurrency b. Immutable.

    The seconds per token t of a stage at concurrency b are a least-squares slope over output tokens, so that
    constant costs, such as the prompt's, do not matter. Stages differ in t and in typical concurrency, so
    log t(stage, b) = effect(stage) + effect(b) is fitted by least squares.

    Attributes:
        seen: sums over calls, by (stage, b).
    """

    seen: Mapping[tuple[str, int], BatchSums] = field(default_factory=dict)

    def observe(self, calls: Iterable[ServedCall]) -> Calibration:
        """Return the calibration with more calls, ignoring those without a token count."""
        seen = dict(self.seen)
        for call in calls:
            tokens = call.output_tokens
            if tokens is not None:
                at = (call.stage, max(1, round(call.concurrency)))
                was = seen.get(at, BatchSums())
                seen[at] = BatchSums(
                    was.calls + 1,
                    was.tokens + tokens,
                    was.seconds + call.seconds,
                    was.tokens_squared + tokens * tokens,
                    was.tokens_seconds + tokens * call.seconds,
                )
        return Calibration(seen)

    @cached_property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """Pairs (b, l(b) / l(1)) of each b with enough calls, ascending; empty for fewer than two.

        l(b) is made nondecreasing by isotonic regression (pooling adjacent violators). The smallest b
        stands for 1.
        """
        logs: dict[tuple[str, int], tuple[int, float]] = {}
        for at, own in self.seen.items():
            if (token_s := own.token_s()) is not None:
                logs[at] = (own.calls, own.calls * log(token_s))
        stages: dict[str, float] = dict.fromkeys((stage for stage, _ in logs), 0.0)
        effects: dict[int, float] = dict.fromkeys(sorted({b for _, b in logs}), 0.0)
        if len(effects) < 2:
            return ()
        weights: dict[int, float] = dict.fromkeys(effects, PRIOR_CALLS)
        for (_, b), (count, _) in logs.items():
            weights[b] += count
        for _ in range(SWEEPS):
            counts, sums = dict.fromkeys(stages, 0), dict.fromkeys(stages, 0.0)
            for (stage, b), (count, total) in logs.items():
                counts[stage] += count
                sums[stage] += total - count * effects[b]
            stages = {stage: sums[stage] / counts[stage] for stage in stages}
            rests = dict.fromkeys(effects, 0.0)
            for (stage, b), (count, total) in logs.items():
                rests[b] += total - count * stages[stage]
            effects = {b: rests[b] / weights[b] for b in effects}
        blocks: list[tuple[list[int], float, float]] = []
        for b, effect in effects.items():
            blocks.append(([b], effect * weights[b], weights[b]))
            while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] > blocks[-1][1] / blocks[-1][2]:
                (low, low_sum, low_n), (high, high_sum, high_n) = blocks[-2:]
                blocks[-2:] = [(low + high, low_sum + high_sum, low_n + high_n)]
        first = blocks[0][1] / blocks[0][2]
        return tuple((b, exp(total / weight - first)) for bs, total, weight in blocks for b in bs)

    def slowdown(self, concurrency: float) -> float:
        """Return l(b) / l(1) by linear interpolation of `curve`, constant outside its range."""
        curve = self.curve
        if not curve or concurrency <= curve[0][0]:
            return 1.0
        for (low, low_value), (high, high_value) in pairwise(curve):
            if concurrency <= high:
                return low_value + (high_value - low_value) * (concurrency - low) / (high - low)
        return curve[-1][1]

    def at_capacity(self, concurrency: float) -> float:
        """Return l(b_ref) / l(b), which normalizes durations to the reference concurrency.

        b_ref is the largest b of `curve`, because calls queue only when the backend is at capacity.
        """
        return self.curve[-1][1] / self.slowdown(concurrency) if self.curve else 1.0
