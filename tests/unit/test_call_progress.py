"""Progress: the verbs by which a job's evidence grows."""

from __future__ import annotations

import pytest

from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, CallProgress, FinishedCall, Outcome, Usage
from llmsched_langgraph._jobs.stages import StageOccurrence


class Calls:
    """A job's progress and its calls, so that a call is spoken of by its ticket alone."""

    def __init__(self):
        self.progress = CallProgress()
        self._asked = {}
        self._granted = {}

    def request(self, ticket, stage, now, stage_occurrence=None):
        occurrence = self.progress.next_occurrence(stage)
        stage_occurrence = (
            StageOccurrence(stage, occurrence) if stage_occurrence is None else stage_occurrence
        )
        self.progress.request(ticket, stage, stage_occurrence)
        self._asked[ticket] = (stage, occurrence, stage_occurrence, now)
        return occurrence

    def start(self, ticket, now):
        self.progress.start(self._asked[ticket][2], now, now)
        self._granted[ticket] = now

    def finish(self, ticket, outcome, usage, now):
        stage, occurrence, stage_occurrence, asked_s = self._asked[ticket]
        if ticket not in self._granted:
            self.progress.withdraw(ticket, stage_occurrence)
            return None
        granted_s = self._granted[ticket]
        call = FinishedCall(
            ticket=ticket,
            stage=stage,
            occurrence=occurrence,
            stage_occurrence=stage_occurrence,
            run=None,
            backend="b",
            asked_s=asked_s,
            granted_s=granted_s,
            released_s=now,
            concurrency=1.0,
            usage=usage,
            outcome=outcome,
        )
        self.progress.finish(call)
        return call


@pytest.fixture
def calls():
    return Calls()


@pytest.fixture
def progress(calls):
    return calls.progress


def test_occurrences_are_counted_by_stage(calls, progress):
    """The n-th call of a stage has occurrence n, whatever other stages do in between."""
    assert [calls.request(n, stage, 0.0) for n, stage in enumerate("abaab")] == [1, 1, 2, 3, 2]
    assert [progress.next_occurrence(stage) for stage in "abc"] == [4, 3, 1]
    assert (progress.outstanding, progress.waiting) == (5, 5)


def test_a_new_job_has_no_evidence(progress):
    """Before the first call there is nothing to know."""
    assert (progress.outstanding, progress.waiting, progress.holding) == (0, 0, 0)
    assert (progress.works, progress.ready, progress.finished) == ({}, {}, {})
    assert progress.work_s(5.0) == 0.0
    progress.check()


def test_finish_moves_the_call_and_keeps_what_it_used(calls, progress):
    """A finished call leaves the outstanding ones and keeps times, usage and outcome."""
    calls.request(1, "a", 1.0)
    calls.start(1, 2.0)
    call = calls.finish(1, Outcome.FAILED, Usage(10, 20), 5.5)
    assert progress.outstanding == 0
    assert progress.finished == {call.ticket: call}
    assert (call.asked_s, call.granted_s, call.released_s) == (1.0, 2.0, 5.5)
    assert (call.outcome, call.usage) == (Outcome.FAILED, Usage(10, 20))
    assert call.work_s == 3.5


def test_a_call_that_never_held_a_slot_did_no_work(calls, progress):
    """Giving up in the backlog leaves no finished call and no work, but its occurrence stays taken."""
    calls.request(1, "a", 0.0)
    calls.finish(1, Outcome.CANCELLED, UNKNOWN_USAGE, 9.0)
    assert progress.finished == {}
    assert progress.work_s(9.0) == 0.0
    assert calls.request(2, "a", 9.0) == 2


def test_work_sums_finished_and_running_calls(calls, progress):
    """Work received is that of ended calls plus that of running ones up to now; waiting ones add none."""
    for ticket, stage in enumerate("abc", 1):
        calls.request(ticket, stage, 0.0)
    calls.start(1, 0.0)
    calls.start(2, 2.0)
    calls.finish(1, Outcome.FINISHED, UNKNOWN_USAGE, 4.0)
    assert progress.work_s(10.0) == 4.0 + 8.0
    assert (progress.holding, progress.waiting) == (1, 1)
    progress.check()


def test_finishing_what_was_never_asked_for_is_an_error(progress):
    """Progress itself does not forgive: it is the machine that makes release idempotent."""
    for verb in (
        lambda: progress.start(StageOccurrence("a", 1), 0.0, 0.0),
        lambda: progress.withdraw(1, StageOccurrence("a", 1)),
    ):
        with pytest.raises(KeyError):
            verb()
    call = FinishedCall(
        ticket=1,
        stage="a",
        occurrence=1,
        stage_occurrence=StageOccurrence("a", 1),
        run=None,
        backend="b",
        asked_s=0.0,
        granted_s=0.0,
        released_s=0.0,
        concurrency=1.0,
        usage=UNKNOWN_USAGE,
        outcome=Outcome.FINISHED,
    )
    with pytest.raises(KeyError):
        progress.finish(call)


def test_rounding_errors_end_with_the_running_calls(calls, progress):
    """The work of running calls is kept as a sum; when the last of them ends, no error is left in it."""
    for ticket in range(1_000):
        calls.request(ticket, "a", 0.1)
        calls.start(ticket, 0.1 * ticket)
        progress.check()
        if ticket:
            calls.finish(ticket - 1, Outcome.FINISHED, UNKNOWN_USAGE, 0.1 * ticket)
    calls.finish(999, Outcome.FINISHED, UNKNOWN_USAGE, 200.0)
    assert progress.work_s(1e6) == sum(call.work_s for call in progress.finished.values())


