"""Knows one job as the scheduler sees it: a log of facts, and what follows from them.

Does not know other jobs, slots, or the order of service. The log is the truth; everything else is derived
from it by applying one fact after the other. A decision that is broken off leaves facts in the log that were
never committed: `restore` cuts them off and derives the rest anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._jobs.calls import CallProgress, FinishedCall, Outcome, Work
from llmsched_langgraph._jobs.ended import EndedStageRun
from llmsched_langgraph._jobs.layout import Span, WatchedRun
from llmsched_langgraph._jobs.stages import Ended, Revealed, StageEvent, StageOccurrence, StageProgress

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.belief import Belief
    from llmsched_langgraph._belief.model.evidence import JobEvidence
    from llmsched_langgraph._jobs.observed import ObservedStage

MIN_REMAINING_S = 0.05
"""Least remaining work of a job that goes on, in slot-seconds, whatever is believed of it."""

_UNSENT = object()


class Job:
    """One job. Facts are added by the verbs below; all other methods are queries.

    Attributes:
        number: 1 for the first job that the scheduler saw, 2 for the next, ...
        info: what was known of it at its arrival.
        template: its application, as runs have corrected it.
        fingerprint: of its application: the key of what has been learned of it.
        arrival_s: the clock at its arrival.
        applied: how much of the log everything else rests on; -1 in the middle of a fact.
        id: the driver's name for it; None for a call outside of any run, which is a job of its own.
        outcome: None until the job has ended.
        ended_s: the clock when it ended and its last call was back; None before.
        paused_s: how long it was interrupted, so far.
        paused_since: when it was interrupted, if it is.
        progress: its calls.
        belief: what is still to come of it, as of the evidence that was looked at last.
        believed_at_s: slot-seconds that it had received when that evidence was looked at.
        explored: calls that were granted for what they teach, by stage occurrence.
        outdated: whether there is evidence that the belief does not rest on.
        sent: the order that the ledger was told last; not derived, so unknown after `restore`.
        backends: those that it has asked for slots.
        ticks: events in it so far: calls that were requested and ended, stage runs that moved.
    """

    __slots__ = (
        "_asked_at_s",
        "_ended",
        "_heard",
        "_log",
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
        self.number = number
        self.info = info
        self.template = template
        self.fingerprint = template.fingerprint
        self.arrival_s = arrival_s
        self._log: list[Any] = []  # of each fact how many things it is, and then those: verb and arguments
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
        self._source: Sequence[StageEvent] = ()  # what is seen of its stages, by whoever watches them
        self._taken = 0  # of those
        self._heard: list[Any] = []  # taken, and not looked at yet: in fives
        self.ticks = 0
        self._position: StageProgress | None = None
        self._stages: list[tuple[StageOccurrence, int, int, float, int | None, float, str | None, Ended]] = []
        self._revealed: dict[int, tuple[int, float, int | None]] = {}  # until they end
        self._ended: dict[StageOccurrence, tuple[int, int, ObservedStage]] = {}

    # -- the log -----------------------------------------------------------------------

    @property
    def facts(self) -> int:
        """How long the log is."""
        return len(self._log)

    def restore(self, facts: int) -> None:
        """Cut the log off where it was so long, and derive the rest anew."""
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
        """Note a fact, one of the verbs below with its arguments, and apply it; how long the log is now."""
        self.applied = -1
        log = self._log
        log.append(len(fact))
        log += fact  # flat, because the collector looks at every tuple that stays
        fact[0](self, *fact[1:])
        self.applied = facts = len(log)
        return facts

    def settle(self) -> None:
        """Nothing of it changes any more: the log is not needed."""
        self._log.clear()
        self.applied = 0

    def named(self, id_: int | None, stage_events: Sequence[StageEvent]) -> None:
        """Fact: the job goes by this name, and this is where its moves are to be read."""
        self.id, self._source, self._taken = id_, stage_events, 0

    def resumed(self, now: float, id_: int, stage_events: Sequence[StageEvent]) -> None:
        """Fact: the interrupted job goes on. Its evidence and its place in line are its own."""
        assert self.paused_since is not None
        self.paused_s += now - self.paused_since
        self.paused_since = None
        self.named(id_, stage_events)

    def paused(self, now: float) -> None:
        """Fact: the job was interrupted."""
        self.paused_since = now

    def ended(self, outcome: Outcome) -> None:
        """Fact: the job is over; calls of it may still hold slots."""
        self.outcome = outcome

    def closed(self, now: float) -> None:
        """Fact: the job has ended and its last call is back."""
        self.ended_s = now

    def moved(self, now: float, upto: int) -> None:
        """Fact: the first `upto` moves of the source are known; those that are new are heard of at `now`."""
        # They are looked at when a question needs them: for jobs that make no call, none does.
        self._heard += (self.ticks + 1, now, self._source, self._taken, upto)
        self.ticks += upto - self._taken
        self._taken = upto

    def requested(self, ticket: int, stage: str, stage_occurrence: StageOccurrence, backend: str) -> None:
        """Fact: it asks for a slot for a call."""
        self.ticks += 1
        self.progress.request(ticket, stage, stage_occurrence)
        if backend not in self.backends:
            self.backends += (backend,)

    def granted(self, now: float, stage_occurrence: StageOccurrence, sampled: bool) -> None:
        """Fact: a call of it has its slot, for what it teaches if it was `sampled`."""
        self.progress.start(stage_occurrence, now)
        if sampled:
            self.explored[stage_occurrence] = self.explored.get(stage_occurrence, 0) + 1

    def withdrew(self, ticket: int, stage_occurrence: StageOccurrence) -> None:
        """Fact: a call of it gave up waiting."""
        self.progress.withdraw(ticket, stage_occurrence)
        self.ticks += 1
        if not self.progress.outstanding:
            self.outdated = True  # a belief that was wanted meanwhile came too late to be taken

    def finished(self, call: FinishedCall) -> None:
        """Fact: a call of it that held a slot is over."""
        self.progress.finish(call)
        self.ticks += 1
        work = self.progress.works[call.stage_occurrence]
        if _tells(work.done, work.calls) or not self.progress.outstanding:
            self.outdated = True

    def asked(self, now: float) -> None:
        """Fact: a belief was asked for, on all evidence that there is."""
        _ = self.position  # derived anew, moves that it rests on were not looked at yet
        self.outdated = False
        self._asked_at_s = self.progress.work_s(now)

    def believes(self, belief: Belief) -> None:
        """Fact: the belief that was asked for last is there."""
        self.belief, self.believed_at_s = belief, self._asked_at_s

    def revised(self) -> None:
        """Fact: what is known of its application has changed."""
        self.outdated = True

    # -- queries -----------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether its run goes on."""
        return self.outcome is None and self.paused_since is None

    @property
    def news(self) -> tuple[int, int]:
        """How many moves there are in all, and how many of them are not known."""
        stage_events = len(self._source)
        return stage_events, stage_events - self._taken

    @property
    def position(self) -> StageProgress:
        """Where it stands on its application."""
        position = self._position
        if position is None:
            position = self._position = StageProgress(self.template)
        if self._heard:
            applied, self.applied = self.applied, -1  # broken off in here, all is derived anew
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
            self._revealed.update(dict.fromkeys([run for run, _ in move.runs], (number, now, move.around)))

    @property
    def stages(self) -> tuple[WatchedRun, ...]:
        """Its executions of stages that are over. O(how many there are)."""
        _ = self.position
        made = []
        for stage_occurrence, first, last, heard_s, around, now, tool, move in self._stages:
            until_s = now if move.at_s is None else move.at_s
            # One that was alone in its step is heard of only later.
            since_s = min(heard_s, until_s - move.seconds)
            run = EndedStageRun(*stage_occurrence, move.seconds, move.complete, tool)
            made.append(WatchedRun(run, move.run, around, Span(first, last, since_s, until_s)))
        return tuple(made)

    def evidence(self, now: float) -> JobEvidence:
        """What is known of it at `now`. O(stages that it has run)."""
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
            self.progress.prompt_tokens, tuple(finished), tuple(begun), position.planned(), skipped
        )

    def _over(self, stage_occurrence: StageOccurrence, runs: int, work: Work | None) -> ObservedStage:
        calls = 0 if work is None else work.done
        kept = self._ended.get(stage_occurrence)
        if kept is not None and kept[0] == runs and kept[1] == calls:
            return kept[2]
        from llmsched_langgraph._jobs.observed import ObservedStage, Part, split_by_tool

        part = Part(None, runs)
        if work is not None:
            part = replace(
                part,
                calls=calls,
                work_s=work.done_s,
                prompt_tokens=work.prompt_tokens,
                output_tokens=work.output_tokens,
            )
        tools = self.position.tools(stage_occurrence)
        made = ObservedStage(stage_occurrence, split_by_tool(part, tools) if tools else (part,))
        self._ended[stage_occurrence] = (runs, calls, made)
        return made

    def remaining_s(self, now: float, prior_s: float) -> float:
        """Slot-seconds that it is expected to need still.

        Args:
            now: the clock.
            prior_s: what a whole job of its application needs, for as long as there is no belief.
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
        """Raise AssertionError unless what is derived agrees with itself."""
        assert self.applied == len(self._log), "a job was left half changed"
        self.progress.check()


def _tells(done: int, of: int) -> bool:
    """Whether a belief should hear that so many are done: of many alike, each doubling, and the last."""
    return done >= of or not done & (done - 1)
