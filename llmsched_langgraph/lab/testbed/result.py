"""Knows what a comparison says: both sides over all rounds, each application, and what was predicted.

Does not know how the passes are made, nor how they are shown.
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
    """One job that was replayed. Times are seconds of the wall since some moment of its pass."""

    app: str
    arrival_s: float
    end_s: float
    made: tuple[Made, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One pass of one side.

    Attributes:
        jobs: all of them.
        backend_peak: the most requests that the endpoint had at once.
        engine: what the server said of itself, if it says anything.
        held_after: slots that the scheduler counts as held at the end; 0 for stock.
        waiting_after: calls that it counts as waiting at the end.
    """

    jobs: tuple[Replayed, ...]
    backend_peak: int
    engine: Peaks | None = None
    held_after: int = 0
    waiting_after: int = 0

    def as_pass(self, app: str | None = None) -> Pass:
        """Its figures, of all jobs or of those of one application."""
        times = [(job.arrival_s, job.end_s) for job in self.jobs if app in (None, job.app)]
        return Pass.of(times, self.backend_peak)

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens that were asked for and that were there, and calls, of all its jobs."""
        made = [made for job in self.jobs for made in job.made]
        return {
            "calls": len(made),
            "prompt_tokens_asked": sum(call.prompt_asked for call in made),
            "prompt_tokens": sum(call.prompt_tokens for call in made),
            "output_tokens_asked": sum(call.output_asked for call in made),
            "output_tokens": sum(call.output_tokens for call in made),
        }


def over_rounds(passes: Sequence[Pass]) -> Pass:
    """The figures of several passes: the means of all times, the highest peak."""
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
        meta: what was run, and where.
        slots: of the endpoint.
        calls: that the jobs should make in each pass.
        stock: its passes, one for each round.
        scheduled: its passes.
        latency: of the endpoint, in seconds of the wall.
        predicted: what the simulator foretells.
    """

    meta: Mapping[str, Any]
    slots: int
    calls: int
    stock: tuple[Side, ...]
    scheduled: tuple[Side, ...]
    latency: LatencyModel
    predicted: Prediction

    def figures(self, side: str, app: str | None = None) -> Pass:
        """A side over all rounds, of all jobs or of those of one application."""
        sides: tuple[Side, ...] = getattr(self, side)
        return over_rounds([each.as_pass(app) for each in sides])

    def reduction(self, app: str | None = None) -> float:
        """By how much scheduling lowered the mean job completion time, as a fraction of stock's."""
        return 1 - self.figures("scheduled", app).mean_jct_s / self.figures("stock", app).mean_jct_s

    @property
    def apps(self) -> dict[str, int]:
        """How many jobs each application has."""
        names = [job.app for job in self.stock[0].jobs]
        return {name: names.count(name) for name in sorted(set(names))}

    def as_json(self) -> dict[str, Any]:
        """The comparison as `--json` prints it."""
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
        """What must never happen and did, in words."""
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
