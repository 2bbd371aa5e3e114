"""Random networks, and what they say by plain enumeration of every joint state."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from llmsched_langgraph._belief.network.network import Network


def network(seed, cards, parents, zeros=0.0):
    """A network with random tables; `zeros` is the share of its entries that are impossible."""
    random = np.random.default_rng(seed)
    tables = []
    for card, own in zip(cards, parents, strict=True):
        table = random.dirichlet(np.ones(card), size=tuple(cards[p] for p in own))
        drop = random.random(table.shape) < zeros
        drop[..., 0] = False
        table = np.where(drop, 0.0, table + 1e-3)
        tables.append(table / table.sum(axis=-1, keepdims=True))
    names = tuple(f"x{i}" for i in range(len(cards)))
    return Network(names, tuple(cards), tuple(parents), tuple(tables))


def married(seed, count, card, window=4):
    """A long network as the learner makes them: at most two parents, adjacent to each other."""
    random = np.random.default_rng(seed)
    parents = [()]
    for i in range(1, count):
        first = int(random.integers(max(0, i - window), i))
        second = parents[first][:1] if random.random() < 0.7 else ()
        parents.append(tuple(sorted({first, *second})))
    return network(seed, [card] * count, parents)


@st.composite
def networks(draw, most=5, cards=3, in_degree=3):
    """A random network of any structure."""
    count = draw(st.integers(1, most))
    sizes = [draw(st.integers(1, cards)) for _ in range(count)]
    parents = [
        tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=in_degree)))) if i else ()
        for i in range(count)
    ]
    return network(draw(st.integers(0, 2**32)), sizes, parents, draw(st.sampled_from((0.0, 0.0, 0.3))))


@st.composite
def evidence(draw, of):
    """Likelihoods for some variables: one state, a mask, or weights."""
    given_for = draw(st.sets(st.integers(0, len(of) - 1)))
    made = {}
    for i in sorted(given_for):
        card = of.cards[i]
        kind = draw(st.sampled_from(("one", "mask", "weights")))
        if kind == "one":
            made[i] = np.eye(card)[draw(st.integers(0, card - 1))]
        elif kind == "mask":
            keep = draw(st.sets(st.integers(0, card - 1), min_size=1))
            made[i] = np.array([float(state in keep) for state in range(card)])
        else:
            weights = st.floats(0.0, 8.0, allow_subnormal=False).map(lambda w: w if w > 1e-6 else 0.0)
            made[i] = np.array(draw(st.lists(weights, min_size=card, max_size=card).filter(any)))
    return made


def joint(of, likelihoods):
    """P(all, E) of every joint state, not normalised: one axis a variable."""
    table = np.zeros(of.cards)
    for states in itertools.product(*(range(card) for card in of.cards)):
        p = 1.0
        for i, own in enumerate(of.parents):
            p *= of.tables[i][tuple(states[v] for v in (*own, i))]
            if i in likelihoods:
                p *= likelihoods[i][states[i]]
        table[states] = p
    return table


def over(table, variables):
    """The marginal of a joint table over these variables, in their order."""
    wanted = list(variables)
    kept = sorted(wanted)
    summed = table.sum(axis=tuple(i for i in range(table.ndim) if i not in kept))
    return np.transpose(summed, [kept.index(v) for v in wanted])


def bits(table):
    """Entropy of a table that sums to 1."""
    positive = table[table > 0.0]
    return -float((positive * np.log2(positive)).sum())
