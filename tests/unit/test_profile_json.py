"""A profile as JSON: read back it is the same, and what is wrong in it is named."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
from support.beliefs import planned_job
from support.ended import ended
from support.profiles import TEMPLATE, ids, profile

from llmsched_langgraph import Application, Profile
from llmsched_langgraph._application.application import Kind, Node
from llmsched_langgraph._application.nesting import label
from llmsched_langgraph._application.serialization import application_to_json
from llmsched_langgraph._belief.fit.calibration import Calibration, ServedCall
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._belief.profile.merging import profile_from_jobs, profile_of
from llmsched_langgraph._belief.profile.profile import ApplicationProfile, History
from llmsched_langgraph._belief.profile.serialization import (
    application_profile_from_json,
    application_profile_to_json,
    profile_from_json,
    profile_to_json,
    profiles_from_json,
)
from llmsched_langgraph._jobs.observed import Unit
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage, EndedStageRun

UNKNOWN = EndedJob(
    id="u",
    app="fan",
    stages=(EndedStage(name="split", kind="llm", calls=(EndedCall(None, None, None),), tool="t"),),
)


WATCHED = ended(
    TEMPLATE,
    ("split", 1.25, 10, 5),
    ("map", 2.0, None, None, 1),
    ("map", 3.0, 7, 8, 1),
    ("", 0.5),
    runs=(("split", 1, 1.5), ("map", 1, 4.0, False, "a"), ("map", 1, 5.0)),
    paused_s=3.5,
)


def through_text(data):
    return json.loads(json.dumps(data, allow_nan=False))


def planned():
    jobs = [planned_job(n, ("a", "b")[: 1 + n % 2]) for n in range(6)]
    return profile_from_jobs(template_of("planner", jobs), jobs)


@pytest.mark.parametrize(
    "own",
    [
        profile(range(12), modelled=12),
        replace(profile(range(3)), forgotten_before=1.5),
        replace(profile([]), history=History((UNKNOWN, replace(UNKNOWN, id="v", end="failed")))),
        Profile()
        .observe(WATCHED, replace(WATCHED, tenant="t", priority=-1))
        .applications[TEMPLATE.fingerprint],
        planned(),
        ApplicationProfile(Application.of("")),
    ],
    ids=["model", "forgetful", "unknown", "watched", "tools", "empty"],
)
def test_read_back_it_is_the_same(own):
    """Through text and back, ids and times and model and all."""
    again = application_profile_from_json(through_text(application_profile_to_json(own)))
    assert again == own
    assert ids(again) == ids(own)
    assert again.outcomes == own.outcomes


def test_a_whole_profile_is_read_back_too():
    """With what was seen of backends; either form gives its applications."""
    pace = Calibration().observe(ServedCall("a", b, 0.5 * b, 10 * b) for b in range(1, 5))
    whole = replace(profile_of([profile(range(5)), planned()]), slowdowns={"gpu": pace, "": Calibration()})
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
        (put(["version"], 4), "version: 4 requires a newer llmsched-langgraph; .* upgrade the package"),
        (put(["version"], "1"), "version: must be an integer"),
        (put(["application", "stages", 0], 3), r"application\.stages\[0\]: must be an object, not 3"),
        (put(["application"], None), "application: must be an object, not None"),
        (put(["application", "entries"], ["x"]), "application is inconsistent"),
        (put(["jobs"], -1), "jobs: must be an integer"),
        (put(["history", 0, "id"], ""), r"history\[0\]\.id: must be a string that is not empty"),
        (put(["history", 1, "id"], "0"), "history: must be jobs with distinct ids"),
        (put(["history", 3, "arrival"], "x"), r"history\[3\]\.arrival: must be a number"),
        (
            put(["history", 3, "stages", 1, "calls", 0, 2], "x"),
            r"history\[3\]\.stages\[1\]\.calls\[0\]\[2\]: must be a number",
        ),
        (put(["history", 2, "stages", 0, "dep"], [1]), r"history\[2\]\.stages\[0\]\.dep: the first stage"),
        (
            put(["history", 2, "stages", 0, "r"], 0),
            r"history\[2\]\.stages\[0\]\.r: must be an index of the 0 runs",
        ),
        (put(["history", 1], []), r"history\[1\]: must be an object"),
        (put(["model", "network", "tables", 0, 0], 9), r"model\.network\.tables"),
        (put(["model", "columns"], []), r"model\.network\.names"),
        (put(["model", "fingerprint"], "f" * 16), r"model\.fingerprint: must be .* as in the application"),
        (put(["modelled"], None), "modelled: must be an integer"),
        (put(["forgotten_before"], "x"), "forgotten_before: must be a number"),
        (lambda data: data.pop("history"), "history: is missing"),
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
        InvalidDataError, match=r"applications\[1\]\.application\.fingerprint: must be different"
    ):
        profile_from_json(data)


def test_profiles_of_version_2_are_read():
    """Without inner loops they are unchanged. With some, jobs are numbered anew and the model is left out."""
    data = {**application_profile_to_json(profile(range(12), modelled=12)), "version": 2}
    assert application_profile_from_json(through_text(data)) == profile(range(12), modelled=12)
    names = ["plan", "model", "tools", "model", "plan", "model", "tools", "model", "plan", "model"]
    edges = [("plan", "model"), ("model", "tools"), ("tools", "model"), ("model", "plan")]
    nodes = [Node(path, Kind.LLM, calls_llm=True) for path in dict.fromkeys(names)]
    template = Application.of("nested", nodes, edges, ["plan"])
    stages = [
        EndedStage(
            name=name,
            kind="llm",
            deps=(n - 1,) if n else (),
            calls=(EndedCall(1, 1, 1.0),),
            run=n,
        )
        for n, name in enumerate(names)
    ]
    runs = [EndedStageRun(name, names[: n + 1].count(name), 1.0) for n, name in enumerate(names)]
    jobs = [
        EndedJob(id=str(n), app="nested", stages=tuple(stages), runs=tuple(runs), arrival_s=float(n))
        for n in range(6)
    ]
    own = profile_from_jobs(template, jobs)
    own = replace(own, model=learn(template, own.outcomes), modelled=6)
    old = application_profile_from_json(through_text({**application_profile_to_json(own), "version": 2}))
    assert (len(old.history), old.model, old.modelled) == (6, None, 0)
    numbers = [label(run.occurrence) for run in old.history.jobs[0].runs if run.name == "model"]
    assert numbers == ["1", "2", "2.1", "2.2", "3.1"]
    assert (old.template.rounds, old.template.inner_rounds) == ((3,), (2,))
    again = replace(old, model=learn(old.template, old.outcomes), modelled=6)
    assert application_profile_from_json(through_text(application_profile_to_json(again))) == again


def test_a_profile_of_version_1_with_a_loop_in_a_loop():
    """Its occurrences are numbered anew, too; nothing tells which ran side by side."""
    edges = [("plan", "model"), ("model", "model"), ("model", "plan")]
    template = Application.of("nested", ["plan", "model"], edges, ["plan"])
    rows = [[0, 1], [1, 1], [1, 2], [0, 2], [1, 3]]
    parts = [[None, 1, 1, 1.0, 1, 1, 0.0]]
    outcome = ["j", 1.0, 0, 1, 1, [[*row, parts] for row in rows]]
    old = {**OLD, "names": ["plan", "model"], "outcomes": [outcome]}
    own = application_profile_from_json(through_text({**old, "application": application_to_json(template)}))
    assert [label(run.occurrence) for run in own.history.jobs[0].runs] == ["1", "1", "2", "2", "2.1"]


OLD = {
    "format": "llmsched-application-profile",
    "version": 1,
    "forgotten_before": 0.0,
    "jobs": 7,
    "call": [9, 1.5],
    "nodes": [["split", 2, 2, 1, 1], ["map", 3, 5, 2, 1]],
    "names": ["fan", "split", "map", "a", "b"],
    "outcomes": [
        [
            "j1",
            50.0,
            0,
            30,
            1,
            [
                [1, 1, [[None, 1, 2, 3.0, 70, 11, 0.0]]],
                [2, 1, [[3, 2, 3, 6.0, 9, 9, 0.0], [4, 1, 0, 0.0, 0, 0, 2.5]]],
            ],
        ],
        ["", 0.0, 0, None, 0, [[1, 2, [[None, 1, 1, None, None, None, None]]]]],
    ],
    "model": None,
    "modelled": 0,
}


def test_profiles_of_version_1_are_read():
    """Their outcomes become jobs that did the same, each with an id."""
    old = {**OLD, "application": application_to_json(TEMPLATE)}
    own = application_profile_from_json(through_text(old))
    assert (own.jobs, len(own.history), own.forgotten_before) == (7, 2, 0.0)
    assert ids(own)[0] == "j1"
    assert ids(own)[1].startswith("#")
    assert own.history.jobs[0].ended_at == 50.0
    first, other = own.outcomes
    assert (first.prompt_tokens, first.complete, other.complete) == (30, True, False)
    assert [(*stage.stage_occurrence, stage.fan_out, stage.calls) for stage in first.stages] == [
        ("split", 1, 1, 2),
        ("map", 1, 3, 3),
    ]
    assert [stage.amount(Unit.SECONDS) for stage in first.stages] == pytest.approx([3.0, 6.0])
    assert [stage.amount(Unit.TOKENS) for stage in first.stages] == [11, 9]
    assert {part.tool: part.runs for part in first.stages[1].parts} == {"a": 2, "b": 1}
    assert (tuple(other.stages[0].stage_occurrence), other.amount(Unit.SECONDS)) == (("split", 2), None)
    assert own.nodes["map"].runs == 3
    again = application_profile_from_json(through_text(application_profile_to_json(own)))
    assert again == own
    whole = {"format": "llmsched-profile", "version": 1, "job": [7, 2.0], "call": [9, 1.5], "paces": []}
    assert profile_from_json(through_text({**whole, "applications": [old]})).jobs(TEMPLATE.fingerprint) == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(["names", 0], None), r"names\[0\]: must be a string"),
        (
            put(["outcomes", 0, 5, 1, 2, 0, 3], "x"),
            r"outcomes.*\[1\]\[2\]\[0\]\[3\]: must be a number",
        ),
        (
            put(["outcomes", 0, 5, 0, 0], 99),
            r"\[5\]\[0\]\[0\]: must be an index into names, which has 5",
        ),
        (put(["outcomes", 1], []), r"outcomes\[1\]: must be a list of 6"),
    ],
)
def test_what_is_wrong_in_version_1_is_named(change, words):
    data = copy.deepcopy({**OLD, "application": application_to_json(TEMPLATE)})
    change(data)
    with pytest.raises(InvalidDataError, match=words):
        application_profile_from_json(data)
