"""The Redis home of the ledger: the suite of every home, and what is its own."""

from __future__ import annotations

import math
import time
from contextlib import closing
from importlib.resources import files

import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.crc import key_slot
from support.conformance import LedgerConformance
from support.exploring import Said
from support.redis_home import Redis, new_name, server_url

from llmsched_langgraph import Auto, Backend, Tenant
from llmsched_langgraph._jobs.calls import Usage
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.connection import shown
from llmsched_langgraph._ledger.redis.encoding import Refused, Shared
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph._ledger.values import Configure, Crowd, Explore, Key, Lost, Rekey, Release, Request
from llmsched_langgraph.errors import ConfigurationError, LedgerUnreachableError
from llmsched_langgraph.policies import Exploration


class TestRedis(Redis, LedgerConformance):
    pass


def lane(job, backend="b"):
    return (backend, job, StageOccurrence("s", 1))


def tickets(answer):
    return [own.ticket for own in answer.news]


class Workers:
    """Clients of one ledger, all of them with the same settings."""

    def __init__(self, *backends, **settings):
        self.name = new_name()
        self.backends = backends or (Backend("b", 1),)
        self.settings = {"overdue": UNBOUNDED, "exploration": None, "tenants": NO_TENANTS} | settings
        self.made = []

    def new(self, lease_s=5.0, backends=None, **settings):
        shared = Shared(**(self.settings | settings))
        client = LedgerClient(server_url(), self.name, shared, backends or self.backends, lease_s=lease_s)
        self.made.append(client)
        return client


@pytest.fixture
def workers():
    made = []

    def make(*backends, **settings):
        made.append(Workers(*backends, **settings))
        return made[-1]

    yield make
    for client in [client for own in made for client in own.made]:
        client.close()


@pytest.fixture
def server():
    with closing(redis.Redis.from_url(server_url())) as found:
        yield found


def keys(server, client):
    """The keys of the client's ledger."""
    return sorted(key for key in server.scan_iter() if key.startswith(client.prefix.encode()))


# -- workers and leases -----------------------------------------------------------------


def test_workers_share_slots_and_one_order(workers):
    """A slot goes to the next ticket, whoever's it is; its worker hears of it at its next call."""
    made = workers()
    one, other = made.new(), made.new()
    assert tickets(one.apply(Request(1, lane(1)), now=0.0)) == [1]
    assert tickets(other.apply(Request(1, lane(1), Key(0, 2.0)), now=0.0)) == []
    assert tickets(one.apply(Request(2, lane(2), Key(0, 3.0)), now=0.0)) == []
    assert tickets(one.apply(Release(1), now=1.0)) == []
    answer = other.apply(now=1.5)
    assert [(own.ticket, own.grant.granted_s, own.grant.asked_s) for own in answer.news] == [(1, 1.0, 0.0)]
    assert tickets(other.apply(now=1.5)) == []
    assert tickets(other.apply(Release(1), now=2.0)) == []
    assert tickets(one.apply(now=2.0)) == [2]
    one.check()


def test_a_lease_that_ended_gives_back_what_it_held(workers):
    """Any call notices it. The worker learns of each ticket that it lost, and goes on with another number."""
    made = workers()
    one, other = made.new(), made.new()
    assert tickets(one.apply(Request(2, lane(2)), Request(1, lane(1)), now=0.0)) == [2]
    assert tickets(other.apply(Request(7, lane(7)), now=3.0)) == []
    assert tickets(other.apply(now=4.9)) == []
    assert tickets(other.apply(now=5.0)) == [7]
    before = one.worker
    answer = one.apply(Request(3, lane(3)), now=6.0)
    assert answer.news == (Lost(1), Lost(2))
    assert one.worker != before
    assert answer.lease_until_s == 11.0
    assert tickets(other.apply(Release(7), now=7.0)) == []
    assert tickets(one.apply(now=7.0)) == [3]
    one.check()


