"""Converts networks to and from pgmpy, and runs pgmpy's structure searches.

Does not decide when to learn. Only functions of this module import pgmpy, because that takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.fit.models import Lessons
from llmsched_langgraph._belief.fit.structures import Parents, check_size, fit_edges, topological
from llmsched_langgraph._belief.fit.tables import MAX_PARENTS, k2
from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.columns import Column, Quantity
from llmsched_langgraph._belief.network.network import ROUNDING, Network
from llmsched_langgraph._jobs.observed import ObservedJob, Unit
from llmsched_langgraph.errors import InvalidDataError

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.model import ApplicationModel

SUM_ERROR = 0.01
"""Maximum deviation of a given sum from 1, as in pgmpy; above `ROUNDING`, it is normalized."""

MOST_SCORES = 20
"""Limit of a search's score evaluations, times n^3 for n variables. Most searches need 1 to 9."""

Floats = NDArray[np.float64]


def to_pgmpy(model: ApplicationModel) -> Any:
    """Return the model's network as a pgmpy `DiscreteBayesianNetwork`; see `Profile.to_pgmpy`."""
    from pgmpy.factors.discrete import TabularCPD  # type: ignore[import-untyped]
    from pgmpy.models import DiscreteBayesianNetwork  # type: ignore[import-untyped]

    network, states = model.network, state_names(model)
    made = DiscreteBayesianNetwork()
    made.add_nodes_from(network.names)
    for i, (name, own) in enumerate(zip(network.names, network.parents, strict=True)):
        above = [network.names[p] for p in own]
        made.add_edges_from((parent, name) for parent in above)
        made.add_cpds(
            TabularCPD(
                name,
                network.cards[i],
                network.tables[i].reshape(-1, network.cards[i]).T,
                evidence=above or None,
                evidence_card=[network.cards[p] for p in own] or None,
                state_names={variable: states[variable] for variable in (name, *above)},
            )
        )
    return made


def states_of(model: ApplicationModel, jobs: Sequence[ObservedJob]) -> Any:
    """Return the jobs as a pandas DataFrame of the model's states; see `Profile.states`."""
    import pandas as pd  # type: ignore[import-untyped]

    lessons, states = Lessons.for_model(model, jobs), state_names(model)
    return pd.DataFrame(
        {
            name: pd.Categorical.from_codes(lessons.rows[:, i], categories=states[name])
            for i, name in enumerate(lessons.names)
        }
    )


def state_names(model: ApplicationModel) -> dict[str, list[str]]:
    """Return the state names of each variable, in order: `absent`, then the range of each bin."""
    return {
        column.name: _state_names(column, bins, model.unit)
        for column, bins in zip(model.columns, model.bins, strict=True)
    }


def _state_names(column: Column, bins: Bins, unit: Unit) -> list[str]:
    shown: list[str] = []
    for digits in range(3, 18):
        shown = [_shown(own.lo, own.hi, _counted(column, unit), digits) for own in bins.bins]
        if len(set(shown)) == len(shown):
            break
    return ["absent", *shown]


def _shown(lo: float, hi: float, what: str, digits: int) -> str:
    least, most = (f"{float(f'{x:.{digits}g}'):.{max(digits, 6)}g}" for x in (lo, hi))
    if least != most:
        return f"{least} to {most} {what}"
    return f"{least} {what[:-1] if least == '1' and what != 's' else what}"


def _counted(column: Column, unit: Unit) -> str:
    match column.quantity:
        case Quantity.FAN_OUT:
            return "runs"
        case Quantity.TASKS | Quantity.PLANNED:
            return "uses"
        case Quantity.PROMPT | Quantity.LENGTH:
            return "tokens"
        case Quantity.TOTAL | Quantity.WORK | Quantity.TOOL:
            return "tokens" if unit is Unit.TOKENS else "s"


def with_network(
    application: Application, model: ApplicationModel, jobs: Sequence[ObservedJob], network: Any
) -> ApplicationModel:
    """Return the model with a pgmpy network in place of its own; see `Profile.with_network`.

    Args:
        application: the model's application.
        model: gives the variables and their states.
        jobs: tables are estimated from them if the network has no CPDs.
        network: a pgmpy `DiscreteBayesianNetwork` or `DAG`.
    """
    names = [column.name for column in model.columns]
    parents = parents_in(network, names)
    topological(names, parents)
    cpds = network.get_cpds() if hasattr(network, "get_cpds") else []
    lessons = Lessons.for_model(model, jobs)
    if not cpds:
        if not len(lessons.rows):
            raise InvalidDataError(
                f"{application.name}: the network has no CPDs, and the profile has no jobs to "
                "estimate them from; add CPDs"
            )
        made = fit_edges(lessons.rows, lessons.cards, names, parents)
        return lessons.model(application, made, given=True)
    made = _with_tables(names, state_names(model), parents, cpds)
    return replace(lessons.model(application, made, given=True), jobs=model.jobs)


