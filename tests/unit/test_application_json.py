"""An application as JSON: read back it is the same, and what is wrong in it is named."""

from __future__ import annotations

import copy
import json

import pytest

from llmsched_langgraph import Application
from llmsched_langgraph._application.application import Kind, Node
from llmsched_langgraph._application.serialization import application_from_json, application_to_json
from llmsched_langgraph.errors import InvalidDataError

AGENT = Application.of(
    "agent",
    [
        Node("model", Kind.LLM, "calls a model", calls_llm=True),
        Node("tools", Kind.DYNAMIC, "runs tools", planned_by="model", tools=("add", "search")),
        Node("report", deferred=True),
    ],
    [("model", "tools"), ("tools", "model"), ("model", "report")],
    ["model"],
).unrolled({"model": 3})


def test_the_keys_that_other_programs_read():
    """The documented form, with the unrolled DAG in it."""
    data = application_to_json(AGENT)
    assert data["stages"][:2] == [
        {
            "id": "model#1",
            "node": "model",
            "occurrence": 1,
            "kind": "llm",
            "reason": "calls a model",
            "planned_by": None,
        },
        {
            "id": "tools#1",
            "node": "tools",
            "occurrence": 1,
            "kind": "dynamic",
            "reason": "runs tools",
            "planned_by": "model#1",
        },
    ]
    assert ["tools#1", "model#2"] in data["edges"]
    assert data["loops"] == [["model", "tools"]]
    assert data["fingerprint"] == AGENT.fingerprint
    assert data["tools"] == [["tools", "add", "search"]]


def test_read_back_it_is_the_same():
    """Through text and back, rounds and all."""
    assert application_from_json(json.loads(json.dumps(application_to_json(AGENT)))) == AGENT


def test_tools_may_be_missing():
    """Files that were written before applications had them are read, and the fingerprint is the same."""
    data = application_to_json(AGENT)
    del data["tools"]
    read = application_from_json(data)
    assert (read.fingerprint, read.tools) == (AGENT.fingerprint, frozenset())


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
        (put(["stages"], None), "stages: must be a list, not None"),
        (put(["stages", 0], 3), r"stages\[0\]: must be an object, not 3"),
        (put(["stages", 1, "kind"], "magic"), r"stages\[1\].kind: must be one of regular, llm, dynamic"),
        (put(["stages", 1, "occurrence"], True), r"stages\[1\].occurrence: must be an integer"),
        (put(["stages", 1, "occurrence"], 0), r"stages\[1\].occurrence: must be an integer, 1 to .*, not 0"),
        (put(["stages", 1, "planned_by"], "nobody"), r"stages\[1\].planned_by: must be the id of a stage"),
        (put(["stages", 0, "id"], 7), r"stages\[0\].id: must be a string"),
        (put(["edges", 0], ["model#1"]), r"edges\[0\]: must be a list of 2"),
        (put(["edges", 0, 1], "nowhere"), r"edges\[0\]\[1\]: must be the id of a stage, not 'nowhere'"),
        (put(["entries"], [1]), r"entries\[0\]: must be a string"),
        (put(["entries"], ["nowhere"]), "is inconsistent: unknown node 'nowhere'"),
        (put(["name"], "other"), "fingerprint: must be .* the hash of name, nodes, edges and entries"),
        (put(["name"], None), "name: must be a string, not None"),
        (lambda data: data.pop("edges"), "edges: is missing"),
    ],
)
def test_what_is_wrong_is_named(change, words):
    """One line that says which field, and what it should have been."""
    data = copy.deepcopy(application_to_json(AGENT))
    change(data)
    with pytest.raises(InvalidDataError, match=words):
        application_from_json(data)


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_other_things_are_no_application(data):
    """Not a JSON object at all."""
    with pytest.raises(InvalidDataError, match="must be an object"):
        application_from_json(data)
