"""Progress: the verbs by which a job's evidence grows."""

from __future__ import annotations

import pytest

from llmsched_langgraph.dag.progress import UNKNOWN_USAGE, Outcome, Progress, Usage


def new(told_apart=200):
    return Progress(told_apart=told_apart)


def test_occurrences_are_counted_by_stage():
    """The n-th call of a stage has occurrence n, whatever other stages do in between."""
    progress = new()
    calls = [progress.request(n, stage, 0.0) for n, stage in enumerate("abaab")]
    assert [(call.stage, call.occurrence) for call in calls] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("a", 3),
        ("b", 2),
    ]
    assert progress.latest == ("b", 2)
    assert list(progress.outstanding) == [0, 1, 2, 3, 4]


def test_a_new_job_has_no_evidence():
    """Before the first call there is nothing to know."""
    progress = new()
    assert progress.latest is None
    assert progress.holding == 0
    assert progress.work_s(5.0) == 0.0


def test_finish_moves_the_call_and_keeps_what_it_used():
    """A finished call leaves the outstanding ones and keeps times, usage and outcome."""
    progress = new()
    progress.request(1, "a", 1.0)
    progress.start(1, 2.0)
    call = progress.finish(1, Outcome.FAILED, Usage(10, 20), 5.5)
    assert progress.outstanding == {}
    assert progress.finished == [call]
    assert (call.requested_s, call.granted_s, call.released_s) == (1.0, 2.0, 5.5)
    assert (call.outcome, call.usage) == (Outcome.FAILED, Usage(10, 20))
    assert call.work_s(99.0) == 3.5


def test_a_call_that_never_held_a_slot_did_no_work():
    """Giving up in the backlog leaves no finished call and no work, but its occurrence stays taken."""
    progress = new()
    progress.request(1, "a", 0.0)
    assert progress.finish(1, Outcome.CANCELLED, UNKNOWN_USAGE, 9.0).work_s(9.0) == 0.0
    assert progress.finished == []
    assert progress.work_s(9.0) == 0.0
    assert progress.request(2, "a", 9.0).occurrence == 2


def test_work_sums_finished_and_running_calls():
    """Work received is that of ended calls plus that of running ones up to now; waiting ones add none."""
    progress = new()
    for ticket, stage in enumerate("abc", 1):
        progress.request(ticket, stage, 0.0)
    progress.start(1, 0.0)
    progress.start(2, 2.0)
    progress.finish(1, Outcome.FINISHED, UNKNOWN_USAGE, 4.0)
    assert progress.work_s(10.0) == 4.0 + 8.0
    assert (progress.holding, progress.waiting) == (1, 1)
    progress.check()


def test_finishing_an_unknown_ticket_is_an_error():
    """Progress itself does not forgive: the machine is who makes release idempotent."""
    with pytest.raises(KeyError):
        new().finish(1, Outcome.FINISHED, UNKNOWN_USAGE, 0.0)


def test_rounding_errors_end_with_the_running_calls():
    """The work of running calls is kept as a sum; when the last of them ends, no error is left in it."""
    progress = new()
    for ticket in range(1_000):
        progress.request(ticket, "a", 0.1)
        progress.start(ticket, 0.1 * ticket)
        progress.check()
        if ticket:
            progress.finish(ticket - 1, Outcome.FINISHED, UNKNOWN_USAGE, 0.1 * ticket)
    progress.finish(999, Outcome.FINISHED, UNKNOWN_USAGE, 200.0)
    assert progress.work_s(1e6) == sum(call.work_s(1e6) for call in progress.finished)


def test_the_backlog_is_counted_by_occurrence():
    """Waiting calls are counted by stage and occurrence, those past the told-apart ones as one."""
    progress = new(told_apart=3)
    for ticket, stage in enumerate("aaaaab"):
        progress.request(ticket, stage, 0.0)
    assert progress.backlog == {("a", 1): 1, ("a", 2): 1, ("a", 3): 3, ("b", 1): 1}
    progress.start(1, 1.0)
    progress.start(3, 1.0)
    progress.finish(3, Outcome.FINISHED, UNKNOWN_USAGE, 2.0)
    progress.finish(5, Outcome.CANCELLED, UNKNOWN_USAGE, 2.0)
    assert progress.backlog == {("a", 1): 1, ("a", 3): 2}
    assert (progress.waiting, progress.holding) == (3, 1)
    progress.check()


@pytest.mark.parametrize("spoil", ["running", "backlog", "_granted_sum_s"])
def test_check_finds_what_differs_from_the_calls(spoil):
    """Progress's own check fails when what it keeps at hand is not what its calls say."""
    progress = new()
    for ticket in (1, 2):
        progress.request(ticket, "a", 0.0)
    progress.start(1, 2.0)
    progress.check()
    setattr(progress, spoil, 3.0 if spoil == "_granted_sum_s" else {})
    with pytest.raises(AssertionError):
        progress.check()