def parents_in(network: Any, names: Sequence[str]) -> Parents:
    """Return the numbers of the parents of each variable in a pgmpy network of these variables.

    Raises:
        InvalidDataError: the network is not directed, or has other variables.
    """
    import networkx as nx  # type: ignore[import-untyped]
    from pgmpy.base import PDAG  # type: ignore[import-untyped]

    if isinstance(network, PDAG):
        raise InvalidDataError(
            "network: a PDAG has undirected edges; search with return_type='dag', or give its to_dag()"
        )
    if not isinstance(network, nx.DiGraph):
        kind = type(network).__name__
        raise InvalidDataError(f"network: must be a pgmpy DiscreteBayesianNetwork or DAG, not a {kind}")
    place = {name: i for i, name in enumerate(names)}
    wanted = f"the variables are {', '.join(map(repr, names))}"
    for name in network.nodes:
        if name not in place:
            raise InvalidDataError(f"network: the model has no variable {name!r}; {wanted}")
    for name in names:
        if name not in network:
            raise InvalidDataError(
                f"network: has no variable {name!r}; add it, without edges if nothing depends on it; {wanted}"
            )
    return [sorted(place[parent] for parent in network.predecessors(name)) for name in names]


def _with_tables(
    names: Sequence[str], states: Mapping[str, Sequence[str]], parents: Parents, cpds: Sequence[Any]
) -> Network:
    """Return the network with these CPDs, its variables reordered so that parents come first."""
    by_name = {getattr(cpd, "variable", None): cpd for cpd in cpds}
    order = topological(names, parents)
    place = {names[v]: at for at, v in enumerate(order)}
    above = [sorted(place[names[p]] for p in parents[v]) for v in order]
    ordered = [names[v] for v in order]
    cards = [len(states[name]) for name in ordered]
    tables = []
    for name, own, card in zip(ordered, above, cards, strict=True):
        if name not in by_name:
            raise InvalidDataError(
                f"network: variable {name!r} has no CPD; add it, or remove all CPDs to have them estimated"
            )
        check_size(name, [cards[p] for p in own], card)
        tables.append(_table(by_name[name], [ordered[p] for p in own], states))
    return Network(tuple(ordered), tuple(cards), tuple(map(tuple, above)), tuple(tables))


def _table(cpd: Any, above: Sequence[str], states: Mapping[str, Sequence[str]]) -> Floats:
    """Return a CPD's table with axes (above..., variable) and states in the model's order."""
    name = cpd.variable
    if not hasattr(cpd, "state_names") or not hasattr(cpd, "values"):
        raise InvalidDataError(f"network: the CPD of {name!r} must be a TabularCPD, not {type(cpd).__name__}")
    given = list(cpd.variables)
    if sorted(given[1:]) != sorted(above):
        raise InvalidDataError(
            f"network: the CPD of {name!r} has the evidence {sorted(given[1:])}, but its parents are "
            f"{sorted(above)}; make them equal"
        )
    table = np.asarray(cpd.values, dtype=np.float64)
    for axis, variable in enumerate(given):
        order = _places(name, variable, table.shape[axis], cpd.state_names.get(variable), states[variable])
        table = np.take(table, order, axis=axis)
    table = np.transpose(table, [given.index(variable) for variable in (*above, name)])
    sums = table.sum(axis=-1)
    wrong = ~((table >= 0.0).all(axis=-1) & (np.abs(sums - 1.0) <= SUM_ERROR))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        where = ", ".join(f"{v}={states[v][i]}" for v, i in zip(above, at, strict=True))
        raise InvalidDataError(
            f"network: P({name}{' | ' if where else ''}{where}) is {table[at].tolist()}; "
            "it must sum to 1 and have no negative entries"
        )
    return table if (np.abs(sums - 1.0) <= ROUNDING).all() else table / sums[..., None]


def _places(
    name: str, variable: str, card: int, given: Sequence[Any] | None, wanted: Sequence[str]
) -> list[int]:
    """Return the position in a CPD of each of the model's states of a variable."""
    if card != len(wanted):
        raise InvalidDataError(
            f"network: the CPD of {name!r} has {card} states for {variable!r}; it must have {len(wanted)}: "
            f"{', '.join(map(repr, wanted))}"
        )
    said = [str(state) for state in given or range(card)]
    for called in (list(wanted), [str(state) for state in range(card)]):
        if sorted(said) == sorted(called):
            return [said.index(state) for state in called]
    raise InvalidDataError(
        f"network: the CPD of {name!r} names the states of {variable!r} {', '.join(map(repr, said))}; "
        f"name them {', '.join(map(repr, wanted))}, or 0 to {card - 1}"
    )


