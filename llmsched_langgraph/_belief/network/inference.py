"""Implements exact inference in discrete Bayesian networks: messages, elimination, sampling.

Does not interpret variables, or store or learn networks.

Variables are numbered so that parents precede children. Eliminating them from last to first gives one
clique per variable: the variable and its *separator*, a set of earlier variables (Koller & Friedman,
"Probabilistic Graphical Models", ch. 10: a clique tree from variable elimination). If the parents of each
variable are adjacent to each other, as in `fit.tables.fit`, the separator is the set of parents and no
clique is larger than a family.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_langgraph.errors import InvalidDataError

Floats = NDArray[np.float64]
Likelihoods = Mapping[int, Floats]
Factor = tuple[tuple[int, ...], Floats]

MAX_CELLS = 2**22
"""Maximum size of a table, in cells. Larger tables raise an error; they would take seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Clique:
    """One variable with its separator.

    Attributes:
        table: P(variable | parents), broadcast to the axes (separator..., variable).
        separator: earlier variables, ascending.
        up: the parent clique, that of the separator's last variable; -1 for a root.
        shape_up: shape in which the message broadcasts against the parent clique's table.
        rest: axes of the parent clique's table that are not in the separator.
        wide: whether a child clique's separator has two or more variables, and so needs this clique's joint.
    """

    table: Floats
    separator: tuple[int, ...]
    up: int
    shape_up: tuple[int, ...]
    rest: tuple[int, ...]
    wide: bool


def cliques(
    cards: Sequence[int], parents: Sequence[tuple[int, ...]], tables: Sequence[Floats]
) -> tuple[Clique, ...]:
    """Return the clique tree of a network, one clique per variable.

    Args:
        cards: the number of states of each variable.
        parents: the parents of each variable, ascending.
        tables: P(variable | parents) with axes (parents..., variable).

    Raises:
        InvalidDataError: a clique would have more than `MAX_CELLS` cells.
    """
    count = len(cards)
    separators = [set(own) for own in parents]
    for i in range(count - 1, -1, -1):
        if separators[i]:
            up = max(separators[i])
            separators[up] |= separators[i] - {up}
    made = []
    ordered = [tuple(sorted(separator)) for separator in separators]
    wide = {max(separator) for separator in ordered if len(separator) > 1}
    for i, separator in enumerate(ordered):
        shape = tuple(cards[p] for p in separator)
        if prod(shape) * cards[i] > MAX_CELLS:
            raise InvalidDataError(
                f"parents: variable {i} needs a table of more than {MAX_CELLS:,} cells: "
                "use fewer bins or fewer edges"
            )
        own = tuple(cards[p] if p in parents[i] else 1 for p in separator)
        table = np.ascontiguousarray(np.broadcast_to(tables[i].reshape((*own, cards[i])), (*shape, cards[i])))
        up = separator[-1] if separator else -1
        scope = (*ordered[up], up) if separator else ()
        made.append(
            Clique(
                table=table,
                separator=separator,
                up=up,
                shape_up=tuple(cards[v] if v in separator else 1 for v in scope),
                rest=tuple(axis for axis, v in enumerate(scope) if v not in separator),
                wide=i in wide,
            )
        )
    return tuple(made)


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """The upward pass for a batch of evidences.

    The first axis of each array is the evidence; its length is 1 if the array is equal for all of them.

    Attributes:
        tables: each clique's table times its evidence and incoming messages.
        messages: each clique's message to its parent clique; None for a root, or without evidence below.
        scales: the normalization constants of the messages, shape (evidences,) or (1,) each.
    """

    tables: tuple[Floats, ...]
    messages: tuple[Floats | None, ...]
    scales: tuple[Floats, ...]

    @property
    def bits(self) -> Floats:
        """log2 P(E) of each evidence, shape (evidences,)."""
        bits: Any = np.zeros(1)
        for scale in self.scales:
            bits = bits + np.log2(scale)
        return np.asarray(bits)


