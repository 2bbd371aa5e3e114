"""Knows the sum of some variables' amounts, given what is known of the others: its mean and its spread.

Does not know which amounts they are, nor why they are summed.

The mean is linear, so it needs no independence: E[sum | E] = sum_i P(i present | E) E[amount_i | i
present, E], LLMSched's remaining work. The spread needs the joint posterior, and takes draws from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_langgraph.belief.bins import Bins
from llmsched_langgraph.belief.network import Network

DRAWS = 512
"""Draws that quantiles are read from: at the 10 % quantile, a standard error of 1.3 percent points."""

MAX_FACTOR = 4.0
"""The most that the places of values in their bins may change a mean."""

LEAST = 1e-9
"""Stands for zero where a logarithm is taken."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the variables, by number.

    Attributes:
        values: amounts that are settled; None is absent.
        reached: amounts that have come so far and go on. In a sum, only what is still to come counts.
        likelihoods: anything else, as weights over states (`Bins.present()`, for one).
    """

    values: Mapping[int, float | None] = field(default_factory=dict)
    reached: Mapping[int, float] = field(default_factory=dict)
    likelihoods: Mapping[int, ArrayLike] = field(default_factory=dict)


def evidence(bins: Sequence[Bins], known: Known) -> dict[int, NDArray[np.float64]]:
    """The likelihoods for `Network` that say what is known."""
    made = {i: np.asarray(weights, dtype=np.float64) for i, weights in known.likelihoods.items()}
    made |= {i: bins[i].at_least(amount).weights for i, amount in known.reached.items()}
    made |= {i: np.eye(bins[i].states)[bins[i].index(value)] for i, value in known.values.items()}
    return made


def mean(network: Network, bins: Sequence[Bins], of: Sequence[int], known: Known) -> float:
    """E[sum of the amounts of the variables `of` | known], exact under the network, with interpolation.

    A settled value says more than its bin: where it lies between its bin's mean and the next one's, so
    far the mean is moved, on a log scale, from what its bin predicts towards what the other would. That
    costs one more inference for each settled variable that is adjacent to an unsettled one.

    Raises:
        InvalidDataError: as `Network.marginals`.
    """
    base, factor = _mean(network, bins, of, known)
    return base * factor


def quantiles(
    network: Network,
    bins: Sequence[Bins],
    of: Sequence[int],
    known: Known,
    levels: Sequence[float] = (0.1, 0.9),
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, ...]:
    """Quantiles of the sum, read from draws of the joint posterior and of each bin's own content.

    They are moved by the same factor as the mean. The same arguments give the same quantiles. Errors as
    in `mean`.
    """
    _, factor = _mean(network, bins, of, known)
    states = network.sample(draws, evidence(bins, known), seed=seed)
    uniform = np.random.default_rng((seed, draws)).random((len(of), draws))
    total = np.zeros(draws)
    for own, i in zip(uniform, of, strict=True):
        amount = known.reached.get(i)
        if amount is None:
            total += bins[i].values(states[:, i], own)
        else:
            total += bins[i].left(amount, states[:, i], own)
    return tuple(float(q) * factor for q in np.quantile(total, levels))


def _mean(network: Network, bins: Sequence[Bins], of: Sequence[int], known: Known) -> tuple[float, float]:
    """The mean by bins alone, and the factor by which the values' places in their bins move it."""
    likelihoods = evidence(bins, known)
    unsettled = set(range(len(network))) - set(known.values)
    amounts = {i: _amounts(bins[i], known.reached.get(i)) for i in of}

    def under(given: Mapping[int, ArrayLike]) -> float:
        posterior = network.marginals(given)
        return sum(float(posterior[i] @ amounts[i]) for i in of)

    base = under(likelihoods)
    if not base > LEAST:
        return base, 1.0
    shift = 0.0
    for i, value in sorted(known.values.items()):
        place = bins[i].place(value)
        if place is None or not _adjacent(network, i, unsettled):
            continue
        other, share = place
        moved = under({**likelihoods, i: np.eye(bins[i].states)[other]})
        shift += share * log(max(moved, LEAST) / base)
    return base, exp(min(max(shift, -log(MAX_FACTOR)), log(MAX_FACTOR)))


def _amounts(bins: Bins, reached: float | None) -> NDArray[np.float64]:
    return bins.means if reached is None else bins.at_least(reached).left


def _adjacent(network: Network, i: int, others: set[int]) -> bool:
    return bool(others & set(network.parents[i])) or any(i in network.parents[w] for w in others)
