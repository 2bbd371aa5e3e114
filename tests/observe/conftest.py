"""What the tests of traces and metrics share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.observed import Exports


@pytest.fixture
def exports():
    """Providers and a registry that keep what they get."""
    made = Exports()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


@pytest.fixture
def spawn():
    """Runs functions in threads of their own; returns their futures."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit
