"""Knows the sum of some variables' amounts, given what is known of the others: its mean and its spread.

Does not know which amounts they are, nor why they are summed.

The mean is linear, so it needs no independence: E[sum | E] = sum_i P(i present | E) E[amount_i | i
present, E], LLMSched's remaining work. The spread needs the joint posterior, and takes draws from it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import exp, log, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_langgraph._belief.model.bins import ABSENT, Bins
from llmsched_langgraph._belief.network.network import Network

DRAWS = 512
"""Draws that quantiles are read from: at the 10 % quantile, a standard error of 1.3 percent points."""

MAX_FACTOR = 4.0
"""The most that the places of values in their bins may change a mean."""

TINY = 1e-9
"""Stands for zero where a logarithm is taken."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SoftEvidence:
    """What is known of the variables, by number.

    Attributes:
        values: amounts that are settled; None is absent.
        reached: amounts that have come so far and go on. In a sum, only what is still to come counts.
        likelihoods: anything else, as weights over states (`Bins.present()`, for one).
        left: of settled amounts, what is still to come: in no sum here.
        scales: amounts that are so many times what their bins say.
    """

    values: Mapping[int, float | None] = field(default_factory=dict)
    reached: Mapping[int, float] = field(default_factory=dict)
    likelihoods: Mapping[int, ArrayLike] = field(default_factory=dict)
    left: Mapping[int, float] = field(default_factory=dict)
    scales: Mapping[int, float] = field(default_factory=dict)

    def likelihood(self, i: int, bins: Bins) -> Floats | None:
        """What is known of a variable, as weights over its states; None if nothing is."""
        if i in self.values:
            return _one_hot(bins.index(self.values[i]), bins.states)
        if i in self.reached:
            return self.at_least(i, bins)[0]
        given = self.likelihoods.get(i)
        return None if given is None else np.asarray(given, dtype=np.float64)

    def amounts(self, i: int, bins: Bins) -> Floats:
        """What is still to come of an amount that is not settled, by its state."""
        if i in self.reached:
            return self.at_least(i, bins)[1]
        return bins.means * self.scales.get(i, 1.0)

    def at_least(self, i: int, bins: Bins) -> tuple[Floats, Floats]:
        """What is known of an amount that goes on, as weights over its states, and what is still to come."""
        scale = self.scales.get(i, 1.0)
        found = bins.at_least(self.reached[i] / scale)
        return found.weights, found.left * scale

    def drawn(self, i: int, bins: Bins, states: NDArray[np.intp], uniform: Floats) -> Floats:
        """As `amounts`, as draws from the states' content: one for each state and number in [0, 1)."""
        scale = self.scales.get(i, 1.0)
        if i in self.reached:
            return bins.left(self.reached[i] / scale, states, uniform) * scale
        return bins.values(states, uniform) * scale


