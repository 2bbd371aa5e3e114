"""The record of a job becomes a job in the trace format: what it did, and what waited for what."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

import pytest

from llmsched_langgraph import Application
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._core.ending import ended
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._jobs.layout import CODE_S, without_code
from llmsched_langgraph._jobs.observed import observed, rounds
from llmsched_langgraph._jobs.stages import Began, Ended, Lag, Revealed
from llmsched_langgraph.policies import JobInfo
from llmsched_langgraph.traces.files import line_of_job
from llmsched_langgraph.traces.form import job_from_node


class Run:
    """One job on a desk whose slots suffice, told as a driver would; `trace` is what becomes of it."""

    def __init__(self, desk, slots=9):
        self.desk, self.tickets = desk("fcfs", slots=slots), 0
        self.desk.arrive(100.0, 1, "app")

    def move(self, now, *stage_events):
        self.desk.move(now, 1, *stage_events)

    def ask(self, now, run=None, stage="s"):
        self.tickets += 1
        self.desk.call(now, self.tickets, 1, stage, run=run)
        return self.tickets

    def answer(self, now, ticket, prompt=10, output=5):
        self.desk.release(now, ticket, Outcome.FINISHED, Usage(prompt, output))

    def call(self, since, until, run=None, stage="s"):
        self.answer(until, self.ask(since, run, stage))

    def record(self, now):
        self.desk.end(now, 1)
        (record,) = self.desk.records
        return replace(record, id="j", arrival_s=1_000_000.0 + record.arrival_s)

    def trace(self, now):
        """What is written of the job and read again, which is the whole record."""
        record = self.record(now)
        read = job_from_node(Field(json.loads(line_of_job(record))))
        assert read == record
        assert observed(read) == observed(record)
        return read


@pytest.fixture
def run(desk):
    return Run(desk)


def shape(job):
    """Name, what it waited for and seconds of each stage."""
    return [(s.name, s.kind, s.deps, [call.seconds for call in s.calls]) for s in job.stages]


def test_a_fan_out_a_loop_and_a_tool(run):
    """Stages of a superstep wait for all of the one before; the i-th time round is one more stage."""
    run.move(100.0, Revealed(((1, "plan"),)), Began(1))
    run.call(100.0, 102.0, 1)
    run.move(102.0, Ended(1, 2.0), Revealed(((2, "work"), (3, "work")), tools=("saw", "drill")))
    run.move(102.0, Began(2), Began(3))
    two, three = run.ask(102.0, 2), run.ask(102.0, 3)
    run.answer(103.0, two)
    run.move(103.0, Ended(2, 1.0))
    run.answer(105.0, three)
    for now, number in ((105.0, 4), (107.0, 6)):
        run.move(now, Ended(number - 1, 0.0), Revealed(((number, "look"),)), Began(number))
        run.move(now + 1.5, Ended(number, 1.5), Revealed(((number + 1, "check"),)), Began(number + 1))
        run.call(now + 1.5, now + 2.0, number + 1)
    run.move(109.0, Ended(7, 0.5))
    job = run.trace(110.0)
    assert shape(job) == [
        ("plan", "llm", (), [2.0]),
        ("work", "llm", (0,), [1.0]),
        ("work", "llm", (0,), [3.0]),
        ("look", "tool", (1, 2), [1.5]),
        ("check", "llm", (3,), [0.5]),
        ("look", "tool", (4,), [1.5]),
        ("check", "llm", (5,), [0.5]),
    ]
    assert [stage.tool for stage in job.stages[:4]] == [None, "saw", "drill", None]
    assert job.stages[0].calls[0].prompt_tokens == 10
    assert job.stages[0].calls[0].output_tokens == 5
    assert (job.id, job.app, job.jct_s, job.arrival_s) == ("j", "app", 10.0, 1_000_100.0)


def test_the_wait_for_a_slot_is_not_in_it(desk):
    """Replay waits anew, under another policy."""
    run = Run(desk, slots=1)
    run.move(100.0, Revealed(((1, "a"), (2, "b"))), Began(1), Began(2))
    first, second = run.ask(100.0, 1), run.ask(100.0, 2)
    run.answer(103.0, first)
    run.answer(107.0, second)
    run.move(107.0, Ended(1, 3.0, at_s=103.0), Ended(2, 7.0))
    job = run.trace(107.0)
    assert shape(job) == [("a", "llm", (), [3.0]), ("b", "llm", (), [4.0])]
    assert job.jct_s == 7.0


def test_calls_in_one_node_wait_for_those_that_were_over(run):
    """Three at once, then one: two stages, however long each of the three took."""
    run.move(100.0, Revealed(((1, "ask"),)), Began(1))
    asked = [run.ask(100.0, 1) for _ in range(3)]
    for ticket, now in zip(asked, (101.0, 103.0, 102.0), strict=True):
        run.answer(now, ticket)
    run.call(103.0, 104.0, 1)
    run.move(104.0, Ended(1, 4.0))
    assert shape(run.trace(104.0)) == [("ask", "llm", (), [1.0, 3.0, 2.0]), ("ask", "llm", (0,), [1.0])]


def test_two_chains_of_calls_in_one_node_stay_two(run):
    """What had not ended was not waited for."""
    run.move(100.0, Revealed(((1, "ask"),)), Began(1))
    a, b = run.ask(100.0, 1), run.ask(100.0, 1)
    run.answer(101.0, a)
    a = run.ask(101.0, 1)
    run.answer(103.0, b)
    run.answer(105.0, a)
    run.move(105.0, Ended(1, 5.0))
    assert shape(run.trace(105.0)) == [
        ("ask", "llm", (), [1.0]),
        ("ask", "llm", (), [3.0]),
        ("ask", "llm", (0,), [4.0]),
    ]


def test_what_a_node_does_beside_its_calls_is_a_stage_if_it_takes_long(run):
    """Before, between and after; a moment is not."""
    run.move(100.0, Revealed(((1, "agent"),)), Began(1))
    run.call(102.0, 103.0, 1)
    run.call(103.0 + CODE_S / 2, 104.0, 1)
    run.call(107.0, 108.0, 1)
    run.move(109.5, Ended(1, 9.5))
    assert shape(run.trace(110.0)) == [
        ("agent (code)", "tool", (), [2.0]),
        ("agent", "llm", (0,), [1.0]),
        ("agent", "llm", (1,), [pytest.approx(1.0 - CODE_S / 2)]),
        ("agent (code)", "tool", (2,), [3.0]),
        ("agent", "llm", (3,), [1.0]),
        ("agent (code)", "tool", (4,), [1.5]),
    ]


def test_without_code_it_is_the_same_application_however_busy_the_machine_was(desk):
    """What came after the code comes after what came before it, and times and arrival stay."""

    def loop(pause_s):
        run, now = Run(desk), 100.0
        for turn in range(2):
            for number, node in ((2 * turn, "model"), (2 * turn + 1, "tools")):
                run.move(now, Revealed(((number, node),)), Began(number))
                if node == "model":
                    run.call(now + pause_s, now + pause_s + 1.0, number)
                run.move(now + 2 * pause_s + 1.0, Ended(number, 2 * pause_s + 1.0))
                now += 2 * pause_s + 1.0
        return run.trace(now)

    quick, slow = loop(0.0), loop(3.0)
    assert [stage.name for stage in slow.stages].count("model (code)") == 4
    assert shape(without_code(slow))[:2] == [("model", "llm", (), [1.0]), ("tools", "tool", (0,), [7.0])]
    assert [stage.deps for stage in without_code(slow).stages] == [stage.deps for stage in quick.stages]
    assert (without_code(slow).jct_s, without_code(slow).arrival_s) == (slow.jct_s, slow.arrival_s)
    assert without_code(quick) == quick
    assert template_of("app", [without_code(slow)]) == template_of("app", [quick])
    assert template_of("app", [slow]) != template_of("app", [quick])


def test_code_before_the_calls_of_a_fan_out_is_in_all_of_them_or_in_none(run):
    """So calls that belong together stand at one depth: they are one occurrence of their stage."""
    run.move(100.0, Revealed(((1, "work"), (2, "work"))), Began(1), Began(2))
    quick = run.ask(100.0, 1)
    slow = run.ask(102.0, 2)
    for ticket in (quick, slow):
        run.answer(104.0, ticket)
    run.move(104.0, Ended(1, 4.0), Ended(2, 4.0))
    job = run.trace(104.0)
    assert shape(job) == [
        ("work (code)", "tool", (), [0.0]),
        ("work (code)", "tool", (), [2.0]),
        ("work", "llm", (0,), [4.0]),
        ("work", "llm", (1,), [2.0]),
    ]
    assert [(stage.stage_occurrence.path, stage.fan_out) for stage in observed(job).stages] == [("work", 2)]


def lags(*intervals, around=None):
    return tuple(Lag(*interval, around) for interval in intervals)


def test_the_lag_of_the_event_loop_is_no_code(run):
    """What is left of a gap without it counts, and is a stage if it is long."""
    run.move(100.0, Revealed(((1, "agent"),)), Began(1))
    run.call(102.0, 103.0, 1)
    run.call(106.0, 107.0, 1)
    run.move(109.0, Ended(1, 9.0, lags=lags((100.0, 101.95), (102.5, 103.5), (104.0, 105.0), (107.0, 109.0))))
    assert shape(run.trace(110.0)) == [
        ("agent", "llm", (), [1.0]),
        ("agent (code)", "tool", (0,), [1.5]),
        ("agent", "llm", (1,), [1.0]),
    ]


def test_lag_around_a_call_is_lag_only_if_there_was_one(run):
    """An await that no call overlaps took its time itself; a call is lagged before and after."""
    run.move(100.0, Revealed(((1, "agent"),)), Began(1))
    run.call(105.0, 106.0, 1)
    own = lags((100.5, 103.0), around=(100.0, 103.5))
    call = lags((104.0, 105.0), (106.0, 106.5), around=(104.0, 106.5))
    run.move(107.0, Ended(1, 7.0, lags=(*own, *call)))
    assert shape(run.trace(107.0)) == [
        ("agent (code)", "tool", (), [4.0]),
        ("agent", "llm", (0,), [1.0]),
        ("agent (code)", "tool", (1,), [0.5]),
    ]


def test_a_tool_takes_its_time_without_lag(run):
    """Nothing is inside it, so what depends on a call is its own time."""
    run.move(100.0, Revealed(((1, "agent"),)), Began(1))
    run.call(100.0, 101.0, 1)
    run.move(101.0, Ended(1, 1.0), Revealed(((2, "look"),)), Began(2))
    own = lags((102.0, 103.0), around=(-inf, inf))
    run.move(106.0, Ended(2, 5.0, lags=(*lags((101.0, 101.5), (105.0, 106.0)), *own)))
    job = run.trace(106.0)
    assert shape(job) == [("agent", "llm", (), [1.0]), ("look", "tool", (0,), [3.5])]
    assert [part.tool_s for stage in observed(job).stages for part in stage.parts] == [0.0, 3.5]


def test_the_lag_of_a_graph_inside_a_node_is_no_code(run):
    """Between the stage runs inside, as between calls."""
    run.move(100.0, Revealed(((1, "outer"),)), Began(1), Revealed(((2, "outer/in"),), around=1), Began(2))
    run.call(100.0, 101.0, 2)
    run.move(101.0, Ended(2, 1.0))
    run.move(103.0, Revealed(((3, "outer/in"),), around=1), Began(3))
    run.call(103.0, 104.0, 3)
    run.move(104.0, Ended(3, 1.0))
    run.move(106.0, Ended(1, 6.0, lags=lags((101.0, 102.95), (104.0, 106.0), around=(-inf, inf))))
    assert [name for name, *_ in shape(run.trace(106.0))] == ["outer/in", "outer/in"]


def test_the_wait_for_a_thread_is_no_code(run):
    """A stage run takes its seconds from when it has begun, not from when it was announced."""
    run.move(100.0, Revealed(((1, "work"), (2, "work"))), Began(1))
    run.call(100.0, 103.0, 1)
    run.move(103.0, Ended(1, 3.0), Began(2))
    run.call(103.0, 104.0, 2)
    run.move(104.0, Ended(2, 1.0))
    assert shape(run.trace(104.0)) == [("work", "llm", (), [3.0]), ("work", "llm", (), [1.0])]


def test_a_graph_in_a_node_stands_in_its_place(run):
    """What comes after the node waits for the last of its graph; two of them side by side know nothing
    of each other."""
    run.move(100.0, Revealed(((1, "team"), (2, "team"))), Began(1), Began(2))
    run.move(100.0, Revealed(((3, "team/ask"),), 1, begun=True), Revealed(((4, "team/ask"),), 2, begun=True))
    one, two = run.ask(100.0, 3), run.ask(100.0, 4)
    run.answer(101.0, one)
    run.move(101.0, Ended(3, 1.0), Revealed(((5, "team/look"),), 1, begun=True))
    run.answer(102.0, two)
    run.move(102.0, Ended(4, 2.0), Revealed(((6, "team/look"),), 2, begun=True))
    run.move(104.0, Ended(5, 3.0), Ended(6, 2.0), Ended(1, 4.0), Ended(2, 4.0))
    run.move(104.0, Revealed(((7, "end"),)), Began(7), Ended(7, 0.0))
    assert shape(run.trace(104.0)) == [
        ("team/ask", "llm", (), [1.0]),
        ("team/ask", "llm", (), [2.0]),
        ("team/look", "tool", (0,), [3.0]),
        ("team/look", "tool", (1,), [2.0]),
        ("end", "tool", (2, 3), [0.0]),
    ]


def test_a_graph_that_outlives_its_node_stands_beside_the_next(run):
    """The node after it did not wait for it; what a later node waited for is what had ended."""
    run.move(100.0, Revealed(((1, "start"),)), Began(1), Ended(1, 0.0), Revealed(((2, "next"),)), Began(2))
    run.move(100.0, Revealed(((3, "start/ask"),), 1, begun=True))
    next_, ask = run.ask(100.0, 2), run.ask(100.0, 3)
    run.answer(101.0, ask)
    run.move(101.0, Ended(3, 1.0), Revealed(((4, "start/look"),), 1, begun=True))
    run.answer(102.0, next_)
    run.move(102.0, Ended(2, 2.0), Revealed(((5, "end"),)), Began(5))
    run.move(103.0, Ended(4, 2.0), Ended(5, 1.0))
    assert shape(run.trace(103.0)) == [
        ("start", "tool", (), [0.0]),
        ("next", "llm", (0,), [2.0]),
        ("start/ask", "llm", (0,), [1.0]),
        ("start/look", "tool", (2,), [2.0]),
        ("end", "tool", (1, 2), [1.0]),
    ]


@pytest.mark.parametrize("called", [True, False])
def test_a_graph_that_outlives_its_node_stays_within_the_node_around_that(run, called):
    """Begun in a node of an inner graph, whether a call of it was in flight when that node ended or not."""
    run.move(100.0, Revealed(((1, "outer"),)), Began(1), Revealed(((2, "outer/start"),), 1, begun=True))
    run.move(100.0, Revealed(((3, "outer/start/first"),), 2, begun=True))
    first = run.ask(100.0, 3) if called else None
    run.move(100.0, Ended(2, 0.0), Revealed(((4, "outer/next"),), 1, begun=True))
    next_ = run.ask(100.0, 4)
    if first is not None:
        run.answer(101.0, first)
    run.move(101.0, Ended(3, 1.0), Revealed(((5, "outer/start/second"),), 2, begun=True))
    run.call(101.0, 103.0, 5)
    run.move(103.0, Ended(5, 2.0))
    run.answer(104.0, next_)
    run.move(104.0, Ended(4, 4.0), Ended(1, 4.0), Revealed(((6, "end"),)), Began(6), Ended(6, 0.0))
    job = run.trace(104.0)
    places = {stage.name: place for place, stage in enumerate(job.stages)}
    assert len(places) == len(job.stages) == (5 if called else 4)
    ends = {places["outer/next"], places["outer/start/second"]}
    assert ends <= set(job.stages[places["end"]].deps)
    assert not ends & set(job.stages[places["outer/next"]].deps)


def test_an_interrupted_job_is_without_the_humans_time(run):
    """From arrival to end, less the pause; where it stopped and went on stand one behind the other."""
    run.move(100.0, Revealed(((1, "ask"),)), Began(1))
    run.call(100.0, 101.0, 1)
    run.move(101.0, Ended(1, 1.0, complete=False, again=True))
    run.desk.pause(101.0, 1, "thread")
    run.desk.arrive(3701.0, 1, "app", resumes="thread")
    run.move(3701.0, Revealed(((2, "ask"),)), Began(2))
    run.call(3701.0, 3703.0, 2)
    run.move(3703.0, Ended(2, 2.0))
    made = run.trace(3703.0)
    assert shape(made) == [("ask", "llm", (), [1.0]), ("ask", "llm", (0,), [2.0])]
    assert (made.jct_s, made.arrival_s) == (3.0, 1_000_100.0)


def test_calls_whose_stage_nobody_saw_stand_by_their_own_names(run):
    """One after the other, or side by side, as they were made; and one outside any graph is a job."""
    run.call(100.0, 101.0, stage="draft")
    one, two = run.ask(101.0, stage="check"), run.ask(101.0, stage="title")
    run.answer(102.0, one)
    run.answer(102.0, two)
    assert shape(run.trace(102.0)) == [
        ("draft", "llm", (), [1.0]),
        ("check", "llm", (0,), [1.0]),
        ("title", "llm", (0,), [1.0]),
    ]
    run.desk.call(200.0, 9, None, "")
    run.desk.release(202.0, 9)
    direct = run.desk.records[-1]
    assert (direct.app, direct.arrival_s, shape(direct)) == ("direct", 200.0, [("", "llm", (), [2.0])])
    assert direct.stages[0].calls[0].output_tokens is None


def test_graphs_without_a_name_are_panels_by_policy(run):
    """By their fingerprints; others go by the names that their authors gave."""
    names = set()
    for node in ("a", "b"):
        template = Application.of("LangGraph", [node])
        job = Job(1, JobInfo(application=template), template, 100.0)
        job.add((Job.ended, Outcome.FINISHED))
        job.add((Job.closed, 101.0))
        names.add(ended(job).app)
        assert ended(job).app == f"LangGraph-{template.fingerprint[:8]}"
    assert len(names) == 2


def test_where_calls_of_a_node_go_side_by_side_depths_tell_the_occurrences(run):
    """A record in which stage runs were not watched teaches the same as one in which they were."""
    run.move(100.0, Revealed(((1, "plan"),)), Began(1))
    run.call(100.0, 102.0, 1, "plan")
    run.move(102.0, Ended(1, 2.0), Revealed(((2, "work"), (3, "work")), tools=("saw", "drill")))
    run.move(102.0, Began(2), Began(3), Ended(2, 1.0, at_s=103.0), Ended(3, 2.5, at_s=104.5))
    run.move(104.5, Revealed(((4, "join"),)), Began(4))
    run.call(104.5, 106.0, 4, "join")
    run.move(106.0, Ended(4, 1.5))
    job = run.trace(106.0)
    bare = replace(job, stages=tuple(replace(stage, run=None) for stage in job.stages), runs=())
    assert job.watched
    assert not bare.watched
    by_spot = {stage.stage_occurrence: set(stage.parts) for stage in observed(job).stages}
    assert {stage.stage_occurrence: set(stage.parts) for stage in observed(bare).stages} == by_spot


def test_calls_of_a_node_one_after_the_other_are_one_occurrence(run):
    """And a node around a graph is one, too: what a file teaches is what the run taught, see `Run.trace`."""
    run.move(100.0, Revealed(((1, "team"),)), Began(1))
    run.move(100.0, Revealed(((2, "team/ask"), (3, "team/ask")), 1, begun=True))
    for since in (100.0, 101.0):
        asked = [run.ask(since, number) for number in (2, 3)]
        for ticket in asked:
            run.answer(since + 1.0, ticket)
    run.move(102.0, Ended(2, 2.0), Ended(3, 2.0, complete=False), Ended(1, 2.0))
    job = run.trace(102.0)
    assert len(job.stages) == 4
    assert [(*stage.stage_occurrence, stage.fan_out, stage.calls) for stage in observed(job).stages] == [
        ("team/ask", 1, 1, 4),
        ("team", 1, 1, 0),
    ]
    assert [[stage.stage_occurrence.path for stage in step] for step in rounds(job)] == [["team/ask"]]
