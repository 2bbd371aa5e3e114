"""Computes the Gittins index of a multistage job from samples of its remaining work.

Does not draw the samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
"""Maximum number of Dinkelbach iterations; two or three usually suffice."""

SLACK = 1e-6
"""Relative improvement below which the iteration stops."""


def index(amounts: NDArray[np.float64], states: NDArray[np.intp]) -> float:
    """Return the Gittins index of a job.

    It is the minimum over stopping rules of E[work until the stop] / P(the job has ended by then). A rule
    may stop after each stage. It observes the state in which that stage ended, but no earlier state (a Markov
    assumption). Dinkelbach's iteration with backward induction finds the minimum, as in Aalto and Scully
    ("On the Gittins index for multistage jobs", 2022), but on samples.

    Args:
        amounts: work of each remaining stage, in order, in each sample: shape (stages, samples).
        states: state in which the stage ends, 0 for absent: the same shape.

    Returns:
        The index, in the unit of the amounts: at most the mean total amount.
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
                # After the previous stage, continue only in states with a positive expected gain.
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
