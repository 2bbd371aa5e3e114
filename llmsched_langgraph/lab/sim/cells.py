"""Builds the cells of a comparison: which jobs it learns from and which it measures.

Does not simulate jobs or read files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from llmsched_langgraph._belief.fit.evaluation import groups_of
from llmsched_langgraph._core.policies import Policy
from llmsched_langgraph._jobs.ended import EndedJob, by_app
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.evaluation import Cell
from llmsched_langgraph.lab.sim.workloads import Arrivals, Recorded, generate, resample

_SPLIT, _MIXED = 1, 2
_LEARNED = 1_000_000
"""Offset of the seeds of training jobs; the seeds of measured jobs are smaller."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The settings of a comparison; each combination of load, number of jobs and seed is a cell.

    Attributes:
        policies: names or policy objects.
        arrivals: the arrival process.
        loads: offered loads, in slot-seconds of work per available slot-second.
        jobs: numbers of measured jobs; a smaller number takes the first of a larger one, and all learn from
            the same jobs.
        slots: slots of the backend.
        seeds: number of seeds, counted from 0.
        tools: most tool stages that run at once; None for no limit.
        overdue: the bound of waiting.
    """

    policies: Sequence[str | Policy]
    arrivals: Arrivals
    loads: Sequence[float]
    jobs: Sequence[int]
    slots: int
    seeds: int
    tools: int | None = None
    overdue: Overdue = UNBOUNDED

    def generated(self, names: Sequence[str], train: Sequence[EndedJob] | None = None) -> Iterator[Cell]:
        """Yield cells of generated jobs.

        Args:
            names: mixes or applications.
            train: jobs to learn from; None to generate as many jobs as the largest number in `jobs`.
        """
        most = max(self.jobs)
        for seed in range(self.seeds):
            for name in names:
                learn = generate(name, most, _LEARNED + seed) if train is None else train
                yield from self._cells(name, learn, generate(name, most, seed), seed)

    def recorded(
        self, sources: Sequence[Sequence[EndedJob]], train: Sequence[EndedJob] | None = None
    ) -> Iterator[Cell]:
        """Yield cells of recorded jobs.

        Args:
            sources: recorded jobs; each source contributes an equal share of the measured jobs.
            train: jobs to learn from; None to learn from one half of each source.

        Raises:
            ConfigurationError: a job is in `train` and in a source, or a source has too few jobs.
        """
        if train is not None:
            _check_apart({job for source in sources for job in source}, train, "measure")
        most = max(self.jobs)
        for seed in range(self.seeds):
            learn: list[EndedJob] = []
            test: list[EndedJob] = []
            for number, source in enumerate(sources):
                own, rest = ([], source) if train is not None else halves(source, seed)
                learn += own
                test += resample(rest, most * (number + 1) // len(sources) - len(test), seed)
            if len(sources) > 1:
                order = np.random.default_rng((seed, _MIXED)).permutation(len(test))
                test = [test[at] for at in order.tolist()]
            yield from self._cells("traces", learn if train is None else train, test, seed)

    def _cells(
        self, name: str, learn: Sequence[EndedJob], test: Sequence[EndedJob], seed: int
    ) -> Iterator[Cell]:
        for load in self.loads:
            for jobs in self.jobs:
                yield Cell(
                    name,
                    learn,
                    test[:jobs],
                    self.arrivals,
                    load,
                    self.slots,
                    seed,
                    tuple(self.policies),
                    self.tools,
                    self.overdue,
                )


def replayed(
    jobs: Sequence[EndedJob],
    policies: Sequence[str | Policy],
    slots: int,
    *,
    rate: float = 1.0,
    train: Sequence[EndedJob] | None = None,
) -> Cell:
    """Return a cell of recorded jobs at their recorded arrival times.

    Args:
        jobs: recorded jobs with arrival times, in any order.
        policies: names or policy objects.
        slots: slots of the backend.
        rate: factor on the recorded arrival rate.
        train: jobs to learn from; None to learn from the earlier half of `jobs` and measure the later half.

    Raises:
        ConfigurationError: a job has no arrival time, a job occurs twice, or there are too few jobs.
    """
    for job in jobs:
        if job.arrival_s is None:
            raise ConfigurationError(
                f"job {job.id!r} has no arrival time, so it cannot be replayed; "
                f"`llmsched bench --traces` draws arrivals for recorded jobs at a load of your choice"
            )
    seen: set[EndedJob] = set()
    for job in jobs:
        if job in seen:
            raise ConfigurationError(f"job {job.id!r} occurs twice; name each file of recorded jobs once")
        seen.add(job)
    _check_apart(seen, train or (), "replay")
    ordered = sorted(jobs, key=_arrival_s)
    half = len(ordered) // 2 if train is None else 0
    learn, test = train or ordered[:half], ordered[half:]
    if not learn or len({job.arrival_s for job in test}) < 2:
        raise ConfigurationError(
            f"{len(jobs)} recorded jobs are too few: a replay needs a job to learn from and two other jobs "
            f"that arrived at different times"
        )
    arrivals = Recorded(tuple(map(_arrival_s, test)))
    load = arrivals.offered(test, slots) * rate
    return Cell("replay", learn, test, arrivals, load, slots, 0, tuple(policies))


def _arrival_s(job: EndedJob) -> float:
    return job.arrival_s or 0.0


def _check_apart(jobs: AbstractSet[EndedJob], train: Sequence[EndedJob], use: str) -> None:
    """Check that no training job is also measured."""
    for job in train:
        if job in jobs:
            raise ConfigurationError(
                f"--train: job {job.id!r} is also among the jobs to {use}; learn from other jobs"
            )


def halves(jobs: Sequence[EndedJob], seed: int) -> tuple[list[EndedJob], list[EndedJob]]:
    """Split jobs into training and measured jobs; the jobs of a group (`groups_of`) stay together.

    Raises:
        ConfigurationError: there are too few jobs to split.
    """
    parts: tuple[list[EndedJob], list[EndedJob]] = ([], [])
    rng = np.random.default_rng((seed, _SPLIT))
    for own in by_app(jobs).values():
        groups: dict[str, list[EndedJob]] = {}
        for job, name in zip(own, groups_of(own), strict=True):
            groups.setdefault(name, []).append(job)
        counts = [0, 0]
        members = list(groups.values())
        for at in rng.permutation(len(members)).tolist():
            side = int(counts[0] > counts[1])
            parts[side].extend(members[at])
            counts[side] += len(members[at])
    if not parts[1]:
        raise ConfigurationError("--traces: one job is too few to learn from one part and measure the rest")
    return parts
