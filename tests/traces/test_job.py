"""What a job in the trace format is, and what is refused."""

from __future__ import annotations

import pytest

from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import (
    MEASURED_SPEED,
    Derived,
    EndedCall,
    EndedJob,
    EndedStage,
    TokenSpeed,
    fill_seconds,
)

SPEED = TokenSpeed(1.0, 0.01, 0.1, 5.0, {"web-search": 2.0}, "made up")


def call(prompt, output, seconds, derived=Derived.NOTHING):
    return EndedCall(prompt, output, seconds, derived=derived)


def stage(*calls, kind="llm", deps=(), tool=None):
    return EndedStage(name="s", kind=kind, deps=deps, calls=tuple(call(*own) for own in calls), tool=tool)


def job(*stages):
    return EndedJob(id="j", app="app", jct_s=None, stages=stages)


def test_work_counts_every_llm_call_and_no_tool():
    """Two parallel calls take two slots; a tool takes none."""
    made = job(stage((1, 1, 2.0), (1, 1, 3.0)), stage((None, None, 7.0), kind="tool", deps=(0,)))
    assert made.work_s == 5.0


def test_critical_path_is_the_longest_way_through_the_graph():
    """Calls of a stage run in parallel, and so do stages that do not need each other."""
    made = job(
        stage((1, 1, 2.0), (1, 1, 3.0)),
        stage((None, None, 7.0), kind="tool", deps=(0,)),
        stage((1, 1, 1.0), deps=(0,)),
        stage((1, 1, 0.5), deps=(1, 2)),
    )
    assert made.critical_path_s == 3.0 + 7.0 + 0.5


def test_what_is_not_recorded_makes_the_totals_unknown():
    """None is not zero."""
    made = job(stage((1, 1, None), (1, 1, 3.0)))
    assert made.work_s is None
    assert made.critical_path_s is None
    assert made.stages[0].seconds is None


def test_a_stage_without_calls_takes_no_time():
    assert job(stage()).critical_path_s == 0.0
    assert job().critical_path_s == 0.0


@pytest.mark.parametrize(
    ("deps", "index", "message"),
    [
        ((0,), 0, r"stages\[0\]\.dep: the first stage must have no dependency, not 0"),
        ((1,), 1, r"stages\[1\]\.dep: must name earlier stages, 0 to 0, not 1"),
        ((2,), 1, r"stages\[1\]\.dep: must name earlier stages, 0 to 0, not 2"),
        ((-1,), 2, r"stages\[2\]\.dep: must name earlier stages, 0 to 1, not -1"),
    ],
)
def test_a_stage_depends_on_earlier_ones_only(deps, index, message):
    """So a job is a directed acyclic graph, in order, however it was made."""
    with pytest.raises(InvalidDataError, match=message):
        job(*[stage() for _ in range(index)], stage(deps=deps))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1, 1, 1.0), "prompt tokens must be 0 or more, not -1"),
        ((1, -2, 1.0), "output tokens must be 0 or more, not -2"),
        ((1, 1, -0.5), r"seconds must be 0 or more, not -0\.5"),
        ((1, 1, float("nan")), "seconds must be 0 or more, not nan"),
        ((1, 1, float("inf")), "seconds must be 0 or more, not inf"),
        ((1, 1, None, Derived.SECONDS), "seconds are marked as derived but are missing"),
    ],
)
def test_impossible_calls_are_refused(numbers, message):
    with pytest.raises(InvalidDataError, match=message):
        call(*numbers)


@pytest.mark.parametrize("arrival_s", [-1.0, float("nan"), float("inf")])
def test_impossible_arrivals_are_refused(arrival_s):
    with pytest.raises(InvalidDataError, match=f"arrival: must be 0 or more, not {arrival_s}"):
        EndedJob(id="j", app="app", jct_s=None, stages=(), arrival_s=arrival_s)


def test_unknown_kinds_are_refused():
    with pytest.raises(InvalidDataError, match="must be 'llm' or 'tool', not 'gpu'"):
        stage(kind="gpu")


def test_missing_seconds_come_from_tokens_and_are_marked():
    """What was recorded stays, to the bit, and is not marked."""
    filled = fill_seconds(job(stage((100, 20, None), (100, 20, 0.25), (None, 20, None))))
    assert filled.stages[0].calls[1] == EndedCall(100, 20, 0.25)
    assert [call.derived for call in filled.stages[0].calls] == [
        Derived.SECONDS,
        Derived.NOTHING,
        Derived.SECONDS,
    ]
    assert filled.stages[0].calls[0].seconds == MEASURED_SPEED.call_s(100, 20)
    made = fill_seconds(job(stage((100, 20, None), (None, 20, None))), SPEED)
    assert [call.seconds for call in made.stages[0].calls] == [1.0 + 1.0 + 2.0, 1.0 + 2.0]


def test_tools_seconds_come_from_their_names():
    """The tool's name, else the stage's; one that is not listed takes the usual time."""
    search = stage((None, None, None), kind="tool", tool="Web Search")
    other = stage((None, None, None), kind="tool")
    filled = fill_seconds(job(search, other), SPEED)
    assert [each.seconds for each in filled.stages] == [2.0, 5.0]


def test_a_call_of_unknown_length_stays_unknown():
    """Seconds are not made up out of nothing."""
    made = job(stage((100, None, None)))
    assert fill_seconds(made) == made


def test_earlier_marks_are_kept():
    made = fill_seconds(job(stage((100, 20, None, Derived.PROMPT))))
    assert made.stages[0].calls[0].derived == Derived.PROMPT | Derived.SECONDS
