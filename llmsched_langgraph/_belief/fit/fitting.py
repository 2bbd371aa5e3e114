"""Selects the network structure of an application that predicts held-out jobs best.

Does not read files or implement structure searches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.fit.models import Lessons, learn, usable_of
from llmsched_langgraph._belief.fit.structures import Parents, chow_liu, fit_edges
from llmsched_langgraph._belief.fit.tables import MARGINALS, Make, Rows, fit, gained, held_out
from llmsched_langgraph._belief.model.columns import MIN_JOBS
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._belief.network.network import Network
from llmsched_langgraph._jobs.observed import ObservedJob, Unit
from llmsched_langgraph.errors import InvalidDataError

MIN_GAIN = 1e-6
"""Minimum gain over the marginals, in bits per job. Smaller gains may be rounding errors."""

Search = Callable[[Lessons], Parents]
"""A structure search: returns the parents of each variable, or raises `InvalidDataError`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The score of one structure.

    Attributes:
        structure: name of the structure.
        bits: mean -log2 P(job) of a held-out job in bits, its total summed out; None if the search failed.
        chosen: whether the structure is used.
        fault: message of the failed search; empty if it succeeded.
    """

    structure: str
    bits: float | None = None
    chosen: bool = False
    fault: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, bits rounded to four decimals."""
        data: dict[str, Any] = {"structure": self.structure, "chosen": self.chosen}
        data["bits_per_job"] = None if self.bits is None else round(self.bits, 4)
        return {**data, "fault": self.fault} if self.fault else data


@dataclass(frozen=True, slots=True)
class Fitted:
    """The model of the best structure, and all candidates, the independent marginals last."""

    model: ApplicationModel
    candidates: tuple[Candidate, ...]


def fitted(
    application: Application,
    outcomes: Sequence[ObservedJob],
    searches: Mapping[str, Search | None],
    *,
    given: bool = False,
    seed: int = 0,
) -> Fitted:
    """Fit the structure that predicts held-out jobs best.

    Structures are compared by cross-validation (`tables.held_out`); edges and tables are learned anew in each
    fold. The best structure is used if it gains more than one standard error over the independent marginals.
    With fewer than `MIN_JOBS` jobs, the result is the prior of `models.learn`, without candidates.

    Args:
        application: the application.
        outcomes: ended jobs.
        searches: structure searches by name; None stands for the structure of `tables.fit`.
        given: whether to mark the model as given (`ApplicationModel.given`), unless its structure is that of
            `tables.fit` or the marginals.
        seed: seed of the assignment of jobs to folds.

    Raises:
        InvalidDataError: every search failed; the message is that of the last one.
    """
    usable = usable_of(outcomes, Unit.SECONDS)
    if len(usable) < MIN_JOBS:
        return Fitted(learn(application, usable), ())
    data = Lessons.of(application, usable, Unit.SECONDS)
    weigh = partial(held_out, data.rows, data.cards, data.names, hidden=data.hidden, seed=seed)
    makes = {name: _make(search, data) for name, search in searches.items()}
    alone = weigh({})[MARGINALS]
    best, most, network = MARGINALS, alone, None
    found: list[Candidate] = []
    for name, make in makes.items():
        try:
            bits = weigh({name: make})[name]
            made = make(data.rows)
        except InvalidDataError as error:
            found.append(Candidate(name, fault=str(error)))
            continue
        found.append(Candidate(name, -float(bits.mean())))
        if network is None or bits.mean() > most.mean():
            best, most, network = name, bits, made
    if network is None:
        raise InvalidDataError(found[-1].fault)
    better, gain, _ = gained(most, alone)
    if not better or gain < MIN_GAIN:
        best, network = MARGINALS, fit(data.rows, data.cards, data.names, max_parents=0)
    found.append(Candidate(MARGINALS, -float(alone.mean())))
    kept = given and best != MARGINALS and searches[best] is not None
    return Fitted(
        data.model(application, network, given=kept),
        tuple(Candidate(own.structure, own.bits, own.structure == best, own.fault) for own in found),
    )


def tree(data: Lessons) -> Parents:
    """Run `structures.chow_liu` as a search."""
    return chow_liu(data.rows, data.cards)


def _make(search: Search | None, data: Lessons) -> Make:
    def make(rows: Rows) -> Network:
        if search is None:
            return fit(rows, data.cards, data.names)
        return fit_edges(rows, data.cards, data.names, search(data._replace(rows=rows)))

    return make
