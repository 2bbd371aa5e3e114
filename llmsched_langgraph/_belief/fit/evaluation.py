"""Measures how well an application's model predicts held-out jobs.

Does not read files or format results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Any, NamedTuple

import numpy as np

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._belief.model.columns import Quantity, planned_nodes, values_of
from llmsched_langgraph._belief.model.evidence import Begun, JobEvidence
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._belief.model.outliers import limited
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph._jobs.observed import ObservedJob, ObservedStage, Unit, numbered, observed, rounds
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed, StageProgress
from llmsched_langgraph.errors import InvalidDataError

MIN_JOBS = 15
"""Minimum number of jobs for an evaluation."""

PARTS = 5
"""Number of cross-validation folds."""

MAX_MEASURED = 200
"""Number of measured jobs after which the remaining folds are skipped."""

STEPS = 8
"""Maximum number of finished stages at which remaining work is predicted."""

MIN_POINTS = 10
"""Minimum number of jobs for an R2."""

MIN_WORK_S = 1e-3
"""Lower bound of work in logarithms; also the share by which intervals are widened.

Without the widening, rounding could put constant work outside its interval.
"""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Prediction quality on the held-out jobs of one application.

    Attributes:
        app: name of the application.
        unit: unit of work.
        jobs: number of measured jobs.
        stages: number of unrolled stages and tools with a work variable.
        logloss_network: mean -log2 P(job) under the network with edges, in bits; a job is the states of all
            variables except the total.
        logloss_marginals: mean -log2 P(job) under the independent marginals, with the same bins.
        used: "network" or "marginals": what learning chose in most folds, on the training jobs only.
        r2_log_remaining: R2 of log remaining work after 0, 1, 2, ... finished stages, predicted by
            `Belief.typical` of the chosen model, over jobs with remaining work. None for fewer than
            `MIN_POINTS` jobs or without variance.
        r2_log_remaining_marginals: as `r2_log_remaining`, predicted by the independent marginals.
        coverage80: share of moments with the remaining work in the 80 % interval, among the moments at which
            the model considers remaining work possible.
    """

    app: str
    unit: Unit
    jobs: int
    stages: int
    logloss_network: float
    logloss_marginals: float
    used: str
    r2_log_remaining: tuple[float | None, ...]
    r2_log_remaining_marginals: tuple[float | None, ...]
    coverage80: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, rounded to four decimals."""
        return {
            "app": self.app,
            "jobs": self.jobs,
            "stages": self.stages,
            "logloss_network": round(self.logloss_network, 4),
            "logloss_marginals": round(self.logloss_marginals, 4),
            "used": self.used,
            "r2_log_remaining": _rounded(self.r2_log_remaining),
            "r2_log_remaining_marginals": _rounded(self.r2_log_remaining_marginals),
            "coverage80": round(self.coverage80, 4),
        }


class Moment(NamedTuple):
    """A recorded job at one moment of its execution.

    Attributes:
        evidence: the evidence at that moment.
        finished: number of ended stage occurrences, as in `ObservedJob.stages`.
        remaining: true remaining work, in the requested unit.
    """

    evidence: JobEvidence
    finished: int
    remaining: float


class Guess(NamedTuple):
    """The true and the predicted remaining work of a job at one moment.

    Attributes:
        finished: number of ended stage occurrences.
        remaining: true remaining work, in the unit of the evaluation.
        predicted: predicted remaining work, in the same unit.
    """

    finished: int
    remaining: float
    predicted: float


class Guesses(NamedTuple):
    """The predictions for one application's jobs, and their unit."""

    app: str
    unit: Unit
    guesses: tuple[Guess, ...]


def unit_of(jobs: Sequence[EndedJob]) -> Unit:
    """Return the unit of work for recorded jobs.

    Seconds of LLM calls if at least half of the jobs have them, else seconds of tools if at least half of the
    jobs have those, else output tokens.
    """
    outcomes = [observed(job) for job in jobs]
    for unit in (Unit.SECONDS, Unit.TOOL_SECONDS):
        if 2 * sum(bool(job.amount(unit)) for job in outcomes) >= len(outcomes):
            return unit
    return Unit.TOKENS


def groups_of(jobs: Sequence[EndedJob]) -> list[str]:
    """Return the group of each job of one application, such as a common problem or session.

    Ids are split at `/`. The group is the component with the most distinct values over all jobs.
    """
    ids = [job.id.split("/") for job in jobs]
    shared = min(map(len, ids), default=1)
    values = [[parts[place] for parts in ids] for place in range(shared)]
    return max(values, key=lambda column: len(set(column)), default=[])


