"""Unrolls loops: the stages of each node, the occurrences that each covers, and the edges between stages.

Does not find loops or know what nodes do.

A loop with r rounds becomes r occurrences and a tail. In a loop inside it with s rounds, each of r visits
becomes s occurrences and a tail for the rest of the visit; one more stage covers all later visits. A stage is
named by the first occurrence that it covers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from llmsched_langgraph._application.nesting import VISIT, label, number_of, place_of


@dataclass(frozen=True)
class Unrolling:
    """The loops of an application, and how far they are unrolled.

    Attributes:
        parts: the components in topological order, each ordered by one iteration.
        back: the edges that lead to a loop's next iteration.
        inner_back: the edges that lead to an inner loop's next iteration.
        rounds: for each node in a loop, the separate occurrences (in an inner loop: visits) before the tail.
        loop_of: for each node in a loop, the number of the loop.
        inner: the inner loops, each ordered by one iteration.
        inner_rounds: for each inner loop, the separate occurrences in a visit.
    """

    parts: tuple[tuple[str, ...], ...]
    back: frozenset[tuple[str, str]]
    inner_back: frozenset[tuple[str, str]]
    rounds: Mapping[str, int]
    loop_of: Mapping[str, int]
    inner: tuple[tuple[str, ...], ...]
    inner_rounds: tuple[int, ...]

    @cached_property
    def inner_of(self) -> Mapping[str, int]:
        """For each node of an inner loop, the index of the loop in `inner`."""
        return {path: n for n, loop in enumerate(self.inner) for path in loop}

    @cached_property
    def _place(self) -> Mapping[str, int]:
        return {path: n for n, path in enumerate(path for part in self.parts for path in part)}

    def occurrences(self, path: str) -> int:
        """Return the number of stages of a node."""
        inner = self.inner_of.get(path)
        return self.rounds.get(path, 0) * (1 if inner is None else self.inner_rounds[inner] + 1) + 1

    def stage_id(self, path: str, occurrence: int) -> str:
        """Return the id of the stage that covers this occurrence."""
        if path not in self.rounds:
            return path
        first = self._first_covered(path, occurrence)
        return f"{path}#{label(first)}{'+' if self.last_covered(path, first) != first else ''}"

    def _first_covered(self, path: str, occurrence: int) -> int:
        rounds, inner = self.rounds[path], self.inner_of.get(path)
        if inner is None:
            return min(occurrence, rounds + 1)
        visit, nth = place_of(occurrence)
        if visit > rounds:
            return number_of(rounds + 1, 1)
        return number_of(visit, min(nth, self.inner_rounds[inner] + 1))

    def last_covered(self, path: str, first: int) -> int | None:
        """Return the last occurrence covered by the stage that begins with `first`; None if unlimited."""
        rounds, inner = self.rounds.get(path, 0), self.inner_of.get(path)
        if inner is None:
            return first if first <= rounds else None
        visit, nth = place_of(first)
        if visit > rounds:
            return None
        return first if nth <= self.inner_rounds[inner] else visit * VISIT - 1

    def stages(self) -> Iterator[tuple[str, int]]:
        """Yield each stage in topological order: its node, and the first occurrence that it covers."""
        for part in self.parts:
            for visit in range(1, self.rounds.get(part[0], 0) + 2):
                for path in part:
                    yield from self._in_round(path, visit)

    def _in_round(self, path: str, visit: int) -> Iterator[tuple[str, int]]:
        inner = self.inner_of.get(path)
        if inner is None:
            yield path, visit
        elif visit > self.rounds[path]:
            yield path, number_of(visit, 1)
        elif path == self.inner[inner][0]:  # the nodes of an inner loop are consecutive
            for nth in range(1, self.inner_rounds[inner] + 2):
                for each in self.inner[inner]:
                    yield each, number_of(visit, nth)

    def following(self, source: str, target: str, first: int) -> int | None:
        """Return the occurrence of `target` that an edge leads to from the stage of `source`.

        None if the edge leads back within one tail, which stands for all later iterations.

        Args:
            source: the node that the edge comes from.
            target: the node that it leads to.
            first: the first occurrence that the stage of `source` covers.
        """
        if source not in self.loop_of or self.loop_of.get(target) != self.loop_of[source]:
            return 1
        rounds, inner, its_inner = self.rounds[source], self.inner_of.get(source), self.inner_of.get(target)
        visit, nth = place_of(first)
        if (source, target) in self.inner_back:
            assert inner is not None
            return None if visit > rounds or nth > self.inner_rounds[inner] else first + 1
        back = (source, target) in self.back
        if inner is not None and inner == its_inner and not back:
            return first
        round_ = first if inner is None else visit
        if back and round_ > rounds:
            return None
        return _begin(round_ + back, its_inner)

    def planner(self, planner: str, path: str, occurrence: int) -> str | None:
        """Return the stage of `planner` that plans the stage of `path` which begins with `occurrence`.

        It is in the same iteration or, if the planner comes later there, in the previous one. None if there
        is no previous one.
        """
        if path not in self.loop_of or self.loop_of.get(planner) != self.loop_of[path]:
            return self.stage_id(planner, 1)
        earlier = self._place[planner] >= self._place[path]
        inner, its_inner = self.inner_of.get(path), self.inner_of.get(planner)
        visit, nth = place_of(occurrence)
        if inner is not None and inner == its_inner and visit <= self.rounds[path]:
            return self.stage_id(planner, occurrence - earlier) if nth > earlier else None
        round_ = (occurrence if inner is None else visit) - earlier
        return self.stage_id(planner, _begin(round_, its_inner)) if round_ else None


def _begin(round_: int, inner: int | None) -> int:
    """Return the number of a node's first occurrence in a round of the loop, given its inner loop."""
    return round_ if inner is None else number_of(round_, 1)
