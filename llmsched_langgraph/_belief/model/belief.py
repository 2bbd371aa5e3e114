"""Knows what a model says of one job that is under way: what is still to come, how surely, and what teaches.

Does not know how the model was learned, which other jobs there are, or what is done with the answers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import exp, log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmsched_langgraph._belief.model import gittins
from llmsched_langgraph._belief.model.bins import ABSENT
from llmsched_langgraph._belief.model.evidence import PRIOR_RUNS, Begun, JobEvidence
from llmsched_langgraph._belief.model.total import Posterior, SoftEvidence
from llmsched_langgraph._jobs.stages import StageOccurrence

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.model import ApplicationModel

LEVELS = tuple(round(step / 20, 6) for step in range(1, 20))
"""Levels of a belief's quantiles: 5 %, 10 %, ... 95 %."""

NORMAL_80 = 1.2816
"""Standard deviations from the mean between which 80 % of a normal distribution lie."""

FUTURES = 256
"""Draws that an index is computed over."""

FLOOR = 0.25
"""The least that is left of a run that goes on, as a share of what one takes."""


class Curve(NamedTuple):
    """What one run of a stage may take.

    Attributes:
        amounts: ascending.
        chances: for each of them the probability of it or more.
        sums: for each of them the expectation of it or more: sum of amount times probability.
        overrun: what is left, at least, once it has taken more than any of them.
    """

    amounts: tuple[float, ...]
    chances: tuple[float, ...]
    sums: tuple[float, ...]
    overrun: float

    def left(self, received: float) -> float:
        """E[amount - received | amount >= received]; past all that was seen, more the longer it goes on."""
        at = bisect_left(self.amounts, received)
        if at == len(self.amounts):
            return max(self.overrun, received - self.amounts[-1])
        return self.sums[at] / self.chances[at] - received


@dataclass(frozen=True)
class Expected:
    """What one announced occurrence of a stage will take in all, as the belief has it.

    Attributes:
        whole: E[work], all of its runs together, apart from what those that are over tell.
        runs: how many run side by side.
        draw: gives the curve of what it may take, if it is one run of which more is known than the mean.
    """

    whole: float
    runs: int
    draw: Callable[[], Curve | None] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def curve(self) -> Curve | None:
        """What it may take, if it is one run; drawn up when first asked for, which is once it has begun."""
        return None if self.draw is None else self.draw()

    def left(self, received: float, ended: int = 0, settled: float = 0.0) -> float:
        """What is still to come, once so much was received and `ended` runs are over with `settled`.

        One run is conditioned on how long it has gone on. Of several, those that are over show what the
        others will take.
        """
        if not received:
            return self.whole
        if self.curve is not None:
            return self.curve.left(received)
        each = self.whole / self.runs
        if ended:
            each = (PRIOR_RUNS * each + settled) / (PRIOR_RUNS + ended)
        going = self.runs - ended
        return max(settled + going * each - received, FLOOR * each * going)


