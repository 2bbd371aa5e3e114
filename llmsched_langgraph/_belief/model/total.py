"""Computes the posterior of a sum of variables' amounts: mean, deviation, quantiles and samples.

Does not interpret the amounts.

The mean is linear and needs no independence: E[sum | E] = sum_i P(i present | E) E[amount_i | i present, E].
This is the remaining work as LLMSched defines it. Quantiles need the joint posterior and are estimated from
samples.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import exp, log, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_langgraph._belief.model.bins import ABSENT, TINY, Bins
from llmsched_langgraph._belief.network.network import Network

DRAWS = 512
"""Default number of samples: the level of the 0.1 quantile then has a standard error of 0.013."""

MAX_FACTOR = 4.0
"""Bound F of `Posterior.factor`, which is clipped to [1 / F, F]."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SoftEvidence:
    """Evidence about the variables, by number.

    Attributes:
        values: settled amounts (hard evidence); None means absent.
        reached: lower bounds of amounts that still grow. Only amount - bound counts in a sum.
        likelihoods: other soft evidence, as weights over states, such as `Bins.present()`.
        left: expected remaining parts of settled amounts. They are not included in any sum here.
        scales: factors by which amounts exceed those of their bins.
    """

    values: Mapping[int, float | None] = field(default_factory=dict)
    reached: Mapping[int, float] = field(default_factory=dict)
    likelihoods: Mapping[int, ArrayLike] = field(default_factory=dict)
    left: Mapping[int, float] = field(default_factory=dict)
    scales: Mapping[int, float] = field(default_factory=dict)

    def likelihood(self, i: int, bins: Bins) -> Floats | None:
        """Return the likelihood over a variable's states; None without evidence."""
        if i in self.values:
            return _one_hot(bins.index(self.values[i]), bins.states)
        if i in self.reached:
            return self.at_least(i, bins)[0]
        given = self.likelihoods.get(i)
        return None if given is None else np.asarray(given, dtype=np.float64)

    def amounts(self, i: int, bins: Bins) -> Floats:
        """Return the expected remaining part of an unsettled amount, by state."""
        if i in self.reached:
            return self.at_least(i, bins)[1]
        return bins.means * self.scales.get(i, 1.0)

    def at_least(self, i: int, bins: Bins) -> tuple[Floats, Floats]:
        """Return likelihood and expected remaining part of an amount in `reached`, by state."""
        scale = self.scales.get(i, 1.0)
        found = bins.at_least(self.reached[i] / scale)
        return found.weights, found.left * scale

    def drawn(self, i: int, bins: Bins, states: NDArray[np.intp], uniform: Floats) -> Floats:
        """Return one sample of the remaining amount for each element of `states` (see `Bins.values`)."""
        scale = self.scales.get(i, 1.0)
        if i in self.reached:
            return bins.left(self.reached[i] / scale, states, uniform) * scale
        return bins.values(states, uniform) * scale


class LoopVariable(NamedTuple):
    """The variable of a loop occurrence.

    Attributes:
        number: its number.
        visit: the visit, in an inner loop.
        begin: number of the variable of the node's first occurrence in this visit; None if it is this one, or
            if the node is in no inner loop.
    """

    number: int
    visit: int = 1
    begin: int | None = None


