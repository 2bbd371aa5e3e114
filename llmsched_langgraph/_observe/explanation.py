"""Defines what a scheduler says of one run: data, and text.

Does not find it out: `_core/explaining.py` and `_observe/explaining.py` do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal

State = Literal["working", "waiting", "running", "paused", "ended"]
"""What a run does. "working": its own code or a tool runs. "waiting": a call of it waits, and none has a
slot. "running": a call of it has a slot. "paused": it was interrupted."""

_STATES: dict[State, str] = {
    "working": "its own code or a tool runs",
    "waiting": "waits for a slot",
    "running": "has a call in a slot",
    "paused": "is interrupted, until it is resumed",
    "ended": "has ended",
}

REASONS = {
    "free": "a slot was free",
    "order": "first in the policy's order",
    "explore": "its result says most about the work that is left",
    "deadline": "its deadline is close",
    "overdue": "its run had waited for longer than max_wait_s",
    "forced": "no slot was free, and it could not wait",
    "cycle": "its wait could never have ended",
}
"""The reasons of grants, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageExplanation:
    """One stage of a run.

    Attributes:
        name: its name.
        occurrence: its number among the stages of this name, from 1.
        state: "running" or "ended".
        runs: number of its parallel runs that began.
        runs_ended: number of those that ended.
        calls: number of its LLM calls so far.
        work_s: slot-seconds that they received.
    """

    name: str
    occurrence: int
    state: Literal["running", "ended"]
    runs: int
    runs_ended: int
    calls: int
    work_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """A waiting call that would be served earlier.

    Attributes:
        application: the name of its run's application; empty for a call outside any run.
        run_id: LangGraph's id of its run; empty if it has none.
        tenant: its tenant; empty for none.
        why: the tier that decides, and the values compared.
    """

    application: str
    run_id: str
    tenant: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallExplanation:
    """One call of a run.

    Attributes:
        stage: the name of its stage.
        backend: the name of its backend.
        state: "waiting", "running" or "ended".
        waited_s: seconds for which it waited, or has waited so far.
        seconds: seconds that it has been in its slot; 0 while it waits.
        attempts: number of requests sent for it; 0 while the first one waits.
        reason: the reason of its grant: a key of `REASONS`; empty while it waits.
        place: its place in line at the backend, from 1; None if it does not wait.
        in_line: number of calls that wait there; 0 if it does not wait.
        ahead: the first calls before it, at most five, and why.
        why: why it waits, in words; empty if it does not.
    """

    stage: str
    backend: str
    state: Literal["waiting", "running", "ended"]
    waited_s: float
    seconds: float = 0.0
    attempts: int = 0
    reason: str = ""
    place: int | None = None
    in_line: int = 0
    ahead: tuple[Ahead, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a scheduler knows of one run. `str` gives it as text, `to_dict` as plain data.

    Attributes:
        id: the run's id in recordings; empty while it runs.
        number: the run's number in the scheduler's story.
        run_id: LangGraph's run id, if its configuration named one; else empty.
        thread_id: the thread on which its checkpoints are saved; empty if there is none.
        application: the name of its graph.
        tenant: its tenant; empty for none.
        priority: -5 to 5; smaller is served first.
        state: what it does; see `State`.
        outcome: "done", "failed" or "cancelled"; None while it has not ended.
        elapsed_s: seconds since its arrival, without interruptions; its JCT if it has ended.
        waited_s: the sum of the waits of its calls, in seconds.
        stages: its stages so far.
        work_s: work that it has received, in slot-seconds.
        remaining_s: expected remaining work, in slot-seconds; 0 if it has ended.
        remaining_interval_s: approximate 80 % interval of it; None if nothing was learned yet.
        earlier_runs: number of earlier runs of its application from which was learned.
        calls: its calls: those that wait, those in a slot, those that ended.
        eta_s: median of the seconds to its end; None if it has ended, or too few runs have.
        eta_interval_s: central 80 % interval of the seconds to its end.
    """

    id: str = ""
    number: int
    run_id: str = ""
    thread_id: str = ""
    application: str = ""
    tenant: str = ""
    priority: int = 0
    state: State
    outcome: str | None = None
    elapsed_s: float = 0.0
    waited_s: float = 0.0
    stages: tuple[StageExplanation, ...] = ()
    work_s: float = 0.0
    remaining_s: float = 0.0
    remaining_interval_s: tuple[float, float] | None = None
    earlier_runs: int = 0
    calls: tuple[CallExplanation, ...] = ()
    eta_s: float | None = None
    eta_interval_s: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join([self._head(), *("  " + line for line in self._lines())])

    def _head(self) -> str:
        name = f"run {self.run_id}" if self.run_id else f"run {self.number}"
        whose = f", tenant {self.tenant}" if self.tenant else ""
        level = f", priority {self.priority}" if self.priority else ""
        doing = _STATES[self.state] if self.outcome is None else f"has ended ({self.outcome})"
        return f"{name} of {self.application!r}{whose}{level}: {doing}, after {self.elapsed_s:.1f} s"

    def _lines(self) -> list[str]:
        lines = []
        for call in self.calls:
            name = f"a call of {call.stage}" if call.stage else "a call"
            if call.state == "waiting":
                lines.append(f"{name} has waited for {call.waited_s:.1f} s: {call.why}")
                lines += [f"  ahead: {_whose(own)}: {own.why}" for own in call.ahead]
                more = (call.place or 1) - 1 - len(call.ahead)
                if more > 0:
                    lines.append(f"  ahead: {more} more")
            elif call.state == "running":
                lines.append(
                    f"{name} has been in a slot of {call.backend!r} for {call.seconds:.1f} s"
                    f" (waited {call.waited_s:.1f} s; {REASONS.get(call.reason, call.reason)})"
                )
        running = [stage for stage in self.stages if stage.state == "running"]
        if running:
            lines.append("running: " + ", ".join(map(_stage, running)))
        ended = [stage for stage in self.stages if stage.state == "ended"]
        if ended:
            lines.append("ended: " + ", ".join(map(_stage, ended)))
        if self.outcome is not None:
            lines += [_ended(call) for call in self.calls]
        lines.append(self._work())
        if self.eta_s is not None and self.eta_interval_s is not None:
            low_s, high_s = self.eta_interval_s
            lines.append(f"ends in about {_s(self.eta_s)} (80 % interval: {_s(low_s)} to {_s(high_s)})")
        elif self.outcome is None and self.state != "paused":
            lines.append("its end cannot be told yet: too few runs have ended")
        return lines

    def _work(self) -> str:
        done = f"work: {_s(self.work_s)} in slots, {_s(self.waited_s)} waiting for them"
        if self.outcome is not None:
            return done
        left = f"; {_s(self.remaining_s)} of work left"
        if self.remaining_interval_s is not None:
            low_s, high_s = self.remaining_interval_s
            left += f" (80 % interval: {_s(low_s)} to {_s(high_s)})"
        known = f"from {self.earlier_runs} earlier runs" if self.earlier_runs else "nothing learned yet"
        return f"{done}{left}, {known}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


def _whose(own: Ahead) -> str:
    name = f"run {own.run_id}" if own.run_id else "a run" if own.application else "a call outside runs"
    of = f" of {own.application!r}" if own.application else ""
    return f"{name}{of}" + (f", tenant {own.tenant}" if own.tenant else "")


def _stage(stage: StageExplanation) -> str:
    name = stage.name or "calls outside nodes"
    if stage.occurrence > 1:
        name += f" (occurrence {stage.occurrence})"
    parts = []
    if stage.runs > 1:
        parts.append(f"{stage.runs_ended} of {stage.runs} parallel runs ended")
    if stage.calls:
        parts.append(f"{stage.calls} call{'s' if stage.calls > 1 else ''}, {_s(stage.work_s)}")
    return name + (f" [{'; '.join(parts)}]" if parts else "")


def _ended(call: CallExplanation) -> str:
    attempts = f", {call.attempts} attempts" if call.attempts > 1 else ""
    return (
        f"call of {call.stage or 'no stage'} at {call.backend!r}: waited {call.waited_s:.2f} s "
        f"({REASONS.get(call.reason, call.reason)}), {call.seconds:.2f} s in its slot{attempts}"
    )
