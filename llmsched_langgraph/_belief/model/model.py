"""Defines the learned model of one application and computes beliefs about running jobs.

Does not learn, track jobs or schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from llmsched_langgraph._application.nesting import VISIT, number_of, place_of
from llmsched_langgraph._belief.model import total
from llmsched_langgraph._belief.model.belief import Belief
from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.columns import Column, Quantity, column_from_json, tool_name
from llmsched_langgraph._belief.model.evidence import JobEvidence, Vocabulary
from llmsched_langgraph._belief.model.total import LoopVariable, Posterior, SoftEvidence
from llmsched_langgraph._belief.network.network import Network
from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.observed import Unit
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph.errors import InvalidDataError

VERSION = 1
"""Format version that `to_json` writes."""

SMOOTHING = 1e-9
"""Weight of the uniform distribution that is mixed into tables when a given network has zeros."""

CACHED = 4096
"""Size of a model's cache of beliefs, and of its cache of posteriors."""


@dataclass(frozen=True)
class ApplicationModel:
    """The joint distribution over the variables of an application's jobs. An immutable value.

    Attributes:
        fingerprint: fingerprint of the application.
        unit: unit of work.
        columns: the meaning of each network variable, in the network's order.
        bins: the states of each variable.
        network: the Bayesian network; it has no edges if the independent marginals predict better.
        jobs: number of jobs that the model was learned from. Below `MIN_JOBS` it is mostly the static prior.
        given: whether the network came from pgmpy (`Profile.with_network`). Learning keeps a given network
            until the runs drift. `Profile.with_network` and `llmsched profile fit` replace it.

    Raises:
        InvalidDataError: the fields are inconsistent.
    """

    fingerprint: str
    unit: Unit
    columns: tuple[Column, ...]
    bins: tuple[Bins, ...]
    network: Network
    jobs: int
    given: bool = False
    _belief: Callable[[JobEvidence], Belief] = field(init=False, repr=False, compare=False)
    _posteriors: dict[Hashable, Posterior] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.network.names != tuple(column.name for column in self.columns):
            raise InvalidDataError("network.names: must be the names of the columns")
        if self.network.cards != tuple(own.states for own in self.bins):
            raise InvalidDataError("network.cards: must be the numbers of states of the bins")
        object.__setattr__(self, "_posteriors", {})
        self.forget()

    def __repr__(self) -> str:
        kind = "given network" if self.given else "network" if self.correlated else "marginals"
        return f"<ApplicationModel {self.fingerprint}: {len(self.stages)} stages, {kind} of {self.jobs} jobs>"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.fingerprint, self.unit, self.columns, self.bins, self.network, self.jobs, self.given)
        return ApplicationModel, fields

    @property
    def correlated(self) -> bool:
        """Whether the network has edges: "network" instead of "marginals"."""
        return any(self.network.parents)

    @property
    def stages(self) -> tuple[str, ...]:
        """The ids of the stages, and names of the tools, whose work the model predicts."""
        return tuple(column.stage for column in self.columns if column.counts)

    @cached_property
    def marginals(self) -> ApplicationModel:
        """The model with independent marginals. The first access runs one inference."""
        return replace(self, network=self.network.independent())

    @cached_property
    def positive(self) -> Network:
        """The network used for inference: `network`, smoothed if any table has zeros.

        Smoothed tables are (1 - `SMOOTHING`) P + `SMOOTHING` / card. Learned tables have no zeros, but tables
        of a given network may, and evidence that has probability zero under them must not fail.
        """
        if all(table.min() > 0.0 for table in self.network.tables):
            return self.network
        tables = tuple(
            (1.0 - SMOOTHING) * table + SMOOTHING / table.shape[-1] for table in self.network.tables
        )
        return replace(self.network, tables=tables)

    def belief(self, evidence: JobEvidence) -> Belief:
        """Return the belief about the remaining work of a job, given its evidence.

        Beliefs are computed lazily and cached by evidence, with received work rounded (`evidence.DIGITS`).
        Evidences that are equivalent for the network share one posterior (`total.key`).
        """
        return self._belief(evidence.rounded())

    def posterior(self, known: SoftEvidence) -> Posterior:
        """Return the posterior of the work of all stages and tools, given soft evidence."""
        counted = self._counted
        key = total.key(self.network, self.bins, counted, known)
        found = self._posteriors.get(key)
        if found is None:
            found = Posterior(self.positive, self.bins, counted, known, self._rounds)
            self._posteriors[key] = found
            if len(self._posteriors) > CACHED:
                del self._posteriors[next(iter(self._posteriors))]
        return found

    def forget(self) -> None:
        """Clear the caches. Used by benchmarks."""
        self._posteriors.clear()
        object.__setattr__(self, "_belief", lru_cache(CACHED)(lambda evidence: Belief(self, evidence)))

    @cached_property
    def _rounds(self) -> tuple[LoopVariable, ...]:
        """Work variables of loop occurrences; empty if the network has edges."""
        if self.correlated:
            return ()
        inner = {column.node for column in self.columns if column.first > VISIT}
        found = []
        for i in self._counted:
            column = self.columns[i]
            visit, nth = place_of(column.first)
            if column.tail or column.last is not None:
                begin = StageOccurrence(column.node, number_of(visit, 1))
                later = nth > 1 and column.node in inner
                found.append(LoopVariable(i, visit, self.column(begin) if later else None))
        return tuple(found)

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """The numbers of the variables for the whole job's work: one, or none in a prior."""
        return tuple(i for i, column in enumerate(self.columns) if column.quantity is Quantity.TOTAL)

    @cached_property
    def _counted(self) -> tuple[int, ...]:
        return tuple(i for i, column in enumerate(self.columns) if column.counts)

    def column(self, stage: StageOccurrence, tool: str | None = None) -> int | None:
        """Return the number of the column with the stage's work, else the tool's, else None."""
        for i in self._works.get(stage.path, ()):
            if self.columns[i].covers(*stage):
                return i
        return None if tool is None else self._tools.get(tool_name(tool, self._vocabulary.tools))

    @cached_property
    def _works(self) -> dict[str, list[int]]:
        works: dict[str, list[int]] = {}
        for i in self._counted:
            works.setdefault(self.columns[i].node, []).append(i)
        return works

    @cached_property
    def _tools(self) -> dict[str, int]:
        return {self.columns[i].tool: i for i in self._counted if self.columns[i].tool}

    def known(self, evidence: JobEvidence) -> SoftEvidence:
        """Return the soft evidence of a job, by column number.

        The unsettled work of a stage without parents is scaled by announced fan-out / mean fan-out.
        """
        found = self._vocabulary.known(evidence)
        scales = {
            i: runs / self.bins[wide].mean
            for i, wide in self._alone
            if i not in found.values and (runs := found.values.get(wide))
        }
        return replace(found, scales=scales) if scales else found

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.columns, self.bins, self.unit)

    @cached_property
    def _alone(self) -> tuple[tuple[int, int], ...]:
        """Pairs (work, fan-out) of the columns of each stage whose work has no parents."""
        wide = {
            (column.node, column.first): i
            for i, column in enumerate(self.columns)
            if column.quantity is Quantity.FAN_OUT
        }
        places = ((i, (self.columns[i].node, self.columns[i].first)) for i in self._counted)
        return tuple(
            (i, wide[at]) for i, at in places if at in wide and at[0] and not self.network.parents[i]
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, from which `from_json` restores the model."""
        return {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "unit": self.unit.value,
            "jobs": self.jobs,
            **({"given": 1} if self.given else {}),
            "columns": [column.to_json() for column in self.columns],
            "bins": [own.to_json() for own in self.bins],
            "network": self.network.to_json(),
        }

    @classmethod
    def from_json(cls, data: object) -> ApplicationModel:
        """Return the model that `to_json` wrote.

        Raises:
            InvalidDataError: the data is damaged, or has another version; the message names the field.
        """
        given = Field.of(data)
        version = given["version"]
        if version.count() != VERSION:
            raise version.fault(f"{VERSION}, the only supported version")
        mark = given.get("given")
        parts = (
            given["fingerprint"].text(),
            given["unit"].choice(Unit),
            tuple(column_from_json(column) for column in given["columns"].items()),
            tuple(Bins.from_json(own) for own in given["bins"].items()),
            Network.from_json(given["network"]),
            given["jobs"].count(),
            mark is not None and bool(mark.count(1)),
        )
        try:
            return cls(*parts)
        except InvalidDataError as error:
            raise given.placed(error) from None
