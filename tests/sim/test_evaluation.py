"""Policies compared: rows, paired summaries, and what they are learned from."""

from __future__ import annotations

import pytest
from support.comparisons import row_of

from llmsched_langgraph._core.policies import NamedPolicy, as_policy
from llmsched_langgraph.lab.sim.evaluation import Cell, half_width, learned_from, measure, summary
from llmsched_langgraph.lab.sim.workloads import Poisson, generate
from llmsched_langgraph.policies import POLICIES, Needs


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
    assert [row["policy"] for row in rows] == [*POLICIES, "clairvoyant"]
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
    rows = [
        row_of("fcfs", 0, 20.0),
        row_of("fcfs", 1, 40.0),
        row_of("clairvoyant", 0, 10.0),
        row_of("clairvoyant", 1, 10.0),
    ]
    fcfs, clairvoyant = summary(rows)
    assert (fcfs["mean_jct_s"], fcfs["vs_clairvoyant"], fcfs["vs_lower_bound"]) == (30.0, 3.0, 6.0)
    assert fcfs["ci95_s"] == pytest.approx(12.71 * 14.142 / 2**0.5, rel=1e-3)
    assert clairvoyant["vs"] == {"fcfs": pytest.approx(1 - (10 / 20 + 10 / 40) / 2)}
    assert clairvoyant["ci95_s"] == 0
    assert half_width([3.0]) is None
    # Student's t for 20, 21 and 29 degrees of freedom, as tables have it.
    for values, t in ((21, 2.086), (22, 2.080), (30, 2.045)):
        ends = [0.0] * (values - 1) + [1.0]
        assert half_width(ends) == pytest.approx(t / values, rel=0.001)


def test_reductions_have_paired_intervals():
    """Of each seed's reduction, not of the means: where all seeds agree, there is no doubt."""
    rows = [row_of("a", seed, mean) for seed, mean in enumerate((10.0, 100.0, 55.0))]
    rows += [row_of("b", seed, mean / 2) for seed, mean in enumerate((10.0, 100.0, 55.0))]
    rows += [row_of("c", seed, mean) for seed, mean in enumerate((9.0, 80.0, 55.0))]
    a, b, c = summary(rows)
    assert a["seeds"] == 3
    assert a["vs_clairvoyant"] is None
    assert (b["vs"]["a"], b["vs_ci95"]["a"]) == (0.5, 0)
    # Reductions of 10, 20 and 0 %: mean 10, deviation 10, Student's t for 2 degrees of freedom 4.303.
    assert c["vs"]["a"] == pytest.approx(0.1)
    assert c["vs_ci95"]["a"] == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert summary(rows[::3])[1]["vs_ci95"] == {"a": None, "c": None}
    assert a["slowdown_by_size"] == pytest.approx([1.5, 3.0, 11.0])


def test_numbers_of_jobs_do_not_mix():
    """Nor do loads: each has its own entry."""
    rows = [
        row_of("a", 0, 10.0),
        row_of("a", 0, 30.0, jobs=9),
        row_of("a", 1, 50.0, jobs=9),
        row_of("a", 0, 7.0, load=1),
    ]
    assert [(e["jobs"], e["load"], e["mean_jct_s"]) for e in summary(rows)] == [
        (3, 0.9, 10.0),
        (9, 0.9, 40.0),
        (3, 1, 7.0),
    ]


def test_a_variant_is_one_more_policy():
    """A policy object is told apart by its name; one that decides the same has the same figures."""
    variant = NamedPolicy("srtf(variant=2)", as_policy("srtf").order, Needs.MEAN)
    fcfs, srtf, other, clairvoyant = measure(cell(policies=("fcfs", "srtf", variant)))
    assert (other["policy"], clairvoyant["policy"]) == ("srtf(variant=2)", "clairvoyant")
    assert other["mean_jct_s"] == srtf["mean_jct_s"] < fcfs["mean_jct_s"]


def test_what_is_learned_orders_jobs():
    """A profile from jobs run alone knows each application's work, so that sizes can be told apart."""
    jobs = generate("mixed", 80, 5)
    profile = learned_from(jobs)
    assert len(profile.applications) == len({job.app for job in jobs})
    rows = {row["policy"]: row["mean_jct_s"] for row in measure(cell(train=jobs, test=jobs, slots=4))}
    assert rows["clairvoyant"] <= rows["srtf"] < rows["fcfs"]
