"""Knows how much longer a token takes the more calls a backend serves at once.

Does not know jobs, nor what the stages are whose calls it compares. A value: `observe` gives a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import exp, log
from typing import NamedTuple

MIN_CALLS = 3
"""Calls of one stage, served among as many others, that it takes to tell how long a token takes there."""

MIN_SPREAD = 0.05
"""Spread of their output tokens, as a share of the mean, under which nothing can be told from them."""

PRIOR_CALLS = 100.0
"""Calls that the belief counts for that it makes no difference how many are served."""

SWEEPS = 50
"""Times that stages and numbers of calls are fitted in turn; far fewer are enough."""


class Served(NamedTuple):
    """One call: its stage, how many were served beside it and itself, seconds in the slot, output tokens."""

    stage: str
    concurrency: float
    seconds: float
    output_tokens: int | None


class BatchSums(NamedTuple):
    """Calls of one stage that were served among as many others: sums over them."""

    calls: int = 0
    tokens: float = 0.0
    seconds: float = 0.0
    tokens_squared: float = 0.0
    tokens_seconds: float = 0.0

    def token_s(self) -> float | None:
        """Seconds that one more output token took, by least squares; None where that cannot be told."""
        if self.calls < MIN_CALLS:
            return None
        spread = self.tokens_squared - self.tokens**2 / self.calls
        if not spread > (MIN_SPREAD * self.tokens) ** 2 / self.calls:
            return None
        slope = (self.tokens_seconds - self.tokens * self.seconds / self.calls) / spread
        return slope if slope > 0.0 else None


@dataclass(frozen=True)
class Calibration:
    """l(b) of one backend: how long an output token takes when `b` calls are served side by side.

    What a call takes besides its output, for its prompt above all, is told apart by the calls of a stage that
    differ in their output alone. Stages differ in their pace anyway, and one with a wide fan-out is served
    among more, so only calls of one stage are compared with each other: log(seconds of a token) is fitted
    as an effect of the stage plus one of b, by least squares.

    Attributes:
        seen: by stage and b.
    """

    seen: Mapping[tuple[str, int], BatchSums] = field(default_factory=dict)

    def observe(self, calls: Iterable[Served]) -> Calibration:
        """The same with more calls; those whose tokens nobody counted say nothing."""
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
        """(b, l(b) / l(1)) of each b of which enough was seen, both ascending; nothing if that is not two.

        A backend never gets faster for being asked for more: where the fit says so, its points are
        replaced by their common mean (isotonic regression by pooling adjacent violators).
        """
        told: dict[tuple[str, int], tuple[int, float]] = {}
        for at, tally in self.seen.items():
            if (token_s := tally.token_s()) is not None:
                told[at] = (tally.calls, tally.calls * log(token_s))
        stages: dict[str, float] = dict.fromkeys((stage for stage, _ in told), 0.0)
        effects: dict[int, float] = dict.fromkeys(sorted({b for _, b in told}), 0.0)
        if len(effects) < 2:
            return ()
        weights: dict[int, float] = dict.fromkeys(effects, PRIOR_CALLS)
        for (_, b), (count, _) in told.items():
            weights[b] += count
        for _ in range(SWEEPS):
            counts, sums = dict.fromkeys(stages, 0), dict.fromkeys(stages, 0.0)
            for (stage, b), (count, total) in told.items():
                counts[stage] += count
                sums[stage] += total - count * effects[b]
            stages = {stage: sums[stage] / counts[stage] for stage in stages}
            rests = dict.fromkeys(effects, 0.0)
            for (stage, b), (count, total) in told.items():
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

    def pace(self, concurrency: float) -> float:
        """l(b) / l(1): how many times as long a token takes; a line between what was seen, level beyond."""
        curve = self.curve
        if not curve or concurrency <= curve[0][0]:
            return 1.0
        for (low, low_pace), (high, high_pace) in pairwise(curve):
            if concurrency <= high:
                return low_pace + (high_pace - low_pace) * (concurrency - low) / (high - low)
        return curve[-1][1]

    def at_capacity(self, concurrency: float) -> float:
        """How many times as long a call takes when the backend is as busy as it gets: l(b_ref) / l(b).

        b_ref is the largest b that was seen. Only then do calls wait and does their order matter, so that
        is what work is counted in.
        """
        return self.curve[-1][1] / self.pace(concurrency) if self.curve else 1.0
