"""The memory ledger beside a model that could not be simpler: all operations, pauses and time included."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from support.conformance import Home, walk

from llmsched_langgraph._ledger.memory import MemoryLedger
from llmsched_langgraph._ledger.overdue import UNBOUNDED
from llmsched_langgraph._ledger.tenants import NO_TENANTS

# Only a failure takes long: Hypothesis may look for a simpler one for five minutes.
pytestmark = pytest.mark.timeout(400)


class Memory(Home):
    def make(self, backends, exploration=None, overdue=UNBOUNDED, tenants=NO_TENANTS):
        return MemoryLedger(backends, exploration, overdue=overdue, tenants=tenants)


TestMemory = walk(Memory()).TestCase
TestMemory.settings = settings(
    deadline=None,
    database=None,
    max_examples=150,
    stateful_step_count=50,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
