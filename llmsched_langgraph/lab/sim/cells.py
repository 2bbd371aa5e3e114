"""Knows which jobs a comparison learns from and which it measures, cell by cell.

Does not know how jobs are simulated, nor where files lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from llmsched_langgraph._belief.fit.evaluation import groups_of
from llmsched_langgraph._core.policies import Policy
from llmsched_langgraph._jobs.ended import EndedJob, by_app
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.evaluation import Cell
from llmsched_langgraph.lab.sim.workloads import Arrivals, Recorded, generate, resample

_SPLIT, _MIXED = 1, 2
_LEARNED = 1_000_000
"""Seeds of what is learned from begin here, where no seed of what is measured can be."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The settings of a comparison: every combination of them is a cell.

    Attributes:
        policies: by name or as objects.
        arrivals: when jobs come.
        loads: slot-seconds offered for each that there is.
        jobs: how many are measured; fewer are the first of more, and all are learned from alike.
        slots: of the backend.
        seeds: how many, from 0.
        tools: how many tool stages run at once; None for all.
    """

    policies: Sequence[str | Policy]
    arrivals: Arrivals
    loads: Sequence[float]
    jobs: Sequence[int]
    slots: int
    seeds: int
    tools: int | None = None

    def generated(self, names: Sequence[str], train: Sequence[EndedJob] | None = None) -> Iterator[Cell]:
        """Generated jobs of mixes and applications; without `train`, as many others are learned from."""
        most = max(self.jobs)
        for seed in range(self.seeds):
            for name in names:
                learn = generate(name, most, _LEARNED + seed) if train is None else train
                yield from self._cells(name, learn, generate(name, most, seed), seed)

    def recorded(
        self, sources: Sequence[Sequence[EndedJob]], train: Sequence[EndedJob] | None = None
    ) -> Iterator[Cell]:
        """Recorded jobs, as many from each source; without `train`, one half of each is learned from.

        Raises:
            ConfigurationError: a job is in `train` and in a source, or there are too few.
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
                )


def replayed(
    jobs: Sequence[EndedJob],
    policies: Sequence[str | Policy],
    slots: int,
    *,
    rate: float = 1.0,
    train: Sequence[EndedJob] | None = None,
) -> Cell:
    """Recorded jobs as they came; without `train`, the later half of them, and the earlier is learned from.

    Args:
        jobs: with their arrivals, in any order.
        policies: by name or as objects.
        slots: of the backend.
        rate: by how much faster one job follows the other than it did.
        train: jobs to learn from.

    Raises:
        ConfigurationError: the arrival of a job is not known, a job is there twice, or there are too few.
    """
    for job in jobs:
        if job.arrival_s is None:
            raise ConfigurationError(
                f"job {job.id!r} has no time of arrival, so it cannot be replayed as it came; "
                f"`llmsched bench --traces` lets recorded jobs arrive at a load of your choice"
            )
    seen: set[EndedJob] = set()
    for job in jobs:
        if job in seen:
            raise ConfigurationError(f"job {job.id!r} is there twice; name each file of recorded jobs once")
        seen.add(job)
    _check_apart(seen, train or (), "replay")
    ordered = sorted(jobs, key=_arrival_s)
    half = len(ordered) // 2 if train is None else 0
    learn, test = train or ordered[:half], ordered[half:]
    if not learn or len({job.arrival_s for job in test}) < 2:
        raise ConfigurationError(
            f"{len(jobs)} recorded jobs are too few: some must be there to learn from, and two others that "
            f"arrived at different times to replay"
        )
    arrivals = Recorded(tuple(map(_arrival_s, test)))
    load = arrivals.offered(test, slots) * rate
    return Cell("replay", learn, test, arrivals, load, slots, 0, tuple(policies))


def _arrival_s(job: EndedJob) -> float:
    return job.arrival_s or 0.0


def _check_apart(jobs: AbstractSet[EndedJob], train: Sequence[EndedJob], use: str) -> None:
    """What is learned from is not measured."""
    for job in train:
        if job in jobs:
            raise ConfigurationError(
                f"--train: job {job.id!r} is also among those to {use}; learn from others"
            )


def halves(jobs: Sequence[EndedJob], seed: int) -> tuple[list[EndedJob], list[EndedJob]]:
    """Jobs to learn from and jobs to measure; runs of one problem and turns of one session stay together.

    Raises:
        ConfigurationError: there are too few to part them.
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
        raise ConfigurationError("--traces: one job is too few to learn from a part and measure the rest")
    return parts
