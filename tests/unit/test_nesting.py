"""Loops inside loops: which they are, how their occurrences are numbered, and what they are unrolled into."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random

import pytest
from support.standing import Standing, Status

from llmsched_langgraph import Application
from llmsched_langgraph._application.application import Kind, Node
from llmsched_langgraph._application.nesting import (
    VISIT,
    label,
    number_of,
    place_of,
    rounds_before,
    widest,
)
from llmsched_langgraph._belief.fit.evaluation import moments
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._jobs.observed import Unit, nodes_of, numbered, observed
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage, EndedStageRun

PLAN = [("plan", "model"), ("model", "tools"), ("tools", "model"), ("model", "replan"), ("replan", "plan")]
EXECUTE = Application.of("execute", ["plan", "model", "tools", "replan"], PLAN, ["plan"])


def application(*edges: str, entries: str) -> Application:
    """An application from edges written as `a>b`."""
    pairs = [tuple(edge.split(">")) for edge in edges]
    return Application.of("a", sorted({end for pair in pairs for end in pair}), pairs, entries.split())


# -- numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visit", "nth", "shown", "before"), [(1, 1, "1", 0), (1, 7, "7", 6), (2, 1, "2.1", 1), (4, 3, "4.3", 5)]
)
def test_numbers(visit, nth, shown, before):
    """The first visit counts as a loop that is in no other one; later visits begin anew."""
    number = number_of(visit, nth)
    assert place_of(number) == (visit, nth)
    assert label(number) == shown
    assert rounds_before(number) == before
    assert number > number_of(visit - 1, VISIT - 1)


def test_the_widest_of_two_numbers():
    """The later visit, and the later place in a visit; 0 is no number."""
    assert widest(number_of(3, 1), number_of(2, 5)) == number_of(3, 5)
    assert widest(0, number_of(2, 5)) == widest(number_of(2, 5), 0) == number_of(2, 5)
    assert widest(0, 0) == 0
    assert widest(3, 8) == 8


# -- which loops are inside others --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edges", "entries", "inner"),
    [
        ("plan>model model>tools tools>model model>replan replan>plan", "plan", [{"model", "tools"}]),
        ("agent/model>agent/tools agent/tools>agent/model agent/model>replan replan>agent/model",
         "agent/model", [{"agent/model", "agent/tools"}]),
        ("plan>write write>write write>check check>plan", "plan", [{"write"}]),
        ("lead>a/m a/m>a/t a/t>a/m a/m>lead lead>b/m b/m>b/t b/t>b/m b/m>lead", "lead",
         [{"a/m", "a/t"}, {"b/m", "b/t"}]),
        ("model>tools tools>tools/model tools/model>tools/tools tools/tools>tools/model tools/model>model",
         "model", [{"tools/model", "tools/tools"}]),
        ("a>b b>c c>b c>d d>c d>a", "a", [{"b", "c", "d"}]),
        # One loop, however many ways round it has.
        ("model>tools tools>model", "model", []),
        ("retry>retry", "retry", []),
        ("lead>a a>lead lead>b b>lead", "lead", []),
        ("a>b b>c c>a b>a", "a", []),
        # Agents that hand over to each other: no part of it is entered at one node only.
        ("a>b b>a a>c c>a b>c c>b", "a", []),
        ("g/a>g/b g/b>g/a", "g/a", []),
        # Two loops, one after the other.
        ("a>b b>a b>c c>d d>c", "a", []),
    ],
)  # fmt: skip
def test_which_loops_are_inside_others(edges, entries, inner):
    """A loop of a graph inside the loop, or one that the rest of the loop enters at one node."""
    found = application(*edges.split(), entries=entries)
    assert sorted(map(sorted, found.inner_loops)) == sorted(map(sorted, inner))


def test_nested_unrolling():
    """Each visit has its own occurrences and tail; one stage stands for all later visits."""
    seen = EXECUTE.unrolled({"plan": 2, "model": number_of(2, 3), "tools": number_of(2, 2)})
    assert (seen.rounds, seen.inner_rounds) == ((2,), (3,))
    assert [stage.id for stage in seen.stages if stage.node == "model"] == [
        "model#1", "model#2", "model#3", "model#4+", "model#2.1", "model#2.2", "model#2.3", "model#2.4+",
        "model#3.1+",
    ]  # fmt: skip
    assert [stage.id for stage in seen.stages if stage.node == "plan"] == ["plan#1", "plan#2", "plan#3+"]
    assert seen.stage_id("model", number_of(2, 99)) == "model#2.4+"
    assert seen.stage_id("model", number_of(7, 2)) == "model#3.1+"
    edges = set(seen.stage_edges)
    assert {("plan#1", "model#1"), ("plan#2", "model#2.1"), ("plan#3+", "model#3.1+")} <= edges
    assert {target for source, target in edges if source == "tools#3"} == {"model#4+"}
    assert {source for source, target in edges if target == "replan#2"} == {
        "model#2.1",
        "model#2.2",
        "model#2.3",
        "model#2.4+",
    }
    assert {target for source, target in edges if source == "replan#1"} == {"plan#2"}
    assert not {target for source, target in edges if source == "replan#3+"}
    assert not [edge for edge in edges if edge[0] == "tools#3.1+"]


def test_unrolling_is_bounded():
    """Many rounds of many rounds do not become a stage each."""
    wide = EXECUTE.unrolled({"plan": 12, "model": number_of(12, 12)})
    assert (wide.rounds, wide.inner_rounds) == ((12,), (1,))
    assert len(wide.stages) < 100
    assert EXECUTE.unrolled({"plan": 1, "model": 12}).inner_rounds == (12,)


def test_planners_across_loops():
    """A stage in an inner loop is planned in its round, by the inner or by the outer loop's node."""
    nodes = [
        Node("plan", Kind.LLM),
        Node("model", Kind.LLM),
        Node("tools", Kind.DYNAMIC, planned_by="model"),
        Node("work", Kind.DYNAMIC, planned_by="plan"),
        Node("replan", Kind.DYNAMIC, planned_by="model"),
    ]
    edges = [*PLAN, ("plan", "work"), ("work", "model")]
    stages = {stage.id: stage for stage in Application.of("a", nodes, edges, ["plan"]).stages}
    assert [stages[name].planned_by for name in ("tools#1", "tools#2.2", "tools#2.3+", "tools#3.1+")] == [
        "model#1",
        "model#2.2",
        "model#2.3+",
        "model#3.1+",
    ]
    assert [stages[name].planned_by for name in ("work#1", "work#2")] == ["plan#1", "plan#2"]
    assert [stages[name].planned_by for name in ("replan#1", "replan#2")] == ["model#1", "model#2.1"]


