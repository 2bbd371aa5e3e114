"""Graphs as users write them, each with what a compiler must find in it and what its runs come to."""

from __future__ import annotations

from typing import Any

import pytest

from graphs import (
    agent_middleware,
    agent_structured,
    agents,
    assistants,
    circles,
    deep_research,
    desks,
    fan_outs,
    nested,
    planners,
    react,
    researching,
    teams,
    unusual,
    workflows,
)
from graphs.fixture import Fixture

MODULES = (
    agents,
    agent_middleware,
    agent_structured,
    react,
    teams,
    workflows,
    fan_outs,
    planners,
    circles,
    nested,
    unusual,
    deep_research,
    researching,
    assistants,
    desks,
)
FIXTURES: tuple[Fixture, ...] = tuple(fixture for module in MODULES for fixture in module.FIXTURES)
BY_NAME = {fixture.name: fixture for fixture in FIXTURES}
assert len(BY_NAME) == len(FIXTURES)


def _marks(fixture: Fixture) -> list[Any]:
    warning = fixture.ignored_warning
    return [] if warning is None else [pytest.mark.filterwarnings(warning)]


# For `pytest.mark.parametrize`: each fixture, and each of its runs.
EACH = [pytest.param(fixture, id=fixture.name, marks=_marks(fixture)) for fixture in FIXTURES]
EACH_RUN = [
    pytest.param(fixture, run, id=f"{fixture.name}-{run.name}", marks=_marks(fixture))
    for fixture in FIXTURES
    for run in fixture.runs
]
