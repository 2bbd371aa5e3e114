"""Places the nodes of a DAG in layers from left to right, with few edge crossings.

Does not draw anything. The method is Sugiyama's: layers by longest path, dummy nodes on long edges,
order inside a layer by the barycentre of the neighbours.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 8
"""Ordering sweeps over the layers, alternately forwards and backwards."""

Place = tuple[int, float]
"""A layer, and the vertical position in it, in rows."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions of the nodes and routes of the edges.

    Attributes:
        places: the place of each node.
        ways: the route of each edge, one place for each layer from source to target.
        rows: number of rows of the fullest layer.
    """

    places: dict[str, Place]
    ways: dict[tuple[str, str], tuple[Place, ...]]
    rows: int


def layered(nodes: Sequence[str], edges: Iterable[tuple[str, str]]) -> Layout:
    """Lay out a DAG.

    Args:
        nodes: in topological order.
        edges: pairs of source and target.
    """
    edges = list(dict.fromkeys(edges))
    layer: dict[Hashable, int] = dict.fromkeys(nodes, 0)
    incoming: dict[str, list[str]] = {}
    for source, target in edges:
        incoming.setdefault(target, []).append(source)
    for node in nodes:
        layer[node] = max((layer[source] + 1 for source in incoming.get(node, ())), default=0)
    chains: dict[tuple[str, str], list[Hashable]] = {}
    for edge in edges:
        between: list[Hashable] = [(*edge, n) for n in range(layer[edge[0]] + 1, layer[edge[1]])]
        layer |= {step: step[2] for step in between if isinstance(step, tuple)}
        chains[edge] = [edge[0], *between, edge[1]]
    layers: list[list[Hashable]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for thing, number in layer.items():
        layers[number].append(thing)
    before: dict[Hashable, list[Hashable]] = {}
    after: dict[Hashable, list[Hashable]] = {}
    for chain in chains.values():
        for one, next_ in pairwise(chain):
            after.setdefault(one, []).append(next_)
            before.setdefault(next_, []).append(one)
    row = {thing: float(n) for things in layers for n, thing in enumerate(things)}
    for sweep in range(SWEEPS):
        neighbours = before if sweep % 2 == 0 else after
        for things in layers if sweep % 2 == 0 else reversed(layers):
            things.sort(key=lambda thing: (_mean(thing, neighbours, row), row[thing]))
            row.update({thing: float(n) for n, thing in enumerate(things)})
    rows = max(map(len, layers), default=0)
    for things in layers:
        for n, thing in enumerate(things):
            row[thing] = n + (rows - len(things)) / 2
    return Layout(
        {node: (layer[node], row[node]) for node in nodes},
        {edge: tuple((layer[step], row[step]) for step in chain) for edge, chain in chains.items()},
        rows,
    )


def _mean(thing: Hashable, neighbours: dict[Hashable, list[Hashable]], row: dict[Hashable, float]) -> float:
    near = neighbours.get(thing)
    return sum(row[other] for other in near) / len(near) if near else row[thing]
