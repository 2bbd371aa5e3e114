"""Knows what people ask of the profile of an application: what its stages cost, and what tells what.

Does not know how that is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.fit.evaluation import tools_in
from llmsched_langgraph._belief.model.columns import Column, Quantity, columns_of, planned_nodes, values_of
from llmsched_langgraph._belief.model.evidence import Begun, JobEvidence
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._belief.profile.profile import ApplicationProfile
from llmsched_langgraph._jobs.observed import ObservedJob, Unit
from llmsched_langgraph._jobs.stages import StageOccurrence

FOLLOWED = 40
"""Jobs over which the entropy is averaged, the latest ones; one takes up to a tenth of a second."""

STEPS = 8
"""Finished stages after which it is computed, at most."""


@dataclass(frozen=True, slots=True)
class StageFigures:
    """A stage, or a tool that its plan names.

    Attributes:
        stage: its id.
        jobs: how many of the jobs that are remembered it happened in.
        present: the probability that it happens, in the model; without one the share of those jobs.
        mean: of its work, in those jobs.
        median: the same.
        teaches: how much its end tells of the rest of a job of which nothing is known yet, in bit-seconds:
            `Belief.uncertainty_reduction`. 0 without a model.
    """

    stage: str
    jobs: int
    present: float
    mean: float
    median: float
    informative: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A profile in figures. Amounts of work are in `unit`.

    Attributes:
        name: what the application calls itself.
        fingerprint: its key.
        unit: what work is counted in.
        jobs: how many jobs taught it.
        remembered: how many of them are remembered.
        mean: the work of those.
        median: the same.
        model: "network", "marginals", or None if nothing was learned yet.
        given: whether that was taken over from pgmpy, and stays when more jobs are learned from.
        modelled: `jobs` when it was learned.
        stages: in the order of the template.
        depends: what depends on what in the model, in words: a quantity, and those that tell most of it.
        entropy_bits: mean entropy of a job before its first stage, after one that ended, after two, ...; over
            the `followed` latest jobs, 0 for those that are over. Empty without a model.
        followed: how many these are.
    """

    name: str
    fingerprint: str
    unit: Unit
    jobs: int
    remembered: int
    mean: float
    median: float
    model: str | None
    modelled: int
    stages: tuple[StageFigures, ...]
    depends: tuple[tuple[str, tuple[str, ...]], ...]
    entropy_bits: tuple[float, ...]
    followed: int
    given: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            **asdict(self),
            "unit": self.unit.value,
            "depends": [{"quantity": own, "on": list(on)} for own, on in self.depends],
        }


def summary_of(profile: ApplicationProfile) -> Summary:
    """The figures of a profile. Takes some seconds where there is a model of many stages."""
    model, application = profile.model, profile.application
    unit = Unit.SECONDS if model is None else model.unit
    works = [amount for job in profile.outcomes if (amount := job.amount(unit)) is not None]
    followed = profile.outcomes[-FOLLOWED:]
    return Summary(
        name=application.name,
        fingerprint=application.fingerprint,
        unit=unit,
        jobs=profile.jobs,
        remembered=len(profile.outcomes),
        mean=fmean(works) if works else 0.0,
        median=median(works) if works else 0.0,
        model=None if model is None else "network" if model.correlated else "marginals",
        modelled=profile.modelled,
        stages=tuple(_stages(profile, unit)),
        depends=() if model is None else tuple(dependencies(model)),
        entropy_bits=() if model is None else tuple(_entropies(model, profile.template, followed)),
        followed=len(followed),
        given=model is not None and model.given,
    )


def dependencies(model: ApplicationModel) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The edges of a model in words: each quantity that has parents, with them."""
    for column, parents in zip(model.columns, model.network.parents, strict=True):
        if parents:
            yield column.words, tuple(model.columns[i].words for i in parents)


def _stages(profile: ApplicationProfile, unit: Unit) -> Iterator[StageFigures]:
    model = profile.model
    columns = columns_of(profile.template, profile.outcomes, unit) if model is None else model.columns
    rows = values_of(columns, profile.outcomes, unit)
    belief = None if model is None else model.belief(JobEvidence())
    for i, column in enumerate(columns):
        if not column.counts:
            continue
        seen = [amount for row in rows if (amount := row[i]) is not None]
        yield StageFigures(
            column.stage,
            len(seen),
            len(seen) / max(len(rows), 1) if belief is None else belief.present[column.stage],
            fmean(seen) if seen else 0.0,
            median(seen) if seen else 0.0,
            0.0 if belief is None else belief.uncertainty_reduction(*_place(column)),
        )


def _place(column: Column) -> tuple[StageOccurrence, str | None]:
    # A tool has no stage of its own: no stage runs for the 0th time.
    if column.quantity is Quantity.TOOL:
        return StageOccurrence(column.node, 0), column.tool
    return StageOccurrence(column.node, column.first), None


def _entropies(
    model: ApplicationModel, application: Application, outcomes: tuple[ObservedJob, ...]
) -> Iterator[float]:
    if not outcomes:
        return
    planners = set(planned_nodes(application).values())
    longest = max(len(job.stages) for job in outcomes)
    for ended in range(min(longest, STEPS) + 1):
        going = [job for job in outcomes if len(job.stages) > ended]
        bits = [model.belief(_after(job, ended, planners)).entropy_bits for job in going]
        yield sum(bits) / len(outcomes)


def _after(job: ObservedJob, ended: int, planners: set[str]) -> JobEvidence:
    """What was known of a job once so many of its stages had ended and the next one was announced."""
    finished, following = job.stages[:ended], job.stages[ended]
    planned = any(stage.stage_occurrence.path in planners for stage in finished)
    return JobEvidence(
        job.prompt_tokens,
        finished,
        (Begun(following.stage_occurrence, following.fan_out),),
        tools_in(job.stages) if planned else None,
    )
