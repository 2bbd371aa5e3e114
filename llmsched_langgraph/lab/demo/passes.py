"""Computes the metrics of one pass: job completion times, makespan and the backend's peak.

Does not run anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: times in seconds, and the most requests that the backend had in flight at once."""

    mean_jct_s: float
    p50_jct_s: float
    p95_jct_s: float
    makespan_s: float
    backend_peak: int

    @classmethod
    def of(cls, runs: Sequence[tuple[float, float]], backend_peak: int) -> Pass:
        """Return the metrics of a pass.

        Args:
            runs: (arrival, end) of each run, in seconds.
            backend_peak: most requests that the backend had in flight at once.
        """
        jcts = np.array([end - arrival for arrival, end in runs])
        return cls(
            mean_jct_s=float(jcts.mean()),
            p50_jct_s=float(np.percentile(jcts, 50)),
            p95_jct_s=float(np.percentile(jcts, 95)),
            makespan_s=max(end for _, end in runs) - min(arrival for arrival, _ in runs),
            backend_peak=backend_peak,
        )
