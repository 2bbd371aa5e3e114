"""Knows what earlier runs taught of every application: its ended jobs, and the model learned from them.

Does not know queues or the clock, nor when it is time to learn. A profile is a value: `observe` and
`learned` return a new one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._application.application import DIRECT, Application
from llmsched_langgraph._application.behaviour import NodeBehaviour, corrected
from llmsched_langgraph._belief.fit.calibration import Calibration, Served
from llmsched_langgraph._belief.fit.drift import RECENT, drifted
from llmsched_langgraph._jobs.ended import EndedCall, EndedJob, EndedStage
from llmsched_langgraph._jobs.observed import ObservedJob, nodes_of, observed

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.model import ApplicationModel

HISTORY = 1_000
"""Jobs of an application that are remembered, the latest ones: what changes is not held up by the past."""

PRIOR_CALL_S = 1.0
"""Work of a call, in seconds, as long as not one call has ever been seen."""

SHRINKAGE = 2.0
"""How many observations a mean's prior is worth. Two keep one odd run from deciding the order."""

GOES_ON = 0.5
"""Probability that a loop goes round once more, as long as no run has shown it."""


@dataclass(frozen=True, slots=True)
class Mean:
    """`count` observations and their average."""

    count: int = 0
    value: float = 0.0

    def towards(self, prior: float) -> float:
        """The mean shrunk towards `prior`, which counts as `SHRINKAGE` observations."""
        return (self.count * self.value + SHRINKAGE * prior) / (self.count + SHRINKAGE)


@dataclass(frozen=True)
class History:
    """The jobs of one application that are remembered, each once, and all that follows from them.

    Attributes:
        jobs: in the order in which they were taken in, or of `order` once profiles were merged.
    """

    jobs: tuple[EndedJob, ...] = ()

    def __len__(self) -> int:
        return len(self.jobs)

    def new(self, jobs: Iterable[EndedJob]) -> list[EndedJob]:
        """Those that are not among its jobs; one without an id is named by what it did."""
        ids = set(self.ids)
        found = []
        for job in jobs:
            if not job.id:
                job = _named(job, ids)
            if job.id not in ids:
                ids.add(job.id)
                found.append(job)
        return found

    def plus(self, new: Sequence[EndedJob]) -> History:
        """The same with jobs that are not there yet, cut to the latest `HISTORY`."""
        made = History((*self.jobs, *new)[-HISTORY:])
        # What each job did is worked out once.
        vars(made)["outcomes"] = (*self.outcomes, *map(observed, new))[-HISTORY:]
        return made

    @cached_property
    def ids(self) -> frozenset[str]:
        """The jobs' ids."""
        return frozenset(job.id for job in self.jobs)

    @cached_property
    def outcomes(self) -> tuple[ObservedJob, ...]:
        """What the jobs did."""
        return tuple(map(observed, self.jobs))

    @cached_property
    def works_s(self) -> tuple[float, ...]:
        """The whole work of each job, ascending."""
        return tuple(sorted(outcome.work_s for outcome in self.outcomes))

    @cached_property
    def job(self) -> Mean:
        """The mean work of the jobs."""
        return Mean(len(self.jobs), sum(self.works_s) / len(self.jobs)) if self.jobs else Mean()

    @cached_property
    def call(self) -> Mean:
        """The mean work of their calls."""
        works_s = [call.seconds or 0.0 for job in self.jobs for call in job.llm_calls()]
        return Mean(len(works_s), sum(works_s) / len(works_s)) if works_s else Mean()

    @cached_property
    def nodes(self) -> Mapping[str, NodeBehaviour]:
        """What each node was seen to do in them."""
        nodes: dict[str, NodeBehaviour] = {}
        for job in self.jobs:
            for path, seen in nodes_of(job).items():
                nodes[path] = nodes.get(path, NodeBehaviour()) + seen
        return nodes


def order(job: EndedJob) -> tuple[float, str]:
    """The order of remembered jobs, the same in all processes."""
    return job.ended_at, job.id


def _named(job: EndedJob, ids: Collection[str]) -> EndedJob:
    name = "#" + sha256(repr(job).encode()).hexdigest()[:12]
    numbered = (f"{name}-{n}" for n in count(1))
    return replace(job, id=next(name for name in chain((name,), numbered) if name not in ids))