def moments(job: EndedJob, application: Application, unit: Unit) -> Iterator[Moment]:
    """Replay a recorded job: yield the moments before its first stage and after each ended stage.

    Stages end in the order of `observed.rounds`. The stages of the next superstep, with their fan-outs, are
    announced when the current superstep has ended. Skipped nodes follow from the application's edges.
    """
    job = numbered(job, application)
    position = StageProgress(application)
    planners = set(planned_nodes(application).values())
    first = next(job.llm_calls(), None)
    prompt = None if first is None else first.prompt_tokens
    steps = rounds(job)
    planned = tools_in(stage for step in steps for stage in step)
    left = observed(job).amount(unit) or 0.0
    finished: list[ObservedStage] = []
    plan: tuple[tuple[str, int], ...] | None = None
    number = 0
    for step, following in zip(((), *steps), (*steps, ()), strict=True):
        for at, stage in enumerate(step, 1):
            position.move(Ended(number + at, 0.0))
            finished.append(stage)
            left -= stage.amount(unit) or 0.0
            if stage.stage_occurrence.path in planners:
                plan = planned
            if at < len(step):
                yield Moment(_evidence(position, prompt, finished, step[at:], plan), len(finished), left)
        number += len(step)
        if not following:
            return
        runs = [(number + at, stage.stage_occurrence.path) for at, stage in enumerate(following, 1)]
        position.move(Revealed(tuple(runs)))
        for run, _ in runs:
            position.move(Began(run))
        yield Moment(_evidence(position, prompt, finished, following, plan), len(finished), left)


def _evidence(
    position: StageProgress,
    prompt: int | None,
    finished: Sequence[ObservedStage],
    announced: Sequence[ObservedStage],
    plan: tuple[tuple[str, int], ...] | None,
) -> JobEvidence:
    return JobEvidence(
        prompt_tokens=prompt,
        finished=tuple(finished),
        begun=tuple(Begun(stage.stage_occurrence, stage.fan_out) for stage in announced),
        planned=plan,
        skipped=frozenset(position.application.by_path) - position.coming(),
        passed=position.passed(),
    )


def tools_in(stages: Iterable[ObservedStage]) -> tuple[tuple[str, int], ...]:
    """Return (tool, number of uses) pairs over the stages, sorted: the plan of a whole job."""
    named: Counter[str] = Counter()
    for stage in stages:
        for part in stage.parts:
            if part.tool is not None:
                named[part.tool] += part.runs
    return tuple(sorted(named.items()))


def evaluate(
    app: str, jobs: Sequence[EndedJob], train: Sequence[EndedJob] | None = None, *, seed: int = 0
) -> Evaluation:
    """Evaluate models of an application on held-out jobs. Jobs without recorded work are ignored.

    Args:
        app: name of the application.
        jobs: the jobs to measure. Without `train`, they are cross-validated in `PARTS` folds that keep groups
            (`groups_of`) together, until `MAX_MEASURED` jobs are measured.
        train: the jobs to learn from; `jobs` that are among them are not measured.
        seed: seed of the folds and of learning.

    Raises:
        InvalidDataError: there are fewer than `MIN_JOBS` jobs to learn from or to measure.
    """
    tally, unit = _measured(app, jobs, train, seed)
    return tally.result(app, unit)


def guesses(
    app: str, jobs: Sequence[EndedJob], train: Sequence[EndedJob] | None = None, *, seed: int = 0
) -> Guesses:
    """Return the predictions that `evaluate` aggregates. Arguments and errors are the same."""
    tally, unit = _measured(app, jobs, train, seed)
    return Guesses(
        app,
        unit,
        tuple(
            Guess(finished, exp(true), exp(predicted))
            for finished, rows in sorted(tally.logs.items())
            for true, predicted, _ in rows
        ),
    )


def _measured(
    app: str, jobs: Sequence[EndedJob], train: Sequence[EndedJob] | None, seed: int
) -> tuple[_Tally, Unit]:
    unit = unit_of(jobs if train is None else [*jobs, *train])
    usable = [job for job in jobs if observed(job).amount(unit)]
    tally = _Tally()
    if train is not None:
        known = set(train)
        usable = [job for job in usable if job not in known]
        learned = [job for job in train if observed(job).amount(unit)]
        if min(len(usable), len(learned)) < MIN_JOBS:
            raise InvalidDataError(
                f"{app}: {len(learned)} jobs to learn from and {len(usable)} others to measure; "
                f"at least {MIN_JOBS} of each are required"
            )
        tally.measure(app, learned, usable, unit, seed)
    else:
        if len(usable) < MIN_JOBS:
            raise InvalidDataError(
                f"{app}: {len(usable)} jobs with recorded {unit}; at least {MIN_JOBS} are required"
            )
        part = split(usable, seed)
        for number in range(PARTS):
            held = [job for job, own in zip(usable, part, strict=True) if own == number]
            rest = [job for job, own in zip(usable, part, strict=True) if own != number]
            if held and rest and tally.jobs < MAX_MEASURED:
                tally.measure(app, rest, held, unit, seed)
    return tally, unit


