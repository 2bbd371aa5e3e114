"""Finds how many calls a backend serves well at once, from how its attempts end.

Delays nothing, and knows neither tickets nor a clock. The limit is a value; each end of an attempt gives the
next one (`succeeded`, `refused`).

The limit moves after each *window*: `max(8, limit)` successes of attempts that were granted since it last
changed. A window is *bound* if calls waited while the limit was reached; only such windows raise it.

- Until the backend has refused an attempt, the limit doubles.
- A refusal cuts it below the calls that were in flight; refusals of attempts from before the cut say nothing
  new. What is left is the *ceiling*. Up to it, the limit grows by a sixteenth per window. Then it stays, and
  every `PATIENCE` windows one more is tried. If that is served, the limit doubles again; the first time after
  a cut, 2, 4, 8, ... more are tried instead.
- A raise must bring at least a fifth of its proportion in throughput, or it is undone (`worthwhile`). Where
  it brings less than its proportion, more calls than the engine works on may wait in its own queue: the limit
  that has the same throughput without that wait comes next (`knee`).
- Now and then the limit tries a fifth less, and stays there if what it had before was not worth it. So it
  finds the knee of an engine that never refuses, and comes back if it drifted above it.
- Where calls take much longer than before at the same limit, for two windows, the backend may have become
  smaller and have them queue: as many fewer are tried (`_shifted`). Where they take less, more are tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import NamedTuple

from llmsched_langgraph._arguments import whole_number
from llmsched_langgraph._ledger.levels import KNOWN, SURE, Level, Sample, knee, most, slowdown, worthwhile
from llmsched_langgraph._ledger.pauses import REFUSALS, Failure
from llmsched_langgraph.errors import ConfigurationError

SHORTEST = 8
"""Minimum number of successes in a window."""

PATIENCE = 6
"""Windows at the ceiling before one more is tried: about one attempt in 50 is refused for it."""

LEAST_PATIENCE, MOST_PATIENCE = 2, 64
"""Bounds of the windows between two tries downwards, which cost throughput but no refusal.