def test_works_by_occurrence(calls, progress):
    """Calls add up by the occurrence of a stage; where that is not known, each is one of its own."""
    for ticket, stage_occurrence in enumerate(
        [StageOccurrence("a", 1), StageOccurrence("a", 1), None, None, StageOccurrence("b", 2)]
    ):
        calls.request(ticket, "a", 0.0, stage_occurrence)
    waiting = {
        StageOccurrence("a", 1): 2,
        StageOccurrence("a", 3): 1,
        StageOccurrence("a", 4): 1,
        StageOccurrence("b", 2): 1,
    }
    assert {stage_occurrence: work.waiting for stage_occurrence, work in progress.works.items()} == waiting
    assert progress.ready == waiting
    calls.start(0, 1.0)
    calls.start(1, 2.0)
    assert StageOccurrence("a", 1) not in progress.ready
    calls.finish(0, Outcome.FINISHED, Usage(10, 3), 4.0)
    work = progress.works[StageOccurrence("a", 1)]
    assert (work.calls, work.running, work.done, work.waiting) == (2, 1, 1, 0)
    assert (work.done_s, work.received_s(10.0)) == (3.0, 3.0 + 8.0)
    assert (work.prompt_tokens, work.output_tokens) == (10, 3)
    assert work.outstanding
    calls.finish(1, Outcome.FINISHED, Usage(5, None), 5.0)
    assert (work.prompt_tokens, work.output_tokens) == (15, None)
    assert (work.done_s, work.received_s(99.0)) == (6.0, 6.0)
    assert not work.outstanding
    progress.check()


def test_a_call_that_gave_up_waiting_was_never_of_its_stage(calls, progress):
    """Of a stage whose only call gave up nothing is kept; of one with others it is one call less."""
    for ticket, stage_occurrence in enumerate(
        [StageOccurrence("a", 1), StageOccurrence("b", 1), StageOccurrence("b", 1)]
    ):
        calls.request(ticket, stage_occurrence.path, 0.0, stage_occurrence)
    calls.finish(0, Outcome.CANCELLED, UNKNOWN_USAGE, 1.0)
    calls.finish(1, Outcome.CANCELLED, UNKNOWN_USAGE, 1.0)
    assert {stage_occurrence: work.calls for stage_occurrence, work in progress.works.items()} == {
        StageOccurrence("b", 1): 1
    }
    assert (progress.waiting, progress.holding) == (1, 0)
    progress.check()


def test_the_first_call_tells_the_size_of_the_input(calls, progress):
    """As soon as it is over; one that gave up waiting was not the first."""
    for ticket in range(3):
        calls.request(ticket, "a", 0.0)
        calls.start(ticket, 0.0) if ticket else None
    calls.finish(2, Outcome.FINISHED, Usage(30, 1), 1.0)
    assert progress.prompt_tokens is None
    calls.finish(0, Outcome.CANCELLED, UNKNOWN_USAGE, 1.0)
    calls.finish(1, Outcome.FINISHED, Usage(20, 1), 2.0)
    assert progress.prompt_tokens is None
    calls.request(3, "a", 3.0)
    calls.start(3, 3.0)
    calls.finish(3, Outcome.FINISHED, Usage(40, 1), 4.0)
    assert progress.prompt_tokens == 40


@pytest.mark.parametrize(
    "spoil",
    [
        {"waiting": 3},
        {"holding": 3},
        {"works": {}},
        {"ready": {}},
        {"finished": {}},
        {"granted_sum_s": 3.0},
    ],
    ids=lambda spoil: next(iter(spoil)),
)
def test_check_finds_what_differs_from_the_calls(calls, progress, spoil):
    """Progress's own check fails when a sum is not what it sums up."""
    for ticket in (1, 2, 3):
        calls.request(ticket, "a", 0.0)
    calls.start(1, 2.0)
    calls.start(2, 2.0)
    calls.finish(2, Outcome.FINISHED, UNKNOWN_USAGE, 3.0)
    progress.check()
    for name, value in spoil.items():
        setattr(progress, name, value)
    with pytest.raises(AssertionError):
        progress.check()


def test_a_tools_call_waits_and_holds_and_is_no_work():
    """It is outstanding while it does, and leaves nothing behind but the time for which it waited."""
    progress, use = CallProgress(), StageOccurrence("tool:search", 1)
    progress.request(1, "tool:search", use)
    assert (progress.waiting, progress.ready, progress.works) == (1, {use: 1}, {})
    progress.start(use, 0.0, 2.0)
    assert (progress.waiting, progress.holding, progress.outstanding) == (0, 0, 1)
    assert progress.work_s(9.0) == 0.0
    progress.check()
    times_s = 0.0, 2.0, 5.0
    ended = "tool:search", 1, use, None, "b", *times_s, 1.0, UNKNOWN_USAGE, Outcome.FINISHED
    progress.finish(FinishedCall(1, *ended))
    assert (progress.outstanding, progress.finished, progress.tools) == (0, {}, {})
    assert (progress.work_s(9.0), progress.waited_s, progress.prompt_tokens) == (0.0, 2.0, None)
    progress.request(2, "tool:search", use)
    progress.withdraw(2, use)
    assert (progress.outstanding, progress.tools) == (0, {})
    progress.check()
