"""What is recorded of a job does the same in the same time, and teaches the same when read from a file."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.applications import app

from llmsched_langgraph import Backend
from llmsched_langgraph._core.ending import ended
from llmsched_langgraph._core.events import CallReleased, CallRequested, JobArrived, JobEnded, StagesChanged
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._jobs.observed import Unit, nodes_of, observed, rounds
from llmsched_langgraph._jobs.stages import Ended, Revealed, StageOccurrence, StageProgress
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import APPLICATIONS, TimedJob, generate
from llmsched_langgraph.policies import JobInfo
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage
from llmsched_langgraph.traces.files import line_of_job
from llmsched_langgraph.traces.form import job_from_node

SECONDS = st.sampled_from([0.0, 0.5, 1.0, 1.25, 7.0])


@st.composite
def jobs(draw):
    """Any stages in any order, with ties: many things end and begin at the same moment."""
    stages = [EndedStage(name="s0", kind="llm", deps=(), calls=(EndedCall(1, 1, draw(SECONDS)),))]
    for index in range(1, draw(st.integers(1, 8))):
        deps = tuple(sorted(draw(st.sets(st.integers(0, index - 1), max_size=3))))
        name = draw(st.sampled_from(["s0", "s1", "s2"]))
        if draw(st.booleans()):
            used = (EndedCall(None, None, draw(SECONDS)),)
            stages.append(
                EndedStage(
                    name=name, kind="tool", deps=deps, calls=used, tool=draw(st.none() | st.just("saw"))
                )
            )
        else:
            calls = draw(st.lists(SECONDS, min_size=1, max_size=3))
            stages.append(
                EndedStage(name=name, kind="llm", deps=deps, calls=tuple(EndedCall(2, 3, s) for s in calls))
            )
    return EndedJob(id="j", app="app", jct_s=None, stages=tuple(stages))


def recorded(job, slots=99, arrival_s=0.0):
    """The job as a scheduler records it, run alone."""
    run = Simulation([TimedJob(arrival_s, job)], slots=slots, policy=as_policy("fcfs"), keep=True).run()
    (record,) = run.records
    return record, run.jobs[0].jct_s


def done(job):
    """Everything that it did, whatever came when."""
    calls = (
        (s, call.prompt_tokens, call.output_tokens, call.seconds) for s in job.stages for call in s.calls
    )
    return Counter((s.name, s.kind, s.tool, *numbers) for s, *numbers in calls)


@given(jobs())
def test_a_recorded_job_does_the_same_in_the_same_time(job):
    """All calls and tools, tokens and seconds; alone it takes as long; and recorded again it is the same."""
    once, jct_s = recorded(job)
    assert done(once) == done(job)
    assert once.jct_s == pytest.approx(jct_s)
    assert once.critical_path_s == pytest.approx(jct_s)
    again, again_s = recorded(once)
    assert again_s == pytest.approx(jct_s)
    assert done(again) == done(once)


@given(jobs(), st.integers(1, 2))
def test_waiting_for_slots_does_not_get_into_it(job, slots):
    """Recorded on a busy backend, it does the same work; only what waited for what may look stricter."""
    busy, _ = recorded(job, slots, arrival_s=50.0)
    assert done(busy) == done(job)
    assert busy.critical_path_s >= job.critical_path_s - 1e-6
    assert busy.arrival_s == pytest.approx(50.0)


@pytest.mark.parametrize("app", APPLICATIONS)
def test_the_papers_applications_keep_their_stages(app):
    """In the order of time, each behind what it waited for."""
    for job in generate(app, 5, 1):
        once, jct_s = recorded(job)
        assert once.critical_path_s == pytest.approx(jct_s, abs=1e-4)
        assert once.work_s == pytest.approx(job.work_s, abs=1e-4)
        assert {stage.name for stage in once.stages} == {stage.name for stage in job.stages}


class Driven:
    """One job of a machine, driven by any numbers; it notes by itself what there is to learn."""

    def __init__(self):
        self.machine = SchedulerMachine(as_policy("fcfs"), [Backend("b", 100)])
        self.now, self.numbers, self.open, self.held = 0.0, itertools.count(1), {}, {}
        self.calls, self.runs, self.tools_s = Counter(), Counter(), Counter()
        self.asked = {}
        self.stage_events, self.position = [], StageProgress(app("app"))
        self.machine.handle(
            self.now, JobArrived(1, JobInfo(application=app("app")), stage_events=self.stage_events)
        )

    def move(self, move):
        self.position.move(move)
        self.stage_events.append(move)
        self.machine.handle(self.now, StagesChanged(1))

    def one_of(self, number):
        """One of the stage runs that go on, or none."""
        return [*reversed(self.open), None][number % (len(self.open) + 1)]

    def reveal(self, names, around):
        """Stage runs begin side by side, in one of those that run or in none."""
        around = self.one_of(around)
        runs = tuple((next(self.numbers), name) for name in names)
        self.move(Revealed(runs, around, begun=True, tools=tuple(map({"b": "saw"}.get, names))))
        self.open |= {run: (self.now, around) for run, _ in runs}

    def ask(self, run, name):
        ticket = next(self.numbers)
        run = self.one_of(run)
        stage_occurrence = None if run is None else self.position.stage_occurrence(run)
        self.machine.handle(self.now, CallRequested(ticket, "b", name, 1, run=run))
        call = self.machine.ledger.claim(ticket).call
        self.held[ticket] = (self.now, stage_occurrence or StageOccurrence(name, call.occurrence))

    def answer(self, at):
        if self.held:
            ticket = sorted(self.held)[at % len(self.held)]
            since, stage_occurrence = self.held.pop(ticket)
            self.machine.handle(self.now, CallReleased(ticket, usage=Usage(ticket, 2 * ticket)))
            self.asked[ticket] = (stage_occurrence, self.now - since)

    def end(self, run, complete):
        run = self.one_of(run)
        if run is not None and run not in [around for _, around in self.open.values()]:
            since, _ = self.open.pop(run)
            stage_occurrence = self.position.stage_occurrence(run)
            self.runs[stage_occurrence] += complete
            self.tools_s[stage_occurrence] += self.now - since
            self.move(Ended(run, self.now - since, complete, at_s=self.now))

    def record(self):
        while self.held:
            self.answer(0)
        while self.open:
            self.end(0, complete=True)
        self.machine.handle(self.now, JobEnded(1, Outcome.FINISHED))
        (job,) = [entry.detail for entry in self.machine.entries() if entry.kind == "JobClosed"]
        return replace(ended(job), id="j")


RUNS = st.integers(0, 12)
NAMES = st.lists(st.sampled_from(["a", "b", "a/c"]), min_size=1, max_size=3)
ACTS = st.one_of(
    st.tuples(st.just("reveal"), NAMES, RUNS),
    st.tuples(st.just("ask"), RUNS, st.sampled_from(["a", "b", ""])),
    st.tuples(st.just("answer"), RUNS),
    st.tuples(st.just("end"), RUNS, st.booleans()),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(ACTS, st.sampled_from([0.0, 0.03, 0.25, 1.5])), max_size=25))
def test_a_file_teaches_what_the_run_taught(acts):
    """Calls one after the other in a node, graphs in nodes, retries, tools, calls outside of any stage."""
    driven = Driven()
    for (verb, *given_), seconds in acts:
        driven.now += seconds
        getattr(driven, verb)(*given_)
    job = driven.record()
    read = job_from_node(Field(json.loads(line_of_job(job))))
    assert read == job
    assert observed(read) == observed(job)
    assert nodes_of(read) == nodes_of(job)
    if not driven.asked:
        assert job.stages == job.runs == ()
        return
    seen = {stage.stage_occurrence: stage for stage in observed(job).stages}
    calls = Counter(stage_occurrence for stage_occurrence, _ in driven.asked.values())
    assert {stage_occurrence: stage.calls for stage_occurrence, stage in seen.items() if stage.calls} == calls
    assert seen.keys() == calls.keys() | driven.runs.keys()
    in_order = [driven.asked[ticket][0] for ticket in sorted(driven.asked)]
    assert [stage.stage_occurrence for stage in observed(job).stages if stage.calls] == list(
        dict.fromkeys(in_order)
    )
    assert observed(job).prompt_tokens == min(driven.asked)
    for stage_occurrence, stage in seen.items():
        assert stage.fan_out == max(1, driven.runs[stage_occurrence])
        own = [seconds for at, seconds in driven.asked.values() if at == stage_occurrence]
        assert stage.amount(Unit.SECONDS) == pytest.approx(sum(own))
        assert stage.amount(Unit.TOOL_SECONDS) == pytest.approx(
            0.0 if own else driven.tools_s[stage_occurrence]
        )
    assert {stage.stage_occurrence for step in rounds(job) for stage in step} >= calls.keys()
