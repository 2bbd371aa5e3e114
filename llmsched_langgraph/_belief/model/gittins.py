"""Knows the least expected work for each chance to end, if one may stop at the end of any stage.

Does not know where the futures come from that it is computed over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
"""Times that the stopping rule is improved, at most; two or three are enough nearly always."""

SLACK = 1e-6
"""An improvement that is a smaller part than this is none."""


def index(amounts: NDArray[np.float64], states: NDArray[np.intp]) -> float:
    """The Gittins index: min over stopping rules of E[work until stop] / P(the job has ended by then).

    A rule may stop at the end of each stage, and sees in which state that stage ended: so an index is low
    where a little work decides that little is left. It may not see more: what earlier stages were is
    taken to be told by the latest. Found by Dinkelbach's iteration on backward induction, as in Aalto and
    Scully ("On the Gittins index for multistage jobs", 2022), here over drawn futures.

    Args:
        amounts: work of each stage still to come, in their order, in each future: shape (stages, futures).
        states: in which state it ends, 0 for one that does not happen: the same shape.

    Returns:
        The index, in the unit of the amounts; it is never more than the mean of their sums.
    """
    total = amounts.sum(axis=0)
    if not amounts.size or not total.any():
        return 0.0
    stages = amounts.shape[0]
    later = np.cumsum((amounts > 0.0)[::-1], axis=0)[::-1]
    ends = (amounts > 0.0) & (later == 1)  # the last stage with work
    groups = states.max(axis=1) + 1
    reward = float(total.mean())
    for _ in range(ROUNDS):
        value, work, ended = (np.zeros_like(total) for _ in range(3))
        for j in range(stages - 1, -1, -1):
            value = value - amounts[j] + reward * ends[j]
            work = work + amounts[j]
            ended = ended + ends[j]
            if j:
                # Go on, after the stage before, only in those of its states in which that pays.
                before = states[j - 1]
                gains = np.bincount(before, weights=value, minlength=int(groups[j - 1]))
                go = (gains > 0.0)[before]
                value, work, ended = value * go, work * go, ended * go
        chance = float(ended.mean())
        reached = float(work.mean()) / chance if chance > 0.0 else reward
        if reached >= reward * (1.0 - SLACK):
            break
        reward = reached
    return reward
