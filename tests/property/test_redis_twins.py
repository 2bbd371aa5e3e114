"""The memory ledger and the Redis one, step by step: each grant, each wake and each number is the same."""

from __future__ import annotations

import pytest
from support.twins import Engine, Limited, Twins


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1_000, 1_006))
def test_the_same_happens_to_both(seed):
    """Whatever is done, by several workers, of which some lose their leases."""
    counts = Twins(seed).walk(150)
    assert counts["steps"] == 150
    assert counts["Request"] > 50


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [3, 11, 15])
def test_the_same_limits_are_found(seed):
    """By each success, refusal and comparison of two limits."""
    counts = Engine(seed).walk(400)
    assert counts["other limits"] > 3


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 4])
def test_the_same_calls_are_held_back(seed):
    """By windows, reserves and what a provider said."""
    counts = Limited(seed).walk(300)
    assert counts["waits for time"] > 50
