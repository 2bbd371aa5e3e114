"""Knows what earlier runs taught of every application: their outcomes, and the model learned from them.

Does not know queues or the clock, nor when it is time to learn. A profile is a value: `observe` and
`learned` return a new one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmsched_langgraph.belief.calibration import Calibration, Served
from llmsched_langgraph.belief.drift import RECENT, drifted
from llmsched_langgraph.belief.record import JobRecord
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.experience import NodeSeen, corrected

if TYPE_CHECKING:
    from llmsched_langgraph.belief.model import ApplicationModel
    from llmsched_langgraph.belief.outcome import JobOutcome

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
    """A running mean: `count` observations and their average."""

    count: int = 0
    value: float = 0.0

    def observe(self, *xs: float) -> Mean:
        """The mean with more observations."""
        count, value = self.count, self.value
        for x in xs:
            count += 1
            value += (x - value) / count
        return Mean(count, value)

    def plus(self, other: Mean) -> Mean:
        """The mean of both."""
        count = self.count + other.count
        if not count:
            return self
        return Mean(count, (self.count * self.value + other.count * other.value) / count)

    def towards(self, prior: float) -> float:
        """The mean shrunk towards `prior`, which counts as `SHRINKAGE` observations."""
        return (self.count * self.value + SHRINKAGE * prior) / (self.count + SHRINKAGE)


@dataclass(frozen=True)
class ApplicationProfile:
    """What runs of one application taught. Work is in slot-seconds.

    Attributes:
        application: the application, as the latest run had it.
        outcomes: what its latest jobs did, `HISTORY` at most, the newest last.
        nodes: what each node was seen to do.
        jobs: how many jobs taught it, those that are forgotten included.
        call: the mean work of its calls.
        model: what was learned from its jobs, at some time; None before.
        modelled: `jobs` at that time.
        forgotten_before: jobs that ended before this are not remembered any more, in wall-clock seconds.
    """

    application: Application
    outcomes: tuple[JobOutcome, ...] = ()
    nodes: Mapping[str, NodeSeen] = field(default_factory=dict)
    jobs: int = 0
    call: Mean = Mean()
    model: ApplicationModel | None = None
    modelled: int = 0
    forgotten_before: float = 0.0

    @cached_property
    def template(self) -> Application:
        """The application as its runs showed it to be."""
        return corrected(self.application, self.nodes)

    @cached_property
    def works_s(self) -> tuple[float, ...]:
        """The whole work of each remembered job, ascending."""
        return tuple(sorted(outcome.work_s for outcome in self.outcomes))

    @cached_property
    def mean_s(self) -> float:
        """Their mean."""
        return sum(self.works_s) / len(self.works_s) if self.works_s else 0.0

    @property
    def job(self) -> Mean:
        """The mean work of its remembered jobs."""
        return Mean(len(self.works_s), self.mean_s)

    def beyond_s(self, received_s: float) -> tuple[float, ...]:
        """The whole work of each remembered job that needed more than so much, ascending."""
        return self.works_s[bisect_right(self.works_s, received_s) :]

    @property
    def drifted(self) -> bool:
        """Whether its latest jobs are of another kind than those before."""
        return drifted([outcome.work_s for outcome in self.outcomes])

    def forgetting(self) -> ApplicationProfile:
        """The same without all that came before the latest `drift.RECENT` jobs."""
        kept = self.outcomes[-RECENT:]
        since = min((outcome.ended_at for outcome in kept), default=0.0)
        return replace(self, outcomes=kept, forgotten_before=max(self.forgotten_before, since))

    def observe(self, records: Sequence[JobRecord], paces: Mapping[str, Calibration]) -> ApplicationProfile:
        """The same with more jobs; the oldest may be forgotten. `paces` as in `outcome_of_record`."""
        from llmsched_langgraph.belief.outcome import outcome_of_record

        nodes = dict(self.nodes)
        for record in records:
            for path, seen in record.nodes().items():
                nodes[path] = nodes.get(path, NodeSeen()) + seen
        return replace(
            self,
            application=records[-1].template,
            outcomes=(*self.outcomes, *(outcome_of_record(record, paces) for record in records))[-HISTORY:],
            nodes=nodes,
            jobs=self.jobs + len(records),
            call=self.call.observe(*(call.work_s for record in records for call in record.calls)),
        )


@dataclass(frozen=True)
class Profile:
    """What earlier runs taught, by application fingerprint. All figures are slot-seconds.

    Attributes:
        applications: by fingerprint.
        job: the mean work of all jobs.
        call: the mean work of all their calls.
        paces: how the backends slow down when they are busy, by name.
    """

    applications: Mapping[str, ApplicationProfile] = field(default_factory=dict)
    job: Mean = Mean()
    call: Mean = Mean()
    paces: Mapping[str, Calibration] = field(default_factory=dict)

    def observe(self, *records: JobRecord) -> Profile:
        """The profile with more jobs; those that were incomplete or made no call teach nothing."""
        known = [record for record in records if record.teaches]
        if not known:
            return self
        paces = dict(self.paces)
        by_backend: dict[str, list[Served]] = {}
        for record in known:
            for call in record.calls:
                stage = f"{record.application}/{call.stage}"
                served = Served(stage, call.side_by_side, call.work_s, call.output_tokens)
                by_backend.setdefault(call.backend, []).append(served)
        for backend, calls in by_backend.items():
            paces[backend] = (paces.get(backend) or Calibration()).observe(calls)
        by_application: dict[str, list[JobRecord]] = {}
        for record in known:
            by_application.setdefault(record.application, []).append(record)
        seen = {
            name: (self.applications.get(name) or ApplicationProfile(own[-1].template)).observe(own, paces)
            for name, own in by_application.items()
        }
        return Profile(
            {**self.applications, **seen},
            self.job.observe(*(record.work_s for record in known)),
            self.call.observe(*(call.work_s for record in known for call in record.calls)),
            paces,
        )

    def learned(self, application: str, model: ApplicationModel, jobs: int) -> Profile:
        """The profile with a new model of an application, learned when it had seen so many jobs."""
        return self.having(replace(self.applications[application], model=model, modelled=jobs))

    def having(self, own: ApplicationProfile) -> Profile:
        """The profile with what is known of one application replaced."""
        return replace(self, applications={**self.applications, own.application.fingerprint: own})

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
        from llmsched_langgraph.belief.pgmpy_exchange import to_pgmpy

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
        from llmsched_langgraph.belief.pgmpy_exchange import with_network

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
