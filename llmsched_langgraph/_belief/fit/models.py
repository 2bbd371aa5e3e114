"""Learns the model of an application from ended jobs, and builds the prior for few or none.

Does not store jobs or decide when to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._application.nesting import rounds_before
from llmsched_langgraph._belief.fit.tables import MAX_PARENTS, SMOOTHING, choose, fit
from llmsched_langgraph._belief.model import prior
from llmsched_langgraph._belief.model.bins import BINS, Bins
from llmsched_langgraph._belief.model.columns import MIN_JOBS, Column, Quantity, columns_of, values_of
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._belief.network.network import Network, independent
from llmsched_langgraph._jobs.observed import ObservedJob, Unit

MIN_COUNT = 5
"""Minimum number of values per bin."""


def learn(
    application: Application,
    outcomes: Sequence[ObservedJob],
    *,
    unit: Unit = Unit.SECONDS,
    seed: int = 0,
    correlated: Literal["choose"] | bool = "choose",
    call: float | None = None,
) -> ApplicationModel:
    """Learn the model of an application. Deterministic; takes 0.1 s to seconds.

    Incomplete jobs, and jobs without recorded work in this unit, are ignored. With fewer than `MIN_JOBS`
    jobs, the model is a static prior updated by them.

    Args:
        application: the application. Nodes that only the outcomes have are added.
        outcomes: ended jobs.
        unit: unit of work.
        seed: seed of the cross-validation folds.
        correlated: "choose" compares the network with the independent marginals on held-out jobs
            (`tables.choose`); True forces the network, False the marginals.
        call: prior mean work of a stage, such as the mean call of other applications; None for `prior.CALL`.
    """
    usable = usable_of(outcomes, unit)
    if len(usable) < MIN_JOBS:
        return _prior(application, usable, unit, prior.CALL[unit] if call is None else call)
    data = Lessons.of(application, usable, unit)
    if correlated == "choose":
        network = choose(data.rows, data.cards, data.names, hidden=data.hidden, seed=seed).network
    else:
        network = fit(data.rows, data.cards, data.names, max_parents=MAX_PARENTS if correlated else 0)
    return data.model(application, network)


class Lessons(NamedTuple):
    """The training data of a network.

    Attributes:
        unit: unit of work.
        columns: the variables.
        bins: the states of each variable.
        rows: the jobs' states, shape (jobs, variables).
    """

    unit: Unit
    columns: tuple[Column, ...]
    bins: tuple[Bins, ...]
    rows: NDArray[np.intp]

    @classmethod
    def of(cls, application: Application, usable: Sequence[ObservedJob], unit: Unit) -> Lessons:
        """Return the training data of these jobs, with variables and bins derived from them."""
        columns = columns_of(application, usable, unit)
        values = values_of(columns, usable, unit)
        bins = tuple(Bins.fit([row[i] for row in values], BINS, MIN_COUNT) for i in range(len(columns)))
        return cls(unit, columns, bins, _states(bins, values))

    @classmethod
    def for_model(cls, model: ApplicationModel, outcomes: Sequence[ObservedJob]) -> Lessons:
        """Return the training data of these jobs in the variables and bins of a model."""
        values = values_of(model.columns, usable_of(outcomes, model.unit), model.unit)
        return cls(model.unit, model.columns, model.bins, _states(model.bins, values))

    @property
    def cards(self) -> list[int]:
        """The number of states of each variable."""
        return [own.states for own in self.bins]

    @property
    def names(self) -> list[str]:
        """The unique name of each variable."""
        return [column.name for column in self.columns]

    @property
    def hidden(self) -> list[int]:
        """The numbers of the variables that are functions of others: the total."""
        return [i for i, column in enumerate(self.columns) if column.quantity is Quantity.TOTAL]

    def model(self, application: Application, network: Network, *, given: bool = False) -> ApplicationModel:
        """Return the model of a network over these variables, in the network's order."""
        place = {name: i for i, name in enumerate(self.names)}
        order = [place[name] for name in network.names]
        return ApplicationModel(
            fingerprint=application.fingerprint,
            unit=self.unit,
            columns=tuple(self.columns[i] for i in order),
            bins=tuple(self.bins[i] for i in order),
            network=network,
            jobs=len(self.rows),
            given=given,
        )


def usable_of(outcomes: Sequence[ObservedJob], unit: Unit) -> list[ObservedJob]:
    """Return the complete jobs with recorded work in this unit."""
    return [job for job in outcomes if job.complete and job.amount(unit) is not None]


def _states(bins: Sequence[Bins], values: Sequence[Sequence[float | None]]) -> NDArray[np.intp]:
    rows = [[own.index(value) for own, value in zip(bins, row, strict=True)] for row in values]
    return np.array(rows, dtype=np.intp).reshape(len(rows), len(bins))


def _prior(
    application: Application, outcomes: Sequence[ObservedJob], unit: Unit, call: float
) -> ApplicationModel:
    """Return an independent model: each stage has its observed mean work, else that of a call.

    Its stages are those of nodes that call a model (for tool seconds: of the other nodes), or of all nodes if
    there is none. Without any stage, a single column stands for all calls; no evidence settles it.
    """
    calls = unit is not Unit.TOOL_SECONDS
    nodes = {node.path for node in application.nodes if node.calls_llm is calls}
    stages = [stage for stage in application.stages if stage.node in nodes or not nodes]
    columns = [Column(Quantity.WORK, stage.node, stage.occurrence, stage.last) for stage in stages]
    columns = columns or [Column(Quantity.WORK)]
    seen = values_of(columns, outcomes, unit)
    bins, tables = [], []
    for i, column in enumerate(columns):
        happens = prior.GOES_ON ** rounds_before(column.first)
        shared = max(1, len(prior.SPREAD) // prior.JOBS)
        shown = [row[i] for row in seen for _ in range(shared)]
        seen_here = [value for value in shown if value]
        # A few jobs determine the mean; the spread comes from the prior.
        about = sum(seen_here) / len(seen_here) if seen_here else call
        own = Bins.fit([*(about * share for share in prior.SPREAD), *shown], BINS)
        weights = np.array([SMOOTHING / own.states] * own.states)
        for value in shown:
            weights[own.index(value)] += 1.0
        for share in prior.SPREAD:
            weights[own.index(about * share)] += happens
        weights[0] += len(prior.SPREAD) * (1.0 - happens)
        bins.append(own)
        tables.append(weights / weights.sum())
    network = independent([column.name for column in columns], tables)
    return ApplicationModel(
        fingerprint=application.fingerprint,
        unit=unit,
        columns=tuple(columns),
        bins=tuple(bins),
        network=network,
        jobs=len(outcomes),
    )
