"""What the tests of the seam share: one backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmsched_langgraph.lab.serve_sim.server import RunningBackend, SimulatedBackend, running_backend


@pytest.fixture(scope="session")
def backend() -> Iterator[RunningBackend]:
    """A backend with more slots than any test has: what limits its calls must be the scheduler."""
    with running_backend(SimulatedBackend(slots=64, time_scale=20.0)) as running:
        yield running
