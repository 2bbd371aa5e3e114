"""Learns networks from rows of states, and compares them with the independent marginals.

Does not interpret the variables. Learning takes milliseconds to seconds, so it must not run on an event
loop. The tests require tables equal to those of pgmpy's DiscreteBayesianEstimator, to the last bit.
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
"""Maximum number of parents: some dozens of rows still suffice for a table over three variables."""

SMOOTHING = 0.3
"""Dirichlet concentration of the back-off prior, in pseudo-rows. Small: 40 jobs must suffice."""

FOLDS = 5
"""Number of cross-validation folds."""

Rows = NDArray[np.intp]
Family = tuple[tuple[int, bool], ...]
"""The parents of a variable, ascending, as (number, coarse). Coarse: absent or present only."""

Make = Callable[[Rows], Network]
"""Learns a network from rows. Its variables may be in another order than the rows' columns."""

MARGINALS = "marginals"
"""Name of the independent marginals in results of `held_out`."""


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """The result of comparing a network with the independent marginals on held-out rows.

    Attributes:
        network: the better of the two, fitted to all rows.
        correlated: whether it is the network with edges.
        gain_bits: mean log2 likelihood of a held-out row, network minus marginals, in bits; 0 with too few
            rows to hold any out.
        error_bits: standard error of `gain_bits`, in bits.
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
    """Learn a network. The variables must be in causal order: causes before effects.

    Structure: for each variable in turn, greedy addition of the earlier variable that raises the K2 score
    of its table most (Cooper & Herskovits 1992), up to `max_parents` and while the score rises. A parent is
    either full or coarse (absent or present). A coarse parent needs a table of two rows instead of seven,
    which is enough for "the loop ended". All parents of a variable must be adjacent to each other, so that
    no clique is larger than a family and exact inference stays cheap.
    Parameters: Dirichlet posterior means with a back-off prior, see `tables`.

    Args:
        rows: states, shape (rows, variables).
        cards: number of states of each variable.
        names: unique name of each variable.
        max_parents: maximum number of parents; 0 gives the independent marginals.
        smoothing: Dirichlet concentration, in pseudo-rows; positive.

    Raises:
        InvalidDataError: there are no rows, a state is out of range, or arguments are inconsistent.
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
    """Return the network of `fit` or the independent marginals, by held-out log-likelihood.

    The mean gain of the network must exceed its standard error. `hidden` variables are summed out of the
    likelihood: a variable that is the sum of others would favour every network with edges. The other
    arguments, and the errors, are those of `fit` and `held_out`.
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
    """Return log2 P(row) of each row by networks learned from the other folds, shape (rows,).

    Args:
        rows: states, shape (rows, variables).
        cards: number of states of each variable.
        names: unique name of each variable.
        makes: learners of a network, by name. The independent marginals are added as `MARGINALS`.
        hidden: numbers of variables that are summed out.
        smoothing: Dirichlet concentration of the marginals, in pseudo-rows.
        folds: number of cross-validation folds.
        seed: seed of the assignment of rows to folds.

    Returns:
        log2 P(row) by the names of `makes` and `MARGINALS`.

    Raises:
        InvalidDataError: as `fit`, or a hidden variable does not exist.
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
    """Return (mean > error, mean, error): the mean of `bits` - `other` and its standard error."""
    gains = bits - other
    gain = float(gains.mean())
    error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0
    return gain > error, gain, error


def _bits(network: Network, rows: Rows, seen: Sequence[int]) -> NDArray[np.float64]:
    """Return log2 P(states of the `seen` variables) of each row."""
    if len(seen) == len(network):
        return network.log_likelihood(rows)
    one_hot = [np.eye(card) for card in network.cards]
    return np.array([network.evidence_bits({v: one_hot[v][row[v]] for v in seen}) for row in rows])


def checked(rows: ArrayLike, cards: Sequence[int], names: Sequence[str], smoothing: float) -> Rows:
    """Validate the arguments of `fit` and return the rows as an array.

    Raises:
        InvalidDataError: as `fit`.
    """
    if len(cards) != len(names):
        raise InvalidDataError(f"names: {len(names)} names for {len(cards)} cards")
    if not smoothing > 0.0:
        raise InvalidDataError(f"smoothing: expected a positive number, got {smoothing!r}")
    states = complete_rows(rows, cards)
    if not len(states):
        raise InvalidDataError("rows: at least one row is required")
    return states


def _levels(variable: int, coarse: bool, cards: Sequence[int]) -> int:
    return 2 if coarse else cards[variable]


def _seen(states: Rows, variable: int, coarse: bool) -> Rows:
    return np.minimum(states[:, variable], 1) if coarse else states[:, variable]


def _structure(states: Rows, cards: Sequence[int], max_parents: int) -> tuple[Family, ...]:
    # Constant variables get no edges.
    said = [
        tuple(
            coarse
            for coarse in (False, True)
            if len(np.unique(_seen(states, p, coarse))) > 1
            # With two observed states, a coarse parent adds nothing.
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
                    # Ties go to the later variable.
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
    """Return the K2 score (Cooper & Herskovits 1992), in nats, as a function (variable, parents).

    It equals pgmpy's BDeu with one pseudo-row per cell, and is about 50 times as fast. The K2 of pgmpy 1.1.2
    is not used: it adds to the score for each combination of parents without rows.
    """
    gamma = np.array([lgamma(n) for n in range(1, len(states) + max(cards, default=1) + 2)])  # [n] is log n!
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
    """Return Dirichlet posterior means with a back-off prior, P(X | parents) of each variable.

    For parents U1..Uk, P(x | u1..uk) = (N(x, u1..uk) + a P(x | u1..uk-1)) / (N(u1..uk) + a), a = `smoothing`.
    Without parents, the prior is uniform.
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
        # Summed state by state, as pgmpy does: the order affects the last bit.
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
