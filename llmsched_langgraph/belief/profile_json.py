"""Knows how a profile is written as JSON, whole or of one application, and how it is read back.

Does not know files or stores, nor how profiles are merged. Outcomes are lists of numbers, as there are
many: all names in them stand once, in `names`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from sys import float_info
from typing import Any

from llmsched_langgraph.belief.calibration import Calibration, Tally
from llmsched_langgraph.belief.model import ApplicationModel
from llmsched_langgraph.belief.outcome import JobOutcome, Part, StageOutcome
from llmsched_langgraph.belief.profile import ApplicationProfile, Mean, Profile
from llmsched_langgraph.dag.exchange import application_from_json, application_to_json
from llmsched_langgraph.dag.experience import NodeSeen
from llmsched_langgraph.dag.position import Spot
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.fields import Field

VERSION = 1
"""Of the form that is written."""

ONE = "llmsched-application-profile"
"""The format's name where it is the profile of one application."""

ALL = "llmsched-profile"
"""The format's name where it is that of all applications."""


def application_profile_to_json(profile: ApplicationProfile) -> dict[str, Any]:
    """Plain JSON data; `application_profile_from_json` of it is equal to this profile.

    An outcome is `[id, ended_at, application, prompt_tokens, complete, stages]`; a stage `[path, occurrence,
    parts]`; a part `[tool, runs, calls, work_s, prompt_tokens, output_tokens, tool_s]`. Application, path and
    tool are places in `names`, from 0, or null. A node is `[path, runs, calls, side_by_side, occurrences]`.
    """
    names: dict[str, int] = {}
    outcomes = [_outcome_to_json(outcome, names) for outcome in profile.outcomes]
    return {
        "format": ONE,
        "version": VERSION,
        "application": application_to_json(profile.application),
        "forgotten_before": profile.forgotten_before,
        "jobs": profile.jobs,
        "call": [profile.call.count, profile.call.value],
        "nodes": [
            [path, seen.runs, seen.calls, seen.side_by_side, seen.occurrences]
            for path, seen in profile.nodes.items()
        ],
        "names": list(names),
        "outcomes": outcomes,
        "model": None if profile.model is None else profile.model.to_json(),
        "modelled": profile.modelled,
    }


def application_profile_from_json(data: object) -> ApplicationProfile:
    """The profile that `application_profile_to_json` wrote.

    Raises:
        InvalidDataError: the data is damaged, or of a newer version; the message names the field.
    """
    given = Field.of(data)
    _check(given, ONE)
    application = application_from_json(given["application"])
    model = given.get("model")
    learned = None if model is None else ApplicationModel.from_json(model)
    if model is not None and learned is not None and learned.fingerprint != application.fingerprint:
        raise model["fingerprint"].fault(f"{application.fingerprint!r}, that of the application")
    names = [name.string() for name in given["names"].items()]
    return ApplicationProfile(
        application,
        tuple(_outcome(outcome, names) for outcome in given["outcomes"].items()),
        dict(_node(node) for node in given["nodes"].items()),
        given["jobs"].count(),
        _mean(given["call"]),
        learned,
        given["modelled"].count(),
        given["forgotten_before"].number(),
    )


def profile_to_json(profile: Profile) -> dict[str, Any]:
    """Plain JSON data of all applications; `profile_from_json` of it is equal to this profile.

    What was seen of a backend is `[stage, b, *Tally]`.
    """
    return {
        "format": ALL,
        "version": VERSION,
        "job": [profile.job.count, profile.job.value],
        "call": [profile.call.count, profile.call.value],
        "paces": [
            {"backend": backend, "seen": [[*at, *tally] for at, tally in pace.seen.items()]}
            for backend, pace in profile.paces.items()
        ],
        "applications": [application_profile_to_json(own) for own in profile.applications.values()],
    }


