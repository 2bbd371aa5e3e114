"""Tables as pgmpy's DiscreteBayesianEstimator makes them: the reference of `belief.learner`."""

from __future__ import annotations

import numpy as np
import pytest

from llmsched_langgraph._belief.fit.tables import _counts, _levels, _seen


def tables(states, cards, families, smoothing):
    """In place of `learner.tables`: pgmpy counts and divides, with the backed-off prior as pseudo-counts."""
    pytest.importorskip("pgmpy.parameter_estimator")  # which pgmpy 1.1.0 has not
    from pgmpy.models import DiscreteBayesianNetwork
    from pgmpy.parameter_estimator import DiscreteBayesianEstimator

    prior = {}
    for i, own in enumerate(families):
        spread = np.full(cards[i], 1.0 / cards[i])
        for known in (own[:k] for k in range(len(own) + 1)):
            if known:
                spread = np.repeat(spread[..., None, :], _levels(*known[-1], cards), axis=-2)
            if known != own:
                counts = _counts(states, cards, (*known, (i, False))) + smoothing * spread
                spread = counts / counts.sum(axis=-1, keepdims=True)
        prior[_name(i)] = smoothing * spread.reshape(-1, cards[i]).T
    coarse = sorted({parent for own in families for parent in own if parent[1]})
    variables = [*((i, False) for i in range(len(cards))), *coarse]
    for one in coarse:
        prior[_name(*one)] = np.full((2, 1), smoothing / 2)
    model = DiscreteBayesianNetwork()
    model.add_nodes_from(_name(*one) for one in variables)
    model.add_edges_from((_name(*parent), _name(i)) for i, own in enumerate(families) for parent in own)
    names = {_name(*one): list(range(_levels(*one, cards))) for one in variables}
    model.fit(
        frame(states, cards, variables),
        estimator=DiscreteBayesianEstimator(state_names=names, prior_type="dirichlet", pseudo_counts=prior),
    )
    made = []
    for i, own in enumerate(families):
        values = np.asarray(model.get_cpds(_name(i)).get_values(), dtype=np.float64)
        table = values.T.reshape((*(_levels(*parent, cards) for parent in own), cards[i]))
        for axis, (p, whether) in enumerate(own):
            if whether:
                table = np.take(table, np.minimum(np.arange(cards[p]), 1), axis=axis)
        made.append(table)
    return tuple(made)


def frame(states, cards, wanted):
    """The rows as pgmpy wants them: one categorical column for each variable, or whether it is absent."""
    import pandas as pd

    return pd.DataFrame(
        {
            _name(*one): pd.Categorical(_seen(states, *one), categories=range(_levels(*one, cards)))
            for one in wanted
        }
    )


def _name(variable, coarse=False):
    # pgmpy sorts parents by name; so written, that is by number.
    return f"v{variable:06d}{'p' if coarse else ''}"
