"""Fits tables to networks with given edges, and finds the Chow-Liu tree.

Does not interpret the variables or compare structures.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_langgraph._belief.fit.tables import SMOOTHING, Family, Rows, checked, k2, tables
from llmsched_langgraph._belief.network.inference import MAX_CELLS
from llmsched_langgraph._belief.network.network import Network
from llmsched_langgraph.errors import InvalidDataError

Parents = Sequence[Sequence[int]]
"""The numbers of the parents of each variable, in any order."""

MIN_BITS = 1e-9
"""Mutual information, in bits, up to which two variables count as independent."""


def fit_edges(
    rows: ArrayLike,
    cards: Sequence[int],
    names: Sequence[str],
    parents: Parents,
    *,
    smoothing: float = SMOOTHING,
) -> Network:
    """Fit the tables of a network with these edges.

    Variables are reordered so that parents come first. Tables are estimated as in `tables.fit`. Each parent
    in turn becomes coarse (absent or present) if that raises the K2 score.

    Args:
        rows: states, shape (rows, variables).
        cards: number of states of each variable.
        names: unique name of each variable.
        parents: parents of each variable; the edges must be acyclic.
        smoothing: Dirichlet concentration, in pseudo-rows; positive.

    Raises:
        InvalidDataError: as `tables.fit`; or the edges have a cycle, or a table would have more than
            `MAX_CELLS` cells.
    """
    states = checked(rows, cards, names, smoothing)
    order = topological(names, parents)
    place = {v: at for at, v in enumerate(order)}
    states, cards = states[:, order], [cards[v] for v in order]
    above = [sorted(place[p] for p in parents[v]) for v in order]
    for i, own in enumerate(above):
        check_size(names[order[i]], [cards[p] for p in own], cards[i])
    score = k2(states, cards)
    families: list[Family] = []
    for i, own in enumerate(above):
        family: Family = tuple((p, False) for p in own)
        for at, p in enumerate(own):
            coarse = (*family[:at], (p, True), *family[at + 1 :])
            if cards[p] > 2 and score(i, coarse) > score(i, family):
                family = coarse
        families.append(family)
    return Network(
        tuple(names[v] for v in order),
        tuple(cards),
        tuple(map(tuple, above)),
        tables(states, cards, families, smoothing),
    )


def check_size(name: str, parents: Sequence[int], card: int) -> None:
    """Check the size of a variable's table, given the cardinalities of its parents.

    Raises:
        InvalidDataError: the table has more than `MAX_CELLS` cells.
    """
    if prod(parents) * card > MAX_CELLS:
        raise InvalidDataError(
            f"variable {name!r}: its {len(parents)} parents need a table of more than {MAX_CELLS:,} cells; "
            "remove parents"
        )


def topological(names: Sequence[str], parents: Parents) -> list[int]:
    """Return the numbers of the variables, parents before children, ties ascending.

    Raises:
        InvalidDataError: the edges have a cycle; the message names its variables.
    """
    order: list[int] = []
    left = list(range(len(parents)))
    while left:
        free = next((v for v in left if not set(parents[v]) & set(left)), None)
        if free is None:
            way = [left[0]]
            while way[-1] not in way[:-1]:
                way.append(next(p for p in parents[way[-1]] if p in left))
            cycle = way[way.index(way[-1]) :]
            shown = " -> ".join(repr(names[v]) for v in reversed(cycle))
            raise InvalidDataError(f"the edges {shown} form a cycle; remove one of them")
        order.append(free)
        left.remove(free)
    return order


def chow_liu(rows: Rows, cards: Sequence[int]) -> Parents:
    """Return the maximum-likelihood tree (Chow & Liu 1968), rooted at the first variable.

    It is the maximum spanning tree of pairwise mutual information; independent variables make it a forest.
    """
    weights = mutual_information(rows, cards)
    parents: list[tuple[int, ...]] = [()] * len(cards)
    left = list(range(1, len(cards)))
    best = dict.fromkeys(left, 0)
    while left:
        # Ties go to the earlier variable.
        v = max(left, key=lambda v: (weights[best[v], v], -v))
        left.remove(v)
        if weights[best[v], v] > MIN_BITS:
            parents[v] = (best[v],)
        for other in left:
            if weights[v, other] > weights[best[other], other]:
                best[other] = v
    return parents


def mutual_information(rows: Rows, cards: Sequence[int]) -> NDArray[np.float64]:
    """Return the empirical I(X; Y) of each pair in bits, shape (variables, variables)."""
    count = len(cards)
    found = np.zeros((count, count))
    for i in range(count):
        for j in range(i):
            cells = np.bincount(rows[:, i] * cards[j] + rows[:, j], minlength=cards[i] * cards[j])
            joint = cells.reshape(cards[i], cards[j]) / len(rows)
            apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
            some = joint > 0.0
            found[i, j] = found[j, i] = float((joint[some] * np.log2(joint[some] / apart[some])).sum())
    return found
