"""The server, the loop and the models that the tests of one process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .callers import Bench, running_bench
from .table import ENVIRONMENT


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with running_bench() as running:
            yield running
