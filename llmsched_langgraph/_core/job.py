"""Holds one job's state in the scheduler: a log of facts and the state derived from it.

Does not read other jobs or slots, or decide the order of service. The log is the source of truth: each fact
is applied to the derived state in turn. An interrupted decision leaves uncommitted facts at the end of the
log; `restore` truncates the log and derives the state again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._jobs.calls import CallProgress, FinishedCall, Outcome, Usage, Work
from llmsched_langgraph._jobs.ended import EndedStageRun
from llmsched_langgraph._jobs.layout import Span, WatchedRun, own_s
from llmsched_langgraph._jobs.stages import Ended, Revealed, StageEvent, StageOccurrence, StageProgress

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.belief import Belief
    from llmsched_langgraph._belief.model.evidence import JobEvidence
    from llmsched_langgraph._belief.model.model import ApplicationModel
    from llmsched_langgraph._jobs.observed import ObservedStage

MIN_REMAINING_S = 0.05
"""Lower bound of an unfinished job's remaining work, in slot-seconds."""

_UNSENT = object()


class Job:
    """One job. The fact methods below change it through `add`; all other methods are queries.

    Attributes:
        number: the job's number in arrival order, from 1.
        info: its properties at arrival.
        template: its application, as corrected by earlier runs.
        fingerprint: its application's fingerprint, which is its key in the profile.
        model: the model of its application at its arrival; None without one.
        arrival_s: clock time of its arrival.
        applied: length of the log prefix that the derived state reflects; -1 while a fact is being applied.
        id: the driver's id; None for a call outside any run, which is a job of its own.
        outcome: how the job ended; None before.
        ended_s: clock time when it had ended and its last call was released; None before.
        paused_s: total seconds of past interruptions.
        paused_since: clock time of the current interruption; None if it is not interrupted.
        progress: its calls.
        belief: the posterior of its remaining work, given the latest evidence used; None without one.
        believed_at_s: slot-seconds that it had received at the time of that evidence.
        explored: number of calls granted for exploration, by stage occurrence.
        outdated: whether there is evidence that the belief does not include.
        sent: the order last sent to the ledger; not derived, so unknown after `restore`.
        backends: the backends from which it requested slots.
        ticks: number of events so far: calls requested and ended, stage events.
    """

    __slots__ = (
        "_asked_at_s",
        "_ended",
        "_heard",
        "_log",
        "_outer",
        "_position",
        "_revealed",
        "_source",
        "_stages",
        "_taken",
        "applied",
        "arrival_s",
        "backends",
        "belief",
        "believed_at_s",
        "ended_s",
        "explored",
        "fingerprint",
        "id",
        "info",
        "model",
        "number",
        "outcome",
        "outdated",
        "paused_s",
        "paused_since",
        "progress",
        "sent",
        "template",
        "ticks",
    )

    def __init__(self, number: int, info: JobInfo, template: Application, arrival_s: float) -> None:
        self.number, self.info = number, info
        self.template, self.fingerprint = template, template.fingerprint
        self.model: ApplicationModel | None = None
        self.arrival_s = arrival_s
        self._log: list[Any] = []  # flat: per fact its length, then its method and arguments
        self._reset()

    def _reset(self) -> None:
        self.applied = 0
        self.id: int | None = None
        self.outcome: Outcome | None = None
        self.ended_s: float | None = None
        self.paused_s = 0.0
        self.paused_since: float | None = None
        self.progress = CallProgress()
        self.belief: Belief | None = None
        self.believed_at_s = 0.0
        self.explored: dict[StageOccurrence, int] = {}
        self.outdated = True
        self.sent: object = _UNSENT
        self.backends: tuple[str, ...] = ()
        self._asked_at_s = 0.0
        self._source: Sequence[StageEvent] = ()  # its stage events, appended by the executor
        self._taken = 0  # how many elements of `_source` are known
        self._heard: list[Any] = []  # known, not applied yet: five values per batch
        self.ticks = 0
        self._position: StageProgress | None = None
        self._stages: list[tuple[StageOccurrence, int, int, float, int | None, float, str | None, Ended]] = []
        self._revealed: dict[int, tuple[int, float, int | None]] = {}  # stage runs that have not ended
        self._outer: set[int | None] = set()  # stage runs that contain others
        self._ended: dict[StageOccurrence, tuple[int, int, ObservedStage]] = {}

    # -- the log -----------------------------------------------------------------------

    @property
    def facts(self) -> int:
        """Length of the log."""
        return len(self._log)

    def restore(self, facts: int) -> None:
        """Truncate the log to length `facts` and derive the state again."""
        self.applied = -1
        log = self._log
        del log[facts:]
        self._reset()
        self.applied = -1
        at = 0
        while at < facts:
            end = at + 1 + log[at]
            log[at + 1](self, *log[at + 2 : end])
            at = end
        self.applied = facts

    def add(self, fact: tuple[Any, ...]) -> int:
        """Append a fact (one of the methods below and its arguments), apply it; return the log's length."""
        self.applied = -1
        log = self._log
        log.append(len(fact))
        log += fact  # flat: the garbage collector traverses every tuple that is kept
        fact[0](self, *fact[1:])
        self.applied = facts = len(log)
        return facts

    def settle(self) -> None:
        """Discard the log of a job that changes no more."""
        self._log.clear()
        self.applied = 0

    def named(self, id_: int | None, stage_events: Sequence[StageEvent]) -> None:
        """Fact: the job has this id, and `stage_events` is its source of stage events."""
        self.id, self._source, self._taken = id_, stage_events, 0

    def resumed(self, now: float, id_: int, stage_events: Sequence[StageEvent]) -> None:
        """Fact: the interrupted job resumed. It keeps its evidence and its arrival time."""
        assert self.paused_since is not None
        self.paused_s += now - self.paused_since
        self.paused_since = None
        self.named(id_, stage_events)

    def paused(self, now: float) -> None:
        """Fact: the job was interrupted."""
        self.paused_since = now

    def ended(self, outcome: Outcome) -> None:
        """Fact: the run ended; calls of the job may still hold slots."""
        self.outcome = outcome

    def closed(self, now: float) -> None:
        """Fact: the job has ended and its last call is released."""
        self.ended_s = now

    def moved(self, now: float, upto: int) -> None:
        """Fact: the first `upto` stage events are known; the new ones are dated `now`."""
        # Applied when a query needs them. For a job that makes no call, no query does.
        self._heard += (self.ticks + 1, now, self._source, self._taken, upto)
        self.ticks += upto - self._taken
        self._taken = upto

    def requested(self, ticket: int, stage: str, stage_occurrence: StageOccurrence, backend: str) -> None:
        """Fact: the job requests a slot for a call."""
        self.ticks += 1
        self.progress.request(ticket, stage, stage_occurrence)
        if backend not in self.backends:
            self.backends += (backend,)

    def requested_again(self, ticket: int, earlier: int) -> None:
        """Fact: a call requests a slot for another attempt, after that of the ticket `earlier`."""
        self.ticks += 1
        self._ended.pop(self.progress.request_again(ticket, earlier), None)

    def granted(self, now: float, stage_occurrence: StageOccurrence, asked_s: float, sampled: bool) -> None:
        """Fact: a call that waited since `asked_s` got a slot; `sampled` says whether for exploration."""
        self.progress.start(stage_occurrence, asked_s, now)
        if sampled:
            self.explored[stage_occurrence] = self.explored.get(stage_occurrence, 0) + 1

    def withdrew(self, ticket: int, stage_occurrence: StageOccurrence) -> None:
        """Fact: a call stopped waiting."""
        self.progress.withdraw(ticket, stage_occurrence)
        self.ticks += 1
        if not self.progress.outstanding:
            self.outdated = True  # a belief requested meanwhile is discarded when it arrives

    def finished(self, call: FinishedCall) -> None:
        """Fact: a call released its slot."""
        self.progress.finish(call)
        self.ticks += 1
        work = self.progress.works.get(call.stage_occurrence)  # None for a tool's call
        if (work is not None and _tells(work.done, work.calls)) or not self.progress.outstanding:
            self.outdated = True

    def measured(self, ticket: int, usage: Usage) -> None:
        """Fact: the tokens of a call are known that released its slot before."""
        known = self.progress.prompt_tokens
        stage_occurrence = self.progress.measure(ticket, usage)
        if stage_occurrence is not None:
            self._ended.pop(stage_occurrence, None)
        if self.progress.prompt_tokens != known:
            self.outdated = True

    def asked(self, now: float) -> None:
        """Fact: a belief was requested, given all current evidence."""
        _ = self.position  # applies the stage events that this fact depends on, also under `restore`
        self.outdated = False
        self._asked_at_s = self.progress.work_s(now)

    def believes(self, belief: Belief) -> None:
        """Fact: the belief requested last is available."""
        self.belief, self.believed_at_s = belief, self._asked_at_s

    def revised(self) -> None:
        """Fact: the profile of the job's application changed."""
        self.outdated = True

    # -- queries -----------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether the run has neither ended nor been interrupted."""
        return self.outcome is None and self.paused_since is None

    @property
    def news(self) -> tuple[int, int]:
        """Number of stage events in total, and number of those not known yet."""
        stage_events = len(self._source)
        return stage_events, stage_events - self._taken

    @property
    def position(self) -> StageProgress:
        """The job's progress on its application."""
        position = self._position
        if position is None:
            position = self._position = StageProgress(self.template)
        if self._heard:
            applied, self.applied = self.applied, -1  # if interrupted here, all state is derived again
            heard = iter(self._heard)
            for first, now, source, since, upto in zip(heard, heard, heard, heard, heard, strict=True):
                for number, move in enumerate(source[since:upto], first):
                    self._take(position, number, now, move)
            self._heard = []
            self.applied = applied
        return position

    def _take(self, position: StageProgress, number: int, now: float, move: StageEvent) -> None:
        if isinstance(move, Ended) and (stage_occurrence := position.stage_occurrence(move.run)) is not None:
            first, heard_s, around = self._revealed.pop(move.run)
            tool = position.tool(move.run)
            self._stages.append((stage_occurrence, first, number, heard_s, around, now, tool, move))
            position.move(move)
            runs = position.tallies[stage_occurrence]
            if _tells(runs.ended, runs.revealed):
                self.outdated = True
            return
        position.move(move)
        if isinstance(move, Revealed):
            self.outdated = True
            if move.around in self._revealed:  # it has not ended
                self._outer.add(move.around)
            self._revealed.update(dict.fromkeys([run for run, _ in move.runs], (number, now, move.around)))

    @property
    def stages(self) -> tuple[WatchedRun, ...]:
        """Its ended stage runs. O(their number and that of calls)."""
        _ = self.position
        made = []
        outer = {call.run for call in self.progress.finished.values()} | self._outer
        for stage_occurrence, first, last, heard_s, around, now, tool, move in self._stages:
            until_s = now if move.at_s is None else move.at_s
            # The events of a stage run that is alone in its superstep may be read late.
            since_s = min(heard_s, until_s - move.seconds)
            run = EndedStageRun(*stage_occurrence, own_s(move, move.run not in outer), move.complete, tool)
            span = Span(first, last, since_s, until_s)
            made.append(WatchedRun(run, move.run, around, span, until_s - move.seconds, move.lags))
        return tuple(made)

    def evidence(self, now: float) -> JobEvidence:
        """Return the job's evidence at `now`. O(stage occurrences that it has run)."""
        from llmsched_langgraph._belief.model.evidence import Begun, JobEvidence

        position, works = self.position, self.progress.works
        expanded = position.tallies
        finished, begun, active = [], [], set()
        for stage_occurrence, runs in expanded.items():
            work = works.get(stage_occurrence)
            if runs.revealed > runs.ended:
                active.add(stage_occurrence.path)
                tools = runs.tools
                tool = next(iter(tools)) if len(tools) == 1 else None
                if work is None:
                    begun.append(Begun(stage_occurrence, runs.revealed, ended=runs.ended, tool=tool))
                else:
                    settled = work.done_s if runs.ended else 0.0
                    begun.append(
                        Begun(
                            stage_occurrence, runs.revealed, work.received_s(now), runs.ended, settled, tool
                        )
                    )
            elif runs.ended:
                finished.append(self._over(stage_occurrence, runs.ended, work))
        for stage_occurrence, work in works.items():
            if stage_occurrence in expanded:
                continue
            if work.outstanding:
                active.add(stage_occurrence.path)
                begun.append(
                    Begun(stage_occurrence, work.calls, work.received_s(now), work.done, work.done_s)
                )
            else:
                finished.append(self._over(stage_occurrence, 1, work))
        coming = position.coming()
        skipped = frozenset(
            [path for path in position.application.by_path if path not in coming and path not in active]
        )
        return JobEvidence(
            self.progress.prompt_tokens,
            tuple(finished),
            tuple(begun),
            position.planned(),
            skipped,
            position.passed(),
        )

    def _over(self, stage_occurrence: StageOccurrence, runs: int, work: Work | None) -> ObservedStage:
        calls = 0 if work is None else work.done
        kept = self._ended.get(stage_occurrence)
        if kept is not None and kept[0] == runs and kept[1] == calls:
            return kept[2]
        from llmsched_langgraph._jobs.observed import ObservedStage, Part, split_by_tool

        work = Work() if work is None else work
        part = Part(None, runs, calls, work.done_s, work.prompt_tokens, work.output_tokens)
        tools = self.position.tools(stage_occurrence)
        made = ObservedStage(stage_occurrence, split_by_tool(part, tools) if tools else (part,))
        self._ended[stage_occurrence] = (runs, calls, made)
        return made

    def remaining_s(self, now: float, prior_s: float) -> float:
        """Return the expected remaining work, in slot-seconds.

        Args:
            now: the clock.
            prior_s: expected work of a whole job of its application, used without a belief.
        """
        belief = self.belief
        if belief is None:
            return max(prior_s - self.progress.work_s(now), MIN_REMAINING_S)
        left_s = belief.after
        works, tallies = self.progress.works, self.position.tallies
        for stage_occurrence, expected in belief.expected.items():
            work, runs = works.get(stage_occurrence), tallies.get(stage_occurrence)
            if runs is not None and runs.ended >= runs.revealed:
                continue
            if work is None:
                left_s += expected.whole
            else:
                ended = work.done if runs is None else runs.ended
                left_s += expected.left(work.received_s(now), ended, work.done_s if ended else 0.0)
        return max(left_s, MIN_REMAINING_S)

    def check(self) -> None:
        """Raise AssertionError unless the derived state is consistent."""
        assert self.applied == len(self._log), "a job was left half changed"
        self.progress.check()


def _tells(done: int, of: int) -> bool:
    """Return whether `done` of `of` warrants a new belief: at powers of 2 and at the last."""
    return done >= of or not done & (done - 1)
