"""Forgetting: when the latest jobs are of another kind than those before."""

from __future__ import annotations

import random

from llmsched_langgraph._belief.fit.drift import RECENT, drifted


def test_jobs_of_one_kind_do_not_drift():
    """Not in ten thousand looks."""
    deal = random.Random(0)
    works = [deal.lognormvariate(2.0, 1.0) for _ in range(2 * RECENT)]
    for _ in range(10_000):
        works.append(deal.lognormvariate(2.0, 1.0))
        assert not drifted(works[-200:])


def test_a_change_is_noticed_within_the_latest_jobs():
    """Up or down, if it is by more than jobs differ among each other."""
    deal = random.Random(1)
    before = [deal.lognormvariate(2.0, 0.5) for _ in range(300)]
    for shift in (1.0, -1.0):
        after = [deal.lognormvariate(2.0 + shift, 0.5) for _ in range(RECENT)]
        assert drifted(before + after)
        assert not drifted(before + after[:3])


def test_what_changes_no_order_is_no_drift():
    """However sure it is: a tenth more work, or a thousandth of a second that has become two."""
    deal = random.Random(2)
    before = [deal.lognormvariate(2.0, 0.02) for _ in range(900)]
    assert not drifted(before + [1.1 * x for x in before[:RECENT]])
    assert drifted(before + [1.3 * x for x in before[:RECENT]])
    assert not drifted([x / 10_000 for x in before] + [x / 5_000 for x in before[:RECENT]])


def test_there_must_be_something_to_compare_with():
    """A few jobs are no past."""
    assert not drifted([1.0] * (RECENT - 1) + [100.0] * RECENT)
    assert drifted([1.0 + n / 1000 for n in range(RECENT)] + [100.0] * RECENT)


def test_equal_amounts_are_no_drift():
    """Ties are ties, however many."""
    assert not drifted([5.0] * 500)
    assert not drifted([1.0, 2.0] * 250)
