from __future__ import annotations

import pytest

from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.batching import (
    Admitted,
    BatchingServer,
    Decoded,
    FinishedRequest,
    InvalidTransitionError,
)
from llmsched_langgraph.lab.sim.latency import LATENCY_MODELS, LatencyModel

# Powers of two keep the arithmetic exact: one request alone takes 1 s a token, two together 2 s.
SLOWING = LatencyModel("slowing", ((1, 1.0), (2, 2.0)), 1.0, 0.125, "made up")
FLAT = LatencyModel("flat", ((1, 1.0),), 0.0, 0.0, "made up")


def test_one_request_prefills_and_then_decodes() -> None:
    server = BatchingServer(1, SLOWING)
    server.submit("a", 8, 4, 10.0)
    assert server.advance(100.0) == [Admitted(10.0, "a"), Decoded(13.0, "a", 1), FinishedRequest(16.0, "a")]
    assert (server.served, server.in_flight, server.peak_in_flight) == (1, 0, 1)


def test_one_token_is_the_first_and_the_last() -> None:
    server = BatchingServer(1, FLAT)
    server.submit("a", 0, 1, 0.0)
    assert server.advance(1.0) == [Admitted(0.0, "a"), Decoded(1.0, "a", 1), FinishedRequest(1.0, "a")]


def test_progress_comes_by_stride() -> None:
    server = BatchingServer(1, FLAT)
    server.submit("a", 0, 6, 0.0, stride=2)
    assert server.advance(9.0)[1:] == [
        Decoded(1.0, "a", 1),
        Decoded(3.0, "a", 3),
        Decoded(5.0, "a", 5),
        FinishedRequest(6.0, "a"),
    ]


def test_the_rate_of_all_changes_with_the_number_of_running() -> None:
    server = BatchingServer(2, SLOWING)
    server.submit("a", 0, 8, 0.0)  # prefill until 1, alone: a token a second
    server.submit("b", 0, 2, 4.0)  # a has 3; b prefills until 5, and from 4 on both take 2 s a token
    assert server.advance(100.0) == [
        Admitted(0.0, "a"),
        Decoded(2.0, "a", 1),
        Admitted(4.0, "b"),
        Decoded(7.0, "b", 1),
        FinishedRequest(9.0, "b"),
        FinishedRequest(11.5, "a"),  # 3 + 2.5 tokens by 9, then 2.5 alone
    ]


def test_the_queue_is_first_come_first_served_and_timed() -> None:
    server = BatchingServer(1, FLAT)
    for number, name in enumerate("abc"):
        server.submit(name, 0, 4, float(number))
    assert (server.running, server.waiting, server.in_flight) == (1, 2, 3)
    admitted = [event for event in server.advance(50.0) if isinstance(event, Admitted)]
    assert admitted == [Admitted(0.0, "a"), Admitted(4.0, "b"), Admitted(8.0, "c")]
    assert (server.queue_s_total, server.queue_s_max) == (9.0, 6.0)
    assert (server.peak_running, server.peak_in_flight) == (1, 3)


def test_cancelling_a_running_request_admits_the_next_at_once_and_speeds_up_the_rest() -> None:
    server = BatchingServer(2, SLOWING)
    server.submit("a", 0, 8, 0.0)
    server.submit("b", 0, 8, 0.0)
    server.submit("c", 0, 8, 0.0)
    server.cancel("a", 3.0)
    server.cancel("c", 5.0)
    events = server.advance(100.0)
    assert events[2:] == [
        Decoded(3.0, "a", 1),
        Decoded(3.0, "b", 1),
        Admitted(3.0, "c"),
        FinishedRequest(11.0, "b"),  # 1 by 3, 2 by 5, then 6 alone
    ]
    assert (server.cancelled, server.served, server.in_flight) == (2, 1, 0)


def test_cancelling_in_prefill_and_in_the_queue() -> None:
    server = BatchingServer(1, SLOWING)
    server.submit("a", 80, 8, 0.0)
    server.submit("b", 0, 8, 0.0)
    server.cancel("b", 1.0)
    server.cancel("a", 2.0)
    assert server.advance(3.0) == [Admitted(0.0, "a")]
    assert (server.cancelled, server.in_flight, server.next_event_s()) == (2, 0, None)


def test_cancelling_is_idempotent_and_harmless_when_late() -> None:
    server = BatchingServer(1, FLAT)
    server.cancel("never seen", 0.0)
    server.submit("a", 0, 1, 0.0)
    server.cancel("a", 1.0)  # it finishes at this very instant: finished first
    server.cancel("a", 2.0)
    assert (server.served, server.cancelled) == (1, 0)


def test_next_event_is_where_advance_has_something_to_say() -> None:
    server = BatchingServer(1, SLOWING)
    assert server.next_event_s() is None
    server.submit("a", 0, 2, 1.0)
    assert server.next_event_s() == 1.0  # the admission has not been handed out
    server.advance(1.0)
    seen = []
    while (due := server.next_event_s()) is not None:
        seen += server.advance(due)
    assert seen == [Decoded(3.0, "a", 1), FinishedRequest(4.0, "a")]


def test_next_free_foresees_the_first_finish() -> None:
    server = BatchingServer(2, SLOWING)
    server.submit("a", 0, 4, 0.0)
    server.advance(2.0)
    assert server.next_free_s() == 2.0
    server.submit("b", 80, 1, 2.0)
    assert server.next_free_s() == 8.0  # three tokens of a, two seconds each
    server.cancel("a", 2.0)
    server.submit("c", 80, 100, 2.0)
    assert server.next_free_s() == 15.0  # b: prefill until 13, then a token of two seconds


