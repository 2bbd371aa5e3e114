"""The Redis ledger beside a model that could not be simpler: all operations, pauses and time included."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from support.conformance import walk
from support.redis_home import Redis

# Only a failure takes long: Hypothesis may look for a simpler one for five minutes.
pytestmark = pytest.mark.timeout(400)

TestRedis = walk(Redis()).TestCase
TestRedis.settings = settings(
    deadline=None,
    database=None,
    max_examples=25,
    stateful_step_count=50,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
