"""A profile as JSON: read back it is the same, and what is wrong in it is named."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from support.beliefs import planned_job
from support.profiles import TEMPLATE, ids, profile

from llmsched_langgraph.belief.calibration import Calibration, Served
from llmsched_langgraph.belief.merging import profile_of, taught_by
from llmsched_langgraph.belief.outcome import JobOutcome, Part, StageOutcome, outcome_of_trace
from llmsched_langgraph.belief.profile import ApplicationProfile
from llmsched_langgraph.belief.profile_json import (
    application_profile_from_json,
    application_profile_to_json,
    profile_from_json,
    profile_to_json,
    profiles_from_json,
)
from llmsched_langgraph.belief.template import template_of
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.position import Spot
from llmsched_langgraph.errors import InvalidDataError

UNKNOWN = JobOutcome("fan", (StageOutcome(Spot("split", 1), (Part("t", 2, 0, None, None, None, None),)),))


def through_text(data):
    return json.loads(json.dumps(data, allow_nan=False))


def planned():
    jobs = [planned_job(n, ("a", "b")[: 1 + n % 2]) for n in range(6)]
    return taught_by(template_of("planner", jobs), map(outcome_of_trace, jobs))


@pytest.mark.parametrize(
    "own",
    [
        profile(range(12), modelled=12),
        replace(profile(range(3)), forgotten_before=1.5),
        replace(profile([]), outcomes=(UNKNOWN, replace(UNKNOWN, complete=False))),
        planned(),
        ApplicationProfile(Application.of("")),
    ],
    ids=["model", "forgetful", "unknown", "tools", "empty"],
)
def test_read_back_it_is_the_same(own):
    """Through text and back, ids and times and model and all."""
    again = application_profile_from_json(through_text(application_profile_to_json(own)))
    assert again == own
    assert ids(again) == ids(own)
    assert [job.ended_at for job in again.outcomes] == [job.ended_at for job in own.outcomes]


def test_a_whole_profile_is_read_back_too():
    """With the means of all jobs and calls; either form gives its applications."""
    pace = Calibration().observe(Served("a", b, 0.5 * b, 10 * b) for b in range(1, 5))
    whole = replace(profile_of([profile(range(5)), planned()]), paces={"gpu": pace, "": Calibration()})
    data = through_text(profile_to_json(whole))
    assert profile_from_json(data) == whole
    assert profiles_from_json(data) == list(whole.applications.values())
    assert profiles_from_json(data["applications"][1]) == [planned()]


def put(path, value):
    def change(data):
        *way, last = path
        for step in way:
            data = data[step]
        data[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(["format"], "other"), "format: must be 'llmsched-application-profile', not 'other'"),
        (put(["version"], 2), "version: 2 is of a newer llmsched-langgraph .* upgrade it"),
        (put(["version"], "1"), "version: must be an integer"),
        (put(["application", "stages", 0], 3), r"application\.stages\[0\]: must be an object, not 3"),
        (put(["application"], None), "application: must be an object, not None"),
        (put(["application", "entries"], ["x"]), "application does not fit together"),
        (put(["jobs"], -1), "jobs: must be an integer"),
        (put(["call"], [1]), "call: must be a list of 2"),
        (put(["call", 1], float("nan")), r"call\[1\]: must be a number"),
        (put(["nodes", 0, 1], 1.5), r"nodes\[0\]\[1\]: must be an integer"),
        (put(["names", 0], None), r"names\[0\]: must be a string"),
        (
            put(["outcomes", 3, 5, 1, 2, 0, 3], "x"),
            r"outcomes\[3\]\[5\]\[1\]\[2\]\[0\]\[3\]: must be a number",
        ),
        (put(["outcomes", 0, 2], 99), r"outcomes\[0\]\[2\]: must be a place in names, which has 4, not 99"),
        (put(["outcomes", 0, 4], 2), r"outcomes\[0\]\[4\]: must be an integer, 0 to 1"),
        (put(["outcomes", 1], []), r"outcomes\[1\]: must be a list of 6"),
        (put(["model", "network", "tables", 0, 0], 9), r"model\.network\.tables"),
        (put(["model", "columns"], []), r"model\.network\.names"),
        (put(["model", "fingerprint"], "f" * 16), r"model\.fingerprint: must be .* that of the application"),
        (put(["modelled"], None), "modelled: must be an integer"),
        (put(["forgotten_before"], "x"), "forgotten_before: must be a number"),
        (lambda data: data.pop("outcomes"), "outcomes: is missing"),
    ],
)
def test_what_is_wrong_is_named(change, words):
    """One line that says which field, and what it should have been."""
    data = copy.deepcopy(application_profile_to_json(profile(range(12), modelled=12)))
    change(data)
    with pytest.raises(InvalidDataError, match=words):
        application_profile_from_json(data)


@pytest.mark.parametrize("data", [None, [], "x", 3, {}])
def test_other_things_are_no_profile(data):
    for read in (application_profile_from_json, profile_from_json, profiles_from_json):
        with pytest.raises(InvalidDataError):
            read(data)


def test_no_application_is_there_twice():
    data = profile_to_json(profile_of([profile(range(2))]))
    data["applications"] *= 2
    with pytest.raises(
        InvalidDataError, match=r"applications\[1\]\.application\.fingerprint: must be another"
    ):
        profile_from_json(data)


def test_whoever_records_says_which_job_it_was():
    """A trace's id; two outcomes that say the same are equal all the same."""
    one, other = (outcome_of_trace(replace(planned_job(1, ("a",)), id=name)) for name in "xy")
    assert (one.id, other.id, one == other) == ("x", "y", True)
    assert TEMPLATE.fingerprint == profile([]).application.fingerprint