def test_each_call_renews_the_lease(workers):
    """Also one without changes."""
    made = workers()
    one, other = made.new(), made.new()
    one.apply(Request(1, lane(1)), now=0.0)
    for now in (4.0, 8.0, 12.0):
        assert one.apply(now=now).news == ()
        assert other.apply(now=now).news == ()
    assert set(one.snapshot().holding) == {(one.worker, 1)}


def test_a_ticket_that_was_released_is_not_lost(workers):
    """Nobody waits for it."""
    one = workers().new()
    one.apply(Request(1, lane(1)), Request(2, lane(2)), now=0.0)
    assert one.apply(Release(1), now=9.0).news == (Lost(2),)


def test_a_worker_that_closes_gives_all_back(workers):
    """At once, without a lease to wait for."""
    made = workers()
    one, other = made.new(), made.new()
    one.apply(Request(1, lane(1)), Request(2, lane(2)), now=0.0)
    other.apply(Request(1, lane(1)), now=0.0)
    one.close(now=0.0)
    assert tickets(other.apply(now=0.0)) == [1]
    assert list(other.snapshot().workers) == [other.worker]
    other.check()


def test_nothing_is_left_behind(workers, server):
    """When all is released, no key or field is left of tickets, jobs, tenants and workers."""
    made = workers(Backend("b", 2, output_tokens_per_minute=10_000), overdue=Overdue(1.0, 2))
    one, other = made.new(), made.new()
    one.apply(now=0.0)
    other.apply(now=0.0)
    before = keys(server, one)
    for ticket in range(40):
        client = (one, other)[ticket % 2]
        key = Key(ticket % 3, float(ticket), None, f"tenant {ticket % 5}", 1.0, 3.0)
        client.apply(Request(ticket, lane(ticket), key, waited_s=ticket / 10), now=ticket / 10)
    other.check()
    one.close(now=4.0)
    for now in range(5, 30):
        for ticket in list(other.snapshot().of(other.worker).holding):
            other.apply(Release(ticket, Usage(1, 1)), now=float(now))
    other.check()
    assert not other.snapshot().waiting
    assert set(keys(server, one)) - set(before) <= {
        (one.prefix + kind).encode() for kind in ("served", "spent")
    }


def test_a_server_that_lost_everything(workers, server):
    """The tickets are lost; the worker brings backends and settings again, and is taken for no other one.

    Nothing is granted for a lease: until then, other workers bring back what they hold.
    """
    made = workers(Backend("b", 1), overdue=Overdue(1.0, 1))
    one, other = made.new(), made.new()
    other.apply(Request(1, lane(1)), now=0.0)
    one.apply(Request(1, lane(1)), now=0.0)
    server.delete(*keys(server, one))
    answer = one.apply(Request(2, lane(2)), now=1.0)
    assert (answer.news, answer.wake_s) == ((Lost(1),), 6.0)
    other.restore = lambda tickets: [Request(own, lane(own), forced=True) for own in tickets]
    assert other.apply(now=3.0).news[0] == Lost(1)
    one.apply(now=5.0)
    assert set(one.snapshot().holding) == {(other.worker, 1)}
    assert (one.worker, other.worker) == (1, 2)
    assert not one.apply(now=6.0).news
    other.apply(Release(1), now=7.0)
    assert tickets(one.apply(now=7.0)) == [2]
    one.apply(Request(3, lane(3), Key(5)), Request(4, lane(4)), now=7.5)
    assert one.apply(Release(2), now=9.0).news[0].grant.reason == "overdue"


def test_a_server_whose_memory_is_full(workers, server):
    """Nothing is changed, not even a part; the changes are kept, and go out when there is memory again."""
    one = workers(Backend("b", 1)).new(lease_s=1e9)
    one.apply(Request(1, lane(1)), Request(2, lane(2)), now=0.0)
    before = one.snapshot()
    server.config_set("maxmemory", "1")
    try:
        with pytest.raises(LedgerUnreachableError, match="maxmemory"):
            one.apply(Release(1), Request(3, lane(3)), now=1.0)
        assert one.snapshot() == before
        one.check()
    finally:
        server.config_set("maxmemory", "0")
    assert tickets(one.apply(now=2.0)) == [2]
    assert [number for _, number in one.snapshot().waiting] == [3]
    one.check()


