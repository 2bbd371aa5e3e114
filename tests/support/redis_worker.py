"""A process that takes slots of a shared ledger and gives them back; it prints when it held each.

`python -m support.redis_worker URL NAME SLOTS CALLS`. With 0 calls it takes a slot and keeps it until it is
killed.
"""

from __future__ import annotations

import sys
import time

from llmsched_langgraph import Backend
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.tenants import NO_TENANTS
from llmsched_langgraph._ledger.values import Granted, Release, Request

LEASE_S = 5.0
"""Longer than a busy machine keeps a process from its next call."""


def main():
    url, name, slots, calls = sys.argv[1:]
    shared, backends = Shared(UNBOUNDED, None, NO_TENANTS), [Backend("b", int(slots))]
    client = LedgerClient(url, name, shared, backends, lease_s=LEASE_S)
    client.apply()
    wakes = client.wakes(0.2)
    for ticket in range(max(int(calls), 1)):
        answer = client.apply(Request(ticket, ("b", ticket, StageOccurrence("s", 1))), admit=True)
        while not answer.news:
            next(wakes)
            answer = client.apply()
        (news,) = answer.news
        assert isinstance(news, Granted), news
        print(repr(news.grant.granted_s), flush=True)
        while int(calls) == 0:
            client.apply()
            time.sleep(0.1)
        time.sleep(0.01)
        print(repr(client.apply(Release(ticket)).now_s), flush=True)
    client.close()


if __name__ == "__main__":
    main()
