"""Where a job stands on its template: statuses through runs, loops, fan-outs, subgraphs and interruptions."""

from __future__ import annotations

import itertools

import pytest
from support.standing import Standing, Status

from llmsched_langgraph import Application
from llmsched_langgraph._application.application import Kind, Node
from llmsched_langgraph._application.nesting import number_of
from llmsched_langgraph._jobs.stages import (
    Began,
    Ended,
    Revealed,
    Runs,
    StageOccurrence,
)

AGENT = Application.of(
    "agent",
    ["model", "tools", "report"],
    [("model", "tools"), ("tools", "model"), ("model", "report")],
    ["model"],
)
BRANCHES = Application.of(
    "branches",
    ["route", "left", "left 2", "right", "join", Node("tidy", deferred=True)],
    [
        ("route", "left"),
        ("route", "right"),
        ("left", "left 2"),
        ("left 2", "join"),
        ("right", "join"),
        ("route", "tidy"),
    ],
)


class Walk:
    """A position and how to move it by names."""

    def __init__(self, application):
        self.position = Standing(application)
        self._numbers = itertools.count(1)

    def reveal(self, *paths, around=None, called=False):
        runs = tuple((next(self._numbers), path) for path in paths)
        self.position.move(Revealed(runs, around, called))
        return [number for number, _ in runs]

    def begin(self, *runs):
        for run in runs:
            self.position.move(Began(run))

    def end(self, *runs, again=False):
        for run in runs:
            self.position.move(Ended(run, 1.0, not again, again))

    def step(self, *paths, around=None):
        """A whole superstep; its stages as they were placed."""
        runs = self.reveal(*paths, around=around)
        self.begin(*runs)
        places = [self.position.place(run) for run in runs]
        self.end(*runs)
        return places

    def __getitem__(self, stage):
        return self.position.statuses()[stage].value


@pytest.fixture
def walk():
    return Walk


def test_from_the_start_to_the_end(walk):
    """Announced, running, finished; what can come no more is skipped at once, and absent at the end."""
    w = walk(BRANCHES)
    assert w["route"] == "ready"
    assert {w[stage] for stage in ("left", "join", "tidy")} == {"pending"}
    (route,) = w.reveal("route")
    assert w["route"] == "revealed"
    w.begin(route)
    assert (w["route"], w["left"]) == ("running", "pending")
    w.end(route)
    assert [w[stage] for stage in ("route", "left", "right", "join")] == [
        "finished",
        "ready",
        "ready",
        "pending",
    ]
    w.step("left")
    assert [w[stage] for stage in ("left", "right", "left 2", "join")] == [
        "finished",
        "skipped",
        "ready",
        "pending",
    ]
    assert w.position.remaining() == ("left 2", "join", "tidy")
    w.step("left 2")
    w.position.end()
    assert w["right"] == w["join"] == w["tidy"] == "absent"
    assert w["left 2"] == "finished"
    assert w.position.remaining() == ()


def test_parallel_branches(walk):
    """Branches side by side go on by themselves; what joins them is pending as long as one can come to it."""
    w = walk(BRANCHES)
    w.step("route")
    left, right = w.reveal("left", "right")
    w.begin(left, right)
    w.end(right)
    assert (w["left"], w["right"], w["join"]) == ("running", "finished", "pending")
    w.end(left)
    w.step("left 2")
    assert w["join"] == "ready"


def test_a_deferred_stage_waits_for_everything(walk):
    """It may come until it came, whatever was run meanwhile."""
    w = walk(BRANCHES)
    w.step("route")
    w.step("right")
    w.step("join")
    assert w["tidy"] == "pending"
    w.step("tidy")
    assert w["tidy"] == "finished"


def test_loops_run_into_the_tail(walk):
    """Each round is an occurrence; all past the last that is told apart share one stage."""
    w = walk(AGENT)
    assert w.step("model") == ["model#1"]
    assert w["tools#1"] == w["report"] == "ready"
    assert w["model#2"] == "pending"
    for _ in range(6):
        w.step("tools")
        places = w.step("model")
    assert places == ["model#3+"]
    assert w["model#3+"] == "finished"
    assert w["tools#3+"] == "finished"
    w.step("report")
    assert w["model#3+"] == "finished"
    assert w.position.remaining() == ()


