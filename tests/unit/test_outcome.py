"""What one job did: from a trace, from a live run, and what application traces show."""

from __future__ import annotations

from support.beliefs import call, fan_job, loop_job, planned_job

from llmsched_langgraph.belief.outcome import Part, Unit, by_tool, outcome_of_record, outcome_of_trace, rounds
from llmsched_langgraph.belief.record import CallRecord, JobRecord, StageRecord
from llmsched_langgraph.belief.template import template_of
from llmsched_langgraph.dag.application import Application, Kind
from llmsched_langgraph.dag.position import Ended, Position, Revealed
from llmsched_langgraph.traces.job import TraceCall, TraceJob, TraceStage


def spots(outcome):
    return [tuple(stage.spot) for stage in outcome.stages]


def test_a_loop_is_a_row_of_occurrences():
    outcome = outcome_of_trace(loop_job(0, 3))
    assert spots(outcome) == [(name, i) for i in (1, 2, 3) for name in ("think", "act")]
    assert [stage.amount(Unit.SECONDS) for stage in outcome.stages] == [0.5, 0.0] * 3
    assert [stage.amount(Unit.TOKENS) for stage in outcome.stages] == [50, 0] * 3
    assert [stage.amount(Unit.TOOL_SECONDS) for stage in outcome.stages] == [0.0, 0.5] * 3
    assert outcome.prompt_tokens == 100
    assert outcome.amount(Unit.SECONDS) == 1.5


def test_the_calls_of_a_stage_are_its_fan_out():
    split, mapped, join = outcome_of_trace(fan_job(0, 4)).stages
    assert (split.fan_out, mapped.fan_out, join.fan_out) == (1, 4, 1)
    assert (mapped.calls, mapped.amount(Unit.TOKENS)) == (4, 160)


def test_what_runs_in_one_step_is_one_occurrence_as_a_position_counts_it():
    """Two chains beside each other, with other things waited for: the same times as in a live run."""
    job = TraceJob(
        "j",
        "a",
        None,
        (
            TraceStage("start", "llm", (), (call(10),)),
            TraceStage("work", "llm", (0,), (call(10),)),
            TraceStage("look", "tool", (0,), (TraceCall(None, None, 1.0),)),
            TraceStage("work", "llm", (1,), (call(20),)),
            TraceStage("work", "llm", (2,), (call(30),)),
            TraceStage("work", "llm", (3, 4), (call(40),)),
        ),
    )
    position = Position(template_of("a", [job]))
    number, live = 0, []
    for step in rounds(job):
        runs = [(number + i, stage.spot.path) for i, stage in enumerate(step)]
        position.move(Revealed(tuple(runs)))
        live += [position.spot(run) for run, _ in runs]
        for run, _ in runs:
            position.move(Ended(run, 1.0))
        number += len(runs)
    assert live == [stage.spot for stage in outcome_of_trace(job).stages]
    assert [tuple(spot) for spot in live] == [
        ("start", 1),
        ("work", 1),
        ("look", 1),
        ("work", 2),
        ("work", 3),
    ]
    assert outcome_of_trace(job).stages[3].fan_out == 2


def test_tools_are_kept_apart():
    (_, used, _) = outcome_of_trace(planned_job(0, "aab")).stages
    assert [(part.tool, part.runs, part.tool_s, part.calls) for part in used.parts] == [
        ("a", 2, 2.0, 0),
        ("b", 1, 10.0, 0),
    ]
    assert used.tools


def test_what_was_not_recorded_is_not_known():
    outcome = outcome_of_trace(planned_job(0, "a"))
    assert outcome.amount(Unit.SECONDS) is None
    assert outcome.amount(Unit.TOKENS) == 130
    empty = outcome_of_trace(TraceJob("j", "a", None, ()))
    assert (empty.stages, empty.prompt_tokens, empty.amount(Unit.SECONDS)) == ((), None, 0.0)


