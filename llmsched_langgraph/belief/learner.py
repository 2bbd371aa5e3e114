"""Knows how rows of states become a network, and whether a network is worth having at all.

Does not know what the variables stand for. pgmpy takes seconds to import, so that happens on first
use; learning takes tenths of a second and belongs off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import lgamma
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_langgraph.belief.network import Network, complete_rows
from llmsched_langgraph.errors import InvalidDataError

MAX_PARENTS = 2
"""Parents of a variable, at most: a table over three variables still fills from some dozens of rows."""

SMOOTHING = 0.3
"""Rows that what is known without the last parent counts for. Little, or forty jobs teach nothing."""

FOLDS = 5
"""Parts into which the rows are cut to hold one out at a time."""

Rows = NDArray[np.intp]
Family = tuple[tuple[int, bool], ...]
"""Parents of a variable, ascending: the number of each, and whether all that matters is if it is absent."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A network, weighed against the independent marginals on rows that neither had seen.

    Attributes:
        network: the better of the two, fitted to all rows.
        correlated: whether that is the one with edges.
        gain_bits: mean log2 likelihood of a held-out row, network minus marginals; 0 if it could not
            be measured for want of rows.
        error_bits: standard error of that mean.
    """

    network: Network
    correlated: bool
    gain_bits: float
    error_bits: float


def fit(
    rows: ArrayLike,
    cards: Sequence[int],
    names: Sequence[str],
    *,
    max_parents: int = MAX_PARENTS,
    smoothing: float = SMOOTHING,
) -> Network:
    """A network of the variables, which are given in an order in which causes come before effects.

    Structure: each variable in turn takes as parents, one by one and at most `max_parents`, the earlier
    variables that raise the K2 score of its table most (Cooper & Herskovits 1992), as long as one does. Of
    a parent either every state counts, or only whether it is absent (state 0): that a loop ended says
    that it does not go on, and takes two rows of a table to learn instead of seven. A later parent must
    be adjacent to those before it, so that parents are always married and no clique of the network is
    larger than a family: inference stays exact and cheap at any length.
    Parameters: Dirichlet posterior means. The prior of a row is worth `smoothing` observations and
    spread as the variable is without the last parent, at first uniformly: what was never seen falls
    back on what was seen more often.

    Args:
        rows: states, shape (rows, variables).
        cards: how many states each variable has.
        names: one unique name a variable.
        max_parents: 0 gives the independent marginals.
        smoothing: positive.

    Raises:
        InvalidDataError: no rows, a state out of range, or an argument that fits nothing.
    """
    states = _checked(rows, cards, names, smoothing)
    families = _structure(states, cards, max_parents) if max_parents > 0 else ((),) * len(cards)
    parents = tuple(tuple(p for p, _ in own) for own in families)
    return Network(tuple(names), tuple(cards), parents, _tables(states, cards, families, smoothing))


def choose(
    rows: ArrayLike,
    cards: Sequence[int],
    names: Sequence[str],
    *,
    hidden: Iterable[int] = (),
    max_parents: int = MAX_PARENTS,
    smoothing: float = SMOOTHING,
    folds: int = FOLDS,
    seed: int = 0,
) -> Choice:
    """The network that `fit` makes or the independent marginals: what predicts held-out rows better.

    The network must be better by more than one standard error of the mean gain over rows. `hidden`
    variables are summed out before rows are compared: a sum of the others that was put among them
    would make every network look good. Arguments and errors as in `fit`; the seed deals the folds.
    """
    states = _checked(rows, cards, names, smoothing)
    unseen = sorted(set(hidden))
    if unseen and not 0 <= unseen[0] <= unseen[-1] < len(cards):
        raise InvalidDataError(f"hidden: expected numbers under {len(cards)}, got {unseen}")
    seen = [v for v in range(len(cards)) if v not in unseen]
    gains = np.zeros(len(states))
    fold = np.random.default_rng(seed).permutation(len(states)) % folds
    for k in range(folds):
        train, held = states[fold != k], states[fold == k]
        if not len(train) or not len(held):
            continue
        network = fit(train, cards, names, max_parents=max_parents, smoothing=smoothing)
        alone = _tables(train[:, seen], [cards[v] for v in seen], ((),) * len(seen), smoothing)
        gains[fold == k] = _bits(network, held, seen) - sum(
            np.log2(table[held[:, v]]) for v, table in zip(seen, alone, strict=True)
        )
    count = len(states)
    gain = float(gains.mean())
    error = float(gains.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    better = gain > error
    network = fit(states, cards, names, max_parents=max_parents if better else 0, smoothing=smoothing)
    return Choice(network, better, gain, error)


def _bits(network: Network, rows: Rows, seen: Sequence[int]) -> NDArray[np.float64]:
    """log2 P(the seen variables' states) of each row."""
    if len(seen) == len(network):
        return network.log_likelihood(rows)
    one_hot = [np.eye(card) for card in network.cards]
    return np.array([network.evidence_bits({v: one_hot[v][row[v]] for v in seen}) for row in rows])


def _checked(rows: ArrayLike, cards: Sequence[int], names: Sequence[str], smoothing: float) -> Rows:
    if len(cards) != len(names):
        raise InvalidDataError(f"names: {len(names)} names for {len(cards)} cards")
    if not smoothing > 0.0:
        raise InvalidDataError(f"smoothing: expected a positive number, got {smoothing!r}")
    states = complete_rows(rows, cards)
    if not len(states):
        raise InvalidDataError("rows: none, so there is nothing to learn from")
    return states


def _column(variable: int, coarse: bool = False) -> str:
    # pgmpy sorts parents by name; so written, that is by number.
    return f"v{variable:06d}{'p' if coarse else ''}"


def _levels(variable: int, coarse: bool, cards: Sequence[int]) -> int:
    return 2 if coarse else cards[variable]


def _seen(states: Rows, variable: int, coarse: bool) -> Rows:
    return np.minimum(states[:, variable], 1) if coarse else states[:, variable]


def _frame(states: Rows, cards: Sequence[int], wanted: Iterable[tuple[int, bool]]) -> Any:
    import pandas as pd  # type: ignore[import-untyped]

    return pd.DataFrame(
        {
            _column(*one): pd.Categorical(_seen(states, *one), categories=range(_levels(*one, cards)))
            for one in wanted
        }
    )


def _structure(states: Rows, cards: Sequence[int], max_parents: int) -> tuple[Family, ...]:
    # A constant says nothing, and there is nothing to say of it.
    said = [
        tuple(
            coarse
            for coarse in (False, True)
            if len(np.unique(_seen(states, p, coarse))) > 1
            # Of two states, whether it is absent is all that there is to say.
            and not (coarse and len(np.unique(states[:, p])) == 2)
        )
        for p in range(len(cards))
    ]
    score = _k2(states, cards)
    families: list[Family] = []
    for i in range(len(cards)):
        own: Family = ()
        best = score(i, ()) if said[i] else np.inf
        while len(own) < max_parents:
            found = None
            for p in range(i):
                if not said[p] or any(p == q or not _adjacent(families, p, q) for q, _ in own):
                    continue
                for coarse in said[p]:
                    family = tuple(sorted((*own, (p, coarse))))
                    reached = score(i, family)
                    # Ties go to the nearer variable.
                    if reached > best or (found is not None and reached == best):
                        best, found = reached, family
            if found is None:
                break
            own = found
        families.append(own)
    return tuple(families)


def _adjacent(families: Sequence[Family], p: int, q: int) -> bool:
    later, earlier = max(p, q), min(p, q)
    return any(parent == earlier for parent, _ in families[later])


def _k2(states: Rows, cards: Sequence[int]) -> Callable[[int, Family], float]:
    """The K2 score of a variable with these parents (Cooper & Herskovits 1992), in nats.

    It is pgmpy's BDeu with one pseudo-row in each cell of the table, counted some fifty times as fast; pgmpy
    1.1.2's own K2 credits a family with every combination of parents that no row has.
    """
    gamma = np.array([lgamma(n) for n in range(1, len(states) + max(cards, default=1) + 2)])  # of n + 1
    columns = {(i, c): _seen(states, i, c) for i in range(len(cards)) for c in (False, True)}

    def score(i: int, own: Family) -> float:
        combinations, at = 1, np.zeros(len(states), dtype=np.intp)
        for parent in own:
            levels = _levels(*parent, cards)
            at = at * levels + columns[parent]
            combinations *= levels
        card = cards[i]
        cells = np.bincount(at * card + columns[i, False], minlength=combinations * card)
        rows = cells.reshape(combinations, card).sum(axis=1)
        return float(gamma[cells].sum() - gamma[rows + card - 1].sum() + combinations * gamma[card - 1])

    return score


def _tables(
    states: Rows, cards: Sequence[int], families: Sequence[Family], smoothing: float
) -> tuple[NDArray[np.float64], ...]:
    """Conditional tables with pgmpy's Dirichlet estimator, the prior backing off parent by parent."""
    if not any(families):
        return tuple(
            (_counts(states, cards, ((i, False),)) + smoothing / card) / (len(states) + smoothing)
            for i, card in enumerate(cards)
        )
    from pgmpy.models import DiscreteBayesianNetwork  # type: ignore[import-untyped]
    from pgmpy.parameter_estimator import DiscreteBayesianEstimator  # type: ignore[import-untyped]

    prior = {}
    for i, own in enumerate(families):
        spread = np.full(cards[i], 1.0 / cards[i])
        for known in (own[:k] for k in range(len(own) + 1)):
            if known:
                spread = np.repeat(spread[..., None, :], _levels(*known[-1], cards), axis=-2)
            if known != own:
                counts = _counts(states, cards, (*known, (i, False))) + smoothing * spread
                spread = counts / counts.sum(axis=-1, keepdims=True)
        prior[_column(i)] = smoothing * spread.reshape(-1, cards[i]).T
    coarse = sorted({parent for own in families for parent in own if parent[1]})
    variables = [*((i, False) for i in range(len(cards))), *coarse]
    for one in coarse:
        prior[_column(*one)] = np.full((2, 1), smoothing / 2)
    model = DiscreteBayesianNetwork()
    model.add_nodes_from(_column(*one) for one in variables)
    model.add_edges_from((_column(*parent), _column(i)) for i, own in enumerate(families) for parent in own)
    names = {_column(*one): list(range(_levels(*one, cards))) for one in variables}
    model.fit(
        _frame(states, cards, variables),
        estimator=DiscreteBayesianEstimator(state_names=names, prior_type="dirichlet", pseudo_counts=prior),
    )
    tables = []
    for i, own in enumerate(families):
        values = np.asarray(model.get_cpds(_column(i)).get_values(), dtype=np.float64)
        table = values.T.reshape((*(_levels(*parent, cards) for parent in own), cards[i]))
        for axis, (p, whether) in enumerate(own):
            if whether:
                table = np.take(table, np.minimum(np.arange(cards[p]), 1), axis=axis)
        tables.append(table)
    return tuple(tables)


def _counts(states: Rows, cards: Sequence[int], family: Family) -> NDArray[np.float64]:
    counts = np.zeros([_levels(*one, cards) for one in family])
    np.add.at(counts, tuple(_seen(states, *one) for one in family), 1.0)
    return counts
