"""Knows what several workers' profiles of one application teach together, and what a list of outcomes does.

Does not know where profiles are kept, nor which worker wrote which.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import inf
from typing import NamedTuple

from llmsched_langgraph.belief.outcome import JobOutcome
from llmsched_langgraph.belief.profile import HISTORY, ApplicationProfile, Mean, Profile
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.experience import NodeSeen


def merged(one: ApplicationProfile, other: ApplicationProfile) -> ApplicationProfile:
    """What two profiles of an application teach together, whichever of them is named first.

    Outcomes are united by their ids, so that no job counts twice. The newest `HISTORY` are kept, and none
    that ended before the later `forgotten_before`: in whatever order profiles are merged, and however often,
    the same outcomes are left. Those without an id are told apart by what happened and when, so that of
    equal ones in two profiles one is left.

    `jobs`, `call`, and the runs and calls of `nodes` count each remembered job once. Which jobs that are not
    remembered any more both profiles have counted, nobody knows: the larger count is taken, as if one
    contained the other, which holds where workers began with the same stored profile. So a count is at
    least either profile's, and never more than the truth; what it lacks is what workers forgot apart.

    Of two models the one learned from more jobs (`modelled`) is kept, but a given one before one that was
    learned, as long as the other profile has not forgotten jobs since. Of two applications that of the
    newest outcome is kept.

    Raises:
        ValueError: they are of different applications.
    """
    if one.application.fingerprint != other.application.fingerprint:
        raise ValueError(f"{one.application.name} and {other.application.name} are different applications")
    sides = (one, _aged(one.outcomes)), (other, _aged(other.outcomes))
    united = _united(own for _, own in sides)
    since = max(one.forgotten_before, other.forgotten_before)
    kept = [outcome for age, outcome in sorted(united.items()) if age.ended_at >= since]
    # From here on both remember every job.
    cut = max(_remembers_since(*side) for side in sides)
    together = _Tally.of(_from(cut, united))
    apart = [_Tally.of_profile(profile).less(_Tally.of(_from(cut, own))) for profile, own in sides]
    newest, _ = max(sides, key=lambda side: (max(side[1], default=_EVER), repr(side[0].application)))
    learned = _learned_from_more(one, other, since)
    return ApplicationProfile(
        newest.application,
        tuple(kept[-HISTORY:]),
        {path: _node(path, one, other, together, apart) for path in sorted({*one.nodes, *other.nodes})},
        together.jobs + max(own.jobs for own in apart),
        together.call(apart),
        learned.model,
        learned.modelled,
        since,
    )


def taught_by(application: Application, outcomes: Iterable[JobOutcome]) -> ApplicationProfile:
    """What these jobs of an application teach, without a model; the newest `HISTORY` are remembered."""
    united = _united([_aged(outcomes)])
    tally = _Tally.of(united.values())
    return ApplicationProfile(
        application,
        tuple(outcome for _, outcome in sorted(united.items()))[-HISTORY:],
        tally.seen,
        tally.jobs,
        tally.call(),
    )


def profile_of(applications: Iterable[ApplicationProfile]) -> Profile:
    """The profile of all of these, one of each application.

    The mean work of a job is that of the jobs remembered, each application weighing as much as it had jobs.
    """
    given = list(applications)
    jobs = sum(own.jobs for own in given)
    calls = sum(own.call.count for own in given)
    return Profile(
        {own.application.fingerprint: own for own in given},
        _mean(jobs, sum(own.jobs * own.mean_s for own in given)),
        _mean(calls, sum(own.call.count * own.call.value for own in given)),
    )


class _Age(NamedTuple):
    """When a job ended, and which one it was; the later one is larger, and no two have the same."""

    ended_at: float
    id: str = ""
    did: str = ""  # what happened in it, if it has no id
    copy: int = 0  # which of those without an id in which the same happened


_EVER, _NEVER = _Age(-inf), _Age(inf)


def _aged(outcomes: Iterable[JobOutcome]) -> dict[_Age, JobOutcome]:
    copies: Counter[str] = Counter()
    found = {}
    for outcome in outcomes:
        did = "" if outcome.id else repr(outcome)
        found[_Age(outcome.ended_at, outcome.id, did, copies[did])] = outcome
        copies[did] += bool(did)
    return found


def _united(sides: Iterable[Mapping[_Age, JobOutcome]]) -> dict[_Age, JobOutcome]:
    """Each job once; if the same one is told in two ways, the later, or else the one that sorts last."""
    latest: dict[tuple[str, str, int], tuple[_Age, JobOutcome]] = {}
    for own in sides:
        for age, outcome in own.items():
            known = latest.get(age[1:])
            if known is None or known[0] < age or (known[0] == age and repr(known[1]) < repr(outcome)):
                latest[age[1:]] = age, outcome
    return dict(latest.values())


def _remembers_since(profile: ApplicationProfile, outcomes: Mapping[_Age, JobOutcome]) -> _Age:
    """The oldest job from which on the profile remembers all."""
    if profile.jobs <= len(outcomes):
        return _EVER
    forgot = _Age(profile.forgotten_before) if profile.forgotten_before else _NEVER
    return min(outcomes, default=forgot)


def _from(cut: _Age, outcomes: Mapping[_Age, JobOutcome]) -> Iterable[JobOutcome]:
    return (outcome for age, outcome in outcomes.items() if age >= cut)


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


def _node(
    path: str, one: ApplicationProfile, other: ApplicationProfile, together: _Tally, apart: Iterable[_Tally]
) -> NodeSeen:
    counted = together.seen.get(path, NodeSeen())
    most = one.nodes.get(path, NodeSeen()) + other.nodes.get(path, NodeSeen())
    return replace(
        most,
        runs=counted.runs + max(own.seen.get(path, NodeSeen()).runs for own in apart),
        calls=counted.calls + max(own.seen.get(path, NodeSeen()).calls for own in apart),
    )


class _Tally(NamedTuple):
    """How many jobs there were, what their nodes did, and their calls with the work of all."""

    jobs: int
    seen: dict[str, NodeSeen]
    calls: int
    work_s: float

    @classmethod
    def of(cls, outcomes: Iterable[JobOutcome]) -> _Tally:
        jobs = calls = 0
        work_s = 0.0
        seen: dict[str, NodeSeen] = {}
        for outcome in outcomes:
            jobs += 1
            work_s += outcome.work_s
            for stage in outcome.stages:
                path, runs = stage.spot.path, stage.fan_out
                calls += stage.calls
                here = NodeSeen(runs, stage.calls, runs, stage.spot.occurrence)
                seen[path] = seen.get(path, NodeSeen()) + here
        return cls(jobs, seen, calls, work_s)

    @classmethod
    def of_profile(cls, profile: ApplicationProfile) -> _Tally:
        call = profile.call
        return cls(profile.jobs, dict(profile.nodes), call.count, call.count * call.value)

    def less(self, other: _Tally) -> _Tally:
        """The counts without those of the other, which may leave less than nothing."""
        seen = {}
        for path in self.seen.keys() | other.seen.keys():
            own, its = self.seen.get(path, NodeSeen()), other.seen.get(path, NodeSeen())
            seen[path] = NodeSeen(own.runs - its.runs, own.calls - its.calls)
        return _Tally(self.jobs - other.jobs, seen, self.calls - other.calls, self.work_s - other.work_s)

    def call(self, apart: Iterable[_Tally] = ()) -> Mean:
        """The mean of all these calls and of the most that any of `apart` has."""
        calls, work_s = max(((own.calls, own.work_s) for own in apart), default=(0, 0.0))
        return _mean(self.calls + calls, self.work_s + work_s)


def _mean(count: int, total: float) -> Mean:
    return Mean(count, max(total, 0.0) / count) if count else Mean()
