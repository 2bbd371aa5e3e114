"""Policies compared: rows, paired summaries, and what they are learned from."""

from __future__ import annotations

import pytest

from llmsched_langgraph.core.policies import POLICIES
from llmsched_langgraph.sim.evaluation import Cell, half_width, learned_from, measure, summary
from llmsched_langgraph.sim.workloads import Poisson, generate


def cell(seed=0, policies=("fcfs", "srtf"), **changes):
    given = {
        "workload": "chain",
        "train": generate("chain", 60, 1_000 + seed),
        "test": generate("chain", 60, seed),
        "arrivals": Poisson(),
        "load": 0.9,
        "slots": 2,
        "seed": seed,
        "policies": policies,
    }
    return Cell(**{**given, **changes})


def test_rows():
    """One for each policy and for the clairvoyant: quantiles in order, and nobody beats the bound."""
    rows = measure(cell(policies=tuple(POLICIES)))
    assert [row["policy"] for row in rows] == [*POLICIES, "oracle"]
    for row in rows:
        assert row["jobs"] == 60
        assert (
            row["p50_jct_s"] <= row["p95_jct_s"] <= row["p99_jct_s"] <= row["max_jct_s"] <= row["makespan_s"]
        )
        assert row["mean_jct_s"] >= row["lower_bound_s"] > 0
        assert len(row["slowdown_by_size"]) == 10
        assert row["decision_us_p50"] == 0
    assert measure(cell(policies=tuple(POLICIES))) == rows


def test_the_stopwatch_changes_nothing_else():
    """Decisions are timed; what is decided stays."""
    ticks = iter(range(10**9))
    timed = measure(cell(), lambda: next(ticks) * 1e-6)
    assert [row.pop("decision_us_p50") for row in timed] == pytest.approx([1.0] * 3)
    plain = measure(cell())
    for row in (*timed, *plain):
        row.pop("decision_us_p50", None)
        row.pop("decision_us_p99")
    assert timed == plain


def test_summary_is_paired():
    """Ratios are of the same seed, then averaged; the reduction against oneself is not listed."""

    def row(policy, seed, mean):
        about = {"workload": "w", "load": 0.9, "slots": 2}
        return {**about, "policy": policy, "seed": seed, "mean_jct_s": mean, "lower_bound_s": 5.0}

    rows = [row("fcfs", 0, 20.0), row("fcfs", 1, 40.0), row("oracle", 0, 10.0), row("oracle", 1, 10.0)]
    fcfs, oracle = summary(rows)
    assert (fcfs["mean_jct_s"], fcfs["vs_clairvoyant"], fcfs["vs_lower_bound"]) == (30.0, 3.0, 6.0)
    assert fcfs["ci95_s"] == pytest.approx(12.71 * 14.142 / 2**0.5, rel=1e-3)
    assert oracle["vs"] == {"fcfs": pytest.approx(1 - (10 / 20 + 10 / 40) / 2)}
    assert oracle["ci95_s"] == 0
    assert half_width([3.0]) is None


def test_what_is_learned_orders_jobs():
    """A profile from jobs run alone knows each application's work, so that sizes can be told apart."""
    jobs = generate("mixed", 80, 5)
    profile = learned_from(jobs)
    assert len(profile.applications) == len({job.app for job in jobs})
    rows = {row["policy"]: row["mean_jct_s"] for row in measure(cell(train=jobs, test=jobs, slots=4))}
    assert rows["oracle"] <= rows["srtf"] < rows["fcfs"]
