"""Computes an upper bound of the tokens that the calls in flight use.

Does not know the limits. The tokens of a call are known when it ends. Until then the reserve stands for them:
a bound of their sum, from the calls' estimates and from the errors of the estimates of earlier calls.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

DEVIATIONS = 4.0
"""The reserve is this many standard deviations above the mean, and more if the tokens are skewed."""

MEMORY = 512
"""Time constant of the averages, in calls."""

FEW = 4
"""With fewer ended calls, estimates are used even if tokens vary less than their ratio to the estimates."""

TRUSTED = 64
"""Number of ended calls from which on the prior has no weight."""

MOST_SKEWED = 3.0
"""Upper bound of the skewness; a larger one comes from rare outliers and is unreliable."""

COHORT_S = 8.0
"""Length of a cohort in seconds: the calls granted in it are learned from together."""

COHORTS = 32
"""Maximum number of cohorts; beyond it, the oldest is learned from even if calls of it are in flight."""


class InFlight(NamedTuple):
    """Calls whose tokens are not known yet, by their number and the sums of powers of their estimates."""

    calls: int = 0
    tokens: int = 0
    squares: int = 0
    cubes: int = 0

    def plus(self, estimate: int, calls: int = 1) -> InFlight:
        """Return these and one with this estimate; `calls` = -1 removes it."""
        square = calls * estimate * estimate
        return InFlight(
            self.calls + calls,
            self.tokens + calls * estimate,
            self.squares + square,
            self.cubes + square * estimate,
        )


Moments = tuple[float, float, float, float, float, float, float, float]
"""Sums over ended calls: their seconds s, s^2; s x, s x^2, s x^3, x being the ratio of a call's tokens to its
estimate; s t, s t^2, s t^3, t being its tokens."""

NO_MOMENTS: Moments = (0.0,) * 8


class Cohort(NamedTuple):
    """Calls granted at about the same time: the number in flight, and the sums over those that have ended."""

    number: int
    flying: int = 0
    ended: int = 0
    sums: Moments = NO_MOMENTS
    largest: float = 0.0


class Learned(NamedTuple):
    """Statistics of ended calls, weighted so that they apply to calls in flight.

    A call in flight is a long one more often than a call that ends: at a random moment, one of s seconds is
    found with a probability proportional to s. So each ended call counts with its seconds. With seconds
    proportional to tokens, the mean is that of the length-biased distribution, r + var/r; with seconds that
    do not depend on tokens it is r.

    Short calls end first. An estimate that learns from calls as they end takes all calls for short ones at
    the beginning. So cohorts are learned from in the order of their grants, each when all of its calls have
    ended.

    Attributes:
        calls: number of calls in the averages.
        means: averages of `Moments`.
        largest: largest ratio of a call's tokens to its estimate, at least 1, slowly forgotten.
        cohorts: the cohorts that are not learned from yet, in order.
    """

    calls: int = 0
    means: Moments = NO_MOMENTS
    largest: float = 1.0
    cohorts: tuple[Cohort, ...] = ()

    def begun(self, now: float) -> Learned:
        """Return the value after a grant."""
        number, cohorts = int(now // COHORT_S), self.cohorts
        if cohorts and cohorts[-1].number >= number:
            last = cohorts[-1]
            return self._replace(cohorts=(*cohorts[:-1], last._replace(flying=last.flying + 1)))
        known = self._replace(cohorts=(*cohorts, Cohort(number, 1)))
        while len(known.cohorts) > COHORTS:
            known = _absorbed(known)
        return known

    def ended(self, granted_s: float, now: float, estimate: int, tokens: int | None) -> Learned:
        """Return the value after the end of a call; `tokens` is None if they are unknown."""
        cohorts, number = self.cohorts, int(granted_s // COHORT_S)
        index = next((i for i, cohort in enumerate(cohorts) if cohort.number >= number), len(cohorts))
        late = index == len(cohorts) or cohorts[index].number != number or not cohorts[index].flying
        cohort = Cohort(number, 1) if late else cohorts[index]
        if tokens is None:
            cohort = cohort._replace(flying=cohort.flying - 1)
        else:
            s, x, t = max(now - granted_s, 1e-3), tokens / max(estimate, 1), float(tokens)
            sx, st = s * x, s * t
            more = (s, s * s, sx, sx * x, sx * x * x, st, st * t, st * t * t)
            total: Moments = tuple(map(float.__add__, cohort.sums, more))  # type: ignore[assignment]
            cohort = Cohort(number, cohort.flying - 1, cohort.ended + 1, total, max(cohort.largest, x))
        if late:  # its cohort was learned from before it ended
            return _absorbed(self._replace(cohorts=(cohort, *cohorts)))
        known = self._replace(cohorts=(*cohorts[:index], cohort, *cohorts[index + 1 :]))
        while known.cohorts and not known.cohorts[0].flying:
            known = _absorbed(known)
        return known


def _absorbed(learned: Learned) -> Learned:
    """Return the value after learning from its first cohort."""
    (_, _, ended, sums, largest), *rest = learned.cohorts
    if not ended:
        return learned._replace(cohorts=tuple(rest))
    calls = learned.calls + ended
    means: Moments = tuple(  # type: ignore[assignment]
        old + (own - ended * old) / calls for old, own in zip(learned.means, sums, strict=True)
    )
    faded = 1.0 + (learned.largest - 1.0) * (1.0 - 1.0 / MEMORY) ** ended
    return Learned(min(calls, MEMORY), means, max(largest, faded), tuple(rest))


def reserve(learned: Learned, flight: InFlight, prior: tuple[float, float, float]) -> float:
    """Return a bound of the tokens of the calls in flight.

    It is m E1 + (z + (z^2 - 1) k / 6) sqrt(v (E2 + E1^2 / n)): E1, E2, E3 are the sums of the estimates,
    their squares and cubes; m, v, g the mean, variance and third central moment of the ratio of a call in
    flight to its estimate; z is `DEVIATIONS`; k = g E3 / (v E2)^1.5 is the skewness of the sum (Cornish and
    Fisher). n is the number of ended calls that m rests on: its error is the same for all calls. If tokens
    vary less by themselves than relative to their estimates, estimates say nothing, and each counts as 1.

    Args:
        learned: the statistics of ended calls.
        flight: the calls in flight.
        prior: mean of the ratio, its square and its cube, before a call ended.
    """
    calls, e1, e2, e3 = flight
    if not calls:
        return 0.0
    ended, (s, ss, sx, sx2, sx3, st, st2, st3), *_ = learned
    # The prior counts as four calls at first, and as none once `TRUSTED` have ended.
    trust = 4.0 * max(0.0, 1.0 - ended / TRUSTED)
    effective = ended * s * s / ss if ended else 0.0
    rests_on = trust + effective
    own, assumed = effective / rests_on, trust / rests_on
    m1, m2, m3 = prior
    if ended:
        m1, m2, m3 = (own * m / s + assumed * p for m, p in zip((sx, sx2, sx3), prior, strict=True))
    if ended >= FEW:
        # There is no prior for tokens: assume exponential lengths with the observed mean.
        t1 = st / s
        t2, t3 = own * st2 / s + assumed * 2.0 * t1 * t1, own * st3 / s + assumed * 6.0 * t1 * t1 * t1
        if t2 * m1 * m1 < m2 * t1 * t1:
            m1, m2, m3, e1, e2, e3 = t1, t2, t3, calls, calls, calls
    variance = max(m2 - m1 * m1, 0.0)
    spread = sqrt(variance * (e2 + e1 * e1 / rests_on))
    if not spread:
        return m1 * e1
    third = max(m3 - 3.0 * m1 * m2 + 2.0 * m1 * m1 * m1, 0.0) * e3
    root = sqrt(variance * e2)
    skewness = min(third / (root * root * root), MOST_SKEWED)  # `**` may round in another way elsewhere
    return m1 * e1 + (DEVIATIONS + (DEVIATIONS * DEVIATIONS - 1.0) / 6.0 * skewness) * spread
