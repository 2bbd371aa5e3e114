"""Whatever happens, the limit stays between its bounds, and its state stays small."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmsched_langgraph import Auto
from llmsched_langgraph._ledger.auto import Refusal, Success, configured, refused, started, succeeded
from llmsched_langgraph._ledger.levels import most

BOUNDS = st.tuples(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20)).map(
    lambda own: Auto(own[0], own[0] + own[1] + own[2], own[0] + own[1])
)
ENDS = st.lists(
    st.one_of(
        st.tuples(
            st.just("served"),
            st.integers(1, 40),  # times
            st.booleans(),  # waiting
            st.floats(0.0, 1000.0),  # seconds
            st.one_of(st.none(), st.integers(0, 10**6)),  # tokens
            st.booleans(),  # cached
            st.floats(0.2, 1.5),  # in use, of the limit
        ),
        st.tuples(st.just("refused"), st.integers(1, 60), st.floats(0.0, 5.0), st.floats(0.0, 120.0)),
        st.tuples(st.just("configured"), BOUNDS),
    ),
    max_size=80,
)


RAISED_FROM_BELOW_LATER_BOUNDS = [
    ("served", 14, True, 0.0, None, True, 1.0),
    ("configured", Auto(low=1, high=15, start=1)),
    ("served", 33, False, 0.0, None, False, 1.0),
    ("configured", Auto(low=10, high=15, start=10)),
    ("served", 1, False, 0.0, None, False, 1.0),
]


@settings(deadline=None, database=None, max_examples=150)
@given(BOUNDS, ENDS)
@example(Auto(low=1, high=9, start=9), RAISED_FROM_BELOW_LATER_BOUNDS)
def test_the_limit_stays_between_its_bounds(auto, ends):
    found, now = started(auto), 0.0
    for kind, *own in ends:
        if kind == "served":
            times, waiting, seconds, tokens, cached, share = own
            for _ in range(times):
                now += 0.01
                in_use = max(1, round(share * found.limit))
                found = succeeded(
                    found, auto, now, Success(now - 0.005, in_use, waiting, seconds, tokens, cached)
                )
        elif kind == "refused":
            concurrency, age_s, pause_s = own
            now += 0.01
            before = found
            found = refused(found, auto, now, Refusal(now - age_s, concurrency, pause_s))
            assert found.limit <= before.limit
            assert found.limit < before.limit or before.limit == auto.low or now - age_s < before.cut_s
        else:
            (auto,) = own
            found = configured(found, auto, now)
        assert auto.low <= found.limit <= auto.high
        assert len(found.samples) <= most(auto.high)
        assert len(found.window.samples) < max(8, found.limit)