# -- refusals --------------------------------------------------------------------------------


def test_no_more_calls_wait_than_may(workers):
    """Whoever's they are; a call that need not wait is not refused, nor a further attempt of one."""
    made = workers(Backend("b", 1, max_queued=1))
    one, other = made.new(), made.new()
    assert tickets(one.apply(Request(1, lane(1)), now=0.0, admit=True, bounded={1})) == [1]
    assert one.apply(Request(2, lane(2)), now=0.0, bounded={2}).news == ()
    answer = other.apply(Request(1, lane(1)), Request(2, lane(2)), now=0.0, bounded={1})
    assert answer.news == (Refused(1, Crowd("b", "", 1, 1)),)
    assert set(other.snapshot().of(other.worker).waiting) == {2}
    assert other.apply(Request(1, lane(1)), now=0.0, bounded={1}).news == (Refused(1, Crowd("b", "", 2, 1)),)
    other.check()


def test_no_more_calls_of_a_tenant_wait_than_may(workers):
    """As counted while lanes come, go and move, also under settings that come later."""
    tenants = Tenants({"t": Tenant(max_queued=2)})
    made = workers(tenants=NO_TENANTS)
    one = made.new(lease_s=100.0)
    one.apply(Request(1, lane(1)), Request(2, lane(2), Key(tenant="t")), now=0.0)
    other = made.new(tenants=tenants, lease_s=100.0)
    other.apply(Request(3, lane(3), Key(tenant="u")), now=0.0)
    other.check()
    ask = Request(4, lane(4), Key(tenant="t"))
    assert other.apply(Rekey(lane(3), Key(tenant="t")), ask, now=0.0, bounded={4}).news == (
        Refused(4, Crowd("b", "t", 2, 2)),
    )
    other.check()
    other.apply(Rekey(lane(3), Key(tenant="u")), now=0.0)
    assert other.apply(ask, now=0.0, bounded={4}).news == ()
    other.check()


def test_a_refusal_is_told_until_it_is_heard(workers):
    """Its answer may get lost like any other."""
    one = workers(Backend("b", 1, max_queued=1)).new()
    one.apply(Request(1, lane(1)), Request(2, lane(2)), now=0.0)
    with Broken(one), pytest.raises(LedgerUnreachableError):
        one.apply(Request(3, lane(3)), now=0.0, bounded={3})
    assert one.apply(now=1.0).news == (Refused(3, Crowd("b", "", 1, 1)),)
    assert one.apply(now=1.0).news == ()


# -- answers and messages that get lost -----------------------------------------------------


class Broken:
    """A client whose connection breaks after the server did what was asked."""

    def __init__(self, client, times=1):
        self.client, self.times, self.run = client, times, client._run

    def __enter__(self):
        self.client._run = self

    def __exit__(self, *_):
        del self.client._run

    def __call__(self, *arguments):
        answer = self.run(*arguments)
        self.times -= 1
        if self.times >= 0:
            raise LedgerUnreachableError("broken")
        return answer


def test_a_lost_answer_changes_nothing(workers):
    """The changes count once, and the grants are told when the server answers again."""
    one = workers(Backend("b", 2)).new()
    one.apply(Request(1, lane(1)), now=0.0)
    with Broken(one, 2):
        for _ in range(2):
            with pytest.raises(LedgerUnreachableError):
                one.apply(*([Release(1), Request(2, lane(2)), Request(3, lane(3), None, True)]), now=1.0)
    assert one.snapshot().backends["b"][1:5] == (2, 0, 3, 1)
    answer = one.apply(now=2.0)
    assert tickets(answer) == [3, 2]
    assert one.snapshot().backends["b"][1:5] == (2, 0, 3, 1)
    assert one.apply(now=2.0).news == ()


