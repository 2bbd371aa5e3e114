"""Finds the loops inside a loop, orders a loop's nodes, and numbers the occurrences of nested nodes.

Does not interpret nodes: they are numbers, and edges are lists of successors.

A loop inside another one has a counter of its own, which begins anew each time that the job comes to the
inner loop: a *visit*. The occurrences of a node in it are numbered 1, 2, ... in the first visit, `VISIT` + 1,
`VISIT` + 2, ... in the second one, and so on. So numbers grow in a job, each is used once, and each tells
the visit. Loops inside inner loops count with the inner loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from llmsched_langgraph._application.order import Successors, components, once_round

VISIT = 1_000_000
"""The difference of the numbers of a node's first occurrences in two consecutive visits."""


def number_of(visit: int, nth: int) -> int:
    """Return the number of a node's `nth` occurrence in a visit to its loop, both from 1."""
    return (visit - 1) * VISIT + nth


def place_of(number: int) -> tuple[int, int]:
    """Return (visit, nth) of the occurrence with this number."""
    before, rest = divmod(number - 1, VISIT)
    return before + 1, rest + 1


def rounds_before(number: int) -> int:
    """Return the number of rounds that a job must take at least before the occurrence with this number."""
    visit, nth = place_of(number)
    return visit + nth - 2


def widest(one: int, other: int) -> int:
    """Return (max visit, max place) of the two numbers, as one number; 0 stands for none."""
    if not one or not other:
        return one or other
    (visit, nth), (visit_, nth_) = place_of(one), place_of(other)
    return number_of(max(visit, visit_), max(nth, nth_))


def label(number: int) -> str:
    """Return the number as a stage's id shows it: `3`, or `2.3` for the third in the second visit."""
    visit, nth = place_of(number)
    return str(nth) if visit == 1 else f"{visit}.{nth}"


class Nest(NamedTuple):
    """A loop in the order of one iteration, and the loops inside it.

    Attributes:
        order: the members. Those of an inner loop are consecutive.
        back: the edges that lead to the loop's next iteration.
        inner: the inner loops, each in the order of one iteration.
        inner_back: the edges that lead to an inner loop's next iteration.
    """

    order: list[int]
    back: set[tuple[int, int]]
    inner: list[list[int]]
    inner_back: set[tuple[int, int]]


def nested(
    members: Sequence[int], successors: Successors, starts: Sequence[int], graphs: Sequence[Sequence[str]]
) -> Nest:
    """Return the loop with these members as a nest.

    A part of the loop that repeats is an inner loop if it is a loop of a graph inside the loop, or if it
    repeats without the node at which the loop begins and the rest of the loop leads to one of its nodes only.

    Args:
        members: the nodes of a strongly connected component.
        successors: the successors of every node.
        starts: the members at which the loop may begin, the first one first.
        graphs: for every node, the paths of the nodes whose graphs it is in.
    """
    order, back = once_round(members, successors, starts)
    inner = _inner(members, successors, order[0], graphs)
    if not inner:
        return Nest(order, back, [], set())
    # In the outer loop, each inner loop is one vertex. Vertices are ordered by their smallest nodes.
    parts = sorted([*inner, *([node] for node in set(members).difference(*inner))])
    looping = {vertex for vertex, part in enumerate(parts) if part in inner}
    home = {node: vertex for vertex, part in enumerate(parts) for node in part}
    edges = [(node, target) for node in members for target in successors[node] if target in home]
    after: list[list[int]] = [[] for _ in parts]
    for node, target in edges:
        if home[node] != home[target]:
            after[home[node]].append(home[target])
    outer, outer_back = once_round(range(len(parts)), after, [home[node] for node in starts])
    made = Nest([], set(), [], set())
    for vertex in outer:
        part = parts[vertex]
        if vertex in looping:
            entered = [node for node in starts if home[node] == vertex]
            entered += sorted(target for node, target in edges if home[node] != vertex == home[target])
            part, again = once_round(part, successors, entered)
            made.inner.append(part)
            made.inner_back.update(again)
        made.order.extend(part)
    for node, target in edges:
        ends = home[node], home[target]
        if ends in outer_back or (ends[0] == ends[1] and ends[0] not in looping):
            made.back.add((node, target))
    return made


def _inner(
    members: Sequence[int], successors: Successors, first: int, graphs: Sequence[Sequence[str]]
) -> list[list[int]]:
    inside = set(members)
    found = [loop for loop in _loops(inside - {first}, successors) if _entries(loop, inside, successors) == 1]
    parts: dict[str, set[int]] = {}
    for node in members:
        for path in graphs[node]:
            parts.setdefault(path, set()).add(node)
    for part in parts.values():
        if len(part) < len(inside):
            found += _loops(part, successors)
    chosen: list[list[int]] = []
    taken: set[int] = set()
    for loop in sorted(found, key=lambda loop: (-len(loop), loop)):
        if taken.isdisjoint(loop):
            chosen.append(loop)
            taken.update(loop)
    return chosen


def _loops(nodes: Iterable[int], successors: Successors) -> list[list[int]]:
    """Return the loops among these nodes alone, each sorted."""
    kept = sorted(nodes)
    place = {node: number for number, node in enumerate(kept)}
    among = [[place[target] for target in successors[node] if target in place] for node in kept]
    return [
        [kept[number] for number in part]
        for part in components(among)
        if len(part) > 1 or part[0] in among[part[0]]
    ]


def _entries(loop: Sequence[int], inside: set[int], successors: Successors) -> int:
    own = set(loop)
    return len({target for node in inside - own for target in successors[node] if target in own})
