"""Plays a program bare and scheduled, and says what differs and what was left over.

Does not notice a stand-still: `watchdog` does.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import llmsched_langgraph
from llmsched_langgraph import Scheduler, Statistics
from llmsched_langgraph.errors import LLMSchedError
from programs.stage.runs import CUT_OFF, Outcome, Program, play
from programs.stage.stage import Stage

Kind = Literal[
    "", "outcome", "not idle", "over the limit", "went ahead", "fault", "stands still", "crash", "bare"
]
"""What is wrong: nothing; an outcome that differs from the bare one; something held, waiting or running at
the end; more requests at once than slots, uncounted; a call that went ahead for no reason; an error inside
the package; no progress; the process died; the bare program itself does not end."""

REPLAYS = 25
"""How many times a program is played bare again to see whether it always ends in the same way."""

IDLE_PATIENCE_S = 5.0
"""How long everything may take to come to rest after the last run, in seconds."""

_PACKAGE = str(Path(llmsched_langgraph.__file__).parent)


@dataclass(frozen=True)
class Verdict:
    """What came of a program.

    Attributes:
        kind: what is wrong; empty if nothing is.
        text: the details.
        calls: how many requests reached the backend, bare and scheduled.
        waited_s: how long its calls waited for slots.
        went_ahead: how many calls went ahead over the slots.
    """

    kind: Kind = ""
    text: str = ""
    calls: int = 0
    waited_s: float = 0.0
    went_ahead: int = 0


@dataclass
class Watched:
    """What the watchdog looks at.

    Attributes:
        stage: who counts the steps now.
        bare: whether the program is being played bare.
    """

    stage: Stage | None = None
    bare: bool = True
    phases: int = 0

    def begin(self, stage: Stage) -> Stage:
        """Look at this stage from now on."""
        self.stage, self.bare, self.phases = stage, stage.scheduler is None, self.phases + 1
        return stage

    @property
    def progress(self) -> tuple[int, int]:
        """Changes whenever anything happens."""
        return self.phases, 0 if self.stage is None else self.stage.steps


def judge(program: Program, watched: Watched) -> Verdict:
    """Play a program bare, with no run cut off, then scheduled; compare."""
    bare = watched.begin(Stage(None))
    expected = play(program, bare, cut=False)
    bare.finish()
    with faults() as found, Scheduler(program.slots, policy=program.policy) as scheduler:
        stage = watched.begin(Stage(scheduler))
        outcomes = play(program, stage, cut=True)
        idle = _idle(stage, scheduler)
        now = scheduler.statistics()
        try:
            scheduler.learn()
        except LLMSchedError as error:
            found.append(f"learn(): {error}")
    for kind, text in (
        ("not idle", idle),
        ("outcome", _differences(program, expected, outcomes, watched)),
        ("fault", "\n".join(found)),
        ("over the limit", _over_the_limit(program, stage, now)),
        ("went ahead", _went_ahead(program, now)),
    ):
        if text:
            return _verdict(kind, text, bare, stage, now)
    return _verdict("", "", bare, stage, now)


def _verdict(kind: Any, text: str, bare: Stage, stage: Stage, now: Statistics) -> Verdict:
    calls = bare.meter.total + stage.meter.total
    return Verdict(kind, text, calls, now.waited_s, now.over_commitments)


def _differences(program: Program, expected: list[Outcome], outcomes: list[Outcome], watched: Watched) -> str:
    """The runs that did not end as they do bare."""
    runs = [run for client in program.clients for run in client.runs]
    different = [
        number
        for number, run in enumerate(runs)
        if outcomes[number] != expected[number] and not (run.cut and outcomes[number] == (CUT_OFF,))
    ]
    for _ in range(REPLAYS):  # LangGraph has races of its own
        if not different:
            break
        again = play(program, watched.begin(Stage(None)), cut=True)
        different = [number for number in different if outcomes[number] != again[number]]
    return "\n".join(
        f"run {number} ({runs[number]}): bare {expected[number]}, scheduled {outcomes[number]}"
        for number in different
    )


def _idle(stage: Stage, scheduler: Scheduler) -> str:
    """Wait until everything is at rest; what is not."""
    deadline = time.monotonic() + IDLE_PATIENCE_S
    while True:
        gc.collect()
        left = _left(stage, scheduler)
        if not left or time.monotonic() > deadline:
            break
        stage.step()  # waiting here is no stand-still
        time.sleep(0.005)
    if left:
        return left
    try:
        scheduler.check()
    except AssertionError as error:
        return f"check(): {error}"
    return ""


def _left(stage: Stage, scheduler: Scheduler) -> str:
    now = scheduler.statistics()
    left = {
        "slots held": now.holding,
        "calls waiting": now.waiting,
        "jobs running": now.jobs_running,
        "grants not given back": now.granted - now.released,
        "requests in flight": max(stage.meter.now - stage.meter.abandoned, 0),
    }
    return ", ".join(f"{number} {what}" for what, number in left.items() if number)


def _over_the_limit(program: Program, stage: Stage, now: Statistics) -> str:
    # Beside the slots: calls that went ahead or without a mark, requests whose loop was closed under them.
    peak, over = stage.meter.peak, now.over_commitments + now.unmarked_calls + stage.meter.abandoned
    if peak <= program.slots + over:
        return ""
    return f"{peak} requests at once on {program.slots} slots, {over} counted beside them"


def _went_ahead(program: Program, now: Statistics) -> str:
    if not program.healthy or not now.over_commitments:
        return ""
    return f"{now.over_commitments} calls went ahead in a program without a reason for it"


# -- errors inside the package that no caller sees -----------------------------------------


@dataclass
class _Faults(logging.Handler):
    found: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.ERROR)

    def __hash__(self) -> int:
        return id(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("llmsched_langgraph"):
            self.found.append(f"logged: {self.format(record)}")
        elif record.exc_info and record.exc_info[1] is not None and not _is_cancelled_gather(record):
            self.raised(record.exc_info[1])

    def unraisable(self, unraisable: Any) -> None:
        """Note an error in a finaliser. That of a generator of others is theirs, whatever ran meanwhile."""
        kinds = ("ag", "gi", "cr")
        codes = [code for kind in kinds if (code := getattr(unraisable.object, f"{kind}_code", None))]
        if not codes or codes[0].co_filename.startswith(_PACKAGE):
            ignored = bool(codes) and "ignored GeneratorExit" in str(unraisable.exc_value)
            self.raised(unraisable.exc_value, of_package=ignored)

    def raised(self, error: BaseException | None, *, of_package: bool = False) -> None:
        """Note an error that nobody caught, if it was raised in the package and is none of its own."""
        frames = traceback.extract_tb(None if error is None else error.__traceback__)
        of_package = of_package or bool(frames and frames[-1].filename.startswith(_PACKAGE))
        if error is not None and of_package and not isinstance(error, LLMSchedError):
            self.found.append("".join(traceback.format_exception(error)))


def _is_cancelled_gather(record: logging.LogRecord) -> bool:
    """Return whether asyncio logs a cancelled `gather` that nobody awaits any more: it does so bare, too."""
    error = record.exc_info[1] if record.exc_info else None
    return isinstance(error, asyncio.CancelledError) and "_GatheringFuture" in record.getMessage()


@contextmanager
def faults() -> Iterator[list[str]]:
    """Collect errors that the package logs, and those in finalisers, threads and tasks that it raises."""
    handler = _Faults()
    loggers = [logging.getLogger(name) for name in ("llmsched_langgraph", "asyncio")]
    hooks: tuple[Callable[..., Any], Callable[..., Any]] = (sys.unraisablehook, threading.excepthook)
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    sys.unraisablehook = handler.unraisable
    threading.excepthook = lambda arguments: handler.raised(arguments.exc_value)
    try:
        yield handler.found
    finally:
        sys.unraisablehook, threading.excepthook = hooks
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True