def collect(tree: Sequence[Clique], likelihoods: Likelihoods) -> Collected:
    """Run the upward pass, last variable first. Messages are scaled to avoid underflow.

    Args:
        tree: the clique tree.
        likelihoods: weights over a variable's states: shape (card,) or (1, card) if equal for the whole
            batch, else (evidences, card).

    Raises:
        InvalidDataError: an evidence has probability zero.
    """
    count = len(tree)
    tables: list[Floats] = [clique.table[None] for clique in tree]
    messages: list[Floats | None] = [None] * count
    scales: list[Floats] = []
    touched = [False] * count
    for i, given in likelihoods.items():
        rows = given if given.ndim == 2 else given[None]
        middle = (1,) * (tree[i].table.ndim - 1)
        tables[i] = tables[i] * rows.reshape(len(rows), *middle, -1)
        touched[i] = True
    for i in range(count - 1, -1, -1):
        if not touched[i]:
            continue  # without evidence in the subtree, the message is all ones
        clique = tree[i]
        message = np.add.reduce(tables[i], axis=-1)
        scale = np.maximum.reduce(message.reshape(len(message), -1), axis=1)
        if not np.minimum.reduce(scale) > 0.0:
            raise InvalidDataError("likelihoods: the evidence has probability zero under the network")
        scales.append(scale)
        if clique.up >= 0:
            message = message / scale.reshape(-1, *(1,) * (message.ndim - 1))
            messages[i] = message
            tables[clique.up] = tables[clique.up] * message.reshape(len(message), *clique.shape_up)
            touched[clique.up] = True
    return Collected(tuple(tables), tuple(messages), tuple(scales))


def marginals(tree: Sequence[Clique], collected: Collected) -> tuple[Floats, ...]:
    """Run the downward pass after `collect`: return P(variable | E) of each variable.

    Shapes are (evidences, card), or (1, card) where the marginal is equal for all evidences.
    """
    made: list[Floats] = []
    whole: list[Floats | None] = []
    for i, clique in enumerate(tree):
        table, message = collected.tables[i], collected.messages[i]
        if clique.up < 0:
            belief = table
            marginal = table
        else:
            if len(clique.separator) == 1:
                weight = made[clique.up]
            else:
                above = whole[clique.up]
                assert above is not None
                rest = tuple(axis + 1 for axis in clique.rest)
                weight = np.add.reduce(above, axis=rest) if rest else above
            if message is not None:
                # A zero message implies a zero weight: 0 / 0 is taken as 0.
                weight = weight / np.where(message > 0.0, message, 1.0)
            flat = table.reshape(len(table), -1, table.shape[-1])
            marginal = (weight.reshape(len(weight), 1, -1) @ flat)[:, 0]
            belief = table * weight[..., None] if clique.wide else table
        total = np.add.reduce(marginal, axis=-1, keepdims=True)
        made.append(marginal / total)
        whole.append(belief / total.reshape(-1, *(1,) * (belief.ndim - 1)) if clique.wide else None)
    return tuple(made)


def draw(
    tree: Sequence[Clique], collected: Collected, count: int, generator: np.random.Generator
) -> NDArray[np.intp]:
    """Sample P(all variables | E) for the first evidence of the batch: shape (count, variables)."""
    states = np.empty((count, len(tree)), dtype=np.intp)
    uniform = generator.random((len(tree), count))
    for i, clique in enumerate(tree):
        cumulative = np.add.accumulate(collected.tables[i][0], axis=-1)
        chosen = cumulative[tuple(states[:, p] for p in clique.separator)]
        level = uniform[i] * chosen[..., -1]
        # The comparison includes equality, so that level 0 never selects a state of weight zero.
        states[:, i] = np.add.reduce(chosen <= level[:, None], axis=-1)
    return states


def ancestors(parents: Sequence[tuple[int, ...]], of: Iterable[int]) -> set[int]:
    """Return the variables and all of their ancestors."""
    found: set[int] = set()
    todo = list(of)
    while todo:
        i = todo.pop()
        if i not in found:
            found.add(i)
            todo.extend(parents[i])
    return found


def known(likelihoods: Likelihoods) -> dict[int, int]:
    """Return the variables with exactly one possible state, and that state."""
    return {
        i: int(np.flatnonzero(weight)[0])
        for i, weight in likelihoods.items()
        if np.count_nonzero(weight) == 1
    }


def requisite(
    parents: Sequence[tuple[int, ...]], x: int, ys: Iterable[int], likelihoods: Likelihoods
) -> list[int]:
    """Return the subset of `ys` that separates `x` from the other `ys`, ascending.

    Separation is in the moral graph of the ancestors, given the evidence (Koller & Friedman, ch. 4.5).
    Hence I(x; ys | E) = I(x; requisite | E).
    """
    stop = set(ys)
    blocked = set(known(likelihoods))
    near: dict[int, set[int]] = {i: set() for i in ancestors(parents, {x, *stop, *likelihoods})}
    for i in near:
        family = (*parents[i], i)
        for a in family:
            near[a].update(family)
    hit: set[int] = set()
    seen, todo = {x}, [x]
    while todo:
        for i in near[todo.pop()] - seen - blocked:
            seen.add(i)
            if i in stop:
                hit.add(i)
            else:
                todo.append(i)
    return sorted(hit)