def test_a_live_run_gives_the_same_as_its_trace():
    """Of a fan-out, a stage run is one of its runs, and its calls are those with its spot."""
    record = JobRecord(
        "f",
        (
            CallRecord("split", 1, 0.2, 100, 20, ("split", 1)),
            CallRecord("map", 1, 0.4, 100, 40, ("map", 1)),
            CallRecord("map", 2, 0.4, 100, 40, ("map", 1)),
            CallRecord("join", 1, 0.3, 100, 30, ("join", 1)),
        ),
        0.0,
        9.0,
        complete=True,
        stages=(
            StageRecord("split", 1, "split", 0.2, complete=True),
            StageRecord("map", 1, "map", 5.0, complete=False),  # failed, and was tried again
            StageRecord("map", 1, "map", 0.4, complete=True),
            StageRecord("map", 1, "map", 0.4, complete=True),
            StageRecord("join", 1, "join", 0.3, complete=True),
        ),
    )
    recorded = TraceJob(
        "j",
        "f",
        9.0,
        (
            TraceStage("split", "llm", (), (call(20),)),
            TraceStage("map", "llm", (0,), (call(40), call(40))),
            TraceStage("join", "llm", (1,), (call(30),)),
        ),
    )
    assert outcome_of_record(record) == outcome_of_trace(recorded)


def test_of_a_live_run_stages_without_calls_have_the_seconds_of_tools():
    """And a call that no stage run was seen around is an occurrence of its own name."""
    record = JobRecord(
        "f",
        (CallRecord("model", 2, 1.5),),
        0.0,
        9.0,
        complete=False,
        stages=(StageRecord("search", 1, None, 2.5, complete=True),),
    )
    outcome = outcome_of_record(record)
    assert spots(outcome) == [("model", 2), ("search", 1)]
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
        TraceStage("think", "llm", (), (call(5),)),
        TraceStage("use", "tool", (0,), (TraceCall(None, None, 1.0),), "a"),
        TraceStage("think", "llm", (1,), (call(5),)),
        TraceStage("use", "tool", (2,), (TraceCall(None, None, 1.0),), "b"),
    ]
    agent = template_of("agent", [TraceJob("j", "agent", None, tuple(steps))])
    assert agent.by_path["use"].planned_by is None


def test_work_is_dealt_out_to_tools_run_by_run():
    """By how many runs used each; seconds as they are known, or evenly. Nothing is made up."""
    whole = Part(None, 4, 8, 12.0, 400, None, 0.0)
    assert by_tool(whole, {"saw": 3, "drill": 1}) == (
        Part("drill", 1, 2, 3.0, 100, None, 0.0),
        Part("saw", 3, 6, 9.0, 300, None, 0.0),
    )
    idle = Part(None, 4, 0, 0.0, 0, 0, 10.0)
    assert [part.tool_s for part in by_tool(idle, {"saw": 3, "drill": 1})] == [2.5, 7.5]
    told = by_tool(idle, {"saw": 3, "drill": 1}, {"saw": 1.0, "drill": 9.0})
    assert [part.tool_s for part in told] == [9.0, 1.0]
    unknown = by_tool(Part(work_s=None, tool_s=None), {"saw": 1})
    assert [(part.work_s, part.tool_s) for part in unknown] == [(None, 0.0)]


def test_calls_of_a_stage_of_several_tools_are_dealt_out():
    """Of a live run: which tool made a call is not known, so each of its runs made as many."""
    calls = tuple(CallRecord("use", n, 3.0, 100, 10, ("use", 1)) for n in (1, 2))
    runs = tuple(StageRecord("use", 1, "use", 5.0, True, tool) for tool in ("saw", "drill"))
    (stage,) = outcome_of_record(JobRecord("x", calls, 0.0, 9.0, True, runs)).stages
    assert [(part.tool, part.runs, part.calls, part.work_s) for part in stage.parts] == [
        ("drill", 1, 1, 3.0),
        ("saw", 1, 1, 3.0),
    ]
    assert (stage.fan_out, stage.calls, stage.tools) == (2, 2, True)
