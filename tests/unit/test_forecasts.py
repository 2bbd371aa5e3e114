"""Forecasts of the ends of jobs: intervals that hold, by what earlier estimates came to."""

import random
from types import SimpleNamespace

import pytest

from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._core.outlook import Outlook
from llmsched_langgraph._observe import forecasts
from llmsched_langgraph._observe.forecasts import FEWEST, Forecasts, quantiles


def outlook(number, at_s, alone_s, ahead_s=0.0, app="app", age_s=0.0):
    return Outlook(
        number=number,
        fingerprint=app,
        at_s=at_s,
        age_s=age_s,
        begun=False,
        believes=False,
        alone_s=alone_s,
        ahead_s=ahead_s,
        queue_s=0.0,
    )


class Watch:
    """Forecasts with jobs of which each is looked at once, when it begins."""

    def __init__(self):
        self.entries = 0
        self.next = []
        self.forecasts = Forecasts(lambda numbers: [own for own in self.next if own.number in numbers])

    def see(self, at_s, kind, job, detail=None):
        self.entries += 1
        self.forecasts.see(Entry(self.entries, at_s, kind, job, 0, "", detail))

    def job(self, number, at_s, took_s, own):
        """A job that begins at `at_s` with this outlook, and takes `took_s` seconds."""
        self.next = [own]
        self.see(at_s, "CallQueued", number)
        job = SimpleNamespace(
            paused_since=None, id=1, arrival_s=at_s, paused_s=0.0, fingerprint=own.fingerprint
        )
        self.see(at_s + took_s, "JobClosed", number, job)


def test_the_interval_covers_as_much_as_it_says():
    watch, draw, covered, low, high = Watch(), random.Random(1), 0, 0, 0
    for number in range(1, 1001):
        at_s = 100.0 * number
        own = outlook(number, at_s, draw.choice([1.0, 1.5, 10.0]), draw.choice([0.0, 5.0]))
        took_s = (own.alone_s + own.ahead_s) * draw.lognormvariate(0.5, 0.8)
        told = watch.forecasts.of(own)
        if told is not None and number > 200:
            covered += told.low <= took_s <= told.high
            low += took_s < told.low
            high += took_s > told.high
        watch.job(number, at_s, took_s, own)
    total = covered + low + high
    assert total == 800
    assert 0.76 <= covered / total <= 0.86  # six standard deviations of the binomial are 0.085
    assert low > 40
    assert high > 40


def test_the_sum_with_the_least_error_is_used():
    watch, draw = Watch(), random.Random(2)
    for number in range(1, 101):
        own = outlook(number, 50.0 * number, draw.uniform(1.0, 2.0), ahead_s=draw.uniform(0.0, 20.0))
        watch.job(number, own.at_s, 3.0 * own.alone_s, own)  # what is ahead does not matter here
    told = watch.forecasts.of(outlook(999, 9e9, 1.5, ahead_s=20.0))
    assert told.seconds == pytest.approx(4.5)
    assert told.low == pytest.approx(4.5)
    assert told.high == pytest.approx(4.5)


def test_nothing_is_told_before_enough_jobs_have_ended():
    watch = Watch()
    for number in range(1, FEWEST + 1):
        assert watch.forecasts.of(outlook(number, 0.0, 1.0)) is None
        watch.job(number, 10.0 * number, 2.0, outlook(number, 10.0 * number, 1.0))
    assert watch.forecasts.of(outlook(99, 0.0, 1.0)).jobs == FEWEST


def test_other_applications_stand_in_for_a_new_one():
    watch = Watch()
    for number in range(1, 31):
        watch.job(number, 10.0 * number, 2.0, outlook(number, 10.0 * number, 1.0, app="known"))
    assert watch.forecasts.of(outlook(99, 0.0, 1.0, app="new")).seconds == pytest.approx(2.0)


def test_interrupted_and_dropped_jobs_teach_nothing():
    watch = Watch()
    for number in range(1, 30):
        watch.next = [outlook(number, 10.0 * number, 1.0)]
        watch.see(10.0 * number, "CallQueued", number)
        watch.see(10.0 * number + 1.0, "JobPaused", number, "thread")
        job = SimpleNamespace(paused_since=1.0, id=1, arrival_s=0.0, paused_s=0.0, fingerprint="app")
        watch.see(10.0 * number + 5.0, "JobClosed", number, job)
    assert watch.forecasts.of(outlook(99, 0.0, 1.0)) is None
    assert not watch.forecasts._kept


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(forecasts, "GROUPS", 50)
    watch = Watch()
    for number in range(1, 300):
        own = outlook(number, 10.0 * number, 1.0, app=f"app {number}")
        watch.job(number, own.at_s, 2.0, own)
    assert len(watch.forecasts._truths) <= 50
    assert len(watch.forecasts._times_s) <= 50


def test_quantiles_of_known_values_count_one_more_value():
    """As in split conformal prediction: the 0.9 quantile of 9 values is the 9th, that of 4 the largest."""
    assert quantiles(range(1, 10), (), (0.1, 0.5, 0.9)) == (1, 5, 9)
    assert quantiles(range(1, 5), (), (0.1, 0.5, 0.9)) == (1, 3, 4)


def test_quantiles_of_values_of_which_some_have_not_ended():
    """The Kaplan-Meier estimate by hand: 8 at risk with the new one; 1, 3 and 6 are known."""
    left_1 = 7 / 8
    left_3 = left_1 * 5 / 6  # the bound 2 has left the risk set
    left_6 = left_3 * 2 / 3  # and so have 4 and 5
    levels = (1 - left_1, 1 - left_3, 1 - left_6, 0.99)
    assert quantiles([1, 3, 6], [2, 4, 5, 7], levels) == (1, 3, 6, 7)


def test_long_jobs_count_before_they_end():
    """Half of the jobs take 1 s, half 1,000 s. Of the long ones none has ended."""
    watch = Watch()
    for number in range(1, 101):
        at_s = 2.0 * number
        own = outlook(number, at_s, 1.0)
        if number % 2:
            watch.job(number, at_s, 1.0, own)
        else:
            watch.next = [own]
            watch.see(at_s, "CallQueued", number)
    told = watch.forecasts.of(outlook(999, 300.0, 1.0))
    assert told.low == pytest.approx(1.0)
    assert told.high > 150.0
