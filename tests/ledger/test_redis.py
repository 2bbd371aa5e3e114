"""The Redis home of the ledger: the suite of every home, and what is its own."""

from __future__ import annotations

from support.conformance import LedgerConformance
from support.redis_home import Redis


class TestRedis(Redis, LedgerConformance):
    pass