@dataclass(frozen=True)
class Belief:
    """The posterior over what is still to come of one job. Amounts are in `model.unit`.

    Exact under the model's network, but for the quantiles, which are read from draws.

    Attributes:
        model: whose belief it is.
        evidence: what it rests on.
    """

    model: ApplicationModel
    evidence: JobEvidence

    def __repr__(self) -> str:
        return f"<Belief of {self.model!r} after {len(self.evidence.finished)} stages>"

    @cached_property
    def _known(self) -> SoftEvidence:
        return self.model.known(self.evidence)

    @cached_property
    def _posterior(self) -> Posterior:
        return self.model.posterior(self._known)

    @cached_property
    def _left(self) -> float:
        return sum(self._known.left.values())

    @property
    def open(self) -> bool:
        """Whether anything may still come."""
        return bool(self._posterior.by_variable or self._left)

    @cached_property
    def mean(self) -> float:
        """E[work still to come | E]: the sum over unfinished stages of P(present | E) E[work | present, E].

        Of a stage that is running, what is expected beyond what it has received. It orders jobs.
        """
        return self._posterior.mean + self._left

    @cached_property
    def after(self) -> float:
        """The part of `mean` that is not of stages in `expected`."""
        begun = {self.model.column(stage_occurrence) for stage_occurrence in self.expected}
        still = (*self._posterior.by_variable.items(), *self._known.left.items())
        return sum(left for i, left in still if i not in begun)

    @cached_property
    def expected(self) -> Mapping[StageOccurrence, Expected]:
        """What the stages will take in all that have been announced and are not over.

        Right after the belief was formed, what is left of them is what the belief says, but for the least
        that is left of several runs. Stages whose variable sums up several occurrences are not among them:
        a tail, and what ran once more than it was ever seen to.
        """
        found: dict[int, list[Begun]] = {}
        for own in self.evidence.begun:
            i = self.model.column(own.stage_occurrence)
            if i is not None and not self.model.columns[i].tail and not self.model.columns[i].tool:
                found.setdefault(i, []).append(own)
        return {
            own[0].stage_occurrence: self._expected(i, own)
            for i, own in found.items()
            if all(
                part.stage_occurrence == (own[0].stage_occurrence.path, self.model.columns[i].first)
                for part in own
            )
        }

    def _expected(self, i: int, begun: list[Begun]) -> Expected:
        left = self._posterior.by_variable.get(i)
        if left is None:
            left = self._known.left.get(i, 0.0)
        received = sum(own.received for own in begun)
        runs, ended = sum(own.runs for own in begun), sum(own.ended for own in begun)
        if runs == 1:
            return Expected(left + received, 1, lambda: self._curve(i, left, received))
        settled = sum(own.settled for own in begun)
        if not 0 < ended < runs:
            return Expected(left + received, runs)
        # What is left was told by the runs that are over, too: `whole` is without them, or they count twice.
        each = (left + received - settled) / (runs - ended)
        return Expected((each * (PRIOR_RUNS + ended) - settled) / PRIOR_RUNS * runs, runs)

    def _curve(self, i: int, left: float, received: float) -> Curve | None:
        own, factor = self.model.bins[i], self._posterior.factor
        scale = self._known.scales.get(i, 1.0)
        marginal = self._posterior.marginals[i]
        if received:
            # The posterior is of states that it may have reached; of their points, only those count.
            weights = np.asarray(self._known.likelihood(i, own))
            marginal = np.divide(marginal, weights, out=np.zeros_like(marginal), where=weights > 0.0)
        amounts, mass = own.points(marginal)
        some = mass > 0.0
        if not some.any():
            return None
        overrun = float(amounts[some][-1] - amounts[some][0]) * scale * factor / 2
        some &= amounts >= received / scale
        if not some.any():
            last = max(own.bins[-1].hi * scale, received - left)
            return Curve((last,), (1.0,), (last,), left)
        amounts, mass = received + (amounts[some] * scale - received) * factor, mass[some]
        chances = np.cumsum(mass[::-1])[::-1]
        sums = np.cumsum((mass * amounts)[::-1])[::-1]
        return Curve(tuple(amounts.tolist()), tuple(chances.tolist()), tuple(sums.tolist()), overrun)

    @cached_property
    def quantiles(self) -> tuple[float, ...]:
        """Quantiles of the work still to come at `LEVELS`, ascending."""
        if not self._posterior.by_variable:
            return (self._left,) * len(LEVELS)
        return tuple(amount + self._left for amount in self._posterior.quantiles(LEVELS))

    @property
    def bounds(self) -> tuple[float, float]:
        """About where the work still to come lies in the middle 80 % of cases: cheap, but too narrow.

        The mean, and 1.28 standard deviations to both sides, as if stages were independent of each other;
        `interval` knows that they are not. It says whether the order of two jobs is certain.
        """
        reach = NORMAL_80 * self._posterior.deviation
        return max(self.mean - reach, 0.0), self.mean + reach

    @cached_property
    def index(self) -> float:
        """The Gittins index of the job, see `gittins.index`: never more than `mean`, but for noise of draws.

        What is left of stages that go on comes first.
        """
        posterior = self._posterior
        if not self._left:
            if posterior.index is None:
                posterior.index = gittins.index(*posterior.futures(FUTURES))
            return posterior.index
        amounts, states = posterior.futures(FUTURES)
        amounts = np.vstack((np.full(FUTURES, self._left), amounts))
        states = np.vstack((np.ones(FUTURES, dtype=np.intp), states))
        return gittins.index(amounts, states)

    @property
    def typical(self) -> float:
        """The geometric mean of the work still to come in the cases in which any comes.

        The best guess of its logarithm: a mean says more of the few long jobs than of a job.
        """
        some = [amount for amount in self.quantiles if amount > 0.0]
        if not some:
            # Something comes in fewer cases than any quantile tells of, and so the more in those.
            return self.mean / (1.0 - LEVELS[-1])
        return exp(sum(map(log, some)) / len(some))

    @property
    def median(self) -> float:
        """The median of the work still to come."""
        return self.quantiles[len(LEVELS) // 2]

    def interval(self, share: float = 0.8) -> tuple[float, float]:
        """The work still to come in the middle `share` of cases: the same share of jobs should end up inside.

        Raises:
            ValueError: its ends are not among `LEVELS`.
        """
        try:
            low = LEVELS.index(round((1.0 - share) / 2, 6))
        except ValueError:
            raise ValueError(f"share: expected 1 - 2 x for an x among {LEVELS}, got {share}") from None
        return self.quantiles[low], self.quantiles[-1 - low]

    @cached_property
    def entropy_bits(self) -> float:
        """Joint Shannon entropy of all that is not settled, in bits: what there is to learn of the job.

        Of works, fan-outs, what a plan will name: of all variables together, because what some of them alone
        leave open takes tables too large for a long loop.
        """
        if not self._posterior.by_variable:
            return 0.0
        unsettled = [i for i in range(len(self.model.columns)) if i not in self._known.values]
        return self.model.positive.entropy(unsettled, self._posterior.likelihoods)

    @cached_property
    def present(self) -> Mapping[str, float]:
        """For each stage and tool of `model.stages`, the probability that it happens or has happened."""
        return {
            column.stage: 1.0 - float(self._posterior.marginals[i][ABSENT])
            if i not in self._known.values
            else float(self._known.values[i] is not None)
            for i, column in enumerate(self.model.columns)
            if column.counts
        }

    def uncertainty_reduction(self, stage: StageOccurrence, tool: str | None = None) -> float:
        """How much finishing a ready stage teaches of the rest of its job, in bit-seconds: LLMSched's Eq. 6.

        R(X) = I(X; Y1..YM | E) * sum_m Range(Ym), where Y1..YM are the works of the unfinished stages that
        are correlated with X, I is their joint mutual information, and Range is the width of the amounts
        seen, in the model's unit. Correlated are those that directed edges lead to from X's work; and, where
        they lead to X from the whole job's work, all that they lead to from there, because that variable only
        stands for what stages have in common. X is taken to be present, since it is ready. Where a joint
        table would be too large, I is a lower bound (`Network.mutual_information`).

        A stage, or a tool of it, that the model does not know teaches nothing: 0.
        """
        x = self.model.column(stage, tool)
        if x is None or x not in self._posterior.by_variable:
            return 0.0
        taught = self._posterior.taught
        if x not in taught:
            taught[x] = self._taught(x)
        return taught[x]

    def _taught(self, x: int) -> float:
        network, bins = self.model.positive, self.model.bins
        common = [i for i in self.model.totals if x in network.descendants(i)]
        correlated = {y for i in (x, *common) for y in network.descendants(i)} - {x}
        ys = sorted(y for y in correlated if y in self._posterior.by_variable)
        if not ys:
            return 0.0
        likelihoods = dict(self._posterior.likelihoods)
        likelihoods[x] = likelihoods.get(x, 1.0) * bins[x].present()
        widths = {y: hi - lo for y in ys for lo, hi in (bins[y].range,)}
        told = network.mutual_information(x, ys, likelihoods, ranges=widths)
        return told.bits * sum(widths.values())