def test_a_loop_that_ends_early(walk):
    """The rounds that do not happen are skipped as soon as it is left."""
    w = walk(AGENT)
    w.step("model")
    w.step("report")
    assert {w[f"{node}#{n}"] for node, n in (("tools", "1"), ("model", "2"), ("tools", "3+"))} == {"skipped"}


def test_a_fan_out_is_one_occurrence(walk):
    """However many stage runs of a node are announced together, they are one stage."""
    w = walk(AGENT)
    w.step("model")
    runs = w.reveal("tools", "tools", "tools")
    w.begin(*runs)
    w.end(*runs[:2])
    assert w.position.expanded() == {("model", 1): (1, 0, 1), ("tools", 1): (3, 1, 2)}
    assert {w.position.place(run) for run in runs[2:]} == {"tools#1"}
    assert w["tools#1"] == "running"
    w.end(runs[2])
    assert w["tools#1"] == "finished"
    w.step("model")
    assert w.step("tools", "tools") == ["tools#2", "tools#2"]


def test_graphs_side_by_side(walk):
    """The same times round in graphs that run in parallel fall together; the next batch is another visit."""
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
    ).unrolled({"team/model": number_of(2, 8)})
    w = walk(team)
    w.step("plan")
    first, second = w.reveal("team", "team")
    w.begin(first, second)
    assert w.step("team/model", around=first) == ["team/model#1"]
    assert w.step("team/model", around=second) == ["team/model#1"]
    w.step("team/tools", around=second)
    assert w.step("team/model", around=second) == ["team/model#2"]
    assert w["team/tools#2"] == "ready"
    w.end(first, second)
    w.step("plan")
    (third,) = w.reveal("team")
    w.begin(third)
    assert w.step("team/model", around=third) == ["team/model#2.1"]


def test_what_the_template_does_not_know(walk):
    """A new node is absorbed, what is known goes on; inside a known node it is placed there."""
    w = walk(AGENT)
    w.step("model")
    (stranger,) = w.reveal("stranger")
    w.begin(stranger)
    assert w.position.place(stranger) is None
    w.end(stranger)
    assert w["tools#1"] != "skipped"
    (tools,) = w.reveal("tools")
    w.begin(tools)
    assert w.step("tools/inner", around=tools) == ["tools#1"]
    assert w.reveal("helper", around=tools, called=True)
    w.end(tools)
    assert w.step("model") == ["model#2"]


def test_an_interrupted_stage_runs_once(walk):
    """Stopped for a human and run again it is the same occurrence, its part of the fan-out included."""
    w = walk(AGENT)
    w.step("model")
    one, other = w.reveal("tools", "tools")
    w.begin(one, other)
    w.end(one)
    w.end(other, again=True)
    assert w["tools#1"] == "ready"
    assert w.step("tools") == ["tools#1"]
    assert w.step("model") == ["model#2"]
    (ask,) = w.reveal("report")
    w.begin(ask)
    w.end(ask, again=True)
    assert w["report"] == "ready"
    w.step("report")
    assert w["report"] == "finished"


def test_what_is_not_known_changes_nothing(walk):
    """Moves of stage runs that were never announced, or are over."""
    w = walk(AGENT)
    before = w.position.statuses()
    w.begin(99)
    w.end(99)
    assert w.position.statuses() == before
    assert w.position.stage_occurrence(99) is None
    w.step("model")
    w.position.end()
    w.end(1)
    assert Status.RUNNING not in w.position.statuses().values()


def test_what_may_be_begun_once_more():
    """By the edges alone: round a loop while something in it is alive, and what was stopped for a human."""
    edges = [("think", "act"), ("act", "think"), ("act", "answer")]
    position = Standing(Application.of("a", ["think", "act", "answer"], edges, ["think"]))
    assert position.coming() == {"think", "act", "answer"}
    position.move(Revealed(((1, "think"),)))
    assert position.coming() == {"think", "act", "answer"}
    position.move(Ended(1, 1.0))
    position.move(Revealed(((2, "act"),)))
    position.move(Ended(2, 1.0))
    position.move(Revealed(((3, "answer"),)))
    assert position.coming() == set()
    position.move(Ended(3, 1.0, complete=False, again=True))
    assert position.coming() == {"answer"}
    position.end()
    assert position.coming() == set()


