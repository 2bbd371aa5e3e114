"""What the tests of the seam share: one backend, and a quick garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from llmsched_langgraph.serve_sim.server import RunningBackend, SimulatedBackend, running_backend


@pytest.fixture(scope="session", autouse=True)
def quick_collections() -> Iterator[None]:
    """Each scheduler's check collects garbage; what was imported need not be looked through every time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def backend() -> Iterator[RunningBackend]:
    """A backend with more slots than any test has: what limits its calls must be the scheduler."""
    with running_backend(SimulatedBackend(slots=64, time_scale=20.0)) as running:
        yield running
