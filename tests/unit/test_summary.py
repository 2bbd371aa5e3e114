"""What a profile says in figures: counted by hand, and what tells what."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.beliefs import fan_job, planned_job
from support.profiles import TEMPLATE, profile

from llmsched_langgraph._application.behaviour import NodeBehaviour
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._belief.model.columns import OTHER, Column, Quantity
from llmsched_langgraph._belief.profile.merging import profile_from_jobs, profile_of
from llmsched_langgraph._belief.profile.profile import Mean
from llmsched_langgraph._belief.profile.summary import summary_of
from llmsched_langgraph._jobs.observed import Unit
from llmsched_langgraph._views.profile_text import profile_text


def learned(jobs, **how):
    """The profile that recorded jobs teach, model and all."""
    own = profile_from_jobs(template_of(jobs[0].app, jobs), jobs)
    return replace(own, model=learn(own.template, own.outcomes, **how), modelled=own.jobs)


@pytest.fixture(scope="module")
def fan():
    return learned([fan_job(n, (0, 1, 2, 4)[n % 4]) for n in range(60)], correlated=True)


def test_what_jobs_teach_is_counted():
    """Jobs, calls and runs of nodes, by hand: widths 1 and 2, so four calls of `map` and `join`."""
    own = profile_from_jobs(TEMPLATE, [fan_job(n, 1 + n) for n in range(2)])
    assert own.jobs == 2
    assert dict(own.nodes) == {
        "split": NodeBehaviour(2, 2, 1, 1),
        "map": NodeBehaviour(3, 3, 2, 1),
        "join": NodeBehaviour(2, 2, 1, 1),
    }
    # split 20 and 41, map 40 and 2 * 41, join 30 and 60, in hundredths of a second
    assert (own.history.call.count, own.history.call.value) == (7, pytest.approx(2.73 / 7))
    both = profile_of([own, replace(own, application=replace(TEMPLATE, name="other"))])
    assert both.job == Mean(4, pytest.approx(2.73 / 2))
    assert both.call == Mean(14, pytest.approx(2.73 / 7))
    assert profile_of([]).job == Mean()


def test_figures_of_stages(fan):
    summary = summary_of(fan)
    assert (summary.jobs, summary.remembered, summary.model, summary.modelled) == (60, 60, "network", 60)
    assert summary.unit is Unit.SECONDS
    split, mapped, join = summary.stages
    assert [own.stage for own in summary.stages] == ["split", "map", "join"]
    assert [own.jobs for own in summary.stages] == [60, 45, 45]
    assert split.present == pytest.approx(1.0, abs=0.05)
    assert (mapped.present, join.present) == (pytest.approx(0.75, abs=0.05), pytest.approx(0.75, abs=0.05))
    assert (join.mean, join.median) == (pytest.approx(0.7), pytest.approx(0.6))
    assert split.informative > 0.0


def test_the_entropy_falls_as_stages_end(fan):
    """From all that is open to nothing, for jobs that are over."""
    bits = summary_of(fan).entropy_bits
    assert len(bits) == 4
    assert list(bits) == sorted(bits, reverse=True)
    assert bits[0] > 2.0 > bits[1] > 0.0 == bits[3]


def test_edges_are_told_in_words(fan):
    told = dict(summary_of(fan).depends)
    assert set(told) <= {column.words for column in fan.model.columns}
    assert "work of split" in {on for ons in told.values() for on in ons}


def test_tools_have_figures_too():
    """Each tool that a plan names, told apart from all others when its end is asked for."""
    own = learned([planned_job(n, ("a", "b", "c")[: n % 4]) for n in range(60)], unit=Unit.TOOL_SECONDS)
    summary = summary_of(own)
    assert {stage.stage: stage.jobs for stage in summary.stages} == {"a": 45, "b": 30, "c": 15}
    assert summary.unit is Unit.TOOL_SECONDS
    before, planned, used, over = summary.entropy_bits
    assert before > planned > used == over == 0.0


def test_without_a_model():
    """Shares of jobs and their work; nothing is told of what teaches."""
    summary = summary_of(profile(range(6)))
    assert (summary.model, summary.depends, summary.entropy_bits) == (None, (), ())
    assert [(own.stage, own.jobs, own.present, own.informative) for own in summary.stages] == [
        ("split", 6, 1.0, 0.0),
        ("map", 6, 1.0, 0.0),
        ("join", 6, 1.0, 0.0),
    ]
    empty = summary_of(profile([]))
    assert (empty.jobs, empty.mean, empty.stages) == (0, 0.0, ())
    assert "no model was learned yet" in profile_text(empty)


def test_as_data_and_as_text(fan):
    summary = summary_of(fan)
    data = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert data["name"] == "fan"
    assert data["stages"][0]["stage"] == "split"
    assert data["depends"][0].keys() == {"quantity", "on"}
    text = profile_text(replace(summary, jobs=5_000))
    assert text.startswith(f"fan  fingerprint {summary.fingerprint}\n  5,000 jobs, the latest 60 remembered;")
    assert "Most informative about the remaining work: split" in text
    assert "Entropy of a job in bits by finished stages, mean of the latest 40 jobs" in text


def test_every_quantity_has_words():
    for quantity in Quantity:
        words = Column(quantity, "a/b", 2, 2, tool="x" if quantity in ("tool", "planned") else "").words
        assert words
        assert "a/b#2" in words or "x" in words or quantity in ("total", "prompt", "tasks")
    assert Column(Quantity.TOOL, tool=OTHER).words == "work of other tools"


def test_a_given_network_is_told_from_a_learned_one(fan):
    """It stays when more jobs are learned from, and people should know."""
    given = replace(fan, model=replace(fan.model, given=True))
    assert "a network, learned after 60 jobs" in profile_text(summary_of(fan))
    assert "a network, given after 60 jobs" in profile_text(summary_of(given))
    assert [summary_of(own).to_json()["given"] for own in (fan, given)] == [False, True]
