"""The memory ledger and the Redis one, step by step: each grant, each wake and each number is the same."""

from __future__ import annotations

import pytest
from support.twins import Twins


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1_000, 1_006))
def test_the_same_happens_to_both(seed):
    """Whatever is done, by several workers, of which some lose their leases."""
    counts = Twins(seed).walk(150)
    assert counts["steps"] == 150
    assert counts["Request"] > 50
