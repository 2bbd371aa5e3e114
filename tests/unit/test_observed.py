"""What one job did: from a trace, from a live run, and what application traces show."""

from __future__ import annotations

from support.beliefs import call, fan_job, loop_job, planned_job
from support.ended import ended

from llmsched_langgraph import Application
from llmsched_langgraph._application.application import Kind
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._jobs.observed import Part, Unit, observed, rounds, split_by_tool
from llmsched_langgraph._jobs.stages import Ended, Revealed, StageProgress
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage


def stage_occurrences(outcome):
    return [tuple(stage.stage_occurrence) for stage in outcome.stages]


def test_a_loop_is_a_row_of_occurrences():
    outcome = observed(loop_job(0, 3))
    assert stage_occurrences(outcome) == [(name, i) for i in (1, 2, 3) for name in ("think", "act")]
    assert [stage.amount(Unit.SECONDS) for stage in outcome.stages] == [0.5, 0.0] * 3
    assert [stage.amount(Unit.TOKENS) for stage in outcome.stages] == [50, 0] * 3
    assert [stage.amount(Unit.TOOL_SECONDS) for stage in outcome.stages] == [0.0, 0.5] * 3
    assert outcome.prompt_tokens == 100
    assert outcome.amount(Unit.SECONDS) == 1.5


def test_the_calls_of_a_stage_are_its_fan_out():
    split, mapped, join = observed(fan_job(0, 4)).stages
    assert (split.fan_out, mapped.fan_out, join.fan_out) == (1, 4, 1)
    assert (mapped.calls, mapped.amount(Unit.TOKENS)) == (4, 160)


def test_what_runs_in_one_step_is_one_occurrence_as_a_position_counts_it():
    """Two chains beside each other, with other things waited for: the same times as in a live run."""
    job = EndedJob(
        id="j",
        app="a",
        jct_s=None,
        stages=(
            EndedStage(name="start", kind="llm", deps=(), calls=(call(10),)),
            EndedStage(name="work", kind="llm", deps=(0,), calls=(call(10),)),
            EndedStage(name="look", kind="tool", deps=(0,), calls=(EndedCall(None, None, 1.0),)),
            EndedStage(name="work", kind="llm", deps=(1,), calls=(call(20),)),
            EndedStage(name="work", kind="llm", deps=(2,), calls=(call(30),)),
            EndedStage(name="work", kind="llm", deps=(3, 4), calls=(call(40),)),
        ),
    )
    position = StageProgress(template_of("a", [job]))
    number, live = 0, []
    for step in rounds(job):
        runs = [(number + i, stage.stage_occurrence.path) for i, stage in enumerate(step)]
        position.move(Revealed(tuple(runs)))
        live += [position.stage_occurrence(run) for run, _ in runs]
        for run, _ in runs:
            position.move(Ended(run, 1.0))
        number += len(runs)
    assert live == [stage.stage_occurrence for stage in observed(job).stages]
    assert [tuple(stage_occurrence) for stage_occurrence in live] == [
        ("start", 1),
        ("work", 1),
        ("look", 1),
        ("work", 2),
        ("work", 3),
    ]
    assert observed(job).stages[3].fan_out == 2


def test_tools_are_kept_apart():
    (_, used, _) = observed(planned_job(0, "aab")).stages
    assert [(part.tool, part.runs, part.tool_s, part.calls) for part in used.parts] == [
        ("a", 2, 2.0, 0),
        ("b", 1, 10.0, 0),
    ]
    assert used.tools


def test_what_was_not_recorded_is_not_known():
    outcome = observed(planned_job(0, "a"))
    assert outcome.amount(Unit.SECONDS) is None
    assert outcome.amount(Unit.TOKENS) == 130
    empty = observed(EndedJob(id="j", app="a", jct_s=None, stages=()))
    assert (empty.stages, empty.prompt_tokens, empty.amount(Unit.SECONDS)) == ((), None, 0.0)


def test_a_live_run_gives_the_same_as_its_trace():
    """Of a fan-out, a stage run is one of its runs, and its calls are those with its spot."""
    record = ended(
        "f",
        ("split", 0.2, 100, 20),
        ("map", 0.4, 100, 40, 1),
        ("map", 0.4, 100, 40, 1),
        ("join", 0.3, 100, 30),
        runs=(
            ("split", 1, 0.2),
            ("map", 1, 5.0, False),  # failed, and was tried again
            ("map", 1, 0.4),
            ("map", 1, 0.4),
            ("join", 1, 0.3),
        ),
    )
    recorded = EndedJob(
        id="j",
        app="f",
        jct_s=9.0,
        stages=(
            EndedStage(name="split", kind="llm", deps=(), calls=(call(20),)),
            EndedStage(name="map", kind="llm", deps=(0,), calls=(call(40), call(40))),
            EndedStage(name="join", kind="llm", deps=(1,), calls=(call(30),)),
        ),
    )
    assert observed(record) == observed(recorded)