def largest_table(
    cards: Sequence[int], parents: Sequence[tuple[int, ...]], keep: Iterable[int], likelihoods: Likelihoods
) -> int:
    """Return the size of the largest table that `eliminate` would build, in cells."""
    kept = set(keep)
    sliced = set(known(likelihoods)) - kept
    live = sorted(ancestors(parents, {*kept, *likelihoods}))
    scopes = [{v for v in (*parents[i], i) if v not in sliced} for i in live]
    largest = 1
    for i in reversed(live):
        if i in kept or i in sliced:
            continue
        scope = {v for own in scopes if i in own for v in own}
        largest = max(largest, prod(cards[v] for v in scope))
        scopes = [own for own in scopes if i not in own]
        scopes.append(scope - {i})
    return largest


def eliminate(
    cards: Sequence[int],
    parents: Sequence[tuple[int, ...]],
    tables: Sequence[Floats],
    keep: Iterable[int],
    likelihoods: Likelihoods,
) -> list[Factor]:
    """Return factors over `keep` whose product is proportional to P(keep, E), with sorted scopes.

    E is the evidence in `likelihoods`. Variables are eliminated from the highest index down (Koller &
    Friedman, ch. 9).
    """
    kept, seen = set(keep), known(likelihoods)
    sliced = {i: state for i, state in seen.items() if i not in kept}
    live = sorted(ancestors(parents, {*kept, *likelihoods}))
    factors: list[Factor] = []
    for i in live:
        family, table = (*parents[i], i), tables[i]
        if i in likelihoods:
            table = table * likelihoods[i]
        if sliced.keys() & set(family):
            table = table[tuple(sliced.get(v, slice(None)) for v in family)]
            family = tuple(v for v in family if v not in sliced)
        factors.append((family, table))
    return sum_out(cards, factors, [i for i in reversed(live) if i not in kept and i not in sliced])[0]


def sum_out(
    cards: Sequence[int], factors: Sequence[Factor], order: Iterable[int]
) -> tuple[list[Factor], float]:
    """Sum out the variables in `order`; return the factors and log2 of their common scale."""
    left, bits = list(factors), 0.0
    for i in order:
        scope, table = product(cards, [factor for factor in left if i in factor[0]])
        axis = scope.index(i)
        table = np.add.reduce(table, axis=axis)
        scale = float(table.max())
        if not scale > 0.0:
            raise InvalidDataError("likelihoods: the evidence has probability zero under the network")
        bits += float(np.log2(scale))
        left = [factor for factor in left if i not in factor[0]]
        left.append((scope[:axis] + scope[axis + 1 :], table / scale))
    return left, bits


def product(cards: Sequence[int], factors: Sequence[Factor]) -> Factor:
    """Return the product of factors with ascending scopes; its scope is their union, ascending.

    Raises:
        InvalidDataError: it would have more than `MAX_CELLS` cells.
    """
    scope = tuple(sorted({v for own, _ in factors for v in own}))
    cells = prod(cards[v] for v in scope)
    if cells > MAX_CELLS:
        raise InvalidDataError(
            f"variables: the joint needs a table of {cells:,} cells, the limit is {MAX_CELLS:,}: "
            "use fewer variables, bins or edges"
        )
    table = np.ones((1,) * len(scope))
    for own, values in factors:
        table = table * values.reshape(tuple(cards[v] if v in own else 1 for v in scope))
    return scope, np.broadcast_to(table, tuple(cards[v] for v in scope))


def joint_entropy_bits(cards: Sequence[int], factors: Sequence[Factor]) -> float:
    """Return the entropy, in bits, of the distribution proportional to the factors' product.

    H = log2 Z - sum over the factors f of E[log2 f], so the product itself is not built.
    """
    variables = sorted({v for scope, _ in factors for v in scope}, reverse=True)
    total = 0.0
    normaliser = None
    for scope, values in factors:
        left, bits = sum_out(cards, factors, [v for v in variables if v not in scope])
        _, weights = product(cards, left)
        mass = float(weights.sum())
        if normaliser is None:
            normaliser = bits + float(np.log2(mass))
        positive = weights > 0.0
        total -= float((weights[positive] * np.log2(values[positive])).sum()) / mass
    return max(0.0, total + (normaliser or 0.0))


def entropy_bits(weights: Floats) -> float:
    """Return the Shannon entropy, in bits, of nonnegative weights that sum to 1."""
    positive = weights[weights > 0.0]
    # Not a dot product: for large tables BLAS uses threads on all cores, which spin afterwards.
    return max(0.0, -float((positive * np.log2(positive)).sum()))
