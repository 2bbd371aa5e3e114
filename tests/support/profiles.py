"""Profiles of recorded jobs, as several workers could have them."""

from __future__ import annotations

from dataclasses import replace

from llmsched_langgraph.belief.learning import learn
from llmsched_langgraph.belief.merging import taught_by
from llmsched_langgraph.belief.outcome import outcome_of_trace
from llmsched_langgraph.belief.template import template_of
from support.beliefs import fan_job

TEMPLATE = template_of("fan", [fan_job(n, 2) for n in range(2)])


def job(number, *, by="", at=None):
    """What a job of the application `fan` did, how wide it was following from its number."""
    outcome = outcome_of_trace(fan_job(number, 1 + number % 3))
    return replace(outcome, id=f"{by}{number}", ended_at=float(number if at is None else at))


def profile(numbers, *, by="", at=None, modelled=None):
    """The profile of these jobs; with a model, if it is said when it was learned."""
    outcomes = [job(n, by=by, at=at) for n in numbers]
    own = taught_by(TEMPLATE, outcomes)
    if modelled is None:
        return own
    return replace(own, model=learn(TEMPLATE, outcomes, correlated=False), modelled=modelled)


def ids(own):
    return [outcome.id for outcome in own.outcomes]