@dataclass(frozen=True)
class ApplicationProfile:
    """What runs of one application taught. Work is in slot-seconds.

    Attributes:
        application: the application, as the latest run had it.
        history: its jobs, as `as_learned` has them. All figures are derived from them.
        counted: jobs that were ever taken in, by the profile of those merged that took in the most.
        model: what was learned from its jobs, at some time; None before.
        modelled: `jobs` at that time.
        forgotten_before: jobs that ended before this are not remembered any more, in wall-clock seconds.
    """

    application: Application
    history: History = History()
    counted: int = 0
    model: ApplicationModel | None = None
    modelled: int = 0
    forgotten_before: float = 0.0

    @property
    def jobs(self) -> int:
        """How many jobs taught it, as far as that is known: never more than there were. It only grows."""
        return max(self.counted, len(self.history))

    @property
    def outcomes(self) -> tuple[ObservedJob, ...]:
        """What its remembered jobs did."""
        return self.history.outcomes

    @property
    def nodes(self) -> Mapping[str, NodeBehaviour]:
        """What each node was seen to do in its remembered jobs."""
        return self.history.nodes

    @cached_property
    def template(self) -> Application:
        """The application as its runs showed it to be."""
        return corrected(self.application, self.nodes)

    @property
    def works_s(self) -> tuple[float, ...]:
        """The whole work of each remembered job, ascending."""
        return self.history.works_s

    @property
    def mean_s(self) -> float:
        """Their mean."""
        return self.history.job.value

    def beyond_s(self, received_s: float) -> tuple[float, ...]:
        """The whole work of each remembered job that needed more than so much, ascending."""
        return self.works_s[bisect_right(self.works_s, received_s) :]

    @property
    def drifted(self) -> bool:
        """Whether its latest jobs are of another kind than those before."""
        return drifted([outcome.work_s for outcome in self.outcomes])

    def forgetting(self, latest: int = RECENT) -> ApplicationProfile:
        """The same without all that came before the latest jobs."""
        kept = self.history.jobs[-latest:]
        since = min((job.ended_at for job in kept), default=0.0)
        return replace(
            self,
            history=History(kept),
            counted=self.jobs,
            forgotten_before=max(self.forgotten_before, since),
        )

    def observe(self, jobs: Sequence[EndedJob]) -> ApplicationProfile:
        """The same with more jobs, as `as_learned` has them; the oldest may be forgotten."""
        new = self.history.new(jobs)
        return replace(self, history=self.history.plus(new), counted=self.jobs + len(new))


