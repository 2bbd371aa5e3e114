"""Each package alone against the server: what it is answered is what it returns.

`python -m tests.providers --bare` also looks at what each package retries.
"""

from __future__ import annotations

import pytest

from .bare import WAYS, check
from .callers import Bench
from .table import PROVIDERS, Provider

INSTALLED = [provider for provider in PROVIDERS if provider.installed]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages' own making
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider", INSTALLED, ids=[provider.name for provider in INSTALLED])
def test_a_package_returns_what_the_server_said(bench: Bench, provider: Provider, way: str) -> None:
    assert check(bench, provider, way, "none") == []
