"""What runs did corrects the template: kinds, unseen nodes, rounds; the fingerprint stays."""

from __future__ import annotations

import json

import pytest
from support.ended import ended
from support.standing import Standing

from llmsched_langgraph import Application, Profile
from llmsched_langgraph._application.application import AUTHORS_WORD, Kind, Node
from llmsched_langgraph._application.behaviour import RUNS_WITHOUT_CALLS, NodeBehaviour, corrected
from llmsched_langgraph._application.serialization import application_from_json, application_to_json
from llmsched_langgraph._jobs.observed import nodes_of
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed

AGENT = Application.of(
    "agent",
    [
        Node("model", Kind.LLM, "calls X", calls_llm=True),
        Node("tools"),
        Node("said", Kind.REGULAR, AUTHORS_WORD),
    ],
    [("model", "tools"), ("tools", "model"), ("model", "said")],
    ["model"],
)


@pytest.mark.parametrize(
    ("path", "seen", "kind", "calls_llm", "reason"),
    [
        ("tools", NodeBehaviour(3, 2, 1, 1), "llm", True, "called a model when it ran"),
        ("tools", NodeBehaviour(3, 0, 4, 1), "dynamic", False, "ran up to 4 times side by side; "),
        (
            "tools",
            NodeBehaviour(9, 9, 3, 1),
            "dynamic",
            True,
            "ran up to 3 times side by side; called a model when it ran",
        ),
        (
            "model",
            NodeBehaviour(RUNS_WITHOUT_CALLS, 0, 1, 1),
            "regular",
            False,
            f"called no model in {RUNS_WITHOUT_CALLS} runs",
        ),
        ("model", NodeBehaviour(RUNS_WITHOUT_CALLS - 1, 0, 1, 1), "llm", True, "calls X"),
        ("said", NodeBehaviour(99, 99, 9, 1), "regular", False, AUTHORS_WORD),
    ],
)
def test_kinds(path, seen, kind, calls_llm, reason):
    """By what the node did, unless its author has spoken."""
    node = corrected(AGENT, {path: seen}).by_path[path]
    assert (node.kind.value, node.calls_llm, node.reason) == (kind, calls_llm, reason)


def test_new_nodes_and_rounds():
    """Runs came to a node that the graph does not show; loops are told apart as far as they went."""
    learned = corrected(AGENT, {"new": NodeBehaviour(2, 2, 1, 1), "model": NodeBehaviour(9, 9, 1, 5)})
    assert learned.by_path["new"] == Node(
        "new", Kind.LLM, "called a model when it ran", calls_llm=True, learned=True
    )
    assert learned.rounds == (5,)
    assert learned.fingerprint == AGENT.fingerprint
    assert application_from_json(json.loads(json.dumps(application_to_json(learned)))) == learned


def test_containers_are_no_new_nodes():
    """A node that only holds others was known all along."""
    outer = Application.of("outer", ["team/lead", "team/sub/model"])
    seen = {path: NodeBehaviour(1, 0, 1, 1) for path in ("team", "team/sub", "team/lead")}
    assert corrected(outer, seen) == outer


def test_a_learned_node_does_not_end_the_way():
    """It says nothing of where a run goes from there: what could come before can still come."""
    position = Standing(corrected(AGENT, {"new": NodeBehaviour(1, 0, 1, 1)}))
    for number, path in enumerate(("model", "new"), 1):
        position.move(Revealed(((number, path),)))
        position.move(Began(number))
        assert position.place(number) == ("model#1" if path == "model" else "new")
        position.move(Ended(number, 1.0))
    assert "tools#1" in position.remaining()


def test_a_profile_knows_the_template():
    """Records of jobs, added up over all of them, give the corrected template; others stay as they are."""
    runs = (("tools", 1, 1.0), ("tools", 1, 1.0), ("tools", 2, 1.0))
    record = ended(AGENT, ("tools", 1.0), ("tools", 1.0), runs=runs)
    assert nodes_of(record) == {"tools": NodeBehaviour(runs=3, calls=2, concurrency=2, occurrences=2)}
    profile = Profile().observe(record, record)
    node = profile.template(AGENT).by_path["tools"]
    assert (node.kind, node.calls_llm) == ("dynamic", True)
    assert profile.applications[AGENT.fingerprint].nodes["tools"].runs == 6
    other = Application.of("other", ["tools"])
    assert profile.template(other) is other