def test_of_a_live_run_stages_without_calls_have_the_seconds_of_tools():
    """And a call that no stage run was seen around is an occurrence of its own name."""
    record = ended("f", ("model", 1.5, None, None, 2), runs=(("search", 1, 2.5),), end="failed")
    outcome = observed(record)
    assert stage_occurrences(outcome) == [("model", 2), ("search", 1)]
    assert outcome.amount(Unit.SECONDS) == 1.5
    assert outcome.amount(Unit.TOOL_SECONDS) == 2.5
    assert outcome.amount(Unit.TOKENS) is None
    assert not outcome.complete


def test_an_application_from_traces_has_all_that_they_show():
    application = template_of("loop", [loop_job(0, 1), loop_job(1, 4)])
    assert application.loops == (("think", "act"),)
    assert application.entries == ("think",)
    assert application.by_path["think"].calls_llm
    assert application.by_path["act"].kind is Kind.REGULAR
    fan = template_of("fan", [fan_job(0, 0), fan_job(1, 2)])
    assert fan.edges == (("map", "join"), ("split", "map"))
    assert template_of("none", []) == Application.of("none")


def test_who_plans_tools_is_seen_in_the_records():
    """A plan starts several at once; an agent that looks before it chooses has none."""
    planner = template_of("planner", [planned_job(0, "a"), planned_job(1, "abc")])
    assert planner.by_path["use"].kind is Kind.DYNAMIC
    assert planner.by_path["use"].planned_by == "plan"
    assert (
        template_of("planner", [planned_job(0, "a"), planned_job(1, "b")]).by_path["use"].planned_by is None
    )
    steps = [
        EndedStage(name="think", kind="llm", deps=(), calls=(call(5),)),
        EndedStage(name="use", kind="tool", deps=(0,), calls=(EndedCall(None, None, 1.0),), tool="a"),
        EndedStage(name="think", kind="llm", deps=(1,), calls=(call(5),)),
        EndedStage(name="use", kind="tool", deps=(2,), calls=(EndedCall(None, None, 1.0),), tool="b"),
    ]
    agent = template_of("agent", [EndedJob(id="j", app="agent", jct_s=None, stages=tuple(steps))])
    assert agent.by_path["use"].planned_by is None


def test_work_is_split_among_tools_run_by_run():
    """By how many runs used each; seconds as they are known, or evenly. Nothing is made up."""
    whole = Part(tool=None, runs=4, calls=8, work_s=12.0, prompt_tokens=400, output_tokens=None, tool_s=0.0)
    assert split_by_tool(whole, {"saw": 3, "drill": 1}) == (
        Part(tool="drill", runs=1, calls=2, work_s=3.0, prompt_tokens=100, output_tokens=None, tool_s=0.0),
        Part(tool="saw", runs=3, calls=6, work_s=9.0, prompt_tokens=300, output_tokens=None, tool_s=0.0),
    )
    idle = Part(tool=None, runs=4, calls=0, work_s=0.0, prompt_tokens=0, output_tokens=0, tool_s=10.0)
    assert [part.tool_s for part in split_by_tool(idle, {"saw": 3, "drill": 1})] == [2.5, 7.5]
    told = split_by_tool(idle, {"saw": 3, "drill": 1}, {"saw": 1.0, "drill": 9.0})
    assert [part.tool_s for part in told] == [9.0, 1.0]
    unknown = split_by_tool(Part(work_s=None, tool_s=None), {"saw": 1})
    assert [(part.work_s, part.tool_s) for part in unknown] == [(None, 0.0)]


def test_calls_of_a_stage_of_several_tools_are_split():
    """Of a live run: which tool made a call is not known, so each of its runs made as many."""
    runs = [("use", 1, 5.0, True, tool) for tool in ("saw", "drill")]
    (stage,) = observed(ended("x", *[("use", 3.0, 100, 10, 1)] * 2, runs=runs)).stages
    assert [(part.tool, part.runs, part.calls, part.work_s) for part in stage.parts] == [
        ("drill", 1, 1, 3.0),
        ("saw", 1, 1, 3.0),
    ]
    assert (stage.fan_out, stage.calls, stage.tools) == (2, 2, True)