def test_what_a_stage_gave_up_is_over_with_it(walk):
    """A graph inside a node was stopped while stage runs of it were announced: they come no more."""
    outer = Application.of(
        "outer", ["try", "try/a", "try/b", "last"], [("try", "try/a"), ("try", "last")], ["try"]
    )
    w = walk(outer)
    (attempt,) = w.reveal("try")
    w.begin(attempt)
    inner = w.reveal("try/a", "try/b", around=attempt)
    w.begin(inner[0])
    w.reveal("try/b", around=inner[0])
    w.end(attempt)
    assert w["try"] == "finished"
    assert w["try/b"] == "skipped"
    assert w.position.expanded()["try/a", 1] == (0, 0, 0)
    assert w.position.remaining() == ("last",)
    w.step("last")
    assert w.position.remaining() == ()


# -- stage runs, tools and plans --------------------------------------------------------

PLANNER = Application.of(
    "planner",
    [Node("plan", Kind.LLM, calls_llm=True), Node("use", Kind.DYNAMIC, planned_by="plan"), "sum"],
    [("plan", "use"), ("use", "sum")],
    ["plan"],
)
REACT = Application.of(
    "react",
    [Node("think", Kind.LLM, calls_llm=True), Node("use", Kind.DYNAMIC, planned_by="think")],
    [("think", "use"), ("use", "think")],
    ["think"],
)


def test_runs_of_one_spot(walk):
    """How many were announced, run now, and are over; one that is to be run again is none of them."""
    w = walk(AGENT)
    stage_occurrence = StageOccurrence("tools", 1)
    assert w.position.runs(stage_occurrence) is None
    w.step("model")
    one, two, three = w.reveal("tools", "tools", "tools")
    assert w.position.runs(stage_occurrence) == Runs(3, 0, 0)
    w.begin(one, two)
    w.end(one)
    assert w.position.runs(stage_occurrence) == Runs(3, 1, 1)
    w.end(two, again=True)
    assert w.position.runs(stage_occurrence) == Runs(2, 0, 1)
    w.end(three)
    assert w.position.runs(stage_occurrence) == Runs(2, 0, 2)
    assert w.position.runs(StageOccurrence("tools", 2)) is None
    assert w.position.runs(stage_occurrence) == w.position.expanded()[stage_occurrence]


def use(position, *tools, first=100, path="use"):
    """Announce runs that use these tools; None for one of which that is not known."""
    position.move(Revealed(tuple((first + n, path) for n in range(len(tools))), tools=tools))


def test_tools_of_a_stage():
    """As they were announced, for as long as anybody may ask; those of one run until it is over."""
    position = Standing(PLANNER)
    assert position.tools(StageOccurrence("use", 1)) == {}
    use(position, "saw", None, "saw", "drill")
    assert position.tools(StageOccurrence("use", 1)) == {"saw": 2, "drill": 1}
    assert [position.tool(run) for run in (100, 101, 102, 103, 104)] == ["saw", None, "saw", "drill", None]
    position.move(Began(100))
    position.move(Ended(100, 1.0))
    assert position.tool(100) is None
    assert position.tools(StageOccurrence("use", 1)) == {"saw": 2, "drill": 1}


def test_a_plan_is_known_once_it_cannot_grow():
    """All that was announced, by name; nothing before it was."""
    position = Standing(PLANNER)
    position.move(Revealed(((1, "plan"),)))
    assert position.planned() is None
    position.move(Ended(1, 1.0))
    assert position.planned() is None
    use(position, "saw", "drill", "saw")
    assert position.planned() == (("drill", 1), ("saw", 2))
    for run in (100, 101, 102):
        position.move(Ended(run, 1.0))
    assert position.planned() == (("drill", 1), ("saw", 2))


def test_a_plan_that_may_grow_is_not_known():
    """An agent that may use tools once more, after it has seen what came of these; until it is over."""
    position = Standing(REACT)
    position.move(Revealed(((1, "think"),)))
    position.move(Ended(1, 1.0))
    use(position, "saw")
    assert position.planned() is None
    position.move(Ended(100, 1.0))
    assert position.planned() is None
    position.end()
    assert position.planned() == (("saw", 1),)


def test_tools_without_names_are_no_plan():
    position = Standing(PLANNER)
    use(position, None, None)
    assert position.planned() is None
    assert position.runs(StageOccurrence("use", 1)) == Runs(2, 0, 0)
