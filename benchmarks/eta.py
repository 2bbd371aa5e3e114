"""Measures how well the end of a run is forecast: at arrival, and after one and two thirds of its time.

    python benchmarks/eta.py [--workload mixed chain] [--jobs 500] [--loads 0.7 0.9] [--policies llmsched]

Simulates jobs that the profile has not seen, in virtual time. The scheduler learns from each that ended, as a
live one does, and nothing else. "covered" is the share of jobs whose end lies in the 80 % interval; the error
is the median of |forecast - truth|, over the mean of all JCT. Beside it stands what one would say without a
scheduler: the mean JCT of the latest 50 ended runs of the application, less the time that has passed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict, deque
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

from measuring import print_table

from llmsched_langgraph._core.outlook import outlooks
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._observe.forecasts import Forecast, Forecasts
from llmsched_langgraph.lab.sim.evaluation import learned_from, templates_of
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import Poisson, TimedJob, arrive, generate
from llmsched_langgraph.traces import read_jobs
from llmsched_langgraph.traces.speed import fill_seconds

LEARNED = 1_000_000
LATEST = 50
SHARES = 0.0, 1 / 3, 2 / 3


class Observed(Simulation):
    """A simulation whose jobs are forecast at given shares of their times."""

    def __init__(self, jobs: list[TimedJob], ends_s: dict[int, float] | None = None, **given: Any) -> None:
        super().__init__(jobs, **given)
        self._now = 0.0
        self.forecasts = Forecasts(lambda only: outlooks(self._machine, self._now, only))
        self.made: list[tuple[float, int, Forecast | None, float]] = []
        self._seen = 0
        self._times: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LATEST))
        arrived = dict(enumerate(self._jobs, 1))
        for number, ended_s in (ends_s or {}).items():
            since_s = arrived[number].arrival_s
            for share in SHARES:
                at_s = since_s + share * (ended_s - since_s) + 1e-9  # after the arrival
                self._at(at_s, self._question(number, share, arrived[number]))

    def _question(self, number: int, share: float, timed: TimedJob) -> Any:
        def ask(now: float) -> None:
            times = self._times[timed.job.app]
            naive_s = max((mean(times) if times else 0.0) - (now - timed.arrival_s), 0.0)
            for outlook in outlooks(self._machine, now, [number]):
                self.made.append((share, number, self.forecasts.of(outlook), naive_s))

        return ask

    def _tell(self, now: float, event: Any) -> None:
        self._now = now
        super()._tell(now, event)
        for entry in self._machine.story.after(self._seen):
            self._seen = entry.number
            self.forecasts.see(entry)
            if entry.kind == "JobClosed":
                self._times[entry.detail.template.name].append(entry.at_s - entry.detail.arrival_s)


def rows(name: str, train: Iterable[Any], test: list[Any], args: argparse.Namespace) -> list[list[str]]:
    """Return the rows of one workload."""
    templates = templates_of([*train])
    profile = learned_from([*train], templates)
    found = []
    for policy in args.policies:
        for load in args.loads:
            timed = arrive(test, Poisson(), load=load, slots=args.slots, seed=args.seed)
            given = {
                "slots": args.slots,
                "profile": profile,
                "applications": dict(templates),
            }
            first = Observed(timed, policy=as_policy(policy), **given).run()
            ends_s = {number: one.end_s for number, one in enumerate(first.jobs, 1)}
            jct_s = {number: one.jct_s for number, one in enumerate(first.jobs, 1)}
            second = Observed(timed, ends_s, policy=as_policy(policy), **given)
            again = second.run()
            assert [one.jct_s for one in again.jobs] == [one.jct_s for one in first.jobs]
            cells, errors = [], []
            for share in SHARES:
                own = [one for one in second.made if one[0] == share]
                truth = {number: (1.0 - share) * jct_s[number] for _, number, _, _ in own}
                told = [(n, made) for _, n, made, _ in own if made is not None]
                covered = mean(made.low <= truth[n] <= made.high for n, made in told)
                error = median(abs(made.seconds - truth[n]) for n, made in told)
                names = {n for n, _ in told}
                naive = median(abs(naive_s - truth[n]) for _, n, _, naive_s in own if n in names)
                cells.append(f"{covered:.0%} of {len(told)}")
                errors.append(f"{error / mean(jct_s.values()):.2f} ({naive / mean(jct_s.values()):.2f})")
            found.append([f"{name}, {policy}, load {load:g}", *cells, *errors])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", nargs="*", default=["mixed", "chain", "planning"])
    parser.add_argument("--traces", type=Path, nargs="+", default=[], help="recorded jobs: half to learn")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.7, 0.9])
    parser.add_argument("--policies", nargs="+", default=["llmsched", "fcfs"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = []
    for name in args.workload:
        train = generate(name, args.jobs, LEARNED + args.seed)
        found += rows(name, train, list(generate(name, args.jobs, args.seed)), args)
    for path in args.traces:
        jobs = [fill_seconds(job) for job in islice(read_jobs(path), 2 * args.jobs)]
        found += rows(path.stem, jobs[1::2], jobs[::2], args)
    shares = "at arrival", "at 1/3", "at 2/3"
    columns = [f"covered {at}" for at in shares], [f"error {at} (mean of latest)" for at in shares]
    print_table(["", *columns[0], *columns[1]], found)


if __name__ == "__main__":
    main()
