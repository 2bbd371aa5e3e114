"""Policies: the order of grants in scenarios small enough to work out by hand, times given."""

from __future__ import annotations

import math
import re

import pytest
from support.applications import app
from support.sharing import ends

from llmsched_langgraph import Policy
from llmsched_langgraph._application.application import DIRECT
from llmsched_langgraph._core.policies import NamedPolicy, as_policy
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.policies import POLICIES, JobInfo, JobView

CHAIN = ("chain", ("a", 2.0), ("b", 4.0), ("c", 4.0))
SHORT = ("short", ("s", 5.0))
LONG = ("long", ("s", 9.0))


class ByTicket:
    """A user's own policy: what a job is told to be worth, by its number."""

    name = "by ticket"

    def __init__(self, **orders):
        self.orders = {int(name[1:]): order for name, order in orders.items()}

    def order(self, job, now):
        return self.orders.get(job.number, 0.0)


def test_fcfs_serves_in_order_of_the_calls(desk, learned):
    """Whatever is known of the jobs, calls are served as they came."""
    d = desk("fcfs", profile=learned(LONG, SHORT))
    d.arrive(0, 1, "long")
    d.arrive(0, 2, "short")
    for ticket, job in ((1, 1), (2, 1), (3, None), (4, 2), (5, 1)):
        d.call(1, ticket, job)
    assert d.serve(9) == [1, 2, 3, 4, 5]


def test_app_fifo_serves_in_order_of_the_jobs(desk):
    """All calls of the job that arrived first, then those of the second; a direct call is a new job."""
    d = desk("app_fifo")
    d.arrive(0, 7)
    d.arrive(0.5, 3)
    d.call(1, 1)
    for ticket, job in ((2, 3), (3, None), (4, 7), (5, 3)):
        d.call(2, ticket, job)
    assert d.serve(9) == [1, 4, 2, 5, 3]


def test_fair_serves_the_job_with_the_fewest_slots(desk):
    """A job waits while it holds more slots than others, and comes back as it gives them up."""
    d = desk("fair", slots=2)
    for job in (1, 2, 3):
        d.arrive(0, job)
    for ticket, job in ((1, 1), (2, 1), (3, 1), (4, 2), (5, 3)):
        d.call(0, ticket, job)
    assert d.granted == [1, 2]
    assert d.release(1, 1).granted == [4]  # job 1 still holds one, jobs 2 and 3 none
    assert d.release(2, 2).granted == [3]  # now no job holds one, and call 3 came before call 5
    assert d.release(3, 4).granted == [5]
    assert d.serve(4) == [1, 2, 4, 3, 5]


def test_sjf_serves_the_application_with_the_least_total_work(desk, learned):
    """Calls of the short application go first, however much of the long one is done already."""
    d = desk("sjf", profile=learned(SHORT, LONG))
    for job, application in ((1, "long"), (2, "short"), (3, "long")):
        d.arrive(0, job, application)
    for ticket, job in ((1, 1), (2, 1), (3, 3), (4, 2), (5, 2)):
        d.call(0, ticket, job)
    assert d.serve(9) == [1, 4, 5, 2, 3]


def test_srtf_serves_the_job_with_the_least_work_left(desk, learned):
    """A long job near its end (4 s left) goes before a short one (5 s), and that before a fresh long one."""
    d = desk("srtf", profile=learned(*[CHAIN, SHORT] * 50))
    for job, application in ((1, "chain"), (2, "short"), (3, "chain")):
        d.arrive(0, job, application)
    d.call(0, 1, 1, "a")
    d.release(2, 1)
    d.call(2, 2, 1, "b")
    d.release(6, 2)
    d.call(6, 3)  # somebody else's call keeps the slot while these come:
    d.call(6, 4, 3, "a")
    d.call(6, 5, 2, "s")
    d.call(6, 6, 1, "c")
    assert d.serve(9) == [1, 2, 3, 6, 5, 4]


def test_plas_serves_the_job_that_has_received_least(desk):
    """Work received so far counts, not what was asked for or when the job came."""
    d = desk("plas")
    for job in (1, 2, 3):
        d.arrive(0, job)
    d.call(0, 1, 1)
    d.release(3, 1)
    d.call(3, 2, 2)
    d.release(4, 2)
    d.call(4, 3)
    for ticket, job in ((4, 1), (5, 2), (6, 3)):
        d.call(4, ticket, job)
    assert d.serve(9) == [1, 2, 3, 6, 5, 4]


