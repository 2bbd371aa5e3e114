"""Computes the metrics of a comparison: both sides over all rounds, each application, the prediction.

Does not run the passes or print the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from llmsched_langgraph.lab.demo.passes import Pass
from llmsched_langgraph.lab.sim.latency import LatencyModel
from llmsched_langgraph.lab.testbed.calls import Made
from llmsched_langgraph.lab.testbed.engine import Peaks
from llmsched_langgraph.lab.testbed.predict import Prediction
from llmsched_langgraph.lab.testbed.speed import as_json

SIDES = ("stock", "scheduled")


@dataclass(frozen=True, slots=True)
class Replayed:
    """One replayed job. Times are seconds of wall time since the start of its pass."""

    app: str
    arrival_s: float
    end_s: float
    made: tuple[Made, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One pass of one side.

    Attributes:
        jobs: all jobs of the pass.
        backend_peak: most requests that the endpoint had in flight at once.
        engine: peaks in the server's own metrics; None if it has none.
        held_after: slots that the scheduler counts as held at the end; 0 for stock.
        waiting_after: calls that the scheduler counts as waiting at the end; 0 for stock.
    """

    jobs: tuple[Replayed, ...]
    backend_peak: int
    engine: Peaks | None = None
    held_after: int = 0
    waiting_after: int = 0

    def as_pass(self, app: str | None = None) -> Pass:
        """Return the metrics of one application's jobs; of all jobs if `app` is None."""
        times = [(job.arrival_s, job.end_s) for job in self.jobs if app in (None, job.app)]
        return Pass.of(times, self.backend_peak)

    @property
    def lengths(self) -> dict[str, int]:
        """Number of calls, and requested and actual tokens, summed over all jobs."""
        made = [made for job in self.jobs for made in job.made]
        return {
            "calls": len(made),
            "prompt_tokens_asked": sum(call.prompt_asked for call in made),
            "prompt_tokens": sum(call.prompt_tokens for call in made),
            "output_tokens_asked": sum(call.output_asked for call in made),
            "output_tokens": sum(call.output_tokens for call in made),
        }


def over_rounds(passes: Sequence[Pass]) -> Pass:
    """Return the means of the passes' times and the highest of their peaks."""
    return Pass(
        mean_jct_s=fmean(each.mean_jct_s for each in passes),
        p50_jct_s=fmean(each.p50_jct_s for each in passes),
        p95_jct_s=fmean(each.p95_jct_s for each in passes),
        makespan_s=fmean(each.makespan_s for each in passes),
        backend_peak=max(each.backend_peak for each in passes),
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides on the same jobs and arrivals.

    Attributes:
        meta: settings of the comparison, in the form of `--json`.
        slots: slots of the endpoint.
        calls: number of calls that the jobs should make in each pass.
        stock: the stock passes, one for each round.
        scheduled: the scheduled passes, one for each round.
        latency: latency model of the endpoint, in seconds of wall time.
        predicted: the simulator's prediction.
    """

    meta: Mapping[str, Any]
    slots: int
    calls: int
    stock: tuple[Side, ...]
    scheduled: tuple[Side, ...]
    latency: LatencyModel
    predicted: Prediction

    def figures(self, side: str, app: str | None = None) -> Pass:
        """Return a side's metrics over all rounds, for one application or, if `app` is None, for all."""
        sides: tuple[Side, ...] = getattr(self, side)
        return over_rounds([each.as_pass(app) for each in sides])

    def reduction(self, app: str | None = None) -> float:
        """Return the relative reduction of the mean JCT, 1 - scheduled / stock, of `app` (None: of all)."""
        return 1 - self.figures("scheduled", app).mean_jct_s / self.figures("stock", app).mean_jct_s

    @property
    def apps(self) -> dict[str, int]:
        """Number of jobs of each application, by name."""
        names = [job.app for job in self.stock[0].jobs]
        return {name: names.count(name) for name in sorted(set(names))}

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as `--json` prints it."""
        rounds = [
            {name: asdict(getattr(self, name)[number].as_pass()) for name in SIDES}
            for number in range(len(self.stock))
        ]
        return {
            **self.meta,
            "slots": self.slots,
            **{name: asdict(self.figures(name)) for name in SIDES},
            "mean_jct_reduction": self.reduction(),
            "per_app": {
                app: {
                    "runs": runs,
                    **{f"{name}_mean_jct_s": self.figures(name, app).mean_jct_s for name in SIDES},
                    "mean_jct_reduction": self.reduction(app),
                }
                for app, runs in self.apps.items()
            },
            "predicted": {
                **asdict(self.predicted),
                "mean_jct_reduction": self.predicted.mean_jct_reduction,
            },
            "by_round": rounds,
            "lengths": {name: getattr(self, name)[0].lengths for name in SIDES},
            "engine": {
                name: [None if each.engine is None else asdict(each.engine) for each in getattr(self, name)]
                for name in SIDES
            },
            "held_after": sum(side.held_after for side in self.scheduled),
            "waiting_after": sum(side.waiting_after for side in self.scheduled),
            "latency": as_json(self.latency),
        }

    def broken_promises(self) -> list[str]:
        """Return a message for each promise that a pass broke."""
        broken = []
        peak = max(side.backend_peak for side in self.scheduled)
        limit = self.slots + int(self.meta["ahead"])
        if peak > limit:
            broken.append(f"the endpoint had {peak} scheduled requests at once, over {limit}")
        for name in SIDES:
            broken += [
                f"a {name} pass made {made} calls, not the {self.calls} that were recorded"
                for side in getattr(self, name)
                if (made := side.lengths["calls"]) != self.calls
            ]
        held = sum(side.held_after for side in self.scheduled)
        waiting = sum(side.waiting_after for side in self.scheduled)
        if held or waiting:
            broken.append(f"{held} slots are still held and {waiting} calls still wait")
        return broken
