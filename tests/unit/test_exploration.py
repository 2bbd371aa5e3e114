"""Algorithm 1: when a turn explores, and which stage it goes to."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.applications import app
from support.ended import ended
from support.exploring import Said, choice_of_lanes, coin

from llmsched_langgraph import Application, Profile
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._core.events import JobArrived
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._jobs.stages import Revealed, StageOccurrence
from llmsched_langgraph._ledger.exploration import JOBS, LANES, choose
from llmsched_langgraph._ledger.values import Explore
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.policies import Exploration, JobInfo, llmsched

QUIET = settings(deadline=None, database=None, max_examples=150)


# -- the coin ---------------------------------------------------------------------------


@QUIET
@given(
    st.integers(0, 2**32), st.integers(1, 2**40), st.sampled_from((0.0, 0.01, 0.1, 0.25, 1 / 2, 0.999, 1.0))
)
def test_the_coin_is_that_of_whole_numbers(seed, number, epsilon):
    """Any language that has them draws the same: a script in a database, for one."""
    assert Exploration(epsilon, seed=seed).turn(number) is coin(seed, number, epsilon)


def test_the_first_turns():
    """Whatever becomes of the code, the same seed and number draw the same for ever."""
    assert [n for n in range(1, 120) if Exploration().turn(n)] == FIRST
    assert [n for n in range(1, 120) if Exploration(seed=7).turn(n)] == FIRST_OF_SEVEN


FIRST = [6, 17, 21, 23, 44, 56, 58, 71, 73, 82, 90, 111, 112, 115]
FIRST_OF_SEVEN = [2, 16, 26, 36, 59, 75, 85, 86, 88, 104, 108]


@pytest.mark.parametrize("seed", [0, 1, 2, 2**31, 987_654_321])
@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.5])
def test_the_share_of_turns_is_epsilon(seed, epsilon):
    """Within four standard deviations of that of a fair coin, over all and in each tenth."""
    drawn = np.array([Exploration(epsilon, seed=seed).turn(n) for n in range(1, 10_001)])
    for part in (drawn, *np.split(drawn, 10)):
        spread = (epsilon * (1 - epsilon) / len(part)) ** 0.5
        assert abs(part.mean() - epsilon) < 4 * spread


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_turns_do_not_tell_of_each_other(seed):
    """At no distance do two turns go together, or avoid each other, more than by chance."""
    drawn = np.array([Exploration(0.1, seed=seed).turn(n) for n in range(1, 20_001)])
    for lag in range(1, 100):
        both = (drawn[:-lag] & drawn[lag:]).mean()
        assert abs(both - 0.01) < 5 * (0.01 * 0.99 / len(drawn)) ** 0.5, lag


def test_seeds_draw_apart():
    """Two seeds agree as often as two coins."""
    one, other = (
        np.array([Exploration(0.1, seed=seed).turn(n) for n in range(1, 20_001)]) for seed in (0, 1)
    )
    assert abs((one & other).mean() - 0.01) < 5 * (0.01 * 0.99 / len(one)) ** 0.5


def test_never_and_always():
    assert not any(Exploration(0.0, seed=seed).turn(n) for seed in range(20) for n in range(500))
    assert all(Exploration(1.0, seed=seed).turn(n) for seed in range(20) for n in range(500))


@pytest.mark.parametrize("epsilon", [-0.01, 1.01, float("nan"), float("inf")])
def test_epsilon_is_a_share(epsilon):
    with pytest.raises(ConfigurationError, match="epsilon must be from 0 to 1"):
        llmsched(epsilon=epsilon)


@pytest.mark.parametrize("sample", [0.0, -0.3, 1.01, float("nan")])
def test_the_sample_is_a_share(sample):
    with pytest.raises(ConfigurationError, match="sample must be above 0 and at most 1"):
        llmsched(sample=sample)


# -- the choice -------------------------------------------------------------------------


def job(number, lo=None, hi=None, *, waits=("s",), left=1, order=0.0, past=(0.0, 0.0, 0, 0.0), **informative):
    """The lanes of a job, one for each stage of which a call waits; they arrived as they are named.

    `past` is what it had received when its interval was formed, what it has received of calls that are over,
    how many hold a slot, and the sum of the times at which those were granted.
    """
    explore = None if lo is None else Explore(Said(lo, hi, informative), *past, left)
    return [
        (order, ("b", number, StageOccurrence(stage, 1)), 100 * number + n, explore)
        for n, stage in enumerate(waits)
    ]


def chosen(*jobs, now=0.0):
    """Number of the job and name of the stage that were chosen, in whatever order the lanes are given."""
    lanes = [lane for own in jobs for lane in own]
    shuffle = random.Random(0)
    orders = (lanes, lanes[::-1], *(shuffle.sample(lanes, len(lanes)) for _ in range(5)))
    found = {choose(order, now) for order in orders}
    assert len(found) == 1
    lane = found.pop()
    return lane and (lane[1], lane[2].path)


def test_none_to_choose():
    """No jobs; jobs of which nothing is believed; stages that teach nothing; no stage that waits."""
    assert chosen() is None
    assert chosen(job(1), job(2)) is None
    assert chosen(job(1, 1, 2), job(2, 1, 2, s=0.0)) is None
    assert chosen(job(1, 1, 2, waits=(), s=5.0)) is None


def test_the_stage_that_teaches_most_in_the_first_set():
    """Whichever of the overlapping jobs it is of, and however late that job came."""
    assert chosen(job(1, 1, 5, s=2.0), job(2, 4, 9, s=3.0), job(3, 8, 20, s=2.5)) == (2, "s")
    assert chosen(job(1, 1, 5, s=2.0), job(2, 4, 9, s=1.0), job(3, 8, 20, s=2.5)) == (3, "s")
    assert chosen(job(1, 1, 5), job(2, 4, 9, s=1.0), job(3, 10, 20, s=2.5)) == (2, "s")
    both = job(1, 1, 5, waits=("a", "b"), a=1.0, b=9.0)
    assert chosen(both, job(2, 4, 9, s=8.0)) == (1, "b")


def test_a_later_set_is_not_touched():
    """However much its stages teach: between sets the order is certain."""
    assert chosen(job(1, 1, 3, s=0.001), job(2, 3.001, 9, s=500.0)) == (1, "s")
    assert chosen(job(1, 50, 60, s=500.0), job(2, 1, 3, s=0.001)) == (2, "s")


def test_a_first_set_that_teaches_nothing_is_not_passed_over():
    """It comes first for certain, so nothing that a later one teaches is worth its waiting."""
    assert chosen(job(1, 1, 3), job(2, 4, 6, s=9.0)) is None
    spent = job(1, 1, 3, left=0, s=9.0)
    assert chosen(spent, job(2, 4, 6, s=9.0)) is None
    assert chosen(spent, job(2, 3, 6, s=9.0)) == (2, "s")


def test_intervals_that_touch_overlap():
    assert chosen(job(1, 1, 4, s=1.0), job(2, 4, 9, s=2.0)) == (2, "s")


def test_a_set_reaches_as_far_as_its_longest_interval():
    """A short interval inside a long one does not end the set."""
    assert chosen(job(1, 1, 50, s=1.0), job(2, 2, 3), job(3, 40, 60, s=2.0)) == (3, "s")


def test_of_stages_that_teach_as_much_the_sooner():
    """By the least that may be left of its job, then by arrival, then as its calls came."""
    assert chosen(job(2, 1, 9, s=2.0), job(1, 2, 9, s=2.0)) == (2, "s")
    assert chosen(job(2, 1, 9, s=2.0), job(1, 1, 4, s=2.0)) == (1, "s")
    assert chosen(job(1, 1, 9, waits=("b", "a"), a=2.0, b=2.0)) == (1, "b")


@pytest.mark.parametrize(
    ("sample", "calls", "granted"),
    [(0.3, 1, 1), (0.3, 3, 1), (0.3, 4, 2), (0.3, 10, 3), (0.3, 11, 4), (1.0, 5, 5), (0.01, 90, 1)],
)
def test_a_sample_of_a_stage_is_enough(desk, sample, calls, granted):
    """That share of its calls is granted to learn from it, rounded up; then the stage is passed over."""
    d = desk(llmsched(epsilon=1.0, sample=sample), at_once=False)
    d.call(0.0, 1)
    d.arrive(0.0, 1)
    d.move(0.0, 1, Revealed(tuple((n, "s") for n in range(calls))))
    for n in range(calls):
        d.call(0.0, 100 + n, 1, "s", run=n)
    d.call(0.0, 2, 1, "other")
    d.believe(0.0, 1, Said(1.0, 2.0, {"s": 9.0, "other": 1.0}))
    # Occurrences are samples of their own.
    d.call(0.0, 3, 1, "s")
    assert (
        d.serve(0.0)[1 : granted + 4]
        == [
            *range(100, 100 + granted),
            3,
            2,
            *range(100 + granted, 100 + calls),
        ][: granted + 3]
    )
    reasons = [entry.detail.reason for entry in d.machine.entries() if entry.kind == "SlotGranted"]
    assert reasons == ["free", *["explore"] * (granted + 2), *["order"] * (calls - granted)]


def test_what_was_received_since_is_not_to_come():
    """An interval moves down by what its job received after its belief was formed, both ends alike."""
    other = job(2, 0.5, 1.5, s=0.5)
    assert chosen(job(1, 4.0, 6.0, s=1.0), other) == (2, "s")
    # Three seconds have come since, of calls that are over or in their slots: it is from 1 to 3 now.
    for past in ((0.0, 3.0, 0, 0.0), (2.0, 5.0, 0, 0.0), (1.0, 2.0, 1, 6.0), (0.0, 1.0, 2, 14.0)):
        assert chosen(job(1, 4.0, 6.0, s=1.0, past=past), other, now=8.0) == (1, "s")
    # More than its lower end, which is at nought at least.
    own = job(1, 4.0, 6.0, s=1.0, past=(0.0, 5.0, 0, 0.0))
    assert chosen(own, job(2, 2.5, 3.0, s=8.0)) == (1, "s")
    assert chosen(own, job(2, 1.5, 3.0, s=8.0)) == (2, "s")
    # And never up: a clock may go back by a little.
    own = job(1, 4.0, 6.0, s=1.0, past=(3.0, 0.0, 0, 0.0))
    assert chosen(own, job(2, 6.0, 7.0, s=2.0)) == (2, "s")


def test_only_so_many_jobs_and_lanes_are_looked_at():
    """The first of them in the order of service; jobs in a tie with the last hide none of its lanes."""
    crowd = [lane for n in range(1, JOBS + 1) for lane in job(n, 1, 2, s=1.0, order=float(n))]
    information = job(99, 1, 2, s=5.0, order=50.0)
    assert choose([*crowd[: JOBS - 1], *information], 0.0) == information[0][1]
    assert choose([*crowd, *information], 0.0) == crowd[0][1]
    late = job(JOBS, 1, 2, s=6.0, order=float(JOBS))
    tied = job(98, 1, 2, s=9.0, order=float(JOBS))
    assert choose([*crowd, *tied, *late], 0.0) == late[0][1]
    wide = [lane for n in range(1, 4) for lane in job(n, 1, 2, waits=map(str, range(60)))]
    assert choose([*wide[: LANES - 1], *information], 0.0) == information[0][1]
    assert choose([*wide[:LANES], *information], 0.0) is None


@st.composite
def backlogs(draw):
    """Lanes with intervals on a small grid, so that ends touch and ties are many, in the order of service."""
    lanes = []
    for number in range(1, draw(st.integers(1, 7)) + 1):
        lo = draw(st.integers(0, 12))
        hi = lo + draw(st.integers(0, 4))
        waits = tuple(sorted(draw(st.sets(st.sampled_from("abc")))))
        informative = {stage: float(draw(st.integers(0, 3))) for stage in waits}
        bounds = (lo, hi) if draw(st.integers(0, 5)) else ()
        past = (draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(0, 2)), 0.0)
        lefts = {"left": draw(st.integers(0, 2)), "past": past, "order": float(draw(st.integers(0, 2)))}
        lanes += job(number, *bounds, waits=waits, **lefts, **(informative if bounds else {}))
    return sorted(lanes, key=lambda own: (own[0], own[2]))


@QUIET
@given(backlogs(), st.integers(0, 3))
def test_the_choice_is_that_of_the_paper(lanes, now):
    """Sets by their definition: the transitive closure of overlapping, in ascending order."""
    assert choose(lanes, float(now)) == choice_of_lanes(lanes, float(now))


# -- through the machine ----------------------------------------------------------------

LEADING = Application.of("leads", ["look", "act"], [("look", "act")], ["look"])
KINDS = {"leads": LEADING, "plain": app("plain")}
LEADS = ("leads", ("look", 1.0), ("act", 2.0))
LEADS_LONG = ("leads", ("look", 3.0), ("act", 40.0))
PLAIN = ("plain", ("s", 1.5))
PLAIN_LONG = ("plain", ("s", 30.0))
RUNS = [job for n in range(60) for job in (LEADS if n % 2 else LEADS_LONG, PLAIN if n % 3 else PLAIN_LONG)]


@pytest.fixture(scope="module")
def history():
    """A profile in which the first stage of `leads` settles the second, and `plain` has one stage."""
    profile = Profile().observe(*(ended(KINDS[name], *calls) for name, *calls in RUNS))
    for name, own in profile.applications.items():
        profile = profile.learned(name, learn(own.template, own.outcomes), own.jobs)
    assert profile.applications[LEADING.fingerprint].model.correlated
    return profile


def crowd(d, jobs=12):
    """Jobs of both kinds that wait for one slot, which another call has."""
    d.call(0.0, 1)
    for n in range(jobs):
        d.arrive(0.0, n, LEADING if n % 3 == 0 else "plain")
        d.call(0.0, 10 + n, n, "look" if n % 3 == 0 else "s")


def test_without_epsilon_it_is_srtf(desk, history):
    """The same grants in the same order."""
    served = []
    for policy in (llmsched(epsilon=0.0), "srtf"):
        d = desk(policy, profile=history)
        crowd(d)
        served.append(d.serve(5.0))
    assert served[0] == served[1]


def test_a_turn_that_explores_goes_to_what_teaches(desk, history):
    """Under a coin that always says so, the calls of `leads` go first, though shorter jobs wait."""
    d = desk(llmsched(epsilon=1.0), profile=history)
    crowd(d)
    d.release(1.0, 1)
    assert d.granted[1] == 10
    exploit = desk("srtf", profile=history)
    crowd(exploit)
    exploit.release(1.0, 1)
    assert exploit.granted[1] == 11
    # Where nothing teaches any more, turns go on as without exploration.
    assert d.serve(1.0)[5:] == [ticket for ticket in exploit.serve(1.0) if ticket not in d.granted[:5]]


def test_only_a_sample_of_a_stage_is_explored(desk, history):
    """Of ten calls of one stage three jump the queue; the others wait for their job's turn."""
    d = desk(llmsched(epsilon=1.0), profile=history)
    d.call(0.0, 1)
    d.arrive(0.0, 1, "plain")
    d.call(0.0, 2, 1, "s")
    d.arrive(0.0, 2, LEADING)
    d.move(0.0, 2, Revealed(tuple((n, "look") for n in range(10))))
    for n in range(10):
        d.call(0.0, 100 + n, 2, "look", run=n)
    assert d.serve(0.0)[:5] == [1, 100, 101, 102, 2]


