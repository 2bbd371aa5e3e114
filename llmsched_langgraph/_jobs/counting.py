"""Numbers the occurrences of the nodes of one job, in the order in which its stage runs are announced.

Does not track whether stage runs run or have ended.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._application.nesting import VISIT, number_of


@dataclass(slots=True)
class OccurrenceCounter:
    """The counters of one job.

    A node's occurrences count supersteps. In parallel runs of a subgraph, the nth occurrences of a node are
    one; a later run of the subgraph continues the count. A node in an inner loop counts within a visit
    (`nesting`): the job comes to the loop when a node of it is announced, and leaves it when a node that
    follows it (`Application.after_inner`) is announced without one of its own, or when the graph that it is
    in ends. Nodes that run beside it do not matter.

    Attributes:
        application: the template; None to count nodes without loops.
        highest: the highest number so far, by path.
        visits: the number of visits so far, by inner loop.
    """

    application: Application | None
    highest: dict[str, int] = field(default_factory=dict)
    visits: dict[int, int] = field(default_factory=dict)
    # By what is counted, and the stage occurrence that contains it: the count before it.
    _base: dict[tuple[Hashable, Hashable], int] = field(default_factory=dict)
    # By what is counted, and the stage run that contains it: the count since then.
    _times: dict[tuple[Hashable, Hashable], int] = field(default_factory=dict)
    _visit: dict[tuple[int | None, int], int] = field(default_factory=dict)  # those that were not left

    def reveal(self, paths: Collection[str], around: int | None, group: Hashable) -> dict[str, int]:
        """Return the numbers of the nodes of one superstep.

        Args:
            paths: the nodes.
            around: the stage run that contains them; None at the top level.
            group: the stage occurrence of `around`.
        """
        inner_of = {} if self.application is None else self.application.inner_loop_of
        if inner_of:
            self._leave(paths, around)
        found = {}
        for path in paths:
            loop = inner_of.get(path)
            if loop is None:
                number = self._count(path, around, group, self.highest.get(path, 0))
            else:
                visit = self._visit.get((around, loop))
                if visit is None:
                    visit = self._count(loop, around, group, self.visits.get(loop, 0))
                    self._visit[around, loop] = visit
                    self.visits[loop] = max(self.visits.get(loop, 0), visit)
                number = number_of(visit, self._count((path, visit), around, group, 0))
            found[path] = number
            self.note(path, number)
        return found

    def note(self, path: str, number: int) -> None:
        """Note an occurrence that has its number already."""
        self.highest[path] = max(self.highest.get(path, 0), number)

    def _count(self, what: Hashable, around: int | None, group: Hashable, so_far: int) -> int:
        base = self._base.setdefault((what, group), so_far)
        times = self._times[what, around] = self._times.get((what, around), 0) + 1
        return base + times

    def _leave(self, paths: Collection[str], around: int | None) -> None:
        """End the visits to inner loops that none of these nodes is in, but that one of them follows."""
        assert self.application is not None
        inner_of, after = self.application.inner_loop_of, self.application.after_inner
        at = {inner_of.get(path) for path in paths}
        for key in [key for key in self._visit if key[0] == around and key[1] not in at]:
            if not after[key[1]].isdisjoint(paths):
                del self._visit[key]

    def passed(self, alive: Collection[str]) -> dict[str, int]:
        """Return the highest numbers that cannot come any more, by path, for nodes of inner loops.

        Args:
            alive: the nodes that run, or ran in the latest superstep of a graph that has not ended.
        """
        if self.application is None or not self.visits:
            return {}
        at = {self.application.inner_loop_of.get(path) for path in alive}
        over = {loop: visit - (loop in at) for loop, visit in self.visits.items()}
        return {
            path: visits * VISIT
            for loop, visits in over.items()
            if visits
            for path in self.application.inner_loops[loop]
        }