def read_bif(path: Path) -> Any:
    """Read the network in a .bif file with pgmpy.

    Raises:
        InvalidDataError: the file cannot be read, or pgmpy finds no network in it.
    """
    from pgmpy.readwrite import BIFReader  # type: ignore[import-untyped]

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidDataError(f"{path}: cannot be read: {said}") from None
    try:
        network = BIFReader(string=text).get_model()
    except Exception as error:  # the parser raises various types on malformed text
        raise InvalidDataError(f"{path}: pgmpy cannot read it as BIF: {error!r}") from None
    if not network.nodes:
        raise InvalidDataError(f"{path}: contains no network")
    return network


def edges_of(network: Any) -> Callable[[Lessons], Parents]:
    """Return a search for `fitting.fitted` that gives this network's edges; see `parents_in`."""
    return lambda data: parents_in(network, data.names)


def hill_climb(score: str = "k2") -> Callable[[Lessons], Parents]:
    """Return a search with pgmpy's `HillClimbSearch`, with causal order and `MAX_PARENTS`."""

    def search(data: Lessons) -> Parents:
        from pgmpy.causal_discovery import (  # type: ignore[import-untyped]
            ExpertKnowledge,
            HillClimbSearch,
        )

        back = {(later, earlier) for earlier, later in combinations(range(len(data.cards)), 2)}
        return _searched(
            data,
            score,
            lambda scoring: HillClimbSearch(
                scoring_method=scoring,
                max_indegree=MAX_PARENTS,
                expert_knowledge=ExpertKnowledge(forbidden_edges=back),
                return_type="dag",
                show_progress=False,
            ),
        )

    return search


def ges(score: str = "bic", most: int | None = None) -> Callable[[Lessons], Parents]:
    """Return a search with pgmpy's `GES`, which ignores the causal order and the limit of parents.

    GES needs a score-equivalent score, which K2 is not. On some data, the GES of pgmpy 1.1 reverses edges
    forever, so the search fails after `MOST_SCORES` n^3 scores for n variables.

    Args:
        score: "bic" or "bdeu".
        most: maximum number of variables; None for no limit. The time grows with about n^4.
    """

    def search(data: Lessons) -> Parents:
        from pgmpy.causal_discovery import GES

        if score == "k2":
            raise InvalidDataError("GES needs a score that is equal for equivalent networks: bic or bdeu")
        if most is not None and len(data.cards) > most:
            raise InvalidDataError(f"{len(data.cards)} variables; GES is too slow for more than {most}")
        return _searched(data, score, lambda scoring: GES(scoring_method=scoring, return_type="dag"))

    return search


def _searched(data: Lessons, score: str, search: Callable[[Any], Any]) -> Parents:
    import pandas as pd

    count = len(data.cards)
    # Numbers, not names: pgmpy iterates over sets of edges, and string hashes differ between processes. They
    # are Python's: pandas before 3.0 does not find numpy's among names.
    frame = pd.DataFrame(
        {i: pd.Categorical(data.rows[:, i], categories=range(card)) for i, card in enumerate(data.cards)}
    )
    frame.columns = pd.Index(range(count), dtype=object)
    try:
        with _quiet():
            found = search(_scoring(score, frame, data)).fit(frame).causal_graph_
    except InvalidDataError:
        raise
    except Exception as error:  # a failed search must not stop the others
        raise InvalidDataError(f"pgmpy's search failed: {error!r}") from error
    return [sorted(found.predecessors(i)) for i in range(count)]


def _scoring(score: str, frame: Any, data: Lessons) -> Any:
    """Return a pgmpy score (for K2: `tables.k2`) with a limited number of evaluations."""
    from pgmpy.structure_score import BIC, K2, BDeu  # type: ignore[import-untyped]

    ours, most = k2(data.rows, data.cards), MOST_SCORES * len(data.cards) ** 3

    class Limited({"k2": K2, "bdeu": BDeu, "bic": BIC}[score]):  # type: ignore[misc]
        asked = 0

        def local_score(self, variable: int, parents: tuple[int, ...]) -> Any:
            self.asked += 1
            if self.asked > most:
                raise InvalidDataError(f"pgmpy's search does not converge: stopped after {most:,} scores")
            return super().local_score(variable, parents)

        if score == "k2":  # see `tables.k2` for why pgmpy's own is not used

            def _local_score(self, variable: int, parents: tuple[int, ...]) -> float:
                return ours(variable, tuple((parent, False) for parent in sorted(parents)))

    return Limited(frame, state_names={i: list(range(card)) for i, card in enumerate(data.cards)})


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress pgmpy's log messages about inferred data types."""
    from pgmpy import logger  # type: ignore[import-untyped]

    before = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(before)
