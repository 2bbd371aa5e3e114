"""Plays one cell of the matrix against the scripted server, and says in words what it finds wrong.

Does not know which cells there are.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass, field

from llmsched_langgraph import Scheduler

from .callers import Bench, Callers, caller_of, prompt_of
from .dialects import OUTPUT_TOKENS, PROMPT_TOKENS, TEXT, WORDS
from .matrix import PAUSE_S, PAUSING, STATUSES, Cell
from .server import Gate, Step
from .watch import SAMPLE_S, Watch

GRACE_S = 1.0
"""How much later than its client the server may see a hang-up; see `Server.peak`.

A client that leaves a request may close the socket in a later turn of its event loop than the one in which it
gives the slot back, and the next request may come from another thread. That takes a few milliseconds, and
more on a machine with a long run queue. A request that is not left at all stays in flight for as long as its
gate is closed, so that no grace hides it.
"""


@dataclass
class Report:
    """What came of a scene.

    Attributes:
        wrong: what should not have been; empty if the scene passed.
        story: each request with its prompt, its status and its end, and what the callers got.
        apart_s: for how long slots held and requests in flight differed at most.
        seconds: how long the scene took.
    """

    cell: Cell
    wrong: list[str] = field(default_factory=list)
    story: str = ""
    apart_s: float = 0.0
    seconds: float = 0.0


def play(bench: Bench, cell: Cell) -> Report:
    """Play the scene."""
    return Scene(bench, cell).play()


class _GaveUp(Exception):
    """What was waited for did not happen."""


class Scene:
    """One cell, once."""

    def __init__(self, bench: Bench, cell: Cell) -> None:
        self.cell = cell
        self.server = bench.server
        self.patience_s = bench.patience_s
        self.report = Report(cell)
        self.scheduler = Scheduler(slots=cell.slots)
        self.first, self.rest, self.never = Gate(), Gate(), Gate()
        model = bench.model(cell.provider, timed=cell.way.ends == "time out")
        self.callers = Callers(bench, model, cell.way, self.scheduler)
        self.calls = cell.callers * cell.way.calls
        bench.server.reset(self._first_step(), otherwise=self._other_step())

    def _first_step(self) -> Step:
        way, fault = self.cell.way, self.cell.fault
        if fault in STATUSES:
            retry_after = str(PAUSE_S) if fault == "429" else None
            return Step(status=STATUSES[fault], retry_after=retry_after, head=self.first)
        match fault:
            case "reset":
                return Step(breaks="head", head=self.first)
            case "cut":
                return Step(breaks="body", body=(self.first,))
            case "202":
                return Step(accepted=self.first)
        hangs = self.cell.fault == "hang"
        if way.leaves:  # before the body's end, or with all of it at hand
            return Step(head=self.first, body=(self.never,) if hangs else ())
        if way.ends in ("cancel", "time out"):
            return Step(head=self.never) if hangs else Step(body=(self.never,))
        return Step(head=self.first) if hangs else Step(body=(self.first,))

    def _other_step(self) -> Step:
        way = self.cell.way
        if way.leaves:
            return Step(head=self.rest, body=() if self.cell.fault == "200" else (self.never,))
        return Step() if way.ends == "time out" else Step(body=(self.rest,))

    # -- what happens ----------------------------------------------------------------------

    def play(self) -> Report:
        begun_s = time.monotonic()
        with Watch(self.scheduler, self.server) as watch:
            try:
                self._act()
                self._until(self._quiet, "at the end something is held, waits or is in flight")
            except _GaveUp:
                pass
            finally:
                for gate in (self.first, self.rest, self.never):
                    gate.open()
                if wait(self.callers.runs, self.patience_s).not_done:
                    self._wrong("runs never end")
        self.callers.over.set()
        self.report.apart_s = watch.most_s
        self.report.wrong += watch.wrong
        self._judge()
        self.report.story = self._story()
        self.report.seconds = time.monotonic() - begun_s
        return self.report

    def _act(self) -> None:
        self.callers.start(self.cell.callers)
        if self.cell.way.ends != "time out":
            self._settle(self.calls)
            self._settle(self._cancel() if self.cell.way.ends == "cancel" else self._let_first_pass())
            self.rest.open()
        self._until(lambda: all(run.done() for run in self.callers.runs), "runs do not end")

    def _let_first_pass(self) -> int:
        """Let the first request meet what it is to meet; return how many calls are left."""
        self.first.open()
        first = self.server.exchanges[0]
        self._until(lambda: first.ended, "the first request does not end")
        if self.cell.refused:
            self._until(self._level, "the slot is not back")
        return self.calls if self.cell.refused and self.cell.retried else self.calls - 1

    def _cancel(self) -> int:
        """Cancel the run of the first request, in flight or in its back-off; return how many are left."""
        caller = caller_of(self.server.exchanges[0])
        if self.cell.refused:
            self._let_first_pass()
        elif self.cell.fault == "200" and self.cell.way.base == "astream":
            # Up to Python 3.11 `asyncio.wait_for`, by which packages wait for the next piece, forgets a
            # cancellation that arrives together with one.
            self._until(lambda: caller in self.callers.heard, "the first word does not arrive")
        self.callers.runs[caller].cancel()
        if self.cell.provider.threads:
            if not self.cell.uncertain:
                self._settle(self.calls)  # nothing stops the thread
            self.never.open()
        return self.calls - 1

    # -- what is waited for ----------------------------------------------------------------

    def _until(self, condition: Callable[[], object], otherwise: str) -> None:
        deadline_s = time.monotonic() + self.patience_s
        while not condition():
            if time.monotonic() > deadline_s:
                now = self.scheduler.statistics()
                state = f"{self.server.in_flight} in flight, {now.holding} held, {now.waiting} waiting"
                self._wrong(f"{otherwise}: {state}")
                raise _GaveUp
            time.sleep(SAMPLE_S)

    def _settle(self, left: int) -> None:
        """Wait until as many of the calls left are in flight as can be, each in a slot; the others wait."""

        def settled() -> bool:
            now, in_flight = self.scheduler.statistics(), self.server.in_flight
            return in_flight == min(self.cell.slots, left) == now.holding and now.waiting == left - in_flight

        self._until(settled, f"not as many in flight as can be, of {left} calls")

    def _level(self) -> bool:
        return self.scheduler.statistics().holding == self.server.in_flight

    def _quiet(self) -> bool:
        now = self.scheduler.statistics()
        return now.holding == now.waiting == self.server.in_flight == 0

    # -- what must hold --------------------------------------------------------------------

    def _wrong(self, what: str) -> None:
        self.report.wrong.append(what)

    def _story(self) -> str:
        requests = [f"{prompt_of(e)}: {e.status or 'no head'}, {e.ended}" for e in self.server.exchanges]
        return "; ".join((*requests, f"said: {dict(self.callers.outcomes())}"))

    def _judge(self) -> None:
        now = self.scheduler.statistics()
        if (peak := self.server.peak(GRACE_S)) > self.cell.slots:
            self._wrong(f"{peak} requests in flight at once")
        if now.over_commitments:
            self._wrong(f"{now.over_commitments} calls went ahead over the limit")
        if now.granted != len(self.server.exchanges) or now.released != now.granted:
            self._wrong(f"{now.granted} slots granted, {now.released} given back")
        try:
            self.scheduler.check()
        except AssertionError as error:
            self._wrong(f"the scheduler's check: {error}")
        self._judge_outcomes()
        self._judge_exchanges()

    def _judge_outcomes(self) -> None:
        said, ends = self.callers.outcomes(), self.cell.way.ends
        failed = (self.cell.refused or ends == "time out") and not self.cell.retried
        expected = Counter({TEXT: self.calls})
        match ends:
            case "break":
                expected = Counter({WORDS[0]: self.calls})
            case "close":
                expected = Counter({"closed": self.calls})
            case "cancel":
                expected = Counter({TEXT: self.calls - 1, "CancelledError": 1})
            case _ if failed:
                expected[TEXT] -= 1
        if failed and said.total() == self.calls:
            said = Counter({TEXT: said[TEXT]})  # one error, of whatever class
        if said != expected:
            self._wrong(f"expected {dict(expected)}")
        if expected == Counter({TEXT: self.calls}) and self.cell.way.base not in self.cell.provider.untold:
            now = self.scheduler.statistics()
            told = (self.calls * PROMPT_TOKENS, self.calls * OUTPUT_TOKENS)
            if (now.prompt_tokens, now.output_tokens) != told:
                self._wrong(f"{now.prompt_tokens} + {now.output_tokens} tokens, and the provider told {told}")

    def _judge_exchanges(self) -> None:
        cell, exchanges = self.cell, self.server.exchanges
        again = cell.retried and cell.way.ends != "cancel" and (cell.refused or cell.way.ends == "time out")
        if len(exchanges) != self.calls + again:
            self._wrong(f"expected {self.calls + again} requests")
            return
        ended = Counter(exchange.ended for exchange in exchanges[1 if cell.refused else 0 :])
        hung_up = 0
        if cell.way.leaves and cell.fault != "200":
            hung_up = ended.total()
        elif cell.uncertain:
            hung_up = ended["hung up"]
        elif cell.way.ends == "cancel":
            hung_up = 0 if cell.refused or cell.provider.threads else 1
        elif cell.way.ends == "time out":
            hung_up = 1
        if ended != +Counter({"hung up": hung_up, "answered": ended.total() - hung_up}):
            self._wrong(f"expected {hung_up} hang-ups")
        if again:
            ended_s, prompts = exchanges[0].end_s or 0.0, [prompt_of(exchange) for exchange in exchanges]
            later = [prompts[e.number] for e in exchanges if e.begun_s > ended_s]
            if later[0] == prompts[0] and len(set(later)) > 1 and cell.fault not in PAUSING:
                self._wrong("the slot was not back during the back-off: those that waited were served later")
        if cell.fault in PAUSING:
            head_s = exchanges[0].head_s or 0.0
            times_s = [exchange.begun_s - head_s for exchange in exchanges]
            early = [f"{time_s:.2f} s" for time_s in times_s if 0.0 < time_s < PAUSE_S]
            if early:
                self._wrong(f"requests during the pause: {', '.join(early)} after its begin")
