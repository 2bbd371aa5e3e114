"""Knows how much longer a token takes the more calls a backend serves at once.

Does not know jobs or stages. A value: `observe` gives a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

LEAST_TOKENS = 2_000
"""Output tokens that must have been seen at one number of calls before its pace is believed."""

LEAST_OUTPUT = 16
"""Output tokens of a call under which its seconds say more of its prompt than of decoding."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """l(b) of one backend: seconds of an output token when `b` calls are served side by side.

    Attributes:
        seen: by the number of calls, the seconds and output tokens of those served beside so many.
    """

    seen: Mapping[int, tuple[float, int]] = field(default_factory=dict)

    def observe(self, calls: Iterable[tuple[float, float, int | None]]) -> Calibration:
        """The same with more calls: calls side by side, seconds in the slot, output tokens of each."""
        seen = dict(self.seen)
        for side_by_side, seconds, tokens in calls:
            if tokens is not None and tokens >= LEAST_OUTPUT:
                at = max(1, round(side_by_side))
                before_s, before = seen.get(at, (0.0, 0))
                seen[at] = (before_s + seconds, before + tokens)
        return Calibration(seen)

    def curve(self) -> tuple[tuple[int, float], ...]:
        """(b, seconds a token) of each b of which enough was seen, both ascending.

        A backend never gets faster for being asked for more: where measured points say so, they are
        replaced by their common mean (isotonic regression by pooling adjacent violators).
        """
        blocks: list[tuple[list[int], float, int]] = []
        for b, (seconds, tokens) in sorted(self.seen.items()):
            if tokens < LEAST_TOKENS:
                continue
            blocks.append(([b], seconds, tokens))
            while len(blocks) > 1 and blocks[-2][1] / blocks[-2][2] > blocks[-1][1] / blocks[-1][2]:
                (low, low_s, low_n), (high, high_s, high_n) = blocks[-2:]
                blocks[-2:] = [(low + high, low_s + high_s, low_n + high_n)]
        return tuple((b, seconds / tokens) for bs, seconds, tokens in blocks for b in bs)

    def token_s(self, side_by_side: float) -> float | None:
        """l(b): seconds of a token, between and beyond the measured points in a straight line or level.

        None as long as nothing is known.
        """
        curve = self.curve()
        if not curve:
            return None
        if side_by_side <= curve[0][0]:
            return curve[0][1]
        for (low, low_s), (high, high_s) in pairwise(curve):
            if side_by_side <= high:
                return low_s + (high_s - low_s) * (side_by_side - low) / (high - low)
        return curve[-1][1]

    def at_capacity(self, side_by_side: float) -> float:
        """How many times as long a call takes when the backend is as busy as it gets: l(b_ref) / l(b).

        b_ref is the largest b of which enough was seen. Only then do calls wait and does their order
        matter, so that is what work is counted in. 1 as long as nothing is known.
        """
        curve, here = self.curve(), self.token_s(side_by_side)
        return curve[-1][1] / here if curve and here else 1.0
