"""Every scheduler that a test makes must end with nothing held and nothing waiting."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from llmsched_langgraph import Scheduler, reset_default_scheduler
from llmsched_langgraph._runtime import default
from llmsched_langgraph.testing import assert_idle

pytest.register_assert_rewrite("support.conformance")  # assertions of the suite say what differed

# No example has a time limit: the machine may be busy with other tests.
settings.register_profile("busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session", autouse=True)
def quick_collections() -> Iterator[None]:
    """Each scheduler's check collects garbage; what was imported need not be looked through every time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def make_scheduler() -> Iterator[Callable[..., Scheduler]]:
    """Makes schedulers; at the end of the test each must be empty and sound."""
    made: list[Scheduler] = []

    def make(*args: object, **kwargs: object) -> Scheduler:
        made.append(Scheduler(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for scheduler in made:
        assert_idle(scheduler)


@pytest.fixture(autouse=True)
def fresh_default_scheduler() -> Iterator[None]:
    """Gives each test its own process-wide scheduler, and checks it like any other."""
    reset_default_scheduler()
    yield
    scheduler = default._default
    reset_default_scheduler()
    if scheduler is not None:
        assert_idle(scheduler)