def split(jobs: Sequence[EndedJob], seed: int) -> list[int]:
    """Return the fold of each job: groups in random order, each assigned to the smallest fold."""
    groups = groups_of(jobs)
    sizes = Counter(groups)
    names = sorted(sizes)
    full = [0] * PARTS
    home: dict[str, int] = {}
    for i in np.random.default_rng(seed).permutation(len(names)):
        name = names[i]
        home[name] = full.index(min(full))
        full[home[name]] += sizes[name]
    return [home[group] for group in groups]


@dataclass(slots=True)
class _Tally:
    """The measurements so far."""

    jobs: int = 0
    stages: int = 0
    bits: list[tuple[float, float]] = field(default_factory=list)
    chosen: list[bool] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)
    logs: dict[int, list[tuple[float, float, float]]] = field(default_factory=dict)

    def measure(
        self, app: str, train: Sequence[EndedJob], held: Sequence[EndedJob], unit: Unit, seed: int
    ) -> None:
        """Learn from `train` and measure on `held`."""
        template = template_of(app, train)
        outcomes = [observed(numbered(job, template)) for job in limited(train)]
        used = learn(template, outcomes, unit=unit, seed=seed)
        marginals = learn(template, outcomes, unit=unit, correlated=False) if used.correlated else used
        network = used if used.correlated else learn(template, outcomes, unit=unit, correlated=True)
        self.chosen.append(used.correlated)
        self.stages = max(self.stages, len(used.stages))
        for job in held:
            self.jobs += 1
            outcome = observed(numbered(job, template))
            self.bits.append((job_bits(network, outcome), job_bits(marginals, outcome)))
            for moment in moments(job, template, unit):
                if moment.finished > STEPS:
                    break
                self._predict(used, marginals, moment)

    def _predict(self, used: ApplicationModel, marginals: ApplicationModel, moment: Moment) -> None:
        belief, alone = used.belief(moment.evidence), marginals.belief(moment.evidence)
        if belief.open:
            lo, hi = belief.interval(0.8)
            self.inside.append(lo - MIN_WORK_S * lo <= moment.remaining <= hi + MIN_WORK_S * hi)
        if moment.remaining <= MIN_WORK_S:
            return
        row = tuple(log(max(x, MIN_WORK_S)) for x in (moment.remaining, belief.typical, alone.typical))
        self.logs.setdefault(moment.finished, []).append((row[0], row[1], row[2]))

    def result(self, app: str, unit: Unit) -> Evaluation:
        """Return the aggregated measurements."""
        rows = [np.array(self.logs.get(k, ())).reshape(-1, 3) for k in range(max(self.logs, default=-1) + 1)]
        bits = np.array(self.bits).mean(axis=0)
        return Evaluation(
            app=app,
            unit=unit,
            jobs=self.jobs,
            stages=self.stages,
            logloss_network=float(bits[0]),
            logloss_marginals=float(bits[1]),
            used="network" if 2 * sum(self.chosen) > len(self.chosen) else "marginals",
            r2_log_remaining=tuple(_r2(row[:, 0], row[:, 1]) for row in rows),
            r2_log_remaining_marginals=tuple(_r2(row[:, 0], row[:, 2]) for row in rows),
            coverage80=float(np.mean(self.inside)) if self.inside else 0.0,
        )


def job_bits(model: ApplicationModel, outcome: ObservedJob) -> float:
    """Return -log2 P(job) in bits, over the states of all variables except the total.

    Values of models with different bins are not comparable.
    """
    (values,) = values_of(model.columns, [outcome], model.unit)
    seen = {
        i: np.eye(own.states)[own.index(value)]
        for i, (column, own, value) in enumerate(zip(model.columns, model.bins, values, strict=True))
        if column.quantity is not Quantity.TOTAL
    }
    return -model.positive.evidence_bits(seen)


def _r2(true: Any, guessed: Any) -> float | None:
    """Return R2 = 1 - sum (y - f)^2 / sum (y - mean y)^2; None for too few y or no variance."""
    spread = float(((true - true.mean()) ** 2).sum()) if len(true) else 0.0
    if len(true) < MIN_POINTS or spread < 1e-9:
        return None
    return 1.0 - float(((true - guessed) ** 2).sum()) / spread


def _rounded(figures: Sequence[float | None]) -> list[float | None]:
    return [None if figure is None else round(figure, 4) for figure in figures]
