"""Defines the variables of an application's model and extracts their values from ended jobs.

Does not define bins or networks, or read running jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil
from typing import Any

from llmsched_langgraph._application.application import Application, Kind, Node
from llmsched_langgraph._application.nesting import label, number_of, place_of, widest
from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.observed import ObservedJob, ObservedStage, Unit

MIN_JOBS = 5
"""Jobs required for a learned model, for a separate loop occurrence, and for a column per tool."""

MIN_SHARE = 0.05
"""Share of all jobs required for a separate loop occurrence, in addition to `MIN_JOBS`."""

OTHER = "*"
"""Name of the column that pools rare tools."""


class Quantity(StrEnum):
    """The quantity that a variable measures."""

    TOTAL = "total"  # work of the whole job
    PROMPT = "prompt"  # tokens of the job's first prompt
    FAN_OUT = "fan_out"  # concurrent runs of a stage
    WORK = "work"  # work of a stage; part of the remaining work
    LENGTH = "length"  # output tokens of an LLM stage, where the unit of work is tool seconds
    TASKS = "tasks"  # tool uses in the plan
    PLANNED = "planned"  # uses of one tool in the plan
    TOOL = "tool"  # work of all uses of one tool; part of the remaining work


@dataclass(frozen=True, slots=True)
class Column:
    """One variable: a quantity of a job, of one of its stages, or of a planned tool.

    Attributes:
        quantity: the measured quantity.
        node: path of the stage's node; empty if the variable belongs to no stage.
        first: first covered occurrence.
        last: last covered occurrence; None for all later ones. In an inner loop, numbers are as in `nesting`.
        tool: the tool; empty if the variable belongs to no tool.
    """

    quantity: Quantity
    node: str = ""
    first: int = 1
    last: int | None = None
    tool: str = ""

    @property
    def counts(self) -> bool:
        """Whether the amounts are part of the job's work."""
        return self.quantity in (Quantity.WORK, Quantity.TOOL)

    @property
    def tail(self) -> bool:
        """Whether the column covers several loop occurrences, which end together with the loop or a visit."""
        return self.first > 1 if self.last is None else self.last > self.first

    @property
    def stage(self) -> str:
        """The stage's id, as an `Application` gives it, or the tool's name."""
        if self.tool:
            return self.tool
        if self.last is None and not self.tail:
            return self.node
        return f"{self.node}#{label(self.first)}{'+' if self.tail else ''}"

    @property
    def name(self) -> str:
        """The column's name, unique within a model."""
        return f"{self.quantity.value}:{self.stage}" if self.node or self.tool else self.quantity.value

    @property
    def words(self) -> str:
        """A description for display."""
        what = self.tool if self.tool != OTHER else "other tools"
        match self.quantity:
            case Quantity.TOTAL:
                return "the whole job's work"
            case Quantity.PROMPT:
                return "tokens of the first prompt"
            case Quantity.TASKS:
                return "number of tools planned"
            case Quantity.PLANNED:
                return f"planned uses of {what}"
            case Quantity.TOOL:
                return f"work of {what}"
            case Quantity.FAN_OUT:
                return f"runs of {self.stage}"
            case Quantity.LENGTH:
                return f"tokens of {self.stage}"
            case Quantity.WORK:
                return f"work of {self.stage or 'all calls'}"

    def covers(self, node: str, occurrence: int) -> bool:
        """Return whether the column covers this occurrence of a node."""
        return (
            node == self.node and self.first <= occurrence and (self.last is None or occurrence <= self.last)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, from which `column_from_json` restores the column."""
        return {
            "quantity": self.quantity.value,
            "node": self.node,
            "first": self.first,
            "last": self.last,
            "tool": self.tool,
        }


def column_from_json(data: Field) -> Column:
    """Return the column that `to_json` wrote.

    Raises:
        InvalidDataError: the data is damaged; the message names the field.
    """
    first = data["first"].count(least=1)
    return Column(
        data["quantity"].choice(Quantity),
        data["node"].string(),
        first,
        data["last"].maybe_count(least=first),
        data["tool"].string(),
    )


def columns_of(application: Application, outcomes: Sequence[ObservedJob], unit: Unit) -> tuple[Column, ...]:
    """Return the variables of an application's model, causes before effects.

    The order is: the job's total work, its prompt tokens, then for each stage in the template's order its
    fan-out and its work, if it has work in this unit. A stage that plans tools adds the number of planned
    uses, the uses of each tool, and the work of each tool, which replaces the work of the stages that run
    tools. If the unit is tool seconds, LLM stages have their length instead of work. Loops are unrolled to
    the occurrences that `MIN_JOBS` and `MIN_SHARE` of the outcomes reach; the tail covers the rest. Constant
    columns are omitted, except nonzero work and the total.
    """
    template = _complete(application, outcomes)
    template = template.unrolled(_common(outcomes))
    typed = {stage.stage_occurrence.path for job in outcomes for stage in job.stages if stage.tools}
    planned = {path: planner for path, planner in planned_nodes(template).items() if path in typed}
    working = _nodes_with(outcomes, unit) - set(planned)
    calling = _nodes_with(outcomes, Unit.TOKENS) - set(planned) if unit is Unit.TOOL_SECONDS else set()
    columns = [Column(Quantity.TOTAL), Column(Quantity.PROMPT)]
    planners = set(planned.values())
    for stage in template.stages:
        first, last = stage.occurrence, stage.last
        if stage.node in working | calling:
            if not stage.tail:
                columns.append(Column(Quantity.FAN_OUT, stage.node, first, last))
            quantity = Quantity.WORK if stage.node in working else Quantity.LENGTH
            columns.append(Column(quantity, stage.node, first, last))
        if stage.node in planners:
            planners.discard(stage.node)
            tools = _tools(outcomes, planned)
            columns.append(Column(Quantity.TASKS))
            columns += [Column(Quantity.PLANNED, tool=tool) for tool in tools]
            columns += [Column(Quantity.TOOL, tool=tool) for tool in tools]
    tables = values_of(columns, outcomes, unit)
    return tuple(
        column
        for i, column in enumerate(columns)
        if _varies(column, [row[i] for row in tables]) or column.quantity is Quantity.TOTAL
    )


def planned_nodes(application: Application) -> dict[str, str]:
    """Return the dynamic nodes that one plan per job decides on, each with its planner.

    Nodes in a loop with their planner are excluded: each iteration has its own plan.
    """
    loops = [set(loop) for loop in application.loops]
    return {
        node.path: node.planned_by
        for node in application.nodes
        if node.kind is Kind.DYNAMIC
        and node.planned_by is not None
        and not any({node.path, node.planned_by} <= loop for loop in loops)
    }


def values_of(
    columns: Sequence[Column], outcomes: Sequence[ObservedJob], unit: Unit
) -> list[list[float | None]]:
    """Return one row per outcome with the value of each column; None if absent or not recorded."""
    tools = tools_of(columns)
    return [[_value(column, job, unit, tools) for column in columns] for job in outcomes]


def tools_of(columns: Sequence[Column]) -> tuple[str, ...]:
    """Return the tools that have columns, including `OTHER` if rare tools are pooled."""
    return tuple(dict.fromkeys(column.tool for column in columns if column.tool))


def tool_name(tool: str | None, known: Sequence[str]) -> str:
    """Return the name of a tool's column: the tool if it is in `known`, else `OTHER`."""
    return tool if tool is not None and tool in known else OTHER


def _value(column: Column, job: ObservedJob, unit: Unit, tools: Sequence[str]) -> float | None:
    match column.quantity:
        case Quantity.TOTAL:
            return job.amount(unit)
        case Quantity.PROMPT:
            return job.prompt_tokens
        case Quantity.WORK | Quantity.LENGTH | Quantity.FAN_OUT:
            own = [stage for stage in job.stages if column.covers(*stage.stage_occurrence)]
            return stage_value(column.quantity, own, unit)
        case Quantity.TASKS | Quantity.PLANNED | Quantity.TOOL:
            parts = [
                part
                for stage in job.stages
                if stage.tools
                for part in stage.parts
                if column.quantity is Quantity.TASKS or tool_name(part.tool, tools) == column.tool
            ]
            if not parts:
                return None
            if column.quantity is Quantity.TOOL:
                return sum(part.amount(unit) or 0.0 for part in parts)
            return sum(part.runs for part in parts)


def stage_value(quantity: Quantity, stages: Sequence[ObservedStage], unit: Unit) -> float | None:
    """Return a stage column's value for the occurrences that it covers; None without any."""
    if not stages:
        return None
    if quantity is Quantity.FAN_OUT:
        return stages[0].fan_out
    unit = Unit.TOKENS if quantity is Quantity.LENGTH else unit
    return sum(stage.amount(unit) or 0.0 for stage in stages)


def _varies(column: Column, values: list[float | None]) -> bool:
    present = {value for value in values if value is not None}
    if column.counts:
        return bool(present) and present != {0.0}
    # Presence alone adds no information: the stage's work variable has it, too.
    return len(present) > 1 or (column.quantity is Quantity.PLANNED and bool(present) and None in values)


def _complete(application: Application, outcomes: Sequence[ObservedJob]) -> Application:
    """Return the application with the observed nodes that it lacks."""
    new = {stage.stage_occurrence.path for job in outcomes for stage in job.stages} - set(application.by_path)
    if not new:
        return application
    nodes = (*application.nodes, *(Node(path, learned=True) for path in sorted(new)))
    return replace(application, nodes=nodes)


def _common(outcomes: Sequence[ObservedJob]) -> dict[str, int]:
    """Return for each node the largest occurrence that enough jobs reached; 1 if none is.

    For a node in an inner loop, these are the most visits, and the most occurrences in one visit.
    """
    times: dict[str, list[int]] = {}
    for job in outcomes:
        most: dict[str, int] = {}
        for stage in job.stages:
            path, number = stage.stage_occurrence
            most[path] = widest(most.get(path, 1), number)
        for path, number in most.items():
            times.setdefault(path, []).append(number)
    enough = max(MIN_JOBS, ceil(MIN_SHARE * len(outcomes)))

    def reached(numbers: list[int]) -> int:
        if len(numbers) < enough:
            return 1
        visits, nths = zip(*map(place_of, numbers), strict=True)
        return number_of(sorted(visits)[-enough], sorted(nths)[-enough])

    return {path: reached(numbers) for path, numbers in times.items()}


def _nodes_with(outcomes: Sequence[ObservedJob], unit: Unit) -> set[str]:
    return {stage.stage_occurrence.path for job in outcomes for stage in job.stages if stage.amount(unit)}


def _tools(outcomes: Sequence[ObservedJob], planned: dict[str, str]) -> list[str]:
    """Return the tools of planned stages, most frequent first, then `OTHER` if any is rare."""
    jobs: dict[str, int] = {}
    for job in outcomes:
        named = {
            part.tool
            for stage in job.stages
            if stage.stage_occurrence.path in planned
            for part in stage.parts
        }
        for tool in named:
            if tool is not None:
                jobs[tool] = jobs.get(tool, 0) + 1
    known = sorted((tool for tool, count in jobs.items() if count >= MIN_JOBS), key=lambda t: (-jobs[t], t))
    return [*known, OTHER] if len(known) < len(jobs) else known
