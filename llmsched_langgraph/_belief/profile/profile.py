"""Holds what was learned of each application: its ended jobs and the model fitted to them.

Does not use queues or clocks, or decide when to learn. Profiles are immutable: `observe` and `learned` return
new ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._application.application import DIRECT, Application
from llmsched_langgraph._application.behaviour import NodeBehaviour, corrected
from llmsched_langgraph._application.nesting import rounds_before
from llmsched_langgraph._belief.fit.calibration import Calibration
from llmsched_langgraph._belief.fit.drift import RECENT, drifted
from llmsched_langgraph._belief.model.outliers import limited
from llmsched_langgraph._belief.model.prior import CALL, GOES_ON, MEANS, shrunk
from llmsched_langgraph._belief.profile.normalising import as_learned, calibrated
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph._jobs.observed import ObservedJob, Unit, nodes_of, observed
from llmsched_langgraph.errors import InvalidDataError

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.model import ApplicationModel

HISTORY = 1_000
"""Number of latest jobs of an application that are remembered."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean `value` of `count` observations."""

    count: int = 0
    value: float = 0.0

    def towards(self, prior: float) -> float:
        """Return the value, shrunk towards a prior with the weight `MEANS`."""
        return shrunk(self.count * self.value, self.count, prior, MEANS)


