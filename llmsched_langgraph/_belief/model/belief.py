"""Computes the belief about a running job: remaining work, its spread, and information gain.

Does not learn models, compare jobs or schedule.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import exp, log
from typing import NamedTuple, Protocol

import numpy as np

from llmsched_langgraph._belief.model import gittins, prior
from llmsched_langgraph._belief.model.bins import ABSENT, Bins
from llmsched_langgraph._belief.model.columns import Column
from llmsched_langgraph._belief.model.evidence import Begun, JobEvidence
from llmsched_langgraph._belief.model.total import Posterior, SoftEvidence
from llmsched_langgraph._belief.network.network import Network
from llmsched_langgraph._jobs.stages import StageOccurrence

LEVELS = tuple(round(step / 20, 6) for step in range(1, 20))
"""Levels of a belief's quantiles: 0.05, 0.10, ..., 0.95."""

NORMAL_80 = 1.2816
"""The 0.9 quantile of the standard normal distribution: half the width of its 80 % interval."""

FUTURES = 256
"""Number of samples for the Gittins index."""

FLOOR = 0.25
"""Lower bound of the remaining work of a running stage run, as a share of its expected work."""


class Curve(NamedTuple):
    """The distribution of the work W of one stage run.

    Attributes:
        amounts: the support, ascending.
        chances: P(W >= amount) of each amount.
        sums: E[W 1(W >= amount)] of each amount.
        overrun: minimum remaining work once the run exceeds all amounts.
    """

    amounts: tuple[float, ...]
    chances: tuple[float, ...]
    sums: tuple[float, ...]
    overrun: float

    def left(self, received: float) -> float:
        """Return E[W - received | W >= received], or beyond the support at least `overrun`."""
        at = bisect_left(self.amounts, received)
        if at == len(self.amounts):
            return max(self.overrun, received - self.amounts[-1])
        return self.sums[at] / self.chances[at] - received


@dataclass(frozen=True)
class Expected:
    """The expected work of one announced stage occurrence.

    Attributes:
        whole: E[work] of all of its runs together, before evidence of ended runs.
        runs: number of concurrent runs.
        draw: computes the distribution of the work of a single run; None for several runs.
    """

    whole: float
    runs: int
    draw: Callable[[], Curve | None] | None = field(default=None, repr=False, compare=False)

    @cached_property
    def curve(self) -> Curve | None:
        """The distribution of a single run's work, computed on first access; None if unknown."""
        return None if self.draw is None else self.draw()

    def left(self, received: float, ended: int = 0, settled: float = 0.0) -> float:
        """Return the expected remaining work.

        For a single run: E[W - received | W >= received]. For n runs of which k ended, the expected work w
        of each other run is (p * whole / n + settled) / (p + k) with p = `prior.RUNS`, and the result is
        max(settled + (n - k) w - received, `FLOOR` (n - k) w).

        Args:
            received: work that the runs received so far, including ended ones.
            ended: number of ended runs, k.
            settled: work of the ended runs.
        """
        if not received:
            return self.whole
        if self.curve is not None:
            return self.curve.left(received)
        each = self.whole / self.runs
        if ended:
            each = prior.shrunk(settled, ended, each, prior.RUNS)
        going = self.runs - ended
        return max(settled + going * each - received, FLOOR * each * going)


class BeliefModel(Protocol):
    """The members of `ApplicationModel` that a belief reads."""

    @property
    def columns(self) -> tuple[Column, ...]: ...
    @property
    def bins(self) -> tuple[Bins, ...]: ...
    @property
    def totals(self) -> tuple[int, ...]: ...
    @property
    def positive(self) -> Network: ...
    def column(self, stage: StageOccurrence, tool: str | None = None) -> int | None: ...
    def known(self, evidence: JobEvidence) -> SoftEvidence: ...
    def posterior(self, known: SoftEvidence) -> Posterior: ...