@dataclass(frozen=True)
class Profile:
    """What earlier runs taught, by application fingerprint. All figures are slot-seconds.

    Attributes:
        applications: by fingerprint.
        paces: how the backends slow down when they are busy, by name: of all calls that were ever observed.
    """

    applications: Mapping[str, ApplicationProfile] = field(default_factory=dict)
    slowdowns: Mapping[str, Calibration] = field(default_factory=dict)

    @cached_property
    def job(self) -> Mean:
        """The mean work of all remembered jobs, each application weighing as much as it had jobs."""
        return _together(Mean(own.jobs, own.mean_s) for own in self.applications.values())

    @cached_property
    def call(self) -> Mean:
        """The mean work of all their calls."""
        return _together(own.history.call for own in self.applications.values())

    def observe(self, *jobs: EndedJob) -> Profile:
        """The profile with more jobs; those that were incomplete or made no call teach nothing."""
        by_application: dict[str, list[EndedJob]] = {}
        for job in jobs:
            if job.informative:
                by_application.setdefault(job.fingerprint, []).append(job)
        if not by_application:
            return self
        before = {
            name: replace(
                self.applications.get(name) or ApplicationProfile(DIRECT),
                application=own[-1].template or Application.of(own[-1].app),
            )
            for name, own in by_application.items()
        }
        new = {name: before[name].history.new(own) for name, own in by_application.items()}
        slowdowns = calibrated(self.slowdowns, chain.from_iterable(new.values()))
        seen = {
            name: before[name].observe([as_learned(job, slowdowns) for job in own])
            for name, own in new.items()
        }
        return Profile({**self.applications, **seen}, slowdowns)

    def learned(self, application: str, model: ApplicationModel, jobs: int) -> Profile:
        """The profile with a new model of an application, learned when it had seen so many jobs."""
        return self.having(replace(self.applications[application], model=model, modelled=jobs))

    def having(self, own: ApplicationProfile) -> Profile:
        """The profile with what is known of one application replaced."""
        return replace(self, applications={**self.applications, own.application.fingerprint: own})

    def prepared(self) -> Profile:
        """The same, with what is derived worked out: nothing of that is left to those who hold a lock."""
        for own in self.applications.values():
            _ = own.template, own.works_s
        _ = self.job, self.call
        return self

    def to_pgmpy(self, application: Application | str) -> Any:
        """The network learned of an application, as a pgmpy `DiscreteBayesianNetwork` of its own.

        To be queried (`pgmpy.inference.VariableElimination`), drawn or written. Variables are the columns of
        the application's model by name (`total`, `prompt`, `fan_out:STAGE`, `work:STAGE`, ...), states are
        `absent` and the range of each bin, such as `0.52 to 1.2 s`. Imports pgmpy, which takes seconds.

        Args:
            application: the application, its fingerprint, or its name.

        Raises:
            InvalidDataError: the profile has no such application, several of that name, or no model of it.
        """
        from llmsched_langgraph._belief.profile.pgmpy_exchange import to_pgmpy

        return to_pgmpy(self, application)

    def with_network(self, application: Application | str, network: Any) -> Profile:
        """The profile with a pgmpy network in place of what was learned of an application.

        Its variables are those of `to_pgmpy`, with any edges that have no cycle. CPDs are used as they stand:
        states go by the names of `to_pgmpy`, or by their numbers. Without CPDs, tables are estimated from the
        jobs that the profile remembers. The network keeps its place when more jobs are learned from, and
        when profiles are merged, until the application's runs drift, or another one takes its place.

        Args:
            application: the application, its fingerprint, or its name.
            network: a pgmpy `DiscreteBayesianNetwork` or `DAG`.

        Raises:
            InvalidDataError: as `to_pgmpy`; or other variables or states, a CPD that is missing or no
                distribution, a cycle, a table of more than 2**22 cells. The message names the variable.
        """
        from llmsched_langgraph._belief.profile.pgmpy_exchange import with_network

        return with_network(self, application, network)

    def template(self, application: Application) -> Application:
        """The application as its runs showed it to be."""
        known = self.applications.get(application.fingerprint)
        return application if known is None else corrected(application, known.nodes)

    def jobs(self, application: str) -> int:
        """How many jobs of the application taught the profile."""
        known = self.applications.get(application)
        return 0 if known is None else known.jobs

    @property
    def call_s(self) -> float:
        """Expected work of a call of which nothing is known."""
        return self.call.towards(PRIOR_CALL_S)

    def total_work_s(self, application: Application) -> float:
        """Expected work of a whole job, before anything is known of it.

        Of an application that never ran, a call for each stage that makes some, as far as its loops are
        likely to go; of one whose stages are not known either, what jobs need on average.
        """
        known = self.applications.get(application.fingerprint)
        if known is not None and known.works_s:
            count = len(known.works_s)
            return (known.mean_s * count + SHRINKAGE * self.job.towards(self.call_s)) / (count + SHRINKAGE)
        stages = [stage for stage in application.stages if application.by_path[stage.node].calls_llm]
        if not stages:
            return self.job.towards(self.call_s)
        return sum(self.call_s * GOES_ON ** (stage.occurrence - 1) for stage in stages)


def calibrated(slowdowns: Mapping[str, Calibration], jobs: Iterable[EndedJob]) -> dict[str, Calibration]:
    """How backends slow down, with what more jobs show of it."""
    by_backend: dict[str, list[Served]] = {}
    for job in jobs:
        for stage in job.stages:
            for call in stage.calls if stage.kind == "llm" else ():
                if call.seconds is not None:
                    name = f"{job.fingerprint or job.app}/{stage.name}"
                    served = Served(name, call.concurrency, call.seconds, call.output_tokens)
                    by_backend.setdefault(call.backend, []).append(served)
    seen = {name: (slowdowns.get(name) or Calibration()).observe(calls) for name, calls in by_backend.items()}
    return {**slowdowns, **seen}


def as_learned(job: EndedJob, slowdowns: Mapping[str, Calibration]) -> EndedJob:
    """The job as a profile remembers it: without times of waiting, and without what its runs knew of it.

    Seconds of calls are those that they would have taken on a busy backend, as far as `paces` tells of it
    (`Calibration.at_capacity`).
    """

    def normalised(stage: EndedStage, call: EndedCall) -> EndedCall:
        seconds = call.seconds
        if stage.kind == "llm" and seconds is not None and (pace := slowdowns.get(call.backend)) is not None:
            seconds *= pace.at_capacity(call.concurrency)
        return EndedCall(call.prompt_tokens, call.output_tokens, seconds)

    return replace(job.with_calls(normalised), template=None)


def _together(means: Iterable[Mean]) -> Mean:
    given = list(means)
    total = sum(mean.count for mean in given)
    return Mean(total, sum(mean.count * mean.value for mean in given) / total) if total else Mean()
