"""Profiles of recorded jobs, as several workers could have them."""

from __future__ import annotations

from dataclasses import replace

from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._belief.profile.merging import profile_from_jobs
from support.beliefs import fan_job

TEMPLATE = template_of("fan", [fan_job(n, 2) for n in range(2)])


def job(number, *, by="", at=None):
    """A job of the application `fan`, how wide it was following from its number."""
    at_s = float(number if at is None else at)
    return replace(fan_job(number, 1 + number % 3), id=f"{by}{number}", arrival_s=at_s)


def profile(numbers, *, by="", at=None, modelled=None):
    """The profile of these jobs; with a model, if it is said when it was learned."""
    own = profile_from_jobs(TEMPLATE, [job(n, by=by, at=at) for n in numbers])
    if modelled is None:
        return own
    return replace(own, model=learn(TEMPLATE, own.outcomes, correlated=False), modelled=modelled)


def ids(own):
    return [job.id for job in own.history.jobs]
