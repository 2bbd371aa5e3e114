"""Translates the evidence of a running job into soft evidence about its application's variables.

Does not use networks or predict anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import floor, log10
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched_langgraph._belief.model import prior
from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.columns import Column, Quantity, stage_value, tool_name, tools_of
from llmsched_langgraph._belief.model.total import SoftEvidence
from llmsched_langgraph._jobs.observed import ObservedStage, Part, Unit
from llmsched_langgraph._jobs.stages import StageOccurrence

Floats = NDArray[np.float64]

DIGITS = 2
"""Significant digits of received work in evidence. Rounding lets queries share cached beliefs."""


SETTLED_SHARE = 0.25
"""Share of a stage's concurrent runs that must have ended to settle the work of the others."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An announced, unfinished stage occurrence, or the uses of one tool in it.

    Attributes:
        stage_occurrence: the node and the number of its occurrence.
        runs: number of announced concurrent runs.
        received: work received so far by all runs, in the model's unit.
        ended: number of ended runs.
        settled: work of the ended runs, in the model's unit.
        tool: the tool, if the stage may run several; else None.
    """

    stage_occurrence: StageOccurrence
    runs: int = 1
    received: float = 0.0
    ended: int = 0
    settled: float = 0.0
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class JobEvidence:
    """The evidence of a job at one moment. Immutable and hashable: beliefs are cached by it.

    Attributes:
        prompt_tokens: size of the job's first prompt, as in `ObservedJob`; None if unknown.
        finished: the ended stage occurrences.
        begun: the announced, unfinished stage occurrences, with or without received work.
        planned: (tool, number of planned uses) pairs; None before the plan exists.
        skipped: paths of the nodes that cannot run again, or at all.
        passed: (path, number of the highest occurrence that cannot come any more) pairs of nodes of inner
            loops.
    """

    prompt_tokens: int | None = None
    finished: tuple[ObservedStage, ...] = ()
    begun: tuple[Begun, ...] = ()
    planned: tuple[tuple[str, int], ...] | None = None
    skipped: frozenset[str] = frozenset()
    passed: tuple[tuple[str, int], ...] = ()

    def rounded(self) -> JobEvidence:
        """Return the evidence with received work rounded to `DIGITS` significant digits."""
        if not any(own.received for own in self.begun):
            return self
        begun = [replace(own, received=_rounded(own.received)) if own.received else own for own in self.begun]
        return replace(self, begun=tuple(begun))


class Vocabulary:
    """The variables of a model, indexed to translate evidence.

    Args:
        columns: the meaning of each variable.
        bins: the states of each variable.
        unit: unit of work.
    """

    def __init__(self, columns: Sequence[Column], bins: Sequence[Bins], unit: Unit) -> None:
        self.columns = tuple(columns)
        self.bins = tuple(bins)
        self.unit = unit
        self.tools = tools_of(columns)
        self.usual = _usual(columns, bins)
        self.nodes = frozenset(column.node for column in columns if column.node)
        self._readers = tuple((column, _READERS[column.quantity]) for column in self.columns)

    def known(self, evidence: JobEvidence) -> SoftEvidence:
        """Return the soft evidence by column number.

        Stages without a column add to the received work of the job's total, and to nothing else.
        """
        reading = _Reading(self, evidence)
        values: dict[int, float | None] = {}
        left: dict[int, float] = {}
        reached: dict[int, float] = {}
        likelihoods: dict[int, Floats] = {}
        skipped, highest = evidence.skipped, reading.highest
        for i, (column, read) in enumerate(self._readers):
            node = column.node
            if node and node not in highest:  # neither announced nor ended
                if node in skipped:
                    values[i] = None
                continue
            said = read(reading, column)
            if said is None:
                continue
            if isinstance(said, Settled):
                values[i] = said.value
                if said.left:
                    left[i] = said.left
            elif said.amount > 0.0:
                reached[i] = said.amount
            else:
                likelihoods[i] = self.bins[i].present()
        return SoftEvidence(values, reached, likelihoods, left)


_new = tuple.__new__
"""Builds a named tuple without the overhead of its Python-level constructor."""


class Settled(NamedTuple):
    """Hard evidence: the value, or None if absent. `left` is its expected remaining part."""

    value: float | None
    left: float = 0.0


class Reached(NamedTuple):
    """Soft evidence: the quantity is present and at least `amount`."""

    amount: float


class _Reading:
    """The evidence, indexed by node and tool. Each method returns that of one column, or None."""

    def __init__(self, vocabulary: Vocabulary, evidence: JobEvidence) -> None:
        unit, tools, nodes = vocabulary.unit, vocabulary.tools, vocabulary.nodes
        self._unit = unit
        self._evidence = evidence
        self._usual = vocabulary.usual
        self._plan: Counter[str] | None = None
        if evidence.planned is not None:
            self._plan = Counter()
            for tool, count in evidence.planned:
                self._plan[tool_name(tool, tools)] += count
        self._finished: dict[str, list[tuple[ObservedStage, float]]] = {}  # (stage, work), by path
        self._begun: dict[str, list[Begun]] = {}
        # The latest occurrence of each node that was announced, has ended, or cannot come any more.
        self.highest = {path: number for path, number in evidence.passed if path in nodes}
        self._parts: dict[str, list[Part]] = {}  # of ended stages, by tool
        ended = 0.0
        for stage in evidence.finished:
            parts = stage.parts
            amount = (parts[0] if len(parts) == 1 else stage).amount(unit) or 0.0
            ended += amount
            path, occurrence = stage.stage_occurrence
            if path in nodes:
                self._finished.setdefault(path, []).append((stage, amount))
                self.highest[path] = max(self.highest.get(path, 0), occurrence)
            if tools and stage.tools:
                for part in parts:
                    self._parts.setdefault(tool_name(part.tool, tools), []).append(part)
        self._received = ended + sum([own.received for own in evidence.begun])
        self._running: dict[str, list[float]] = {}  # received work of unfinished stages, by tool
        for own in evidence.begun:
            path, occurrence = own.stage_occurrence
            if path in nodes:
                self._begun.setdefault(path, []).append(own)
                self.highest[path] = max(self.highest.get(path, 0), occurrence)
            if own.tool is not None:
                self._running.setdefault(tool_name(own.tool, tools), []).append(own.received)

    def total(self, column: Column) -> Reached:
        return Reached(self._received)

    def prompt(self, column: Column) -> Settled | None:
        tokens = self._evidence.prompt_tokens
        return None if tokens is None else Settled(tokens)

    def tasks(self, column: Column) -> Settled | None:
        return None if self._plan is None else Settled(self._plan.total() or None)

    def planned(self, column: Column) -> Settled | None:
        return None if self._plan is None else Settled(self._plan[column.tool] or None)

    def fan_out(self, column: Column) -> Settled | None:
        begun = self._now(column)
        if begun:
            first = begun[0].stage_occurrence
            return Settled(sum(own.runs for own in begun if own.stage_occurrence == first))
        return self._ended(column) or (Settled(None) if self._missed(column) else None)

    def work(self, column: Column) -> Settled | Reached | None:
        ended = self._ended(column)
        begun = self._now(column)
        again = column.tail and not self._missed(column)
        if begun or (ended is not None and again):
            if column.quantity is Quantity.LENGTH:
                # The received work is in seconds, which do not determine the length in tokens.
                return Reached(ended.value or 0.0 if ended else 0.0)
            if not ended and not column.tail and (whole := self._whole(column, begun)) is not None:
                return Settled(whole, whole - sum(own.received for own in begun))
            return Reached((ended.value or 0.0 if ended else 0.0) + sum(own.received for own in begun))
        if ended is not None:
            return ended
        return Settled(None) if self._missed(column) else None

    def _whole(self, column: Column, begun: Sequence[Begun]) -> float | None:
        """Estimate a stage's work from its ended runs; None if fewer than `SETTLED_SHARE` ended.

        The work of each other run is that of the ended runs, `prior.shrunk` towards the stage's mean work per
        run.
        """
        runs, ended = sum(own.runs for own in begun), sum(own.ended for own in begun)
        if not 0 < ended >= SETTLED_SHARE * runs or runs == 1:
            return None
        work, fan_out = self._usual.get(column, (0.0, None))
        settled = sum(own.settled for own in begun)
        each = prior.shrunk(settled, ended, work / max(fan_out or runs, 1.0), prior.RUNS)
        return max(settled + (runs - ended) * each, sum(own.received for own in begun))

    def _now(self, column: Column) -> list[Begun]:
        begun = self._begun.get(column.node)
        return [] if begun is None else [own for own in begun if column.covers(*own.stage_occurrence)]

    def _ended(self, column: Column) -> Settled | None:
        own = [
            each for each in self._finished.get(column.node, ()) if column.covers(*each[0].stage_occurrence)
        ]
        if not own:
            return None
        if column.quantity is Quantity.WORK:
            return _new(Settled, (sum([amount for _, amount in own]), 0.0))
        return Settled(stage_value(column.quantity, [stage for stage, _ in own], self._unit))

    def _missed(self, column: Column) -> bool:
        """Whether no occurrence that the column covers can still start."""
        if column.node in self._evidence.skipped:
            return True
        return column.last is not None and column.last < self.highest.get(column.node, 0)

    def tool(self, column: Column) -> Settled | Reached | None:
        ended, running = self._parts.get(column.tool, ()), self._running.get(column.tool, ())
        so_far = sum(part.amount(self._unit) or 0.0 for part in ended) + sum(running)
        runs = sum(part.runs for part in ended)
        if self._plan is None:
            return Reached(so_far) if ended or running else None
        if running or runs < self._plan[column.tool]:
            return Reached(so_far)
        return Settled(so_far if ended else None)


_READERS: dict[Quantity, Callable[[_Reading, Column], Settled | Reached | None]] = {
    Quantity.TOTAL: _Reading.total,
    Quantity.PROMPT: _Reading.prompt,
    Quantity.TASKS: _Reading.tasks,
    Quantity.PLANNED: _Reading.planned,
    Quantity.TOOL: _Reading.tool,
    Quantity.FAN_OUT: _Reading.fan_out,
    Quantity.WORK: _Reading.work,
    Quantity.LENGTH: _Reading.work,
}


def _usual(columns: Sequence[Column], bins: Sequence[Bins]) -> dict[Column, tuple[float, float | None]]:
    """Return each stage's mean work and mean fan-out (None without a fan-out variable)."""
    wide = {
        (column.node, column.first): own.mean
        for column, own in zip(columns, bins, strict=True)
        if column.quantity is Quantity.FAN_OUT
    }
    return {
        column: (own.mean, wide.get((column.node, column.first)))
        for column, own in zip(columns, bins, strict=True)
        if column.quantity is Quantity.WORK
    }


def _rounded(amount: float) -> float:
    if not amount > 0.0:
        return 0.0
    return round(amount, DIGITS - 1 - floor(log10(amount)))