class Posterior:
    """The sum of the remaining amounts of the variables `of`, given evidence. Computed lazily.

    A settled value is more precise than its bin. `factor` corrects for its position between the means of its
    bin and the neighbour bin. This needs one more inference per settled variable that is adjacent to an
    unsettled one. All results but quantiles and samples are exact under the network.

    Args:
        network: the joint distribution of the variables.
        bins: the states of each variable.
        of: numbers of the variables to sum; settled ones are left out.
        known: the evidence.
        rounds: variables of loop occurrences, for a network without edges: see `_end_together`.

    Raises:
        InvalidDataError: as `Network.marginals`, by each property and method.
    """

    def __init__(
        self,
        network: Network,
        bins: Sequence[Bins],
        of: Sequence[int],
        known: SoftEvidence,
        rounds: Sequence[LoopVariable] = (),
    ) -> None:
        self._network = network
        self._bins = bins
        self._of = tuple(i for i in of if i not in known.values)
        self._known = known
        self._rounds = rounds
        self.reductions: dict[int, float] = {}  # cache of uncertainty reductions, by variable
        self.index: float | None = None  # cache of the Gittins index

    @cached_property
    def likelihoods(self) -> dict[int, Floats]:
        """The evidence as likelihoods for `Network`."""
        reached = self._reached
        found = (
            (i, reached[i][0] if i in reached else self._known.likelihood(i, own))
            for i, own in enumerate(self._bins)
        )
        return {i: weights for i, weights in found if weights is not None}

    @cached_property
    def _reached(self) -> dict[int, tuple[Floats, Floats]]:
        """Likelihood and expected remaining part of each amount in `known.reached`, by state."""
        known = self._known
        return {i: known.at_least(i, self._bins[i]) for i in known.reached if i not in known.values}

    @cached_property
    def _places(self) -> list[tuple[int, tuple[int, float]]]:
        unsettled = set(range(len(self._network))) - set(self._known.values)
        return places(self._network, self._bins, self._known, unsettled) if self._of else []

    @cached_property
    def _variants(self) -> list[tuple[Floats, ...]]:
        """The marginals, then those with each variable of `_places` in its neighbour bin."""
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
        """The correction of the mean for the positions of settled values in their bins.

        It is exp(sum_i s_i log(m_i / m)), clipped by `MAX_FACTOR`, with the uncorrected mean m, the mean m_i
        if settled variable i were in its neighbour bin, and the share s_i of `Bins.place`.
        """
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
        """The expected remaining amount of each unsettled variable of the sum."""
        marginals, factor = self.marginals, self.factor
        return {i: float(marginals[i] @ amounts) * factor for i, amounts in self._amounts.items()}

    @cached_property
    def mean(self) -> float:
        """E[sum of the remaining amounts | E]."""
        return sum(self.by_variable.values())

    @cached_property
    def deviation(self) -> float:
        """The standard deviation of the sum under independence of the amounts.

        Positive correlation makes the true value larger. `quantiles` include it, at a much higher cost.
        """
        variance = 0.0
        for i, amounts in self._amounts.items():
            posterior = self.marginals[i]
            within = self._bins[i].variances * self._known.scales.get(i, 1.0) ** 2
            mean = float(posterior @ amounts)
            variance += float(posterior @ (amounts * amounts + within)) - mean * mean
        return sqrt(max(variance, 0.0)) * self.factor

    def quantiles(self, levels: Sequence[float], *, draws: int = DRAWS, seed: int = 0) -> tuple[float, ...]:
        """Return quantiles of the sum, estimated from `futures`. Deterministic for a given seed."""
        amounts, _ = self.futures(draws, seed)
        return tuple(np.quantile(amounts.sum(axis=0), levels).tolist())

    def futures(self, count: int = DRAWS, seed: int = 0) -> tuple[Floats, NDArray[np.intp]]:
        """Sample remaining amounts (times `factor`) and states, both of shape (variables, count).

        The variables are the unsettled ones of the sum, in order.
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
        """Resample loop occurrences in place, so that all nodes of a sample's loops end together.

        With one u ~ U(0, 1) per sample, occurrence i is present if u < P(i present | E). This keeps every
        marginal, and a later, less probable occurrence implies the earlier ones. A later occurrence in a
        visit to an inner loop is present if the first one is and v < P(i present | E) / P(first present | E),
        with one v ~ U(0, 1) per sample and visit: visits do not end alike.
        """
        if not self._rounds:
            return
        generator = np.random.default_rng((seed, len(states), 1))
        how_long = generator.random(len(states))
        for i, visit, begin in self._rounds:
            if i not in self._known.values:
                posterior = self.marginals[i]
                levels = np.cumsum(posterior[1:])
                drawn = 1 + np.searchsorted(levels, generator.random(len(states)) * levels[-1], side="right")
                there = how_long < levels[-1]
                if begin is not None:
                    in_visit = np.random.default_rng((seed, len(states), 2, visit)).random(len(states))
                    first = 1.0 if begin in self._known.values else 1.0 - self.marginals[begin][ABSENT]
                    there = (how_long < first) & (in_visit * first < levels[-1])
                states[:, i] = np.where(there, np.minimum(drawn, len(levels)), ABSENT)


def places(
    network: Network, bins: Sequence[Bins], known: SoftEvidence, unsettled: set[int]
) -> list[tuple[int, tuple[int, float]]]:
    """Return settled variables adjacent to unsettled ones, with their positions (`Bins.place`)."""
    found = []
    for i, value in sorted(known.values.items()):
        place = bins[i].place(value)
        if place is not None and place[1] and not unsettled.isdisjoint(network.adjacent(i)):
            found.append((i, place))
    return found


def key(network: Network, bins: Sequence[Bins], of: Sequence[int], known: SoftEvidence) -> Hashable:
    """Return the cache key of a `Posterior`: evidences with equal keys have equal posteriors.

    A settled value enters by its state and position, or not at all if its whole Markov blanket is settled.
    A lower bound of an amount outside `of` enters by the number of points below it.
    """
    values, reached, scales = known.values, known.reached, known.scales
    unsettled = set(range(len(bins))).difference(values)
    parts: list[Hashable] = []
    for i, own in enumerate(bins):
        # The tags distinguish kinds of evidence with equal numbers.
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