# -- where a job is -----------------------------------------------------------------------------------


class Walk:
    """A position and how to move it by names."""

    def __init__(self, application):
        self.position = Standing(application)
        self._numbers = itertools.count(1)

    def reveal(self, *paths, around=None):
        runs = tuple((next(self._numbers), path) for path in paths)
        self.position.move(Revealed(runs, around))
        for run, _ in runs:
            self.position.move(Began(run))
        return [run for run, _ in runs]

    def step(self, *paths, around=None):
        """A whole superstep; the labels of its occurrences."""
        runs = self.reveal(*paths, around=around)
        shown = [label(self.position.stage_occurrence(run).occurrence) for run in runs]
        for run in runs:
            self.position.move(Ended(run, 1.0))
        return " ".join(shown)

    def __getitem__(self, stage):
        return self.position.statuses()[stage]


def test_a_new_round_resets_the_inner_counter():
    """Also if the rounds have different lengths."""
    walk = Walk(EXECUTE)
    short, long = ["plan", "model", "replan"], ["plan", "model", "tools", "model", "tools", "model", "replan"]
    shown = [f"{path} {walk.step(path)}" for path in [*long[:4], "replan", *short, *long]]
    assert shown == [
        "plan 1", "model 1", "tools 1", "model 2", "replan 1",
        "plan 2", "model 2.1", "replan 2",
        "plan 3", "model 3.1", "tools 3.1", "model 3.2", "tools 3.2", "model 3.3", "replan 3",
    ]  # fmt: skip


def test_a_visit_that_is_over():
    """Its occurrences that did not come are skipped when it is left; those of the next visit may come."""
    walk = Walk(EXECUTE.unrolled({"plan": 2, "model": number_of(2, 3)}))
    walk.step("plan")
    walk.step("model")
    assert (walk["tools#1"], walk["model#2"], walk["model#2.1"]) == (
        Status.READY,
        Status.PENDING,
        Status.PENDING,
    )
    assert walk.position.passed() == ()
    walk.step("replan")
    assert {walk[stage] for stage in ("tools#1", "model#2", "model#3", "model#4+")} == {Status.SKIPPED}
    assert walk["model#2.1"] is Status.PENDING
    assert dict(walk.position.passed()) == {"model": VISIT, "tools": VISIT}
    walk.step("plan")
    assert walk["model#2.1"] is Status.READY
    walk.step("model")
    assert (walk["tools#2.1"], walk["model#2.2"]) == (Status.READY, Status.PENDING)
    assert dict(walk.position.passed()) == {"model": VISIT, "tools": VISIT}
    walk.step("replan")
    assert walk["model#3.1+"] is Status.PENDING


