"""Merges profiles of one application from several workers, and builds profiles from ended jobs.

Does not read stores or communicate with workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import inf

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.profile import profile
from llmsched_langgraph._belief.profile.profile import ApplicationProfile, History, Profile, order
from llmsched_langgraph._jobs.ended import EndedJob


def merged(one: ApplicationProfile, other: ApplicationProfile) -> ApplicationProfile:
    """Merge two profiles of an application: commutative, associative and idempotent.

    - Jobs are united by id, sorted by `order`, and limited to the newest `HISTORY` that ended at or after the
      later `forgotten_before`. Of two records of a job, the one with the later end is kept.
    - A given model wins over a learned one, unless the other profile has forgotten jobs later. Otherwise the
      model learned from more jobs (`modelled`) wins.
    - The application is that of the newest job.
    - `counted` is the maximum, because workers that share a store may have counted the same jobs.

    Raises:
        ValueError: the profiles belong to different applications.
    """
    if one.application.fingerprint != other.application.fingerprint:
        raise ValueError(f"{one.application.name} and {other.application.name} are different applications")
    since = max(one.forgotten_before, other.forgotten_before)
    learned = _learned_from_more(one, other, since)
    return ApplicationProfile(
        application=max(one, other, key=_newest).application,
        history=_united((*one.history.jobs, *other.history.jobs), since),
        counted=max(one.counted, other.counted),
        model=learned.model,
        modelled=learned.modelled,
        forgotten_before=since,
    )


def profile_from_jobs(application: Application, jobs: Iterable[EndedJob]) -> ApplicationProfile:
    """Return the profile, without a model, of the newest `HISTORY` of these jobs."""
    new = History().new(jobs)
    return ApplicationProfile(application, _united(new), len(new))


def profile_of(applications: Iterable[ApplicationProfile]) -> Profile:
    """Return the profile of these applications, at most one profile per application."""
    return Profile({own.application.fingerprint: own for own in applications})


def _united(jobs: Iterable[EndedJob], since: float = 0.0) -> History:
    latest: dict[str, EndedJob] = {}
    for job in jobs:
        known = latest.get(job.id)
        if known is None or (known != job and _told(known) < _told(job)):
            latest[job.id] = job
    kept = sorted((job for job in latest.values() if job.ended_at >= since), key=order)
    return History(tuple(kept[-profile.HISTORY :]))


def _told(job: EndedJob) -> tuple[float, str]:
    return job.ended_at, repr(job)


def _newest(own: ApplicationProfile) -> tuple[tuple[float, str], str]:
    return max(map(order, own.history.jobs), default=(-inf, "")), repr(own.application)


def _learned_from_more(
    one: ApplicationProfile, other: ApplicationProfile, since: float
) -> ApplicationProfile:
    ranks = [
        (own.model.given and own.forgotten_before == since, own.modelled, own.model.jobs)
        if own.model
        else (False, -1, 0)
        for own in (one, other)
    ]
    if ranks[0] == ranks[1] and one.model and other.model and one.model != other.model:
        return max((one, other), key=lambda own: json.dumps(own.model and own.model.to_json()))
    return one if ranks[0] >= ranks[1] else other