def test_only_the_next_in_line_are_looked_at(desk, history):
    """A turn costs no more, however long the backlog is."""

    def served(before):
        d = desk(llmsched(epsilon=1.0), profile=history)
        d.call(0.0, 1)
        for n in range(before):
            d.arrive(0.0, n, "plain")
            d.call(0.0, 10 + n, n, "s")
        d.arrive(0.0, 999, LEADING)
        d.call(0.0, 9_999, 999, "look")
        return d.release(1.0, 1).granted

    assert served(JOBS - 1) == [9_999]
    assert served(JOBS) == [10]


def test_a_stage_that_waits_elsewhere_is_not_granted_here(desk, history):
    """A slot of one backend is no slot of another; the turn then goes to the next in line."""
    d = desk(llmsched(epsilon=1.0), profile=history, backends=("b", "c"))
    d.call(0.0, 1)
    d.call(0.0, 2, backend="c")
    d.arrive(0.0, 1, LEADING)
    d.call(0.0, 3, 1, "look", backend="c")
    d.arrive(0.0, 2, "plain")
    d.call(0.0, 4, 2, "s")
    assert d.release(1.0, 1).granted == [4]
    assert d.release(1.0, 2).granted == [3]


def test_what_waits_elsewhere_hides_nothing_here(desk):
    """What teaches most of what this backend can serve is chosen, though another call would teach more."""
    d = desk(llmsched(epsilon=1.0), at_once=False, backends=("b", "c"))
    d.call(0.0, 1)
    d.call(0.0, 2, backend="c")
    for number, informative in ((1, {"far": 9.0, "near": 1.0}), (2, {"near": 0.5})):
        d.arrive(0.0, number)
        d.call(0.0, 10 + number, number, "near")
        d.believe(0.0, number, Said(1.0, 5.0, informative))
    d.call(0.0, 3, 1, "far", backend="c")
    d.release(0.0, 1)
    assert d.granted[2:] == [11]
    assert d.machine.ledger.claim(11).reason == "explore"