def test_a_graph_inside_a_node_of_a_loop():
    """Each run of the graph is a visit; runs side by side are one."""
    team = Application.of(
        "team",
        ["plan", Node("team", Kind.DYNAMIC), "team/model", "team/tools"],
        [
            ("plan", "team"),
            ("team", "team/model"),
            ("team/model", "team/tools"),
            ("team/tools", "team/model"),
            ("team/model", "plan"),
        ],
        ["plan"],
    )
    walk = Walk(team)
    walk.step("plan")
    one, other = walk.reveal("team", "team")
    assert walk.step("team/model", around=one) == "1"
    assert walk.step("team/model", around=other) == "1"
    assert walk.step("team/tools", around=one) == "1"
    assert walk.step("team/model", around=one) == "2"
    for run in (one, other):
        walk.position.move(Ended(run, 1.0))
    walk.step("plan")
    (third,) = walk.reveal("team")
    assert walk.step("team/model", around=third) == "2.1"
    assert walk.step("team/tools", around=third) == "2.1"


def test_other_nodes_beside_an_inner_loop():
    """A node that runs in the same supersteps as the inner loop does not end the visit."""
    inner = ["plan>model", "model>tools", "tools>model", "model>join"]
    beside = application(*inner, "plan>log", "log>log2", "log2>join", "join>plan", entries="plan")
    walk = Walk(beside)
    ways = [["plan"], ["model", "log"], ["tools", "log2"], ["model"], ["join"], ["plan"], ["model", "log"]]
    assert [walk.step(*step) for step in ways] == ["1", "1 1", "1 1", "2", "1", "2", "2.1 2"]


def test_nodes_beside_an_inner_loop_in_steps_of_their_own():
    """As in the simulator, where branches go on at their own times: only what follows the loop ends it."""
    inner = ["plan>model", "model>tools", "tools>model", "model>join"]
    beside = application(*inner, "plan>log", "log>log2", "log2>join", "join>plan", entries="plan")
    walk = Walk(beside)
    ways = [["plan"], ["model", "log"], ["log2"], ["tools"], ["model"], ["join"], ["plan"], ["log", "model"]]
    assert [walk.step(*step) for step in ways] == ["1", "1 1", "1", "1", "2", "1", "2", "2 2.1"]


@pytest.mark.parametrize(
    ("edges", "steps", "shown"),
    [
        # Three loops, each in the one before: the third counts with the second.
        ("a>b b>c c>d d>c d>e e>b e>f f>a", "a b c d c d e b c d e f a b c d",
         "1 1 1 1 2 2 1 2 3 3 2 1 2 2.1 2.1 2.1"),
        # A node that repeats itself.
        ("p>w w>w w>c c>p", "p w w c p w w w", "1 1 2 1 2 2.1 2.2 2.3"),
        # Two loops, one after the other, in one; a router between two loops.
        ("p>x x>y y>x x>u u>v v>u u>p", "p x y x u v u p x u", "1 1 1 2 1 1 2 2 2.1 2.1"),
        ("p>x p>u x>y y>x x>p u>v v>u u>p", "p x y x p u v u p x", "1 1 1 2 2 1 1 2 3 2.1"),
        # No counter of its own: a part that is entered at two nodes, or that the loop begins in.
        ("p>x p>y x>y y>x x>r y>r r>p", "p x y r p y x", "1 1 1 1 2 2 2"),
        ("p>p p>c c>p", "p p c p p", "1 2 1 3 4"),
        # A jump that no edge shows: the outer loop's next turn ends the visit.
        ("p>m m>t t>m t>p", "p m t m off p m", "1 1 1 2 1 2 2.1"),
    ],
)  # fmt: skip
def test_how_shapes_are_counted(edges, steps, shown):
    """What each superstep's node is numbered."""
    walk = Walk(application(*edges.split(), entries=edges[0]))
    assert " ".join(walk.step(path) for path in steps.split()) == shown


