"""Knows how outcomes of jobs become a model of their application, and what to believe before there are any.

Does not know where outcomes are kept, nor when it is time to learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.fit.tables import MAX_PARENTS, SMOOTHING, choose, fit
from llmsched_langgraph._belief.model.bins import BINS, Bins
from llmsched_langgraph._belief.model.columns import MIN_JOBS, Column, Quantity, columns_of, values_of
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._belief.network.network import Network, independent
from llmsched_langgraph._jobs.observed import ObservedJob, Unit

MIN_COUNT = 5
"""Values that each bin is made of, at least."""

PRIOR_CALL = {Unit.SECONDS: 1.0, Unit.TOKENS: 100.0, Unit.TOOL_SECONDS: 1.0}
"""Work of a stage that no job has shown: its mean."""

PRIOR_SPREAD = (0.125, 0.25, 0.5, 0.625, 0.75, 1.0, 1.75, 3.0)
"""How it spreads about that, with a mean of 1: eight jobs that nobody ran."""

PRIOR_GOES_ON = 0.5
"""Probability that a loop goes round once more, as long as no job has shown it."""

PRIOR_JOBS = 2
"""Jobs that the prior counts for beside those that ran."""


def learn(
    application: Application,
    outcomes: Sequence[ObservedJob],
    *,
    unit: Unit = Unit.SECONDS,
    seed: int = 0,
    correlated: Literal["choose"] | bool = "choose",
    call: float | None = None,
) -> ApplicationModel:
    """The model that jobs of an application teach. The same arguments give the same model.

    A network is used if it predicts held-out jobs better than the independent marginals do (`choose`).
    Jobs that did not go to their end, or whose work in this unit is not known, teach nothing; under
    `MIN_JOBS` the model is a static prior that they sharpen. Takes tenths of a second to seconds.

    Args:
        application: the template; nodes that only the outcomes show are added to it.
        outcomes: ended jobs.
        unit: what work is counted in.
        seed: deals the jobs into those to learn from and those to choose by.
        correlated: True takes the network anyway, False the marginals.
        call: work of a call, as far as other applications show it: a guess where no job has shown a stage.
    """
    usable = usable_of(outcomes, unit)
    if len(usable) < MIN_JOBS:
        return _prior(application, usable, unit, PRIOR_CALL[unit] if call is None else call)
    data = Lessons.of(application, usable, unit)
    if correlated == "choose":
        network = choose(data.rows, data.cards, data.names, hidden=data.hidden, seed=seed).network
    else:
        network = fit(data.rows, data.cards, data.names, max_parents=MAX_PARENTS if correlated else 0)
    return data.model(application, network)


class Lessons(NamedTuple):
    """Jobs as a network is learned from them.

    Attributes:
        unit: what work is counted in.
        columns: the variables.
        bins: their states.
        rows: the jobs' states, shape (jobs, variables).
    """

    unit: Unit
    columns: tuple[Column, ...]
    bins: tuple[Bins, ...]
    rows: NDArray[np.intp]

    @classmethod
    def of(cls, application: Application, usable: Sequence[ObservedJob], unit: Unit) -> Lessons:
        """What these jobs show, in variables and bins that follow from them."""
        columns = columns_of(application, usable, unit)
        values = values_of(columns, usable, unit)
        bins = tuple(Bins.fit([row[i] for row in values], BINS, MIN_COUNT) for i in range(len(columns)))
        return cls(unit, columns, bins, _states(bins, values))

    @classmethod
    def for_model(cls, model: ApplicationModel, outcomes: Sequence[ObservedJob]) -> Lessons:
        """What these jobs show, in the variables and bins of a model."""
        values = values_of(model.columns, usable_of(outcomes, model.unit), model.unit)
        return cls(model.unit, model.columns, model.bins, _states(model.bins, values))

    @property
    def cards(self) -> list[int]:
        """How many states each variable has."""
        return [own.states for own in self.bins]

    @property
    def names(self) -> list[str]:
        """One unique name a variable."""
        return [column.name for column in self.columns]

    @property
    def hidden(self) -> list[int]:
        """Numbers of the variables that say nothing new of a job: its total."""
        return [i for i, column in enumerate(self.columns) if column.quantity is Quantity.TOTAL]

    def model(self, application: Application, network: Network, *, given: bool = False) -> ApplicationModel:
        """The model of a network of these variables, in whatever order it has them."""
        place = {name: i for i, name in enumerate(self.names)}
        order = [place[name] for name in network.names]
        return ApplicationModel(
            application.fingerprint,
            self.unit,
            tuple(self.columns[i] for i in order),
            tuple(self.bins[i] for i in order),
            network,
            len(self.rows),
            given,
        )


def usable_of(outcomes: Sequence[ObservedJob], unit: Unit) -> list[ObservedJob]:
    """The jobs that went to their end and whose work in this unit is known."""
    return [job for job in outcomes if job.complete and job.amount(unit) is not None]


def _states(bins: Sequence[Bins], values: Sequence[Sequence[float | None]]) -> NDArray[np.intp]:
    rows = [[own.index(value) for own, value in zip(bins, row, strict=True)] for row in values]
    return np.array(rows, dtype=np.intp).reshape(len(rows), len(bins))


def _prior(
    application: Application, outcomes: Sequence[ObservedJob], unit: Unit, call: float
) -> ApplicationModel:
    """A model without correlations: every stage has the work that jobs show, or that of a call.

    Those are the nodes that call a model, or where it is seconds of tools the others; if none is
    known, all; if there are none at all, one that never ends being expected.
    """
    calls = unit is not Unit.TOOL_SECONDS
    nodes = {node.path for node in application.nodes if node.calls_llm is calls}
    stages = [stage for stage in application.stages if stage.node in nodes or not nodes]
    columns = []
    for stage in stages:
        single = application.occurrences(stage.node) == 1
        columns.append(
            Column(
                Quantity.WORK,
                stage.node,
                stage.occurrence,
                None if stage.tail or single else stage.occurrence,
            )
        )
    columns = columns or [Column(Quantity.WORK)]
    seen = values_of(columns, outcomes, unit)
    bins, tables = [], []
    for i, column in enumerate(columns):
        happens = PRIOR_GOES_ON ** (column.first - 1)
        shared = max(1, len(PRIOR_SPREAD) // PRIOR_JOBS)
        shown = [row[i] for row in seen for _ in range(shared)]
        seen_here = [value for value in shown if value]
        # What a few jobs show is where it lies; how far it spreads about that, they cannot show.
        about = sum(seen_here) / len(seen_here) if seen_here else call
        own = Bins.fit([*(about * share for share in PRIOR_SPREAD), *shown], BINS)
        weights = np.array([SMOOTHING / own.states] * own.states)
        for value in shown:
            weights[own.index(value)] += 1.0
        for share in PRIOR_SPREAD:
            weights[own.index(about * share)] += happens
        weights[0] += len(PRIOR_SPREAD) * (1.0 - happens)
        bins.append(own)
        tables.append(weights / weights.sum())
    network = independent([column.name for column in columns], tables)
    return ApplicationModel(
        application.fingerprint, unit, tuple(columns), tuple(bins), network, len(outcomes)
    )
