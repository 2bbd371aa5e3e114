"""`llmsched metrics`: what it serves of a shared ledger, and what it does when the server goes away."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.redis_home import new_name, server_url
from support.seam import until

from llmsched_langgraph import Backend, Tenant
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph._ledger.values import Configure, Key, Release, Request
from llmsched_langgraph._observe.metrics import SHARED_METRICS
from llmsched_langgraph._runtime.shared.exporter import LedgerCollector

pytest.importorskip("redis")
pytest.importorskip("prometheus_client")
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def name():
    return new_name()


def worker(name, tenants=NO_TENANTS, **settings):
    return LedgerClient(server_url(), name, Shared(UNBOUNDED, None, tenants), [Backend("b", 2)], **settings)


def asked(ticket, backend="b", tenant=""):
    return Request(ticket, (backend, ticket, StageOccurrence("s", 1)), Key(tenant=tenant))


def families(text):
    return {
        sample.name: [
            (dict(other.labels), other.value)
            for family in text_string_to_metric_families(text)
            for other in family.samples
            if other.name == sample.name
        ]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@contextmanager
def collecting(url, name, *, quick=False):
    """Scrapes of the collector, and the lines that it tells."""
    told, registry = [], CollectorRegistry()
    registry.register(LedgerCollector(url, name, quick=quick, tell=told.append))
    yield (lambda: families(generate_latest(registry).decode())), told


def value(found, name, **labels):
    (only,) = [value for own, value in found[name] if labels.items() <= own.items()]
    return only


# -- what is told of a ledger --------------------------------------------------------------


def test_slots_calls_and_workers(name):
    """Of all workers, by backend and by tenant."""
    one = worker(name, Tenants({"gold": Tenant(3.0)}))
    one.apply(asked(1, tenant="gold"), asked(2, tenant="gold"), asked(3, tenant="gold"))
    one.apply(asked(4))
    with collecting(server_url(), name) as (scrape, told):
        found = scrape()
        assert value(found, "llmsched_up") == 1
        assert value(found, "llmsched_shared_slots_limit", backend="b") == 2
        assert value(found, "llmsched_shared_slots_in_use", backend="b") == 2
        assert value(found, "llmsched_shared_queue_depth", backend="b") == 2
        assert value(found, "llmsched_shared_grants_total", backend="b") == 2
        assert value(found, "llmsched_shared_tenant_slots_in_use", tenant="gold") == 2
        assert value(found, "llmsched_shared_tenant_queue_depth", tenant="gold") == 1
        assert value(found, "llmsched_shared_tenant_queue_depth", tenant="") == 1
        assert value(found, "llmsched_shared_workers", lease="running") == 1
        assert value(found, "llmsched_shared_workers", lease="ended") == 0
        assert {own["ledger"] for series in found.values() for own, _ in series} == {name}
        one.apply(Release(1, failure=Failure(429, 60.0)))
        found = scrape()
        assert 0.0 < value(found, "llmsched_shared_pause_left_seconds") <= 60.0
        assert value(found, "llmsched_shared_paused_seconds_total") == pytest.approx(60.0, abs=1.0)
        one.close()
        assert value(scrape(), "llmsched_shared_workers", lease="running") == 0
    assert told == []


def test_quick_leaves_the_tenants_out(name):
    """The totals of the backends are the same."""
    one = worker(name)
    one.apply(asked(1, tenant="gold"), asked(2, tenant="gold"), asked(3, tenant="gold"))
    with collecting(server_url(), name, quick=True) as (scrape, _):
        found = scrape()
    assert value(found, "llmsched_shared_queue_depth") == 1
    assert value(found, "llmsched_shared_workers", lease="running") == 1
    assert not [key for key in found if "tenant" in key]
    one.close()


def test_accounts_are_one_backend(name):
    """The ledger has a backend for each; neither their hashes nor their number are told."""
    one = worker(name)
    for account in ("0123456789ab", "ba9876543210"):
        one.apply(Configure(Backend(f"b#{account}", 3)))
    with collecting(server_url(), name) as (scrape, _):
        found = scrape()
    assert found["llmsched_shared_slots_limit"] == [({"ledger": name, "backend": "b"}, 8.0)]
    one.close()


def test_no_ledger_yet(name):
    """The server answers, so it is up."""
    with collecting(server_url(), name) as (scrape, told):
        found = scrape()
    assert value(found, "llmsched_up") == 1
    assert "llmsched_shared_slots_limit" not in found
    assert told == []


def test_a_server_that_goes_away(name, tmp_path):
    """It is told of once, and once when it is back; scrapes go on."""
    path = tmp_path / "s"
    with collecting(f"unix://{path}", name) as (scrape, told):
        assert scrape() == {"llmsched_up": [({"ledger": name}, 0.0)]}
        assert scrape() == {"llmsched_up": [({"ledger": name}, 0.0)]}
        (line,) = told
        assert "llmsched_up is 0" in line
        assert "llmsched doctor" in line
        Path(path).symlink_to(server_url().removeprefix("unix://"))
        assert value(scrape(), "llmsched_up") == 1
        assert [line.split()[-2:] for line in told[1:]] == [["answers", "again"]]


def test_every_metric_is_described(name):
    """With a help and the name that it has when there is something to tell."""
    collector = LedgerCollector(server_url(), name, quick=False, tell=print)
    assert {family.name for family in collector.describe()} == {metric.exposed for metric in SHARED_METRICS}


# -- the command ---------------------------------------------------------------------------


def test_it_serves_until_an_interrupt(name):
    """On loopback, with the address in its first line; the password is not shown."""
    one = worker(name)
    one.apply(asked(1))
    command = [sys.executable, "-m", "llmsched_langgraph", "metrics", "--url", server_url()]
    with subprocess.Popen(
        [*command, "--name", name, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            killer = threading.Timer(50, process.kill)
            killer.start()
            line = process.stdout.readline()
            words = line.split()
            assert words[0] == "serving"
            assert words[1].startswith("http://127.0.0.1:")
            with urllib.request.urlopen(words[1], timeout=20) as answer:
                found = families(answer.read().decode())
            assert value(found, "llmsched_shared_slots_in_use") == 1
            process.send_signal(2)
            _, err = process.communicate(timeout=30)
        finally:
            killer.cancel()
            process.kill()
    assert (process.returncode, err) == (130, "llmsched: interrupted\n")
    one.close()


def test_wrong_arguments(refuses, monkeypatch):
    """One line each, with the cure."""
    monkeypatch.delenv("LLMSCHED_URL", raising=False)
    refuses(["metrics"], "name the server by --url URL, or by LLMSCHED_URL")
    refuses(["metrics", "--url", "http://x"], "is no URL of Redis")
    refuses(["metrics", "--url", "redis://x", "--port", "70000"], "--port must be from 0 to 65535")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refuses(["metrics", "--url", "redis://x", "--port", port], "choose another --port or --host")


def test_without_the_package(refuses, monkeypatch):
    """The error names the extra."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    refuses(
        ["metrics", "--url", "redis://x"], "needs prometheus-client, of the extra `prometheus`: pip install"
    )


def test_scrapes_at_once(name):
    """Several scrapers share one connection, one after the other."""
    one = worker(name)
    one.apply(asked(1))
    with collecting(server_url(), name) as (scrape, _):
        results = []
        threads = [threading.Thread(target=lambda: results.append(scrape())) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(results) == 4)
        for thread in threads:
            thread.join()
    assert [value(found, "llmsched_shared_slots_in_use") for found in results] == [1] * 4
    one.close()
