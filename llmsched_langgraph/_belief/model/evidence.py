"""Knows what can be known of a job that is under way, and what that says of its application's variables.

Does not know networks, nor what will come of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.columns import Column, Quantity, stage_value, tool_name, tools_of
from llmsched_langgraph._belief.model.total import SoftEvidence
from llmsched_langgraph._jobs.observed import ObservedStage, Part, Unit
from llmsched_langgraph._jobs.stages import StageOccurrence

Floats = NDArray[np.float64]

DIGITS = 2
"""Digits to which work that goes on is rounded, so that a job asked for often has the same evidence."""


SETTLED_SHARE = 0.25
"""The share of a stage's runs whose end settles what the others will take: a few are a fair sample."""

PRIOR_RUNS = 2.0
"""Runs that what is known of a stage beforehand counts for, beside its own runs that are over."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An occurrence of a stage, or the uses of one tool in it, that was announced and is not over.

    Attributes:
        spot: the node, and which time it runs.
        runs: how many side by side were announced.
        received: the work that they received so far, in the model's unit.
        ended: how many of them are over.
        settled: the work of those.
        tool: the tool, where the stage can run several.
    """

    stage_occurrence: StageOccurrence
    runs: int = 1
    received: float = 0.0
    ended: int = 0
    settled: float = 0.0
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class JobEvidence:
    """What is known of a job at one moment. A value, and hashable: beliefs are cached by it.

    Attributes:
        prompt_tokens: size of its input, as in `ObservedJob`; None as long as it is not known.
        finished: the stages that ended, as far as they go.
        begun: what has been announced and is not over, whether it has received work or not.
        planned: if a plan has been made, how often it names each tool; None before.
        skipped: paths of the nodes that will not be run any more, or not once.
    """

    prompt_tokens: int | None = None
    finished: tuple[ObservedStage, ...] = ()
    begun: tuple[Begun, ...] = ()
    planned: tuple[tuple[str, int], ...] | None = None
    skipped: frozenset[str] = frozenset()

    def rounded(self) -> JobEvidence:
        """The same, work that goes on rounded to `DIGITS` digits."""
        if not any(own.received for own in self.begun):
            return self
        begun = [
            Begun(own.stage_occurrence, own.runs, _rounded(own.received), own.ended, own.settled, own.tool)
            if own.received
            else own
            for own in self.begun
        ]
        return JobEvidence(self.prompt_tokens, self.finished, tuple(begun), self.planned, self.skipped)


class Vocabulary:
    """What a model's variables stand for, laid out so that evidence can be read by them.

    Args:
        columns: the variables.
        bins: their states.
        unit: what work is counted in.
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
        """What the evidence says of each column, by number.

        What no column stands for is absorbed: it says nothing, but its work is work that the job received.
        """
        reading = _Reading(self, evidence)
        values: dict[int, float | None] = {}
        left: dict[int, float] = {}
        reached: dict[int, float] = {}
        likelihoods: dict[int, Floats] = {}
        skipped, highest = evidence.skipped, reading.highest
        for i, (column, read) in enumerate(self._readers):
            node = column.node
            if node and node not in highest:  # it has not come up
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
"""Makes a named tuple of a tuple: the same as calling its class, without a line of Python."""


class Settled(NamedTuple):
    """It is this much, or None: it does not happen. `left` of it is still to come."""

    value: float | None
    left: float = 0.0


class Reached(NamedTuple):
    """It happens, and has come so far."""

    amount: float


class _Reading:
    """The evidence, looked at column by column. Each of the methods tells what is known of one, or None."""

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
        self._finished: dict[str, list[tuple[ObservedStage, float]]] = {}  # with their work
        self._begun: dict[str, list[Begun]] = {}
        self.highest: dict[str, int] = {}  # occurrence of each node that came up
        self._parts: dict[str, list[Part]] = {}  # of stages that ended, by tool
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
        self._running: dict[str, list[float]] = {}  # what goes on has received, by tool
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
        again = column.tail and column.node not in self._evidence.skipped
        if begun or (ended is not None and again):
            if column.quantity is Quantity.LENGTH:
                # Seconds of a stage say nothing of its length.
                return Reached(ended.value or 0.0 if ended else 0.0)
            if not ended and not column.tail and (whole := self._whole(column, begun)) is not None:
                return Settled(whole, whole - sum(own.received for own in begun))
            return Reached((ended.value or 0.0 if ended else 0.0) + sum(own.received for own in begun))
        if ended is not None:
            return ended
        return Settled(None) if self._missed(column) else None

    def _whole(self, column: Column, begun: Sequence[Begun]) -> float | None:
        """What a stage will have received, judged by its runs that are over; None if they are too few."""
        runs, ended = sum(own.runs for own in begun), sum(own.ended for own in begun)
        if not 0 < ended >= SETTLED_SHARE * runs or runs == 1:
            return None
        work, fan_out = self._usual.get(column, (0.0, None))
        each = (sum(own.settled for own in begun) + PRIOR_RUNS * work / max(fan_out or runs, 1.0)) / (
            ended + PRIOR_RUNS
        )
        return max(
            sum(own.settled for own in begun) + (runs - ended) * each, sum(own.received for own in begun)
        )

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
        """Whether nothing that the column stands for can come any more."""
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
    """The mean work of each stage, and its mean fan-out; None where that is always the same."""
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