def test_the_number_of_the_grant_decides(desk, history):
    """Every grant of the backend counts, those for which no call waited too."""
    policy = llmsched(epsilon=0.3)
    for grant in range(2, 40):
        d = desk(policy, profile=history)
        for ticket in range(1, grant):
            d.release(0.0, ticket - 1)
            d.call(0.0, ticket)
        d.arrive(0.0, 1, "plain")
        d.arrive(0.0, 2, LEADING)
        d.call(0.0, 1_001, 1, "s")
        d.call(0.0, 1_002, 2, "look")
        d.release(0.0, grant - 1)
        assert d.granted[-1] == (1_002 if policy.exploration.turn(grant) else 1_001)


def test_a_call_that_gave_up_was_explored_all_the_same(desk):
    """A sample counts what was granted, not what came of it."""
    d = desk(llmsched(epsilon=1.0), at_once=False)
    d.call(0.0, 1)
    d.arrive(0.0, 1)
    d.move(0.0, 1, Revealed(((1, "s"), (2, "s"))))
    for run in (1, 2):
        d.call(0.0, 10 + run, 1, "s", run=run)
    d.believe(0.0, 1, Said(1.0, 2.0, {"s": 9.0}))
    d.release(0.0, 1)
    assert d.machine.ledger.claim(11).reason == "explore"
    d.release(0.0, 11, Outcome.CANCELLED)
    assert d.machine.ledger.claim(12).reason == "order"


def test_exploring_keeps_to_the_first_level(desk):
    """A level is served before all later ones, whatever those would teach."""
    d = desk(llmsched(epsilon=1.0), at_once=False)
    d.call(0.0, 1)
    for number, priority, taught in ((1, 1, 9.0), (2, 0, 1.0), (3, -1, 0.0), (4, 1, 10.0)):
        info = JobInfo(application=app("app"), priority=priority)
        d.handle(0.0, JobArrived(number, info))
        d.call(0.0, 10 + number, number)
        d.believe(0.0, number, Said(1.0, 5.0, {"s": taught}))
    assert d.serve(0.0) == [1, 13, 12, 14, 11]


def test_policies_with_other_shares_have_other_names():
    assert llmsched().name == "llmsched"
    assert llmsched(seed=5).name == "llmsched"
    assert llmsched(epsilon=0.2).name == "llmsched(epsilon=0.2,sample=0.3)"
    assert llmsched().exploration == Exploration(0.1, 0.3, 0)
    assert copy.deepcopy(llmsched()) == llmsched()