def test_plas_counts_the_running_call(desk):
    """A job's running call counts by the time that it has run when the job is looked at."""
    d = desk("plas", slots=2)
    d.arrive(0, 1)
    d.arrive(0, 2)
    d.call(0, 1, 1)
    d.call(3, 2, 2)
    d.call(4, 3, 1)  # job 1 has received 4 s
    d.call(5, 4, 2)  # job 2 has received 2 s
    assert d.release(6, 2).granted == [4]


def test_hermes_serves_the_least_rank(desk, observed):
    """Of jobs that mostly end soon one is tried first, until it has outlived those: then it goes last."""
    history = [*[("risky", ("s", 1.0))] * 18, *[("risky", ("s", 50.0))] * 2, *[("safe", ("s", 4.0))] * 10]
    d = desk("hermes", profile=observed(*history))
    d.call(0, 1)
    for job, application in ((1, "safe"), (2, "risky"), (3, "risky")):
        d.arrive(0, job, application)
        d.call(0, 10 + job, job, "s")
    assert d.release(0, 1).granted == [12]  # (18 x 1 + 2 x 1) / 18 of rank, and 4
    d.call(2, 22, 2, "s")  # after 2 s only those of 50 s are left to compare with: 48
    assert d.release(2, 12).granted == [13]
    assert d.serve(2)[3:] == [11, 22]


def test_justitia_serves_as_fair_sharing_would_end(desk, observed):
    """Short ones that come later overtake a long job, but only those that would end before it."""
    profile = observed(*[("short", ("s", 2.0)), ("long", ("s", 8.0))] * 200)
    d = desk("justitia", slots=2, profile=profile)
    works = [profile.total_work_s(DIRECT)] * 2  # who holds the slots meanwhile
    d.call(0, 0)
    d.call(0, 1)
    came = [(0, "long"), *((3 * n, "short") for n in range(1, 12))]
    for job, (at, application) in enumerate(came, 2):
        d.arrive(at, job, application)
        d.call(at, job, job)
        works.append(profile.total_work_s(app(application)))
    end = ends(list(zip([0, 0, *(at for at, _ in came)], works, strict=True)), slots=2)
    assert d.serve(40) == [0, 1, *sorted(range(2, 14), key=end.__getitem__)]
    assert 4 < d.granted.index(2) < 11


def test_gittins_serves_who_may_end_soon(desk, learned):
    """Of jobs of one mean, that whose first stage decides how long it is; srtf goes by the mean."""
    tried = [("tried", ("a", 1.0), ("b", 3.0)), ("tried", ("a", 2.0), ("b", 40.0))]
    history = learned(*[*tried, ("sure", ("s", 22.9))] * 60)
    first = {}
    for policy in ("gittins", "srtf"):
        d = desk(policy, profile=history)
        d.call(0, 1)
        d.arrive(0, 1, "sure")
        d.call(0, 11, 1, "s")
        d.arrive(0, 2, "tried")
        d.call(0, 12, 2, "a")
        first[policy] = d.release(0, 1).granted
    assert first == {"gittins": [12], "srtf": [11]}


def test_srtf_marginal_judges_every_stage_on_its_own(desk, learned):
    """What a stage tells of the next is known to srtf alone."""
    history = learned(
        *[("x", ("a", 1.0), ("b", 1.0)), ("x", ("a", 9.0), ("b", 40.0)), ("y", ("s", 10.0))] * 60
    )
    first = {}
    for policy in ("srtf", "srtf_marginal"):
        d = desk(policy, profile=history)
        d.arrive(0, 1, "x")
        d.call(0, 1, 1, "a")
        d.release(1, 1)  # a short one: so b is short
        d.call(1, 2)
        d.arrive(1, 2, "y")
        d.call(1, 3, 2, "s")
        d.call(1, 4, 1, "b")
        first[policy] = d.release(2, 2).granted
    assert first == {"srtf": [4], "srtf_marginal": [3]}