def test_an_interrupted_inner_loop():
    """What was stopped for a human runs again under its number, in the same visit."""
    walk = Walk(EXECUTE)
    for path in ("plan", "model", "replan", "plan", "model"):
        walk.step(path)
    (tools,) = walk.reveal("tools")
    walk.position.move(Ended(tools, 1.0, complete=False, again=True))
    assert walk.step("tools") == "2.1"
    assert walk.step("model") == "2.2"


# -- what is learned ------------------------------------------------------------------------------------


def job(number: int, rounds: list[int], rng: Random) -> EndedJob:
    """A job that nobody watched, with so many inner rounds in each outer one."""
    stages: list[EndedStage] = []

    def add(name: str) -> None:
        call = EndedCall(10, 10, rng.uniform(0.9, 1.1))
        stages.append(
            EndedStage(name=name, kind="llm", deps=(len(stages) - 1,) if stages else (), calls=(call,))
        )

    for inner in rounds:
        add("plan")
        for _ in range(inner):
            add("model")
            add("tools")
        add("replan")
    return EndedJob(id=str(number), app="a", stages=tuple(stages))


def test_recorded_jobs_are_numbered_like_live_ones():
    """By the template, in the order of their stages."""
    jobs = [job(0, [2, 1, 3], Random(1))]
    template = template_of("a", jobs)
    found = observed(replace(jobs[0], template=template))
    numbers = [label(n) for path, n in (stage.stage_occurrence for stage in found.stages) if path == "model"]
    assert numbers == ["1", "2", "2.1", "3.1", "3.2", "3.3"]
    seen = nodes_of(replace(jobs[0], template=template))
    assert (seen["plan"].occurrences, seen["model"].occurrences) == (3, number_of(3, 3))
    assert template.unrolled({path: own.occurrences for path, own in seen.items()}).inner_rounds == (3,)


def test_watched_jobs_are_numbered_by_the_template_at_hand():
    """Also those that were recorded without inner counters, or on a template with other loops."""
    own = job(0, [2, 1, 3], Random(1))
    template = template_of("a", [own])
    times: dict[str, int] = {}
    runs = []
    for stage in own.stages:
        times[stage.name] = times.get(stage.name, 0) + 1
        runs.append(EndedStageRun(stage.name, times[stage.name], 1.0))
    stages = tuple(replace(stage, run=n) for n, stage in enumerate(own.stages))
    flat = replace(own, stages=stages, runs=tuple(runs))
    nested = numbered(flat, template)
    assert [label(run.occurrence) for run in nested.runs if run.name == "model"] == [
        "1", "2", "2.1", "3.1", "3.2", "3.3",
    ]  # fmt: skip
    assert [run.occurrence for run in nested.runs if run.name == "plan"] == [1, 2, 3]
    assert observed(nested).stages == observed(replace(own, template=template)).stages
    assert numbered(nested, template) == nested
    assert numbered(nested, Application.of("a", template.by_path)) == flat
    unwatched = numbered(own, template)
    assert (unwatched, unwatched.template) == (own, template)
    calls = [(m.evidence.finished, m.remaining) for m in moments(flat, template, Unit.SECONDS)]
    assert calls == [(m.evidence.finished, m.remaining) for m in moments(nested, template, Unit.SECONDS)]


def test_what_is_left_after_a_round():
    """Three rounds of two to four inner ones, by chance: what is left does not depend on those that are over.

    With one counter for all rounds, a short first round would look like an early position in the loop.
    """
    rng = Random(7)
    jobs = [job(n, [rng.choice([2, 3, 4]) for _ in range(3)], rng) for n in range(160)]
    template = template_of("a", jobs)
    known = [observed(replace(own, template=template)) for own in jobs[:120]]
    model = learn(template, known, unit=Unit.SECONDS, correlated=False)
    left: dict[int, list[float]] = {1: [], 2: []}
    for own in jobs[120:]:
        for moment in moments(own, template, Unit.SECONDS):
            names = [stage.name for stage in own.stages[: moment.finished]]
            if names and names[-1] == "replan":
                left[names.count("replan")].append(model.belief(moment.evidence).mean)
    for done, expected in ((1, 2 * 8), (2, 8)):  # a round takes 2 + 2 * 3 seconds in the mean
        assert len(left[done]) == 40
        assert max(left[done]) - min(left[done]) < 0.1
        assert left[done][0] == pytest.approx(expected, rel=0.1)
