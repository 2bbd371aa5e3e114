"""Any job that can be written can be reported: numbers stay finite, waits are never negative, spans nest."""

from __future__ import annotations

import json
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph.reports import Report
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

SECONDS = st.none() | st.just(0.0) | st.floats(0, 1e9) | st.floats(0, 1e-5) | st.integers(0, 20).map(float)
NAMES = st.sampled_from(["", "a", "b", "c"])
CALLS = st.builds(
    EndedCall,
    st.none() | st.integers(0, 10**9),
    st.none() | st.integers(0, 10**9),
    SECONDS,
    backend=NAMES,
    asked_s=SECONDS,
    granted_s=SECONDS,
    ended_s=SECONDS,
    attempts=st.integers(0, 4),
    reason=NAMES,
)
STAGES = st.builds(
    EndedStage,
    name=NAMES,
    kind=st.sampled_from(["llm", "tool"]),
    calls=st.lists(CALLS, max_size=4).map(tuple),
)
JOBS = st.builds(
    EndedJob,
    id=NAMES,
    app=NAMES,
    stages=st.lists(STAGES, max_size=4).map(tuple),
    jct_s=SECONDS,
    arrival_s=SECONDS,
    paused_s=st.just(0.0) | st.floats(0, 1e9),
    end=st.sampled_from(["done", "failed", "cancelled"]),
    tenant=st.none() | NAMES,
    priority=st.none() | st.integers(-5, 5),
    predicted=st.none() | st.tuples(*[st.floats(0, 1e9)] * 3),
)


def spans_of(events):
    """Depth and name of each span, in order; fails unless the spans of each id nest and are in time."""
    open_ = defaultdict(list)
    for event in events:
        if event["ph"] == "b":
            open_[event["id"]].append(event)
            yield len(open_[event["id"]]), event
        elif event["ph"] == "e":
            begun = open_[event["id"]].pop()
            assert begun["name"] == event["name"]
            assert begun["ts"] <= event["ts"]
    assert not any(open_.values())


@given(st.lists(JOBS, min_size=1, max_size=6))
def test_any_job_can_be_reported(jobs):
    made = Report(jobs)
    figures = json.loads(json.dumps(made.figures, allow_nan=False))
    assert figures["jobs"] == len(jobs) == sum(figures["ends"].values())
    data = json.loads(made.html().partition('id="data">')[2].partition("</script>")[0])
    for one, row in zip(jobs, data["jobs"], strict=True):
        assert row["wait"] is None or row["wait"] >= row["waiting"] >= 0.0
        assert len(row["stages"]) == len(one.stages)
    waits = [row["wait"] for row in data["jobs"] if row["wait"] is not None]
    assert (figures["wait_s"] is None) == (not waits)
    assert figures["waiting_share"] is None or 0.0 <= figures["waiting_share"] <= 1.0
    for backend in figures["backends"]:
        assert backend["peak_held"] is None or backend["peak_held"] <= backend["calls"]
    if not any(one.arrival_s is not None and one.jct_s is not None for one in jobs):
        return  # without a span there may be nothing to export
    events = made.trace_events()["traceEvents"]
    assert {depth for depth, event in spans_of(events) if event["name"] in ("run", "wait")} <= {4}
    counts = [event["args"] for event in events if event["ph"] == "C"]
    assert all(count["held"] >= 0 and count["waiting"] >= 0 for count in counts)
