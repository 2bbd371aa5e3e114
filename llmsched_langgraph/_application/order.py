"""Knows how a graph with cycles is put in order: its loops, and inside each the way once round.

Does not know what the nodes are. Nodes are numbers, edges are lists of successors.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

Successors = Sequence[Sequence[int]]


def components(successors: Successors) -> list[list[int]]:
    """Strongly connected components (Tarjan's), in topological order, earliest named nodes first.

    Linear in nodes and edges. No recursion: a chain may be thousands of nodes long.
    """
    found = _tarjan(successors)
    home = [0] * len(successors)
    for number, members in enumerate(found):
        for node in members:
            home[node] = number
    blocked_by = [0] * len(found)
    unlocks: list[set[int]] = [set() for _ in found]
    for source, after in enumerate(successors):
        here = home[source]
        for target in after:
            if here != home[target] and home[target] not in unlocks[here]:
                unlocks[here].add(home[target])
                blocked_by[home[target]] += 1
    free = [(min(members), number) for number, members in enumerate(found) if not blocked_by[number]]
    heapq.heapify(free)
    ordered = []
    while free:
        _, number = heapq.heappop(free)
        ordered.append(sorted(found[number]))
        for other in unlocks[number]:
            blocked_by[other] -= 1
            if not blocked_by[other]:
                heapq.heappush(free, (min(found[other]), other))
    return ordered


def _tarjan(successors: Successors) -> list[list[int]]:
    count = len(successors)
    index = [-1] * count
    low = [0] * count
    on_stack = [False] * count
    stack: list[int] = []
    found: list[list[int]] = []
    clock = 0
    for root in range(count):
        if index[root] >= 0:
            continue
        path: list[tuple[int, int]] = [(root, 0)]
        while path:
            node, step = path.pop()
            if step == 0:
                index[node] = low[node] = clock
                clock += 1
                stack.append(node)
                on_stack[node] = True
            else:
                low[node] = min(low[node], low[successors[node][step - 1]])
            for step_, target in enumerate(successors[node][step:], step):
                if index[target] < 0:
                    path += [(node, step_ + 1), (target, 0)]
                    break
                if on_stack[target]:
                    low[node] = min(low[node], index[target])
            else:
                if low[node] == index[node]:
                    members: list[int] = []
                    while not members or members[-1] != node:
                        members.append(stack.pop())
                        on_stack[members[-1]] = False
                    found.append(members)
    return found


def once_round(
    members: Sequence[int], successors: Successors, starts: Iterable[int]
) -> tuple[list[int], set[tuple[int, int]]]:
    """The members of a loop in the order of one way round, and the edges that begin the next one.

    Depth first from `starts`: an edge back to a node that is still open closes a round. Without
    those edges the rest has no cycle, and the order is a topological one of it.
    """
    inside = set(members)
    done: list[int] = []
    state: dict[int, bool] = {}  # absent: not seen; True: open; False: done
    back: set[tuple[int, int]] = set()
    for root in (*starts, *members):
        if root in state or root not in inside:
            continue
        path = [(root, 0)]
        state[root] = True
        while path:
            node, step = path.pop()
            for step_, target in enumerate(successors[node][step:], step):
                if target not in inside:
                    continue
                if target not in state:
                    state[target] = True
                    path += [(node, step_ + 1), (target, 0)]
                    break
                if state[target]:
                    back.add((node, target))
            else:
                state[node] = False
                done.append(node)
    return done[::-1], back
