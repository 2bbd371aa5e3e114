"""Knows what was learned of one application, and what it says of a job that is under way.

Does not know how it was learned, which jobs there are, or what is done with the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from llmsched_langgraph._belief.model import total
from llmsched_langgraph._belief.model.belief import Belief
from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.columns import Column, Quantity, column_from_json, tool_name
from llmsched_langgraph._belief.model.evidence import JobEvidence, Vocabulary
from llmsched_langgraph._belief.model.total import Posterior, SoftEvidence
from llmsched_langgraph._belief.network.network import Network
from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.observed import Unit
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph.errors import InvalidDataError

VERSION = 1
"""Of the form that `to_json` writes."""

SMOOTHING = 1e-9
"""Probability that is spread over all states of a variable whose given table has zeros."""

CACHED = 4096
"""Beliefs that a model keeps at hand, and posteriors that they rest on."""


@dataclass(frozen=True)
class ApplicationModel:
    """P(everything that matters about a job), learned from earlier ones. A value: `learn` makes a new one.

    Attributes:
        fingerprint: of the application's template.
        unit: what work is counted in.
        columns: what the network's variables stand for, in its order.
        bins: what their states mean.
        network: how they hang together; no edges at all if the independent marginals predict better.
        jobs: how many jobs taught it; under `MIN_JOBS` it is mostly a static prior.
        given: whether the network was taken over from pgmpy (`Profile.with_network`). Learning keeps such a
            model until its application's runs drift; the explicit ways to replace it are another
            `Profile.with_network` and `llmsched profile fit`.

    Raises:
        InvalidDataError: the fields do not fit together.
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
            raise InvalidDataError("network.names: they are not those of the columns")
        if self.network.cards != tuple(own.states for own in self.bins):
            raise InvalidDataError("network.cards: they are not as many states as the bins have")
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
        """Whether the stages tell something of each other: "network", as against "marginals"."""
        return any(self.network.parents)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages and tools whose work it predicts, by the ids that an `Application` gives them."""
        return tuple(column.stage for column in self.columns if column.counts)

    @cached_property
    def marginals(self) -> ApplicationModel:
        """The same without any correlation: every stage on its own. An inference, the first time."""
        return replace(self, network=self.network.independent())

    @cached_property
    def positive(self) -> Network:
        """The network that beliefs rest on: `network`, with at least `SMOOTHING` / card in place of zeros.

        Learned tables have no zeros. Those of a given network may, and a job must have a belief even if
        it does what that network calls impossible.
        """
        if all(table.min() > 0.0 for table in self.network.tables):
            return self.network
        tables = tuple(
            (1.0 - SMOOTHING) * table + SMOOTHING / table.shape[-1] for table in self.network.tables
        )
        return replace(self.network, tables=tables)

    def belief(self, evidence: JobEvidence) -> Belief:
        """What is still to come of a job, given what is known of it.

        The same evidence gives the same belief object as long as it is at hand; work that goes on is
        rounded to two digits. Nothing is computed before it is asked for, and nothing twice for pasts that
        differ in nothing that matters.
        """
        return self._belief(evidence.rounded())

    def posterior(self, known: SoftEvidence) -> Posterior:
        """The work of all stages and tools, given what is known of the columns."""
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
        """Keep no belief at hand: what is asked for next is worked out anew. For measurements."""
        self._posteriors.clear()
        object.__setattr__(self, "_belief", lru_cache(CACHED)(lambda evidence: Belief(self, evidence)))

    @cached_property
    def _rounds(self) -> tuple[int, ...]:
        """Works of rounds of loops, where nothing else says that a loop that ended does not go on."""
        if self.correlated:
            return ()
        return tuple(i for i in self._counted if self.columns[i].tail or self.columns[i].last is not None)

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """The numbers of the variables that stand for the whole job's work: one, or none in a prior."""
        return tuple(i for i, column in enumerate(self.columns) if column.quantity is Quantity.TOTAL)

    @cached_property
    def _counted(self) -> tuple[int, ...]:
        return tuple(i for i, column in enumerate(self.columns) if column.counts)

    def column(self, stage: StageOccurrence, tool: str | None = None) -> int | None:
        """The number of the column of a stage's work, or of its tool's; None if there is none."""
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
        """What the evidence says of each column, by number.

        Where nothing tells of a stage's work, a fan-out that has been announced does: twice as many runs as
        usual are twice the work.
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
        """Works that have no parents, each with its fan-out."""
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
        """Plain JSON data; `from_json` of it is equal to this model."""
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
        """The model that `to_json` wrote.

        Raises:
            InvalidDataError: the data is damaged, or of another version; the message names the field.
        """
        given = Field.of(data)
        version = given["version"]
        if version.count() != VERSION:
            raise version.fault(f"{VERSION}, the only version that can be read")
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