@dataclass(frozen=True)
class History:
    """The remembered jobs of one application, with distinct ids, and values derived from them.

    Attributes:
        jobs: the jobs, in the order of observation; in `order` after a merge.
    """

    jobs: tuple[EndedJob, ...] = ()

    def __len__(self) -> int:
        return len(self.jobs)

    def new(self, jobs: Iterable[EndedJob]) -> list[EndedJob]:
        """Return the jobs with ids that are not in the history; a job without an id gets a hash."""
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
        """Return the history with new jobs, limited to the latest `HISTORY`."""
        made = History((*self.jobs, *new)[-HISTORY:])
        vars(made)["recorded"] = (*self.recorded, *map(observed, new))[-HISTORY:]  # converts each job once
        return made

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids of the jobs."""
        return frozenset(job.id for job in self.jobs)

    @cached_property
    def recorded(self) -> tuple[ObservedJob, ...]:
        """The observed behaviour of the jobs, with all durations as recorded."""
        return tuple(map(observed, self.jobs))

    @cached_property
    def limited(self) -> tuple[EndedJob, ...]:
        """The jobs with outliers limited, from which everything about work is estimated."""
        return tuple(limited(self.jobs))

    @cached_property
    def outcomes(self) -> tuple[ObservedJob, ...]:
        """The observed behaviour of the jobs, with outliers limited (`outliers.limited`)."""
        pairs = zip(self.jobs, self.limited, self.recorded, strict=True)
        return tuple(seen if own is job else observed(own) for job, own, seen in pairs)

    @cached_property
    def works_s(self) -> tuple[float, ...]:
        """The total work of each job in slot-seconds, ascending."""
        return tuple(sorted(outcome.work_s for outcome in self.outcomes))

    @cached_property
    def job(self) -> Mean:
        """The mean work of a job."""
        return Mean(len(self.jobs), sum(self.works_s) / len(self.jobs)) if self.jobs else Mean()

    @cached_property
    def alone(self) -> float:
        """Seconds that these jobs take alone, tools included, per slot-second of work; 1.0 if not known."""
        paths_s = works_s = 0.0
        for job in self.limited:
            path_s, work_s = job.critical_path_s, job.work_s
            if path_s and work_s:
                paths_s += path_s
                works_s += work_s
        return paths_s / works_s if works_s else 1.0

    @cached_property
    def call(self) -> Mean:
        """The mean work of a call of these jobs."""
        works_s = [call.seconds or 0.0 for job in self.limited for call in job.llm_calls()]
        return Mean(len(works_s), sum(works_s) / len(works_s)) if works_s else Mean()

    @cached_property
    def nodes(self) -> Mapping[str, NodeBehaviour]:
        """The observed behaviour of each node, by path."""
        nodes: dict[str, NodeBehaviour] = {}
        for job in self.jobs:
            for path, seen in nodes_of(job).items():
                nodes[path] = nodes.get(path, NodeBehaviour()) + seen
        return nodes


def order(job: EndedJob) -> tuple[float, str]:
    """Return the sort key of jobs in merged histories, equal in all processes."""
    return job.ended_at, job.id


def _named(job: EndedJob, ids: Collection[str]) -> EndedJob:
    name = "#" + sha256(repr(job).encode()).hexdigest()[:12]
    numbered = (f"{name}-{n}" for n in count(1))
    return replace(job, id=next(name for name in chain((name,), numbered) if name not in ids))


@dataclass(frozen=True)
class ApplicationProfile:
    """The profile of one application. Work is in slot-seconds.

    Attributes:
        application: the application, as of the latest run.
        history: the remembered jobs, converted by `as_learned`.
        counted: number of jobs ever observed; the maximum over merged profiles.
        model: the learned model; None before the first one.
        modelled: value of `jobs` when the model was learned.
        forgotten_before: jobs that ended before this time are forgotten, in wall-clock seconds.
    """

    application: Application
    history: History = History()
    counted: int = 0
    model: ApplicationModel | None = None
    modelled: int = 0
    forgotten_before: float = 0.0

    @property
    def jobs(self) -> int:
        """The number of jobs ever observed: a lower bound after a merge. It never decreases."""
        return max(self.counted, len(self.history))

    @property
    def outcomes(self) -> tuple[ObservedJob, ...]:
        """The observed behaviour of the remembered jobs, with outliers limited."""
        return self.history.outcomes

    @property
    def nodes(self) -> Mapping[str, NodeBehaviour]:
        """The observed behaviour of each node in the remembered jobs, by path."""
        return self.history.nodes

    @cached_property
    def template(self) -> Application:
        """The application, corrected by the observed behaviour of its nodes."""
        return corrected(self.application, self.nodes)

    @property
    def works_s(self) -> tuple[float, ...]:
        """The total work of each remembered job in slot-seconds, ascending."""
        return self.history.works_s

    @property
    def mean_s(self) -> float:
        """The mean total work of a remembered job."""
        return self.history.job.value

    @property
    def drifted(self) -> bool:
        """Whether the work of the latest jobs differs from earlier ones (see `drift.drifted`)."""
        return drifted([outcome.work_s for outcome in self.history.recorded])

    def forgetting(self, latest: int = RECENT) -> ApplicationProfile:
        """Return the profile with only the `latest` jobs remembered."""
        kept = self.history.jobs[-latest:]
        since = min((job.ended_at for job in kept), default=0.0)
        return replace(
            self,
            history=History(kept),
            counted=self.jobs,
            forgotten_before=max(self.forgotten_before, since),
        )

    def observe(self, jobs: Sequence[EndedJob]) -> ApplicationProfile:
        """Return the profile with more jobs, already converted by `as_learned`."""
        new = self.history.new(jobs)
        return replace(self, history=self.history.plus(new), counted=self.jobs + len(new))


@dataclass(frozen=True)
class Profile:
    """The profiles of all applications. Work is in slot-seconds.

    Attributes:
        applications: the application profiles, by fingerprint.
        slowdowns: the calibration of each backend, by name, from all calls ever observed.
    """

    applications: Mapping[str, ApplicationProfile] = field(default_factory=dict)
    slowdowns: Mapping[str, Calibration] = field(default_factory=dict)

    @cached_property
    def job(self) -> Mean:
        """The mean work of a job over all applications, weighted by their numbers of jobs."""
        return _together(Mean(own.jobs, own.mean_s) for own in self.applications.values())

    @cached_property
    def call(self) -> Mean:
        """The mean work of a call over all applications, weighted by their numbers of calls."""
        return _together(own.history.call for own in self.applications.values())

    def observe(self, *jobs: EndedJob) -> Profile:
        """Return the profile with more jobs, ignoring those that are not `informative`."""
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
        slowdowns = self.slowdowns
        for name, own in new.items():
            slowdowns = calibrated(slowdowns, own, before[name].history.jobs)
        seen = {
            name: before[name].observe([as_learned(job, slowdowns) for job in own])
            for name, own in new.items()
        }
        return Profile({**self.applications, **seen}, slowdowns)

    def learned(self, application: str, model: ApplicationModel, jobs: int) -> Profile:
        """Return the profile with a new model of an application, learned after `jobs` jobs."""
        return self.having(replace(self.applications[application], model=model, modelled=jobs))

    def having(self, own: ApplicationProfile) -> Profile:
        """Return the profile with one application's profile added or replaced."""
        return replace(self, applications={**self.applications, own.application.fingerprint: own})

    def prepared(self) -> Profile:
        """Compute the cached properties, so that no lock holder has to; return self."""
        for own in self.applications.values():
            _ = own.template, own.works_s, own.history.alone
        _ = self.job, self.call
        return self

    def to_pgmpy(self, application: Application | str) -> Any:
        """Return the learned network of an application as a new pgmpy `DiscreteBayesianNetwork`.

        The network can be queried (`pgmpy.inference.VariableElimination`), drawn and written. Variables have
        the names of the model's columns (`total`, `prompt`, `fan_out:STAGE`, `work:STAGE`, ...). States are
        `absent` and the range of each bin, such as `0.52 to 1.2 s`. Importing pgmpy takes seconds.

        Args:
            application: the application, its fingerprint, or its name.

        Raises:
            InvalidDataError: the application is unknown, its name is ambiguous, or it has no model.
        """
        from llmsched_langgraph._belief.fit.pgmpy_exchange import to_pgmpy

        return to_pgmpy(self._modelled(application)[1])

    def with_network(self, application: Application | str, network: Any) -> Profile:
        """Return the profile with a pgmpy network as the application's model.

        The network must have the variables of `to_pgmpy`; its edges may be any without a cycle. CPDs are used
        as given; their states are named as in `to_pgmpy`, or numbered from 0. Without CPDs, tables are
        estimated from the remembered jobs. Learning and merging keep the network until the application's
        runs drift or another network replaces it.

        Args:
            application: the application, its fingerprint, or its name.
            network: a pgmpy `DiscreteBayesianNetwork` or `DAG`.

        Raises:
            InvalidDataError: as `to_pgmpy`; or the network has wrong variables or states, a missing or
                invalid CPD, a cycle, or a table of more than 2**22 cells. The message names the variable.
        """
        from llmsched_langgraph._belief.fit.pgmpy_exchange import with_network

        own, model = self._modelled(application)
        given = with_network(own.application, model, own.outcomes, network)
        return self.having(replace(own, model=given, modelled=own.jobs))

    def states(self, application: Application | str) -> Any:
        """Return the remembered jobs of an application as a pandas DataFrame of states, for pgmpy's searches.

        One row per job. The columns are the variables of `to_pgmpy`, categorical with all of their states.

        Raises:
            InvalidDataError: as `to_pgmpy`.
        """
        from llmsched_langgraph._belief.fit.pgmpy_exchange import states_of

        own, model = self._modelled(application)
        return states_of(model, own.outcomes)

    def _modelled(self, application: Application | str) -> tuple[ApplicationProfile, ApplicationModel]:
        """Return what is known of an application, and its model; see `to_pgmpy` for the errors."""
        wanted = application if isinstance(application, str) else application.fingerprint
        known = self.applications.values()
        found = [own for own in known if wanted == own.application.fingerprint]
        found = found or [own for own in known if wanted == own.application.name]
        if len(found) != 1:
            what = "the name is ambiguous; give a fingerprint"
            what = what if found else "not in the profile; applications in it"
            shown = [f"{own.application.name} ({own.application.fingerprint})" for own in found or known]
            raise InvalidDataError(f"application {wanted!r}: {what}: {', '.join(shown) or 'none'}")
        own, model = found[0], found[0].model
        if model is None:
            raise InvalidDataError(
                f"{own.application.name}: no model was learned from its {own.jobs} jobs yet; "
                "run `Scheduler.learn()` or `llmsched profile fit`"
            )
        return own, model

    def template(self, application: Application) -> Application:
        """Return the application, corrected by the observed behaviour of its nodes."""
        known = self.applications.get(application.fingerprint)
        return application if known is None else corrected(application, known.nodes)

    def jobs(self, application: str) -> int:
        """Return the number of observed jobs of the application with this fingerprint."""
        known = self.applications.get(application)
        return 0 if known is None else known.jobs

    @property
    def call_s(self) -> float:
        """The expected work of a call without evidence, in slot-seconds."""
        return self.call.towards(CALL[Unit.SECONDS])

    def total_work_s(self, application: Application) -> float:
        """Return the expected total work of a job without evidence, in slot-seconds.

        It is the application's mean, shrunk towards the mean of all jobs. Without observed jobs, it is the
        sum of `call_s` * `GOES_ON`^`rounds_before` over the stages that call a model; without such stages, it
        is the mean of all jobs.
        """
        known = self.applications.get(application.fingerprint)
        if known is not None and known.works_s:
            return Mean(len(known.works_s), known.mean_s).towards(self.job.towards(self.call_s))
        stages = [stage for stage in application.stages if application.by_path[stage.node].calls_llm]
        if not stages:
            return self.job.towards(self.call_s)
        return sum(self.call_s * GOES_ON ** rounds_before(stage.occurrence) for stage in stages)


def _together(means: Iterable[Mean]) -> Mean:
    given = list(means)
    total = sum(mean.count for mean in given)
    return Mean(total, sum(mean.count * mean.value for mean in given) / total) if total else Mean()
