"""The API for policy authors: the protocol, the view of a job, and the parts of a belief.

from llmsched_langgraph import Scheduler
from llmsched_langgraph.policies import JobView, Needs


class LongestWork:
    name = "longest"
    needs = Needs.MEAN

    def order(self, job: JobView, now: float) -> float:
        return -job.remaining_s


scheduler = Scheduler(8, policy=LongestWork())
"""

from __future__ import annotations

from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._core.policies import POLICIES, Policy, llmsched
from llmsched_langgraph._core.view import JobView, Needs, PolicyEvent
from llmsched_langgraph._ledger.exploration import Exploration

__all__ = ["POLICIES", "Exploration", "JobInfo", "JobView", "Needs", "Policy", "PolicyEvent", "llmsched"]
