"""Keeps the turns of tenants: their waiting lanes by level, and the charges for their grants.

Does not choose a lane. All values are in the state (`truth.py`); the rules are in `tenants.py`.

If all calls of a backend are without a tenant, it has one line, which always has the turn; its grants are not
charged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from math import inf

from llmsched_langgraph._ledger.ceilings import Ceilings
from llmsched_langgraph._ledger.lines import Lines, WaitingLane
from llmsched_langgraph._ledger.tenants import (
    EMPTY_LEVEL,
    NONE_SERVED,
    Level,
    Served,
    Share,
    Tenants,
    Turn,
    begins,
    lifted,
    settled,
)
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import Crowd, Lane, LedgerView, Line

_new = tuple.__new__
"""Builds a named tuple in C, without Python bytecode."""

_SERVED = "served "
_LINES = "lines "


class Turns:
    """The turns of all tenants at all backends.

    Attributes:
        tenants: the settings of the tenants.
    """

    def __init__(self, truth: Truth, lines: Lines, tenants: Tenants, ceilings: Ceilings) -> None:
        self.tenants = tenants
        self._truth = truth
        self._lines = lines
        self._ceilings = ceilings

    # -- waiting -----------------------------------------------------------------------

    def enter(self, line: Line, number: int) -> None:
        """Record that one more lane of the line waits; its first ticket has this arrival number."""
        truth, name, at = self._truth, line[0], line[:2]
        turn: Turn | None = truth.get(line)
        level: Level = truth.get(at) or EMPTY_LEVEL
        level_s, lanes, lines = level
        truth.staged[at] = _new(Level, (level_s, lanes + 1, lines + (turn is None)))
        if turn is None:
            truth.staged[_LINES + name] = (truth.get(_LINES + name) or 0) + 1
        elif turn.lanes:
            virtual_s, floor_s, held, first, lanes = turn
            truth.staged[line] = _new(Turn, (virtual_s, floor_s, held, first, lanes + 1))
            return
        turn = truth.staged[line] = begins(turn, level, number)
        self._lines.take_turns(line, turn.virtual_s, turn.held, turn.number)

    def leave(self, line: Line) -> None:
        """Record that a lane of the line does not wait any more."""
        truth, at = self._truth, line[:2]
        virtual_s, floor_s, held, number, lanes = truth.get(line)
        level_s, waiting, lines = truth.get(at)
        level = truth.staged[at] = _new(Level, (level_s, waiting - 1, lines))
        turn = truth.staged[line] = _new(Turn, (virtual_s, floor_s, held, number, lanes - 1))
        if not turn.lanes:
            self._rest(line, turn, level)
        if not level.lanes:
            self._forget_rested(line, inf)

    def _rest(self, line: Line, turn: Turn, level: Level) -> None:
        """Forget a line that neither waits nor holds a slot, unless it is ahead of others that wait."""
        if turn.held:
            return
        if level.lanes and turn.virtual_s > level.virtual_s:
            self._lines.rests(line, turn.virtual_s)
        else:
            self._remove(line)

    def _forget_rested(self, line: Line, virtual_s: float) -> None:
        """Forget lines of the same level that rest and are not ahead of this virtual time."""
        for other in self._lines.rested(*line[:2], virtual_s):
            turn: Turn | None = self._truth.get(other)
            if turn is not None and turn.lanes == turn.held == 0:
                self._remove(other)

    def _remove(self, line: Line) -> None:
        truth, at = self._truth, _LINES + line[0]
        truth.remove(line, self._lines.forget)
        truth.staged[at] = truth.get(at) - 1
        level: Level = truth.get(line[:2])
        if level.lines == 1:
            truth.remove(line[:2])
        else:
            truth.staged[line[:2]] = level._replace(lines=level.lines - 1)

    # -- slots -------------------------------------------------------------------------

    def served(self, name: str) -> Served:
        """Return the service times of the backend."""
        return self._truth.get(_SERVED + name) or NONE_SERVED

    def crowd(self, name: str, tenant: str) -> Crowd | None:
        """Return why no further call of the tenant may wait at the backend; None if one may."""
        limit = self.tenants.of(tenant).max_queued
        if limit is None:
            return None
        lines = [(name, level, tenant) for level in self._lines.levels(name)]
        lanes = {rank[2] for line in lines for rank in self._lines.ranks.get(line, ())}
        known = [self._truth.committed.get(lane) for lane in lanes]
        waiting = sum(own.waiting for own in known if own is not None and own.tenant == tenant)
        return Crowd(name, tenant, waiting, limit) if waiting >= limit else None

    def next(self, now: float, name: str) -> Line | None:
        """Return the line whose turn it is at the backend; None if none may have a slot."""
        return self._lines.next(name, self._ceilings.blocking(now))

    def back(self, now: float, name: str) -> float | None:
        """Let tenants whose tokens admit a call again take turns; return when the next one does so."""
        return self._ceilings.back(now, name, partial(self._waits, name))

    def charge(self, now_s: float, line: Line) -> Share | None:
        """Charge the line with a grant; return what to settle at the release, or None for nothing."""
        name, level, tenant = line
        truth = self._truth
        turn: Turn | None = truth.get(line)
        if not tenant and (truth.get(_LINES + name) or 0) == (turn is not None):
            return None
        now: Level = truth.get((name, level)) or EMPTY_LEVEL
        self.back(now_s, name)
        first = self._lines.first(name, level, self._ceilings.blocking(now_s))
        if first is not None and first.virtual_s > now.virtual_s:
            now = truth.staged[name, level] = now._replace(virtual_s=first.virtual_s)
        tokens = self._ceilings.hold(now_s, name, tenant)
        if turn is None:
            turn = Turn(now.virtual_s, now.virtual_s)
            truth.staged[_LINES + name] = (truth.get(_LINES + name) or 0) + 1
            now = truth.staged[name, level] = now._replace(lines=now.lines + 1)
        elif not turn.lanes or tokens:  # because of its tokens it may have taken no turns for a while
            turn = lifted(turn, now)
        weight = self.tenants.of(tenant).weight
        share = Share(level, tenant, self.served(name).mean_s / weight, weight, tokens)
        turn = turn._replace(virtual_s=turn.virtual_s + share.charge_s, held=turn.held + 1)
        truth.staged[line] = turn
        if turn.lanes:
            self._lines.take_turns(line, turn.virtual_s, turn.held, turn.number)
        self._forget_rested(line, now.virtual_s)
        return share

    def settle(self, name: str, share: Share, served_s: float | None) -> None:
        """Settle a grant whose slot is released; `served_s` is None if its attempt failed."""
        truth, line = self._truth, (name, share.level, share.tenant)
        if served_s is not None:
            truth.staged[_SERVED + name] = self.served(name).after(served_s)
        turn = truth.staged[line] = settled(truth.get(line), share, served_s or 0.0)
        if self._ceilings.free(name, share.tenant):
            self._lift(name, share.tenant)
            turn = truth.get(line)
        if turn.lanes:
            self._lines.take_turns(line, turn.virtual_s, turn.held, turn.number)
        else:
            self._rest(line, turn, truth.get(line[:2]) or EMPTY_LEVEL)

    def _waits(self, name: str, tenant: str, take_turns: bool) -> bool:
        """Return whether a tenant waits; with `take_turns`, let its lines take turns again."""
        waits = False
        for level in self._lines.levels(name):
            turn: Turn | None = self._truth.committed.get((name, level, tenant))
            if turn is not None and turn.lanes:
                waits = True
                if take_turns:
                    self._lines.take_turns((name, level, tenant), turn.virtual_s, turn.held, turn.number)
        return waits

    def _lift(self, name: str, tenant: str) -> None:
        """Let the lines of a tenant that had as many slots as it may take turns again."""
        truth = self._truth
        for level in self._lines.levels(name):
            turn: Turn | None = truth.get((name, level, tenant))
            if turn is not None and turn.lanes:
                turn = lifted(turn, truth.get((name, level)) or EMPTY_LEVEL)
                truth.staged[name, level, tenant] = turn
                self._lines.take_turns((name, level, tenant), turn.virtual_s, turn.held, turn.number)

    # -- what must hold ----------------------------------------------------------------

    def check(self, view: LedgerView, lanes: Mapping[Lane, WaitingLane]) -> None:
        """Raise AssertionError unless the turns agree with the waiting lanes and the held slots."""
        committed = self._truth.committed
        waiting = Counter((lane[0], own.level, own.tenant) for lane, own in lanes.items())
        charged = [(grant.lane[0], grant.share) for grant in view.holding.values() if grant.share is not None]
        holding = Counter((name, share.level, share.tenant) for name, share in charged)
        turns = {key: value for key, value in committed.items() if type(value) is Turn}
        for line, turn in turns.items():
            assert (turn.lanes, turn.held) == (waiting[line], holding[line]), (
                f"line {line} is counted wrongly"
            )
            place = (turn.virtual_s, turn.held, turn.number, line[2])
            found = (
                self._lines.has_place(line, place)
                or self._ceilings.full(line[0], line[2])
                or self._ceilings.held_back(line[0], line[2])
            )
            assert not turn.lanes or found, f"line {line} waits and takes no turns"
        assert waiting.keys() | holding.keys() <= turns.keys(), "a line has no turn"
        for name, count in Counter(line[0] for line in turns).items():
            assert committed[_LINES + name] == count, "the number of lines is wrong"
        for level, own in committed.items():
            if type(own) is Level:
                lanes_of = sum(count for line, count in waiting.items() if line[:2] == level)
                lines_of = sum(line[:2] == level for line in turns)
                assert (own.lanes, own.lines) == (lanes_of, lines_of), f"level {level} is counted wrongly"
        for (name, tenant), count in Counter((name, share.tenant) for name, share in charged).items():
            counted = tenant not in self._ceilings.slots or self._ceilings.held(name, tenant) == count
            assert counted, "a limit is counted wrongly"