def profile_from_json(data: object) -> Profile:
    """The profile that `profile_to_json` wrote.

    Raises:
        InvalidDataError: the data is damaged, or of a newer version; the message names the field.
    """
    given = Field.of(data)
    _check(given, ALL)
    applications: dict[str, ApplicationProfile] = {}
    for field in given["applications"].items():
        own = application_profile_from_json(field)
        if own.application.fingerprint in applications:
            raise field["application"]["fingerprint"].fault("another one than those before it")
        applications[own.application.fingerprint] = own
    paces = {pace["backend"].string(): _pace(pace["seen"]) for pace in given["paces"].items()}
    return Profile(applications, _mean(given["job"]), _mean(given["call"]), paces)


def profiles_from_json(data: object) -> list[ApplicationProfile]:
    """The profiles in data of either form. Raises as the two do."""
    given = Field.of(data)
    if given["format"].value == ONE:
        return [application_profile_from_json(given)]
    return list(profile_from_json(given).applications.values())


def _check(given: Field, name: str) -> None:
    form, version = given["format"], given["version"]
    if form.value != name:
        raise form.fault(repr(name))
    if version.count(least=1) > VERSION:
        raise InvalidDataError(
            f"{version.field}: {version.value} is of a newer llmsched-langgraph than this one, which reads "
            f"up to {VERSION}; upgrade it"
        )


def _outcome_to_json(outcome: JobOutcome, names: dict[str, int]) -> list[Any]:
    def place(name: str) -> int:
        return names.setdefault(name, len(names))

    return [
        outcome.id,
        outcome.ended_at,
        place(outcome.application),
        outcome.prompt_tokens,
        int(outcome.complete),
        [
            [
                place(stage.spot.path),
                stage.spot.occurrence,
                [
                    [
                        None if part.tool is None else place(part.tool),
                        part.runs,
                        part.calls,
                        part.work_s,
                        part.prompt_tokens,
                        part.output_tokens,
                        part.tool_s,
                    ]
                    for part in stage.parts
                ],
            ]
            for stage in outcome.stages
        ],
    ]


def _outcome(data: Field, names: Sequence[str]) -> JobOutcome:
    number, ended_at, application, prompt_tokens, complete, stages = data.items(6)
    return JobOutcome(
        _name(application, names),
        tuple(_stages(stages.items(), names)),
        prompt_tokens.maybe_count(),
        bool(complete.count(1)),
        number.string(),
        ended_at.number(),
    )


def _stages(rows: Iterable[Field], names: Sequence[str]) -> Iterable[StageOutcome]:
    for row in rows:
        path, occurrence, parts = row.items(3)
        yield StageOutcome(
            Spot(_name(path, names), occurrence.count(least=1)),
            tuple(_part(part, names) for part in parts.items()),
        )


def _part(data: Field, names: Sequence[str]) -> Part:
    tool, runs, calls, work_s, prompt_tokens, output_tokens, tool_s = data.items(7)
    return Part(
        None if tool.value is None else _name(tool, names),
        runs.count(),
        calls.count(),
        work_s.maybe_number(),
        prompt_tokens.maybe_count(),
        output_tokens.maybe_count(),
        tool_s.maybe_number(),
    )


def _name(place: Field, names: Sequence[str]) -> str:
    if type(place.value) is not int or not 0 <= place.value < len(names):
        raise place.fault(f"a place in names, which has {len(names)}")
    return names[place.value]


def _node(data: Field) -> tuple[str, NodeSeen]:
    path, runs, calls, side_by_side, occurrences = data.items(5)
    return path.string(), NodeSeen(runs.count(), calls.count(), side_by_side.count(), occurrences.count())


def _pace(data: Field) -> Calibration:
    seen = {}
    for row in data.items():
        stage, b, calls, *sums = row.items(2 + len(Tally._fields))
        seen[stage.string(), b.count(least=1)] = Tally(
            calls.count(), *(x.number(float_info.max) for x in sums)
        )
    return Calibration(seen)


def _mean(data: Field) -> Mean:
    count, value = data.items(2)
    return Mean(count.count(), value.number())