class Posterior:
    """The sum of the amounts of the variables `of`, given what is known.

    A settled value says more than its bin: where it lies between its bin's mean and the next one's, so
    far the mean is moved, on a log scale, from what its bin predicts towards what the other would. That
    costs one more inference for each settled variable that is adjacent to an unsettled one.

    Nothing is computed before it is asked for. Everything but the quantiles is exact under the network.
    `rounds` are variables that stand for rounds of loops, where the network knows nothing of what that means.

    Raises:
        InvalidDataError: when something is asked for: as `Network.marginals`.
    """

    def __init__(
        self,
        network: Network,
        bins: Sequence[Bins],
        of: Sequence[int],
        known: SoftEvidence,
        rounds: Sequence[int] = (),
    ) -> None:
        self._network = network
        self._bins = bins
        self._of = tuple(i for i in of if i not in known.values)
        self._known = known
        self._rounds = rounds
        self.taught: dict[int, float] = {}  # uncertainty reductions, by variable, once they were asked for
        self.index: float | None = None  # the Gittins index of the sum, likewise

    @cached_property
    def likelihoods(self) -> dict[int, Floats]:
        """What is known, for `Network`."""
        reached = self._reached
        found = (
            (i, reached[i][0] if i in reached else self._known.likelihood(i, own))
            for i, own in enumerate(self._bins)
        )
        return {i: weights for i, weights in found if weights is not None}

    @cached_property
    def _reached(self) -> dict[int, tuple[Floats, Floats]]:
        """What is known of each amount that goes on, and what is still to come of it, by state."""
        known = self._known
        return {i: known.at_least(i, self._bins[i]) for i in known.reached if i not in known.values}

    @cached_property
    def _places(self) -> list[tuple[int, tuple[int, float]]]:
        unsettled = set(range(len(self._network))) - set(self._known.values)
        return places(self._network, self._bins, self._known, unsettled) if self._of else []

    @cached_property
    def _variants(self) -> list[tuple[Floats, ...]]:
        """The marginals, and what they would be for each of `_places` if it were the other bin."""
        return self._network.variants(self.likelihoods, [(i, other) for i, (other, _) in self._places])

    @property
    def marginals(self) -> tuple[Floats, ...]:
        """P(state | E) of every variable."""
        return self._variants[0]

    @cached_property
    def _amounts(self) -> dict[int, Floats]:
        reached = self._reached
        return {i: reached[i][1] if i in reached else self._known.amounts(i, self._bins[i]) for i in self._of}

    @cached_property
    def factor(self) -> float:
        """How the values' places in their bins move the mean."""
        base, *moved = map(self._under, self._variants)
        if not base > TINY:
            return 1.0
        shift = 0.0
        for (_, (_, share)), there in zip(self._places, moved, strict=True):
            shift += share * log(max(there, TINY) / base)
        return exp(min(max(shift, -log(MAX_FACTOR)), log(MAX_FACTOR)))

    def _under(self, marginals: Sequence[Floats]) -> float:
        return sum(float(marginals[i] @ amounts) for i, amounts in self._amounts.items())

    @cached_property
    def by_variable(self) -> dict[int, float]:
        """What is still to come of each of the variables, settled ones aside."""
        marginals, factor = self.marginals, self.factor
        return {i: float(marginals[i] @ amounts) * factor for i, amounts in self._amounts.items()}

    @cached_property
    def mean(self) -> float:
        """E[sum of what is still to come | known]."""
        return sum(self.by_variable.values())

    @cached_property
    def deviation(self) -> float:
        """The standard deviation of the sum, as if its amounts were independent of each other.

        Where they rise and fall together it is larger. `quantiles` know of that, and cost far more.
        """
        variance = 0.0
        for i, amounts in self._amounts.items():
            posterior = self.marginals[i]
            within = self._bins[i].variances * self._known.scales.get(i, 1.0) ** 2
            mean = float(posterior @ amounts)
            variance += float(posterior @ (amounts * amounts + within)) - mean * mean
        return sqrt(max(variance, 0.0)) * self.factor

    def quantiles(self, levels: Sequence[float], *, draws: int = DRAWS, seed: int = 0) -> tuple[float, ...]:
        """Quantiles of the sum, read from draws of the joint posterior and of each bin's own content.

        They are moved by the same factor as the mean. The same arguments give the same quantiles.
        """
        amounts, _ = self.futures(draws, seed)
        return tuple(np.quantile(amounts.sum(axis=0), levels).tolist())

    def futures(self, count: int = DRAWS, seed: int = 0) -> tuple[Floats, NDArray[np.intp]]:
        """Draws of what may come: amounts and states, both of shape (variables, count).

        Of those variables whose amounts are summed and not settled, in their order.
        """
        states = self._network.sample(count, self.likelihoods, seed=seed)
        self._end_together(states, seed)
        uniform = np.random.default_rng((seed, count)).random((len(self._of), count))
        rows = [
            self._known.drawn(i, self._bins[i], states[:, i], own)
            for own, i in zip(uniform, self._of, strict=True)
        ]
        shape = (len(self._of), count)
        return np.array(rows).reshape(shape) * self.factor, states[:, list(self._of)].T.reshape(shape)

    def _end_together(self, states: NDArray[np.intp], seed: int) -> None:
        """Draw the rounds of loops anew, so that all of one future end at the same time: in place.

        One number of each future says how long its loops go on. Each round is there as often as before, but
        a later one only where the earlier ones are.
        """
        if not self._rounds:
            return
        generator = np.random.default_rng((seed, len(states), 1))
        how_long = generator.random(len(states))
        for i in self._rounds:
            if i not in self._known.values:
                posterior = self.marginals[i]
                levels = np.cumsum(posterior[1:])
                drawn = 1 + np.searchsorted(levels, generator.random(len(states)) * levels[-1], side="right")
                there = how_long < levels[-1]
                states[:, i] = np.where(there, np.minimum(drawn, len(levels)), ABSENT)


def places(
    network: Network, bins: Sequence[Bins], known: SoftEvidence, unsettled: set[int]
) -> list[tuple[int, tuple[int, float]]]:
    """The settled variables that say something of the others, with their places in their bins."""
    found = []
    for i, value in sorted(known.values.items()):
        place = bins[i].place(value)
        if place is not None and place[1] and not unsettled.isdisjoint(network.adjacent(i)):
            found.append((i, place))
    return found


def key(network: Network, bins: Sequence[Bins], of: Sequence[int], known: SoftEvidence) -> Hashable:
    """What a `Posterior` depends on: the same for jobs whose pasts differ in nothing that matters.

    Of a settled value that is its state and its place; nothing of one that only settled ones are adjacent
    to, for they separate it from the rest. An amount that only tells of the others, but is not asked for,
    counts by the states that it leaves.
    """
    values, reached, scales = known.values, known.reached, known.scales
    unsettled = set(range(len(bins))).difference(values)
    parts: list[Hashable] = []
    for i, own in enumerate(bins):
        # Named by what is known, or a state could pass for an amount.
        if i in values:
            if unsettled.isdisjoint(network.adjacent(i)):
                parts.append("is")
            else:
                parts.append(("is", own.index(values[i]), own.place(values[i])))
        elif i in reached:
            if i in of:
                parts.append(("reached", reached[i], scales.get(i)))
            else:
                parts.append(("passed", own.passed(reached[i])))
        elif i in known.likelihoods:
            parts.append(("likely", np.asarray(known.likelihoods[i]).tobytes(), scales.get(i)))
        else:
            parts.append(scales.get(i))
    return tuple(parts)


def _one_hot(state: int, states: int) -> Floats:
    made = np.zeros(states)
    made[state] = 1.0
    return made
