"""Profiles: running means, and remaining work computed by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from llmsched_langgraph.belief import profile as profile_module
from llmsched_langgraph.belief.profile import MAX_OCCURRENCES, Mean, OccurrenceMeans, Profile
from llmsched_langgraph.belief.record import CallRecord, Evidence, JobRecord

CHAIN = ("chain", ("a", 2.0), ("b", 4.0))
LOOP_ONCE = ("loop", ("think", 1.0))
LOOP_THRICE = ("loop", ("think", 1.0), ("think", 1.0), ("think", 1.0))
FAN_OUT = ("fan", ("plan", 1.0), ("work", 2.0), ("work", 2.0), ("work", 2.0))


@pytest.fixture
def trusting(monkeypatch):
    """Priors that weigh next to nothing, so that expected values are plain means."""
    monkeypatch.setattr(profile_module, "SHRINKAGE", 1e-12)


def asked(stage, occurrence=1, **more):
    """Evidence of a job whose latest call, still waiting, is this one."""
    return Evidence(waiting=(((stage, occurrence), 1),), latest=(stage, occurrence), **more)


# -- means ------------------------------------------------------------------------------


def test_mean_of_observations():
    """A mean is the average of what was observed, and observing gives a new one."""
    empty = Mean()
    assert empty.observe(3.0).observe(5.0) == Mean(2, 4.0)
    assert empty == Mean(0, 0.0)


def test_shrinkage_counts_the_prior_as_two_observations():
    """Without data the prior alone speaks; with n observations it has weight 2 of n + 2."""
    assert Mean().towards(7.0) == 7.0
    assert Mean(1, 10.0).towards(1.0) == (10 + 2 * 1) / 3
    assert Mean(8, 10.0).towards(0.0) == 8.0


# -- observe ----------------------------------------------------------------------------


def test_observe_leaves_the_old_profile_alone(record, learned):
    """A profile is a value: observing returns another one and changes nothing of the old."""
    old = learned(CHAIN, FAN_OUT)
    expected = learned(CHAIN, FAN_OUT)
    new = old.observe(record(*CHAIN))
    assert old == expected
    assert new != old
    assert (old.jobs("chain"), new.jobs("chain")) == (1, 2)


@pytest.mark.parametrize("complete", [True, False])
def test_nothing_is_learned_of_a_job_without_calls(record, complete):
    """A job that made no call teaches nothing."""
    profile = Profile()
    assert profile.observe(record("app", complete=complete)) is profile


def test_nothing_is_learned_of_an_incomplete_job(record, learned):
    """A failed or cancelled job is ignored: what it would still have done is unknown."""
    profile = learned(CHAIN)
    assert profile.observe(record("chain", ("a", 50.0), complete=False)) is profile
    assert profile.observe(record("other", ("a", 50.0), complete=False)) is profile


def test_work_and_what_comes_after_by_occurrence(learned):
    """Each occurrence keeps its own work and the mean work of all calls asked for after it."""
    means = learned(LOOP_ONCE, ("loop", ("think", 3.0), ("think", 5.0))).applications["loop"]
    assert means.job == Mean(2, 4.5)
    assert means.call == Mean(3, 3.0)
    assert means.stages["think"] == (
        OccurrenceMeans(work=Mean(2, 2.0), after=Mean(2, 2.5)),
        OccurrenceMeans(work=Mean(1, 5.0), after=Mean(1, 0.0)),
    )


def test_a_gap_in_the_occurrences_stays_empty():
    """An occurrence that was never served has no observation, and the later ones keep their place."""
    calls = (CallRecord("s", 1, 1.0), CallRecord("s", 3, 2.0))
    row = Profile().observe(JobRecord("app", calls, 0.0, 9.0, True)).applications["app"].stages["s"]
    assert [(means.work.count, means.work.value) for means in row] == [(1, 1.0), (0, 0.0), (1, 2.0)]


def test_occurrences_are_told_apart_up_to_a_cap(learned):
    """However long a loop, a profile keeps at most the stated number of occurrences of its stage."""
    row = learned(("loop", *[("s", 1.0)] * (MAX_OCCURRENCES + 50))).applications["loop"].stages["s"]
    assert len(row) == MAX_OCCURRENCES
    assert row[-1].work.count == 51
    assert row[-2].work.count == 1


# -- total work -------------------------------------------------------------------------


def test_total_work_without_any_knowledge_is_the_prior():
    """A scheduler that has seen nothing expects one second of any application."""
    assert Profile().total_work_s("unknown") == 1.0


def test_total_work_shrinks_towards_all_jobs_and_all_calls(learned):
    """Application towards all jobs, all jobs towards all calls, all calls towards one second."""
    profile = learned(CHAIN, CHAIN, LOOP_ONCE)
    calls = (5 * Fraction(13, 5) + 2 * 1) / 7  # 2 + 4 + 2 + 4 + 1 over five calls
    jobs = (3 * Fraction(13, 3) + 2 * calls) / 5  # 6 + 6 + 1 over three jobs
    assert profile.total_work_s("chain") == pytest.approx(float((2 * 6 + 2 * jobs) / 4))
    assert profile.total_work_s("loop") == pytest.approx(float((1 * 1 + 2 * jobs) / 3))
    assert profile.total_work_s("unknown") == pytest.approx(float(jobs))


# -- remaining work ---------------------------------------------------------------------


@pytest.mark.usefixtures("trusting")
class TestRemainingWork:
    """Expected remaining work where the means count and the priors do not."""

    @pytest.mark.parametrize(
        ("evidence", "remaining_s"),
        [
            (Evidence(), 6.0),
            (asked("a"), 6.0),
            (Evidence(running=((("a", 1), 0.5),), latest=("a", 1), received_s=0.5), 5.5),
            (Evidence(running=((("a", 1), 3.0),), latest=("a", 1), received_s=3.0), 4.0),
            (Evidence(latest=("a", 1), received_s=2.0), 4.0),
            (asked("b", received_s=2.0), 4.0),
            (Evidence(running=((("b", 1), 1.0),), latest=("b", 1), received_s=3.0), 3.0),
            (Evidence(latest=("b", 1), received_s=6.0), 0.0),
        ],
        ids=["unstarted", "a-waits", "a-runs", "a-runs-late", "a-done", "b-waits", "b-runs", "b-done"],
    )
    def test_chain(self, learned, evidence, remaining_s):
        """In a fixed chain it is what is left of the running call and all that follows."""
        assert learned(CHAIN, CHAIN).remaining_work_s("chain", evidence) == pytest.approx(remaining_s)

    @pytest.mark.parametrize(("occurrence", "remaining_s"), [(1, 2.0), (2, 2.0), (3, 1.0)])
    def test_loop(self, learned, occurrence, remaining_s):
        """In a loop it depends on the round: half of the jobs end after one, the others after three."""
        profile = learned(LOOP_ONCE, LOOP_THRICE)
        assert profile.remaining_work_s("loop", asked("think", occurrence)) == pytest.approx(remaining_s)

    @pytest.mark.parametrize("occurrence", [4, 7, 10_000])
    def test_beyond_the_occurrences_seen(self, learned, occurrence):
        """Past the last occurrence seen, that one speaks: its own work, and nothing after it."""
        profile = learned(LOOP_ONCE, LOOP_THRICE)
        assert profile.remaining_work_s("loop", asked("think", occurrence)) == pytest.approx(1.0)

    def test_fan_out(self, learned):
        """All calls of a fan-out count when asked for, a running one by what is left of it."""
        profile = learned(FAN_OUT)
        workers = (("work", 1), ("work", 2), ("work", 3))
        each = tuple((worker, 1) for worker in workers)
        planning = Evidence(latest=("plan", 1), received_s=1.0)
        waiting = Evidence(waiting=each, latest=workers[-1], received_s=1.0)
        running = Evidence(waiting=each[1:], running=((workers[0], 0.5),), latest=workers[-1], received_s=1.5)
        assert profile.remaining_work_s("fan", planning) == pytest.approx(6.0)
        assert profile.remaining_work_s("fan", waiting) == pytest.approx(6.0)
        assert profile.remaining_work_s("fan", running) == pytest.approx(5.5)

    @pytest.mark.parametrize("calls", [1, 2, 9_000])
    def test_late_occurrences_that_count_as_one(self, learned, calls):
        """Calls of one occurrence count as often as there are of it."""
        at = ("work", 3)
        evidence = Evidence(waiting=((at, calls),), latest=at, received_s=1.0)
        assert learned(FAN_OUT).remaining_work_s("fan", evidence) == pytest.approx(2.0 * calls)

    def test_fan_out_half_revealed(self, learned):
        """Calls of a fan-out that are still to be asked for are expected after the latest one."""
        evidence = Evidence(waiting=((("work", 1), 1),), latest=("work", 1), received_s=1.0)
        assert learned(FAN_OUT).remaining_work_s("fan", evidence) == pytest.approx(2.0 + 4.0)

    def test_unknown_application(self, learned):
        """Of an unknown application it expects an average job, less what the job has had and asks for."""
        profile = learned(CHAIN)  # an average job is 6 s, an average call 3 s
        assert profile.remaining_work_s("new", Evidence()) == pytest.approx(6.0)
        assert profile.remaining_work_s("new", asked("x", received_s=2.0)) == pytest.approx(3.0 + 1.0)

    def test_unknown_application_that_overstays(self, learned):
        """A job past the average is expected to end with what it asks for: never less than nothing."""
        profile = learned(CHAIN)
        assert profile.remaining_work_s("new", asked("x", received_s=50.0)) == pytest.approx(3.0)
        assert profile.remaining_work_s("new", Evidence(latest=("x", 1), received_s=50.0)) == 0.0

    def test_unknown_stage_of_a_known_application(self, learned):
        """A stage never seen costs the application's average call, and what is left of an average job."""
        profile = learned(CHAIN, LOOP_ONCE)  # chain: calls of 3 s on average, jobs of 6 s
        assert profile.remaining_work_s("chain", asked("new", received_s=1.0)) == pytest.approx(3.0 + 2.0)


def test_remaining_work_with_shrinkage(learned):
    """The chain of 2 s and 4 s, seen twice, with every prior in its place."""
    profile = learned(CHAIN, CHAIN)
    calls = (4 * Fraction(3) + 2 * 1) / 6  # all calls towards one second
    jobs = (2 * Fraction(6) + 2 * calls) / 4  # all jobs towards all calls
    total = (2 * Fraction(6) + 2 * jobs) / 4
    call = (4 * Fraction(3) + 2 * calls) / 6  # the application's calls towards all calls
    work = (2 * Fraction(2) + 2 * call) / 4
    after = (2 * Fraction(4) + 2 * (total - work)) / 4
    assert profile.remaining_work_s("chain", asked("a")) == pytest.approx(float(work + after))


def test_remaining_work_without_any_knowledge():
    """With nothing learned at all a job is one second of work, in one call."""
    assert Profile().remaining_work_s("new", Evidence()) == 1.0
    assert Profile().remaining_work_s("new", asked("s")) == 1.0
    running = Evidence(running=((("s", 1), 0.25),), latest=("s", 1), received_s=0.25)
    assert Profile().remaining_work_s("new", running) == 0.75
