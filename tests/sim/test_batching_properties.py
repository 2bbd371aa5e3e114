"""Random stories, checked against laws and against a second, plain implementation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_langgraph.lab.sim.batching import Admitted, BatchingServer, Decoded, Event, FinishedRequest
from llmsched_langgraph.lab.sim.latency import LatencyModel

LATENCIES = st.sampled_from(
    [
        LatencyModel("test", ((1, 0.3), (2, 0.35), (4, 0.7)), 0.2, 0.05, "made up", stalls)
        for stalls in (False, True)
    ]
)


@dataclass(frozen=True)
class Step:
    """Wait, then submit (`cancels` None) or cancel the request of that number."""

    wait_s: float
    cancels: int | None
    prompt_tokens: int
    output_tokens: int
    stride: int


WAITS = st.one_of(st.just(0.0), st.sampled_from([0.05, 0.2, 0.35, 0.7]), st.floats(0.0, 5.0))
STEPS = st.builds(
    Step,
    WAITS,
    st.one_of(st.none(), st.none(), st.integers(0, 20)),
    st.integers(0, 20),
    st.integers(1, 12),
    st.integers(1, 5),
)
STORIES = st.lists(STEPS, max_size=25)
SLOTS = st.integers(1, 5)


def check(server: BatchingServer) -> None:
    assert server.running <= server.slots
    assert server.in_flight == server.running + server.waiting
    assert server.waiting == 0 or server.running == server.slots, "a slot is free while a request waits"
    assert server.peak_running >= server.running
    assert server.peak_in_flight >= server.in_flight


def tell(
    slots: int, story: list[Step], cuts: int, latency: LatencyModel
) -> tuple[BatchingServer, list[Event], set[int]]:
    """Run a story, calling `advance` `cuts` times between its steps; gives the cancelled requests too."""
    server = BatchingServer(slots, latency)
    events: list[Event] = []
    cancelled: set[int] = set()
    now = 0.0
    for number, step in enumerate(story):
        for cut in range(cuts):
            events += server.advance(now + step.wait_s * (cut + 1) / (cuts + 1))
            check(server)
        now += step.wait_s
        if step.cancels is None:
            server.submit(number, step.prompt_tokens, step.output_tokens, now, stride=step.stride)
        else:
            before = server.cancelled
            server.cancel(step.cancels, now)
            if server.cancelled > before:
                cancelled.add(step.cancels)
        check(server)
    while cuts and (due := server.next_event_s()) is not None:
        events += server.advance(due)
        check(server)
    events += server.advance(max(now, 1e6))
    return server, events, cancelled


@given(SLOTS, STORIES, LATENCIES)
def test_cutting_time_differently_changes_nothing(
    slots: int, story: list[Step], latency: LatencyModel
) -> None:
    assert tell(slots, story, cuts=0, latency=latency)[1] == tell(slots, story, cuts=3, latency=latency)[1]


@given(SLOTS, STORIES, LATENCIES)
def test_every_request_is_served_or_cancelled_and_nothing_is_left(
    slots: int, story: list[Step], latency: LatencyModel
) -> None:
    server, events, cancelled = tell(slots, story, cuts=1, latency=latency)
    submitted = {number for number, step in enumerate(story) if step.cancels is None}
    finished = {event.request_id for event in events if isinstance(event, FinishedRequest)}
    assert finished == submitted - cancelled
    assert (server.served, server.cancelled) == (len(finished), len(cancelled))
    assert (server.in_flight, server.next_event_s()) == (0, None)


@given(SLOTS, STORIES, LATENCIES)
def test_events_come_in_order_and_admission_is_first_come_first_served(
    slots: int, story: list[Step], latency: LatencyModel
) -> None:
    _, events, _ = tell(slots, story, cuts=1, latency=latency)
    times = [event.at_s for event in events]
    assert times == sorted(times)
    admitted = [event.request_id for event in events if isinstance(event, Admitted)]
    assert admitted == sorted(admitted, key=lambda number: int(str(number)))


@given(SLOTS, STORIES, LATENCIES)
def test_progress_is_reported_by_stride(slots: int, story: list[Step], latency: LatencyModel) -> None:
    _, events, cancelled = tell(slots, story, cuts=0, latency=latency)
    for number, step in enumerate(story):
        if step.cancels is not None or number in cancelled:
            continue
        seen = [event.tokens for event in events if isinstance(event, Decoded) and event.request_id == number]
        assert seen == [1, *range(1 + step.stride, step.output_tokens, step.stride)]


@settings(max_examples=200)
@given(SLOTS, STORIES, LATENCIES)
def test_it_agrees_with_a_plain_simulation_that_keeps_the_remaining_work(
    slots: int, story: list[Step], latency: LatencyModel
) -> None:
    _, events, _ = tell(slots, story, cuts=0, latency=latency)
    ours = {int(str(event.request_id)): event.at_s for event in events if isinstance(event, FinishedRequest)}
    plain = plainly(slots, story, latency)
    for number in ours.keys() & plain.keys():
        assert abs(ours[number] - plain[number]) < 1e-6
    # Where one finishes at the very instant of its cancellation, rounding may decide either way.
    instants = list(accumulate(step.wait_s for step in story))
    for number in ours.keys() ^ plain.keys():
        cancels = [at_s for at_s, step in zip(instants, story, strict=True) if step.cancels == number]
        assert min(abs((ours | plain)[number] - at_s) for at_s in cancels) < 1e-6


def plainly(slots: int, story: list[Step], latency: LatencyModel) -> dict[int, float]:
    """When each request finishes, by moving all remaining work from one change to the next."""
    waiting: list[int] = []
    prefill_s: dict[int, float] = {}
    tokens: dict[int, float] = {}
    finished: dict[int, float] = {}
    now = 0.0

    def fill() -> None:
        while waiting and len(prefill_s) + len(tokens) < slots:
            number = waiting.pop(0)
            prefill_s[number] = latency.prefill_s(story[number].prompt_tokens)

    def run_until(end_s: float) -> None:
        nonlocal now
        while prefill_s or tokens:
            step_s = latency.decode_s(len(prefill_s) + len(tokens))
            stalled = latency.prefill_stalls and bool(prefill_s)
            under_way = list(prefill_s)[:1] if stalled else list(prefill_s)
            decoding = [] if stalled else list(tokens)
            change_s = min(
                [prefill_s[number] for number in under_way] + [tokens[number] * step_s for number in decoding]
            )
            passed_s = min(change_s, end_s - now)
            now += passed_s
            for number in decoding:
                tokens[number] -= passed_s / step_s
                if tokens[number] < 1e-9:
                    del tokens[number]
                    finished[number] = now
            for number in under_way:
                prefill_s[number] -= passed_s
                if prefill_s[number] < 1e-9:
                    del prefill_s[number]
                    tokens[number] = float(story[number].output_tokens)
            fill()
            if passed_s < change_s:
                break
        now = end_s

    for number, step in enumerate(story):
        run_until(now + step.wait_s)
        if step.cancels is None:
            waiting.append(number)
        else:
            prefill_s.pop(step.cancels, None)
            tokens.pop(step.cancels, None)
            if step.cancels in waiting:
                waiting.remove(step.cancels)
        fill()
    run_until(inf)
    return finished
