"""Orders a graph with cycles: its strongly connected components, and one iteration of each loop.

Does not interpret nodes: they are numbers, and edges are lists of successors.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

Successors = Sequence[Sequence[int]]


def components(successors: Successors) -> list[list[int]]:
    """Return the strongly connected components (Tarjan) in topological order, members ascending.

    Ties go to the component with the smallest node. The search is iterative, because a chain may have
    thousands of nodes.
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
    """Return the members of a loop in the order of one iteration, and the loop's back edges.

    The back edges are those of a depth-first search from `starts`. Without them the loop is acyclic, and the
    returned order is topological.
    """
    inside = set(members)
    done: list[int] = []
    state: dict[int, bool] = {}  # missing: unvisited; True: on the search path; False: finished
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
