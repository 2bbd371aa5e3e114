"""Applications: what makes two of them the same, and that the fingerprint outlives the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import llmsched_langgraph
from llmsched_langgraph.dag.application import DIRECT, Application

NODES = ("plan", "act", "answer")
EDGES = (("plan", "act"), ("act", "answer"))
PROGRAM = """
from llmsched_langgraph.dag.application import Application
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
    assert one.nodes == ("act", "answer", "plan")


@pytest.mark.parametrize(
    "other",
    [
        Application.of("agent2", NODES, EDGES),
        Application.of("agent", NODES[:2], EDGES),
        Application.of("agent", NODES, EDGES[:1]),
        Application.of("agent", NODES, [("act", "plan"), ("act", "answer")]),
        Application.of("agent", NODES),
        Application.of("", ("agent", *NODES), EDGES),
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
    assert Application.of("agent", NODES, EDGES).fingerprint == "57cdbd24a9c88239"


def test_direct_calls_have_an_application_of_their_own():
    """Calls outside any run belong to an application that no graph with nodes can have."""
    assert DIRECT.nodes == ()
    assert DIRECT.fingerprint != Application.of("direct", ["node"]).fingerprint
