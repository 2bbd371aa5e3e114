"""Knows one job as the scheduler sees it: its place, its calls, what it was believed to need still.

Does not know other jobs, slots, or the order of service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.position import Ended, Move, Position, Revealed, Runs, Spot
from llmsched_langgraph.dag.progress import Call, Outcome, Progress, Usage
from llmsched_langgraph.jobs.ended import StageRun
from llmsched_langgraph.jobs.layout import Span, WatchedRun

if TYPE_CHECKING:
    from llmsched_langgraph.belief.belief import Belief
    from llmsched_langgraph.belief.evidence import JobEvidence
    from llmsched_langgraph.jobs.observed import ObservedStage

LEAST_S = 0.05
"""A job that goes on needs at least so many seconds more, whatever it is believed to need."""


@dataclass(slots=True)
class Job:
    """One job as the scheduler sees it.

    Attributes:
        id: the driver's name for it.
        template: its application, as runs have corrected it.
        arrival: 1 for the first job that the scheduler saw, 2 for the next, ...
        arrival_s: the clock at its arrival.
        paused_s: how long it was interrupted, so far.
        paused_since: when it was interrupted, if it is.
        outcome: None until the job has ended.
        priority: what the policy said last; all its waiting calls have it.
        backends: those that it has asked for slots.
        belief: what is still to come of it, as it was when somebody last had the time to work that out.
        believed_at_s: slot-seconds that it had received when that was asked for.
        finish_tag_s: when it would end, on the clock of `FairClock`, if all jobs shared all slots equally.
        explored: calls that got their slots to learn from, by stage.
        outdated: whether something happened since the belief was asked for that it could rest on.
    """

    id: int | None
    template: Application
    arrival: int
    arrival_s: float
    progress: Progress = field(default_factory=Progress)
    outcome: Outcome | None = None
    paused_s: float = 0.0
    paused_since: float | None = None
    priority: float = 0.0
    backends: tuple[str, ...] = ()
    belief: Belief | None = None
    believed_at_s: float = 0.0
    finish_tag_s: float = 0.0
    explored: dict[Spot, int] = field(default_factory=dict)
    outdated: bool = True
    _asked_at_s: float = 0.0
    _moves: list[tuple[int, float, Sequence[Move]]] = field(default_factory=list)
    _ticks: int = 0
    _position: Position | None = None
    _stages: list[WatchedRun] = field(default_factory=list)
    _revealed: dict[int, tuple[int, float, int | None]] = field(default_factory=dict)  # until they end
    _ended: dict[Spot, tuple[int, int, ObservedStage]] = field(default_factory=dict)

    @property
    def application(self) -> str:
        """Fingerprint of its application: the key of what has been learned of it."""
        return self.template.fingerprint

    def tick(self) -> int:
        """The number of the next thing that happens in it, counted from 1."""
        self._ticks += 1
        return self._ticks

    def move(self, moves: Sequence[Move], now: float) -> None:
        """Executions of its stages were announced, began or ended; it is heard of at `now`."""
        # Taken in when somebody asks: for jobs that make no call, nobody ever does.
        self._moves.append((self._ticks + 1, now, moves))
        self._ticks += len(moves)

    def finish(self, ticket: int, outcome: Outcome, usage: Usage, now: float) -> Call:
        """A call of it is over."""
        call = self.progress.finish(ticket, outcome, usage, now)
        call.last = self.tick()
        work = self.progress.works.get(call.place)
        if call.granted_s is not None and work is not None and _tells(work.done, work.calls):
            self.outdated = True
        elif not self.progress.outstanding:
            # It gave up waiting, and a belief that was asked for meanwhile finds nobody to take it.
            self.outdated = True
        return call

    def _take_in(self) -> Position:
        position = self._position
        if position is None:
            position = self._position = Position(self.template)
        if self._moves:
            told, self._moves = self._moves, []
            for first, now, moves in told:
                for number, move in enumerate(moves, first):
                    self._take(position, number, now, move)
        return position

    def _take(self, position: Position, number: int, now: float, move: Move) -> None:
        if isinstance(move, Ended) and (spot := position.spot(move.run)) is not None:
            self._stages.append(self._watched(position, spot, number, now, move))
            position.move(move)
            runs = position.runs(spot)
            if runs is None or _tells(runs.ended, runs.revealed):
                self.outdated = True
            return
        position.move(move)
        if isinstance(move, Revealed):
            self.outdated = True
            for run, _ in move.runs:
                self._revealed[run] = (number, now, move.around)

    def _watched(self, position: Position, spot: Spot, number: int, now: float, move: Ended) -> WatchedRun:
        first, heard_s, around = self._revealed.pop(move.run)
        until_s = now if move.at_s is None else move.at_s
        # One that was alone in its step is heard of only later.
        since_s = min(heard_s, until_s - move.seconds)
        run = StageRun(*spot, move.seconds, move.complete, position.tool(move.run))
        return WatchedRun(run, move.run, around, Span(first, number, since_s, until_s))

    @property
    def position(self) -> Position:
        """Where it stands on its application."""
        return self._take_in()

    @property
    def stages(self) -> tuple[WatchedRun, ...]:
        """Its executions of stages that are over."""
        self._take_in()
        return tuple(self._stages)

    def ask(self) -> bool:
        """Whether its belief should be formed anew; whoever asks is taken to see to that."""
        self._take_in()
        asked, self.outdated = self.outdated, False
        return asked

    def believe(self, belief: Belief) -> None:
        """Take over a belief that was formed on the latest evidence that was asked for."""
        self.belief, self.believed_at_s = belief, self._asked_at_s

    def evidence(self, now: float) -> JobEvidence:
        """What is known of it at `now`. O(stages that it has run)."""
        from llmsched_langgraph.belief.evidence import Begun, JobEvidence

        position, works = self._take_in(), self.progress.works
        self._asked_at_s = self.progress.work_s(now)
        expanded = position.expanded()
        finished, begun, active = [], [], set()
        for spot, runs in expanded.items():
            work = works.get(spot)
            if runs.revealed > runs.ended:
                active.add(spot.path)
                tools = position.tools(spot)
                tool = next(iter(tools)) if len(tools) == 1 else None
                if work is None:
                    begun.append(Begun(spot, runs.revealed, ended=runs.ended, tool=tool))
                else:
                    settled = work.done_s if runs.ended else 0.0
                    begun.append(Begun(spot, runs.revealed, work.received_s(now), runs.ended, settled, tool))
            elif runs.ended:
                finished.append(self._over(spot, runs))
        for spot, work in works.items():
            if spot in expanded:
                continue
            if work.outstanding:
                active.add(spot.path)
                begun.append(Begun(spot, work.calls, work.received_s(now), work.done, work.done_s))
            else:
                finished.append(self._over(spot, Runs(1, 0, 1)))
        coming = position.coming()
        skipped = frozenset(
            path for path in position.application.by_path if path not in coming and path not in active
        )
        return JobEvidence(
            self.progress.prompt_tokens, tuple(finished), tuple(begun), position.planned(), skipped
        )

    def _over(self, spot: Spot, runs: Runs) -> ObservedStage:
        from llmsched_langgraph.jobs.observed import ObservedStage, Part, split_by_tool

        work = self.progress.works.get(spot)
        calls = 0 if work is None else work.done
        kept = self._ended.get(spot)
        if kept is not None and kept[:2] == (runs.ended, calls):
            return kept[2]
        if work is None:
            part = Part(None, runs.ended)
        else:
            part = Part(None, runs.ended, calls, work.done_s, work.prompt_tokens, work.output_tokens)
        tools = self.position.tools(spot)
        made = ObservedStage(spot, split_by_tool(part, tools) if tools else (part,))
        self._ended[spot] = (runs.ended, calls, made)
        return made

    def remaining_s(self, now: float, prior_s: float) -> float:
        """Slot-seconds that it is expected to need still.

        Args:
            now: the clock.
            prior_s: what a whole job of its application needs, for as long as there is no belief.
        """
        belief = self.belief
        if belief is None:
            return max(prior_s - self.progress.work_s(now), LEAST_S)
        left_s = belief.after
        for spot, expected in belief.expected.items():
            work = self.progress.works.get(spot)
            runs = self.position.runs(spot)
            if runs is not None and runs.ended >= runs.revealed:
                continue
            if work is None:
                left_s += expected.left(0.0, 0 if runs is None else runs.ended)
            else:
                ended = work.done if runs is None else runs.ended
                left_s += expected.left(work.received_s(now), ended, work.done_s if ended else 0.0)
        return max(left_s, LEAST_S)


def _tells(done: int, of: int) -> bool:
    """Whether a belief should hear that so many are done: of many alike, each doubling, and the last."""
    return done >= of or not done & (done - 1)
