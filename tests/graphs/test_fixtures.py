"""The fixtures are what they say: they build in silence, and their runs come to what is written there."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from graphs import EACH, EACH_RUN
from graphs.fixture import Fixture, Run, aplay, play
from graphs.scripted import CALLS, ScriptedModel, node_path

each = pytest.mark.parametrize("fixture", EACH)
each_run = pytest.mark.parametrize(("fixture", "run"), EACH_RUN)


def containers(fixture: Fixture) -> set[str]:
    """The paths of the nodes around others, whether or not they are stages themselves."""
    return {path[:end] for path in fixture.kinds for end in range(len(path)) if path[end] == "/"}


def visits(graph: Any, run: Run) -> Counter[str]:
    """How often each node ran; one that was interrupted and taken up again ran once."""
    config, tasks = run.fresh_config(), {}
    for given in run.inputs():
        for namespace, event in graph.stream(given, config, stream_mode="tasks", subgraphs=True):
            tasks[event["id"]] = node_path("|".join([*namespace, event["name"]]))
    return Counter(tasks.values())


@each
def test_builds_in_silence(fixture, monkeypatch):
    """Building calls no model and connects to nothing, and gives a new graph each time."""

    def connect(*_: Any) -> None:
        raise AssertionError("a socket was connected")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with CALLS.none_allowed():
        assert fixture.build() is not fixture.build()


@each_run
def test_run_in_a_thread(fixture, run):
    """A run comes to its outcome with the calls that it takes, made by no other nodes than are listed."""
    graph = fixture.build()
    with CALLS.recorded() as callers:
        assert fixture.outcome(play(graph, run)) == run.outcome
    assert len(callers) == run.calls
    assert fixture.callers.issuperset(map(fixture.stage, callers))


@each_run
def test_run_on_a_loop(fixture, run):
    """The same on an event loop."""
    graph = fixture.build()
    with CALLS.recorded() as callers:
        assert fixture.outcome(asyncio.run(aplay(graph, run))) == run.outcome
    assert len(callers) == run.calls
    assert fixture.callers.issuperset(map(fixture.stage, callers))


@each
def test_runs_at_once(fixture):
    """Runs of one graph at the same time do not mix, nor does one that is run again."""
    graph = fixture.build()

    async def main() -> list[Any]:
        # Functions that wait for their tasks keep their threads, and the usual pool has only a few.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))
        return await asyncio.gather(*(aplay(graph, run) for run in fixture.runs * 3))

    assert [fixture.outcome(output) for output in asyncio.run(main())] == [
        run.outcome for run in fixture.runs * 3
    ]


@each
def test_what_is_written_is_what_happens(fixture):
    """Every node that runs is listed, every listed one runs, and those that call a model are said to."""
    graph = fixture.build()
    seen: Counter[str] = Counter()
    with CALLS.recorded() as callers:
        for run in fixture.runs:
            visited = visits(graph, run)
            assert {path: visited[path] for path in run.visits} == run.visits, run.name
            seen |= visited
    assert set(map(fixture.stage, seen)) == set(fixture.kinds) | containers(fixture)
    assert set(map(fixture.stage, callers)) == fixture.callers
    for loop in fixture.loops:
        assert max(seen[path] for path in loop) > 1, f"nothing goes round in {set(loop)}"
    assert all(planner is None or planner in fixture.callers for planner in fixture.planned.values())


@each
def test_enough_runs_that_differ(fixture):
    """Three to six runs, and not all alike."""
    assert 3 <= len(fixture.runs) <= 6
    assert len({run.name for run in fixture.runs}) == len(fixture.runs)


def test_a_forbidden_call_fails():
    """The switch that proves that nothing is called does make a call fail."""
    model = ScriptedModel(script={(): "yes"})
    with CALLS.none_allowed(), pytest.raises(AssertionError, match="while no model may be called"):
        model.invoke("?")
    assert model.invoke("?").text == "yes"


def test_a_prompt_without_an_answer_fails():
    """A script that does not fit its graph is found out."""
    with pytest.raises(AssertionError, match="says nothing to this prompt"):
        ScriptedModel(script={("a", "b"): "yes"}).invoke("a")