def test_a_smaller_number_of_slots_lets_those_that_run_go_on() -> None:
    server = BatchingServer(3, FLAT)
    for name, tokens in (("a", 2), ("b", 4), ("c", 6), ("d", 1)):
        server.submit(name, 0, tokens, 0.0)
    server.resize(1, 1.0)
    assert server.next_free_s() == 6.0  # three run: a slot is free when the last of them has ended
    ends = [event for event in server.advance(9.0) if isinstance(event, FinishedRequest)]
    assert ends == [
        FinishedRequest(2.0, "a"),
        FinishedRequest(4.0, "b"),
        FinishedRequest(6.0, "c"),
        FinishedRequest(7.0, "d"),
    ]
    assert server.next_free_s() == 9.0


def test_a_larger_number_of_slots_admits_those_that_wait_at_once() -> None:
    server = BatchingServer(1, SLOWING)
    for name in "abc":
        server.submit(name, 0, 2, 0.0)
    server.resize(3, 0.5)
    admitted = [event for event in server.advance(0.5) if isinstance(event, Admitted)]
    assert admitted == [Admitted(0.0, "a"), Admitted(0.5, "b"), Admitted(0.5, "c")]
    ends = [event for event in server.advance(20.0) if isinstance(event, FinishedRequest)]
    assert ends[0] == FinishedRequest(7.0, "a")  # 1 s of prefill, then 3 s a token, as the curve goes on
    with pytest.raises(ConfigurationError, match="slots must be 1 or more"):
        server.resize(0, 20.0)


def test_resetting_counts_anew_from_what_is_in_flight() -> None:
    server = BatchingServer(1, FLAT)
    for name in "abc":
        server.submit(name, 0, 2, 0.0)
    server.cancel("c", 1.0)
    server.advance(3.0)
    server.reset_counters()
    assert (server.served, server.cancelled, server.queue_s_total, server.queue_s_max) == (0, 0, 0.0, 0.0)
    assert (server.running, server.peak_running, server.peak_in_flight) == (1, 1, 1)


def test_an_id_may_come_again_once_it_is_free_but_not_before() -> None:
    server = BatchingServer(1, FLAT)
    server.submit("a", 0, 1, 0.0)
    with pytest.raises(InvalidTransitionError, match="'a' is in flight"):
        server.submit("a", 0, 1, 0.5)
    server.submit("a", 0, 1, 1.0)
    server.advance(2.0)
    assert server.served == 2


def test_time_does_not_run_backwards() -> None:
    server = BatchingServer(1, FLAT)
    server.advance(2.0)
    with pytest.raises(InvalidTransitionError, match="must not run backwards"):
        server.advance(1.0)
    with pytest.raises(InvalidTransitionError, match="must not run backwards"):
        server.submit("a", 0, 1, float("nan"))
    assert server.in_flight == 0


@pytest.mark.parametrize(("prompt", "output", "stride"), [(-1, 1, 1), (0, 0, 1), (0, 1, 0)])
def test_impossible_requests_are_refused(prompt: int, output: int, stride: int) -> None:
    with pytest.raises(ConfigurationError):
        BatchingServer(1, FLAT).submit("a", prompt, output, 0.0, stride=stride)


def test_a_server_needs_a_slot() -> None:
    with pytest.raises(ConfigurationError, match="slots must be 1 or more"):
        BatchingServer(0, FLAT)


def test_thousands_waiting_for_64_slots_take_no_time() -> None:
    server = BatchingServer(64, LATENCY_MODELS["llama-3.1-8b-h100"])
    for number in range(20_000):
        server.submit(number, 500, 1 + number % 200, 0.0)
    assert len(server.advance(1e9)) == 3 * 20_000
    assert (server.served, server.peak_running, server.peak_in_flight) == (20_000, 64, 20_000)


STALLING = LatencyModel("stalling", ((1, 1.0), (2, 2.0)), 1.0, 0.125, "made up", prefill_stalls=True)


def test_a_prefill_stalls_those_that_decode_and_waits_for_its_turn() -> None:
    """On a machine whose prefills take all of it."""
    server = BatchingServer(3, STALLING)
    server.submit("first", 8, 4, 0.0, stride=4)  # prefills until 2, alone until 3: a token
    server.submit("second", 8, 1, 3.0)  # prefills until 5
    server.submit("third", 24, 1, 4.0)  # prefills until 9; then a step takes 3 s for three
    finished = {
        event.request_id: event.at_s for event in server.advance(100.0) if isinstance(event, FinishedRequest)
    }
    # The second and the third token in common end all but the first, which has two left, alone.
    assert finished == {"second": 12.0, "third": 12.0, "first": 14.0}


def test_a_prefill_that_is_cancelled_moves_up_those_behind_it() -> None:
    """By what it would still have taken, whether it had begun or not."""
    for cancelled_s in (0.0, 1.0, 2.5):
        server = BatchingServer(3, STALLING)
        for name, prompt in (("first", 16), ("gone", 8), ("second", 8)):
            server.submit(name, prompt, 1, 0.0)
        server.cancel("gone", 0.0)
        server.cancel("first", cancelled_s)
        (seen,) = (event for event in server.advance(100.0) if isinstance(event, FinishedRequest))
        assert (seen.request_id, seen.at_s) == ("second", cancelled_s + 2.0 + 1.0)