@dataclass(frozen=True)
class Belief:
    """The posterior of one job's remaining work. Amounts are in `model.unit`.

    Results are exact under the model's network, except for the quantiles and the index, which use samples.

    Attributes:
        model: the model of the job's application.
        evidence: the evidence that the belief is conditioned on.
    """

    model: BeliefModel
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
        """Whether any remaining work is possible."""
        return bool(self._posterior.by_variable or self._left)

    @cached_property
    def mean(self) -> float:
        """The expected remaining work.

        It is the sum over unfinished stages of P(present | E) E[work | present, E]. For a running stage, the
        term is E[work - received | work >= received, E].
        """
        return self._posterior.mean + self._left

    @cached_property
    def after(self) -> float:
        """The part of `mean` that belongs to stages outside `expected`."""
        begun = {self.model.column(stage_occurrence) for stage_occurrence in self.expected}
        still = (*self._posterior.by_variable.items(), *self._known.left.items())
        return sum(left for i, left in still if i not in begun)

    @cached_property
    def expected(self) -> Mapping[StageOccurrence, Expected]:
        """The expected work of each announced, unfinished stage occurrence.

        At the evidence of this belief, `Expected.left` equals the belief's remaining work of the stage,
        unless `FLOOR` applies. Stages whose variable covers several occurrences are excluded: tails, and
        nodes that ran more often than the model provides for.
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
        # `left` includes the evidence of the ended runs. Solve the estimate of `Expected.left` for `whole`,
        # so that this evidence is not counted twice.
        each = (left + received - settled) / (runs - ended)
        return Expected(prior.unshrunk(each, settled, ended, prior.RUNS) * runs, runs)

    def _curve(self, i: int, left: float, received: float) -> Curve | None:
        own, factor = self.model.bins[i], self._posterior.factor
        scale = self._known.scales.get(i, 1.0)
        marginal = self._posterior.marginals[i]
        if received:
            # Divide by P(W >= received | state), because points below `received` are dropped next.
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
        """Quantiles of the remaining work at `LEVELS`, ascending."""
        if not self._posterior.by_variable:
            return (self._left,) * len(LEVELS)
        return tuple(amount + self._left for amount in self._posterior.quantiles(LEVELS))

    @property
    def bounds(self) -> tuple[float, float]:
        """An approximate 80 % interval of the remaining work: mean +- 1.28 standard deviations.

        It assumes independent stages, so it is too narrow where they are positively correlated. `interval`
        includes the correlation, at a higher cost.
        """
        reach = NORMAL_80 * self._posterior.deviation
        return max(self.mean - reach, 0.0), self.mean + reach

    @cached_property
    def index(self) -> float:
        """The Gittins index of the job (`gittins.index`), at most `mean` up to sampling error.

        Remaining work of settled, running stages is put before all other stages.
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
        """The geometric mean of the remaining work, given that it is positive, from the quantiles.

        Its logarithm estimates E[log remaining work], which rare long jobs affect less than the mean.
        """
        some = [amount for amount in self.quantiles if amount > 0.0]
        if not some:
            # P(remaining > 0) is at most 1 - LEVELS[-1], so E[remaining | remaining > 0] is at least this.
            return self.mean / (1.0 - LEVELS[-1])
        return exp(sum(map(log, some)) / len(some))

    @property
    def median(self) -> float:
        """The median of the remaining work."""
        return self.quantiles[len(LEVELS) // 2]

    def interval(self, share: float = 0.8) -> tuple[float, float]:
        """Return the central interval of the remaining work with probability `share`.

        Raises:
            ValueError: (1 - share) / 2 is not one of `LEVELS`.
        """
        try:
            low = LEVELS.index(round((1.0 - share) / 2, 6))
        except ValueError:
            raise ValueError(f"share: expected 1 - 2 x for an x among {LEVELS}, got {share}") from None
        return self.quantiles[low], self.quantiles[-1 - low]

    @cached_property
    def entropy_bits(self) -> float:
        """Joint Shannon entropy of all unsettled variables, given the evidence, in bits.

        It includes fan-outs and plans, not only work: the entropy of a subset needs tables that are too large
        for a long loop.
        """
        if not self._posterior.by_variable:
            return 0.0
        unsettled = [i for i in range(len(self.model.columns)) if i not in self._known.values]
        return self.model.positive.entropy(unsettled, self._posterior.likelihoods)

    @cached_property
    def present(self) -> Mapping[str, float]:
        """For each stage and tool of `model.stages`, the probability that it occurs in the job."""
        return {
            column.stage: 1.0 - float(self._posterior.marginals[i][ABSENT])
            if i not in self._known.values
            else float(self._known.values[i] is not None)
            for i, column in enumerate(self.model.columns)
            if column.counts
        }

    def uncertainty_reduction(self, stage: StageOccurrence, tool: str | None = None) -> float:
        """Return the uncertainty reduction R(X) of a ready stage (LLMSched, Eq. 6).

        R(X) = I(X; Y1..YM | E) * sum_m Range(Ym). Y1..YM are the work variables of the unfinished stages that
        are correlated with X, I is the joint mutual information, and Range is the observed maximum minus
        minimum. Correlated variables are the descendants of X. If X descends from the job's total work, all
        descendants of the total are correlated too: the total models what stages have in common. I is
        conditioned on X being present. If the joint table is too large, I is a lower bound
        (`Network.mutual_information`).

        Args:
            stage: the ready stage occurrence.
            tool: the tool that the stage runs; None if it has none.

        Returns:
            R(X), in bits times `model.unit`; 0 for a stage without a variable or with settled work.
        """
        x = self.model.column(stage, tool)
        if x is None or x not in self._posterior.by_variable:
            return 0.0
        reductions = self._posterior.reductions
        if x not in reductions:
            reductions[x] = self._reduction(x)
        return reductions[x]

    def _reduction(self, x: int) -> float:
        network, bins = self.model.positive, self.model.bins
        common = [i for i in self.model.totals if x in network.descendants(i)]
        correlated = {y for i in (x, *common) for y in network.descendants(i)} - {x}
        ys = sorted(y for y in correlated if y in self._posterior.by_variable)
        if not ys:
            return 0.0
        likelihoods = dict(self._posterior.likelihoods)
        likelihoods[x] = likelihoods.get(x, 1.0) * bins[x].present()
        widths = {y: hi - lo for y in ys for lo, hi in (bins[y].range,)}
        gain = network.mutual_information(x, ys, likelihoods, ranges=widths)
        return gain.bits * sum(widths.values())