Their number is doubled after each try that fails.
"""

UPWARDS = 8
"""Maximum windows between two tries upwards above a knee, which cost latency."""

PAUSES = 32
"""The next try comes at the earliest after this many times the pause that the last one caused."""

CHEAP = 4.0
"""A call shorter than 1/`CHEAP` of the typical seconds has a weight below 1, but at least 1/50."""

TYPICAL = 16
"""Time constant of the mean of `Found.typical_s`, in typical calls."""

TOO_BUSY = REFUSALS | {408, 504}
"""HTTP statuses caused by too many calls: refusals and timeouts."""


@dataclass(frozen=True, slots=True)
class Auto:
    """Bounds of a limit that is found while the program runs.

    Attributes:
        low: smallest limit, at least 1.
        high: largest limit.
        start: first limit.

    Raises:
        ConfigurationError: a bound is no whole number, or they are not in order.
    """

    low: int = 1
    high: int = 256
    start: int = 8

    def __post_init__(self) -> None:
        for name in ("low", "high", "start"):
            whole_number(getattr(self, name), f"Auto: {name}")
        if not self.low <= self.start <= self.high:
            raise ConfigurationError(
                f"Auto: low <= start <= high must hold, such as Auto(low=1, high=256, start=8), "
                f"not low={self.low}, high={self.high}, start={self.start}"
            )


class Success(NamedTuple):
    """An attempt that ended well.

    Attributes:
        granted_s: clock time of its grant.
        in_use: slots held just before its end, its own included.
        waiting: whether calls waited.
        seconds: from its grant to its end.
        output_tokens: what it generated; None if unknown.
        cached: whether most of its prompt came from a cache.
    """

    granted_s: float
    in_use: int
    waiting: bool
    seconds: float
    output_tokens: int | None = None
    cached: bool = False


class Refusal(NamedTuple):
    """An attempt that found the backend too busy.

    Attributes:
        granted_s: clock time of its grant.
        concurrency: slots held at its grant, its own included.
        pause_s: seconds for which it paused the backend because the server named a time. A refusal of a try
            brings such a pause, too; without a time, it brings none.
    """

    granted_s: float
    concurrency: int
    pause_s: float = 0.0


def too_busy(failure: Failure) -> bool:
    """Return whether too many calls may cause the failure: a refusal, a timeout, or a dropped connection."""
    return failure.status is None or failure.status in TOO_BUSY


class Window(NamedTuple):
    """The successes since the last window ended.

    Attributes:
        weight: the sum of their weights; a short call has a weight below 1.
        bound: how many of the samples found the limit reached and calls waiting.
        samples: one success per unit of weight.
    """

    weight: float = 0.0
    bound: int = 0
    samples: tuple[Sample, ...] = ()


NO_SUCCESS = Window()


class Found(NamedTuple):
    """The limit, and the state of the search for it.

    Attributes:
        limit: slots of the backend.
        ceiling: the limit exceeds it only in a try; infinite if unknown.
        refused: whether the ceiling is from a refusal; otherwise from a raise that was not worth it.
        since_s: clock time of the last change of the limit.
        cut_s: clock time of the last cut.
        sure: whether a window ended since then.
        clean: number of windows since the last cut.
        up_at, down_at: values of `clean` at which a try upwards, or downwards, is due.
        up_patience, down_patience: windows until the next one.
        shift_at: value of `clean` before which longer calls are taken for another workload: fewer at once
            were tried for it, in vain.
        step: maximum of the next raise above the ceiling. The limit at most doubles; it does so where no
            ceiling is known, and where one more was refused before.
        up_after_s: clock time before which no try upwards is due.
        far: whether the next try above a knee is by half, or by an eighth: the first is seen where more
            slots bring little, the second where they bring nothing soon.
        before: the level before the raise or try that is going on; None if none is.
        samples: the latest successes at this limit, without its first window: short calls end first.
        settled: whether that window has ended.
        doubted: whether the last window tells of another backend than the samples.
        typical_s: seconds of a typical call, over calls weighted with their seconds.
        window: the successes since the last window ended.
    """

    limit: int
    ceiling: float = inf
    refused: bool = False
    since_s: float = -inf
    cut_s: float = -inf
    sure: bool = True
    clean: int = 0
    up_at: int = PATIENCE
    down_at: int = LEAST_PATIENCE
    up_patience: int = PATIENCE
    down_patience: int = LEAST_PATIENCE
    shift_at: int = 0
    step: float = inf
    up_after_s: float = -inf
    far: bool = False
    before: Level | None = None
    samples: tuple[Sample, ...] = ()
    settled: bool = False
    doubted: bool = False
    typical_s: float = 0.0
    window: Window = NO_SUCCESS

    @property
    def trying(self) -> bool:
        """Whether one more than the ceiling is tried. A refusal is then expected, and no reason to pause."""
        return self.refused and self.limit > self.ceiling


def started(auto: Auto) -> Found:
    """Return the limit at the beginning."""
    return Found(auto.start)


def configured(found: Found, auto: Auto, now: float) -> Found:
    """Return the limit under other bounds."""
    limit, before = min(max(found.limit, auto.low), auto.high), found.before
    if limit == found.limit and (before is None or auto.low <= before.limit <= auto.high):
        return found
    return _moved(found, now, limit)._replace(ceiling=inf, refused=False)


def succeeded(found: Found, auto: Auto, now: float, success: Success) -> Found:
    """Return the limit after a success."""
    if success.granted_s < found.since_s:
        return found
    window, seconds = found.window, max(success.seconds, 1e-6)
    # Samples are drawn in proportion to seconds: a burst of answers from a cache is a call or two.
    typical_s = found.typical_s or seconds
    weight = window.weight + min(1.0, max(0.02, CHEAP * seconds / typical_s))
    # A mean over calls weighted with their seconds; one very long call does not make all others cheap.
    most_s = min(seconds, CHEAP * typical_s)
    typical_s += (most_s - typical_s) * most_s / (most_s + TYPICAL * typical_s)
    if int(weight) == int(window.weight):
        return found._replace(typical_s=typical_s, window=window._replace(weight=weight))
    bound = window.bound + (success.waiting and success.in_use >= found.limit)
    sample = Sample(success.cached, success.output_tokens or 0, seconds, success.in_use)
    samples = (*window.samples, sample)
    if len(samples) < max(SHORTEST, found.limit):
        return found._replace(typical_s=typical_s, window=Window(weight, bound, samples))
    found = found._replace(window=NO_SUCCESS, typical_s=typical_s, sure=True)
    used, is_bound = max(own.in_use for own in samples), 2 * bound >= len(samples)
    shift = slowdown(found.samples, samples) if found.before is None else None
    if shift is not None:
        if not found.doubted:  # it may pass, or be half before and half after the change
            return found._replace(doubted=True, clean=found.clean + 1)
        return _shifted(found, auto, now, shift, samples, is_bound, used)
    kept = (*found.samples, *samples)[-most(found.limit) :] if found.settled else ()
    found = _next(found._replace(samples=kept, doubted=False), auto, now, is_bound, used)
    return found if found.since_s == now else found._replace(settled=True)


def _shifted(
    found: Found, auto: Auto, now: float, shift: float, samples: tuple[Sample, ...], bound: bool, used: int
) -> Found:
    """Return the limit when calls take `shift` times as long as before, for two windows.

    What was known of the backend is void. If they take longer, they may queue in it: as many in flight as it
    works on would take the seconds of before.
    """
    found = found._replace(clean=found.clean + 1)
    less = max(auto.low, ceil(used / shift))
    if shift > 1.0 and less < used and found.clean >= found.shift_at:
        found = found._replace(shift_at=found.clean + MOST_PATIENCE)
        return _moved(found, now, less, Level(found.limit, samples))
    found = found._replace(samples=samples, doubted=False)
    if shift > 1.0 or found.refused:
        return found
    return _next(found._replace(ceiling=inf, up_patience=PATIENCE), auto, now, bound, used)


def _next(found: Found, auto: Auto, now: float, bound: bool, used: int) -> Found:
    """Return the limit after a window: raised, tried, restored or unchanged."""
    found = found._replace(clean=found.clean + 1)
    limit, before = found.limit, found.before
    if before is not None and before.limit > limit and not bound:
        return _moved(found, now, before.limit)  # a lower limit that no call reaches gives no information
    if before is not None and found.trying:
        if not bound:
            return found
        return _raised(found._replace(ceiling=inf, refused=False), auto, now, before)  # one more was served
    if before is not None:
        return _judged(found, auto, now, before, bound, used)
    if bound and limit < min(found.ceiling, auto.high):
        if found.ceiling < inf:
            return _moved(found, now, min(limit + max(1, limit // 16), found.ceiling, auto.high))
        return _raised(found, auto, now, _level(found)) if found.settled else found
    if not found.samples:
        return found
    if bound and found.clean >= found.up_at and now >= found.up_after_s and limit < auto.high:
        more = limit + (1 if found.refused else max(1, limit // (2 if found.far else 8)))
        found = found._replace(up_at=found.clean + found.up_patience, far=not found.far)
        return _moved(found, now, min(more, auto.high), _level(found))
    # The engine may be overloaded below the limit: then the slots in use are too many.
    used = min(limit, used)
    less = max(auto.low, used - max(1, used // 5))
    if found.clean >= found.down_at and less < used and (bound or less >= auto.start):
        return _moved(found, now, less, _level(found))
    return found


def _raised(found: Found, auto: Auto, now: float, before: Level) -> Found:
    """Return a limit raised by the next step."""
    more = int(min(found.limit, found.step))
    return _moved(found, now, min(found.limit + more, auto.high), before)._replace(step=2 * found.step)


def _level(found: Found) -> Level:
    """Return the measurements at this limit."""
    return Level(found.limit, found.samples)


def _judged(found: Found, auto: Auto, now: float, before: Level, bound: bool, used: int) -> Found:
    """Return the limit while a raise or a try downwards goes on, or after it."""
    limit, up = found.limit, found.limit > before.limit
    own = _level(found)
    if not own.samples:
        return found
    full = len(own.samples) >= most(limit)
    sure = 0.0 if full else SURE  # more samples would not decide it
    worth = worthwhile(before, own, sure) if up else worthwhile(own, before, sure)
    between = _between(before, own) if up and bound else None
    if between is not None and worth:  # is this limit worth more than the one between?
        return _moved(found, now, between, own)._replace(ceiling=inf, refused=False)
    if between is not None:
        found = found._replace(ceiling=inf, refused=False, step=max(1, between // 4))
        return _moved(found, now, between, before)
    if worth is None:
        if not bound:  # too few calls to decide
            return _moved(found, now, before.limit)._replace(samples=before.samples, settled=True)
        if not full:
            return found
    if not up and not worth:
        shifted = limit < 0.75 * before.limit  # more than a usual try
        shift_at = 0 if shifted else found.shift_at
        found = found._replace(ceiling=limit, refused=False, before=None, shift_at=shift_at)
        return found._replace(
            down_at=found.clean + 1, down_patience=LEAST_PATIENCE, up_at=found.clean + PATIENCE
        )
    if not up:
        patience = min(2 * found.down_patience, MOST_PATIENCE)
        found = found._replace(down_at=found.clean + patience, down_patience=patience)
        return _moved(found, now, before.limit)._replace(samples=before.samples, settled=True)
    if worth:
        found = found._replace(before=None, ceiling=inf, up_patience=PATIENCE, clean=found.clean - 1)
        return _next(found, auto, now, bound, used)
    patience = min(2 * found.up_patience, UPWARDS)
    found = found._replace(
        up_at=found.clean + patience, up_patience=patience, down_at=found.clean + LEAST_PATIENCE
    )
    back = _moved(found, now, before.limit)
    back = back._replace(samples=before.samples, settled=True)
    return back._replace(ceiling=before.limit, refused=False, step=inf)


def _between(before: Level, own: Level) -> int | None:
    """Return the limit between two at which the engine's own queue begins; None if it may be one of them."""
    at, error = knee(before, own)
    found = round(at)
    if found < before.limit + max(1, before.limit // 8):
        return None
    return found if at * (1.0 + KNOWN * error) <= own.limit - max(1, own.limit // 5) else None


def _moved(found: Found, now: float, limit: float, before: Level | None = None) -> Found:
    return found._replace(
        limit=int(limit),
        since_s=now,
        window=NO_SUCCESS,
        samples=(),
        settled=False,
        doubted=False,
        before=before,
    )


def refused(found: Found, auto: Auto, now: float, refusal: Refusal) -> Found:
    """Return the limit after an attempt that found the backend too busy."""
    if refusal.granted_s < found.cut_s:
        return found  # of the same cascade
    limit, before, served = found.limit, found.before, refusal.concurrency - 1
    tried = found.trying
    found = _moved(found, now, limit)._replace(cut_s=now)
    if limit <= auto.low:
        return found  # the limit is at its minimum, and a ceiling here would be permanent
    if tried and before is not None and served >= before.limit:
        found = found._replace(limit=before.limit, samples=before.samples, settled=True, step=inf)
        return found._replace(up_at=found.clean + PATIENCE, up_after_s=now + PAUSES * refusal.pause_s)
    if found.sure or (before is not None and before.limit <= served):
        new = max(served, limit // 2)
    else:  # the last cut was not enough
        new = min(served, 3 * limit // 4)
    new = max(auto.low, min(new, limit - 1))
    return found._replace(
        limit=new,
        ceiling=max(new, served),
        refused=True,
        sure=False,
        clean=0,
        shift_at=0,
        step=2,
        up_at=PATIENCE,
        down_at=max(PATIENCE, found.down_patience),
        up_patience=PATIENCE,
        up_after_s=now + PAUSES * refusal.pause_s,
    )
