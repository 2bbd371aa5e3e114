"""Converts profiles, whole or of one application, to and from JSON data.

Does not read or write files or stores, or merge profiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from sys import float_info
from typing import Any

# The package first: a thread that imports one of its modules holds the module's lock while it waits for the
# package; another thread that imports the package waits for the module. Python breaks such a deadlock with an
# ImportError.
import llmsched_langgraph.traces  # noqa: F401
from llmsched_langgraph._application.application import Application
from llmsched_langgraph._application.serialization import application_from_json, application_to_json
from llmsched_langgraph._belief.fit.calibration import BatchSums, Calibration
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._belief.profile.profile import ApplicationProfile, History, Profile
from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import EndedCall, EndedJob, EndedStage, EndedStageRun
from llmsched_langgraph._jobs.observed import numbered
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces.form import job_from_node, node_from_job

VERSION = 3
"""Format version that is written. Earlier ones are read."""

NESTED = 3
"""Format version since which inner loops have counters of their own."""

ONE = "llmsched-application-profile"
"""Format name of the profile of one application."""

ALL = "llmsched-profile"
"""Format name of the profile of all applications."""


def application_profile_to_json(profile: ApplicationProfile) -> dict[str, Any]:
    """Return plain JSON data, from which `application_profile_from_json` restores the profile.

    `history` is a list of jobs in the trace format.
    """
    return {
        "format": ONE,
        "version": VERSION,
        "application": application_to_json(profile.application),
        "forgotten_before": profile.forgotten_before,
        "jobs": profile.counted,
        "history": [node_from_job(job) for job in profile.history.jobs],
        "model": None if profile.model is None else profile.model.to_json(),
        "modelled": profile.modelled,
    }


def application_profile_from_json(data: object) -> ApplicationProfile:
    """Return the profile that `application_profile_to_json` wrote.

    Raises:
        InvalidDataError: the data is damaged, or has a newer version; the message names the field.
    """
    given = Field.of(data)
    _check(given, ONE)
    application = application_from_json(given["application"])
    old = given["version"].value < NESTED
    other = old and bool(application.inner_loops)  # The model's occurrences have other numbers.
    model = None if other else given.get("model")
    learned = None if model is None else ApplicationModel.from_json(model)
    if model is not None and learned is not None and learned.fingerprint != application.fingerprint:
        raise model["fingerprint"].fault(f"{application.fingerprint!r}, as in the application")
    history = (
        _old_jobs(given, application)
        if given["version"].value == 1
        else _jobs(given["history"], application, old=old)
    )
    return ApplicationProfile(
        application=application,
        history=history,
        counted=given["jobs"].count(),
        model=learned,
        modelled=0 if other else given["modelled"].count(),
        forgotten_before=given["forgotten_before"].number(),
    )


def _jobs(data: Field, application: Application, *, old: bool) -> History:
    jobs = []
    for node in data.items():
        try:
            job = job_from_node(node)
            jobs.append(numbered(job, application) if old or not job.watched else job)
        except InvalidDataError as error:
            raise error if str(error).startswith(node.field) else node.placed(error) from None
    if len({job.id for job in jobs}) < len(jobs):
        raise data.fault("jobs with distinct ids")
    return History(tuple(jobs))


def profile_to_json(profile: Profile) -> dict[str, Any]:
    """Return plain JSON data, from which `profile_from_json` restores the profile.

    The rows of `seen` are `[stage, b, *BatchSums]`.
    """
    return {
        "format": ALL,
        "version": VERSION,
        "paces": [
            {"backend": backend, "seen": [[*at, *sums] for at, sums in calibration.seen.items()]}
            for backend, calibration in profile.slowdowns.items()
        ],
        "applications": [application_profile_to_json(own) for own in profile.applications.values()],
    }


def profile_from_json(data: object) -> Profile:
    """Return the profile that `profile_to_json` wrote.

    Raises:
        InvalidDataError: the data is damaged, or has a newer version; the message names the field.
    """
    given = Field.of(data)
    _check(given, ALL)
    applications: dict[str, ApplicationProfile] = {}
    for field in given["applications"].items():
        own = application_profile_from_json(field)
        if own.application.fingerprint in applications:
            raise field["application"]["fingerprint"].fault("different from all previous ones")
        applications[own.application.fingerprint] = own
    slowdowns = {own["backend"].string(): _calibration(own["seen"]) for own in given["paces"].items()}
    return Profile(applications, slowdowns)


def profiles_from_json(data: object) -> list[ApplicationProfile]:
    """Return the application profiles in data of either format. Raises as the two readers do."""
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
            f"{version.field}: {version.value} requires a newer llmsched-langgraph; this one reads "
            f"versions up to {VERSION}; upgrade the package"
        )


def _old_jobs(given: Field, application: Application) -> History:
    """Convert the outcomes of version 1 to equivalent jobs.

    In version 1, an outcome is `[id, ended_at, application, prompt_tokens, complete, stages]`, a stage is
    `[path, occurrence, parts]`, and a part is `[tool, runs, calls, work_s, prompt_tokens, output_tokens,
    tool_s]`. A path or tool is an index into `names`; a tool may be null.
    """
    names = [name.string() for name in given["names"].items()]
    jobs = [
        numbered(_old_job(outcome, application.name, names), application)
        for outcome in given["outcomes"].items()
    ]
    return History(tuple(History().new(jobs)))


def _old_job(data: Field, app: str, names: Sequence[str]) -> EndedJob:
    number, ended_at, _, prompt_tokens, complete, rows = data.items(6)
    stages: list[EndedStage] = []
    runs: list[EndedStageRun] = []
    for row in rows.items():
        path, occurrence, parts = row.items(3)
        for part in parts.items():
            own = _old_part(part, _name(path, names), occurrence.count(least=1), names)
            deps = (len(stages) - 1,) if stages else ()  # the order is known, and nothing else
            stages += [replace(stage, run=len(runs), deps=deps) for stage in own[1]]
            runs += own[0]
    if stages and (first := prompt_tokens.maybe_count()) is not None:
        calls = stages[0].calls
        stages[0] = replace(stages[0], calls=(replace(calls[0], prompt_tokens=first), *calls[1:]))
    return EndedJob(
        id=number.string(),
        app=app,
        stages=tuple(stages),
        runs=tuple(runs),
        arrival_s=ended_at.number(),
        end="done" if complete.count(1) else "failed",
    )


def _old_part(
    data: Field, name: str, occurrence: int, names: Sequence[str]
) -> tuple[list[EndedStageRun], list[EndedStage]]:
    tool, runs, calls, work_s, prompt_tokens, output_tokens, tool_s = data.items(7)
    used = None if tool.value is None else _name(tool, names)
    wide, asked, seconds = runs.count(), calls.count(), tool_s.maybe_number() or 0.0
    ran = [EndedStageRun(name, occurrence, seconds / max(wide, 1), tool=used) for _ in range(wide)]
    if not asked:
        return ran, []
    work, prompt, output = work_s.maybe_number(), prompt_tokens.maybe_count(), output_tokens.maybe_count()
    each = None if work is None else work / asked
    made = [EndedCall(_part_of(prompt, n, asked), _part_of(output, n, asked), each) for n in range(asked)]
    return ran, [EndedStage(name=name, kind="llm", calls=tuple(made), tool=used)]


def _part_of(total: int | None, number: int, of: int) -> int | None:
    return None if total is None else total // of + (number < total % of)


def _name(place: Field, names: Sequence[str]) -> str:
    if type(place.value) is not int or not 0 <= place.value < len(names):
        raise place.fault(f"an index into names, which has {len(names)} entries")
    return names[place.value]


def _calibration(data: Field) -> Calibration:
    seen = {}
    for row in data.items():
        stage, b, calls, *sums = row.items(2 + len(BatchSums._fields))
        seen[stage.string(), b.count(least=1)] = BatchSums(
            calls.count(), *(x.number(float_info.max) for x in sums)
        )
    return Calibration(seen)
