"""Summarizes an application's profile: work of its stages, dependencies and entropy.

Does not format the summary.
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
"""Number of latest jobs over which the entropy is averaged. Each takes up to 0.1 s."""

STEPS = 8
"""Maximum number of finished stages at which the entropy is computed."""


@dataclass(frozen=True, slots=True)
class StageFigures:
    """The statistics of a stage or of a planned tool.

    Attributes:
        stage: id of the stage, or name of the tool.
        jobs: number of remembered jobs in which it occurs.
        present: probability of occurrence under the model; without a model, the share of remembered jobs.
        mean: mean work over those jobs, in the unit of the summary.
        median: median work over those jobs, in the unit of the summary.
        informative: `Belief.uncertainty_reduction` for a new job, in bits times the unit; 0 without a model.
    """

    stage: str
    jobs: int
    present: float
    mean: float
    median: float
    informative: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The statistics of a profile. Amounts of work are in `unit`.

    Attributes:
        name: name of the application.
        fingerprint: fingerprint of the application.
        unit: unit of work.
        jobs: number of jobs that were ever observed.
        remembered: number of remembered jobs.
        mean: mean work of the remembered jobs.
        median: median work of the remembered jobs.
        model: "network", "marginals", or None without a model.
        modelled: value of `jobs` when the model was learned.
        stages: statistics of the stages, in the order of the template.
        depends: the edges of the network: (quantity, its parents), as text.
        entropy_bits: mean entropy in bits after 0, 1, 2, ... ended stages, over the `followed` latest jobs;
            0 for ended jobs. Empty without a model.
        followed: number of jobs in `entropy_bits`.
        given: whether the network came from pgmpy (`ApplicationModel.given`).
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
        """Return plain JSON data."""
        return {
            **asdict(self),
            "unit": self.unit.value,
            "depends": [{"quantity": own, "on": list(on)} for own, on in self.depends],
        }


def summary_of(profile: ApplicationProfile) -> Summary:
    """Return the summary of a profile. Takes seconds for a model with many stages."""
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
    """Yield the edges of a model as text: each quantity that has parents, with its parents."""
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
            stage=column.stage,
            jobs=len(seen),
            present=len(seen) / max(len(rows), 1) if belief is None else belief.present[column.stage],
            mean=fmean(seen) if seen else 0.0,
            median=median(seen) if seen else 0.0,
            informative=0.0 if belief is None else belief.uncertainty_reduction(*_place(column)),
        )


def _place(column: Column) -> tuple[StageOccurrence, str | None]:
    # A tool has no stage of its own: occurrence 0 matches no stage column.
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
    """Return the evidence of a job after `ended` ended stages, with the next stage announced."""
    finished, following = job.stages[:ended], job.stages[ended]
    planned = any(stage.stage_occurrence.path in planners for stage in finished)
    return JobEvidence(
        job.prompt_tokens,
        finished,
        (Begun(following.stage_occurrence, following.fan_out),),
        tools_in(job.stages) if planned else None,
    )
