"""Reads the calls of a running job that have ended, and forecasts what it will have spent at its end.

Does not decide whether the job goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmsched_langgraph._core.budgets import Spending
from llmsched_langgraph._core.ordering import BeliefWanted
from llmsched_langgraph._core.view import Needs
from llmsched_langgraph._jobs.calls import FinishedCall

if TYPE_CHECKING:
    from llmsched_langgraph._belief.profile.profile import ApplicationProfile
    from llmsched_langgraph._core.machine import SchedulerMachine


class Standing(NamedTuple):
    """A job at one moment: a snapshot, independent of the machine.

    Attributes:
        elapsed_s: seconds since its arrival, without those for which it was paused.
        calls: the calls that have ended.
        work_s: slot-seconds that it has received, including those of running calls.
        pending: number of its calls that wait or run.
        known: the profile of its application; None if there is none.
        wanted: computes the belief of its remaining work; None without a model.
    """

    elapsed_s: float
    calls: tuple[FinishedCall, ...]
    work_s: float
    pending: int
    known: ApplicationProfile | None
    wanted: BeliefWanted | None

    def forecast(self, spent: Spending) -> Spending | None:
        """Return what the job is expected to have spent at its end; None if nothing is known.

        The expected remaining work is the mean of the belief, or without a model the mean of earlier jobs
        less the work received. Tokens, calls, cost and time are expected to grow by the same share of what
        earlier jobs spent on average. At least what runs or waits already will be spent. May take
        milliseconds.
        """
        known = self.known
        jobs = () if known is None else known.history.limited[-JOBS:]
        if known is None or not jobs:
            return None
        calls = [call for job in jobs for call in job.llm_calls()]
        tokens = sum((call.prompt_tokens or 0) + (call.output_tokens or 0) for call in calls) / len(jobs)
        times_s = [job.jct_s for job in jobs if job.jct_s is not None]
        if known.mean_s > 0.0:
            if self.wanted is None:
                remaining_s = max(known.mean_s - self.work_s, 0.0)
            else:
                remaining_s = max(self.wanted.belief().mean, 0.0)
            share = remaining_s / known.mean_s
        else:
            remaining_s, share = 0.0, max(1.0 - spent.calls * len(jobs) / max(len(calls), 1), 0.0)
        mean_calls = len(calls) / len(jobs)
        priced = spent.calls - spent.unpriced_calls
        cost = share * mean_calls * spent.cost / priced if priced > 0 else 0.0
        time_s = share * sum(times_s) / len(times_s) if times_s else remaining_s
        return Spending(
            spent.tokens + round(share * tokens),
            spent.calls + max(round(share * mean_calls), self.pending),
            max(spent.slot_s, self.work_s) + remaining_s,
            spent.cost + cost,
            spent.elapsed_s + time_s,
            spent.unmeasured_calls,
            spent.unpriced_calls,
        )


JOBS = 100
"""Number of the latest earlier jobs over which a forecast averages."""


def standing_of(machine: SchedulerMachine, id_: int, now: float) -> Standing | None:
    """Return where the active job with this id of the driver stands; None if there is none."""
    job = machine.active(id_)
    if job is None:
        return None
    progress, wanted = job.progress, None
    known = machine.profile.applications.get(job.fingerprint)
    if known is not None and known.model is not None:
        wanted = BeliefWanted(job.number, known.model, job.evidence(now), Needs.MEAN)
    elapsed_s = now - job.arrival_s - job.paused_s
    pending = sum(work.calls - work.done for work in progress.works.values())
    calls, work_s = tuple(progress.finished.values()), progress.work_s(now)
    return Standing(elapsed_s, calls, work_s, pending, known, wanted)