def test_a_lost_first_answer_makes_no_second_worker(workers):
    """The worker is known by what it brought."""
    one = workers(Backend("b", 1)).new()
    with Broken(one, 2):
        for _ in range(2):
            with pytest.raises(LedgerUnreachableError):
                one.apply(Request(1, lane(1), None, True), now=1.0)
    assert tickets(one.apply(now=1.0)) == [1]
    assert list(one.snapshot().workers) == [one.worker]
    assert one.snapshot().backends["b"][1:5] == (1, 0, 1, 0)


def test_batches_that_were_not_sent_keep_their_order(workers):
    """A release after its request, in whatever call it was given."""
    one = workers().new()
    one.apply(now=0.0)

    def unreachable(*_):
        raise LedgerUnreachableError("down")

    one._run = unreachable
    for change in (Request(1, lane(1)), Request(2, lane(2)), Release(1)):
        with pytest.raises(LedgerUnreachableError):
            one.apply(change, now=0.0)
    del one._run
    assert tickets(one.apply(now=1.0)) == [1, 2]
    assert one.snapshot().of(one.worker).holding.keys() == {2}


def test_a_worker_is_woken(workers):
    """By the call of another one that gives it a slot, and by no other; the message may be lost."""
    made = workers()
    one, other = made.new(), made.new()
    one.apply(Request(1, lane(1)), now=0.0)
    other.apply(Request(1, lane(1)), now=0.0)
    wakes = other.wakes(0.05)
    assert not next(wakes)
    one.apply(Request(2, lane(2)), now=0.0)
    assert not next(wakes)
    one.apply(Release(1), now=0.0)
    assert any(next(wakes) for _ in range(200))
    assert tickets(other.apply(now=0.0)) == [1]
    wakes.close()


def test_a_script_that_the_server_forgot(workers, server):
    """It is sent again."""
    one = workers().new()
    one.apply(now=0.0)
    server.script_flush()
    assert tickets(one.apply(Request(1, lane(1)), now=0.0)) == [1]


def test_a_server_that_is_not_there(tmp_path):
    """The error says where, without a password."""
    url = f"unix://me:secret@{tmp_path}/none.sock?password=secret"
    client = LedgerClient(url, "n", Shared(UNBOUNDED, None, NO_TENANTS), [Backend("b", 1)])
    with pytest.raises(LedgerUnreachableError, match=r"none\.sock") as caught:
        client.apply()
    assert "secret" not in str(caught.value) + repr(client)
    client.close()


# -- numbers ---------------------------------------------------------------------------------


def in_lua(server, expression, *values):
    """What an expression of `numbers.lua` gives for each value `x`, which may have a second part `y`."""
    text = (files("llmsched_langgraph._ledger.redis") / "numbers.lua").read_text("utf-8")
    return [
        float(
            server.eval(
                f"local numbers = {{}}\n{text}\nlocal x, y = tonumber(ARGV[1]), tonumber(ARGV[2])\n"
                f"return numbers.text({expression})",
                0,
                *map(repr, value if isinstance(value, tuple) else (value,)),
            )
        )
        for value in values
    ]


