"""Applications: what makes two of them the same, and that the fingerprint outlives the process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llmsched_langgraph
from llmsched_langgraph import Application
from llmsched_langgraph._application.application import DIRECT, MAX_ROUNDS, Kind, Node

NODES = ("plan", "act", "answer")
EDGES = (("plan", "act"), ("act", "answer"))
AGENT = (("model", "tools"), ("tools", "model"), ("model", "end"))
PROGRAM = """
from llmsched_langgraph._application.application import Application
print(Application.of("agent", {"plan", "act", "answer"}, {("plan", "act"), ("act", "answer")}).fingerprint)
"""


def fingerprint_elsewhere(hash_seed):
    environment = {
        **os.environ,
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": str(Path(llmsched_langgraph.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_order_and_repetition_do_not_matter():
    """Nodes and edges in any order, and given twice, make the same application."""
    one = Application.of("agent", NODES, EDGES)
    other = Application.of("agent", NODES[::-1] + NODES, EDGES[::-1] + EDGES)
    assert one == other
    assert hash(one) == hash(other)
    assert [node.path for node in one.nodes] == ["plan", "act", "answer"]


@pytest.mark.parametrize(
    "other",
    [
        Application.of("agent2", NODES, EDGES),
        Application.of("agent", (*NODES, "more"), EDGES),
        Application.of("agent", NODES, EDGES[:1]),
        Application.of("agent", NODES, [("act", "plan"), ("act", "answer")]),
        Application.of("agent", NODES),
        Application.of("", ("agent", *NODES), EDGES),
        Application.of("agent", NODES, EDGES, entries=["act"]),
    ],
)
def test_any_difference_changes_the_fingerprint(other):
    """Another name, node, edge or direction is another application."""
    one = Application.of("agent", NODES, EDGES)
    assert one != other
    assert one.fingerprint != other.fingerprint


def test_names_cannot_be_glued_into_each_other():
    """Names with separators in them do not collide with several shorter names."""
    assert Application.of("a", ["b", "c"]).fingerprint != Application.of("a", ['b","c']).fingerprint


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_fingerprint_is_equal_across_processes(hash_seed):
    """Another process with another hash seed computes the same fingerprint."""
    assert fingerprint_elsewhere(hash_seed) == Application.of("agent", NODES, EDGES).fingerprint


def test_fingerprint_is_the_same_in_every_version():
    """The fingerprint is a stored key: changing how it is computed would orphan every saved profile."""
    assert Application.of("agent", NODES, EDGES).fingerprint == "406e124c5b3a994c"


def test_direct_calls_have_an_application_of_their_own():
    """Calls outside any run belong to an application that no graph with nodes can have."""
    assert DIRECT.nodes == ()
    assert DIRECT.fingerprint != Application.of("direct", ["node"]).fingerprint


def test_kinds_and_rounds_do_not_change_the_fingerprint():
    """Runs correct what a node is and how often a loop goes round; the application stays the same."""
    plain = Application.of("agent", NODES, (*EDGES, ("act", "plan")))
    known = Application.of("agent", (Node("plan", Kind.LLM, "a model"), *NODES[1:]), plain.edges, ["plan"])
    assert Application.of("agent", NODES, plain.edges, ["plan"]).fingerprint == known.fingerprint
    assert known.unrolled({"plan": 7}).fingerprint == known.fingerprint
    assert known.unrolled({"plan": 7}) != known


def test_a_loop_is_unrolled_as_far_as_it_was_seen():
    """Each round is a stage of its own; all later ones are the tail, which stands behind the last."""
    agent = Application.of("agent", ["model", "tools", "end"], AGENT, entries=["model"])
    assert agent.loops == (("model", "tools"),)
    assert [stage.id for stage in agent.unrolled({"model": 1}).stages] == [
        "model#1",
        "tools#1",
        "model#2+",
        "tools#2+",
        "end",
    ]
    assert ("tools#1", "model#2+") in agent.unrolled({"model": 1}).stage_edges
    seen = agent.unrolled({"model": 4, "tools": 3})
    assert seen.occurrences("tools") == 5
    assert seen.stage_id("model", 4) == "model#4"
    assert seen.stage_id("model", 5) == seen.stage_id("model", 99) == "model#5+"
    assert agent.unrolled({"model": 10**6}).occurrences("model") == MAX_ROUNDS + 1


def test_every_round_may_be_the_last():
    """Each occurrence leads out of the loop; only the first is led to from outside."""
    agent = Application.of("agent", ["ask", "model", "tools", "end"], (*AGENT, ("ask", "model")))
    edges = set(agent.stage_edges)
    assert {(source, "end") for source in ("model#1", "model#2", "model#3+")} <= edges
    assert [target for source, target in edges if source == "ask"] == ["model#1"]


def test_a_dynamic_stage_is_planned_by_the_round_it_belongs_to():
    """Planned earlier in the same round, or in the round before; nobody planned what comes first."""
    nodes = ["start", Node("work", Kind.DYNAMIC, planned_by="plan"), Node("plan", Kind.LLM)]
    inner = [("plan", "work"), ("work", "plan")]
    ahead = Application.of("a", nodes, [("start", "plan"), *inner], ["start"])
    assert {stage.id: stage.planned_by for stage in ahead.stages if stage.node == "work"} == {
        "work#1": "plan#1",
        "work#2": "plan#2",
        "work#3+": "plan#3+",
    }
    behind = Application.of("a", nodes, [("start", "work"), *inner], ["start"])
    assert {stage.id: stage.planned_by for stage in behind.stages if stage.node == "work"} == {
        "work#1": None,
        "work#2": "plan#1",
        "work#3+": "plan#2",
    }


def test_a_node_that_leads_to_itself_is_a_loop():
    """One node is enough to go round."""
    loop = Application.of("a", ["retry"], [("retry", "retry")], ["retry"])
    assert loop.loops == (("retry",),)
    assert loop.stage_edges == (("retry#1", "retry#2"), ("retry#2", "retry#3+"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Application.of("a", ["x"], [("x", "y")]), "unknown node 'y'"),
        (lambda: Application.of("a", ["x"], entries=["z"]), "unknown node 'z'"),
        (lambda: Application("a", (Node("x"), Node("x"))), "duplicate node 'x'"),
        (lambda: Application("a", (Node("x"),), rounds=(2, 3)), "rounds: got 2 numbers for 0 loops"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, words):
    """Edges and entries are between nodes that exist, each of which exists once."""
    with pytest.raises(ValueError, match=re.escape(words)):
        make()
