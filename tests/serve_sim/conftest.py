from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from llmsched_langgraph.lab.serve_sim.server import RunningBackend, SimulatedBackend, running_backend

StartBackend = Callable[..., RunningBackend]


@pytest.fixture
def start_backend() -> Iterator[StartBackend]:
    """Starts backends, a thousand times faster than real unless told, and stops them after the test."""
    with ExitStack() as stack:

        def start(**settings: object) -> RunningBackend:
            config = SimulatedBackend(**{"time_scale": 1000.0, **settings})  # type: ignore[arg-type]
            return stack.enter_context(running_backend(config))

        yield start


@pytest.fixture(scope="module")
def shared_backend() -> Iterator[RunningBackend]:
    """One backend for the tests that only look at answers."""
    with running_backend(SimulatedBackend(time_scale=1e6, models=("sim-model", "other"))) as backend:
        yield backend