def test_numbers_are_those_of_python(server):
    """Rounding, neighbours, bits, whole quotients, and all digits."""
    floats = [
        0.0,
        0.1,
        0.5,
        1.0,
        1.5,
        2.5,
        3.499999,
        1e9 + 0.5,
        1e9 + 1.5,
        1_764_279_600.123456,
        1 / 3,
        1e300,
    ]
    assert in_lua(server, "x", *floats) == floats
    assert in_lua(server, "numbers.round(x)", *floats[:10]) == [round(own) for own in floats[:10]]
    assert in_lua(server, "numbers.next_after(x)", *floats) == [
        math.nextafter(own, math.inf) for own in floats
    ]
    bits = [0, 1, 2, 3, 4, 7, 8, 2**40 - 1, 2**40]
    assert in_lua(server, "numbers.bit_length(x)", *bits) == [own.bit_length() for own in bits]
    pairs = [(0, 3), (7, 2), (8, 2), (2**53 - 1, 3), (10**15 * 7 // 9, 61), (96 * 10**13 - 1, 97)]
    assert in_lua(server, "numbers.whole(x, y)", *pairs) == [one // other for one, other in pairs]


# -- cost -----------------------------------------------------------------------------------


def commands_of_a_grant(workers, server, waiting):
    """How many commands the server runs for a release, a request and a grant while so many wait."""
    one = workers(Backend("b", 4), overdue=Overdue(300.0, 16), exploration=Exploration(0.1)).new(lease_s=1e9)
    for first in range(0, waiting + 4, 500):
        batch = range(first, min(first + 500, waiting + 4))
        keys = [Key(-(n % 3), n * 37 % 101, None, f"t{n % 50}", n % 90, 1e9) for n in batch]
        one.apply(*[Request(n, lane(n), key) for n, key in zip(batch, keys, strict=True)], now=0.0)
    held, count = list(one.snapshot().of(one.worker).holding), 100
    server.config_resetstat()
    for step in range(count):
        n = waiting + 4 + step
        key = Key(-(n % 3), n * 37 % 101, None, f"t{n % 50}", n % 90, 1e9)
        answer = one.apply(Release(held.pop(0)), Request(n, lane(n), key), now=0.1 * step)
        held += tickets(answer)
    stats = server.info("commandstats")
    return sum(own["calls"] for name, own in stats.items() if name[8:] in COMMANDS) / count


COMMANDS = (
    *("hget", "hset", "hmget", "hdel", "sadd", "srem", "smembers", "rpush", "ltrim"),
    *("zadd", "zrem", "zrange", "zrangebyscore", "zcard"),
)


def test_a_grant_costs_about_the_same_however_many_wait(workers, server):
    """The commands' own cost is at most logarithmic."""
    few, many = (commands_of_a_grant(workers, server, waiting) for waiting in (100, 5_000))
    assert 20 < few < 120
    assert many < 1.2 * few


# -- times ---------------------------------------------------------------------------------


def test_times_are_of_the_server(workers):
    """And never go back."""
    one = workers().new()
    before = one.apply().now_s
    assert abs(before - time.time()) < 60.0
    answer = one.apply(Request(1, lane(1)))
    assert before <= answer.now_s == answer.news[0].grant.granted_s
    assert answer.lease_until_s == answer.now_s + 5.0
    assert one.apply(now=1.0).now_s == answer.now_s
    assert one.apply(now=answer.now_s + 1.0).now_s == answer.now_s + 1.0


# -- settings ------------------------------------------------------------------------------


def test_the_last_worker_decides_of_the_settings(workers):
    """Limits of slots count at once, also for those that wait and hold."""
    made = workers(Backend("b", 4), overdue=Overdue(100.0, 1))
    one = made.new()
    assert not one.apply(now=0.0).changed  # there were none before
    for ticket in range(6):
        one.apply(Request(ticket, lane(ticket), Key(tenant="t")), now=0.0)
    other = made.new(tenants=Tenants({"t": Tenant(2.0, max_slots=2)}))
    assert other.apply(now=0.0).changed == "tenants"
    other.check()
    assert tickets(one.apply(Release(0), Release(1), now=0.0)) == []
    assert tickets(one.apply(Release(2), now=0.0)) == [4]
    third = made.new(tenants=Tenants({"u": Tenant(1.0, max_slots=1)}))
    third.apply(now=1.0)
    third.check()
    assert tickets(one.apply(now=1.0)) == [5]
    assert not made.new(tenants=Tenants({"u": Tenant(1.0, max_slots=1)})).apply(now=1.0).changed


def test_what_a_worker_has_changed_is_named(workers):
    made = workers(Backend("b", 4), Backend("c", Auto()), overdue=Overdue(100.0, 1))
    assert made.new().apply(now=0.0).changed == ""
    assert made.new().apply(now=0.0).changed == ""
    other = made.new(backends=(Backend("b", 5), Backend("c", 2), Backend("d", 1)), overdue=Overdue(99.0, 1))
    said = other.apply(now=0.0).changed
    assert said == "overdue, slots of b: 4 before, 5 now, slots of c: auto before, 2 now"


def test_a_worker_that_comes_back_does_not_bring_its_settings(workers):
    """What others have configured meanwhile stays."""
    made = workers()
    one, other = made.new(), made.new(lease_s=100.0)
    one.apply(now=0.0)
    other.apply(Configure(Backend("b", 3)), now=0.0)
    one.apply(now=50.0)
    assert one.snapshot().backends["b"].slots == 3
    made.new().apply(now=50.0)
    assert one.snapshot().backends["b"].slots == 1


def test_an_unknown_backend_is_an_error_of_its_caller(workers):
    """Nothing of the call counts; the next one does."""
    one = workers().new()
    with pytest.raises(KeyError, match="nowhere"):
        one.apply(Request(1, lane(1)), Request(2, lane(2, "nowhere")), now=0.0)
    assert one.apply(now=0.0).news == ()
    assert tickets(one.apply(Configure(Backend("x", 1)), Request(2, lane(2, "x")), now=0.0)) == [2]


@pytest.mark.parametrize("field", ["order", "urgent_s", "lost_s"])
def test_a_key_needs_numbers(workers, field):
    """What is none has no place in an order."""
    one = workers().new()
    with pytest.raises(ValueError, match="a number that is none"):
        one.apply(Request(1, lane(1), Key()._replace(**{field: math.nan})), now=0.0)
    assert tickets(one.apply(Request(1, lane(1)), now=0.0)) == [1]


def test_numbers_of_a_policy_may_be_those_of_numpy(workers):
    """They are numbers of Python for the ledger; what is no number at all is an error of its caller, once."""
    one = workers().new()
    key = Key(
        0, np.float32(0.1), Explore(Said(np.float32(1), np.int64(2), {"s": np.float64(3)}), 0, 0, 0, 0, 1)
    )
    assert tickets(one.apply(Request(1, lane(1), key), now=0.0)) == [1]
    with pytest.raises(TypeError):
        one.apply(Request("x", lane(1)), Request(object(), lane(1)), now=0.0)
    assert one.apply(now=0.0).news == ()


@pytest.mark.parametrize(
    "url", ["host:6379", "http://host", "redis://[", "", "redis://host/assistants", "redis://host/0?tls=yes"]
)
def test_a_url_that_is_none(url):
    with pytest.raises(ConfigurationError, match="no URL of Redis"):
        LedgerClient(url, "n", Shared(UNBOUNDED, None, NO_TENANTS), [])


def test_a_ledger_needs_a_name():
    """An empty hash tag would be none."""
    with pytest.raises(ConfigurationError, match="name that is not empty"):
        LedgerClient("redis://host", "", Shared(UNBOUNDED, None, NO_TENANTS), [])


@pytest.mark.parametrize("lease_s", [0.0, -1.0, math.nan, "5"])
def test_a_lease_has_a_length(lease_s):
    with pytest.raises(ConfigurationError, match="positive number of seconds"):
        LedgerClient("redis://host", "n", Shared(UNBOUNDED, None, NO_TENANTS), [], lease_s=lease_s)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://me:secret@host:6379/3", "redis://me:***@host:6379/3"),
        ("rediss://:secret@host", "rediss://:***@host"),
        ("redis://host/0?password=secret", "redis://host/0"),
        ("redis://me:se@cret@host", "redis://me:***@host"),
        ("redis://me@host", "redis://me@host"),
        ("redis://", "redis://"),
        ("redis://?password=secret", "redis://"),
        ("redis://me:sec/ret@host", "redis://***"),
        ("redis://me:se@cr#et@host", "redis://***"),
        ("redis://host/0?password=se@cret", "redis://***"),
    ],
)
def test_passwords_are_not_shown(url, expected):
    assert shown(url) == expected


# -- names ---------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ("{", "}", "{}", "}{", ":", "1:0:", "\0", "\n", '"', "\\", "ü", "\ud800", "0" * 16, "#", "*")
    ),
)


