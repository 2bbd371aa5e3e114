"""Each package alone against the server: it answers, and retries what the table says."""

from __future__ import annotations

from typing import Any

import pytest

from .bare import WAYS, cells, check
from .callers import Bench
from .table import PROVIDERS, SMALL, Provider

INSTALLED = [provider for provider in PROVIDERS if provider.installed]


def _named(*cell: Any) -> Any:
    return pytest.param(*cell, id="-".join(getattr(part, "name", part) for part in cell))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider", INSTALLED, ids=[provider.name for provider in INSTALLED])
def test_each_installed_package_returns_what_the_server_said(
    bench: Bench, provider: Provider, way: str
) -> None:
    assert check(bench, provider, way, "none") == []


@pytest.mark.parametrize(
    ("provider", "way", "fault"),
    [_named(*cell) for cell in cells(SMALL) if cell[0].installed and cell[2] != "none"],
)
def test_packages_retry_what_the_table_says(bench: Bench, provider: Provider, way: str, fault: str) -> None:
    assert check(bench, provider, way, fault) == []
