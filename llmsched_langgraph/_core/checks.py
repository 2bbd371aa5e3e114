"""Checks that the jobs' own counts agree with the ledger.

Does not check the ledger itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmsched_langgraph._core.job import Job
from llmsched_langgraph._ledger.values import LedgerView


def check_jobs(jobs: Sequence[Job], view: LedgerView, running: int) -> None:
    """Raise AssertionError unless each job's calls are those of the ledger, and `running` jobs are active."""
    waiting = Counter(claim.lane[1] for claim in view.waiting.values())
    holding = Counter(grant.lane[1] for grant in view.holding.values())
    assert waiting.keys() <= {job.number for job in jobs}, "a waiting ticket has lost its job"
    active = 0
    for job in jobs:
        job.check()
        assert job.progress.waiting == waiting[job.number], "a job's waiting calls"
        held = job.progress.holding + job.progress.using
        assert held == holding[job.number], "a job's calls in slots"
        assert job.outcome is None or job.progress.outstanding, "an ended job stays"
        active += job.id is not None and job.active
    assert active == running, "jobs that run"
