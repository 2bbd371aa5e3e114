"""`llmsched doctor`: what it says of a server and a ledger, and that it leaves both alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import pytest
from support.redis_home import new_name, server_url
from support.seam import until

from llmsched_langgraph import Backend
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.tenants import NO_TENANTS
from llmsched_langgraph._ledger.values import Configure, Release, Request
from llmsched_langgraph._runtime.shared import doctor
from llmsched_langgraph.cli.main import main

redis = pytest.importorskip("redis")


@pytest.fixture
def name():
    return new_name()


@pytest.fixture
def server():
    """Commands to the server; its settings and users are afterwards what they were."""
    with closing(redis.Redis.from_url(server_url(), decode_responses=True)) as server:
        before = {key: server.config_get(key)[key] for key in ("maxmemory", "maxmemory-policy")}
        yield server
        for key, value in before.items():
            server.config_set(key, value)
        server.acl_deluser("limited")


@pytest.fixture
def worker(name):
    """Makes workers of the ledger, of two slots; each asks for so many."""
    made = []

    def make(called, asks=0, **settings):
        shared = Shared(UNBOUNDED, None, NO_TENANTS)
        client = LedgerClient(server_url(), name, shared, [Backend("b", 2)], worker=called, **settings)
        made.append(client)
        requests = [Request(n, ("b", n, StageOccurrence("s", 1))) for n in range(1, asks + 1)]
        client.apply(*requests)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def told(capsys, name):
    """Runs the command on the ledger; returns its status and its lines: (level, check, text)."""

    def tell(*arguments, url=None):
        status = main(["doctor", "--url", url or server_url(), "--name", name, *arguments])
        out, err = capsys.readouterr()
        assert err == ""
        assert "secret" not in out
        return status, [tuple(line.split(maxsplit=2)) for line in out.splitlines()]

    return tell


@contextmanager
def user(server, *rules):
    """The URL of a user with a password that may do what these rules leave."""
    server.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", "~*", "&*", "+@all", *rules)
    yield server_url().replace("unix://", "unix://limited:secret@")


def of(lines, check):
    """The level and the text of the only line of a check."""
    ((level, _, text),) = [line for line in lines if line[1] == check]
    return level, text


# -- all is well ----------------------------------------------------------------------------


def test_all_is_well(told, worker):
    """A line for each check and each worker; the numbers are those of all workers."""
    worker("one", asks=2)
    worker("other", asks=1)
    status, lines = told()
    assert status == 0
    checks = ["server", "eviction", "clock", "scripts", "ledger", "worker", "worker", "backend", "slots"]
    assert [line[:2] for line in lines] == [("ok", check) for check in checks]
    one, other = [text for _, check, text in lines if check == "worker"]
    assert one.startswith("'one' holds 2, 0 wait; its lease has ")
    assert other.startswith("'other' holds 0, 1 wait; its lease has ")
    assert of(lines, "backend")[1] == "'b' has 2 slots, 2 held, 1 waiting, no pause"
    assert "cure" not in "".join(text for _, _, text in lines)


def test_json_has_the_same_facts(capsys, name, worker):
    worker("one", asks=3)
    assert main(["doctor", "--url", server_url(), "--name", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (own,) = found.pop("workers")
    assert 0.0 < own.pop("lease_left_s") <= 5.0
    assert own == {"name": "one", "held": 2, "waiting": 1}
    assert found.pop("backends") == [{"name": "b", "slots": 2, "held": 2, "waiting": 1, "paused_s": 0.0}]
    assert abs(found.pop("clock_ahead_s")) < 1.0
    assert found.pop("server")["kind"] in ("Valkey", "Redis")
    assert {check["level"] for check in found.pop("checks")} == {"ok"}
    assert found == {
        "url": server_url().replace("unix://", "unix:"),
        "name": name,
        "level": "ok",
        "eviction": "noeviction",
        "format": 1,
        "ledger": True,
        "broken": None,
    }


def test_a_quick_look(told, worker, server):
    """It reads nothing that grows with the calls that wait, and says less."""
    client = worker("one", asks=9)
    told("--quick")  # the server learns the script
    server.config_resetstat()
    status, lines = told("--quick")
    assert status == 0
    assert [line[1] for line in lines][-3:] == ["ledger", "worker", "backend"]
    assert of(lines, "worker")[1].startswith("'one': its lease has ")
    assert of(lines, "backend") == ("ok", "'b' has 2 slots, 2 held, 7 waiting, no pause")
    assert server.info("commandstats")["cmdstat_hgetall"]["calls"] == 4
    assert "cmdstat_zrange" not in server.info("commandstats")
    server.delete(f"{client.prefix}tickets")
    assert told("--quick")[0] == 0
    assert told()[0] == 1


def test_nothing_is_changed(told, worker, server):
    """No key of the server differs, and nobody is registered; a ledger that is not there is not made."""
    client = worker("one", asks=3)

    def keys():
        return {key: server.execute_command("DUMP", key, NEVER_DECODE=True) for key in server.scan_iter()}

    before = keys()
    assert len(before) > 5
    told()
    told("--quick")
    assert keys() == before
    assert client.apply().workers == 1
    client.close()
    before = keys()
    told("--name", "nobody's")
    assert keys() == before


def test_there_is_no_ledger_yet(told):
    """As before the first call of the first worker: a warning, for the name may be wrong."""
    status, lines = told("--name", "nobody's")
    level, text = of(lines, "ledger")
    assert (status, level) == (0, "warning")
    assert '"nobody\'s" (format 1)' in text
    assert "Scheduler(name=...)" in text


def test_all_workers_have_left(told, worker):
    worker("one", asks=1).close()
    status, lines = told()
    assert (status, of(lines, "workers")) == (0, ("ok", "no worker has a lease"))
    assert of(lines, "backend") == ("ok", "'b' has 2 slots, 0 held, 0 waiting, no pause")


def test_the_url_of_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("LLMSCHED_URL", server_url())
    assert main(["doctor"]) == 0
    assert "'default'" in capsys.readouterr().out


# -- the ledger -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["leases", "backends", "held by:1", "tickets"])
def test_a_damaged_ledger(told, worker, server, name, kind):
    """Somebody deleted a key: an error, that says what to do."""
    client = worker("one", asks=3)
    assert told()[0] == 0
    assert server.delete(f"{client.prefix}{kind}") == 1
    status, lines = told()
    level, text = of(lines, "slots")
    assert (status, level) == (1, "error")
    assert f"cure: stop its workers, delete the keys {client.prefix}*" in text


def test_a_lease_that_has_ended(told, worker):
    """As long as no other worker calls, what it held is held."""
    worker("one", asks=1, lease_s=0.01)
    until(lambda: of(told()[1], "worker")[0] == "warning")
    status, lines = told()
    assert status == 0
    assert of(lines, "worker")[1].startswith("'one' holds 1, 0 wait; its lease ended ")


def test_a_lease_of_nothing_that_has_ended(told, worker):
    """Workers that neither hold nor wait do not renew their leases: that is no cause for a warning."""
    worker("one", lease_s=0.01)
    until(lambda: "its lease ended " in of(told()[1], "worker")[1])
    status, lines = told()
    assert (status, of(lines, "worker")[0]) == (0, "ok")


def test_a_pause(told, worker):
    worker("one", asks=1).apply(Release(1, failure=Failure(429, 30.0)))
    status, lines = told()
    level, text = of(lines, "backend")
    assert (status, level) == (0, "warning")
    assert text.startswith("'b' has 2 slots, 0 held, 0 waiting; paused for ")
    assert "because it refused calls; cure: none is needed" in text


def test_more_held_than_there_are_slots(told, worker):
    worker("one", asks=2).apply(Configure(Backend("b", 1)))
    status, lines = told()
    level, text = of(lines, "backend")
    assert (status, level) == (0, "warning")
    assert text.startswith("'b' has 1 slots, 2 held, 0 waiting: more than there are")


def test_a_clock_that_was_set_back(told, worker):
    """The ledger's never goes back: leases stand still until the server's has caught up."""
    worker("one", asks=1).apply(now=time.time() + 1000.0)
    status, lines = told()
    assert status == 0
    assert any(level == "warning" and "was set back" in text for level, _, text in lines)
    assert "its lease has 5.0 s left" in of(lines, "worker")[1]


def test_an_optimized_python_does_not_check(worker, name):
    """Without assertions nothing would be found: it says so."""
    worker("one")
    command = [sys.executable, "-O", "-m", "llmsched_langgraph", "doctor", "--json", "--name", name]
    done = subprocess.run([*command, "--url", server_url()], capture_output=True, text=True, check=True)
    (slots,) = [one for one in json.loads(done.stdout)["checks"] if one["check"] == "slots"]
    assert (slots["level"], slots["text"]) == ("warning", "not checked: Python runs with -O")


# -- the server -----------------------------------------------------------------------------


def test_an_unreachable_server(told):
    status, lines = told(url="redis://user:secret@127.0.0.1:1/0")
    level, text = of(lines, "server")
    assert (status, len(lines), level) == (1, 1, "error")
    assert "redis://user:***@127.0.0.1:1/0: ConnectionError" in text
    assert "cure: see that the server runs" in text


def test_a_wrong_password(told, server):
    with user(server) as url:
        status, lines = told(url=url.replace("secret", "other-secret"))
    level, text = of(lines, "server")
    assert (status, level) == (1, "error")
    assert "AuthenticationError" in text


@pytest.mark.parametrize(
    ("policy", "maxmemory", "level", "status"),
    [
        ("allkeys-lru", "1gb", "error", 1),
        ("allkeys-random", "0", "warning", 0),
        ("volatile-lru", "1gb", "ok", 0),
        ("noeviction", "1gb", "ok", 0),
    ],
)
def test_eviction(told, server, policy, maxmemory, level, status):
    """A server that removes keys of its own accord loses slots; keys of the ledger never expire."""
    server.config_set("maxmemory", maxmemory)
    server.config_set("maxmemory-policy", policy)
    found, lines = told()
    shown, text = of(lines, "eviction")
    assert (found, shown) == (status, level)
    assert f"maxmemory-policy is {policy}" in text
    assert ("cure: CONFIG SET maxmemory-policy noeviction" in text) is (level != "ok")


def test_a_full_server(told, server):
    server.config_set("maxmemory", int(server.info("memory")["used_memory"] * 1.02))
    status, lines = told()
    level, text = of(lines, "memory")
    assert (status, level) == (0, "warning")
    assert "of maxmemory is used" in text


def test_a_user_that_may_run_no_script(told, server):
    with user(server, "-@scripting") as url:
        status, lines = told(url=url)
    level, text = of(lines, "scripts")
    assert (status, level) == (1, "error")
    assert "cure: let its user run EVAL and EVALSHA" in text


def test_a_user_that_may_not_ask_what_the_server_is(told, server):
    """The rest is checked all the same."""
    with user(server, "-info") as url:
        status, lines = told(url=url)
    level, text = of(lines, "server")
    assert (status, level) == (0, "warning")
    assert "cure: let its user run INFO" in text
    assert of(lines, "scripts")[0] == "ok"


@pytest.mark.parametrize(
    ("told_of_itself", "level", "words"),
    [
        ({"redis_version": "7.0.15"}, "ok", "Redis 7.0.15 at "),
        ({"redis_version": "6.2.14"}, "error", "cure: use Redis 7 or newer"),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.0"}, "ok", "Valkey 8.1.0 at "),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.9"}, "error", "cure: use Valkey 8 or newer"),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.30"}, "warning", "Dragonfly df-v1.30 at "),
        ({}, "warning", "which is not tested"),
    ],
)
def test_kinds_of_servers(told, monkeypatch, told_of_itself, level, words):
    ask = LedgerClient.ask
    monkeypatch.setattr(
        LedgerClient, "ask", lambda client, what: told_of_itself if what == "INFO" else ask(client, what)
    )
    status, lines = told()
    shown, text = of(lines, "server")
    assert (status, shown) == (int(level == "error"), level)
    assert words in text
    assert of(lines, "eviction")[0] == "warning"


def test_a_replica(told, monkeypatch):
    ask = LedgerClient.ask

    def answer(client, what):
        return ask(client, what) | {"role": "slave"} if what == "INFO" else ask(client, what)

    monkeypatch.setattr(LedgerClient, "ask", answer)
    status, lines = told()
    assert status == 1
    assert ("error", "server") in [line[:2] for line in lines]
    assert any("use the URL of its primary" in text for _, _, text in lines)


@pytest.mark.parametrize(("by_s", "words"), [(-60.0, "ahead of"), (60.0, "behind")])
def test_clocks_that_differ(name, by_s, words):
    """This machine's clock is a minute behind the server's, or ahead of it."""
    found = doctor.examined(server_url(), name, clock=lambda: time.time() + by_s)
    level, text = next((one.level, one.text) for one in found.findings if one.check == "clock")
    assert level == "warning"
    assert f"{words} this machine's" in text
    assert found.facts["clock_ahead_s"] == pytest.approx(-by_s, abs=5.0)


# -- usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the server by --url URL, or by LLMSCHED_URL"),
        (["--url", "http://host"], "is no URL of Redis"),
        (["--url", "redis://user:sec/ret@host"], "redis://*** is no URL of Redis"),
        (["--url", "redis://host", "--name", ""], "a name that is not empty"),
    ],
)
def test_bad_usage(refuses, monkeypatch, arguments, words):
    monkeypatch.delenv("LLMSCHED_URL", raising=False)
    refuses(["doctor", *arguments], words)
