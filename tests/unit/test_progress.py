"""Progress: the verbs by which a job's evidence grows."""

from __future__ import annotations

import pytest

from llmsched_langgraph.dag.position import Spot
from llmsched_langgraph.dag.progress import UNKNOWN_USAGE, Outcome, Progress, Usage


def test_occurrences_are_counted_by_stage():
    """The n-th call of a stage has occurrence n, whatever other stages do in between."""
    progress = Progress()
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
    progress = Progress()
    assert progress.latest is None
    assert progress.holding == 0
    assert progress.work_s(5.0) == 0.0


def test_finish_moves_the_call_and_keeps_what_it_used():
    """A finished call leaves the outstanding ones and keeps times, usage and outcome."""
    progress = Progress()
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
    progress = Progress()
    progress.request(1, "a", 0.0)
    assert progress.finish(1, Outcome.CANCELLED, UNKNOWN_USAGE, 9.0).work_s(9.0) == 0.0
    assert progress.finished == []
    assert progress.work_s(9.0) == 0.0
    assert progress.request(2, "a", 9.0).occurrence == 2


def test_work_sums_finished_and_running_calls():
    """Work received is that of ended calls plus that of running ones up to now; waiting ones add none."""
    progress = Progress()
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
        Progress().finish(1, Outcome.FINISHED, UNKNOWN_USAGE, 0.0)


def test_rounding_errors_end_with_the_running_calls():
    """The work of running calls is kept as a sum; when the last of them ends, no error is left in it."""
    progress = Progress()
    for ticket in range(1_000):
        progress.request(ticket, "a", 0.1)
        progress.start(ticket, 0.1 * ticket)
        progress.check()
        if ticket:
            progress.finish(ticket - 1, Outcome.FINISHED, UNKNOWN_USAGE, 0.1 * ticket)
    progress.finish(999, Outcome.FINISHED, UNKNOWN_USAGE, 200.0)
    assert progress.work_s(1e6) == sum(call.work_s(1e6) for call in progress.finished)


def test_works_by_occurrence():
    """Calls add up by the occurrence of a stage; where that is not known, each is one of its own."""
    progress = Progress()
    for ticket, spot in enumerate([Spot("a", 1), Spot("a", 1), None, None, Spot("b", 2)]):
        progress.request(ticket, "a", 0.0, spot)
    waiting = {spot: work.waiting for spot, work in progress.works.items()}
    assert waiting == {Spot("a", 1): 2, Spot("a", 3): 1, Spot("a", 4): 1, Spot("b", 2): 1}
    progress.start(0, 1.0)
    progress.start(1, 2.0)
    progress.finish(0, Outcome.FINISHED, Usage(10, 3), 4.0)
    work = progress.works[Spot("a", 1)]
    assert (work.calls, work.running, work.done, work.waiting) == (2, 1, 1, 0)
    assert (work.done_s, work.received_s(10.0)) == (3.0, 3.0 + 8.0)
    assert (work.prompt_tokens, work.output_tokens) == (10, 3)
    assert work.outstanding
    progress.finish(1, Outcome.FINISHED, Usage(5, None), 5.0)
    assert (work.prompt_tokens, work.output_tokens) == (15, None)
    assert (work.done_s, work.received_s(99.0)) == (6.0, 6.0)
    assert not work.outstanding
    progress.check()


def test_a_call_that_gave_up_waiting_was_never_of_its_stage():
    """Of a stage whose only call gave up nothing is kept; of one with others it is one call less."""
    progress = Progress()
    for ticket, spot in enumerate([Spot("a", 1), Spot("b", 1), Spot("b", 1)]):
        progress.request(ticket, spot.path, 0.0, spot)
    progress.finish(0, Outcome.CANCELLED, UNKNOWN_USAGE, 1.0)
    progress.finish(1, Outcome.CANCELLED, UNKNOWN_USAGE, 1.0)
    assert {spot: work.calls for spot, work in progress.works.items()} == {Spot("b", 1): 1}
    assert (progress.waiting, progress.holding) == (1, 0)
    progress.check()


def test_the_first_call_tells_the_size_of_the_input():
    """As soon as it is over; one that gave up waiting was not the first."""
    progress = Progress()
    for ticket in range(3):
        progress.request(ticket, "a", 0.0)
        progress.start(ticket, 0.0) if ticket else None
    progress.finish(2, Outcome.FINISHED, Usage(30, 1), 1.0)
    assert progress.prompt_tokens is None
    progress.finish(0, Outcome.CANCELLED, UNKNOWN_USAGE, 1.0)
    progress.finish(1, Outcome.FINISHED, Usage(20, 1), 2.0)
    assert progress.prompt_tokens is None
    progress.request(3, "a", 3.0)
    progress.start(3, 3.0)
    progress.finish(3, Outcome.FINISHED, Usage(40, 1), 4.0)
    assert progress.prompt_tokens == 40


@pytest.mark.parametrize("spoil", ["running", "works", "finished", "_granted_sum_s"])
def test_check_finds_what_differs_from_the_calls(spoil):
    """Progress's own check fails when what it keeps at hand is not what its calls say."""
    progress = Progress()
    for ticket in (1, 2, 3):
        progress.request(ticket, "a", 0.0)
    progress.start(1, 2.0)
    progress.start(2, 2.0)
    progress.finish(2, Outcome.FINISHED, UNKNOWN_USAGE, 3.0)
    progress.check()
    setattr(progress, spoil, 3.0 if spoil == "_granted_sum_s" else {})
    with pytest.raises(AssertionError):
        progress.check()