@settings(database=None, deadline=None, max_examples=60)
@given(
    scheduler=TEXTS.filter(lambda own: own and own.isprintable()),
    names=st.lists(TEXTS.filter(bool), min_size=2, max_size=3, unique=True),
    tenants=st.lists(TEXTS, min_size=1, max_size=4),
    stages=st.lists(TEXTS, min_size=1, max_size=3),
)
def test_names_are_nothing_but_names(scheduler, names, tenants, stages):
    """Whatever is in them: all keys are of one slot of a cluster, and every name comes back as it was."""
    limits = Tenants({own: Tenant(2.0, max_slots=1) for own in tenants[:2]})
    shared = Shared(Overdue(0.0, 1), None, limits)
    client = LedgerClient(server_url(), scheduler, shared, [Backend(name, 1) for name in names], lease_s=1e9)
    asked = {}
    with closing(redis.Redis.from_url(server_url())) as server:
        server.flushall()
        number = 0
        for name in names:
            for tenant in tenants:
                for stage in stages:
                    number += 1
                    at = (name, number, StageOccurrence(stage, 1))
                    client.apply(Request(number, at, Key(0, 0.0, None, tenant)), now=0.0)
                    asked[number] = at, tenant
        client.check()
        assert len({key_slot(key) for key in server.scan_iter()}) == 1
        seen = client.snapshot()
        assert list(seen.backends) == names
        assert {
            ticket: (own.lane, seen.tenants[of, ticket]) for (of, ticket), own in seen.waiting.items()
        } == {ticket: own for ticket, own in asked.items() if (client.worker, ticket) in seen.waiting}
        while holding := list(client.snapshot().of(client.worker).holding):
            client.apply(*map(Release, holding), now=1.0)
            client.check()
        assert not client.snapshot().waiting
    client.close()