def test_a_new_profile_changes_the_order_of_those_who_wait(desk, learned):
    """When a profile is published, waiting jobs of its applications are looked at again."""
    d = desk("srtf")
    d.arrive(0, 1, "long")
    d.arrive(0, 2, "short")
    d.call(0, 1)
    d.call(0, 2, 1, "s")
    d.call(0, 3, 2, "s")
    assert d.backlog() == [2, 3]
    d.learn(1, learned(*[SHORT, LONG] * 9), "long", "short")
    assert d.serve(2) == [1, 3, 2]


@pytest.mark.parametrize("policy", POLICIES)
def test_ties_go_by_arrival(desk, policy):
    """Jobs that no policy can tell apart are served in the order in which they came."""
    d = desk(policy)
    for job in range(1, 8):
        d.arrive(0, job)
    for ticket in range(1, 8):
        d.call(0, ticket, ticket)
    assert d.serve(0) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("policy", POLICIES)
def test_calls_of_one_job_go_by_arrival(desk, policy):
    """Calls of one job have one order, so they are served in the order in which it asked."""
    d = desk(policy)
    d.arrive(0, 1)
    for ticket in (5, 3, 9, 1):
        d.call(0, ticket, 1)
    assert d.serve(1) == [5, 3, 9, 1]


def test_a_users_own_policy_decides(desk):
    """Any object with a name and an order is a policy; infinite orders are orders."""
    d = desk(ByTicket(j2=math.inf, j3=1, j4=-math.inf, j5=-3.0))
    for ticket in range(1, 6):
        d.call(0, ticket)
    assert d.serve(1) == [1, 4, 5, 3, 2]
    assert d.faults == []


@pytest.mark.parametrize("name", POLICIES)
def test_policies_by_name(name):
    """Every known name gives the policy of that name, which is a Policy and has a short repr."""
    policy = as_policy(name)
    assert isinstance(policy, Policy)
    assert policy.name == name
    if isinstance(policy, NamedPolicy):
        assert repr(policy).startswith(f"NamedPolicy(name={name!r}, needs=<Needs.")


def test_a_policy_with_state_is_made_anew():
    """Two schedulers that name the same policy do not share its virtual clock."""
    assert as_policy("justitia") is not as_policy("justitia")


def test_policy_objects_pass_through():
    """An object of the right shape is used as it is."""
    own = ByTicket()
    named = NamedPolicy("lifo", lambda job, now: -job.number)
    assert as_policy(own) is own
    assert as_policy(named) is named
    info = JobInfo(application=app("app"))
    assert (
        named.order(
            JobView(
                number=4,
                info=info,
                arrival_s=0.0,
                work_s=0.0,
                holding=0,
                waiting=1,
                runs=0,
                mean_total_work_s=1.0,
                total_work_s=(),
                remaining_s=1.0,
            ),
            0.0,
        )
        == -4
    )


@pytest.mark.parametrize("name", ["", "SRTF", "shortest"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    """The error says what was asked for and lists every name that works."""
    with pytest.raises(ConfigurationError) as caught:
        as_policy(name)
    assert str(caught.value) == (
        f"unknown policy {name!r}; choose one of: fcfs, app_fifo, fair, sjf, srtf, "
        "srtf_marginal, plas, hermes, justitia, llmsched, gittins"
    )


@pytest.mark.parametrize("thing", [None, 3, object(), lambda job, now: 0.0])
def test_an_object_that_is_no_policy_is_refused(thing):
    """The error says what a policy needs and what was given."""
    with pytest.raises(ConfigurationError, match=r"`name` and `order\(job, now\)`"):
        as_policy(thing)


@pytest.mark.parametrize(
    ("attribute", "value", "wanted"),
    [("needs", "belief", "a `Needs`"), ("exploration", 0.1, "an `Exploration` or None")],
)
def test_what_a_policy_asks_for_is_checked_at_the_edge(attribute, value, wanted):
    """Where it is given, not at the first grant."""
    policy = type("Own", (ByTicket,), {attribute: value})()
    message = f"policy {policy.name!r}: its `{attribute}` must be {wanted}, not {value!r}"
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        as_policy(policy)


def test_a_class_is_no_policy():
    """A policy's class in place of a policy (forgotten parentheses) is refused at once."""
    with pytest.raises(ConfigurationError, match="ByTicket"):
        as_policy(ByTicket)
