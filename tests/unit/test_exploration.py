"""Algorithm 1: when a turn explores, and which stage it goes to."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llmsched_langgraph.core.exploration import LOOKED_AT, Exploration
from support.applications import app
from support.ended import ended
from support.exploring import choice, coin

from llmsched_langgraph.belief.learning import learn
from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.core.job import Job
from llmsched_langgraph.core.policies import POLICIES, llmsched
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.position import Revealed, Spot
from llmsched_langgraph.dag.progress import UNKNOWN_USAGE, Outcome
from llmsched_langgraph.errors import ConfigurationError

QUIET = settings(deadline=None, database=None, max_examples=150)

ALWAYS = Exploration(1.0, 1.0)


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


@dataclass
class Said:
    """A belief that says what it is told to: an interval, and what each stage teaches."""

    lo: float
    hi: float
    teaches: dict = field(default_factory=dict)
    expected = {}

    def __post_init__(self):
        self.mean = self.after = (self.lo + self.hi) / 2

    @property
    def bounds(self):
        return self.lo, self.hi

    def uncertainty_reduction(self, stage, tool=None):
        return self.teaches.get(stage.path, 0.0)


def job(arrival, lo=None, hi=None, *, waits=("s",), **teaches):
    """A job whose stages `waits` wait with one call each, or as many as there are letters of it."""
    made = Job(arrival, app("app"), arrival, 0.0)
    for stage in waits:
        made.progress.request(len(made.progress.outstanding) + 100 * arrival, stage, 0.0, Spot(stage, 1))
    if lo is not None:
        made.belief = Said(lo, hi, teaches)
    return made


def chosen(*jobs, exploration=ALWAYS, now=0.0):
    """Arrival of the job and name of the stage that were chosen, in whatever order the jobs are given."""
    shuffle = random.Random(0)
    orders = (jobs, jobs[::-1], *(shuffle.sample(jobs, len(jobs)) for _ in range(5)))
    found = [exploration.choose(order, now, grantable=lambda job, spot: True) for order in orders]
    told = {own and (own[0].arrival, own[1].path) for own in found}
    assert len(told) == 1
    return told.pop()


def test_nobody_to_choose():
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
    spent = job(1, 1, 3, s=9.0)
    spent.explored[Spot("s", 1)] = 1
    assert chosen(spent, job(2, 4, 6, s=9.0)) is None


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
def test_a_sample_of_a_stage_is_enough(sample, calls, granted):
    """So many of its calls are granted to learn from it, rounded up; then it is out of the question."""
    own = job(1, 1, 2, waits=(), s=9.0, other=1.0)
    for ticket in range(calls):
        own.progress.request(ticket, "s", 0.0, Spot("s", 1))
    own.progress.request(calls, "other", 0.0, Spot("other", 1))
    exploration = Exploration(1.0, sample)
    for n in range(granted):
        assert chosen(own, exploration=exploration) == (1, "s")
        own.explored[Spot("s", 1)] = n + 1
        own.progress.start(n, 0.0)
    assert chosen(own, exploration=exploration) == (1, "other")
    # Occurrences are samples of their own.
    own.progress.request(999, "s", 0.0, Spot("s", 2))
    assert chosen(own, exploration=exploration) == (1, "s")


def test_what_was_received_since_is_not_to_come():
    """An interval moves down by what its job received after its belief was formed, both ends alike."""
    own = job(1, 4.0, 6.0, s=1.0)
    other = job(2, 0.5, 1.5, s=0.5)
    assert chosen(own, other) == (2, "s")
    own.believed_at_s = -3.0  # three seconds have come since: it is from 1 to 3 now
    assert chosen(own, other) == (1, "s")
    own.believed_at_s = -5.0  # more than its lower end, which is at nought at least
    assert chosen(own, job(2, 2.5, 3.0, s=8.0)) == (1, "s")
    assert chosen(own, job(2, 1.5, 3.0, s=8.0)) == (2, "s")


@st.composite
def backlogs(draw):
    """Jobs with intervals on a small grid, so that ends touch and ties are many."""
    jobs = []
    for arrival in range(1, draw(st.integers(1, 7)) + 1):
        lo = draw(st.integers(0, 12))
        hi = lo + draw(st.integers(0, 4))
        waits = tuple(sorted(draw(st.sets(st.sampled_from("abc")))))
        teaches = {stage: float(draw(st.integers(0, 3))) for stage in waits}
        known = draw(st.integers(0, 5))
        jobs.append(job(arrival, *((lo, hi) if known else ()), waits=waits, **(teaches if known else {})))
    return jobs


@QUIET
@given(backlogs())
def test_the_choice_is_that_of_the_paper(jobs):
    """Sets by their definition: the transitive closure of overlapping, in ascending order."""
    expected = choice(jobs, 1.0, 0.0, {})
    assert chosen(*jobs) == (expected and (expected[0], expected[1].path))


# -- through the dispatcher -------------------------------------------------------------

LEADING = Application.of("leads", ["look", "act"], [("look", "act")], ["look"])
KINDS = {"leads": LEADING, "plain": app("plain")}
LEADS = ("leads", ("look", 1.0), ("act", 2.0))
LEADS_LONG = ("leads", ("look", 3.0), ("act", 40.0))
PLAIN = ("plain", ("s", 1.5))
PLAIN_LONG = ("plain", ("s", 30.0))
JOBS = [job for n in range(60) for job in (LEADS if n % 2 else LEADS_LONG, PLAIN if n % 3 else PLAIN_LONG)]


@pytest.fixture(scope="module")
def history():
    """A profile in which the first stage of `leads` settles the second, and `plain` has one stage."""
    profile = Profile().observe(*(ended(KINDS[name], *calls) for name, *calls in JOBS))
    for name, own in profile.applications.items():
        profile = profile.learned(name, learn(own.template, own.outcomes), own.jobs)
    assert profile.applications[LEADING.fingerprint].model.correlated
    return profile


def crowd(d, jobs=12):
    """Jobs of both kinds that wait for one slot, which somebody else has."""
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


def test_a_turn_that_explores_goes_to_who_teaches(desk, history):
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

    assert served(LOOKED_AT - 1) == [9_999]
    assert served(LOOKED_AT) == [10]


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


def test_what_waits_elsewhere_hides_nothing_here():
    """What teaches most of what this backend can serve is chosen, though another call would teach more."""
    both = job(1, 1, 5, waits=("a", "b"), a=9.0, b=1.0)
    spots = (both, Spot("b", 1))
    assert ALWAYS.choose([both], 0.0, grantable=lambda job, spot: spot.path == "b") == spots
    assert ALWAYS.choose([both], 0.0, grantable=lambda job, spot: False) is None


def test_the_number_of_the_grant_decides(desk, history):
    """Every grant of the backend counts, those that nobody waited for too."""
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


def test_a_call_that_gave_up_was_explored_all_the_same():
    """A sample counts what was granted, not what came of it."""
    own = job(1, 1, 2, waits=(), s=9.0)
    for ticket in range(2):
        own.progress.request(ticket, "s", 0.0, Spot("s", 1))
    own.explored[Spot("s", 1)] = 1
    own.progress.start(0, 0.0)
    own.progress.finish(0, Outcome.CANCELLED, UNKNOWN_USAGE, 0.0)
    assert chosen(own, exploration=Exploration(1.0, 0.3)) is None


def test_policies_with_other_shares_have_other_names():
    assert llmsched().name == "llmsched"
    assert llmsched(seed=5).name == "llmsched"
    assert llmsched(epsilon=0.2).name == "llmsched(epsilon=0.2,sample=0.3)"
    assert POLICIES["llmsched"].exploration == Exploration(0.1, 0.3, 0)
    assert copy.deepcopy(llmsched()) == llmsched()