# -- the check -----------------------------------------------------------------------------


def packed(server, client, kind, field):
    """A script that changes a stored value; `v` is the value."""
    return lambda lua: server.eval(
        "local v = cmsgpack.unpack(redis.call('HGET', KEYS[1], ARGV[1])) "
        + lua
        + " redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(v))",
        1,
        client.prefix + kind,
        field,
    )


def remove_all(kind):
    def spoil(server, client):
        found = [key for key in keys(server, client) if key.startswith((client.prefix + kind).encode())]
        assert found
        server.delete(*found)

    return spoil


def change(kind, field, lua):
    return lambda server, client: packed(server, client, kind, field)(lua)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_all("ranks:"), "a lane that waits is in no line"),
        (remove_all("coming:"), "a lane that waits would never be urgent"),
        (remove_all("due:"), "a lane that waits would never be overdue"),
        (remove_all("turns:"), "a line waits and takes no turns"),
        (remove_all("queue:"), "a waiting ticket is in no queue"),
        (remove_all("lanes"), "lanes and tickets differ"),
        (remove_all("lines"), "a line has no turn"),
        (remove_all("levels:"), "a level is not found"),
        (remove_all("leases"), "leases"),
        (remove_all("held by:"), "a worker's tickets"),
        (change("backends", "1", "v.holding = 2"), "holding"),
        (change("backends", "1", "v.waiting = 1"), "waiting"),
        (change("backends", "1", "v.granted = 9"), "a slot was lost"),
        (change("backends", "1", "v.limit = 5"), "a slot is free"),
        (change("counts", "lines 1", "v = 7"), "the number of lines is wrong"),
        (change("lines", "1:0:t", "v.lanes = 7"), "a line is counted wrongly"),
        (change("levels", "1:0", "v.lines = 7"), "a level is counted wrongly"),
        (change("lines", "1:0:t", "v.virtual_s = 7"), "a line waits and takes no turns"),
    ],
)
def test_check_finds_what_differs(workers, server, spoil, message):
    """What is stored twice must agree."""
    one = workers(Backend("b", 1), overdue=Overdue(9.0, 1)).new(lease_s=100.0)
    for ticket, tenant in enumerate("tut"):
        one.apply(Request(ticket, lane(ticket), Key(0, 0.0, None, tenant, 5.0, 99.0)), now=0.0)
    one.check()
    spoil(server, one)
    with pytest.raises(AssertionError, match=message):
        one.check()
