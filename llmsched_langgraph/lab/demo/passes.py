"""Knows the figures of one pass: how long its runs took, and how much the backend had at once.

Does not know what was run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: job completion times in seconds, and the most requests the backend had at once."""

    mean_jct_s: float
    p50_jct_s: float
    p95_jct_s: float
    makespan_s: float
    backend_peak: int

    @classmethod
    def of(cls, runs: Sequence[tuple[float, float]], backend_peak: int) -> Pass:
        """The figures of runs, each with when it arrived and when it ended."""
        jcts = np.array([end - arrival for arrival, end in runs])
        return cls(
            mean_jct_s=float(jcts.mean()),
            p50_jct_s=float(np.percentile(jcts, 50)),
            p95_jct_s=float(np.percentile(jcts, 95)),
            makespan_s=max(end for _, end in runs) - min(arrival for arrival, _ in runs),
            backend_peak=backend_peak,
        )
