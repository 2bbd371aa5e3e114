"""Knows what was learned of one application, and what it says of a job that is under way.

Does not know how it was learned, which jobs there are, or what is done with the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_langgraph.belief import total
from llmsched_langgraph.belief.bins import ABSENT, Bins
from llmsched_langgraph.belief.columns import Column, column_from_json, tool_name, tools_of
from llmsched_langgraph.belief.evidence import JobEvidence, known
from llmsched_langgraph.belief.network import Network
from llmsched_langgraph.belief.outcome import Unit
from llmsched_langgraph.dag.position import Spot
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.fields import Field

VERSION = 1
"""Of the form that `to_json` writes."""

LEVELS = tuple(round(step / 20, 6) for step in range(1, 20))
"""Levels of a belief's quantiles: 5 %, 10 %, ... 95 %."""

CACHED = 2048
"""Beliefs, and uncertainty reductions, that a model keeps at hand."""


@dataclass(frozen=True)
class ApplicationModel:
    """P(everything that matters about a job), learned from earlier ones. A value: `learn` makes a new one.

    Attributes:
        fingerprint: of the application's template.
        unit: what work is counted in.
        columns: what the network's variables stand for, in its order.
        bins: what their states mean.
        network: how they hang together; no edges at all if the independent marginals predict better.
        jobs: how many jobs taught it; under `LEAST_JOBS` it is mostly a static prior.

    Raises:
        InvalidDataError: the fields do not fit together.
    """

    fingerprint: str
    unit: Unit
    columns: tuple[Column, ...]
    bins: tuple[Bins, ...]
    network: Network
    jobs: int
    _belief: Callable[[JobEvidence], Belief] = field(init=False, repr=False, compare=False)
    _reduction: Callable[[Spot, str | None, JobEvidence], float] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.network.names != tuple(column.name for column in self.columns):
            raise InvalidDataError("network.names: they are not those of the columns")
        if self.network.cards != tuple(own.states for own in self.bins):
            raise InvalidDataError("network.cards: they are not as many states as the bins have")
        put = object.__setattr__
        put(self, "_belief", lru_cache(CACHED)(lambda evidence: Belief(self, evidence)))
        put(self, "_reduction", lru_cache(CACHED)(self._reduced))

    def __repr__(self) -> str:
        kind = "network" if self.correlated else "marginals"
        return f"<ApplicationModel {self.fingerprint}: {len(self.stages)} stages, {kind} of {self.jobs} jobs>"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.fingerprint, self.unit, self.columns, self.bins, self.network, self.jobs)
        return ApplicationModel, fields

    @property
    def correlated(self) -> bool:
        """Whether the stages tell something of each other: "network", as against "marginals"."""
        return any(self.network.parents)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages and tools whose work it predicts, by the ids that an `Application` gives them."""
        return tuple(column.stage for column in self.columns if column.counts)

    def independent(self) -> ApplicationModel:
        """The same without any correlation: every stage on its own."""
        return replace(self, network=self.network.independent())

    def belief(self, evidence: JobEvidence) -> Belief:
        """What is still to come of a job, given what is known of it.

        The same evidence gives the same belief object as long as it is at hand; work that goes on is
        rounded to two digits. Nothing is computed before it is asked for.
        """
        return self._belief(evidence.rounded())

    def uncertainty_reduction(self, stage: Spot, evidence: JobEvidence, tool: str | None = None) -> float:
        """How much finishing a ready stage teaches of the rest of its job, in bit-seconds: LLMSched's Eq. 6.

        R(X) = I(X; Y1..YM | E) * sum_m Range(Ym), where Y1..YM are the works of the unfinished stages that
        directed edges of the network lead to from X's work, I is their joint mutual information, and
        Range is the width of the amounts seen, in the model's unit. X is taken to be present, since it is
        ready. Where a joint table would be too large, I is a lower bound (`Network.mutual_information`).

        A stage, or a tool of it, that the model does not know teaches nothing: 0.
        """
        return self._reduction(stage, tool, evidence.rounded())

    def _reduced(self, stage: Spot, tool: str | None, evidence: JobEvidence) -> float:
        x = self._column(stage, tool)
        if x is None:
            return 0.0
        facts = self.known(evidence)
        if x in facts.values:
            return 0.0
        ys = [y for y in self.network.descendants(x) if self.columns[y].counts and y not in facts.values]
        if not ys:
            return 0.0
        likelihoods = total.evidence(self.bins, facts)
        likelihoods[x] = likelihoods.get(x, 1.0) * self.bins[x].present()
        widths = {y: hi - lo for y in ys for lo, hi in (self.bins[y].range,)}
        told = self.network.mutual_information(x, ys, likelihoods, ranges=widths)
        return told.bits * sum(widths.values())

    def _column(self, stage: Spot, tool: str | None) -> int | None:
        """The column of a stage's work, or of its tool's."""
        name = None if tool is None else tool_name(tool, tools_of(self.columns))
        for i, column in enumerate(self.columns):
            if column.counts and (column.covers(*stage) or (name is not None and column.tool == name)):
                return i
        return None

    def known(self, evidence: JobEvidence) -> total.Known:
        """What the evidence says of each column, by number."""
        return known(self.columns, self.bins, self.unit, evidence)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` of it is equal to this model."""
        return {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "unit": self.unit.value,
            "jobs": self.jobs,
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
        given = Field(data)
        version = given["version"]
        if version.count() != VERSION:
            raise version.fault(f"{VERSION}, the only version that can be read")
        return cls(
            given["fingerprint"].text(),
            given["unit"].choice(Unit),
            tuple(column_from_json(column) for column in given["columns"].items()),
            tuple(Bins.from_json(own) for own in given["bins"].items()),
            Network.from_json(given["network"]),
            given["jobs"].count(),
        )


@dataclass(frozen=True)
class Belief:
    """The posterior over what is still to come of one job. Amounts are in `model.unit`.

    Exact under the model's network, but for the quantiles, which are read from draws.

    Attributes:
        model: whose belief it is.
        evidence: what it rests on.
    """

    model: ApplicationModel
    evidence: JobEvidence

    def __repr__(self) -> str:
        return f"<Belief of {self.model!r} after {len(self.evidence.finished)} stages>"

    @cached_property
    def _known(self) -> total.Known:
        return self.model.known(self.evidence)

    @cached_property
    def _likelihoods(self) -> dict[int, NDArray[np.float64]]:
        return total.evidence(self.model.bins, self._known)

    @cached_property
    def _open(self) -> tuple[int, ...]:
        """The columns whose amounts are still to come, at least in part."""
        columns = self.model.columns
        return tuple(i for i, c in enumerate(columns) if c.counts and i not in self._known.values)

    @property
    def open(self) -> bool:
        """Whether anything may still come."""
        return bool(self._open)

    @cached_property
    def mean(self) -> float:
        """E[work still to come | E]: the sum over unfinished stages of P(present | E) E[work | present, E].

        Of a stage that is running, what is expected beyond what it has received. It orders jobs.
        """
        return total.mean(self.model.network, self.model.bins, self._open, self._known)

    @cached_property
    def quantiles(self) -> tuple[float, ...]:
        """Quantiles of the work still to come at `LEVELS`, ascending."""
        if not self._open:
            return (0.0,) * len(LEVELS)
        return total.quantiles(self.model.network, self.model.bins, self._open, self._known, LEVELS)

    @property
    def median(self) -> float:
        """The median of the work still to come."""
        return self.quantiles[len(LEVELS) // 2]

    @property
    def typical(self) -> float:
        """The geometric mean of the work still to come in the cases in which any comes.

        The best guess of its logarithm: a mean says more of the few long jobs than of a job.
        """
        some = [amount for amount in self.quantiles if amount > 0.0]
        if not some:
            # Something comes in fewer cases than any quantile tells of, and so the more in those.
            return self.mean / (1.0 - LEVELS[-1])
        return exp(sum(map(log, some)) / len(some))

    def interval(self, share: float = 0.8) -> tuple[float, float]:
        """The work still to come in the middle `share` of cases: the same share of jobs should end up inside.

        Raises:
            ValueError: its ends are not among `LEVELS`.
        """
        try:
            low = LEVELS.index(round((1.0 - share) / 2, 6))
        except ValueError:
            raise ValueError(f"share: expected 1 - 2 x for an x among {LEVELS}, got {share}") from None
        return self.quantiles[low], self.quantiles[-1 - low]

    @cached_property
    def entropy_bits(self) -> float:
        """Joint Shannon entropy of all that is not settled, in bits: what there is to learn of the job.

        Of works, fan-outs, what a plan will name: of all variables together, because what some of them alone
        leave open takes tables too large for a long loop.
        """
        unsettled = [i for i in range(len(self.model.columns)) if i not in self._known.values]
        return self.model.network.entropy(unsettled, self._likelihoods) if self._open else 0.0

    @cached_property
    def present(self) -> Mapping[str, float]:
        """For each stage and tool of `model.stages`, the probability that it happens or has happened."""
        posterior = self.model.network.marginals(self._likelihoods)
        return {
            column.stage: 1.0 - float(posterior[i][ABSENT])
            for i, column in enumerate(self.model.columns)
            if column.counts
        }
