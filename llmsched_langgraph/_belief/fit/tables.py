"""Knows how rows of states become a network, and whether a network is worth having at all.

Does not know what the variables stand for. Learning takes milliseconds to seconds and belongs off the
event loop. The tests hold its tables equal to those of pgmpy's DiscreteBayesianEstimator, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import lgamma, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_langgraph._belief.network.network import Network, complete_rows
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

Make = Callable[[Rows], Network]
"""Learns a network from rows; its variables may be in another order than the rows' columns."""

MARGINALS = "marginals"
"""The name of the independent marginals among ways to learn."""


@dataclass(frozen=True, slots=True)
class NetworkChoice:
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
    states = checked(rows, cards, names, smoothing)
    families = _structure(states, cards, max_parents) if max_parents > 0 else ((),) * len(cards)
    parents = tuple(tuple(p for p, _ in own) for own in families)
    return Network(tuple(names), tuple(cards), parents, tables(states, cards, families, smoothing))


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
) -> NetworkChoice:
    """The network that `fit` makes or the independent marginals: what predicts held-out rows better.

    The network must be better by more than one standard error of the mean gain over rows. `hidden`
    variables are summed out before rows are compared: a sum of the others that was put among them
    would make every network look good. Arguments and errors as in `fit`; the seed deals the folds.
    """
    states = checked(rows, cards, names, smoothing)

    def make(train: Rows) -> Network:
        return fit(train, cards, names, max_parents=max_parents, smoothing=smoothing)

    bits = held_out(
        states, cards, names, {"": make}, hidden=hidden, smoothing=smoothing, folds=folds, seed=seed
    )
    better, gain, error = gained(bits[""], bits[MARGINALS])
    network = fit(states, cards, names, max_parents=max_parents if better else 0, smoothing=smoothing)
    return NetworkChoice(network, better, gain, error)


def held_out(
    rows: ArrayLike,
    cards: Sequence[int],
    names: Sequence[str],
    makes: Mapping[str, Make],
    *,
    hidden: Iterable[int] = (),
    smoothing: float = SMOOTHING,
    folds: int = FOLDS,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """log2 P(row) of every row, by networks learned from the rows of the other folds: shape (rows,) each.

    Args:
        rows: states, shape (rows, variables).
        cards: how many states each variable has.
        names: one unique name a variable.
        makes: ways to learn a network of these variables, by name; the independent marginals are added.
        hidden: numbers of variables that are summed out.
        smoothing: of the marginals.
        folds: parts into which the rows are cut.
        seed: deals the folds.

    Raises:
        InvalidDataError: as `fit`, or a hidden variable that is none.
    """
    states = checked(rows, cards, names, smoothing)
    unseen = sorted(set(hidden))
    if unseen and not 0 <= unseen[0] <= unseen[-1] < len(cards):
        raise InvalidDataError(f"hidden: expected numbers under {len(cards)}, got {unseen}")
    seen = [v for v in range(len(cards)) if v not in unseen]
    bits = {name: np.zeros(len(states)) for name in (*makes, MARGINALS)}
    fold = np.random.default_rng(seed).permutation(len(states)) % folds
    for k in range(folds):
        train, held = states[fold != k], states[fold == k]
        if not len(train) or not len(held):
            continue
        for name, make in makes.items():
            network = make(train)
            place = {variable: at for at, variable in enumerate(network.names)}
            own = [place[names[v]] for v in seen]
            order = [names.index(variable) for variable in network.names]
            bits[name][fold == k] = _bits(network, held[:, order], sorted(own))
        alone = tables(train[:, seen], [cards[v] for v in seen], ((),) * len(seen), smoothing)
        bits[MARGINALS][fold == k] = sum(
            np.log2(table[held[:, v]]) for v, table in zip(seen, alone, strict=True)
        )
    return bits


def gained(bits: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[bool, float, float]:
    """Whether the mean of `bits` - `other` is over one standard error; that mean, and its standard error."""
    gains = bits - other
    gain = float(gains.mean())
    error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0
    return gain > error, gain, error


def _bits(network: Network, rows: Rows, seen: Sequence[int]) -> NDArray[np.float64]:
    """log2 P(the seen variables' states) of each row."""
    if len(seen) == len(network):
        return network.log_likelihood(rows)
    one_hot = [np.eye(card) for card in network.cards]
    return np.array([network.evidence_bits({v: one_hot[v][row[v]] for v in seen}) for row in rows])


def checked(rows: ArrayLike, cards: Sequence[int], names: Sequence[str], smoothing: float) -> Rows:
    """The rows as an array, once it is clear that a network can be learned from them.

    Raises:
        InvalidDataError: as `fit`.
    """
    if len(cards) != len(names):
        raise InvalidDataError(f"names: {len(names)} names for {len(cards)} cards")
    if not smoothing > 0.0:
        raise InvalidDataError(f"smoothing: expected a positive number, got {smoothing!r}")
    states = complete_rows(rows, cards)
    if not len(states):
        raise InvalidDataError("rows: none, so there is nothing to learn from")
    return states


def _levels(variable: int, coarse: bool, cards: Sequence[int]) -> int:
    return 2 if coarse else cards[variable]


def _seen(states: Rows, variable: int, coarse: bool) -> Rows:
    return np.minimum(states[:, variable], 1) if coarse else states[:, variable]


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
    score = k2(states, cards)
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


def k2(states: Rows, cards: Sequence[int]) -> Callable[[int, Family], float]:
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


def tables(
    states: Rows, cards: Sequence[int], families: Sequence[Family], smoothing: float
) -> tuple[NDArray[np.float64], ...]:
    """Dirichlet posterior means, the prior backing off parent by parent.

    Of a variable X with parents U1..Uk, P(x | u1..uk) = (N(x, u1..uk) + smoothing * P(x | u1..uk-1)) /
    (N(u1..uk) + smoothing), and without parents the prior is uniform.
    """
    if not any(families):
        return tuple(
            (_counts(states, cards, ((i, False),)) + smoothing / card) / (len(states) + smoothing)
            for i, card in enumerate(cards)
        )
    made = []
    for i, own in enumerate(families):
        table = np.full(cards[i], 1.0 / cards[i])
        for known in (own[:k] for k in range(len(own) + 1)):
            if known:
                table = np.repeat(table[..., None, :], _levels(*known[-1], cards), axis=-2)
            table = _counts(states, cards, (*known, (i, False))) + smoothing * table
            if known != own:
                table = table / table.sum(axis=-1, keepdims=True)
        # Summed state by state, as pgmpy does: the order decides the last bit.
        table = table / sum(np.moveaxis(table, -1, 0))[..., None]
        for axis, (p, whether) in enumerate(own):
            if whether:
                table = np.take(table, np.minimum(np.arange(cards[p]), 1), axis=axis)
        made.append(table)
    return tuple(made)


def _counts(states: Rows, cards: Sequence[int], family: Family) -> NDArray[np.float64]:
    shape = tuple(_levels(*one, cards) for one in family)
    cells = np.ravel_multi_index(tuple(_seen(states, *one) for one in family), shape)
    return np.bincount(cells, minlength=prod(shape)).reshape(shape).astype(np.float64)
